//! A primary whose history was begun anew (`RESET MASTER`, `RESET BINARY LOGS AND GTIDS`).
//!
//! Its positions start from the beginning: a replica that has the old history seems to have all of the
//! new one. It stops once it notices; but if by then the primary has come as far as it was before, it
//! goes on from there, and lacks all between without an error. No position that it reports later
//! shows that. So none gets reads, or becomes the primary, before its own was seen to begin anew, too, or
//! the operator, or a rebuild, vouches for it.

use std::time::Instant;

use super::Topology;
use crate::gtid::Position;
use crate::probe::IoThread;
use crate::snapshot::ServerId;

/// Why a replica is not believed.
#[derive(Debug)]
pub(super) enum Distrust {
    /// The primary has begun anew.
    Reset {
        since: Instant,
        /// What it had of the old history.
        had: Option<Position>,
        /// It has that no more.
        anew: bool,
    },
    /// It was not seen to replicate transactions without GTIDs: see [`super::anonymous`].
    Unseen,
    /// It has all of those once it has this.
    Until(Position),
}

impl Distrust {
    /// Completes why it is a replica.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Self::Reset { anew: true, .. } => {
                "; it has begun anew, as its primary has, and does not follow that yet"
            }
            Self::Reset { anew: false, .. } => {
                "; its primary has begun anew, it has not: rebuild it or, if it has everything, \
                 `pointsman resume` it"
            }
            Self::Unseen => {
                "; it may lack what its primary wrote without GTIDs: rebuild it or, if it has \
                 everything, `pointsman resume` it"
            }
            Self::Until(_) => "; it has not applied yet all that its primary wrote without GTIDs",
        }
    }

    /// Why it can't be the primary, after its name.
    pub(super) fn unfit(&self) -> &'static str {
        match self {
            Self::Reset { .. } => "was not seen to begin anew when its primary did",
            Self::Unseen | Self::Until(_) => "may lack what its primary wrote without GTIDs",
        }
    }
}

impl Topology {
    /// The primary was found to have less than it had.
    pub fn distrust_replicas(&mut self, now: Instant) {
        if self.kind().is_some() {
            // Members of a cluster are not told apart by positions of this kind.
            return;
        }
        for known in &mut self.servers {
            let had = known.answer.as_ref().map(|answer| answer.report.applied.clone());
            known.distrust = Some(match &known.distrust {
                // What it lacks it lacks after its own reset, too.
                Some(Distrust::Unseen | Distrust::Until(_)) => Distrust::Unseen,
                _ => Distrust::Reset { since: now, had, anew: false },
            });
        }
    }

    /// Somebody knows that this server has all that the primary has.
    pub fn trust(&mut self, id: ServerId) {
        if let Some(known) = self.servers.get_mut(usize::from(id.0)) {
            known.distrust = None;
        }
    }

    /// This server has got the data of `donor` instead of its own.
    pub(crate) fn rebuilt(&mut self, id: ServerId, donor: ServerId) {
        if self.servers.get(usize::from(donor.0)).is_some_and(|donor| donor.distrust.is_none()) {
            self.trust(id);
        }
    }

    /// Whoever has left the old history, and has nothing that the primary lacks, follows the new one.
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
            let applied = &answer.report.applied;
            let channels = &answer.report.channels;
            if matches!(distrust, Distrust::Until(_)) && channels.iter().any(|c| c.auto_position) {
                // It may have left out what was still to come.
                *distrust = Distrust::Unseen;
            }
            let trusted = match distrust {
                Distrust::Reset { since, had, anew } => {
                    if answer.asked <= *since {
                        continue;
                    }
                    let had = had.get_or_insert_with(|| applied.clone());
                    *anew |=
                        had.is_empty() || !applied.covers(had) || answer.report.is_half_rebuilt();
                    let fetches = channels.iter().any(|c| c.io == IoThread::Running);
                    *anew && fetches && standing.covers(applied)
                }
                Distrust::Unseen => false,
                Distrust::Until(position) => applied.covers(position),
            };
            if trusted {
                known.distrust = None;
            }
        }
    }
}
