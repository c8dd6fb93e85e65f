"""Runs tests of the server's main suite with mysqltest and keeps what each prints.

A test passes if it prints what its .result file says. Many do not on servers that are not started as
mysql-test-run starts them; direct and through the proxy they have to print the same.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ["ROOT"])
TESTS = ROOT / "usr/share/mysql/mysql-test"
OUT = Path(os.environ["OUT"])
SANDBOX = os.environ["SANDBOX"]
PORT = os.environ["PORT"]
# By their sockets: what is done there is not the application's.
PRIMARY, REPLICA = (os.environ[k] for k in ("PRIMARY_SOCKET", "REPLICA_SOCKET"))
LIMIT = 90  # seconds a test may take

# What a test may not do to a server that it shares with replication and other tests.
OWN_SERVER = re.compile(
    r"shutdown_server|restart_mysqld|kill_mysqld|start_mysqld|kill_and_restart|shutdown_mysqld"
    r"|restart_abort|expect_crash|MYSQLD_CMD|MYSQLD_BOOTSTRAP|MYSQL_UPGRADE|MYSQL_INSTALL_DB"
    r"|have_debug|master-slave|restart_slave|sql_log_bin|reset\s+master|change\s+master|have_innodb_zip"
    r"|big_test|long_test|have_perfschema|not_as_root|install\s+(soname|plugin)|MYSQL_SLAVE"
    r"|read_only\s*=|skip_grant|(alter|drop|rename|repair|create)\s+table\s+(if\s+exists\s+)?`?mysql`?\."
    r"|(insert|replace|delete)\s+(into|from)\s+mysql\.|update\s+mysql\.|use\s+mysql;",
    re.I,
)

KEEP = "'mysql','information_schema','performance_schema','sys','mtr','app','suite','test'"


def sql(socket, text, *more):
    """Rows of tab-separated text, as root."""
    done = subprocess.run(
        ["mariadb", "--no-defaults", "--batch", "--skip-column-names", f"-S{socket}", "-uroot",
         "--connect-timeout=10", "--force", *more],
        input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    if b"Can't connect" in done.stderr or b"Lost connection" in done.stderr:
        raise SystemExit(f"server at {socket}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode("latin-1").splitlines()


def variables():
    return dict(row.split("\t", 1) for row in sql(PRIMARY, "SHOW GLOBAL VARIABLES") if "\t" in row)


def selected():
    for path in sorted((TESTS / "main").glob("*.test")):
        name = path.stem
        if any((TESTS / "main" / f"{name}{end}").exists()
               for end in (".opt", "-master.opt", ".cnf", "-master.sh")):
            continue
        if not OWN_SERVER.search(path.read_text("latin-1")):
            yield name


def environment():
    at = ["--no-defaults", "-h127.0.0.1", f"-P{PORT}", "-uroot"]

    def client(name, *args):
        return " ".join([f"/usr/bin/{name}", *at, *args])

    tmp = OUT / "tmp"
    tmp.mkdir(exist_ok=True)
    share = "/usr/share/mysql"
    env = dict(os.environ)
    # Where Debian keeps it.
    library = ROOT / "usr/lib/x86_64-linux-gnu"
    env.update({
        "LD_LIBRARY_PATH": str(library), "LC_ALL": "C", "TZ": "GMT-3", "UMASK": "0660",
        "UMASK_DIR": "0770", "MYSQL_TEST_DIR": str(TESTS), "MASTER_MYPORT": PORT,
        "DEFAULT_MASTER_PORT": PORT, "MYSQL_TMP_DIR": str(tmp), "MYSQLTEST_VARDIR": SANDBOX,
        "MYSQLTEST_REAL_VARDIR": SANDBOX, "MYSQL_BINDIR": "/usr", "MYSQL_SHAREDIR": share,
        "MYSQL_CHARSETSDIR": f"{share}/charsets", "MYSQL_LIBDIR": f"{share}",
        "SECURE_LOAD_PATH": str(TESTS / "std_data"), "USE_RUNNING_SERVER": "1",
        "CHARSETSDIR": f"{share}/charsets", "DEFAULT_MASTER_USER": "root",
        "MYSQL": client("mariadb"), "MYSQL_CHECK": client("mariadb-check"),
        "MYSQL_DUMP": client("mariadb-dump"), "MYSQL_SHOW": client("mariadb-show"),
        "MYSQL_IMPORT": client("mariadb-import"), "MYSQLADMIN": client("mariadb-admin"),
        "MYSQL_SLAP": client("mariadb-slap"), "MYSQL_BINLOG": "/usr/bin/mariadb-binlog --no-defaults",
        "MYSQL_TEST": f"{ROOT}/usr/bin/mariadb-test --no-defaults -h127.0.0.1 -P{PORT} -uroot",
        "EXE_MYSQL": "/usr/bin/mariadb", "EXE_MYSQLADMIN": "/usr/bin/mariadb-admin",
        "MYSQL_CLIENT_TEST": f"{ROOT}/usr/bin/mariadb-client-test --no-defaults -h127.0.0.1 "
                             f"-P{PORT} -uroot --vardir={OUT}",
        "PERL": "/usr/bin/perl", "MTR_BINDIR": str(ROOT), "QUERY_CACHE_TYPE": "0",
    })
    return env


def run(name, env):
    """(status, what it printed)"""
    command = [
        str(ROOT / "usr/bin/mariadb-test"), "--no-defaults", "--silent", "-h127.0.0.1", f"-P{PORT}",
        "-uroot", "--protocol=tcp", "--database=test", f"--basedir={TESTS}", f"--tmpdir={OUT}/tmp",
        f"--logdir={OUT}/tmp", "--max-connect-retries=3", "--character-sets-dir=/usr/share/mysql/charsets",
        f"--plugin-dir={ROOT}/usr/lib/x86_64-linux-gnu/libmariadb3/plugin",
        f"--test-file={TESTS}/main/{name}.test",
    ]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=env, cwd=TESTS, start_new_session=True)
    try:
        out, err = child.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        err += b"\n[takes too long]"
    for own, neutral in ((str(OUT), b"OUT"), (SANDBOX, b"SANDBOX"), (rf"(?<!\d){PORT}(?!\d)", b"PORT")):
        out, err = (re.sub(own.encode(), neutral, text) for text in (out, err))
    if child.returncode == 62:
        return "skip", out + err
    expected = TESTS / "main" / f"{name}.result"
    # They connect by the socket there.
    printed = out.replace(b"127.0.0.1", b"localhost")
    passed = child.returncode == 0 and expected.exists() and expected.read_bytes() == printed
    return ("ok" if passed else "fail"), out + b"\n" + err


def clean(before):
    """As it was before the test, as far as a test can change it."""
    schemas = ("SELECT schema_name FROM information_schema.schemata "
               f"WHERE schema_name NOT IN ({KEEP})")
    drop = [f"DROP DATABASE `{name}`" for name in sql(PRIMARY, schemas)]
    accounts = ("SELECT CONCAT(IF(is_role='Y', 'ROLE ', 'USER '), QUOTE(user), "
                "IF(is_role='Y', '', CONCAT('@', QUOTE(host)))) FROM mysql.user WHERE user NOT IN "
                "('root','suite','app','pointsman','repl','mariadb.sys','mysql')")
    drop += [f"DROP {account}" for account in sql(PRIMARY, accounts)]
    now = variables()
    for name, value in before.items():
        if now.get(name) != value and not name.startswith(("gtid_", "timestamp")):
            number = re.fullmatch(r"-?\d+(\.\d+)?", value)
            quoted = value if number else "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
            drop.append(f"SET GLOBAL {name} = {quoted}")
    drop += ["DROP DATABASE IF EXISTS test", "CREATE DATABASE test",
             "TRUNCATE mysql.general_log", "TRUNCATE mysql.slow_log", "FLUSH TABLES", "FLUSH STATUS"]
    sql(PRIMARY, ";\n".join(drop) + ";\n")


def mend_replication(name):
    """Waits for the replica; if it broke, says so and lets it go on from here."""
    position = sql(PRIMARY, "SELECT @@gtid_binlog_pos")
    if len(position) != 1:
        raise SystemExit(f"the primary can't be asked any more after {name}")
    position = position[0]
    wait = f"SELECT MASTER_GTID_WAIT('{position}', 5)"
    for _ in range(20):
        if sql(REPLICA, wait) == ["0"]:
            return
        status = [line.strip() for line in sql(REPLICA, "SHOW SLAVE STATUS\\G", "--vertical")]
        if "Slave_SQL_Running: Yes" not in status:
            break
    why = [line for line in status if line.startswith("Last_SQL_Error")]
    print(f"replication stopped after {name}: {why}", flush=True)
    schemas = f"SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN ({KEEP})"
    drop = [f"DROP DATABASE `{schema}`;" for schema in sql(REPLICA, schemas)]
    sql(REPLICA, "STOP SLAVE; SET sql_log_bin = 0;" + "".join(drop) +
        "DROP DATABASE IF EXISTS test; CREATE DATABASE test;"
        f"SET GLOBAL gtid_slave_pos = '{position}'; START SLAVE;")
    sql(REPLICA, wait)


def main():
    names = sys.argv[1:] or list(selected())
    sql(PRIMARY, "CREATE DATABASE mtr")
    for script in ("mtr_warnings.sql", "mtr_check.sql"):
        sql(PRIMARY, (TESTS / "include" / script).read_text("latin-1"), "mtr")
    (OUT / "outputs").mkdir(exist_ok=True)
    env, before = environment(), variables()
    with open(OUT / "results", "w") as results:
        for name in names:
            print(name, flush=True)
            status, output = run(name, env)
            (OUT / "outputs" / name).write_bytes(output)
            results.write(f"{status}\t{name}\n")
            results.flush()
            clean(before)
            mend_replication(name)


main()
