# For `prepare` scripts, which run in the suite's own cache directory.

# pypi NAME==VERSION: the source package from PyPI, unpacked into src.
pypi() {
    rm -rf src sdist
    python3 -m venv venv
    venv/bin/pip install --quiet --upgrade pip setuptools wheel
    PATH="$PWD/more/usr/bin:$PATH" venv/bin/pip download --quiet --no-deps --no-binary :all: --dest sdist "$1"
    mkdir src
    tar xf sdist/*.tar.gz --directory src --strip-components 1
}

# debian NAME[=VERSION]: the source package from Debian, upstream's part unpacked into src.
debian() {
    rm -rf src apt
    mkdir -p src apt/lists/partial apt/got
    printf 'deb-src %s main\n' 'http://deb.debian.org/debian bookworm' \
        'http://deb.debian.org/debian-security bookworm-security' > apt/sources.list
    local options=(-o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$PWD/apt/lists" -o APT::Sandbox::User=root)
    apt-get -q "${options[@]}" update
    # Mirrors may lack signatures and parts that are not wanted.
    (cd apt/got && apt-get -q "${options[@]}" source --download-only --tar-only "$1") || true
    tar xf apt/got/*.orig.tar.[gx]z --directory src --strip-components 1
    rm -rf apt
}

# unpacked PACKAGE...: Debian packages into more, nothing installed.
unpacked() {
    rm -rf more debs
    mkdir more debs
    (cd debs && apt-get -q download "$@")
    for deb in debs/*.deb; do dpkg-deb -x "$deb" more; done
    rm -rf debs
}
