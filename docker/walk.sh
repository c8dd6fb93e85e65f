#!/usr/bin/env bash
# The reference site in containers, from nothing: images, network, the classic proofs with what each
# showed, and everything away again. As root.
#
#   docker/walk.sh [BINARY]     default: target/release/pointsman
#
# Uses the Docker that answers; if none does, one of its own that leaves the host's firewall alone.
# Where the base image can't be pulled it is made with debootstrap.
set -euo pipefail
cd "$(dirname "$0")"
binary=$(realpath "${1:-../target/release/pointsman}")
[ -x "$binary" ] || { echo "$binary is not there: cargo build --release -p pointsman" >&2; exit 1; }

work=$(mktemp -d /tmp/pointsman-containers-XXXXXX)
daemon=
site() { docker-compose --project-name pointsmanwalk "$@"; }
end() {
    result=$?
    [ $result = 0 ] || { site ps; site logs --tail=20; } >&2 || true
    site down --volumes --timeout 2 > "$work/down" 2>&1 || true
    rm -f pointsman
    if [ -n "$daemon" ]; then
        kill "$daemon" && wait "$daemon" 2> /dev/null || true
        umount "$work"/exec/netns/* 2> /dev/null || true
    fi
    rm -rf "$work"
    exit $result
}
trap end EXIT
fail() { echo "failed: $*" >&2; exit 1; }
heading() { printf '\n== %s\n' "$*"; }
# await SECONDS COMMAND...: until it succeeds.
await() {
    local limit=$((SECONDS + $1))
    shift
    until "$@" > "$work/awaited" 2>&1; do
        [ $SECONDS -lt $limit ] || fail "in vain: $* ($(tail -n 1 "$work/awaited"))"
        sleep 0.1
    done
}

if ! docker info > /dev/null 2>&1; then
    export DOCKER_HOST=unix://$work/docker.sock
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" \
        --host "$DOCKER_HOST" --iptables=false --bridge=none > "$work/dockerd.log" 2>&1 &
    daemon=$!
    await 60 docker info
fi
heading "images"
if ! docker image inspect debian:bookworm-slim > /dev/null 2>&1 &&
    ! docker pull --quiet debian:bookworm-slim 2> /dev/null; then
    debootstrap --variant=minbase bookworm "$work/root" > "$work/debootstrap.log"
    tar -C "$work/root" -c . | docker import - debian:bookworm-slim
    rm -rf "$work/root"
fi
# Without debug information: the image is for running.
strip -o pointsman "$binary"
site build > "$work/build.log" 2>&1 || { tail -n 30 "$work/build.log" >&2; fail "build"; }
docker image ls --format '{{.Repository}} {{.Size}}' | grep pointsman

client() { docker exec pointsmanwalk_client_1 "$@"; }
get() { client curl --silent --show-error --fail --max-time 5 "http://192.168.4.253/$1"; }
holds() { docker exec "pointsmanwalk_director$1_1" pointsman status | grep -qi 'VI_1.*active\|VI_1.*master'; }
four() { for _ in 1 2 3 4; do get test.html; done | paste -sd ' '; }
in_turn() { [[ $(four) =~ ^(web33 web44 web33 web44|web44 web33 web44 web33)$ ]]; }
only() { [ "$(four)" = "$1 $1 $1 $1" ]; }
no_route() { client bash -c '! : < /dev/tcp/192.168.4.253/80' 2>&1 | grep "No route to host"; }
gone() { docker exec pointsmanwalk_director88_1 pointsman servers | grep -q "$1.*down"; }
pages() { for _ in 1 2; do get note.php; done; }
# pages_by PRIMARY READER
pages_by() { [ "$(pages | grep -c "written by $1, read from $2")" = 2 ]; }

# Requests that go on while something happens: `load`, then `tally`.
load() {
    rm -f "$work/load.end"
    client sh -c 'while [ ! -e /end ]; do
        curl --silent --max-time 5 http://192.168.4.253/test.html || echo failed; sleep 0.01; done
        rm /end' > "$work/load" &
    loading=$!
}
tally() {
    client touch /end
    wait $loading
    echo "of $(wc -l < "$work/load") requests meanwhile $(grep -c failed "$work/load" || true) failed"
}

heading "the site"
site up --detach 2> "$work/up.log" || { tail -n 30 "$work/up.log" >&2; fail "up"; }
await 30 holds 88
await 60 pages_by db1 db2
site ps

heading "four requests"
await 10 in_turn
four

heading "a page that writes and reads back"
pages

heading "the active director is stopped"
load
site stop director88 2> /dev/null
await 10 holds 99
await 10 get test.html
tally
await 10 in_turn
four
pages

heading "both are stopped"
site stop director99 2> /dev/null
# Once the client has forgotten who had the address.
await 90 no_route
echo "no route to host"

heading "both are back"
site start director88 director99 2> /dev/null
await 20 holds 88
await 20 in_turn
four

heading "a web server is killed"
load
site kill -s KILL web33 2> /dev/null
await 20 gone 192.168.4.33
tally
only web44 || fail "$(four)"
four
pages
site start web33 2> /dev/null
await 30 in_turn
echo "and it is back: $(four)"

heading "the database replica is killed"
site kill -s KILL db2 2> /dev/null
await 10 pages_by db1 db1
pages
site start db2 2> /dev/null
await 30 pages_by db1 db2
echo "and it is back:"
pages

heading "the primary is killed"
site kill -s KILL db1 2> /dev/null
await 20 pages_by db2 db2
pages
site start db1 2> /dev/null
await 60 pages_by db2 db1
echo "and it is back, as a replica:"
pages

heading "what the programs say"
docker exec pointsmanwalk_director88_1 pointsman status
docker exec pointsmanwalk_web33_1 pointsman servers
docker exec pointsmanwalk_web33_1 pointsman events | tail -n 20

printf '\nall proofs hold, after %s s\n' $SECONDS
