//! Causal reads wait for writes to the tables they read, and for no others; where that can't be told,
//! for all. The promises of `docs/consistency.md`, one by one.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pointsman_sandbox::{Flavour, MONITOR_USER, Node};
use pointsman_tests::{APP_PASSWORD, APP_USER, LONG, Raw, Setup, Site, caps, wait_until};

/// A site whose replica applies nothing from now on, with tables `a` and `b` and what `more` makes.
struct Behind {
    site: Site,
    db: Raw,
}

impl Behind {
    #[track_caller]
    fn with(flavour: Flavour, more: &[&str]) -> Self {
        Self::on(Self::setup(flavour), more)
    }

    fn setup(flavour: Flavour) -> Setup {
        Setup {
            // The account with its password, so that clients need no TLS to prove it.
            config: "workers = 2\n[routing]\nmax_lag = \"1h\"\ncausal_timeout = \"20ms\"\n\
                     [[user]]\nname = \"app\"\npassword = \"app-secret\"\n\
                     [[user]]\nname = \"reports\"\nconsistency = \"eventual\"\n"
                .into(),
            server_args: vec!["--log-bin-trust-function-creators=1".into()],
            flavour,
            ..Setup::default()
        }
    }

    #[track_caller]
    fn on(setup: Setup, more: &[&str]) -> Self {
        let site = Site::with(setup);
        let mut db = Raw::connect(site.port()).unwrap();
        for sql in ["CREATE TABLE a (id INT PRIMARY KEY, v INT)", "CREATE TABLE b LIKE a"]
            .iter()
            .chain(more)
            .chain(&["INSERT INTO a VALUES (1, 0)", "INSERT INTO b VALUES (1, 0)"])
        {
            db.query(sql).unwrap_or_else(|e| panic!("{sql}: {e:#}"));
        }
        let mut behind = Self { site, db };
        behind.settle();
        sql_thread(behind.site.replica(), "STOP");
        behind
    }

    /// Until the tables are known, and the replica has them.
    #[track_caller]
    fn settle(&mut self) {
        self.site.sandbox.wait_caught_up().unwrap();
        let known = wait_until("the tables are known", LONG, || {
            Ok(self.site.metric("pointsman_tables_known", &[]) >= 2.0)
        });
        if let Err(error) = known {
            panic!("{error:#}\n{}{}", self.site.cli(&["status"]).stdout, self.site.proxy.log());
        }
    }

    fn write(&mut self, sql: &str) {
        self.db.query(sql).unwrap_or_else(|e| panic!("{sql}: {e:#}"));
    }

    /// Which server answers a read of `from`.
    #[track_caller]
    fn reads(&mut self, from: &str) -> String {
        let sql = format!("SELECT @@server_id FROM {from} LIMIT 1");
        self.db.one(&sql).unwrap_or_else(|e| panic!("{sql}: {e:#}"))
    }

    #[track_caller]
    fn on_replica(&mut self, from: &str) {
        assert_eq!(self.reads(from), "2", "a read of {from}");
    }

    #[track_caller]
    fn on_primary(&mut self, from: &str) {
        assert_eq!(self.reads(from), "1", "a read of {from}");
    }
}

fn sql_thread(replica: &Node, what: &str) {
    let sql = match replica.flavour() {
        Flavour::MySql => format!("{what} REPLICA SQL_THREAD"),
        _ => format!("{what} SLAVE SQL_THREAD"),
    };
    replica.client_sql(&sql).unwrap();
}

fn other_tables(flavour: Flavour) {
    let mut site = Behind::with(flavour, &[]);
    site.on_replica("a");
    site.write("UPDATE a SET v = 1");
    site.on_primary("a");
    site.on_replica("b");
    site.on_replica("app.b AS x");
    site.on_primary("a JOIN b ON a.id = b.id");
    assert!(site.site.metric("pointsman_reads_by_table_total", &[]) >= 2.0);
    let behind = [("reason", "replica_behind")];
    assert!(site.site.metric("pointsman_reads_to_primary_total", &behind) >= 2.0);
    // Whoever reads.
    let mut other = Raw::connect(site.site.port()).unwrap();
    assert_eq!(other.one("SELECT @@server_id FROM a").unwrap(), "1");
    assert_eq!(other.one("SELECT @@server_id FROM b").unwrap(), "2");
    // A transaction counts for all that it wrote, and one that is rolled back for nothing.
    site.write("BEGIN");
    site.write("UPDATE b SET v = 1");
    site.write("ROLLBACK");
    site.on_replica("b");
    site.write("BEGIN");
    site.write("UPDATE a SET v = 2");
    site.write("UPDATE b SET v = 2");
    site.write("COMMIT");
    site.on_primary("b");
    // And once it is there the replica reads again.
    sql_thread(site.site.replica(), "START");
    site.site.sandbox.wait_caught_up().unwrap();
    wait_until("reads come back", LONG, || Ok(other.one("SELECT @@server_id FROM a")? == "2"))
        .unwrap();
}

#[test]
fn writes_to_a_leave_reads_of_b_on_the_replica() {
    other_tables(Flavour::MariaDb);
}

#[test]
fn writes_to_a_leave_reads_of_b_on_the_replica_of_mysql() {
    other_tables(Flavour::MySql);
}

#[test]
fn views_wait_for_all_writes() {
    let mut site = Behind::with(Flavour::MariaDb, &["CREATE VIEW v AS SELECT * FROM a"]);
    site.write("UPDATE b SET v = 1");
    site.on_replica("a");
    site.on_primary("v");
    // What is written through a view may be anywhere.
    site.write("UPDATE v SET v = 1");
    site.on_primary("a");
    let any = [("reason", "replica_behind_any_table")];
    assert!(site.site.metric("pointsman_reads_to_primary_total", &any) >= 1.0);
}

fn hidden_writes(flavour: Flavour) {
    let mut site = Behind::with(
        flavour,
        &[
            "CREATE TABLE t (id INT PRIMARY KEY)",
            "CREATE TABLE parent (id INT PRIMARY KEY)",
            "CREATE TABLE child (id INT, FOREIGN KEY (id) REFERENCES parent (id) ON DELETE CASCADE)",
            "CREATE TABLE c LIKE a",
            "INSERT INTO c VALUES (1, 0)",
            "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW UPDATE b SET v = v + 1",
            "INSERT INTO parent VALUES (1), (2)",
            "INSERT INTO child VALUES (1), (2)",
        ],
    );
    site.write("DELETE FROM parent WHERE id = 1");
    site.on_primary("child");
    site.on_replica("b");
    site.on_replica("c");
    site.write("INSERT INTO t VALUES (1)");
    assert_eq!(site.db.one("SELECT v FROM b").unwrap(), "1", "what the trigger did");
    site.on_primary("b");
    site.on_primary("c");
}

#[test]
fn triggers_and_cascades_are_seen() {
    hidden_writes(Flavour::MariaDb);
}

#[test]
fn triggers_and_cascades_are_seen_on_mysql() {
    hidden_writes(Flavour::MySql);
}

#[test]
fn stored_code_counts_for_all_tables() {
    let mut site = Behind::with(
        Flavour::MariaDb,
        &[
            "CREATE PROCEDURE p() UPDATE b SET v = v + 1",
            "CREATE FUNCTION f() RETURNS INT BEGIN UPDATE b SET v = v + 1; RETURN 1; END",
        ],
    );
    // A session that has run stored code stays on the primary: ask another.
    let mut other = Raw::connect(site.site.port()).unwrap();
    for (call, sum) in [("CALL p()", "1"), ("SELECT f()", "2"), ("UPDATE a SET v = f()", "3")] {
        site.write(call);
        assert_eq!(other.one("SELECT SUM(v) FROM b").unwrap(), sum, "{call}");
        assert_eq!(other.one("SELECT @@server_id FROM b").unwrap(), "1", "{call}");
    }
}

#[test]
fn several_statements_and_named_ones_count_for_all_tables() {
    let mut site = Behind::with(Flavour::MariaDb, &[]);
    let mut other = Raw::connect(site.site.port()).unwrap();
    site.write("PREPARE s FROM 'UPDATE b SET v = 7'");
    site.write("EXECUTE s");
    assert_eq!(other.one("SELECT v FROM b").unwrap(), "7");
    site.write("EXECUTE IMMEDIATE 'UPDATE b SET v = 8'");
    assert_eq!(other.one("SELECT v FROM b").unwrap(), "8");
}

/// A change of the schema is known before anybody can see it.
#[test]
fn a_trigger_made_a_moment_ago_counts() {
    let mut site = Behind::with(Flavour::MariaDb, &[]);
    let mut other = Raw::connect(site.site.port()).unwrap();
    for i in 1..=20 {
        let make = "CREATE TRIGGER g AFTER UPDATE ON a FOR EACH ROW UPDATE b SET v = v + 1";
        site.write(make);
        site.write(&format!("UPDATE a SET v = {}", 100 + i));
        assert_eq!(other.one("SELECT v FROM b").unwrap(), i.to_string());
        site.write("DROP TRIGGER g");
        site.write("UPDATE a SET v = 0");
        assert_eq!(other.one("SELECT v FROM b").unwrap(), i.to_string());
    }
    sql_thread(site.site.replica(), "START");
    site.settle();
    sql_thread(site.site.replica(), "STOP");
    site.write("UPDATE a SET v = 1000");
    site.on_replica("b");
}

/// Of what did not pass through Pointsman nobody was told, so nobody is promised it; a change of
/// the schema is noticed all the same.
#[test]
fn a_trigger_made_directly_is_noticed() {
    let mut site = Behind::with(Flavour::MariaDb, &[]);
    let make = "CREATE TRIGGER app.g AFTER UPDATE ON app.a FOR EACH ROW UPDATE app.b SET v = v + 1";
    site.site.primary().client_sql(make).unwrap();
    wait_until("it is noticed", LONG, || {
        site.write("UPDATE a SET v = v + 1");
        Ok(site.reads("b") == "1")
    })
    .unwrap();
}

#[test]
fn the_default_schema_tells_tables_of_one_name_apart() {
    let mut site = Behind::with(Flavour::MariaDb, &[]);
    let root = |sql: &str| site.site.primary().client_sql(sql).unwrap();
    root(
        "CREATE DATABASE other; CREATE TABLE other.a (id INT, v INT); GRANT ALL ON other.* TO app@'%'",
    );
    sql_thread(site.site.replica(), "START");
    site.settle();
    // The monitor looks once per second for what was done directly.
    std::thread::sleep(Duration::from_millis(1500));
    sql_thread(site.site.replica(), "STOP");
    let mut db = Raw::connect(site.site.port()).unwrap();
    db.query("USE other").unwrap();
    site.write("UPDATE a SET v = 5");
    assert_eq!(db.one("SELECT COUNT(@@server_id) FROM a").unwrap(), "0");
    assert_eq!(db.one("SELECT @@server_id FROM a RIGHT JOIN (SELECT 1) x ON TRUE").unwrap(), "2");
    assert_eq!(db.one("SELECT @@server_id FROM app.a").unwrap(), "1");
    db.query("INSERT INTO a VALUES (1, 1)").unwrap();
    assert_eq!(db.one("SELECT @@server_id FROM a").unwrap(), "1");
    site.on_primary("other.a");
    db.query("USE app").unwrap();
    assert_eq!(db.one("SELECT v FROM a").unwrap(), "5");
}

#[test]
fn temporary_tables_hide_tables_of_their_name() {
    let mut site = Behind::with(Flavour::MariaDb, &[]);
    site.write("CREATE TEMPORARY TABLE b (v INT)");
    site.write("INSERT INTO b VALUES (9)");
    assert_eq!(site.db.one("SELECT v FROM b").unwrap(), "9");
    let mut other = Raw::connect(site.site.port()).unwrap();
    assert_eq!(other.one("SELECT v FROM b").unwrap(), "0");
    site.write("DROP TEMPORARY TABLE b");
    site.write("UPDATE b SET v = 1");
    assert_eq!(other.one("SELECT v FROM b").unwrap(), "1");
}

#[test]
fn without_the_privilege_all_reads_wait_for_all_writes() {
    let site = Site::with(Setup {
        config: "workers = 2\n[routing]\nmax_lag = \"1h\"\n".into(),
        ..Setup::default()
    });
    site.primary().client_sql("REVOKE TRIGGER ON *.* FROM pointsman@'%'").unwrap();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE a (v INT)").unwrap();
    db.query("CREATE TABLE b (v INT)").unwrap();
    db.query("INSERT INTO b VALUES (1)").unwrap();
    wait_until("status says so", LONG, || {
        Ok(site.cli(&["status"]).stdout.contains("GRANT TRIGGER"))
    })
    .unwrap();
    site.sandbox.wait_caught_up().unwrap();
    sql_thread(site.replica(), "STOP");
    db.query("INSERT INTO a VALUES (1)").unwrap();
    assert_eq!(db.one("SELECT @@server_id FROM b").unwrap(), "1");
}

/// No reply says where this write is, and the primary can't be asked: nobody may miss it for that.
#[test]
fn a_write_that_nobody_knows_the_place_of_is_seen_by_everyone() {
    let mut site = Behind::with(Flavour::MariaDb, &[]);
    let mut other = Raw::connect(site.site.port()).unwrap();
    assert_eq!(other.one("SELECT @@server_id FROM a").unwrap(), "2");
    // The monitor's connections stay, but for the one that asks for positions, which has had nothing
    // to do since the start; and no new ones are made.
    let primary = site.site.primary();
    primary.client_sql(&format!("ALTER USER {MONITOR_USER}@'%' ACCOUNT LOCK")).unwrap();
    let idle = format!(
        "SELECT id FROM information_schema.processlist
         WHERE user = '{MONITOR_USER}' AND command = 'Sleep' AND time_ms > 1500"
    );
    wait_until("the idle ones are closed", LONG, || {
        let idle = primary.client_sql(&idle)?;
        for id in idle.lines() {
            primary.client_sql(&format!("KILL {id}"))?;
        }
        Ok(!idle.is_empty())
    })
    .unwrap();

    // For this client an EOF ends the rows, in which there is no room for a position.
    let rows = site.db.query("INSERT INTO a VALUES (2, 0) RETURNING id").unwrap();
    assert_eq!(rows, [[Some("2".to_owned())]]);
    assert_eq!(other.one("SELECT COUNT(*) FROM a").unwrap(), "2");
    assert_eq!(Raw::connect(site.site.port()).unwrap().one("SELECT COUNT(*) FROM a").unwrap(), "2");
    // As soon as the primary says where it stands, and a replica has it, that is read again.
    let primary = site.site.primary();
    primary.client_sql(&format!("ALTER USER {MONITOR_USER}@'%' ACCOUNT UNLOCK")).unwrap();
    sql_thread(site.site.replica(), "START");
    wait_until("reads are back on the replica", LONG, || Ok(site.reads("a") == "2")).unwrap();
}

/// A level of an account's own, or of one statement.
#[test]
fn accounts_and_comments_have_levels_of_their_own() {
    let mut site = Behind::with(Flavour::MariaDb, &[]);
    site.write("UPDATE a SET v = 1");
    site.on_primary("a");
    site.on_primary("a /* cached by the page */");
    for stale in [
        "a /* pointsman consistency=eventual */",
        "a WHERE id = 1 # pointsman: consistency=eventual\n",
    ] {
        site.on_replica(stale);
    }
    // Not by what another session wrote.
    let mut other = Raw::connect(site.site.port()).unwrap();
    let session = "SELECT /* pointsman consistency=session */ @@server_id FROM a";
    assert_eq!(other.one(session).unwrap(), "2");
    assert_eq!(site.db.one(session).unwrap(), "1");
    site.on_replica("b");
    for fresh in ["primary", "consistency=strong", "consistency=strnog", "primary, now"] {
        site.on_primary(&format!("b /* pointsman {fresh} */"));
    }
    assert!(site.site.proxy.log().contains("[PM2013]"), "{}", site.site.proxy.log());
    let (id, ..) =
        site.db.prepare("SELECT @@server_id FROM a /* pointsman consistency=eventual */").unwrap();
    let execute = [&id.to_le_bytes()[..], &[0, 1, 0, 0, 0]].concat();
    site.db.command(0x17, &execute).unwrap();
    let (rows, _) = site.db.result().unwrap();
    assert_eq!(rows[0].last_chunk(), Some(&2_i64.to_le_bytes()), "{rows:?}");
    site.write("UPDATE b /* pointsman consistency=eventual */ SET v = 2");
    site.on_primary("b");

    let primary = site.site.primary();
    for node in [primary, site.site.replica()] {
        let sql = "SET sql_log_bin = 0; CREATE USER reports IDENTIFIED BY 'reports'; \
                   GRANT SELECT ON app.* TO reports";
        node.client_sql(sql).unwrap();
    }
    let read = "SELECT @@server_id FROM b";
    let mut reports =
        Raw::login(site.site.port(), "reports", "reports", Some("app"), caps()).unwrap();
    // It was made past the proxy: a replica that is behind is not trusted to know it.
    sql_thread(site.site.replica(), "START");
    wait_until("the replica has it", LONG, || Ok(reports.one(read)? == "2")).unwrap();
    sql_thread(site.site.replica(), "STOP");
    site.write("UPDATE b SET v = 3");
    site.on_primary("b");
    assert_eq!(reports.one(read).unwrap(), "2");
    assert_eq!(reports.one("SELECT /* pointsman primary */ @@server_id FROM b").unwrap(), "1");
    reports.change_user(APP_USER, APP_PASSWORD, Some("app")).unwrap();
    assert_eq!(reports.one(read).unwrap(), "1");
}

/// `what` was written to table `a` and nobody told this proxy: `causal` promises nothing, `strong` sees it.
#[track_caller]
fn only_strong_sees(site: &mut Behind, what: &str) {
    let causal = site.db.one("SELECT v FROM a WHERE id = 1").unwrap();
    assert_ne!(causal, what, "the replica, which lacks it, may answer");
    site.on_replica("a");
    let strong = "SELECT /* pointsman consistency=strong */ v FROM a WHERE id = 1";
    assert_eq!(site.db.one(strong).unwrap(), what);
    // All of the kind, whatever it reads.
    let strong = "SELECT /* pointsman consistency=strong */ @@server_id FROM b LIMIT 1";
    assert_eq!(site.db.one(strong).unwrap(), "1");
}

fn past_the_proxy(flavour: Flavour) {
    let mut site = Behind::with(flavour, &[]);
    site.site.primary().client_sql("UPDATE app.a SET v = 7").unwrap();
    only_strong_sees(&mut site, "7");

    let event = "SET GLOBAL event_scheduler = ON; \
         CREATE EVENT app.e ON SCHEDULE AT NOW() DO UPDATE app.a SET v = 8";
    site.site.primary().client_sql(event).unwrap();
    wait_until("the event has run", LONG, || {
        Ok(site.site.primary().client_sql("SELECT v FROM app.a")?.trim() == "8")
    })
    .unwrap();
    only_strong_sees(&mut site, "8");

    // However little the replica is behind.
    sql_thread(site.site.replica(), "START");
    site.site.sandbox.wait_caught_up().unwrap();
    let replica = [("server", "db2"), ("class", "read")];
    let before = site.site.metric("pointsman_statements_total", &replica);
    for n in 100..150 {
        site.site.primary().client_sql(&format!("UPDATE app.a SET v = {n}")).unwrap();
        let strong = "SELECT /* pointsman consistency=strong */ v FROM a WHERE id = 1";
        assert_eq!(site.db.one(strong).unwrap(), n.to_string());
    }
    let by_replica = site.site.metric("pointsman_statements_total", &replica) - before;
    println!(
        "{flavour:?}: the replica answered {by_replica} of 50 strong reads after writes past the proxy"
    );
}

#[test]
fn strong_reads_see_what_bypassed_the_proxy() {
    past_the_proxy(Flavour::MariaDb);
}

#[test]
fn strong_reads_see_what_bypassed_the_proxy_of_mysql() {
    past_the_proxy(Flavour::MySql);
}

#[test]
fn names_are_compared_without_regard_to_case() {
    // Two tables: at worst a read waits for too much.
    let mut site = Behind::with(Flavour::MariaDb, &["CREATE TABLE A LIKE a"]);
    site.write("INSERT INTO A VALUES (1, 1)");
    site.on_primary("A");
    site.on_primary("a");
    site.on_replica("b");

    // One table with two names.
    let mut setup = Behind::setup(Flavour::MariaDb);
    setup.server_args.push("--lower-case-table-names=1".to_owned());
    let mut site = Behind::on(setup, &[]);
    site.on_replica("A");
    site.write("UPDATE A SET v = 1");
    for name in ["a", "A", "APP.a", "`a` AS A"] {
        site.on_primary(name);
    }
    site.on_replica("B");
    site.write("UPDATE app.B SET v = 1");
    site.on_primary("b");
}

/// What this proxy knew of writes to tables ends with the primary: all that the next one had when it took
/// over counts for each table.
fn another_primary(flavour: Flavour) {
    let setup = Setup { replicas: 2, failover: true, ..Behind::setup(flavour) };
    let mut site = Behind::on(setup, &[]);
    sql_thread(site.site.replica(), "START");
    site.site.sandbox.wait_caught_up().unwrap();
    let late = match flavour {
        Flavour::MySql => {
            "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 3600; START REPLICA"
        }
        _ => "STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 3600; START SLAVE",
    };
    site.site.sandbox.node(2).client_sql(late).unwrap();
    wait_until("Pointsman may change the primary", LONG, || {
        Ok(!site.site.cli(&["status"]).stdout.contains("can't replace it"))
    })
    .unwrap();
    site.site.wait_server("db3 follows", "db3", |row| row["reads"] == true);
    site.write("UPDATE a SET v = 1");
    site.site.cli(&["maintain", "db2"]).ok();
    assert_eq!(site.reads("b"), "3", "db3 has all writes to b");
    assert_eq!(site.reads("a"), "1");
    site.site.cli(&["resume", "db2"]).ok();
    site.site.wait_server("db2 is back", "db2", |row| row["reads"] == true);
    site.site.cli(&["switchover", "--to", "db2"]).ok();
    site.site.cli(&["maintain", "db1"]).ok();
    site.site.wait_server("db3 follows", "db3", |row| row["reads"] == true);
    for table in ["a", "b"] {
        assert_eq!(site.reads(table), "2", "a read of {table}, of which db3 may lack something");
    }
}

#[test]
fn after_a_change_of_the_primary_all_counts_for_all_tables() {
    another_primary(Flavour::MariaDb);
}

#[test]
fn after_a_change_of_the_primary_all_counts_for_all_tables_in_mysql() {
    another_primary(Flavour::MySql);
}
