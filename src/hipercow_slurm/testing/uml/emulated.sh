#!/bin/sh
# Runs a compute node with the machine's own stock Debian kernel in QEMU, without help of the processor's (TCG): slow,
# and as near to a user's node as can be had here. The same tree, the same boot.sh and node.sh as with User-Mode Linux.
# emulated.sh NODE ADDRESS/BITS SCRIPTS TAP HARDWARE-ADDRESS MEMORY; runs on the node's host, in the sandbox.
set -eu
node=$1 address=$2 scripts=$3 tap=$4 mac=$5 memory=$6
kernel=$(find /boot -name 'vmlinuz-*-amd64' | sort -V | tail -1)
release=${kernel#/boot/vmlinuz-}

# The first root: a shell, and the modules that it takes to see the host's tree.
first=/run/uml/first
mkdir -p $first/bin $first/modules $first/proc $first/dev $first/root
cp /usr/bin/busybox $first/bin/
cp "$scripts/first.sh" $first/init
number=100
for module in virtio_pci virtio_net virtio_rng 9pnet_virtio 9p; do
    modprobe --set-version "$release" --show-depends $module | sed -n 's/^insmod \([^ ]*\).*/\1/p' >/run/uml/needed
    while read -r file; do
        ls $first/modules/*-"${file##*/}" >/dev/null 2>&1 && continue
        cp "$file" "$first/modules/$number-${file##*/}"
        number=$((number + 1))
    done </run/uml/needed
done
(cd $first && find . | cpio --quiet -o -H newc) >/run/uml/first.cpio

exec qemu-system-x86_64 -accel tcg -cpu max -m "$memory" -smp 1 -nodefaults -display none -no-reboot \
    -serial stdio -kernel "$kernel" -initrd /run/uml/first.cpio \
    -append "console=ttyS0 quiet panic=-1 modules=/usr/lib/modules node=$node address=$address scripts=$scripts" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    -virtfs local,path=/run/node-log,mount_tag=node-log,security_model=none \
    -netdev "tap,id=cable,ifname=$tap,script=no,downscript=no" \
    -device "virtio-net-pci,netdev=cable,mac=$mac,romfile=" -device virtio-rng-pci </dev/null
