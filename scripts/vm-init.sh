#!/bin/busybox sh
# shellcheck shell=dash disable=SC2046 # lists of words
#
# The first process of the guest. Runs the payload and ends the machine. What the payload says goes to the first serial
# line, the last words being GUEST-RC=<exit code>; what the kernel says goes to the second.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export CNI_BOX_BIN=/usr/local/bin/cni-box CNI_REFERENCE_DIR=/usr/lib/cni CNI_REFERENCE_NEW=/usr/lib/cni-new
# Seconds for which a test waits for a condition: an emulated processor that others share may be slow.
export CNI_TEST_PATIENCE=60

prepare() {
    mount -t proc proc /proc &&
        mount -t sysfs sysfs /sys &&
        mount -t devtmpfs devtmpfs /dev &&
        mount -t tmpfs -o mode=755 tmpfs /run &&
        mount -t tmpfs -o mode=1777 tmpfs /tmp &&
        echo /usr/bin/modprobe >/proc/sys/kernel/modprobe &&
        modprobe -a $(cat /etc/modules) &&
        ip link set lo up
}

run_payload() {
    echo "Linux $(uname -r), ready after $(cut -d' ' -f1 /proc/uptime) s"
    payload
}

prepare
code=$?
# The last one to close the line waits until all is sent.
{
    if [ "$code" -eq 0 ]; then
        run_payload
        code=$?
    fi
    echo "GUEST-RC=$code"
} >/dev/ttyS0 2>&1 </dev/null
reboot -f
