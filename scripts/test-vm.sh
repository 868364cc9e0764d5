#!/usr/bin/env bash
# test-vm.sh [FILTER]: runs the tests below tests/guest and tests/without_ipv6, or those with FILTER in their names, on
# Debian's kernel in a virtual machine. The first need devices that not every kernel has, and show how ours does on an older
# one; the others have a machine of their own, whose kernel has no IPv6. The processor is emulated: this works without
# /dev/kvm, and the same everywhere. Prints what the test program prints.
#
#   CNI_BOX_BIN        the binary under test
#   CNI_REFERENCE_DIR  the reference plugins to compare with
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-vm.sh
. scripts/lib-lane.sh

filter=${1:-}
failed_guests=0

# names_below MODULE
names_below() { grep "^$1::" "$VM/names" || true; }

# The tree for the image: the test program, and for each module the names of the tests to run. The kernel's command line says
# which module it is.
payload() {
    rm -rf "$VM/payload"
    mkdir -p "$VM/payload/usr/local/bin" "$VM/payload/etc/tests"
    strip -o "$VM/payload/usr/local/bin/tests" "$1"
    for module in guest without_ipv6; do names_below $module >"$VM/payload/etc/tests/$module"; done
    # shellcheck disable=SC2016 # for the guest to expand
    printf '#!/bin/sh\nexec tests --exact --color never $(cat "/etc/tests/$TESTS")\n' >"$VM/payload/usr/local/bin/payload"
    chmod 755 "$VM/payload/usr/local/bin/payload"
}

# run_tests MODULE [WORD]...: runs the tests below a module, if FILTER leaves any, with these words on the kernel's command
# line. All must run, to the end.
run_tests() {
    local module=$1 wanted ran
    wanted=$(names_below "$module" | wc -l)
    if [ "$wanted" -eq 0 ]; then return; fi
    run_guest "TESTS=$module" "${@:2}"
    ran=$(tests_run "$VM/log")
    if [ "$ran" -ne "$wanted" ]; then failed "the guest ran $ran tests below tests/$module instead of $wanted"; fi
    if [ "$guest_code" -ne 0 ]; then failed_guests=$((failed_guests + 1)); fi
}

scripts/vm-fetch.sh
program=$(test_program)
names "$program" "$filter" guest without_ipv6 >"$VM/names"
payload "$program"
scripts/vm-image.sh "$VM/payload"
run_tests guest
run_tests without_ipv6 ipv6.disable=1
if [ "$failed_guests" -ne 0 ]; then die "tests failed in the guest"; fi
