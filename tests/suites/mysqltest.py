"""Runs tests of a server's own suite with its mysqltest and keeps what each prints.

A test passes if it prints what its .result file says. Many do not on servers that are not started as
mysql-test-run starts them; direct and through the proxy they have to print the same. Of the main
suite all that can be run are, if none is named; others are `SUITE/NAME`, or `SUITE/` for all of one.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["ROOT"])
MYSQL = os.environ["FLAVOUR"] == "mysql"
TESTS = ROOT / ("usr/lib/mysql-test" if MYSQL else "usr/share/mysql/mysql-test")
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
    r"|set_gtid_mode|reset\s+binary|change\s+replication|install\s+component|^restart;|clone\s+local|mysqlx|admin_interface|admin_address"
    r"|read_only\s*=|skip_grant|(alter|drop|rename|repair|create)\s+table\s+(if\s+exists\s+)?`?mysql`?\."
    r"|(insert|replace|delete)\s+(into|from)\s+mysql\.|update\s+mysql\.|use\s+mysql;"
    # Files of one of the servers.
    r"|^[-\s]*(remove_files?\w*|write_file|copy_files?\w*|move_file|mkdir|rmdir|chmod)\b.*datadir",
    re.I | re.M,
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


def path_of(name, kind):
    """Where a test (`test`) or what it should print (`result`) is."""
    suite, _, test = name.rpartition("/")
    if suite:
        folder = TESTS / "suite" / suite / kind[0]
    else:
        folder = TESTS / kind[0] if MYSQL else TESTS / "main"
    return folder / f"{test}.{kind}"


def text_of(path, depth=4):
    """A test with what it includes."""
    try:
        text = path.read_text("latin-1")
    except OSError:
        return ""
    included = re.findall(r"^\s*(?:--)?\s*source\s+([^\s;]+)", text, re.M | re.I)
    # All tests may include what they are told apart by.
    more = (text_of(TESTS / name, depth - 1) for name in included
            if depth and not name.startswith("include/have_"))
    return "\n".join([text, *more])


def selected(suite=""):
    for path in sorted(path_of(suite + "x", "test").parent.glob("*.test")):
        if any(path.with_name(path.stem + end).exists()
               for end in (".opt", "-master.opt", ".cnf", "-master.sh")):
            continue
        if not OWN_SERVER.search(text_of(path)):
            yield suite + path.stem


def client(name, *args):
    return " ".join([name, "--no-defaults", "-h127.0.0.1", f"-P{PORT}", "-uroot", *args])


def mysql_environment():
    """MySQL's programs run with libraries of their own, beside the system."""
    bins, server = OUT / "bin", Path(os.environ["MYSQL_ROOT"])
    bins.mkdir(exist_ok=True)
    library = server / "usr/lib/x86_64-linux-gnu"
    load = f"{library}/ld-linux-x86-64.so.2 --library-path {library}:{ROOT}/usr/lib/x86_64-linux-gnu"
    for program in [*(server / "usr/bin").iterdir(), *(TESTS / "bin").iterdir()]:
        if not program.exists():
            continue  # a link to where Debian has it
        wrapper = bins / program.name
        wrapper.write_text(f'#!/bin/sh\nexec {load} {program} "$@"\n')
        wrapper.chmod(0o755)
    share = f"{server}/usr/share/mysql"
    env = dict(os.environ)
    env.update({
        "MYSQL_SHAREDIR": share, "MYSQL_CHARSETSDIR": f"{share}/charsets", "CHARSETSDIR": f"{share}/charsets",
        "MYSQL_BINDIR": str(server / "usr"), "MYSQL_LIBDIR": share,
        "MYSQL": client(f"{bins}/mysql"), "MYSQL_CHECK": client(f"{bins}/mysqlcheck"),
        "MYSQL_DUMP": client(f"{bins}/mysqldump"), "MYSQL_SHOW": client(f"{bins}/mysqlshow"),
        "MYSQL_IMPORT": client(f"{bins}/mysqlimport"), "MYSQLADMIN": client(f"{bins}/mysqladmin"),
        "MYSQL_SLAP": client(f"{bins}/mysqlslap"), "MYSQL_BINLOG": f"{bins}/mysqlbinlog --no-defaults",
        "MYSQL_TEST": client(f"{bins}/mysqltest"), "EXE_MYSQL": f"{bins}/mysql",
        "EXE_MYSQLADMIN": f"{bins}/mysqladmin", "MYSQL_CLIENT_TEST": client(f"{bins}/mysql_client_test"),
        "MYSQL_TEST_PROGRAM": f"{bins}/mysqltest",
    })
    return env


def mariadb_environment():
    share = "/usr/share/mysql"
    env = dict(os.environ)
    env.update({
        # Where Debian keeps it.
        "LD_LIBRARY_PATH": str(ROOT / "usr/lib/x86_64-linux-gnu"),
        "MYSQL_BINDIR": "/usr", "MYSQL_SHAREDIR": share, "MYSQL_CHARSETSDIR": f"{share}/charsets",
        "MYSQL_LIBDIR": f"{share}", "CHARSETSDIR": f"{share}/charsets", "MYSQL": client("/usr/bin/mariadb"), "MYSQL_CHECK": client("/usr/bin/mariadb-check"),
        "MYSQL_DUMP": client("/usr/bin/mariadb-dump"), "MYSQL_SHOW": client("/usr/bin/mariadb-show"),
        "MYSQL_IMPORT": client("/usr/bin/mariadb-import"), "MYSQLADMIN": client("/usr/bin/mariadb-admin"),
        "MYSQL_SLAP": client("/usr/bin/mariadb-slap"), "MYSQL_BINLOG": "/usr/bin/mariadb-binlog --no-defaults",
        "MYSQL_TEST": f"{ROOT}/usr/bin/mariadb-test --no-defaults -h127.0.0.1 -P{PORT} -uroot",
        "EXE_MYSQL": "/usr/bin/mariadb", "EXE_MYSQLADMIN": "/usr/bin/mariadb-admin",
        "MYSQL_CLIENT_TEST": f"{ROOT}/usr/bin/mariadb-client-test --no-defaults -h127.0.0.1 "
                             f"-P{PORT} -uroot --vardir={OUT}",
        "MYSQL_TEST_PROGRAM": f"{ROOT}/usr/bin/mariadb-test",
        "MYSQL_TEST_PLUGINS": f"{ROOT}/usr/lib/x86_64-linux-gnu/libmariadb3/plugin",
    })
    return env


def environment():
    tmp = OUT / "tmp"
    tmp.mkdir(exist_ok=True)
    Path(SANDBOX, "tmp").mkdir(exist_ok=True)
    data = Path(SANDBOX, "std_data")
    if not data.is_symlink():
        data.symlink_to(TESTS / "std_data")
    env = mysql_environment() if MYSQL else mariadb_environment()
    env.update({
        "LC_ALL": "C", "TZ": "GMT-3", "UMASK": "0660", "UMASK_DIR": "0770",
        "MYSQL_TEST_DIR": str(TESTS), "MASTER_MYPORT": PORT, "DEFAULT_MASTER_PORT": PORT,
        "MYSQL_TMP_DIR": str(tmp), "MYSQLTEST_VARDIR": SANDBOX, "MYSQLTEST_REAL_VARDIR": SANDBOX,
        "SECURE_LOAD_PATH": str(TESTS / "std_data"), "USE_RUNNING_SERVER": "1",
        "DEFAULT_MASTER_USER": "root", "PERL": "/usr/bin/perl", "MTR_BINDIR": str(ROOT),
        "QUERY_CACHE_TYPE": "0",
    })
    return env


def run(name, env):
    """(status, what it printed)"""
    command = [
        env["MYSQL_TEST_PROGRAM"], "--no-defaults", "--silent", "-h127.0.0.1", f"-P{PORT}",
        "-uroot", "--protocol=tcp", "--database=test", f"--basedir={TESTS}/", f"--tmpdir={OUT}/tmp",
        f"--logdir={OUT}/tmp", "--max-connect-retries=3",
        f"--character-sets-dir={env['CHARSETSDIR']}", f"--test-file={path_of(name, 'test')}",
    ]
    if plugins := env.get("MYSQL_TEST_PLUGINS"):
        command.append(f"--plugin-dir={plugins}")
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=env, cwd=TESTS, start_new_session=True)
    try:
        out, err = child.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        err += b"\n[takes too long]"
    for own, neutral in ((str(OUT), b"OUT"), (SANDBOX, b"SANDBOX"), (rf"(?<![\d-]){PORT}(?!\d)", b"PORT")):
        out, err = (re.sub(own.encode(), neutral, text) for text in (out, err))
    # Names of files drawn by lot, and what some call before it has left in errno.
    for drawn, neutral in ((rb"SANDBOX/tmp\w{6}\b", b"SANDBOX/tmpXXXXXX"), (rb"(status: \d+, errno: )\d+", rb"\1N")):
        out, err = (re.sub(drawn, neutral, text) for text in (out, err))
    for left in TESTS.glob("outfile-test*"):
        left.unlink()
    if child.returncode == 62:
        return "skip", out + err
    expected = path_of(name, "result")
    # They connect by the socket there.
    printed = out.replace(b"127.0.0.1", b"localhost")
    passed = child.returncode == 0 and expected.exists() and expected.read_bytes() == printed
    return ("ok" if passed else "fail"), out + b"\n" + err


def clean(before):
    """As it was before the test, as far as a test can change it."""
    schemas = ("SELECT schema_name FROM information_schema.schemata "
               f"WHERE schema_name NOT IN ({KEEP})")
    drop = [f"DROP DATABASE `{name}`" for name in sql(PRIMARY, schemas)]
    kind = "'USER '" if MYSQL else "IF(is_role='Y', 'ROLE ', 'USER ')"
    host = "CONCAT('@', QUOTE(host))" if MYSQL else "IF(is_role='Y', '', CONCAT('@', QUOTE(host)))"
    accounts = (f"SELECT CONCAT({kind}, QUOTE(user), {host}) FROM mysql.user WHERE user NOT IN "
                "('root','suite','app','pointsman','repl','mariadb.sys','mysql') "
                "AND user NOT LIKE 'mysql.%'")
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
    position = sql(PRIMARY, f"SELECT @@global.{'gtid_executed' if MYSQL else 'gtid_binlog_pos'}", "--raw")
    position = "".join(position)
    if not position:
        raise SystemExit(f"the primary can't be asked any more after {name}")
    function = "WAIT_FOR_EXECUTED_GTID_SET" if MYSQL else "MASTER_GTID_WAIT"
    wait = f"SELECT {function}('{position}', 5)"
    replica = "REPLICA" if MYSQL else "SLAVE"
    for _ in range(20):
        if sql(REPLICA, wait) == ["0"]:
            return
        status = sql(REPLICA, f"SHOW {replica} STATUS\\G", "--column-names")
        status = [line.strip() for line in status]
        running = [f"{replica.capitalize()}_{thread}_Running: No" for thread in ("SQL", "IO")]
        if any(line in status for line in running):
            break
    why = [line for line in status if line.startswith(("Last_SQL_Error: ", "Last_IO_Error: "))]
    print(f"replication stopped after {name}: {why}", flush=True)
    schemas = f"SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN ({KEEP})"
    drop = [f"DROP DATABASE `{schema}`;" for schema in sql(REPLICA, schemas)]
    jump = (f"RESET BINARY LOGS AND GTIDS; SET GLOBAL gtid_purged = '{position}'" if MYSQL
            else f"SET GLOBAL gtid_slave_pos = '{position}'")
    sql(REPLICA, f"STOP {replica}; SET sql_log_bin = 0;" + "".join(drop) +
        f"DROP DATABASE IF EXISTS test; CREATE DATABASE test; {jump}; START {replica};")
    sql(REPLICA, wait)


def main():
    names = []
    for name in sys.argv[1:] or [""]:
        names += selected(name) if not name or name.endswith("/") else [name]
    sql(PRIMARY, "CREATE DATABASE mtr")
    for script in ("mtr_warnings.sql", "mtr_check.sql"):
        sql(PRIMARY, (TESTS / "include" / script).read_text("latin-1"), "mtr")
    (OUT / "outputs").mkdir(exist_ok=True)
    env, before = environment(), variables()
    direct = sql(PRIMARY, "SELECT @@port") == [PORT]
    if direct:
        # Nobody reads there, and some tests' updates take it minutes.
        sql(REPLICA, f"STOP {'REPLICA' if MYSQL else 'SLAVE'} SQL_THREAD")
    with open(OUT / "results", "w") as results:
        for name in names:
            start = time.monotonic()
            status, output = run(name, env)
            print(f"{name} {time.monotonic() - start:.1f} s", flush=True)
            kept = OUT / "outputs" / name
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(output)
            results.write(f"{status}\t{name}\n")
            results.flush()
            clean(before)
            if not direct:
                mend_replication(name)


main()
