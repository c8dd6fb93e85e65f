//! A server gets another one's data instead of its own, and joins the primary as any other server does.
//! How that is done depends on the servers, or is a command of the operator's.

mod clone;
mod command;
mod copy;
mod dump;
mod programs;
mod stock;

pub(super) use copy::is_marked;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Request;
use super::act::Tools;
use crate::gtid::Flavour;
use crate::link::Link;
use crate::monitor::Shared;
use crate::snapshot::{Role, ServerId};

/// How far the rebuilding of each server has come, in words that complete "db1 is being rebuilt ".
#[derive(Debug, Default)]
pub(crate) struct Rebuilds(Mutex<BTreeMap<String, String>>);

impl Rebuilds {
    fn set(&self, server: String, words: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match words {
            Some(words) => all.insert(server, words),
            None => all.remove(&server),
        };
    }

    /// Sentences for `pointsman status`.
    pub(super) fn status(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, words)| format!("{name} is being rebuilt {words}")).collect()
    }
}

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// How long a server may take to be started again, by whomever.
const RESTART: Duration = Duration::from_secs(1800);
/// How long it may take to follow the primary then.
const JOIN: Duration = Duration::from_secs(120);

/// How it is done.
#[derive(Clone, Copy)]
enum Way {
    Clone,
    Copy,
    Command,
}

/// The rebuilding of one server.
pub(super) struct Rebuild {
    pub(super) shared: Arc<Shared>,
    pub(super) tools: Arc<Tools>,
    pub(super) server: usize,
    pub(super) donor: usize,
}

impl Rebuild {
    fn id(&self) -> ServerId {
        super::driver::id_of(self.server)
    }

    fn name(&self, server: usize) -> String {
        let name =
            self.shared.snapshot().server(super::driver::id_of(server)).map(|s| s.name.clone());
        name.map_or_else(|| "?".to_owned(), |name| name.to_string())
    }

    fn say(&self, words: String) {
        self.shared.failover.rebuilds.set(self.name(self.server), Some(words));
    }

    /// What has to be so before anything is done; a sentence for who asked.
    pub(super) async fn check(&self) -> Result<String, String> {
        match self.way().await? {
            Way::Clone => self.check_clone().await?,
            Way::Copy => self.check_copy().await?,
            Way::Command => self.check_command()?,
        }
        self.say(format!("from {}: it begins", self.name(self.donor)));
        Ok(format!(
            "{} is being rebuilt from {}: `pointsman status` says how far it is, `pointsman events` \
             how it ended",
            self.name(self.server),
            self.name(self.donor)
        ))
    }

    async fn way(&self) -> Result<Way, String> {
        if !self.tools.rebuild_command.is_empty() {
            return Ok(Way::Command);
        }
        Ok(match self.connect(self.donor).await?.flavour() {
            Flavour::MySql => Way::Clone,
            Flavour::MariaDb => Way::Copy,
        })
    }

    /// The server is no longer left alone; kept out, if something `failed`.
    pub(super) async fn ends(&self, failed: Option<String>) {
        let server = self.server;
        let _ = self.shared.failover.ask(Request::RebuildEnds { server, failed }).await;
    }

    /// It was not begun.
    pub(super) async fn refused(&self) {
        self.ends(None).await;
        self.shared.failover.rebuilds.set(self.name(self.server), None);
    }

    /// Does it, and tells how it went.
    pub(super) async fn run(self) {
        let (name, donor) = (self.name(self.server), self.name(self.donor));
        self.shared.tell_of(
            "rebuild_begun",
            self.id(),
            format!("{name} is to get the data of {donor} instead of its own"),
        );
        let begun = Instant::now();
        let copied = match self.way().await {
            Ok(Way::Clone) => self.clone_data().await,
            Ok(Way::Copy) => self.copy().await,
            Ok(Way::Command) => self.run_command().await,
            Err(why) => Err(why),
        };
        let failed = copied.as_ref().err().map(|why| format!("from {donor} failed: {why}"));
        self.ends(failed).await;
        if copied.is_ok() {
            let donor = super::driver::id_of(self.donor);
            self.shared.update(|topology| topology.rebuilt(self.id(), donor));
        }
        let outcome = match copied {
            Ok(()) => self.join().await,
            Err(why) => Err(why),
        };
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(how) => self.shared.tell_of(
                "rebuild_done",
                self.id(),
                format!("{name} was rebuilt from {donor} in {seconds:.1} s: {how}"),
            ),
            Err(why) => self.shared.tell_of(
                "rebuild_failed",
                self.id(),
                format!(
                    "{name} could not be rebuilt from {donor}: {why}; it is kept out, and \
                     `pointsman rejoin {name} --rebuild` begins again"
                ),
            ),
        }
        self.shared.failover.rebuilds.set(name, None);
    }

    async fn connect(&self, server: usize) -> Result<Link, String> {
        let connected = self.tools.target(server).connect().await;
        connected.map_err(|e| format!("{} can't be reached: {e}", self.name(server)))
    }

    async fn join(&self) -> Result<String, String> {
        self.say(format!("from {}: it joins the primary", self.name(self.donor)));
        let begun = Instant::now();
        loop {
            let role = self.shared.snapshot().server(self.id()).map(|server| server.role);
            if role == Some(Role::Replica) {
                return Ok("it follows the primary".to_owned());
            }
            let request =
                Request::Rejoin { server: self.name(self.server), rebuild: false, force: false };
            match self.shared.failover.ask(request).await {
                Ok(how) => return Ok(how),
                Err(why) if begun.elapsed() > JOIN => return Err(why),
                // It may not have been seen yet, or something else is under way.
                Err(_) => sleep(LOOK).await,
            }
        }
    }
}
