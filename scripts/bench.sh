#!/usr/bin/env bash
# bench.sh [--vm | ARGUMENT...]: builds the two small C programs that the bench needs and runs benches/run.py with the
# arguments in a network of its own, or in a virtual machine by bench-vm.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

OUT=${OUT:-$PWD/target}
export CNI_BOX_BIN=${CNI_BOX_BIN:-$OUT/cni-box}
MUSL_INCLUDE=/usr/include/$(uname -m)-linux-musl

# With musl where it is: a glibc program costs more to start than the work that is to be measured. The kernel's own
# headers come after musl's, so that musl's win.
compile() {
    local with=(gcc)
    if [ -d "$MUSL_INCLUDE" ]; then
        with=(scripts/musl-gcc.sh -nostdinc -isystem "$MUSL_INCLUDE" -isystem /usr/include
            -isystem "/usr/include/$(uname -m)-linux-gnu")
    else
        shout "no musl-dev here: benches/$1.c is linked with glibc, and the bare figures are too high"
    fi
    "${with[@]}" -static -O2 -Wall -Wextra -s "benches/$1.c" -o "$OUT/bench/$1"
}

mkdir -p "$OUT/bench"
compile bare
compile spawn
if [ "${1:-}" = --vm ]; then exec scripts/bench-vm.sh; fi
exec scripts/private.sh python3 benches/run.py "$OUT/bench" "$@"
