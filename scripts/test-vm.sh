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

VM=${OUT:-$PWD/target}/vm
LIMIT=600 # seconds
filter=${1:-}

test_program() {
    cargo test --locked --no-run --test main --quiet --message-format=json-render-diagnostics |
        jq -r 'select(.target.name == "main" and .profile.test).executable'
}

# Words for the kernel: it ends rather than go on after an oops, does without what only costs time here, and does not take it
# for a defect when others use this machine's processors.
command_line() {
    echo console=ttyS1 quiet panic=-1 oops=panic mitigations=off no5lvl nowatchdog rcupdate.rcu_cpu_stall_suppress=1
}

# The network card is connected to nothing; tests/guest/host_device.rs moves it about.
boot() {
    timeout --foreground --kill-after=10 "$LIMIT" qemu-system-x86_64 \
        -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 1024 \
        -nodefaults -no-user-config -display none -no-reboot \
        -device virtio-net-pci,mac=02:c0:1b:0c:00:01,romfile= \
        -serial stdio -serial "file:$VM/console" \
        -kernel "$VM"/kernel/boot/vmlinuz-* -initrd "$VM/initramfs" -append "$(command_line)" </dev/null
}

# failed WHY: with the kernel's last words, which say more.
failed() {
    say "last words of the guest's kernel:"
    tail -n 60 "$VM/console" | tr -d '\r' >&2 || true
    die "$1"
}

# figure passed: from the closing line of the test program
figure() { sed -n "s/^test result:.* \([0-9]*\) $1;.*/\1/p" "$VM/log" | grep . || echo 0; }

# Whatever the guest says: all tests must have run, to the end, and none may have failed.
judge() {
    local wanted=$1 status=$2 code ran
    code=$(sed -n 's/^GUEST-RC=//p' "$VM/log")
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then failed "the guest had not ended after $LIMIT s"; fi
    if [ -z "$code" ]; then failed "the guest ended (status $status) before its tests had"; fi
    ran=$(($(figure passed) + $(figure failed)))
    if [ "$ran" -ne "$wanted" ]; then failed "the guest ran $ran tests instead of $wanted"; fi
    if [ "$code" -ne 0 ]; then die "tests failed in the guest"; fi
}

scripts/vm-fetch.sh
program=$(test_program)
"$program" --list --format terse guest:: | sed -n 's/: test$//p' | grep -F -- "$filter" >"$VM/names" ||
    die "no test in the guest has \"$filter\" in its name"
scripts/vm-image.sh "$program" "$VM/names"

rm -f "$VM/console"
status=0
boot | sed -u 's/\r//g' | tee "$VM/log" | sed -u '/^GUEST-RC=/d' || status=${PIPESTATUS[0]}
judge "$(wc -l <"$VM/names")" "$status"
