#!/bin/sh
# enter.sh FILES LAYERS NAME BINARY: a machine of its own in the lab that starts it: its root is a copy-on-write view of the
# folders LAYERS below FILES (scripts/runtimes-fetch.sh), the first on top; it has processes and control groups of its own,
# and the lab's network and /var/lib/cni. Says "ready PID" when it is up; PID is that of its init, as the caller sees it.
# Ends, with everything that runs in it, when its standard input does.
set -e
files=$1 layers=$2 name=$3 binary=$4

# folder, type and options of each hierarchy
control_groups() { awk '$3 ~ /^cgroup2?$/ { print $2, $3, $4 }' /proc/mounts; }

# A group in each hierarchy, which is all that the machine will see of it.
join_control_groups() {
    control_groups | while read -r folder _ _; do
        mkdir -p "$folder/$name"
        for file in cpuset.cpus cpuset.mems; do
            if [ -e "$folder/$name/$file" ]; then cat "$folder/$file" >"$folder/$name/$file" || true; fi
        done
    done
    # Not in the loop: that is another process.
    for folder in $(control_groups | cut -d' ' -f1); do echo $$ >"$folder/$name/cgroup.procs"; done
}

mount_control_groups() {
    control_groups | while read -r folder type options; do
        if [ "$type" = cgroup ] && ! mountpoint -q sys/fs/cgroup; then mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup; fi
        # Below a group that has processes of its own, version 2 lets nobody use a controller.
        if [ "$folder" = /sys/fs/cgroup ]; then
            mkdir -p "$folder/$name/init"
            echo $$ >"$folder/$name/init/cgroup.procs"
        fi
        mkdir -p ".$folder"
        mount -t "$type" -o "$(echo "$options" | sed 's/release_agent=[^,]*,//')" cgroup ".$folder"
    done
}

make_root() {
    mount -t tmpfs -o mode=755 tmpfs /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    lower=$(for layer in $layers; do printf ':%s' "$files/$layer"; done)
    mount -t overlay -o "lowerdir=${lower#:},upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
    cd /mnt/root
    for folder in run tmp var/lib; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
    mkdir -p var/lib/cni /var/lib/cni
    mount --bind /var/lib/cni var/lib/cni
    mount --rbind /dev dev
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount_control_groups
    cp "$binary" usr/local/bin/cni-box
    cp "$files/images.tar" tmp/
}

if [ "${5:-}" != inside ]; then
    join_control_groups
    exec unshare --mount --pid --ipc --uts --cgroup --fork --kill-child sh "$0" "$@" inside
fi
make_root
# The process id in the caller's eyes: this /proc is still the caller's.
read -r pid _ </proc/self/stat
pivot_root . old
umount -l old
echo "ready $pid"
exec 3<&0
cat <&3 &
# Until cat ends; and takes note of the end of orphans, which are init's children.
wait
