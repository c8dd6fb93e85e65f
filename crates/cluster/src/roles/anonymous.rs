//! Transactions without GTIDs, which MySQL calls anonymous: the primary's `gtid_mode` is `OFF`, the default
//! of 8.x, or `OFF_PERMISSIVE`.
//!
//! Nothing tells who has them: not a reply to the client that writes one, nor `@@gtid_executed`. So nobody
//! knows what a replica lacks: only the primary serves reads that must be fresh, and nobody can take over
//! from it. Once there are GTIDs again, whoever has the first of them has all that came before it, since
//! replicas commit in the order of the binary log.

use super::Topology;
use crate::gtid::Position;

/// Whether there are such.
#[derive(Debug, Default)]
pub(super) enum Anonymous {
    #[default]
    None,
    /// All new ones are.
    All,
    /// None is any more, but those before the first after this position may be.
    Before(Position),
}

impl Anonymous {
    pub(super) fn any(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Another server is the primary, or the same with another history.
    pub(super) fn begin_again(&mut self) {
        if self.any() {
            *self = Self::All;
        }
    }
}

impl Topology {
    /// By what was last seen of the primary.
    pub(super) fn note_anonymous(&mut self) {
        let Some(report) = self.primary.and_then(|primary| self.report(primary)) else { return };
        let committed = &report.committed;
        self.anonymous = match &self.anonymous {
            _ if !report.has_gtids() => Anonymous::All,
            Anonymous::All => Anonymous::Before(committed.clone()),
            Anonymous::Before(position) if position == committed => return,
            _ => Anonymous::None,
        };
    }

    /// Completes why it is the primary.
    pub(super) fn without_gtids(&self, i: usize) -> String {
        let mode = self.report(i).map_or("", |report| &*report.gtid_mode);
        match &self.anonymous {
            Anonymous::None => String::new(),
            Anonymous::All => format!(
                "; its transactions have no GTIDs (gtid_mode = {mode}): it serves all reads that must be \
                 fresh, and no replica can take over; set gtid_mode = ON on all servers"
            ),
            Anonymous::Before(_) => format!(
                "; its transactions have GTIDs again (gtid_mode = {mode}), but its newest may have none: \
                 until the next write it serves all reads that must be fresh, and no replica can take over"
            ),
        }
    }
}
