#!/usr/bin/env bash
# vm-image.sh TREE [PATH]...: makes $OUT/vm/initramfs, the whole file system of the guest: what vm-fetch.sh has
# brought, the programs that tests call as this machine has them, the binary under test, and on top the files in TREE, of
# which the guest runs /usr/local/bin/payload. Further files and folders are taken from this machine, too.
#
#   CNI_BOX_BIN        the binary under test
#   CNI_REFERENCE_DIR  the reference plugins to compare with
#   CNI_REFERENCE_NEW  those of today, 1.9.1 (default: Debian sid's)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
PATH=$PATH:/usr/sbin:/sbin

VM=${OUT:-$PWD/target}/vm
REFERENCE=${CNI_REFERENCE_DIR:-/usr/lib/cni}
ROOT=$VM/root

# Loaded before the first test. The guest can load others by itself, but only those are there which these need.
modules() {
    cat <<'LIST'
8021q virtio_net virtio_pci bridge br_netfilter dummy ifb ipvlan macvlan overlay sctp tun veth vrf
act_mirred act_police cls_u32 sch_htb sch_ingress sch_tbf
nf_conntrack nf_conntrack_bridge nf_conntrack_netlink nf_nat
nf_tables nft_chain_nat nft_compat nft_ct nft_fib nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_limit nft_log nft_masq
nft_meta_bridge nft_nat nft_numgen nft_objref nft_redir nft_reject_bridge nft_reject_inet
ip_tables iptable_filter iptable_mangle iptable_nat iptable_raw ipt_REJECT
ip6_tables ip6table_filter ip6table_mangle ip6table_nat ip6table_raw ip6t_REJECT
xt_CT xt_LOG xt_MASQUERADE xt_NETMAP xt_REDIRECT xt_TCPMSS xt_addrtype xt_comment xt_connmark xt_conntrack xt_limit
xt_mark xt_multiport xt_nat xt_owner xt_physdev xt_sctp xt_statistic xt_state xt_tcpudp
LIST
}

# Everything else is busybox. A program that is started from a disk starts three times as slow in the guest.
programs() {
    cat <<'LIST'
sh ip bridge tc nft conntrack ping flock strace dnsmasq
iptables iptables-nft iptables-nft-save iptables-nft-restore
iptables-save iptables-legacy iptables-legacy-save iptables-legacy-restore
ip6tables ip6tables-nft ip6tables-nft-save ip6tables-nft-restore
ip6tables-save ip6tables-legacy ip6tables-legacy-save ip6tables-legacy-restore
LIST
}

# Those with which tests in the guest compare, and no more: each has 3 MB.
reference_plugins() { echo bridge host-device host-local static firewall portmap ptp ipvlan vlan vrf; }
new_reference_plugins() { echo dummy ipvlan static vlan vrf; }

# Data of the programs: folders whole, what is not here is not needed.
data() {
    cat <<'LIST'
/usr/lib/x86_64-linux-gnu/xtables
/etc/iproute2 /etc/protocols /etc/services /etc/ethertypes
LIST
}

# A file, or a folder with all that is in it, in the place that it has here; and what it links to.
add() {
    local path=$1 target
    mkdir -p "$ROOT${path%/*}"
    cp -dR --preserve=mode "$path" "$ROOT$path"
    while [ -L "$path" ]; do
        target=$(readlink "$path")
        case $target in /*) ;; *) target=${path%/*}/$target ;; esac
        path=$target
        mkdir -p "$ROOT${path%/*}"
        cp -dR --preserve=mode "$path" "$ROOT$path"
    done
}

# The tree of a Debian of today, whatever this machine's is like.
make_tree() {
    rm -rf "$ROOT"
    mkdir -p "$ROOT"/{dev,etc,opt,proc,root,run,sys,tmp} "$ROOT"/usr/{bin,sbin,lib,lib64,local/bin} "$ROOT"/var/lib
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$ROOT/"
    ln -s /run "$ROOT/var/run"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$ROOT/etc/passwd"
    printf 'root:x:0:\n' >"$ROOT/etc/group"
    printf 'passwd: files\ngroup: files\nprotocols: files\nservices: files\n' >"$ROOT/etc/nsswitch.conf"
}

add_programs() {
    local name path
    for name in $(programs); do
        path=$(command -v "$name") || die "no program $name here: run scripts/install-deps.sh vm"
        add "$path"
    done
    for path in $(data) "${further[@]}"; do if [ -e "$path" ]; then add "$path"; fi; done
    for name in $(reference_plugins); do add_reference "$REFERENCE/$name" cni; done
    for name in $(new_reference_plugins); do add_reference "$CNI_REFERENCE_NEW/$name" cni-new; done
}

add_reference() {
    if [ ! -x "$1" ]; then die "no reference plugin $1"; fi
    install -D "$1" "$ROOT/usr/lib/$2/${1##*/}"
}

add_ours() {
    install "$CNI_BOX_BIN" "$ROOT/usr/local/bin/cni-box"
    cp -R --preserve=mode "$tree/." "$ROOT/"
    install scripts/vm-init.sh "$ROOT/init"
}

# Plugins are opened by name while a program runs, so their libraries count too. ldd fails for static programs.
add_libraries() {
    local library
    { find "$ROOT/usr" -type f \( -perm -u+x -o -name '*.so' \) -exec ldd {} + 2>/dev/null || true; } |
        sed -n 's/^\t[^/]*\(\/[^ ]*\) (0x.*/\1/p' | sort -u | while read -r library; do
        install -D "$library" "$ROOT$library"
    done
}

# After the real programs: busybox stands in only for what is not there.
add_busybox() {
    local applet
    install "$VM/busybox/bin/busybox" "$ROOT/usr/bin/busybox"
    for applet in $("$VM/busybox/bin/busybox" --list); do
        if [ ! -e "$ROOT/usr/sbin/$applet" ] && [ ! -e "$ROOT/usr/bin/$applet" ]; then
            ln -s busybox "$ROOT/usr/bin/$applet"
        fi
    done
}

add_modules() {
    local version files name
    version=$(ls "$VM/kernel/lib/modules")
    for name in $(modules); do
        files=$(modprobe -d "$VM/kernel" -S "$version" --show-depends "$name") ||
            die "the guest's kernel $version has no module $name"
        sed -n 's/^insmod \([^ ]*\).*/\1/p' <<<"$files"
    done | sort -u | while read -r name; do
        install -D -m 644 "$name" "$ROOT/usr/${name#"$VM/kernel/"}"
    done
    cp "$VM/kernel/lib/modules/$version/"modules.{builtin,builtin.modinfo,order} "$ROOT/usr/lib/modules/$version/"
    depmod -b "$ROOT" "$version"
    modules >"$ROOT/etc/modules"
}

tree=$1
further=("${@:2}")

fetch_new_reference
make_tree
add_programs
add_ours
add_libraries
add_busybox
add_modules
# Not compressed: the virtual processor would take longer to unpack it than the machine to hand it over.
(cd "$ROOT" && find . | cpio --quiet -o -H newc -R 0:0) >"$VM/initramfs"
rm -rf "$ROOT"
