//! What a daemon must offer to be operated.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::table::{Cell, rfc3339};
use crate::{AdminError, Table};

/// A boxed future that may be awaited on another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A running proxy or director, as its operators see it. Called from any thread, off the data path.
pub trait Daemon: Send + Sync + 'static {
    /// The few things to know first.
    fn status(&self) -> Status;

    /// A list of what `view` names.
    ///
    /// Order, limit and `after` of the query are applied to whatever comes back, so they may be
    /// ignored; they are passed for those who can save work with them.
    ///
    /// # Errors
    /// [`AdminError::not_available`] for a view this daemon does not have.
    fn table(&self, view: View, query: &Query) -> Result<Table, AdminError>;

    /// Does `action` and says in one sentence what was done.
    ///
    /// # Errors
    /// Why it was not done.
    fn act(&self, action: Action) -> BoxFuture<'_, Result<String, AdminError>>;

    /// What `GET /metrics` shows.
    fn metrics(&self) -> &prometheus::Registry;

    /// Whether the daemon can do its job now.
    ///
    /// # Errors
    /// Why it can't, in one sentence for `GET /readyz`.
    fn ready(&self) -> Result<(), String>;
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// Database servers, or real servers: [`crate::rows::ServerRow`].
    Servers,
    /// Clients: [`crate::rows::SessionRow`].
    Sessions,
    /// Statements by fingerprint: [`crate::rows::StatementRow`].
    Statements,
    /// What happened: [`Table::events`].
    Events,
    /// The configuration in force, without secrets: [`crate::rows::ConfigRow`].
    Config,
}

/// How a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only rows whose `seq` is higher (events).
    pub after: Option<u64>,
    /// Column to sort by, highest first.
    pub order: Option<String>,
    /// At most this many rows: the first, or of events the newest.
    pub limit: Option<usize>,
}

/// What an operator can have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// No new sessions and reads on this server; what runs may end.
    Drain(String),
    /// Take this server out altogether.
    Maintain(String),
    /// Bring this server back from drain or maintenance.
    Resume(String),
    /// Read the configuration again.
    Reload,
    /// Make another server the primary, in good order.
    Switchover { to: Option<String>, dry_run: bool },
    /// Make another server the primary because the present one is lost.
    Failover { to: Option<String>, force: bool },
    /// Let a former primary follow the new one; `rebuild`: with another server's data instead of its own,
    /// with `force` even if it has not diverged.
    Rejoin { server: String, rebuild: bool, force: bool },
}

/// `GET /api/v1/status`.
#[derive(Debug, Clone)]
pub struct Status {
    /// `proxy` or `director`.
    pub kind: &'static str,
    pub version: String,
    pub started: SystemTime,
    /// As [`Daemon::ready`].
    pub ready: Result<(), String>,
    /// Short sentences, the most important first: `db1 is the primary`, `2 of 3 servers up`.
    pub headlines: Vec<String>,
}

impl Status {
    /// Time since the start; zero if the clock was set back.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed().unwrap_or_default()
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let ready = match &self.ready {
            Ok(()) => "ready".to_owned(),
            Err(why) => format!("NOT READY: {why}"),
        };
        let uptime = Cell::millis(self.uptime()).to_text();
        let mut text = format!("pointsman {} {}, up {uptime}: {ready}\n", self.kind, self.version);
        for line in &self.headlines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

impl Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = s.serialize_struct("Status", 8)?;
        out.serialize_field("kind", self.kind)?;
        out.serialize_field("version", &self.version)?;
        out.serialize_field("pid", &std::process::id())?;
        out.serialize_field("started", &rfc3339(self.started))?;
        out.serialize_field("uptime_seconds", &self.uptime().as_secs_f64())?;
        out.serialize_field("ready", &self.ready.is_ok())?;
        out.serialize_field("not_ready_why", &self.ready.as_ref().err())?;
        out.serialize_field("headlines", &self.headlines)?;
        out.end()
    }
}
