# shellcheck shell=bash
# The virtual machine with Debian's kernel, for tests and bench; to be sourced after lib.sh.

VM=${OUT:-$PWD/target}/vm
# Seconds after which it is taken to hang. It needs three to five minutes where nobody else uses the processors.
LIMIT=1200

# Words for the kernel: it ends rather than go on after an oops, does without what only costs time here, and does not take it
# for a defect when others use this machine's processors. Further words come last.
command_line() {
    echo console=ttyS1 quiet panic=-1 oops=panic mitigations=off no5lvl nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "$@"
}

# The network card is connected to nothing; tests/guest/host_device.rs moves it about.
boot() {
    timeout --foreground --kill-after=10 "$LIMIT" qemu-system-x86_64 \
        -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 1024 \
        -nodefaults -no-user-config -display none -no-reboot \
        -device virtio-net-pci,mac=02:c0:1b:0c:00:01,romfile= \
        -serial stdio -serial "file:$VM/console" \
        -kernel "$VM"/kernel/boot/vmlinuz-* -initrd "$VM/initramfs" -append "$(command_line "$@")" </dev/null
}

# failed WHY: with the kernel's last words, which say more.
failed() {
    say "last words of the guest's kernel:"
    tail -n 60 "$VM/console" | tr -d '\r' >&2 || true
    die "$1"
}

# run_guest [WORD]...: runs the guest of vm-image.sh. Prints what its payload says, which is also in $VM/log, and sets
# guest_code to how it ended. A WORD is for the kernel's command line; a NAME=value that the kernel does not know is in the
# environment of the payload.
run_guest() {
    local status=0
    rm -f "$VM/console"
    boot "$@" | sed -u 's/\r//g' | tee "$VM/log" | sed -u '/^GUEST-RC=/d' || status=${PIPESTATUS[0]}
    guest_code=$(sed -n 's/^GUEST-RC=//p' "$VM/log")
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then failed "the guest had not ended after $LIMIT s"; fi
    if [ -z "$guest_code" ]; then failed "the guest ended (status $status) before its payload had"; fi
}
