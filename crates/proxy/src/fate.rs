//! Whether a commit that was in flight when its server died has taken place.
//!
//! The next primary knows: what it has inherited stands in its binary log. What is not there is lost
//! with the old primary, which is kept from coming back with it. So: read what it inherited since
//! shortly before the statement was sent.
//!
//! Whose a transaction is: a logged statement names its connection. Rows do not (a replica logs
//! MySQL's `BEGIN` with any connection's id), but one that a session of this proxy was told of is not
//! what another waits for, and MariaDB notes the statement that changed them, as MySQL does with
//! `binlog_rows_query_log_events`. What is left in doubt is reported as that.

use std::collections::HashSet;
use std::time::Duration;

use pointsman_cluster::gtid::{Flavour, Position};
use pointsman_cluster::{Server, ServerId, Succession};
use pointsman_config::proxy::Monitor;
use pointsman_wire::binlog::{self, Event, Gtid, dump, dump_beside};
use pointsman_wire::{Capabilities, HEADER, Header, Malformed, write_packet};
use tokio::time::timeout;

use crate::backend::{Backend, Login};
use crate::buffers::Buffer;
use crate::credentials::Credentials;
use crate::tls::ToServer;
use crate::worker::Worker;

/// What is known of a commit in flight.
#[derive(Debug, Clone)]
pub struct Inquiry {
    pub server: ServerId,
    /// The server's `@@server_id`.
    pub server_id: u32,
    /// Its id of the connection.
    pub thread: u32,
    /// Committed before the statement was sent, by whomever. `None`: that is not known.
    pub before: Option<Position>,
    /// Committed by this session before: not what is asked for.
    pub own: Option<Position>,
    /// Texts that it may have been logged with; `None` if they are not known.
    pub texts: Option<Vec<Vec<u8>>>,
}

/// A commit: where it comes from (MariaDB: domain and server id, MySQL: the server's UUID), and its
/// number there. In MySQL every server counts by itself, so that numbers alone recur.
pub type Commit = (u128, u64);

/// Commits that sessions of this proxy were told of.
pub type Told = HashSet<Commit>;

/// Whether it took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Committed,
    /// Nobody has it, and nobody will.
    Absent,
    /// It can't be told, because.
    Unknown(&'static str),
}

/// Reads transactions, one event after the other, until one of them must be the one.
struct Search<'a> {
    inquiry: &'a Inquiry,
    flavour: Flavour,
    told: &'a Told,
    /// Events end with a checksum.
    checksums: bool,
    present: Option<Present>,
    /// One might be it, and nothing tells.
    doubtful: bool,
}

/// The transaction being read.
#[derive(Default)]
struct Present {
    /// Some session of this proxy was told of it.
    told: bool,
    /// This one.
    own: bool,
    tagged: bool,
    /// Connections are named in it.
    threads: bool,
    /// Statements are noted in it.
    noted: bool,
    may_be: bool,
}

impl<'a> Search<'a> {
    fn new(inquiry: &'a Inquiry, flavour: Flavour, told: &'a Told) -> Self {
        Self { inquiry, flavour, told, checksums: false, present: None, doubtful: false }
    }

    /// True: this is it.
    fn bytes(&mut self, event: &[u8]) -> Result<bool, Malformed> {
        if let Some(checksums) = binlog::checksums(event) {
            self.checksums = checksums;
        }
        let end = event.len().saturating_sub(if self.checksums { 4 } else { 0 });
        let (server_id, event) = Event::parse(&event[..end])?;
        Ok(self.event(server_id, &event))
    }

    fn event(&mut self, server_id: u32, event: &Event<'_>) -> bool {
        if let Event::Gtid(gtid) = event {
            self.finish();
            if server_id == self.inquiry.server_id {
                self.present = Some(self.begin(gtid));
            }
            return false;
        }
        let Some(present) = &mut self.present else { return false };
        match event {
            Event::Query { text: b"BEGIN", .. } => {}
            Event::Query { thread, .. } => {
                present.threads = true;
                let ours = *thread == self.inquiry.thread && !present.own;
                // Without its number one can't tell it from an earlier one of the same session.
                self.doubtful |= ours && present.tagged;
                return ours && !present.tagged;
            }
            Event::Annotate { text } => {
                present.noted = true;
                present.may_be |= match &self.inquiry.texts {
                    None => true,
                    Some(texts) => texts.iter().any(|t| is_same_text(t, text)),
                };
            }
            Event::Rows => present.may_be |= !present.noted,
            Event::Gtid(_) | Event::Other => {}
        }
        false
    }

    /// The transaction is over.
    fn finish(&mut self) {
        if let Some(present) = self.present.take() {
            let others = present.threads || present.told || present.own;
            self.doubtful |= !others && present.may_be;
        }
    }

    fn end(mut self) -> Fate {
        self.finish();
        match self.doubtful {
            true => Fate::Unknown("the next primary has a transaction that may be it"),
            false => Fate::Absent,
        }
    }

    fn begin(&self, gtid: &Gtid) -> Present {
        let (text, commit) = match gtid {
            Gtid::MariaDb { domain, sequence } => {
                let server_id = self.inquiry.server_id;
                let text = format!("{domain}-{server_id}-{sequence}");
                (text, (source(*domain, server_id), *sequence))
            }
            Gtid::MySql { uuid, number } => {
                let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
                let (a, b, c, d, e) =
                    (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
                let source = u128::from_be_bytes(*uuid);
                (format!("{a}-{b}-{c}-{d}-{e}:{number}"), (source, *number))
            }
            Gtid::Tagged => return Present { tagged: true, ..Present::default() },
        };
        let position = Position::parse(self.flavour, text.as_bytes());
        let own = self.inquiry.own.as_ref();
        Present {
            own: position.is_ok_and(|p| own.is_some_and(|own| own.covers(&p))),
            told: self.told.contains(&commit),
            ..Present::default()
        }
    }
}

/// MariaDB's.
fn source(domain: u32, server_id: u32) -> u128 {
    u128::from(domain) << 32 | u128::from(server_id)
}

/// The newest commit of each domain or source in a position.
pub fn commits(position: &Position) -> impl Iterator<Item = Commit> + '_ {
    let (mariadb, mysql) = match position {
        Position::MariaDb(position) => (Some(position), None),
        Position::MySql(set) => (None, Some(set)),
        Position::Number(_) => (None, None),
    };
    let of_domains = mariadb.into_iter().flat_map(|p| &p.domains);
    let of_domains = of_domains.map(|g| (source(g.domain, g.server), g.sequence));
    let of_servers = mysql.into_iter().flat_map(|set| set.sources()).flat_map(|(source, all)| {
        all.iter().map(|(_, last)| (u128::from_be_bytes(source.uuid), *last))
    });
    of_domains.chain(of_servers)
}

/// Whether a server may have logged `sent` as `logged`: it leaves out what ends a statement, and with a
/// semicolon the comment behind it.
fn is_same_text(sent: &[u8], logged: &[u8]) -> bool {
    fn bare(text: &[u8]) -> &[u8] {
        let outside = |b: &u8| b" ;\n\r\t\0\x0b\x0c".contains(b);
        let end = text.iter().rposition(|b| !outside(b)).map_or(0, |i| i + 1);
        let begin = text[..end].iter().position(|b| !outside(b)).unwrap_or(end);
        &text[begin..end]
    }
    bare(sent).starts_with(bare(logged))
}

/// Whether servers log this statement with the text that it was sent with: they write into comments
/// that are code, and `LOAD DATA` is logged in words of their own.
pub fn is_logged_as_sent(text: &[u8]) -> bool {
    let code = |at: &[u8]| matches!(at, [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!']);
    let mut words = text.split(|b| !b.is_ascii_alphanumeric() && *b != b'_');
    !words.any(|word| word.eq_ignore_ascii_case(b"LOAD"))
        && !text.windows(4).any(code)
        && !text.ends_with(b"/*!")
}

/// Most that is read of a binary log, in bytes, and how long that may take.
const MOST: usize = 256 << 20;
const PATIENCE: Duration = Duration::from_secs(3);

impl Worker {
    /// Finds out. `succession`: of the primary that is asked.
    pub async fn fate(&self, inquiry: &Inquiry, succession: &Succession) -> Fate {
        let Some(inherited) = &succession.inherited else {
            return Fate::Unknown("somebody else made the next primary one");
        };
        let Some(before) = &inquiry.before else {
            return Fate::Unknown("where the server stood before it is not known");
        };
        if !inherited.covers(before) {
            // Even what was committed before it was lost with the old primary, and transactions of
            // a domain are handed on in their order. MySQL's may have gaps.
            return match before {
                Position::MariaDb(position) if position.domains.len() == 1 => Fate::Absent,
                _ => Fate::Unknown("the next primary lacks what was committed before it"),
            };
        }
        let Some(server) = self.snapshot(|s| s.server(succession.new).cloned()) else {
            return Fate::Unknown("the next primary is gone");
        };
        let config = &self.shared.config;
        let within = config.limits.connect_timeout;
        let told = self.shared.told().await;
        let tls = self.shared.tls_to(server.id);
        let log =
            read_log(&server, tls.as_deref(), &config.monitor, within, inquiry, before, &told);
        match timeout(PATIENCE, log).await {
            Ok(Ok(fate)) => fate,
            Ok(Err(error)) => {
                let name = &*server.name;
                tracing::warn!(
                    server = name,
                    error,
                    "can't find out what became of a commit in flight; the monitor's user needs \
                     REPLICATION SLAVE"
                );
                Fate::Unknown("the next primary's binary log could not be read")
            }
            Err(_) => Fate::Unknown("the next primary's binary log could not be read in time"),
        }
    }
}

/// Reads the log of `server` from `before` on.
async fn read_log(
    server: &Server,
    tls: Option<&ToServer>,
    monitor: &Monitor,
    within: Duration,
    inquiry: &Inquiry,
    before: &Position,
    told: &Told,
) -> Result<Fate, String> {
    let login = Login {
        credentials: Credentials::from_password(
            monitor.user.as_bytes(),
            monitor.password.expose().as_bytes(),
        ),
        caps: Capabilities::OFFERED - Capabilities::CONNECT_ATTRS,
        collation: 45,
        database: None,
        attributes: None,
        origin: None,
        compression: None,
    };
    let connected = Backend::connect(server, tls, &login, within).await;
    let mut backend = connected.map_err(|e| format!("{e:?}"))?;
    // Unlike any server's, so that no replica is taken for us.
    let id = rand::random::<u32>() | 1 << 31;
    let (commands, request) = match before {
        Position::MariaDb(_) => (
            vec![
                "SET @master_binlog_checksum='NONE', @mariadb_slave_capability=4, \
                     @slave_gtid_strict_mode=0, @slave_gtid_ignore_duplicates=0"
                    .to_owned(),
                format!("SET @slave_connect_state='{before}'"),
            ],
            dump(id),
        ),
        Position::Number(_) => return Ok(Fate::Unknown("a Galera cluster does not tell")),
        Position::MySql(set) => {
            if set.sources().any(|(source, _)| !source.tag.is_empty()) {
                return Ok(Fate::Unknown("it has tagged GTIDs"));
            }
            let had: Vec<_> = set.sources().map(|(s, intervals)| (s.uuid, intervals)).collect();
            (
                vec![
                    "SET @master_binlog_checksum='NONE', @source_binlog_checksum='NONE'".to_owned(),
                ],
                dump_beside(id, had.into_iter()),
            )
        }
    };
    if !logs_everything(&mut backend).await? {
        return Ok(Fate::Unknown("the next primary does not log all that it replicates"));
    }
    for command in commands {
        let payload = [b"\x03", command.as_bytes()].concat();
        match backend.command(&payload).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(String::from_utf8_lossy(&error).into_owned()),
            Err(broken) => return Err(broken.to_string()),
        }
    }
    backend.in_step = false;
    let mut packet = Vec::new();
    write_packet(&mut packet, 0, &request);
    backend.socket.write_all(&packet).await.map_err(|e| e.to_string())?;
    let mut search = Search::new(inquiry, before.flavour(), told);
    let mut buf = Buffer::borrow();
    let mut read = 0;
    loop {
        // Longer ones hold rows, and say nothing more than their first part does.
        let (len, whole) = next_packet(&mut backend, &mut buf).await?;
        read += len;
        if read > MOST {
            return Ok(Fate::Unknown("there is too much to read since then"));
        }
        let payload = &buf.filled()[HEADER..HEADER + len];
        match payload.first() {
            Some(0) => {
                if search.bytes(&payload[1..]).map_err(|e| e.to_string())? {
                    return Ok(Fate::Committed);
                }
            }
            Some(0xfe) if len < 9 => return Ok(search.end()),
            Some(0xff) => return Err(String::from_utf8_lossy(&payload[1..]).into_owned()),
            _ => return Err("an unexpected packet".to_owned()),
        }
        buf.consume(HEADER + len);
        if !whole {
            skip_rest(&mut backend, &mut buf, &mut read).await?;
        }
    }
}

/// Whether what is not in its binary log was not done there: it logs what it replicates, of every
/// schema.
async fn logs_everything(backend: &mut Backend) -> Result<bool, String> {
    let ask: [&[u8]; 2] = if backend.mariadb {
        [b"\x03SELECT @@log_bin AND @@log_slave_updates", b"\x03SHOW MASTER STATUS"]
    } else {
        [b"\x03SELECT @@log_bin AND @@log_replica_updates", b"\x03SHOW BINARY LOG STATUS"]
    };
    let on = backend.row(ask[0]).await.map_err(|broken| broken.to_string())?;
    let status = backend.row(ask[1]).await.map_err(|broken| broken.to_string())?;
    // File, position, schemas that are logged, schemas that are not.
    let filters = status.get(2..4).ok_or("the status of the binary log has no filters in it")?;
    let no_filters = filters.iter().all(|f| f.as_ref().is_none_or(Vec::is_empty));
    Ok(on.first().is_some_and(|on| on.as_deref() == Some(b"1")) && no_filters)
}

/// Reads until a packet is whole; gives its length, and whether it was the last of its payload.
async fn next_packet(backend: &mut Backend, buf: &mut Buffer) -> Result<(usize, bool), String> {
    loop {
        if let Some(header) = Header::parse(buf.filled()) {
            buf.reserve(HEADER + header.len);
            if buf.filled().len() >= HEADER + header.len {
                return Ok((header.len, header.len < pointsman_wire::MAX_PAYLOAD));
            }
        }
        match backend.socket.read(buf).await {
            Ok(0) => return Err("the server closed the connection".to_owned()),
            Ok(_) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}

async fn skip_rest(
    backend: &mut Backend,
    buf: &mut Buffer,
    read: &mut usize,
) -> Result<(), String> {
    loop {
        let (len, whole) = next_packet(backend, buf).await?;
        buf.consume(HEADER + len);
        *read += len;
        if whole {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use pointsman_wire::binlog::{event, query_event};

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
            if search.bytes(bytes).unwrap() {
                return Fate::Committed;
            }
        }
        search.end()
    }

    #[test]
    fn a_statement_with_the_connections_id_is_it() {
        let q = |thread| query_event(OLD, thread, b"INSERT");
        let i = inquiry(None);
        assert_eq!(fate(&i, &[gtid(OLD, 13), q(7), gtid(OLD, 14), q(THREAD)]), Fate::Committed);
        assert_eq!(fate(&i, &[gtid(OLD, 13), q(7), gtid(OLD, 14), q(8)]), Fate::Absent);
        assert_eq!(fate(&i, &[]), Fate::Absent);
        // What the session was told of before is not what it asks for now.
        assert_eq!(fate(&i, &[gtid(OLD, 12), q(THREAD), gtid(OLD, 13), q(8)]), Fate::Absent);
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
            search.begin(&Gtid::MySql { uuid, number: 7 }).told
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
        run("CREATE TABLE t (id INT)");
        let before = position();
        let first = run("INSERT INTO t VALUES (1)");
        let own = position();
        let second = run("BEGIN; INSERT INTO t VALUES (2); INSERT INTO t VALUES (3); COMMIT");
        let idle = run("SELECT 1");
        sandbox.wait_caught_up().unwrap();
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
            version: "".into(),
            source: None,
            read_only: None,
            state: None,
            live: Default::default(),
        };
        let fate = |thread: u32, own: Option<Position>, text: &str, told: &Told| {
            let inquiry = Inquiry {
                server: ServerId(0),
                server_id: primary.server_id(),
                thread,
                before: Some(before.clone()),
                own,
                texts: Some(vec![text.into()]),
            };
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let log = read_log(&server, None, &monitor, PATIENCE, &inquiry, &before, told);
            runtime.block_on(log).unwrap()
        };
        let mut told: Told = commits(&own).collect();
        let all = Told::from_iter(told.iter().copied().chain(commits(&position())));
        let rows = kind == Flavour::MySql || more.contains("ROW");
        let found = if rows { DOUBT } else { Fate::Committed };
        let none = Told::default();
        assert_eq!(fate(first, None, "INSERT INTO t VALUES (1)", &none), found);
        assert_eq!(fate(second, None, "INSERT INTO t VALUES (3)", &told), found);
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
}
