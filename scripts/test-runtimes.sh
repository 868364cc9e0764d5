#!/usr/bin/env bash
# test-runtimes.sh [FILTER]: runs the tests below tests/runtimes, or those with FILTER in their names: container runtimes as
# Debian ships them, with our plugins. Prints what the test program prints.
#
#   CNI_BOX_BIN  the binary under test
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-lane.sh

RUNTIMES=${OUT:-$PWD/target}/runtimes

scripts/runtimes-fetch.sh
program=$(test_program)
names "$program" "${1:-}" runtimes >"$RUNTIMES/names"
status=0
# The tests make namespaces of their own. A test that forgets must not find the machine's network. Daemons start slowly.
mapfile -t wanted <"$RUNTIMES/names"
CNI_RUNTIMES_DIR=$RUNTIMES CNI_TEST_PATIENCE=60 unshare --net --mount --propagation private \
    "$program" --exact --color never "${wanted[@]}" 2>&1 | tee "$RUNTIMES/log" || status=1
ran=$(tests_run "$RUNTIMES/log")
# All must have run, to the end.
if [ "$ran" -ne "${#wanted[@]}" ]; then die "$ran tests with container runtimes ran instead of ${#wanted[@]}"; fi
if [ "$status" -ne 0 ]; then die "tests with container runtimes failed"; fi
