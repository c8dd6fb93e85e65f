//! A connection to one server, and the questions the monitor asks over it.

mod group;
mod space;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error as SqlError, IoError, Opts, OptsBuilder, Row, Value};
use pointsman_config::Secret;
use pointsman_config::tls::ServerTls;
use tokio::sync::oneshot;

use crate::gtid::{Flavour, Position};
use crate::member::Kind;
use crate::probe::{Channel, Error, IoThread, Look, Report, has_gtids};
use tls::Ways;

/// A server that takes nothing more is not waited for when a connection to it is given up.
const FAREWELL: Duration = Duration::from_secs(1);

/// How to reach and log in to a server.
pub(crate) struct Target {
    plain: Opts,
    /// Replaced when certificates are read anew.
    ways: ArcSwap<Ways>,
}

impl Target {
    /// `address` is `host:port`; the host is looked up anew for each connection.
    pub(crate) fn new(address: &str, user: &str, password: &Secret) -> Self {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "3306"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let opts = OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(port.parse().unwrap_or(3306))
            .user(Some(user))
            .pass(Some(password.expose()))
            // These two spare a question after each login.
            .max_allowed_packet(Some(64 << 20))
            .wait_timeout(Some(8 * 3600))
            .prefer_socket(false)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .stmt_cache_size(0);
        let plain = Opts::from(opts);
        let ways = Ways::new(plain.clone(), &ServerTls::default());
        Self { plain, ways: ArcSwap::from_pointee(ways) }
    }

    /// New connections use TLS as `tls` says; its files are read again.
    pub(crate) fn set_tls(&self, tls: &ServerTls) {
        self.ways.store(Arc::new(Ways::new(self.plain.clone(), tls)));
    }

    pub(crate) async fn connect(&self) -> Result<Link, SqlError> {
        let ways = self.ways.load_full();
        let mut conn = ways.connect().await?;
        let about = group::ask(&mut conn).await?;
        let flavour = if about.mariadb { Flavour::MariaDb } else { Flavour::MySql };
        let old_words = flavour == Flavour::MySql && conn.server_version() < (8, 0, 22);
        Ok(Link {
            conn: Some(conn),
            flavour,
            old_words,
            collation: None,
            group: about.group,
            waits: false,
            space: space::Space::default(),
        })
    }
}

/// A live connection.
pub(crate) struct Link {
    /// There until it is dropped.
    conn: Option<Conn>,
    flavour: Flavour,
    /// MySQL before 8.0.22 knows slaves, not replicas.
    old_words: bool,
    /// Name of the default collation, and its id.
    collation: Option<(String, u16)>,
    /// The cluster that elects for itself which it is, or could be, a member of.
    group: Option<Kind>,
    /// Its reads wait until the server has applied all that its Galera cluster has ordered.
    waits: bool,
    space: space::Space,
}

/// The server is told, lest it logs an aborted connection each time. (`mysql_async` means to, but has
/// marked the connection as closed by the time it would.)
impl Drop for Link {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(FAREWELL, conn.disconnect()));
        }
    }
}

impl Link {
    fn conn(&mut self) -> Result<&mut Conn, SqlError> {
        self.conn.as_mut().ok_or_else(|| odd("closed"))
    }

    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    pub(crate) fn is_galera(&self) -> bool {
        self.group == Some(Kind::Galera)
    }

    /// One look; the connection comes back with it. `connection` is for [`Report::connection`].
    ///
    /// Replication status is the second half, asked for by itself: a server whose disk is full does
    /// not answer that, nor do some that wait for a `STOP SLAVE`. (In one multi-statement it would
    /// keep back the first half as well.) The first half is sent to `early` as soon as it is there,
    /// with no channels. Without `early` only that half is asked for.
    pub(crate) async fn look(
        mut self,
        connection: u64,
        early: Option<oneshot::Sender<Report>>,
    ) -> Result<(Self, Report), SqlError> {
        let sql = match self.flavour {
            Flavour::MariaDb => {
                "SELECT @@global.server_id AS id, @@global.read_only AS ro, @@version AS version, \
                 @@global.gtid_binlog_pos AS committed, @@global.gtid_slave_pos AS applied, \
                 @@global.gtid_binlog_state AS state, @@global.autocommit AS autocommit, \
                 @@global.collation_server AS collation, @@global.binlog_format AS format"
            }
            Flavour::MySql => {
                "SELECT @@global.server_id AS id, @@global.read_only AS ro, @@version AS version, \
                 @@global.gtid_executed AS committed, @@global.gtid_executed AS applied, \
                 @@global.autocommit AS autocommit, @@global.collation_server AS collation, \
                 @@global.gtid_mode AS gtid_mode"
            }
        };
        let flavour = self.flavour;
        let known = self.collation.clone();
        let row: Row = self.conn()?.query_first(sql).await?.ok_or_else(|| odd("no row"))?;
        let row = Fields(&row);
        let on = |name: &str| row.text(&[name]).is_none_or(|v| !matches!(v.as_str(), "0" | "OFF"));
        let collation = row.text(&["collation"]).unwrap_or_default();
        let mut report = Report {
            flavour,
            server_id: row.number(&["id"]).unwrap_or(0),
            read_only: on("ro"),
            disk_full: false,
            version: Arc::from(row.text(&["version"]).unwrap_or_default()),
            collation: known.as_ref().map_or(0, |(_, id)| *id),
            autocommit: on("autocommit"),
            logs_rows: row.text(&["format"]).is_none_or(|format| format == "ROW"),
            gtid_mode: Arc::from(row.text(&["gtid_mode"]).unwrap_or_default()),
            committed: position(flavour, &row, "committed")?,
            state: Arc::from(row.text(&["state"]).unwrap_or_default()),
            applied: position(flavour, &row, "applied")?,
            channels: Vec::new(),
            membership: None,
            connection,
        };
        if let Some(kind) = self.group {
            self.learn_membership(kind, &mut report).await?;
        }
        if known.is_none_or(|(name, _)| name != collation) {
            report.collation = self.learn_collation(collation).await?;
        }
        report.disk_full = self.waits_for_space(&report).await?;
        if let Some(early) = early {
            // Nobody may be listening any more; then the outcome is not wanted either.
            let _ = early.send(report.clone());
            let sql = match (flavour, self.old_words) {
                (Flavour::MariaDb, _) => "SHOW ALL SLAVES STATUS",
                (Flavour::MySql, false) => "SHOW REPLICA STATUS",
                (Flavour::MySql, true) => "SHOW SLAVE STATUS",
            };
            let rows: Vec<Row> = self.conn()?.query(sql).await?;
            let channels = rows.iter().map(|row| channel(flavour, &Fields(row)));
            // A group's own channels are its business.
            report.channels =
                channels.filter(|c| !c.name.starts_with("group_replication_")).collect();
        }
        Ok((self, report))
    }

    async fn learn_collation(&mut self, name: String) -> Result<u16, SqlError> {
        // Some collations of newer MariaDB have no id of their own outside a character set.
        let id: Option<Option<u16>> = self
            .conn()?
            .exec_first(
                "SELECT ID FROM information_schema.COLLATIONS WHERE COLLATION_NAME = ?",
                (&name,),
            )
            .await?;
        let id = id.flatten().unwrap_or(0);
        self.collation = Some((name, id));
        Ok(id)
    }

    /// Waits until the server has applied `wanted`, but no longer than `wait`; returns a position
    /// it has applied.
    pub(crate) async fn wait_applied(
        &mut self,
        wanted: &Position,
        wait: Duration,
    ) -> Result<Position, SqlError> {
        let seconds = wait.as_secs_f64();
        let sql = match self.flavour {
            Flavour::MariaDb => format!(
                "SELECT MASTER_GTID_WAIT('{wanted}', {seconds}) AS waited, \
                 @@global.gtid_slave_pos AS applied"
            ),
            Flavour::MySql => format!(
                "SELECT WAIT_FOR_EXECUTED_GTID_SET('{wanted}', {seconds}) AS waited, \
                 @@global.gtid_executed AS applied"
            ),
        };
        let row: Row = self.conn()?.query_first(sql).await?.ok_or_else(|| odd("no row"))?;
        let row = Fields(&row);
        let mut applied = position(self.flavour, &row, "applied")?;
        // The variable may have been read before the wait; either way it was true then.
        if row.text(&["waited"]).as_deref() == Some("0") {
            applied.merge(wanted);
        }
        Ok(applied)
    }

    /// What the server has committed and others can replicate, and whether that is all: its `gtid_mode`
    /// may have it commit what no position tells.
    pub(crate) async fn committed(&mut self) -> Result<(Position, bool), SqlError> {
        let sql = match self.flavour {
            Flavour::MariaDb => "SELECT @@global.gtid_binlog_pos AS committed",
            Flavour::MySql => {
                "SELECT @@global.gtid_executed AS committed, @@global.gtid_mode AS gtid_mode"
            }
        };
        let row: Row = self.conn()?.query_first(sql).await?.ok_or_else(|| odd("no row"))?;
        let row = Fields(&row);
        let all = has_gtids(&row.text(&["gtid_mode"]).unwrap_or_default());
        Ok((position(self.flavour, &row, "committed")?, all))
    }

    /// Runs `sql`, of which no rows are wanted.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<(), SqlError> {
        self.conn()?.query_drop(sql).await
    }

    /// The same, of a statement that need not be UTF-8.
    pub(crate) async fn run_bytes(&mut self, sql: Vec<u8>) -> Result<(), SqlError> {
        self.conn()?.query_drop(sql).await
    }

    /// Rows of `sql`, each field as bytes.
    pub(crate) async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, SqlError> {
        self.conn()?.query(sql).await
    }
}

fn position(flavour: Flavour, row: &Fields<'_>, name: &str) -> Result<Position, SqlError> {
    let text = row.text(&[name]).unwrap_or_default();
    Position::parse(flavour, text.as_bytes()).map_err(|e| odd(format!("{e}: {text:?}")))
}

/// Why a look brought no answer.
pub(crate) fn failure(error: &SqlError) -> Look {
    match error {
        SqlError::Io(IoError::Io(io)) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            Look::Refused("nobody listens there (connection refused)".to_owned())
        }
        SqlError::Io(IoError::Io(io)) => Look::Failed(io.to_string()),
        SqlError::Server(e) => Look::Failed(format!("error {}: {}", e.code, e.message)),
        other => Look::Failed(other.to_string()),
    }
}

fn odd(what: impl Into<String>) -> SqlError {
    SqlError::Other(format!("unexpected answer: {}", what.into()).into())
}

/// A row whose columns are found by name: they differ between versions.
pub(crate) struct Fields<'a>(pub(crate) &'a Row);

impl Fields<'_> {
    /// The first of `names` that there is; `None` for NULL too.
    pub(crate) fn text(&self, names: &[&str]) -> Option<String> {
        let columns = self.0.columns_ref();
        let i = names.iter().find_map(|name| {
            columns.iter().position(|c| c.name_str().eq_ignore_ascii_case(name))
        })?;
        match self.0.as_ref(i)? {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Value::Int(n) => Some(n.to_string()),
            Value::UInt(n) => Some(n.to_string()),
            other => Some(other.as_sql(true)),
        }
    }

    /// The first column, whatever it is called.
    pub(crate) fn first(&self) -> Option<String> {
        match self.0.as_ref(0)? {
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// As it is: hashes of passwords need not be UTF-8.
    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let i =
            self.0.columns_ref().iter().position(|c| c.name_str().eq_ignore_ascii_case(name))?;
        match self.0.as_ref(i)? {
            Value::Bytes(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// All columns, for telling whether anything has changed.
    pub(crate) fn all(&self) -> Vec<Option<&[u8]>> {
        let value = |i| match self.0.as_ref(i)? {
            Value::Bytes(bytes) => Some(&bytes[..]),
            // Text protocol: there are no others.
            _ => None,
        };
        (0..self.0.len()).map(value).collect()
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, names: &[&str]) -> Option<T> {
        self.text(names)?.trim().parse().ok()
    }
}

fn channel(flavour: Flavour, row: &Fields<'_>) -> Channel {
    let error = |number: &str, text: &str| {
        let code = row.number(&[number]).filter(|&code| code != 0)?;
        Some(Error { code, text: row.text(&[text]).unwrap_or_default() })
    };
    let io = row.text(&["Slave_IO_Running", "Replica_IO_Running"]).unwrap_or_default();
    let sql = row.text(&["Slave_SQL_Running", "Replica_SQL_Running"]).unwrap_or_default();
    let received = row
        .text(&["Gtid_IO_Pos", "Retrieved_Gtid_Set"])
        .and_then(|text| Position::parse(flavour, text.as_bytes()).ok());
    Channel {
        name: row.text(&["Connection_name", "Channel_Name"]).unwrap_or_default(),
        source_host: row.text(&["Master_Host", "Source_Host"]).unwrap_or_default(),
        source_port: row.number(&["Master_Port", "Source_Port"]).unwrap_or(3306),
        source_server_id: row.number(&["Master_Server_Id", "Source_Server_Id"]).unwrap_or(0),
        io: match io.as_str() {
            "Yes" => IoThread::Running,
            "No" => IoThread::Stopped,
            // "Connecting"; MariaDB says "Preparing" for a moment.
            _ => IoThread::Connecting,
        },
        sql_running: sql == "Yes",
        io_error: error("Last_IO_Errno", "Last_IO_Error"),
        sql_error: error("Last_SQL_Errno", "Last_SQL_Error"),
        auto_position: row.text(&["Auto_Position"]).is_none_or(|on| on == "1"),
        seconds_behind: row.number(&["Seconds_Behind_Master", "Seconds_Behind_Source"]),
        received,
    }
}
