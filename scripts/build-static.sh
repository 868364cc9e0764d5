#!/usr/bin/env bash
# Builds the static release binary and puts it at $OUT/cni-box. Says which way was taken and how big it is.
#
#   TARGET  the machine to build for: x86_64-unknown-linux-musl (the default) or another musl target
#   OUT     where to build: ./target
#   ROUTE   1, 2 or 3 to insist on one
#
# Route 1  rustup's musl std                      the ordinary way
# Route 2  Debian's compiler, std from source     where only Debian packages can be had
# Route 3  glibc, static                          neither; 3 to 4 times the size, 2.7 times the start-up
#
# All settings are environment of the one cargo call, not .cargo/config.toml: `cargo test` and editors go on with the
# ordinary toolchain and its own target directory.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

TARGET=${TARGET:-x86_64-unknown-linux-musl}
OUT=${OUT:-$PWD/target}
ARCH=${TARGET%%-*}
MUSL_LIB=/usr/lib/$ARCH-linux-musl
WEB_CARGO=/usr/bin/cargo
WEB_RUSTC=/usr/bin/rustc
PACKAGES="rustc-web cargo-web rust-web-src musl-dev gcc"

# Paths of the builder's machine do not belong in the binary, and the same source should give the same bytes.
remap_flags() {
    printf -- ' --remap-path-prefix=%s=%s' \
        "${CARGO_HOME:-$HOME/.cargo}/registry/src" crates "$PWD" . "$1" rust
}

# Cargo's name for a setting of one target: CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_<what>
setting() {
    local name=${1//-/_}
    printf 'CARGO_TARGET_%s_%s' "${name^^}" "$2"
}

# build TARGET "FLAGS" [cargo options and environment...]; RUSTFLAGS would override the flags of the target.
build() {
    local target=$1 flags=$2
    shift 2
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_TARGET_DIR \
        "$(setting "$target" RUSTFLAGS)=$flags" "$@" \
        --release --locked --bin cni-box --target "$target" --target-dir "$OUT/musl" >&2
    built=$OUT/musl/$target/release/cni-box
}

has_std() { compgen -G "$("$1" --print target-libdir --target "$2" 2>/dev/null)/libstd-*.rlib" >/dev/null; }

route1_ready() { have cargo && has_std rustc "$TARGET"; }

route1() {
    build "$TARGET" "$(remap_flags "$(rustc --print sysroot)/lib/rustlib/src/rust")" cargo build
}

# Debian's gcc for another machine is called by its full name.
gcc_for_arch() { if [ "$(uname -m)" = "$ARCH" ]; then echo gcc; else echo "$ARCH-linux-gnu-gcc"; fi; }

# The version alone decides whether this compiler is new enough for us: an older bookworm has 1.85.
new_enough() {
    local want got
    want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    got=$("$WEB_RUSTC" --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$want" "$got" | sort -V | head -n1)" = "$want" ]
}

route2_ready() {
    [ -x "$WEB_CARGO" ] && [ -x "$WEB_RUSTC" ] && [ -e "$MUSL_LIB/libc.a" ] && have "$(gcc_for_arch)" &&
        [ -e "$("$WEB_RUSTC" --print sysroot)/lib/rustlib/src/rust/library/std/Cargo.toml" ] && new_enough
}

route2_install() {
    [ "$ARCH" = "$(uname -m)" ] && can_apt || return 1
    say "installing $PACKAGES: this toolchain has no std for $TARGET"
    # shellcheck disable=SC2086 # a list of words
    apt_install $PACKAGES
}

stub_unwind() {
    local stub=$OUT/musl/stub
    mkdir -p "$stub"
    if [ "$stub/libunwind.a" -nt scripts/unwind-stub.c ]; then return; fi
    # The types are not those of the real ones; only the names matter here.
    "$(gcc_for_arch)" -Os -fPIE -w -c scripts/unwind-stub.c -o "$stub/unwind.o"
    ar rcs "$stub/libunwind.a" "$stub/unwind.o"
}

# Only this processor's linker and start file know the short form of relocations.
short_relocations() {
    local start=$OUT/musl/stub/start.o
    rm -f "$start"
    # (Not by a pipe to grep -q, which leaves before ld has said all, and pipefail then calls that a failure.)
    if [ "$ARCH" = x86_64 ] && [[ $(ld --help) == *pack-relative-relocs* ]]; then
        gcc -Os -fPIE -fno-stack-protector -Wall -Wextra -c scripts/relr-start.c -o "$start"
    fi
}

# RUSTC: with ~/.cargo/bin first on PATH, Debian's cargo would call rustup's compiler, which cannot build this std.
# The features: naming any list drops std's own default `backtrace`, 260 kB that panic=abort has no use for.
# No unwind tables, as nothing unwinds: a twelfth of the file.
# A panic ends the process without a word: the words take another sixteenth, and our own code has no panics (clippy).
# Stretches of equal instructions become functions (machine outliner): another fortieth of the file; no call is slower by what
# can be measured.
# The linker's own settings stay in musl-gcc.sh: a change of RUSTFLAGS would build std again.
route2() {
    stub_unwind
    short_relocations
    local sysroot flags
    sysroot=$("$WEB_RUSTC" --print sysroot)
    flags="-Z unstable-options -C panic=immediate-abort -C force-unwind-tables=no -C link-self-contained=no -C llvm-args=-enable-machine-outliner=always$(remap_flags "$(realpath "$sysroot/lib/rustlib/src/rust")")"
    flags+=" --remap-path-prefix=$sysroot/lib/rustlib/src/rust=rust"
    build "$TARGET" "$flags" \
        RUSTC="$WEB_RUSTC" RUSTC_BOOTSTRAP=1 MUSL_LIB="$MUSL_LIB" MUSL_CC="$(gcc_for_arch)" MUSL_STUB="$OUT/musl/stub" \
        "$(setting "$TARGET" LINKER)=$PWD/scripts/musl-gcc.sh" \
        "$WEB_CARGO" build -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size
}

route3() {
    shout "no way to build for musl here: this binary is linked with glibc instead," \
        "3 to 4 times as big and 2.7 times as slow to start. Don't ship it. One of these makes the real one:" \
        "    rustup target add $TARGET" \
        "    apt-get install -y --no-install-recommends $PACKAGES"
    local gnu=${TARGET/musl/gnu}
    build "$gnu" "-C target-feature=+crt-static$(remap_flags "$(rustc --print sysroot)/lib/rustlib/src/rust")" cargo build
}

choose() {
    if [ -n "${ROUTE:-}" ]; then
        echo "$ROUTE"
    elif route1_ready; then
        echo 1
    elif route2_ready || { route2_install && route2_ready; }; then
        echo 2
    else
        echo 3
    fi
}

# A file that asks for a loader or a library is not what we promise, whatever the compiler said.
check_static() {
    local found
    found=$(LC_ALL=C readelf -ldW "$1" | grep -E '\bINTERP\b|\(NEEDED\)' || true)
    if [ -n "$found" ]; then die "$1 is not static:"$'\n'"$found"; fi
}

# New bytes arrive by rename: someone may be running the old ones.
publish() {
    if cmp -s "$1" "$2"; then return; fi
    cp "$1" "$2.new"
    mv "$2.new" "$2"
}

names=([1]="1 (rustup's musl std)" [2]="2 (Debian's compiler, musl std from source)" [3]="3 (static glibc: NOT for shipping)")
route=$(choose)
"route$route"
check_static "$built"
publish "$built" "$OUT/cni-box"
say "$OUT/cni-box: $(stat -c %s "$OUT/cni-box") bytes, static, route ${names[$route]}"
