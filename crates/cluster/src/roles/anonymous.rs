//! Transactions without GTIDs, which MySQL calls anonymous: the primary's `gtid_mode` is `OFF`, the default
//! of 8.x, or `OFF_PERMISSIVE`.
//!
//! Nothing tells who has them: not a reply to the client that writes one, nor `@@gtid_executed`. So nobody
//! knows what a replica lacks: only the primary serves reads that must be fresh, and nobody can take over
//! from it.
//!
//! Once there are GTIDs again, whoever replicates by file and position, and has the first of them, has all
//! that came before it, since replicas commit in the order of the binary log. A replica that asks by GTID
//! is sent nothing without one: it stops there and, if it is started again later, goes on behind them
//! without an error. No position shows that, so the operator, or a rebuild, has to vouch for it.

use std::time::Instant;

use super::reset::Distrust;
use super::{From, Topology};
use crate::gtid::Position;
use crate::snapshot::ServerId;

/// Whether there are such.
#[derive(Debug, Default)]
pub(super) enum Anonymous {
    #[default]
    None,
    /// All new ones are.
    All { since: Instant },
    /// None is any more, but those before the first after this position may be.
    Before { since: Instant, position: Position },
}

impl Anonymous {
    pub(super) fn any(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Another server is the primary, or the same with another history.
    pub(super) fn begin_again(&mut self) {
        if let Self::Before { since, .. } = *self {
            *self = Self::All { since };
        }
    }
}

impl Topology {
    /// Whether GTIDs matter at all: to one that is alone they don't, and members of a cluster have ways
    /// of their own.
    fn needs_gtids(&self) -> bool {
        self.servers.len() > 1 && self.kind().is_none()
    }

    /// By what was last seen of the primary.
    pub(super) fn note_anonymous(&mut self, now: Instant) {
        if !self.needs_gtids() {
            self.anonymous = Anonymous::None;
            return;
        }
        let Some(primary) = self.primary else { return };
        let Some(answer) = &self.servers[primary].answer else { return };
        let (committed, gtids) = (answer.report.committed.clone(), answer.report.has_gtids());
        if let Anonymous::All { since } = self.anonymous
            && answer.asked < since
        {
            // The primary has said otherwise since.
            return;
        }
        self.anonymous = match (std::mem::take(&mut self.anonymous), gtids) {
            (Anonymous::None, true) => Anonymous::None,
            (Anonymous::None, false) => Anonymous::All { since: now },
            (Anonymous::All { since } | Anonymous::Before { since, .. }, false) => {
                Anonymous::All { since }
            }
            (Anonymous::All { since }, true) => Anonymous::Before { since, position: committed },
            (Anonymous::Before { since, position }, true) if position == committed => {
                Anonymous::Before { since, position }
            }
            (Anonymous::Before { since, .. }, true) => {
                self.distrust_who_may_lack_them(primary, since, &committed);
                Anonymous::None
            }
        };
    }

    /// The primary itself has said that its transactions have none.
    pub(crate) fn lacks_gtids(&mut self, id: ServerId, now: Instant) {
        if self.primary == Some(usize::from(id.0)) && self.needs_gtids() && !self.anonymous.any() {
            self.anonymous = Anonymous::All { since: now };
        }
    }

    /// There were such since then, and whoever replicates by file has all of them once it has `first`.
    fn distrust_who_may_lack_them(&mut self, primary: usize, since: Instant, first: &Position) {
        for i in (0..self.servers.len()).filter(|&i| i != primary) {
            let by_file = self.follows_by_file(i, primary, since, self.servers.len());
            self.servers[i].distrust = Some(match self.servers[i].distrust.take() {
                None | Some(Distrust::Until(_)) if by_file => Distrust::Until(first.clone()),
                None | Some(Distrust::Until(_)) => Distrust::Unseen,
                Some(known) => known,
            });
        }
    }

    /// Whether `i` was seen since then to replicate from `target` by file and position, over other members
    /// if need be.
    fn follows_by_file(&self, i: usize, target: usize, since: Instant, depth: usize) -> bool {
        let answer = self.servers[i].answer.as_ref().filter(|answer| answer.asked >= since);
        answer.is_some_and(|answer| {
            answer.report.channels.iter().any(|channel| {
                !channel.auto_position
                    && match self.from(channel) {
                        From::Member(source) if source == target => true,
                        From::Member(source) => {
                            depth > 0 && self.follows_by_file(source, target, since, depth - 1)
                        }
                        From::Stranger(_) => false,
                    }
            })
        })
    }

    /// Completes why it is the primary.
    pub(super) fn without_gtids(&self, i: usize) -> String {
        let Some(report) = self.report(i) else { return String::new() };
        let mode = match (&self.anonymous, report.has_gtids()) {
            // It has said so since it was looked at.
            (Anonymous::All { .. }, true) => "OFF_PERMISSIVE",
            _ => &*report.gtid_mode,
        };
        match &self.anonymous {
            Anonymous::None => String::new(),
            Anonymous::All { .. } => format!(
                "; its transactions have no GTIDs (gtid_mode = {mode}): it serves all reads that must be \
                 fresh, and no replica can take over; set gtid_mode = ON on all servers"
            ),
            Anonymous::Before { .. } => format!(
                "; its transactions have GTIDs again (gtid_mode = {mode}), but its newest may have none: \
                 until the next write it serves all reads that must be fresh, and no replica can take over"
            ),
        }
    }
}
