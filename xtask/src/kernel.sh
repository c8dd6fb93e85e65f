# Unpacks the kernel of this Debian into $1, beside the system: nothing is installed.
root=$1
work=$(mktemp -d "$root.making.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# The cloud kernels lack 9p.
package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*-amd64\)$/\1/p')
if [ -z "$package" ]; then
    echo "apt knows no linux-image-amd64" >&2
    exit 1
fi
cd "$work"
apt-get -q -o APT::Sandbox::User= download "$package"
dpkg-deb -x ./*.deb root
depmod -b root "${package#linux-image-}"
mv -T root "$root"
