#!/usr/bin/env bash
# Puts what the guest takes from Debian unpacked below $OUT/vm: a kernel with its modules, and a static busybox. Nothing
# is installed. What is there stays: only the first run needs the network, and `make clean` makes the next one first.
#
#   $OUT/vm/kernel    boot/vmlinuz-VERSION, lib/modules/VERSION
#   $OUT/vm/busybox   bin/busybox
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
PATH=$PATH:/usr/sbin:/sbin

VM=${OUT:-$PWD/target}/vm

# bookworm's kernel, as built for clouds: small, quick to boot, and with every network device and netfilter module.
newest_kernel() {
    apt-cache search --names-only '^linux-image-6\.1\.0-[0-9]+-cloud-amd64$' | cut -d' ' -f1 | sort -V | tail -n1
}

# The indexes of a fresh machine are empty, those of an old one name files that are gone.
choose_kernel() {
    if is_root; then apt-get update -qq >&2; fi
    local kernel
    kernel=$(newest_kernel)
    if [ -z "$kernel" ]; then die "apt knows no linux-image-6.1.0-N-cloud-amd64: the guest's kernel is in Debian bookworm"; fi
    echo "$kernel"
}

# unpack PACKAGE FOLDER: arrives by rename, so that an interrupted download is not taken for a whole one.
unpack() {
    local new=$VM/new
    rm -rf "$new"
    mkdir -p "$new/root"
    say "downloading $1"
    # apt's own user cannot write here, and root's apt would warn.
    (cd "$new" && apt-get download -qq -o APT::Sandbox::User=root "$1" >&2)
    dpkg-deb -x "$new"/*.deb "$new/root"
    if [ -d "$new/root/lib/modules" ]; then depmod -b "$new/root" "$(ls "$new/root/lib/modules")"; fi
    mv "$new/root" "$2"
    rm -rf "$new"
}

# The programs in the guest are this machine's.
if [ "$(uname -m)" != x86_64 ]; then
    die "the tests below tests/guest need an x86-64 machine (make test-vm boots Debian's amd64 kernel); this is $(uname -m)"
fi
mkdir -p "$VM"
if [ ! -d "$VM/kernel" ]; then
    kernel=$(choose_kernel)
    unpack "$kernel" "$VM/kernel"
fi
if [ ! -d "$VM/busybox" ]; then unpack busybox-static "$VM/busybox"; fi
