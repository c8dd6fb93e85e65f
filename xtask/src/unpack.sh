# Unpacks a database server and its client from Debian's release $2 into $1, beside the system:
# packages $4..., whose server is $3. Nothing is installed, and nothing of what apt knows about this
# machine is touched. It runs by the loader and libraries that come with it. Progress goes to stdout.
root=$1 release=$2 server=$3
shift 3
work=$(mktemp -d "$root.making.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The mirror this machine gets Debian itself from: the first source that offers a release of it.
list=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true)
mirror=$(printf '%s\n' "$list" |
    sed -n 's/^deb \(\[[^]]*\] *\)\{0,1\}\([^ ]*\/debian\)\/\{0,1\} .*/\2/p' | head -n 1)
if [ -z "$mirror" ]; then
    mirror=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -n 's/^URIs: *\([^ ]*\/debian\)\/\{0,1\}\( .*\)\{0,1\}$/\1/p' | head -n 1)
fi
if [ -z "$mirror" ]; then
    echo "no Debian mirror among this machine's apt sources" >&2
    exit 1
fi
keys=/usr/share/keyrings/debian-archive-keyring.gpg

apt=$work/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/empty" "$work/root"
: > "$apt/status"
echo "deb [signed-by=$keys] $mirror $release main" > "$apt/sources.list"
# An empty list of installed packages makes apt fetch every library, down to libc.
apt_get() {
    apt-get -q \
        -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts="$apt/empty" \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts="$apt/empty" \
        -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" -o Dir::State::Status="$apt/status" \
        -o Dir::Cache="$apt" -o Dir::Cache::Archives="$apt/archives" \
        -o APT::Sandbox::User= -o Debug::NoLocking=true -o APT::Install-Recommends=false \
        -o APT::Update::Post-Invoke= -o APT::Update::Post-Invoke-Success= -o DPkg::Post-Invoke= \
        -o Acquire::Languages=none -o Acquire::Retries=2 "$@"
}
apt_get update
apt_get install -y --download-only "$@"

# The links of a merged /usr; else packages would leave files where the loader does not look.
mkdir -p "$work/root/usr/bin" "$work/root/usr/sbin" "$work/root/usr/lib" "$work/root/usr/lib64"
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$work/root/$dir"; done
for deb in "$apt"/archives/*.deb; do
    case ${deb##*/} in
    perl* | libperl* | dpkg_* | coreutils_*) continue ;;
    esac
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --keep-directory-symlink --no-same-owner
done
# MariaDB's programs call each other by name: each starts by the loader it came with, since this
# machine's libraries may be older.
cat > "$work/by-its-loader" <<'END'
#!/bin/sh
root=$(cd "$(dirname "$0")/../.." && pwd)
lib=$root/usr/lib/x86_64-linux-gnu
first=
case $1 in --no-defaults | --defaults-*=*) first=$1; shift ;; esac
files=
case $0 in *d) files="--basedir=$root/usr --lc-messages-dir=$root/usr/share/mysql
    --character-sets-dir=$root/usr/share/mysql/charsets --plugin-dir=$root/usr/lib/mysql/plugin" ;; esac
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$0.bin" $first $files "$@"
END
cd "$work/root/usr"
for program in sbin/maria* bin/maria* bin/my_print_defaults bin/resolveip; do
    [ -f "$program" ] && [ ! -L "$program" ] || continue
    [ "$(head -c 4 "$program" | tail -c 3)" = ELF ] || continue
    mv "$program" "$program.bin"
    cp "$work/by-its-loader" "$program"
    chmod 755 "$program"
done
# Whoever starts it finds out here whether it runs at all, not in the middle of a test.
"$work/root/usr/sbin/$server" --no-defaults --version
mv -T "$work/root" "$root"
