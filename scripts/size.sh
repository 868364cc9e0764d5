#!/usr/bin/env bash
# Where the bytes of $OUT/cni-box are. (.bss and the like take memory, not disk; they are left out.)
set -euo pipefail
binary=${OUT:?}/cni-box
size -A -d "$binary" | awk '$1 ~ /^\./ && $1 !~ /bss$/ { printf "%10d  %s\n", $2, $1 }' | sort -rn | head -n 12
printf '%10d  %s\n' "$(stat -c %s "$binary")" "the file"
