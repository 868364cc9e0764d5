#!/usr/bin/env bash
# debian-fetch.sh SUITE PACKAGE FOLDER: a package of another Debian suite (trixie, sid) than this machine's, unpacked in FOLDER.
# Nothing is installed, and the machine's own suites stay as they are: apt is shown a list of sources with nothing but
# SUITE in it, from the mirror that the machine uses, and keeps what it knows of it below $OUT/debian/SUITE. A FOLDER that
# is there stays, and its VERSION says which it is: only the first run needs
# the network, and `make clean` makes the next one first. Needs no root.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

suite=$1 package=$2 folder=$3
state=${OUT:-$PWD/target}/debian/$suite
KEYS=/usr/share/keyrings/debian-archive-keyring.gpg

# The address from which the machine has its own packages: the first of its sources that is no bookworm-updates or the like.
mirror() {
    # shellcheck disable=SC2016 # for apt to expand
    apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        awk '$2 !~ /[-\/]/ && !found { print $1; found = 1 }'
}

# The machine's other settings (proxies, say) are still read: apt looks at $APT_CONFIG before those in /etc/apt.
show_only_the_suite() {
    local from signed=""
    from=$(mirror)
    if [ -z "$from" ]; then die "apt's sources name no Debian mirror here, from which $package of $suite could come"; fi
    if [ -e "$KEYS" ]; then signed="[signed-by=$KEYS] "; fi
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    printf 'deb %s%s %s main\n' "$signed" "$from" "$suite" >"$state/sources.list"
    cat >"$state/apt.conf" <<CONF
Dir::Etc::SourceList "$state/sources.list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$state/lists";
Dir::Cache "$state/cache";
Acquire::Languages "none";
APT::Sandbox::User "$(id -un)";
CONF
    export APT_CONFIG=$state/apt.conf
}

# Arrives by rename, so that an interrupted download is not taken for a whole one.
unpack() {
    local new=$folder.new
    rm -rf "$new"
    mkdir -p "$new/root"
    say "downloading $package of Debian $suite"
    if ! apt-get update -qq >&2 || ! (cd "$new" && apt-get download -qq "$package" >&2); then
        die "no $package of Debian $suite from this machine's mirror ($(cat "$state/sources.list")): unpack it in $folder yourself"
    fi
    dpkg-deb -x "$new"/*.deb "$new/root"
    dpkg-deb -f "$new"/*.deb Version >"$new/root/VERSION"
    mv "$new/root" "$folder"
    rm -rf "$new"
}

if [ -d "$folder" ]; then exit 0; fi
if ! have apt-get || ! have dpkg-deb; then
    die "no apt here, with which $package of Debian $suite could be fetched: unpack it in $folder yourself"
fi
show_only_the_suite
unpack
