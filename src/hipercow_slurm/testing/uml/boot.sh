#!/bin/sh
# Process 1 of a node: turns the host's own file tree, seen read-only, into a root file system whose writes stay in
# memory, and goes on with node.sh in it. Nothing the node writes reaches the machine, but for its logs.
#
# Kernel command line: modules=FOLDER of kernel modules, scripts=FOLDER of these scripts, node=NAME, address=IP/BITS.
# Everything is looked up in / as the host's mount namespace shows it (see sandbox/hosts.py).
set -e
mount -t proc proc /proc
arg() { sed -n "s/.*\<$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
modules=$(arg modules)/$(uname -r)
scripts=$(arg scripts)

mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir -p /mnt/upper /mnt/work /mnt/root
insmod "$modules/kernel/fs/overlayfs/overlay.ko"
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root

root=/mnt/root
mkdir -p "$root/usr/lib/modules/$(uname -r)" "$root/oldroot"
mount --bind "$modules" "$root/usr/lib/modules/$(uname -r)"
mount -t devtmpfs devtmpfs $root/dev
mkdir -p $root/dev/pts $root/dev/shm
mount -t devpts devpts $root/dev/pts
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t tmpfs -o mode=0755 tmpfs $root/run
mount -t tmpfs -o mode=1777 tmpfs $root/dev/shm
mount -t tmpfs -o mode=1777 tmpfs $root/tmp
mount -t tmpfs -o mode=1777 tmpfs $root/var/tmp
# Whatever the host has below /run for us is a mount there: seen through the same path.
for shared in program program-source program-libraries machine-local-bin node-log packages machine-dpkg; do
    [ -d /run/$shared ] || continue
    mkdir -p $root/run/$shared
    mount -t hostfs -o /run/$shared hostfs $root/run/$shared 2>/dev/null || mount --bind /run/$shared $root/run/$shared
done
# An emulated node sees the host's tree read-only, and the logs' folder once more.
if grep -q ' / 9p ' /proc/mounts; then
    mount -t 9p -o trans=virtio,version=9p2000.L node-log $root/run/node-log
fi
# pivot_root, not only chroot: the kernel starts request-key (CIFS) in its own root.
cd $root
pivot_root . oldroot
exec chroot . /bin/bash "$scripts/node.sh"
