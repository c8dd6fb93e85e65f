//! The statements of each flavour.

use crate::gtid::Flavour;

/// A connection's words for one replication channel.
#[derive(Debug, Clone)]
pub(super) struct Words {
    pub(super) flavour: Flavour,
    /// Of the channel; mostly empty.
    pub(super) channel: String,
}

/// Whom to replicate from.
#[derive(Debug, Clone)]
pub(super) struct Origin<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// User and password; `None` keeps those it has.
    pub(super) account: Option<(&'a str, &'a str)>,
}

/// In MySQL: seconds between the source's heartbeats, seconds since it sent one or a transaction,
/// the transaction that it is about to send, if any, and seconds since it began to.
pub(super) const LAST_HEARD: &str = "SELECT c.HEARTBEAT_INTERVAL AS beat, TIMESTAMPDIFF(MICROSECOND, \
     IF(s.LAST_HEARTBEAT_TIMESTAMP > s.LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP, \
     s.LAST_HEARTBEAT_TIMESTAMP, s.LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP), NOW(6)) \
     / 1e6 AS silent, s.QUEUEING_TRANSACTION AS queueing, TIMESTAMPDIFF(MICROSECOND, \
     s.QUEUEING_TRANSACTION_START_QUEUE_TIMESTAMP, NOW(6)) / 1e6 AS began \
     FROM performance_schema.replication_connection_status s \
     JOIN performance_schema.replication_connection_configuration c USING (CHANNEL_NAME)";

/// In MySQL from 8.0.22 on.
pub(super) const REPLICA_STATUS: &str = "SHOW REPLICA STATUS";

/// A scheduled event under way has its definer's name; so have, but for that, connections that are
/// being made.
const EVENT: &str = "command = 'Connect' AND user <> 'unauthenticated user'";

/// `text` as a literal.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

impl Words {
    fn of(&self) -> String {
        match (self.flavour, self.channel.is_empty()) {
            (_, true) | (Flavour::MySql, false) if self.channel.is_empty() => String::new(),
            (Flavour::MySql, _) => format!(" FOR CHANNEL {}", quote(&self.channel)),
            (Flavour::MariaDb, _) => format!(" {}", quote(&self.channel)),
        }
    }

    fn thread(&self, verb: &str, thread: &str) -> String {
        let of = self.of();
        match self.flavour {
            Flavour::MariaDb => format!("{verb} SLAVE{of}{thread}"),
            Flavour::MySql => format!("{verb} REPLICA{thread}{of}"),
        }
    }

    pub(super) fn stop_fetching(&self) -> String {
        self.thread("STOP", " IO_THREAD")
    }

    pub(super) fn start_fetching(&self) -> String {
        self.thread("START", " IO_THREAD")
    }

    pub(super) fn stop_applying(&self) -> String {
        self.thread("STOP", " SQL_THREAD")
    }

    pub(super) fn start_applying(&self) -> String {
        self.thread("START", " SQL_THREAD")
    }

    pub(super) fn stop(&self) -> String {
        self.thread("STOP", "")
    }

    pub(super) fn start(&self) -> String {
        self.thread("START", "")
    }

    pub(super) fn forget_source(&self) -> String {
        let of = self.of();
        match self.flavour {
            Flavour::MariaDb => format!("RESET SLAVE{of} ALL"),
            Flavour::MySql => format!("RESET REPLICA ALL{of}"),
        }
    }

    pub(super) fn writable(&self) -> &'static str {
        // In MySQL this takes super_read_only with it.
        "SET GLOBAL read_only = 0"
    }

    pub(super) fn read_only(&self) -> &'static str {
        match self.flavour {
            Flavour::MariaDb => "SET GLOBAL read_only = 1",
            Flavour::MySql => "SET GLOBAL super_read_only = 1",
        }
    }

    pub(super) fn follow(&self, origin: &Origin<'_>) -> String {
        let (host, port) = (quote(origin.host), origin.port);
        let of = self.of();
        match self.flavour {
            Flavour::MariaDb => {
                let account = origin.account.map_or_else(String::new, |(user, password)| {
                    let (user, password) = (quote(user), quote(password));
                    format!("MASTER_USER={user}, MASTER_PASSWORD={password}, ")
                });
                format!(
                    "CHANGE MASTER{of} TO MASTER_HOST={host}, MASTER_PORT={port}, {account}\
                     MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1"
                )
            }
            Flavour::MySql => {
                let account = origin.account.map_or_else(String::new, |(user, password)| {
                    let (user, password) = (quote(user), quote(password));
                    format!("SOURCE_USER={user}, SOURCE_PASSWORD={password}, ")
                });
                format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST={host}, SOURCE_PORT={port}, {account}\
                     SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1, \
                     SOURCE_RETRY_COUNT=86400, SOURCE_HEARTBEAT_PERIOD=1{of}"
                )
            }
        }
    }

    /// All that a server has ever had, so that two can be compared.
    pub(super) fn history(&self) -> &'static str {
        match self.flavour {
            Flavour::MariaDb => {
                "SELECT @@global.gtid_binlog_state AS state, @@global.gtid_slave_pos AS pos"
            }
            Flavour::MySql => "SELECT @@global.gtid_executed AS state, '' AS pos",
        }
    }

    /// Connections that have changed something and not committed it.
    pub(super) fn writers(&self) -> &'static str {
        "SELECT trx_mysql_thread_id AS id FROM information_schema.innodb_trx \
         WHERE trx_rows_modified > 0 AND trx_mysql_thread_id > 0 \
         AND trx_mysql_thread_id <> CONNECTION_ID()"
    }

    /// Of [`Words::clients`], those that run a statement.
    pub(super) fn busy(&self, ours: &[&str]) -> String {
        format!("{} AND (command IN ('Query', 'Execute') OR {EVENT})", self.clients(ours))
    }

    /// Of [`Words::clients`], scheduled events that run just now.
    pub(super) fn events(&self, ours: &[&str]) -> String {
        format!("{} AND {EVENT}", self.clients(ours))
    }

    /// Connections of clients: neither ours nor of replicas, nor the server's own threads.
    pub(super) fn clients(&self, ours: &[&str]) -> String {
        let ours: Vec<_> = ours.iter().map(|user| quote(user)).collect();
        format!(
            "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() \
             AND user NOT IN ('system user', 'event_scheduler', {}) \
             AND command NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon', 'Slave_IO', \
             'Slave_SQL', 'Slave_worker')",
            ours.join(", ")
        )
    }
}
