# Boots a virtual machine with the kernel in $1 (a directory with boot/ and lib/modules/) and runs
# $2 (a shell command) in it as root, on this machine's file system: what it writes there is gone
# afterwards, but for what it writes below $3. All further arguments are QEMU's. Ends as the command
# ended; its output is on stdout.
#
# Emulated (TCG): a hypervisor may not be there, or not work with every kernel.
set -eu
kernel=$1 command=$2 out=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
version=$(ls "$kernel/lib/modules")

# An initial file system that does no more than find the real one.
root=$work/root
for dir in bin modules proc sys dev host rw new; do mkdir -p "$root/$dir"; done
cp "$(command -v busybox)" "$root/bin/busybox"
for module in virtio_pci 9pnet_virtio 9p overlay; do
    modprobe -d "$kernel" -S "$version" --show-depends "$module"
done | while read -r insmod file rest; do
    [ "$insmod" = insmod ] || continue
    cp "$file" "$root/modules/"
    echo "insmod /modules/${file##*/} $rest"
done | awk '!seen[$0]++' > "$work/insmods"
cat > "$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
$(cat "$work/insmods")
p9=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o ro,cache=loose,\$p9 host /host
mount -t tmpfs rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work root /new
mount -t tmpfs tmpfs /new/run
mkdir -p /new/usr/lib/modules /new$out
mount -t 9p -o ro,cache=loose,\$p9 modules /new/usr/lib/modules
mount -t 9p -o \$p9 out /new$out
for dir in proc sys dev; do mount --move /\$dir /new/\$dir; done
mount -t bpf bpf /new/sys/fs/bpf
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts pts /new/dev/pts
# By exec: what is not process 1 with the root it booted with can't load modules on demand.
exec chroot /new /bin/sh -c 'exec /bin/sh $out/run < /dev/null > /dev/console 2>&1'
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc) > "$work/initrd"

mkdir -p "$out"
rm -f "$out/status"
cat > "$out/run" <<RUN
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
ip link set lo up
($command)
echo \$? > $out/status
sync
echo o > /proc/sysrq-trigger
sleep 60
RUN
# On a busy machine the emulated timer may be too late for the kernel's check that there is one.
timeout "${VM_SECONDS:-1200}" qemu-system-x86_64 -accel tcg -cpu max -m 2048 -nographic -no-reboot \
    -kernel "$kernel/boot/vmlinuz-$version" -initrd "$work/initrd" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    -virtfs "local,path=$kernel/lib/modules,mount_tag=modules,security_model=none,readonly=on" \
    -virtfs "local,path=$out,mount_tag=out,security_model=none" \
    -net none "$@" < /dev/null &
machine=$!
trap 'kill "$machine" 2> /dev/null; exit 1' HUP INT TERM
wait "$machine" || true
exit "$(cat "$out/status" 2>/dev/null || echo 99)"
