//! Waiting for a primary while there is none: bounded, counted, and ended by its arrival.

use std::time::{Duration, Instant};

use pointsman_cluster::ServerId;
use tokio::time::timeout;

use crate::choose::Choice;
use crate::client::Client;
use crate::problem::Problem;
use crate::stats::ToPrimary;
use crate::worker::Worker;

/// How often a primary that refuses connections, while the monitor still takes it for one, is tried.
const AGAIN: Duration = Duration::from_millis(50);

/// How long statements that waited let transactions that are being repeated go first.
const COURTESY: Duration = Duration::from_millis(200);

impl Worker {
    /// Keeps in mind since when there is no primary. True: there is another than the last.
    pub fn note_primary(&self) -> bool {
        let primary = self.snapshot(|s| s.primary);
        let since = self.without_primary_since.get().unwrap_or_else(Instant::now);
        self.without_primary_since.set(primary.is_none().then_some(since));
        primary.is_some() && self.last_primary.replace(primary) != primary
    }
}

impl Client {
    /// How much longer this client's statement may wait. A primary that has been away for long is
    /// waited for no more: then every statement fails at once, and none of them pile up.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        let trouble = self.trouble.get().unwrap_or(now);
        self.trouble.set(Some(trouble));
        let since = self.worker.without_primary_since.get().unwrap_or(trouble);
        (since + self.config().failover.write_wait).saturating_duration_since(now)
    }

    /// The primary; waits for one.
    pub(crate) async fn primary(&self, to_primary: Option<ToPrimary>) -> Result<Choice, Problem> {
        let present = || {
            let primary = self.worker.snapshot(|s| s.primary)?;
            Some(Choice { server: primary, primary: true, to_primary })
        };
        if let Some(choice) = present() {
            return Ok(choice);
        }
        let _held = self.worker.stats.hold();
        let mut changes = self.worker.shared.cluster.subscribe();
        loop {
            if let Some(choice) = present() {
                self.let_others_first().await;
                return Ok(choice);
            }
            let left = self.patience();
            if left.is_zero() || timeout(left, changes.changed()).await.is_err() {
                return Err(self.no_primary());
            }
        }
    }

    /// Transactions that have to be repeated come first, unless this is one.
    async fn let_others_first(&self) {
        let shared = &self.worker.shared;
        let until = Instant::now() + COURTESY;
        while !self.repeating && Instant::now() < until {
            // They have been woken by what woke this one, but may not have begun yet.
            tokio::time::sleep(COURTESY / 100).await;
            if !shared.anyone_goes_first() {
                return;
            }
        }
    }

    fn no_primary(&self) -> Problem {
        let why = self.worker.snapshot(|s| s.no_primary_why.clone());
        let message = format!("[PM2001] there is no primary to write to: {why}");
        Problem::own(1290, "HY000", message)
    }

    /// The primary `server` can't be written to, whatever the monitor thinks of it: waits for another,
    /// or a moment, to try it once more. False: for long enough.
    pub(crate) async fn await_change(&self, server: ServerId) -> bool {
        let left = self.patience();
        if left.is_zero() {
            return false;
        }
        let _held = self.worker.stats.hold();
        let mut changes = self.worker.shared.cluster.subscribe();
        if self.worker.snapshot(|s| s.primary == Some(server) || s.cut_off == Some(server)) {
            let _ = timeout(left.min(AGAIN), changes.changed()).await;
        }
        true
    }
}
