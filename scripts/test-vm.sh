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
. scripts/lib-lane.sh

filter=${1:-}

# All tests must have run, to the end.
judge() {
    local wanted=$1 ran
    ran=$(tests_run "$VM/log")
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
names "$program" guest "$filter" >"$VM/names"
payload "$program"
scripts/vm-image.sh "$VM/payload"
run_guest
judge "$(wc -l <"$VM/names")"
if [ "$guest_code" -ne 0 ]; then die "tests failed in the guest"; fi
