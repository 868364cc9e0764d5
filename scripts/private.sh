#!/usr/bin/env bash
# private.sh COMMAND...: runs the command in network and mount namespaces of its own, with empty /run, /etc/cni,
# /opt/cni and /var/lib/cni. What it does to the network or writes there is gone with it; the machine never sees it.
set -euo pipefail

# The machine's directory at hand somewhere else, and in its place one of ours with links to everything in it: a way to
# add an entry to /etc without writing to /etc, and without being its owner.
writable() {
    local kept=/run/machine$1 entry
    mkdir -p "$kept"
    mount --rbind "$1" "$kept"
    mount -t tmpfs -o mode=755 tmpfs "$1"
    for entry in "$kept"/* "$kept"/.[!.]*; do
        if [ -e "$entry" ]; then ln -s "$entry" "$1/"; fi
    done
}

empty() {
    local parent=$1
    while [ ! -d "$parent" ]; do parent=$(dirname "$parent"); done
    if [ "$parent" != "$1" ]; then writable "$parent"; fi
    mkdir -p "$1"
    mount -t tmpfs -o mode=755 tmpfs "$1"
}

if [ "${1:-}" != --inside ]; then
    how=(unshare --net --mount --propagation private)
    if [ "$(id -u)" -ne 0 ]; then how+=(--user --map-root-user); fi
    exec "${how[@]}" "$0" --inside "$@"
fi
shift

mount -t tmpfs -o mode=755 tmpfs /run
for directory in /etc/cni /opt/cni /var/lib/cni; do empty "$directory"; done
# /sys shows the network of whoever mounted it. Some containers refuse a second one; few programs look there.
mount -t sysfs sysfs /sys 2>/dev/null || true
ip link set lo up
exec env CNI_BOX_PRIVATE=1 "$@"
