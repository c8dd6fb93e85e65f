#!/usr/bin/env python3
"""Compares the classifier with a real MariaDB.

Makes statements of random pieces, asks the classifier about each, runs it, and looks whether the
server changed anything: a table, a user variable, a lock. What changed something must not have
been routed to a replica, and what it left in the session must be among its effects.

  cargo build --release -p pointsman-sql --example classify
  tests/oracle.py path/to/classify path/to/mysqld.sock [seconds] [seed]

The server is one for tests: a schema `oracle` is made in it. Needs PyMySQL.
"""

import random
import subprocess
import sys
import time

import pymysql
from pymysql.constants import CLIENT

classify, socket = sys.argv[1:3]
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 60
seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.randrange(1 << 30)
rng = random.Random(seed)


def connect(**more):
    return pymysql.connect(
        unix_socket=socket, user="root", autocommit=True, charset="latin1",
        client_flag=CLIENT.MULTI_STATEMENTS, read_timeout=20, **more)


admin = connect().cursor()
admin.execute("CREATE DATABASE IF NOT EXISTS oracle")
admin.execute("USE oracle")
for sql in """
CREATE OR REPLACE TABLE t (a INT PRIMARY KEY, b INT) ENGINE=InnoDB
CREATE OR REPLACE TABLE log (a INT) ENGINE=MyISAM
CREATE OR REPLACE SEQUENCE s
INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)
CREATE OR REPLACE FUNCTION f(x INT) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO log VALUES (x); RETURN x; END
CREATE OR REPLACE FUNCTION point(x INT) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO log VALUES (x); RETURN x; END
CREATE OR REPLACE FUNCTION json_table(x INT) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO log VALUES (x); RETURN x; END
CREATE OR REPLACE FUNCTION columns(x INT) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO log VALUES (x); RETURN x; END
CREATE OR REPLACE FUNCTION against(x INT) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO log VALUES (x); RETURN x; END
CREATE OR REPLACE FUNCTION lateral(x INT) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO log VALUES (x); RETURN x; END
CREATE OR REPLACE PROCEDURE p() INSERT INTO log VALUES (0)
""".strip().splitlines():
    admin.execute(sql)
admin.execute("SELECT VERSION()")
major, minor, patch = admin.fetchone()[0].split("-")[0].split(".")
version = str(int(major) * 10000 + int(minor) * 100 + int(patch))

WORDS = (
    "SELECT SELECT SELECT 1 2 a b t FROM FROM WHERE = + ( ) , ; FOR UPDATE LOCK IN SHARE MODE INTO @x "
    "@x:=1 f(1) f f ( point(1) json_table(1) columns(1) against(1) lateral(1) oracle.f(1) `f`(1) "
    "count(*) now() NEXTVAL(s) NEXT VALUE FOR s OVER AS UNION ALL WITH c AS (SELECT SET DO CALL p() "
    "INSERT INTO log VALUES (1) DELETE FROM log UPDATE t SET b = 5 ANALYZE EXPLAIN DESC TABLE VALUES "
    "(1) DISTINCT NOT - * / . ' ' \" \" ` ` \\ \\' '' 'x' \"y\" `a` /* */ /*! /*!50000 /*!50700 /*!99999 "
    "/*M! /*M!100000 /*M!120000 /*!100000 /*!120000 */ -- --\n # \n \t \xa0 \x00 \xe9 \x85 N' X' "
    "_latin1 GROUP BY ORDER LIMIT HAVING CASE WHEN THEN END IF(1,2,3) EXISTS ANY ( { } {fn $ ? "
    "GET_LOCK('a',0) LAST_INSERT_ID(5) FOR\nUPDATE SQL_NO_CACHE HIGH_PRIORITY BEGIN NOT ATOMIC "
    "PROCEDURE ANALYSE() AGAINST MATCH COLUMNS PARTITION USE INDEX FORCE FOR SYSTEM_TIME ALL "
).replace("\n ", " \n ").split(" ")
WORDS = [w for w in WORDS if w] + [" "] * 10
TEMPLATES = [
    "SELECT {} FROM t WHERE a = 1 {}", "SELECT {}, f(1) {}", "SELECT {} f(1) {}",
    "SELECT * FROM t WHERE a = {} FOR UPDATE {}", "SELECT '{}' {}", "SELECT \"{}\" {} f(1) {}",
    "SELECT 1 {} INTO @x {}", "SELECT 1 {} FROM t {} LOCK IN SHARE MODE {}", "{}", "{} SELECT {}",
    "SELECT 1 /*{}*/ {} f(1) {}", "SELECT 1 /*!{}*/ {}", "SELECT 1 -- {}\n {}", "SELECT 1 # {}\n, f(1) {}",
    "SELECT `{}` {}", "SELECT 1; {} f(1) {}", "(SELECT 1 {}) {}", "WITH c AS (SELECT 1 {}) SELECT * FROM c {}",
    "SELECT {}(1)", "SELECT a {} (1) FROM t {}", "VALUES ({}) {}", "TABLE t {}", "EXPLAIN {} SELECT f(1) {}",
    "SELECT 1 FROM t {} UNION SELECT f(1) {}", "SELECT 1/*!99999 {} /* {} */ {} */ {} f(1)",
]


def statement():
    def filler(_=None):
        out = ""
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 5])):
            out += rng.choice(WORDS) + rng.choice(["", " ", " "])
        return out
    template = rng.choice(TEMPLATES)
    out = template.split("{}")
    text = out[0]
    for piece in out[1:]:
        text += filler() + piece
    return text.encode("latin1")


def start(*flags):
    return subprocess.Popen([classify, "mariadb", version, *flags], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, bufsize=1)


MODES = {"": [], "ANSI_QUOTES": ["ansi_quotes"], "NO_BACKSLASH_ESCAPES": ["no_backslash_escapes"],
         "IGNORE_SPACE": []}
readers = {mode: start(*flags) for mode, flags in MODES.items()}
count = ran = reads = changed = 0
bad = []
begun = time.time()
session = None
while time.time() - begun < seconds:
    if session is None:
        session = connect(database="oracle")
        mode = rng.choice(list(MODES))
        cur = session.cursor()
        cur.execute("SET sql_mode = %s, innodb_lock_wait_timeout=1, lock_wait_timeout=1, max_statement_time=2", (mode,))
        cur.execute("SELECT CONNECTION_ID()")
        me = cur.fetchone()[0]
        used = 0
        before = None
    sql = statement()
    count += 1
    reader = readers[mode]
    reader.stdin.write(sql.hex() + "\n")
    reader.stdin.flush()
    route, kind, reason, effects, tables, text = reader.stdout.readline().rstrip("\n").split("\t", 5)
    if b"shutdown" in sql.lower():
        continue
    fine = False
    try:
        cur.execute("SET @x = 'unset'; START TRANSACTION")
        while cur.nextset():
            pass
        try:
            session._execute_command(3, sql)
            while True:
                session._read_query_result()
                fine = True
                if not session._result.has_next:
                    break
        except pymysql.err.MySQLError as e:
            if not e.args or e.args[0] in (2006, 2013, 0):
                raise
        ran += fine
        # Did it lock a row, set the variable, or write?
        admin.execute("SELECT COUNT(*) FROM log")
        wrote = admin.fetchone()[0]
        try:
            admin.execute("SELECT a FROM t FOR UPDATE NOWAIT")
            locked = False
        except pymysql.err.OperationalError:
            locked = True
        cur = session.cursor()
        cur.execute("SELECT @x, IS_USED_LOCK('a') = CONNECTION_ID()")
        variable, lock = cur.fetchone()
        cur.execute("ROLLBACK; DO RELEASE_ALL_LOCKS()")
        while cur.nextset():
            pass
        done = []
        if wrote:
            done.append("wrote")
            admin.execute("TRUNCATE log")
        if locked:
            done.append("locked")
        if variable not in ("unset", b"unset"):
            done.append("variable")
        if lock:
            done.append("named lock")
        changed += bool(done)
        # What lives in the session must be known to be there.
        if "HIDDEN_CODE" not in effects and (
                ("variable" in done and "USER_VAR" not in effects)
                or ("named lock" in done and "NAMED_LOCK" not in effects)):
            bad.append(sql)
            print("UNSEEN:", mode, sql, route, reason, effects, done, flush=True)
        if route in ("AnyReplica", "AnySession", "LastUsed"):
            reads += fine
            if done:
                bad.append(sql)
                print("WRONG:", mode, sql, route, reason, done, "after", before, flush=True)
    except (pymysql.err.MySQLError, OSError, IndexError, AssertionError, RuntimeError, TypeError, ValueError):
        session = None
        continue
    before = sql
    used += 1
    if used > 200:
        session.close()
        session = None
print(f"seed {seed}: {count} statements, {ran} ran, {reads} of them as reads, {changed} changed something, "
      f"{len(bad)} wrong verdicts")
sys.exit(bool(bad))
