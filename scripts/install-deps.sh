#!/usr/bin/env bash
# install-deps.sh [vm]: makes sure that the programs are here which tests, walk-through and bench call; with vm those too
# that scripts/test-vm.sh needs. Asks for the programs, not for the packages: on a machine that has them from elsewhere
# there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
PATH=$PATH:/usr/sbin:/sbin
vm=${1:-}

# program (or a file), Debian package
wanted() {
    cat <<'TABLE'
ip                                  iproute2
iptables                            iptables
nft                                 nftables
conntrack                           conntrack
ping                                iputils-ping
dbus-daemon                         dbus-daemon
firewalld                           firewalld
dnsmasq                             dnsmasq-base
kea-dhcp4                           kea-dhcp4-server
redis-server                        redis-server
redis-cli                           redis-tools
brctl                               bridge-utils
strace                              strace
gcc                                 gcc
readelf                             binutils
jq                                  jq
python3                             python3
unshare                             util-linux
ps                                  procps
TABLE
    if [ "${CNI_REFERENCE_DIR:-/usr/lib/cni}" = /usr/lib/cni ]; then
        echo "/usr/lib/cni/bridge containernetworking-plugins"
    fi
    if [ "$vm" = vm ]; then
        cat <<'TABLE'
qemu-system-x86_64                  qemu-system-x86
cpio                                cpio
depmod                              kmod
TABLE
    fi
}

missing_packages() {
    local program package
    wanted | while read -r program package; do
        if ! have "$program"; then echo "$package"; fi
    done | sort -u | xargs
}

missing=$(missing_packages)
if [ -z "$missing" ]; then exit 0; fi
if ! can_apt; then
    say "programs are missing here; install them with"
    say "    apt-get update && apt-get install -y --no-install-recommends $missing"
    exit 1
fi
say "installing $missing"
# shellcheck disable=SC2086 # a list of words
apt_install $missing
# Debian enables what it installs. Neither a firewall nor a DHCP server that nobody asked for may come up with the next boot.
for package in firewalld kea-dhcp4-server; do
    case " $missing " in
    *" $package "*) if have systemctl; then systemctl --quiet disable "$package.service"; fi ;;
    esac
done
missing=$(missing_packages)
if [ -n "$missing" ]; then die "still missing after the installation: $missing"; fi
