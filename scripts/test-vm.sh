#!/usr/bin/env bash
# test-vm.sh [FILTER]: runs the tests below tests/guest, or those with FILTER in their names, on Debian's kernel in a
# virtual machine. They need devices that not every kernel has, and show how ours does on an older one. The processor is
# emulated: this works without /dev/kvm, and the same everywhere. Prints what the test program prints.
#
#   CNI_BOX_BIN        the binary under test
#   CNI_REFERENCE_DIR  the reference plugins to compare with
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-vm.sh

filter=${1:-}

test_program() {
    cargo test --locked --no-run --test main --quiet --message-format=json-render-diagnostics |
        jq -r 'select(.target.name == "main" and .profile.test).executable'
}

# figure passed: from the closing line of the test program
figure() { sed -n "s/^test result:.* \([0-9]*\) $1;.*/\1/p" "$VM/log" | grep . || echo 0; }

# All tests must have run, to the end.
judge() {
    local wanted=$1 ran
    ran=$(($(figure passed) + $(figure failed)))
    if [ "$ran" -ne "$wanted" ]; then failed "the guest ran $ran tests instead of $wanted"; fi
}

# The tree for the image: the test program, and the names of the tests it is to run.
payload() {
    rm -rf "$VM/payload"
    mkdir -p "$VM/payload/usr/local/bin" "$VM/payload/etc"
    strip -o "$VM/payload/usr/local/bin/tests" "$1"
    cp "$VM/names" "$VM/payload/etc/tests"
    # shellcheck disable=SC2016 # for the guest to expand
    printf '#!/bin/sh\nexec tests --exact --color never $(cat /etc/tests)\n' >"$VM/payload/usr/local/bin/payload"
    chmod 755 "$VM/payload/usr/local/bin/payload"
}

scripts/vm-fetch.sh
program=$(test_program)
"$program" --list --format terse guest:: | sed -n 's/: test$//p' | grep -F -- "$filter" >"$VM/names" ||
    die "no test in the guest has \"$filter\" in its name"
payload "$program"
scripts/vm-image.sh "$VM/payload"
run_guest
judge "$(wc -l <"$VM/names")"
if [ "$guest_code" -ne 0 ]; then die "tests failed in the guest"; fi
