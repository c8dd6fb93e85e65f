//! Does one [`Step`] at a server. Thin: it decides nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::Error as SqlError;
use pointsman_config::proxy::Account;
use pointsman_config::tls::ServerTls;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::sql::{Origin, Words};
use super::{Failure, Outcome, Step};
use crate::gtid::{Flavour, Position};
use crate::link::{Fields, Link, Target};
use crate::monitor::Shared;
use crate::probe::{Channel, IoThread, Report};

/// What all servers' hands share.
pub(super) struct Tools {
    /// Knows how to log in to each server.
    pub(super) shared: Arc<Shared>,
    /// `host`, `port` of each.
    pub(super) addresses: Vec<(String, u16)>,
    /// What servers are changed with.
    pub(super) own: Account,
    /// What a former primary replicates with.
    pub(super) replication: Account,
    /// What a server's data are read and written with.
    pub(super) rebuilding: Account,
    /// How each is reached over TLS.
    pub(super) tls: Vec<ServerTls>,
    /// The operator's own way to rebuild a server; empty: there is none.
    pub(super) rebuild_command: Vec<String>,
    /// Whether scheduled events are enabled at the primary and disabled elsewhere.
    pub(super) handle_events: bool,
    /// Users whose connections are never cut off.
    pub(super) ours: Vec<String>,
}

impl Tools {
    pub(super) fn target(&self, server: usize) -> &Target {
        &self.shared.watched[server].actor
    }

    pub(super) fn ours(&self) -> Vec<&str> {
        self.ours.iter().map(String::as_str).collect()
    }
}

/// A connection to one server, made when needed and kept.
pub(super) struct Hands {
    pub(super) tools: Arc<Tools>,
    pub(super) server: usize,
    pub(super) link: Option<Link>,
}

/// `ER_SERVER_SHUTDOWN`.
const SHUTTING_DOWN: u16 = 1053;
/// Between two questions whether it is so far.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// `innodb_trx` is a copy that is made anew only after it was left alone for 0.1 s.
const TRX_POLL: Duration = Duration::from_millis(110);
/// Until a statement that was sent is seen to run, and how long those that run are waited for before
/// open transactions are looked at.
const ARRIVAL: Duration = Duration::from_millis(4);
const BUSY: Duration = Duration::from_millis(80);
/// How long a statement that waits for others is given before those are cut off.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);
/// How long replication may take to run.
const RUNNING: Duration = Duration::from_secs(4);

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        let text = match &error {
            SqlError::Server(e) => format!("error {}: {}", e.code, e.message),
            other => other.to_string(),
        };
        Self { text, late: false }
    }
}

fn failure(text: impl Into<String>) -> Failure {
    Failure { text: text.into(), late: false }
}

impl Hands {
    /// Does `step`; over a new connection if the one that was kept turns out to be dead.
    pub(super) async fn perform(&mut self, step: &Step) -> Result<Outcome, Failure> {
        let kept = self.link.is_some();
        match self.attempt(step).await {
            Err(Broken::Connection(_)) if kept => {
                self.link = None;
                self.attempt(step).await.map_err(Broken::into_failure)
            }
            outcome => outcome.map_err(Broken::into_failure),
        }
    }

    async fn attempt(&mut self, step: &Step) -> Result<Outcome, Broken> {
        let outcome = self.dispatch(step).await;
        if matches!(outcome, Err(Broken::Connection(_))) {
            self.link = None;
        }
        outcome
    }

    async fn dispatch(&mut self, step: &Step) -> Result<Outcome, Broken> {
        match step {
            Step::Ping { server } => match self.tools.target(*server).connect().await {
                Ok(_) => Ok(Outcome::Done),
                // A refusal is an answer: with all connections taken (1040) it works for those who have
                // one. It would go on doing so, and could not be made read-only.
                Err(SqlError::Server(e)) if e.code != SHUTTING_DOWN => Ok(Outcome::Done),
                Err(error) => Err(error.into()),
            },
            Step::Reach { .. } => self.reach().await,
            Step::Freeze { .. } => self.freeze().await,
            Step::Thaw { .. } => {
                let (words, _) = self.channel().await?;
                self.run(&words.start()).await?;
                Ok(Outcome::Done)
            }
            Step::Settle { wanted, wait, .. } => self.settle(wanted, *wait).await,
            Step::Open { confirmed, .. } => self.open(*confirmed).await,
            Step::Close { wait, .. } => self.close(*wait).await,
            Step::Reopen { .. } => {
                let words = self.words().await?;
                self.run(words.writable()).await?;
                Ok(Outcome::Done)
            }
            Step::Fence { .. } => self.fence().await,
            Step::Rest { .. } => self.rest().await,
            Step::Wake { .. } => self.wake().await,
            Step::Join { to, .. } => self.join(*to).await,
            Step::Prepare { replica, note, .. } => self.prepare(*replica, *note).await,
        }
    }

    pub(super) async fn link(&mut self) -> Result<&mut Link, SqlError> {
        if self.link.is_none() {
            self.link = Some(self.tools.target(self.server).connect().await?);
        }
        self.link.as_mut().ok_or_else(|| SqlError::Other("no connection".into()))
    }

    async fn words(&mut self) -> Result<Words, SqlError> {
        let flavour = self.link().await?.flavour();
        Ok(Words { flavour, channel: String::new() })
    }

    pub(super) async fn run(&mut self, sql: &str) -> Result<(), SqlError> {
        self.link().await?.run(sql).await
    }

    pub(super) async fn report(&mut self) -> Result<Report, SqlError> {
        self.link().await?;
        let link = self.link.take().ok_or_else(|| SqlError::Other("no connection".into()))?;
        let (early, _unused) = oneshot::channel();
        let (link, report) = link.look(0, Some(early)).await?;
        self.link = Some(link);
        Ok(report)
    }

    /// What the server says, and how to speak of its one channel.
    pub(super) async fn channel(&mut self) -> Result<(Words, Report), Broken> {
        let report = self.report().await?;
        if report.channels.len() > 1 {
            return Err(failure(
                "it replicates from several sources, which is for you to sort out",
            )
            .into());
        }
        let channel = report.channels.first().map_or_else(String::new, |c| c.name.clone());
        Ok((Words { flavour: report.flavour, channel }, report))
    }

    async fn freeze(&mut self) -> Result<Outcome, Broken> {
        let (words, report) = self.channel().await?;
        if report.channels.is_empty() {
            return Ok(Outcome::At(report.standing()));
        }
        self.let_apply().await?;
        self.stop_fetching(&words).await?;
        let report = self.report().await?;
        let mut received = report.standing();
        for fetched in report.channels.iter().filter_map(|channel| channel.received.as_ref()) {
            received.merge(fetched);
        }
        Ok(Outcome::At(received))
    }

    async fn settle(&mut self, wanted: &Position, wait: Duration) -> Result<Outcome, Broken> {
        let begun = Instant::now();
        let mut released = false;
        let words = loop {
            let (words, report) = self.channel().await?;
            if report.standing().covers(wanted) {
                break words;
            }
            if !released && !report.channels.is_empty() {
                self.let_apply().await?;
                released = true;
            }
            if let Some(error) = report.channels.iter().find_map(Channel::broken) {
                return Err(failure(format!("error {}: {}", error.code, error.text)).into());
            }
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let text = format!("it is at {}, not yet at {wanted}", report.standing());
                return Err(Failure { text, late: true }.into());
            }
            self.link().await?.wait_applied(wanted, left.min(PATIENCE)).await?;
        };
        let (stop, none) = (words.stop(), self.report().await?.channels.is_empty());
        if !none {
            self.run(&stop).await?;
        }
        Ok(Outcome::At(self.report().await?.standing()))
    }

    async fn open(&mut self, confirmed: bool) -> Result<Outcome, Broken> {
        let (words, report) = self.channel().await?;
        if !report.channels.is_empty() {
            self.run(&words.stop()).await?;
            self.run(&words.forget_source()).await?;
        }
        if confirmed && let Some(roles) = self.semi_sync().await? {
            self.switch(&roles.replica, false).await?;
            self.switch(&roles.source, true).await?;
        }
        self.run(words.writable()).await?;
        Ok(Outcome::Done)
    }

    async fn close(&mut self, wait: Duration) -> Result<Outcome, Broken> {
        let words = self.words().await?;
        let begun = Instant::now();
        // Statements on their way when writes were held back: most are done in no time, and the list of
        // transactions is fresh only once.
        let busy = words.busy(&self.tools.ours());
        sleep(ARRIVAL).await;
        while begun.elapsed() < BUSY && !self.ids(&busy).await?.is_empty() {
            sleep(ARRIVAL).await;
        }
        while !self.ids(words.writers()).await?.is_empty() {
            if begun.elapsed() + TRX_POLL > wait {
                break;
            }
            sleep(TRX_POLL).await;
        }
        self.make_read_only(&words, words.writers()).await?;
        for id in self.ids(words.writers()).await? {
            self.kill(id).await?;
        }
        // One of an administrator's events could write all the same.
        for id in self.ids(&words.events(&self.tools.ours())).await? {
            self.kill(id).await?;
        }
        let report = self.report().await?;
        if !report.has_gtids() {
            let text = "it gives transactions no GTIDs by now, so the next primary could lack some";
            return Err(failure(text).into());
        }
        Ok(Outcome::At(report.standing()))
    }

    async fn fence(&mut self) -> Result<Outcome, Broken> {
        let words = self.words().await?;
        let clients = words.clients(&self.tools.ours());
        self.make_read_only(&words, &clients).await?;
        for id in self.ids(&clients).await? {
            self.kill(id).await?;
        }
        self.rest_or_tell().await;
        Ok(Outcome::Done)
    }

    /// Becoming read-only waits for statements and commits under way; when that takes too long,
    /// `those_in_the_way` are cut off over another connection.
    async fn make_read_only(
        &mut self,
        words: &Words,
        those_in_the_way: &str,
    ) -> Result<(), Broken> {
        let (server, tools) = (self.server, self.tools.clone());
        let statement = self.run(words.read_only());
        tokio::pin!(statement);
        if let Ok(done) = timeout(PATIENCE, &mut statement).await {
            return Ok(done?);
        }
        let mut other = Hands { tools, server, link: None };
        for id in other.ids(those_in_the_way).await? {
            other.kill(id).await?;
        }
        Ok(statement.await?)
    }

    async fn ids(&mut self, sql: &str) -> Result<Vec<u64>, SqlError> {
        let rows = self.link().await?.rows(sql).await?;
        Ok(rows.iter().filter_map(|row| Fields(row).number(&["id"])).collect())
    }

    async fn kill(&mut self, id: u64) -> Result<(), SqlError> {
        match self.run(&format!("KILL CONNECTION {id}")).await {
            // It has gone by itself.
            Err(SqlError::Server(e)) if e.code == 1094 => Ok(()),
            outcome => outcome,
        }
    }

    async fn join(&mut self, to: usize) -> Result<Outcome, Broken> {
        let tools = self.tools.clone();
        let mut source = Hands { tools: tools.clone(), server: to, link: None };
        let (words, report) = self.channel().await?;
        let own = self.history(&words).await?;
        let theirs = source.history(&words).await?;
        if let Some(extra) = own.beyond(&theirs) {
            return Ok(Outcome::Diverged(extra));
        }
        self.run(words.read_only()).await?;
        // All it has is at the primary: whoever still waits there for a confirmation may have it.
        let semi_sync = self.semi_sync().await?;
        if let Some(roles) = &semi_sync {
            self.switch(&roles.source, false).await?;
        }
        let fresh = report.channels.is_empty();
        if fresh {
            self.rest_or_tell().await;
        } else {
            self.run(&words.stop()).await?;
        }
        // What it committed as a primary does not count as replicated.
        let standing = self.report().await?.standing();
        if words.flavour == Flavour::MariaDb && !report.applied.covers(&standing) {
            self.run(&format!("SET GLOBAL gtid_slave_pos = '{standing}'")).await?;
        }
        let (host, port) = &tools.addresses[to];
        let account = &tools.replication;
        let account = fresh.then(|| (account.user.as_str(), account.password.expose()));
        let follow = words.follow(&Origin { host, port: *port, account });
        if let Some(roles) = &semi_sync {
            self.switch(&roles.replica, true).await?;
        }
        // At once: whoever comes after a Pointsman that died between these would take it for stopped by
        // an operator.
        self.run(&format!("{follow}; {}", words.start())).await?;
        self.runs().await?;
        if let Some(roles) = &semi_sync {
            source.switch(&roles.replica, false).await?;
            source.switch(&roles.source, true).await?;
        }
        Ok(Outcome::Done)
    }

    async fn history(&mut self, words: &Words) -> Result<crate::gtid::History, Broken> {
        let rows = self.link().await?.rows(words.history()).await?;
        let row = rows.first().ok_or_else(|| failure("it does not say what it has"))?;
        let row = Fields(row);
        let text = |name| row.text(&[name]).unwrap_or_default();
        crate::gtid::History::parse(words.flavour, &text("state"), &text("pos"))
            .map_err(|error| failure(error.to_string()).into())
    }

    /// Waits until replication runs.
    async fn runs(&mut self) -> Result<(), Broken> {
        let begun = Instant::now();
        loop {
            let report = self.report().await?;
            let Some(channel) = report.channels.first() else {
                return Err(failure("it replicates from nobody").into());
            };
            if channel.io == IoThread::Running && channel.sql_running {
                return Ok(());
            }
            let error = channel.broken().or(channel.io_error.as_ref());
            if channel.broken().is_some() || begun.elapsed() > RUNNING {
                let text = error.map_or_else(
                    || "replication does not run".to_owned(),
                    |error| format!("error {}: {}", error.code, error.text),
                );
                return Err(failure(text).into());
            }
            sleep(POLL).await;
        }
    }
}

/// What went wrong, and whether a new connection may help.
pub(super) enum Broken {
    Connection(Failure),
    Other(Failure),
}

impl Broken {
    fn into_failure(self) -> Failure {
        match self {
            Self::Connection(failure) | Self::Other(failure) => failure,
        }
    }
}

impl From<SqlError> for Broken {
    fn from(error: SqlError) -> Self {
        if matches!(error, SqlError::Server(_)) {
            Self::Other(error.into())
        } else {
            Self::Connection(error.into())
        }
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}
