//! A primary whose history was begun anew (`RESET MASTER`, `RESET BINARY LOGS AND GTIDS`).
//!
//! Its positions start from the beginning: a replica that has the old history seems to have all of the
//! new one, until it notices and stops. None gets reads before it was seen to follow the new one.

use std::time::Instant;

use super::Topology;
use crate::gtid::Position;
use crate::probe::IoThread;

/// Why a replica is not believed.
#[derive(Debug)]
pub(super) struct Distrust {
    since: Instant,
    /// What it had at the first look after that.
    had: Option<Position>,
}

impl Topology {
    /// The primary was found to have less than it had.
    pub fn distrust_replicas(&mut self, now: Instant) {
        if self.kind().is_some() {
            // Members of a cluster are not told apart by positions of this kind.
            return;
        }
        for known in &mut self.servers {
            known.distrust = Some(Distrust { since: now, had: None });
        }
    }

    /// Whoever has applied more since, and nothing that the primary lacks, follows it.
    pub(super) fn trust_again(&mut self) {
        let Some(primary) = self.primary else { return };
        self.servers[primary].distrust = None;
        if self.servers.iter().all(|known| known.distrust.is_none()) {
            return;
        }
        let Some(standing) = self.report(primary).map(|report| report.standing()) else { return };
        for known in &mut self.servers {
            let (Some(distrust), Some(answer)) = (&mut known.distrust, &known.answer) else {
                continue;
            };
            if answer.asked <= distrust.since {
                continue;
            }
            let applied = &answer.report.applied;
            let had = distrust.had.get_or_insert_with(|| applied.clone());
            let fetches = answer.report.channels.iter().any(|c| c.io == IoThread::Running);
            if fetches && applied != had && standing.covers(applied) {
                known.distrust = None;
            }
        }
    }
}
