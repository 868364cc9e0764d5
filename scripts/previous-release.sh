#!/usr/bin/env bash
# previous-release.sh: builds the previous release of cni-box from the history of this repository,
# for the tests below tests/previous: $OUT/previous/cni-box, and a link beside it for each plugin.
# scripts/previous-release.txt names the commit. An existing build of that commit is kept. The build
# needs no network if an ordinary build has downloaded the crates.
#
# Exit status 3: the history does not reach back to that commit.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

PREVIOUS=${OUT:-$PWD/target}/previous
read -r version name < <(grep -v '^#' scripts/previous-release.txt)

# As root, git refuses the repository of another user unless told otherwise.
repository() { git -c safe.directory='*' "$@"; }

find_commit() { repository rev-parse --quiet --verify "$name^{commit}" 2>/dev/null; }

no_history() {
    shout "This copy of the sources has no history that reaches back to release $version, commit $name:" \
        "the upgrade from that release and the way back cannot be tested. One of these helps:" \
        "    git fetch --unshallow                  if this is a shallow clone" \
        "    CNI_BOX_PREVIOUS=DIRECTORY make test   with DIRECTORY/cni-box of release $version"
    exit 3
}

# Omits debug information, which triples the size.
build() {
    rm -rf "$PREVIOUS/src"
    mkdir -p "$PREVIOUS/src"
    repository archive "$commit" | tar -x -C "$PREVIOUS/src"
    say "building release $version (commit $commit)"
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
        cargo build --locked --quiet --bin cni-box \
        --manifest-path "$PREVIOUS/src/Cargo.toml" --target-dir "$PREVIOUS/build" >&2
}

publish() {
    cp "$PREVIOUS/build/debug/cni-box" "$PREVIOUS/cni-box"
    "$PREVIOUS/cni-box" --install "$PREVIOUS" >/dev/null
    echo "$commit" >"$PREVIOUS/COMMIT"
}

commit=$(find_commit) || no_history
if [ "$(cat "$PREVIOUS/COMMIT" 2>/dev/null)" = "$commit" ]; then exit 0; fi
rm -f "$PREVIOUS/COMMIT"
build
publish
