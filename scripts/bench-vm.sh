#!/usr/bin/env bash
# bench-vm.sh: the rows of `make bench` about devices and VRFs, on Debian's kernel in a virtual machine, which has those that this
# machine's kernel may lack. The processor is emulated: the times are those of another world, the ratios tell more.
# The two C programs are those of bench.sh, in $OUT/bench.
#
#   CNI_BOX_BIN        the binary under test
#   CNI_REFERENCE_DIR  the reference plugins to compare with
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-vm.sh

export CNI_BOX_BIN=${CNI_BOX_BIN:-${OUT:-$PWD/target}/cni-box}
# Debian's own: others live in folders that are big, and nobody knows where.
PYTHON=/usr/bin/python3

payload() {
    rm -rf "$VM/payload"
    mkdir -p "$VM/payload/usr/local/bin" "$VM/payload/root"
    cp -R benches "$VM/payload/root/"
    cp -R "$VM/../bench" "$VM/payload/root/"
    cat >"$VM/payload/usr/local/bin/payload" <<'END'
#!/bin/sh
# Linux 6.1 refuses to make an eth0 in another namespace, as bare.c asks it to, where the asker's own has one, too.
ip link set eth0 name nic0
exec env CNI_BOX_PRIVATE=1 python3 /root/benches/run.py /root/bench --only devices --only meta --rounds 15
END
    chmod 755 "$VM/payload/usr/local/bin/payload"
}

if [ ! -x "$PYTHON" ]; then die "no $PYTHON here: install Debian's python3"; fi
scripts/vm-fetch.sh
payload
library=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
scripts/vm-image.sh "$VM/payload" "$PYTHON" "$library"
run_guest
if [ "$guest_code" -ne 0 ]; then die "the bench failed in the guest"; fi
