#!/bin/bash
# systemd_root.sh CGROUP WORK: systemd as PID 1 in namespaces of its own, over a copy-on-write view of this machine's files.
# WORK/root has been prepared by nobody: everything that is written lands in a tmpfs at WORK and is gone afterwards. Units come
# from WORK.in/units, programs from WORK.in/site and WORK.in/src; what inside_units.py says lands in WORK.in/out. Where there
# is a WORK.in/debs, these packages are installed, and their units and their program are run.
set -eu
cgroup=$1 work=$2 here=$(dirname "$(readlink -f "$0")")
echo $$ >"$cgroup/cgroup.procs"
exec unshare -C -m -p -u -i -n -f --kill-child --propagation private bash -eu -c '
work=$1 here=$2 root=$1/root
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for folder in run tmp; do mount -t tmpfs tmpfs "$root/$folder"; done
mkdir -p "$root/srv/in" "$root/srv/tests"
mount --bind "$work.in" "$root/srv/in"
mount --bind "$here/.." "$root/srv/tests"
mount --bind "$(readlink -f "$work.in/src")" "$root/srv/in/src.mount"
mount --bind "$(readlink -f "$work.in/site")" "$root/srv/in/site.mount"
rm -rf "$root/etc/systemd/system"
mkdir "$root/etc/systemd/system"
# Of the machine itself nothing is started: sysinit.target and its like are there, and empty.
for unit in "$root"/lib/systemd/system/{sysinit,basic,local-fs,sockets,timers,paths,network-online}.target.wants/*; do
    [ -e "$unit" ] && ln -sf /dev/null "$root/etc/systemd/system/${unit##*/}"
done
cp -r "$work.in"/units/* "$root/etc/systemd/system/"
if [ -d "$work.in/debs" ]; then
    DEBIAN_FRONTEND=noninteractive chroot "$root" sh -c "dpkg --install /srv/in/debs/*.deb" >"$work.in/dpkg" 2>&1 || {
        tail -20 "$work.in/dpkg" >&2
        exit 1
    }
else
    cp "$work.in/hipercow-slurm" "$root/usr/bin/hipercow-slurm"
fi
cd "$root"
mkdir oldroot
pivot_root . oldroot
cd /
umount -l /oldroot
hostname localhost
ip link set lo up
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=probe.service --log-target=console --log-level=warning --show-status=no
' bash "$work" "$here"
