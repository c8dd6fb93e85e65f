#!/bin/sh
# A web server of the site: the virtual address on lo, PHP, nginx, and the proxy beside them. If one
# of them ends, so does the container.
set -eu
pointsman realserver up --no-persist --vip "$VIP"
mkdir -p /srv /run/php
echo "$NAME" > /srv/test.html
# Debian's path has PHP's version in it.
sed -i 's#^listen = .*#listen = /run/php/php-fpm.sock#' /etc/php/*/fpm/pool.d/www.conf
sed -i "s/@NAME@/$NAME/" /etc/nginx/nginx.conf
# A process group: whatever ends, the rest is told.
trap 'kill 0' EXIT
trap 'exit 0' TERM INT
pointsman proxy --config /etc/pointsman/proxy.toml &
/usr/sbin/php-fpm* --nodaemonize &
nginx -g 'daemon off;' &
while kill -0 $! 2>/dev/null; do
    wait $! || exit 1
done
