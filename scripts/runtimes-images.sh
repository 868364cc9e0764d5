#!/usr/bin/env bash
# Makes $OUT/runtimes/images.tar, as `docker save` would have: a redis server, a busybox, and what Kubernetes' pods are held
# by, three names for one layer. There is no registry to pull from here.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

RUNTIMES=${OUT:-$PWD/target}/runtimes
ROOT=$RUNTIMES/root
NEW=$RUNTIMES/new-images
LAYER=$NEW/layer

libraries_of() {
    chroot "$ROOT" /lib64/ld-linux-x86-64.so.2 --list "$1" | sed -n 's/^\t[^/]*\(\/[^ ]*\) (0x.*/\1/p'
}

make_layer() {
    local path applet
    mkdir -p "$LAYER"/{data,etc,tmp,usr/bin}
    ln -s usr/bin "$LAYER/bin"
    printf 'root:x:0:0:root:/:/bin/sh\n' >"$LAYER/etc/passwd"
    for path in /usr/bin/busybox /usr/bin/redis-server $(libraries_of /usr/bin/redis-server); do
        install -D "$ROOT$path" "$LAYER$path"
    done
    for applet in $("$LAYER/bin/busybox" --list); do
        if [ ! -e "$LAYER/bin/$applet" ]; then ln -s busybox "$LAYER/bin/$applet"; fi
    done
    tar -C "$LAYER" --sort=name --mtime=@0 -cf "$NEW/layer.tar" .
}

# configuration NAME COMMAND
configuration() {
    printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"WorkingDir":"/data","Cmd":%s},' "$2"
    printf '"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$(sha256sum <"$NEW/layer.tar" | cut -d' ' -f1)"
} >"$NEW/$1.json"

# entry NAME TAG
entry() { printf '{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}' "$1" "$2"; }

if [ -e "$RUNTIMES/images.tar" ]; then exit 0; fi
rm -rf "$NEW"
make_layer
configuration redis '["redis-server","--protected-mode","no","--save",""]'
configuration busybox '["sh"]'
configuration pause '["sleep","infinity"]'
{
    printf '['
    entry redis docker.io/library/redis:alpine3.13
    printf ','
    entry busybox docker.io/library/busybox:latest
    printf ','
    entry pause registry.k8s.io/pause:lab
    printf ']'
} >"$NEW/manifest.json"
tar -C "$NEW" -cf "$NEW/images.tar" manifest.json redis.json busybox.json pause.json layer.tar
mv "$NEW/images.tar" "$RUNTIMES/images.tar"
rm -rf "$NEW"
