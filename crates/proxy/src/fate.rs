//! Whether a commit that was in flight when its server died has taken place.
//!
//! The next primary knows: what it has inherited stands in its binary log. What is not there is lost
//! with the old primary, which is kept from coming back with it. So: read what it inherited since
//! shortly before the statement was sent.
//!
//! Whose a transaction is: a logged statement names its connection. Rows do not (a replica logs
//! MySQL's `BEGIN` with any connection's id), but one that a session of this proxy was told of is not
//! what another waits for, and MariaDB notes the statement that changed them, as MySQL does with
//! `binlog_rows_query_log_events`; so what is sent to a server that logs rows carries a [`Mark`]. What is
//! left in doubt is reported as that.

mod done;
mod mark;
mod search;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::Duration;

use pointsman_cluster::gtid::Position;
use pointsman_cluster::{Server, ServerId, Succession};
use pointsman_config::proxy::Monitor;
use pointsman_wire::binlog::{dump, dump_beside};
use pointsman_wire::{Capabilities, HEADER, Header, write_packet};
use smallvec::SmallVec;
use tokio::time::timeout;

use crate::backend::{Backend, Login};
use crate::buffers::Buffer;
use crate::credentials::Credentials;
use crate::tls::ToServer;
use crate::worker::Worker;
pub use done::Done;
pub use mark::{Mark, Marks};
use search::Search;
pub use search::{commits, is_logged_as_sent};

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
    /// Committed over this connection before, by whichever session; of each source the newest.
    pub committed: SmallVec<[Commit; 1]>,
    /// What the statements carry that have marks.
    pub marks: Marks,
    /// Texts that it may have been logged with; `None` if they are not known.
    pub texts: Option<Vec<Vec<u8>>>,
}

/// A commit: where it comes from (MariaDB: domain and server id, MySQL: the server's UUID), and its
/// number there. In MySQL every server counts by itself, so that numbers alone recur.
pub type Commit = (u128, u64);

/// Commits that sessions of this proxy were told of.
pub type Told = HashSet<Commit>;

/// Whether it took place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Committed(Box<Done>),
    /// Nobody has it, and nobody will.
    Absent,
    /// It can't be told, because.
    Unknown(&'static str),
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
                let found = search.bytes(&payload[1..], whole).map_err(|e| e.to_string())?;
                if let Some(done) = found {
                    return Ok(Fate::Committed(Box::new(done)));
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
