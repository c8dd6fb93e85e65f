#!/bin/sh
# A database of the site: the primary, or a replica of $PRIMARY. Passwords are samples, and come from
# the environment.
set -eu
data=/var/lib/mysql
new=
[ -d "$data/mysql" ] || new=1
[ -z "$new" ] || mariadb-install-db --user=mysql --auth-root-authentication-method=normal \
    --skip-test-db --datadir="$data" > /dev/null
mkdir -p /run/mysqld
chown mysql: /run/mysqld "$data"

if [ -z "${PRIMARY:-}" ]; then
    cat > /run/init.sql <<SQL
CREATE DATABASE IF NOT EXISTS app;
CREATE USER IF NOT EXISTS app@'%' IDENTIFIED BY '$APP_PASSWORD';
GRANT ALL ON app.* TO app@'%';
CREATE USER IF NOT EXISTS repl@'%' IDENTIFIED BY '$REPL_PASSWORD';
GRANT REPLICATION SLAVE ON *.* TO repl@'%';
CREATE USER IF NOT EXISTS pointsman@'%' IDENTIFIED BY '$POINTSMAN_PASSWORD';
GRANT SLAVE MONITOR, BINLOG MONITOR, REPLICATION SLAVE, TRIGGER ON *.* TO pointsman@'%';
GRANT REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, READ_ONLY ADMIN, CONNECTION ADMIN,
  PROCESS, RELOAD ON *.* TO pointsman@'%';
GRANT EVENT, SET USER, BINLOG ADMIN ON *.* TO pointsman@'%';
GRANT SELECT ON mysql.global_priv TO pointsman@'%';
GRANT SELECT ON mysql.user TO pointsman@'%';
CREATE TABLE IF NOT EXISTS app.note (id INT AUTO_INCREMENT PRIMARY KEY, txt VARCHAR(32) NOT NULL, written_by INT NOT NULL);
SQL
    set --
else
    cat > /run/init.sql <<SQL
CHANGE MASTER TO MASTER_HOST='$PRIMARY', MASTER_USER='repl', MASTER_PASSWORD='$REPL_PASSWORD', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1,
  MASTER_HEARTBEAT_PERIOD=1;
START SLAVE;
SQL
    set -- --read-only=1
fi
# Afterwards what it is is Pointsman's business, and a write of its own would keep it out.
[ -n "$new" ] || : > /run/init.sql
exec mariadbd --no-defaults --user=mysql --datadir="$data" --init-file=/run/init.sql \
    --socket=/run/mysqld/mysqld.sock --bind-address=0.0.0.0 --skip-name-resolve \
    --server-id="$SERVER_ID" --log-bin=binlog --log-slave-updates --gtid-strict-mode=1 \
    --report-host="$ADDRESS" --innodb-buffer-pool-size=64M --performance-schema=off \
    --slave-net-timeout=10 "$@"
