#!/bin/bash
# A compute node from here on, as any other: network, Kerberized mounts, munge, Slurm, our agent. Each service logs to
# /run/node-log, a folder of the sandbox.
arg() { sed -n "s/.*\<$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
node=$(arg node)
log=/run/node-log
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
exec </dev/null
say() { echo "node $node [$(cut -d' ' -f1 /proc/uptime)]: $*"; }
died() { say "FAILED: $*"; }

hostname "$node"
ip link set lo up
for path in /sys/class/net/vec* /sys/class/net/e*; do
    [ -e "$path" ] && device=${path##*/}
done
ip address add "$(arg address)" dev "$device" && ip link set "$device" up || died "no network"
mkdir -p /run/lock /run/munge /run/slurm /run/sshd /run/hipercow-slurm/agent /run/rpc_pipefs /data /cifs
chmod 1777 /run/lock
chown munge: /run/munge
chown slurm: /run/slurm

# What outlives a power cut: /tmp and the agent's records. What is said here is what the agent will find.
if [ -b /dev/ubda ]; then
    mkdir -p /mnt/disk /var/lib/hipercow-slurm/agent
    blkid /dev/ubda >/dev/null || mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/ubda || died "mkfs"
    mount -t ext4 /dev/ubda /mnt/disk || died "disk"
    mkdir -p -m 1777 /mnt/disk/tmp
    mkdir -p -m 700 /mnt/disk/agent
    mount --bind /mnt/disk/tmp /tmp
    mount --bind /mnt/disk/agent /var/lib/hipercow-slurm/agent
    say "disk: $(find /tmp /var/lib/hipercow-slurm/agent -type f | tr '\n' ' ')"
fi

# Modules are not found by themselves in every such root: all that is needed is loaded here.
modprobe -a cts rpcsec_gss_krb5 nfsv4 || died "NFS modules"
modprobe -a cifs cmac ccm gcm aes ctr hmac sha512_generic sha256_generic nls_utf8 2>>$log/boot@$node.log || say "some CIFS modules are built in"
mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
setsid rpc.gssd -f -vv >>"$log/gssd@$node.log" 2>&1 &

# Our own packages, as an operator installs them. What the machine has, the node has: so says its copy of dpkg's list.
install() {
    [ -n "$(ls /run/packages)" ] || return 0
    mkdir -p /run/dpkg/upper /run/dpkg/work /var/lib/dpkg
    mount -t overlay -o lowerdir=/run/machine-dpkg,upperdir=/run/dpkg/upper,workdir=/run/dpkg/work overlay /var/lib/dpkg
    # agent.toml is there already, as where a site's configuration management was first; no PID 1 of systemd's here.
    DEBIAN_FRONTEND=noninteractive dpkg --force-confold --install \
        /run/packages/hipercow-slurm_*.deb /run/packages/hipercow-slurm-spank_*.deb /run/packages/hipercow-slurm-node_*.deb \
        >"$log/dpkg@$node.log" 2>&1 || died "dpkg: $(tail -5 "$log/dpkg@$node.log")"
    # From here on the node's program is the package's.
    rm /usr/local/bin/hipercow-slurm
    say "installed: $(dpkg-query -W -f '${Package} ${Version} ' 'hipercow-slurm*')"
}
install &
installing=$!

# munged warns and goes on where its folders are not to its taste; here /var is a layer over the host's.
setpriv --reuid=munge --regid=munge --init-groups munged --socket=/run/munge/munge.socket.2 || died "munged"
/usr/sbin/sshd -f /etc/ssh/node.conf -E "$log/sshd@$node.log" || died "sshd"

try_mount() { # rpc.gssd needs a moment, and the file server may
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
        mount "$@" 2>"$log/mount@$node.log" && return 0
        sleep 0.5
    done
    died "mount $*: $(cat "$log/mount@$node.log"); rpc.gssd: $(tail -5 "$log/gssd@$node.log")"
}
try_mount -t nfs4 -o sec=krb5p files.sandbox.test:/home /home
try_mount -t nfs4 -o sec=krb5p files.sandbox.test:/data /data
try_mount -t cifs -o sec=krb5,multiuser,seal,vers=3.1.1,username=cifsmount //files.sandbox.test/data /cifs

# slurmd wants a cgroup folder and uses none of it.
mount -t tmpfs cgroup /sys/fs/cgroup
wait $installing
bash "$(arg scripts)/services.sh" start agent || died "agent"
setsid slurmd -D >>"$log/slurmd@$node.log" 2>&1 &
say "up: $(uname -r), $(grep -cE ' (nfs4|cifs) ' /proc/mounts) Kerberized mounts"
# Process 1 inherits every orphan: bash reaps them while it waits.
while :; do sleep 3600 & wait $!; done
