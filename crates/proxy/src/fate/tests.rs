use pointsman_wire::binlog::{event, query_event};

use pointsman_cluster::gtid::Flavour;

use super::search::{is_same_text, source};
use super::*;

const OLD: u32 = 1;
const THREAD: u32 = 42;
const DOUBT: Fate = Fate::Unknown("the next primary has a transaction that may be it");

fn inquiry(texts: Option<&[&str]>) -> Inquiry {
    let parse = |text: &str| Position::parse(Flavour::MariaDb, text.as_bytes()).unwrap();
    Inquiry {
        server: ServerId(0),
        server_id: OLD,
        thread: THREAD,
        before: Some(parse("0-1-10")),
        own: Some(parse("0-1-12")),
        committed: SmallVec::new(),
        marks: Marks::default(),
        texts: texts.map(|texts| texts.iter().map(|t| t.as_bytes().to_vec()).collect()),
    }
}

fn gtid(server_id: u32, sequence: u64) -> Vec<u8> {
    let mut body = sequence.to_le_bytes().to_vec();
    body.extend_from_slice(&[0; 5]);
    event(162, server_id, &body)
}

fn annotate(text: &str) -> Vec<u8> {
    event(160, OLD, text.as_bytes())
}

fn rows() -> Vec<u8> {
    event(30, OLD, &[0; 8])
}

fn fate(inquiry: &Inquiry, events: &[Vec<u8>]) -> Fate {
    let told = Told::from([(source(0, OLD), 20)]);
    let mut search = Search::new(inquiry, Flavour::MariaDb, &told);
    for bytes in events {
        if let Some(done) = search.bytes(bytes, true).unwrap() {
            return Fate::Committed(Box::new(done));
        }
    }
    search.end()
}

fn is_there(fate: &Fate) -> bool {
    matches!(fate, Fate::Committed(_))
}

#[test]
fn a_statement_with_the_connections_id_is_it() {
    let q = |thread| query_event(OLD, thread, b"INSERT");
    let i = inquiry(None);
    assert!(is_there(&fate(&i, &[gtid(OLD, 13), q(7), gtid(OLD, 14), q(THREAD)])));
    assert_eq!(fate(&i, &[gtid(OLD, 13), q(7), gtid(OLD, 14), q(8)]), Fate::Absent);
    assert_eq!(fate(&i, &[]), Fate::Absent);
    // What the session was told of before is not what it asks for now.
    assert_eq!(fate(&i, &[gtid(OLD, 12), q(THREAD), gtid(OLD, 13), q(8)]), Fate::Absent);
    // Nor what another session was told of that used the connection before, or might have been.
    let pooled = Inquiry { own: None, committed: [(source(0, OLD), 13)].into(), ..inquiry(None) };
    let both = [gtid(OLD, 12), q(THREAD), gtid(OLD, 13), q(THREAD), gtid(OLD, 14), q(8)];
    assert_eq!(fate(&pooled, &both), Fate::Absent);
    assert!(is_there(&fate(&pooled, &[&both[..], &[gtid(OLD, 15), q(THREAD)]].concat())));
    let told = Inquiry { own: None, ..inquiry(None) };
    assert_eq!(fate(&told, &[gtid(OLD, 20), q(THREAD)]), Fate::Absent);
    // A replica writes this by itself.
    let commit = query_event(OLD, THREAD, b"COMMIT");
    assert_eq!(fate(&told, &[gtid(OLD, 21), commit]), Fate::Absent);
    // The new primary's connections have ids of their own.
    let new = |sequence| [gtid(2, sequence), query_event(2, THREAD, b"INSERT")];
    assert_eq!(fate(&i, &new(13)), Fate::Absent);
}

#[test]
fn what_another_server_numbered_alike_is_none_of_it() {
    let set = |uuid: &str| {
        let text = format!("{uuid}-e908-11f1-ac1d-82b6900b5177:7");
        Position::parse(Flavour::MySql, text.as_bytes()).unwrap()
    };
    let (before, after) = (set("76457484"), set("763ad785"));
    let told: Told = commits(&before).collect();
    let inquiry = Inquiry { before: None, own: None, ..inquiry(None) };
    let search = Search::new(&inquiry, Flavour::MySql, &told);
    let present = |position: &Position| {
        let Position::MySql(set) = position else { panic!("MySQL's") };
        let uuid = set.sources().next().unwrap().0.uuid;
        search.begin(&pointsman_wire::binlog::Gtid::MySql { uuid, number: 7 }).told
    };
    assert_eq!((present(&before), present(&after)), (true, false));
}

/// Asks a real replica about connections of a real primary.
fn ask(flavour: pointsman_sandbox::Flavour, more: &str) {
    use pointsman_sandbox::{MONITOR_PASSWORD, MONITOR_USER, Options, Sandbox};
    let args = if more.is_empty() { vec![] } else { vec![more.to_owned()] };
    let options = Options { flavour, extra_args: args, ..Options::default() };
    let sandbox = Sandbox::start(options).unwrap();
    let (primary, replica) = (sandbox.primary(), &sandbox.replicas()[0]);
    let kind = match flavour {
        pointsman_sandbox::Flavour::MariaDb => Flavour::MariaDb,
        _ => Flavour::MySql,
    };
    let position = || Position::parse(kind, primary.position().unwrap().as_bytes()).unwrap();
    let run = |sql: &str| -> u32 {
        let said = primary.client_sql(&format!("SELECT CONNECTION_ID(); USE app; {sql}"));
        said.unwrap().lines().next().unwrap().parse().unwrap()
    };
    run("CREATE TABLE t (id INT); CREATE TABLE k (a TEXT, k INT AUTO_INCREMENT PRIMARY KEY) \
         AUTO_INCREMENT = 70");
    let before = position();
    let first = run("INSERT INTO t VALUES (1)");
    let own = position();
    let second = run("BEGIN; INSERT INTO t VALUES (2); INSERT INTO t VALUES (3); COMMIT");
    let mut others: Vec<_> = commits(&position()).collect();
    let mut marks = Marks::default();
    let marked =
        |marks: &mut Marks| String::from_utf8(marks.next().unwrap().text().into()).unwrap();
    let earlier = marked(&mut marks);
    run(&format!("{earlier}INSERT INTO k (a) VALUES ('x')"));
    others.extend(commits(&position()));
    marks.begin();
    let last = marked(&mut marks);
    let keyed = run(&format!("{last}INSERT INTO k (a) VALUES ('x'), ('y')"));
    others.extend(commits(&position()));
    let idle = run("SELECT 1");
    sandbox.wait_caught_up().unwrap();
    let rows = kind == Flavour::MySql || more.contains("ROW");
    let monitor = Monitor {
        user: MONITOR_USER.to_owned(),
        password: pointsman_config::Secret::new(MONITOR_PASSWORD),
        interval: Monitor::INTERVAL,
        timeout: Monitor::TIMEOUT,
        accounts_interval: Monitor::ACCOUNTS_INTERVAL,
    };
    let server = Server {
        id: ServerId(1),
        name: "db2".into(),
        address: replica.address().to_string().into(),
        role: pointsman_cluster::Role::Primary,
        admin: Default::default(),
        lag: None,
        takes_reads: false,
        why: "".into(),
        weight: 1,
        kept_out: false,
        disk_full: false,
        server_id: replica.server_id(),
        logs_rows: rows,
        version: "".into(),
        source: None,
        read_only: None,
        state: None,
        live: Default::default(),
    };
    let ask = |inquiry: &Inquiry, told: &Told| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let log = read_log(&server, None, &monitor, PATIENCE, inquiry, &before, told);
        runtime.block_on(log).unwrap()
    };
    let inquiry = |thread: u32, own: Option<Position>, text: &str| Inquiry {
        server: ServerId(0),
        server_id: primary.server_id(),
        thread,
        before: Some(before.clone()),
        own,
        committed: SmallVec::new(),
        marks: Marks::default(),
        texts: Some(vec![text.into()]),
    };
    let fate = |thread: u32, own: Option<Position>, text: &str, told: &Told| {
        ask(&inquiry(thread, own, text), told)
    };
    let mut told: Told = commits(&own).collect();
    let all: Told = told.iter().copied().chain(others).collect();
    let is_found = |fate: &Fate| if rows { *fate == DOUBT } else { is_there(fate) };
    let none = Told::default();
    assert!(is_found(&fate(first, None, "INSERT INTO t VALUES (1)", &none)));
    assert!(is_found(&fate(second, None, "INSERT INTO t VALUES (3)", &told)));
    let mut keyed = inquiry(keyed, None, "INSERT INTO k (a) VALUES ('x'), ('y')");
    keyed.marks = marks;
    if kind == Flavour::MariaDb || !more.is_empty() {
        let Fate::Committed(done) = ask(&keyed, &none) else { panic!("{:?}", ask(&keyed, &none)) };
        assert!(done.is_clear() && done.whole, "{done:?}");
        if rows {
            assert_eq!(
                (done.statements, done.inserted, done.first[1]),
                (0, 2, Some(71)),
                "{done:?}"
            );
            let target = done.target().unwrap();
            assert_eq!((target.schema, target.name), (&b"app"[..], &b"k"[..]));
        } else {
            assert_eq!((done.statements, done.inserted, done.insert_id), (1, 0, Some(71)));
        }
        // Another connection's marks, however alike the words are.
        keyed.marks = Marks::default();
        keyed.marks.next();
        keyed.thread = idle;
        assert_eq!(ask(&keyed, &none), Fate::Absent);
        marks.begin();
        marks.next();
        keyed.marks = marks;
        assert_eq!(ask(&keyed, &none), Fate::Absent, "all of its marks are older");
    }
    told.clear();
    let noted = kind == Flavour::MariaDb || !more.is_empty();
    let absent = if noted { &none } else { &all };
    assert_eq!(fate(idle, None, "INSERT INTO t VALUES (4)", absent), Fate::Absent);
    assert_eq!(fate(idle, None, "INSERT INTO t VALUES (1)", &all), Fate::Absent);
    let own = Some(own);
    assert_eq!(fate(first, own, "INSERT INTO t VALUES (1)", absent), Fate::Absent);
}

#[test]
fn mariadb_tells() {
    ask(pointsman_sandbox::Flavour::MariaDb, "");
    ask(pointsman_sandbox::Flavour::MariaDb, "--binlog-format=ROW");
}

#[test]
fn mysql_tells() {
    if pointsman_sandbox::Flavour::MySql.check().is_ok() {
        ask(pointsman_sandbox::Flavour::MySql, "");
        ask(pointsman_sandbox::Flavour::MySql, "--binlog-rows-query-log-events=ON");
    }
}

#[test]
fn texts_are_compared_as_servers_log_them() {
    let same = |sent: &str, logged: &str| is_same_text(sent.as_bytes(), logged.as_bytes());
    assert!(same("INSERT INTO t VALUES (1) ; ", "INSERT INTO t VALUES (1)"));
    assert!(same(" ;\tINSERT INTO t VALUES (1)\0", "INSERT INTO t VALUES (1)"));
    assert!(same("INSERT INTO t VALUES (1); -- why", "INSERT INTO t VALUES (1)"));
    assert!(!same("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (10)"));
    assert!(!same("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"));
    for (text, as_sent) in [
        ("INSERT INTO t VALUES (1) /* why */", true),
        ("INSERT /*!99999 IGNORE */ INTO t VALUES (1)", false),
        ("INSERT INTO t VALUES (1) /*!", false),
        ("INSERT /*M!100000 IGNORE */ INTO t VALUES (1)", false),
        ("load data infile 'x' into table t", false),
    ] {
        assert_eq!(is_logged_as_sent(text.as_bytes()), as_sent, "{text}");
    }
}

#[test]
fn rows_are_told_apart_by_the_statements_noted_with_them() {
    let ours = inquiry(Some(&["INSERT INTO t VALUES (1);"]));
    let other = [gtid(OLD, 13), annotate("INSERT INTO t VALUES (2)"), rows()];
    let same = [gtid(OLD, 13), annotate("INSERT INTO t VALUES (1)"), rows()];
    assert_eq!(fate(&ours, &other), Fate::Absent);
    // It may be another's as well.
    assert_eq!(fate(&ours, &same), DOUBT);
    assert_eq!(fate(&inquiry(None), &other), DOUBT);
    assert_eq!(fate(&ours, &[gtid(OLD, 13), rows()]), DOUBT, "nothing noted");
    assert_eq!(fate(&ours, &[gtid(OLD, 12), rows()]), Fate::Absent, "the session's last");
    assert_eq!(fate(&ours, &[gtid(OLD, 20), rows()]), Fate::Absent, "another session's");
}
