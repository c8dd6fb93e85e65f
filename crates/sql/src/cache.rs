//! Verdicts by fingerprint, so that a statement seen before is not parsed again.

use std::sync::Arc;

use crate::{Dialect, Verdict};

/// One fingerprint: what such statements do, and a place for the owner's counters.
pub struct Entry<S> {
    pub verdict: Verdict,
    /// Keyed hash of the normalised text; stable within one run of the daemon only.
    pub fingerprint: u64,
    /// The statement with its literals replaced by `?`, at most 1 KiB of it.
    pub text: Box<str>,
    pub stats: S,
}

/// A bounded cache of verdicts, one per worker: not shared, not locked.
pub struct Cache<S> {
    entries: Vec<Arc<Entry<S>>>,
}

impl<S: Default> Cache<S> {
    /// `capacity`: most fingerprints kept. `seed`: same for all workers of a daemon, so that
    /// fingerprints agree; random per daemon, so that collisions can't be prepared.
    #[must_use]
    pub fn new(_capacity: usize, _seed: u64) -> Self {
        Self { entries: Vec::new() }
    }

    /// The entry for `sql`, classified now if it is new; the flag says whether it is new.
    pub fn lookup(&mut self, _sql: &[u8], _dialect: &Dialect) -> (&Arc<Entry<S>>, bool) {
        unimplemented!()
    }

    /// Every entry still cached.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry<S>>> {
        self.entries.iter()
    }
}
