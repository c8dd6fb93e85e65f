//! When accounts, privileges or global variables were last changed: what a login has to meet.
//!
//! Each change is counted when it is known to be done, before whoever made it is told so. A login that
//! begins later reads the accounts again if they were read before the newest change, shares no
//! connection that was made before it, and logs in to no replica that has not applied it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::gtid::Position;
use crate::monitor::advance;
use crate::writes::{Astray, LastWrites};

/// See the module.
#[derive(Default)]
pub struct Changes {
    count: AtomicU64,
    /// How many of them are within the accounts as they were read last.
    read: AtomicU64,
    /// Where the newest of those stands that replicas apply.
    at: ArcSwapOption<Position>,
    /// The newest that nobody could say the place of ([`Astray`]); 0: there is none.
    astray: AtomicU64,
    news: Notify,
    reads: Notify,
}

impl Changes {
    /// Grows with each change; what was learnt at another count may not be true any more.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// A change was made that replicas know nothing of, as of a global variable.
    pub fn note(&self) {
        self.count.fetch_add(1, SeqCst);
        self.news.notify_one();
    }

    /// A change was made, and replicas that have applied this have it.
    pub fn note_at(&self, position: &Position) {
        // In this order: whoever has counted it finds where it is.
        advance(&self.at, position);
        self.note();
    }

    /// A change was made, and its place could not be had.
    pub fn note_astray(&self, write: Astray) {
        self.astray.fetch_max(write.number(), SeqCst);
        self.note();
    }

    /// What a replica must have applied for a login; `None`: nothing. To be asked after
    /// [`count`](Self::count).
    ///
    /// # Errors
    /// It can't be told yet, and only the primary is certain to have it.
    pub fn needed(&self, writes: &LastWrites) -> Result<Option<Arc<Position>>, Unknown> {
        let astray = self.astray.load(SeqCst);
        if astray != 0 {
            if !writes.is_found(Astray::numbered(astray)) {
                return Err(Unknown);
            }
            if let Some(newest) = writes.newest() {
                advance(&self.at, &newest);
            }
            // Another may have been noted meanwhile.
            let _ = self.astray.compare_exchange(astray, 0, SeqCst, SeqCst);
        }
        Ok(self.at.load_full())
    }

    /// Whether the accounts were read before the newest change.
    #[must_use]
    pub fn are_unread(&self) -> bool {
        self.read() < self.count()
    }

    pub(crate) fn read(&self) -> u64 {
        self.read.load(SeqCst)
    }

    /// The accounts were read, which was begun at this count.
    pub(crate) fn were_read(&self, count: u64) {
        self.read.fetch_max(count, SeqCst);
        self.reads.notify_waiters();
    }

    /// Waits until the accounts were read, which was begun at this count or later.
    pub(crate) async fn read_since(&self, count: u64) {
        loop {
            let reads = self.reads.notified();
            tokio::pin!(reads);
            reads.as_mut().enable();
            if self.read() >= count {
                return;
            }
            reads.await;
        }
    }

    /// Waits until there is a change that was not read yet.
    pub(crate) async fn unread(&self) {
        while !self.are_unread() {
            self.news.notified().await;
        }
    }

    /// Another server is the primary, and this is what it began with.
    pub(crate) fn restart(&self, start: Option<&Position>, writes: &LastWrites) {
        self.at.store(start.cloned().map(Arc::new));
        if start.is_none() {
            self.astray.store(writes.astray().number(), SeqCst);
        } else if !writes.is_anonymous() {
            self.astray.store(0, SeqCst);
        }
        self.note();
    }
}

/// Where the newest change stands is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gtid::Flavour;

    fn position(text: &str) -> Position {
        Position::parse(Flavour::MariaDb, text.as_bytes()).unwrap()
    }

    #[test]
    fn a_login_needs_the_newest_change() {
        let (changes, writes) = (Changes::default(), LastWrites::new(true));
        assert_eq!(changes.needed(&writes), Ok(None));
        changes.note_at(&position("0-1-7"));
        changes.note();
        assert_eq!(changes.needed(&writes).unwrap().as_deref(), Some(&position("0-1-7")));
        changes.note_at(&position("0-1-9"));
        assert_eq!(changes.needed(&writes).unwrap().as_deref(), Some(&position("0-1-9")));
        assert_eq!(changes.count(), 3);
    }

    #[test]
    fn one_whose_place_is_unknown_is_on_the_primary_only() {
        let (changes, writes) = (Changes::default(), LastWrites::new(true));
        changes.note_at(&position("0-1-7"));
        changes.note_astray(writes.note_astray());
        assert_eq!(changes.needed(&writes), Err(Unknown));
        writes.found(&position("0-1-12"), writes.astray());
        assert_eq!(changes.needed(&writes).unwrap().as_deref(), Some(&position("0-1-12")));
        // Writes after that do not matter.
        writes.note(&position("0-1-13"), &Default::default());
        assert_eq!(changes.needed(&writes).unwrap().as_deref(), Some(&position("0-1-12")));
        // Another primary, of which nothing is known.
        writes.restart(None);
        changes.restart(None, &writes);
        assert_eq!(changes.needed(&writes), Err(Unknown));
    }

    #[test]
    fn what_was_read_before_a_change_is_unread() {
        let changes = Changes::default();
        assert!(!changes.are_unread());
        let begun = changes.count();
        changes.note();
        changes.were_read(begun);
        assert!(changes.are_unread());
        changes.were_read(changes.count());
        assert!(!changes.are_unread());
    }
}
