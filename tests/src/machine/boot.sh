# Boots systemd as process 1 of namespaces of its own, on this machine's file system. $1: a directory
# in which what the machine writes stays over a reboot. $2: a cgroup (version 2) for it.
set -eu
dir=$1
echo $$ > "$2/cgroup.procs"
exec unshare --fork --kill-child --pid --mount --net --uts --ipc --cgroup sh -euc '
dir=$1
mount --make-rprivate /
mkdir -p "$dir/written" "$dir/work" "$dir/root"
mount -t overlay -o "lowerdir=/,upperdir=$dir/written,workdir=$dir/work" overlay "$dir/root"
cd "$dir/root"
if [ ! -e "$dir/installed" ]; then
    # What this machine runs is not for that one, nor are its settings of the kernel they share.
    rm -rf etc/systemd/system etc/rc?.d etc/fstab
    mkdir etc/systemd/system
    for unit in systemd-sysctl systemd-modules-load systemd-binfmt systemd-udevd; do
        ln -s /dev/null "etc/systemd/system/$unit.service"
    done
    cp -a "$dir/install/." .
    touch "$dir/installed"
fi
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
for at in run tmp dev; do mount -t tmpfs "$at" "$at"; done
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
# Who enters the namespaces later is to find this as the root.
pivot_root . mnt
umount -l /mnt
exec env -i container=pointsman PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=multi-user.target
' boot "$dir"
