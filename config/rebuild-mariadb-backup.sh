#!/bin/bash
# [failover] rebuild_command: gives a MariaDB server a healthy one's data by mariadb-backup, file by file.
# Pointsman runs it and says by its environment what is to be done; docs/rebuild.md has the details.
#
# Needs on both servers: ssh from Pointsman's machine as a user who may read and replace the data
# directory and start and stop MariaDB, mariadb-backup, and here: ssh. What is different at your site:
set -euo pipefail
: "${ON_SERVER:=ssh root@$POINTSMAN_SERVER_HOST}"   # runs a shell command where the data are to go
: "${ON_DONOR:=ssh root@$POINTSMAN_DONOR_HOST}"     # and where they come from
: "${DATADIR:=/var/lib/mysql}"                      # of the server that is rebuilt
: "${STOP:=systemctl stop mariadb}"
# Events must not run before Pointsman has put them to rest, and nobody may write.
: "${START:=systemctl set-environment MYSQLD_OPTS='--event-scheduler=OFF --read-only=1' && systemctl start mariadb; \
systemctl unset-environment MYSQLD_OPTS}"
: "${OWNER:=mysql:mysql}"

# All data of one donor are as of one moment, also where tables have no transactions.
backup="IFS= read -r MYSQL_PWD && export MYSQL_PWD && \
mariadb-backup --backup --stream=mbstream --protocol=tcp --host=127.0.0.1 \
--port=$POINTSMAN_DONOR_PORT --user='$POINTSMAN_USER'"

echo "$POINTSMAN_SERVER is stopped and emptied"
$ON_SERVER "$STOP && find '$DATADIR' -mindepth 1 -delete"
echo "copying from $POINTSMAN_DONOR"
# The password goes over standard input: command lines can be seen by everybody.
printf '%s\n' "$POINTSMAN_PASSWORD" | $ON_DONOR "$backup" 2> >(tail -n 3 >&2) \
    | $ON_SERVER "mbstream -x -C '$DATADIR'"
echo "applying what was changed meanwhile"
$ON_SERVER "mariadb-backup --prepare --target-dir='$DATADIR' && chown -R '$OWNER' '$DATADIR'" 2> >(tail -n 3 >&2)
position=$($ON_SERVER "cat '$DATADIR'/*_binlog_info | head -n 1 | cut -f 3")
echo "$POINTSMAN_SERVER is started"
$ON_SERVER "$START"
echo "position=$position"
