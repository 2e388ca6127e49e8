#!/bin/busybox sh
# The first process in the test machine: makes it a host, runs the tests of /tests.list, and switches it off.
# What goes to the second serial line is read by result.rs.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin:/busybox HOME=/root MIRROR_AGENT=/test/mirror-agent
/bin/busybox --install -s /busybox
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /run
mount -t bpf none /sys/fs/bpf
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /run/netns /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s /proc/mounts /etc/mtab
exec >/dev/ttyS1 2>&1 </dev/null
stty -F /dev/ttyS1 -opost
echo "== kernel $(uname -r)"
for module in /modules/*; do insmod "$module" || echo "== cannot load $module"; done
ip link set lo up
while read -r name arguments; do
    echo "== binary $name"
    # shellcheck disable=SC2086 # words
    "/test/$name" --show-output --test-threads 2 $arguments
    echo "== ended $?"
done </tests.list
echo "== done $(cut -d ' ' -f 1 /proc/uptime)"
poweroff -f
