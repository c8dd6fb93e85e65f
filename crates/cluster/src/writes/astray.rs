//! Writes that nobody could say the place of: no replica is known to have them.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::{LastWrites, Touched};
use crate::gtid::Position;
use crate::monitor::advance;

/// A write that a client was told is done while nobody could say where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Astray(u64);

impl Astray {
    /// One that is never found.
    pub const FOR_GOOD: Self = Self(u64::MAX);

    /// From 1 on; those with greater numbers are newer.
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    pub(crate) fn numbered(number: u64) -> Self {
        Self(number)
    }
}

impl LastWrites {
    /// A client is about to be told that its write is done, and its position could not be had.
    pub(crate) fn note_astray(&self) -> Astray {
        Astray(self.astray.fetch_add(1, SeqCst) + 1)
    }

    /// Whether [`newest`](Self::newest) covers this write by now.
    #[must_use]
    pub fn is_found(&self, write: Astray) -> bool {
        self.found.load(SeqCst) >= write.0 && !self.is_anonymous()
    }

    /// Whether there are writes that are not within [`newest`](Self::newest): no replica is known to
    /// have them. Lock-free.
    #[must_use]
    pub fn any_astray(&self) -> bool {
        self.astray.load(SeqCst) != self.found.load(SeqCst) || self.any_untold()
    }

    /// Whether there may be writes, of whichever session, that have no GTIDs. Lock-free.
    #[must_use]
    pub fn any_untold(&self) -> bool {
        self.untold.load(SeqCst) != self.cleared.load(SeqCst) || self.is_anonymous()
    }

    /// Whether the primary's transactions have no GTIDs, or the newest of them may have none.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.anonymous.load(SeqCst)
    }

    /// What a session needs to see what it has written before without being told of a position;
    /// `None`: there was no time at which that could be.
    #[must_use]
    pub fn anonymous_until(&self) -> Option<Arc<Position>> {
        self.anonymous_until.load_full()
    }

    /// Whether nothing but [`note_untold`](Self::note_untold) keeps reads on the primary.
    #[must_use]
    pub fn is_only_untold(&self) -> bool {
        self.astray.load(SeqCst) == self.found.load(SeqCst) && !self.is_anonymous()
    }

    /// Whether asking the primary where it stands may clear something up.
    pub(crate) fn is_to_be_asked(&self) -> bool {
        self.any_astray() && !self.is_anonymous()
    }

    /// The primary's transactions have no GTIDs from now on.
    pub(crate) fn become_anonymous(&self) {
        self.anonymous.store(true, SeqCst);
    }

    /// They have again: whoever has applied `position` has all before as well; `None`: nobody knows who.
    pub(crate) fn end_anonymous(&self, position: Option<&Position>) {
        let mut touched = Touched::default();
        touched.anything();
        match position {
            Some(position) => {
                self.note(position, &touched);
                advance(&self.anonymous_until, position);
            }
            None => drop(self.note_astray()),
        }
        self.anonymous.store(false, SeqCst);
    }

    /// A client is about to be told by MySQL that its write is done, and that has named no GTID.
    /// Returns its number.
    pub(crate) fn note_untold(&self) -> u64 {
        self.untold.fetch_add(1, SeqCst) + 1
    }

    /// Whether it is known of the write of this number that there was none to name.
    #[must_use]
    pub fn is_cleared(&self, untold: u64) -> bool {
        self.cleared.load(SeqCst) >= untold
    }

    /// Before the primary is asked whether its transactions have GTIDs: what to tell
    /// [`clear`](Self::clear) then.
    pub(crate) fn untold(&self) -> u64 {
        self.untold.load(SeqCst)
    }

    /// They have, by an answer to a question asked after [`untold`](Self::untold) gave this number:
    /// what was told no GTID of is not in its binary log.
    pub(crate) fn clear(&self, untold: u64) {
        self.cleared.fetch_max(untold, SeqCst);
    }

    /// Before the primary is asked where it stands: what to tell [`found`](Self::found) then.
    pub(crate) fn astray(&self) -> Astray {
        Astray(self.astray.load(SeqCst))
    }

    /// The primary has said where it stands, asked after [`astray`](Self::astray) gave this number.
    /// Returns whether that was news.
    pub(crate) fn found(&self, position: &Position, astray: Astray) -> bool {
        if self.found.load(SeqCst) >= astray.0 {
            return false;
        }
        let mut touched = Touched::default();
        touched.anything();
        self.note(position, &touched);
        self.found.fetch_max(astray.0, SeqCst);
        true
    }
}
