#!/usr/bin/env bash
# A linker for static musl programs out of gcc and Debian's musl-dev; rustc and `make bench` call it like gcc.
# Debian's own musl-gcc would not do: it knows no -static-pie and comes in one more package.
# The file's name matters: rustc tells from a name that ends in "-gcc" how to word its arguments ("-ld" means the bare linker).
#
#   MUSL_LIB   musl's library directory            (/usr/lib/x86_64-linux-musl)
#   MUSL_CC    the gcc of that architecture        (gcc)
#   MUSL_STUB  directory of the stub libunwind.a, and of start.o for short relocations if that is there   (none)
set -euo pipefail

lib=${MUSL_LIB:-/usr/lib/x86_64-linux-musl}
crt1=crt1.o
args=()
for arg in "$@"; do
    case $arg in
        # A program that can be loaded anywhere relocates itself, in a start file of its own.
        -static-pie) crt1=rcrt1.o ;;
        # By name, the linker may take musl's libc.so, and makes a "static" program that asks for it and crashes.
        -lc) continue ;;
    esac
    args+=("$arg")
done

start=${MUSL_STUB:-/nonexistent}/start.o
if [ -e "$start" ]; then args+=("$start" -Wl,-e,start_with_relr -Wl,-z,pack-relative-relocs); fi

# libc and libgcc need each other (soft float, 128 bit arithmetic), hence the group.
exec "${MUSL_CC:-gcc}" -nostartfiles -nodefaultlibs -L"$lib" ${MUSL_STUB:+-L"$MUSL_STUB"} \
    "$lib/$crt1" "$lib/crti.o" "${args[@]}" \
    -Wl,--start-group "$lib/libc.a" -lgcc -Wl,--end-group "$lib/crtn.o"
