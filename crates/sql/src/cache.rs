//! Verdicts by fingerprint, so that a statement seen before is not parsed again.

use std::sync::Arc;

use crate::normal::{self, Hasher, Keys, Scan, Tok};
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

/// Ways of a set: as many hashes as fit a cache line.
const WAYS: usize = 8;
const TEXT_LIMIT: usize = 1024;

struct Slot<S> {
    check: u64,
    /// What the scan saw. A hit must agree with it, so that whatever goes wrong with hashes,
    /// a write or a locking read never gets the verdict of another statement.
    scan: Scan,
    used: bool,
    entry: Arc<Entry<S>>,
}

struct Set<S> {
    hashes: [u64; WAYS],
    slots: [Option<Slot<S>>; WAYS],
    hand: u8,
}

/// A bounded cache of verdicts, one per worker: not shared, not locked.
///
/// Set-associative with a clock per set: a lookup touches one line of hashes and one slot.
pub struct Cache<S> {
    sets: Box<[Set<S>]>,
    keys: Keys,
    len: usize,
}

impl<S: Default> Cache<S> {
    /// `capacity`: most fingerprints kept, rounded up to a power of two, at least 8.
    /// `seed`: same for all workers of a daemon, so that fingerprints agree; random per daemon,
    /// so that collisions can't be prepared.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        let sets = capacity.max(WAYS).div_ceil(WAYS).next_power_of_two();
        let empty = || Set { hashes: [0; WAYS], slots: [const { None }; WAYS], hand: 0 };
        Self { sets: (0..sets).map(|_| empty()).collect(), keys: Keys::new(seed), len: 0 }
    }

    /// The entry for `sql`, classified now if it is new; the flag says whether it is new.
    pub fn lookup(&mut self, sql: &[u8], dialect: &Dialect) -> (&Arc<Entry<S>>, bool) {
        let mut hasher = Hasher::new(&self.keys, dialect);
        let scan = normal::scan(sql, dialect, &mut hasher);
        let (fingerprint, check) = hasher.finish();
        let mask = self.sets.len() - 1;
        let set = &mut self.sets[(fingerprint >> 32) as usize & mask];

        let mut found = None;
        for (way, hash) in set.hashes.iter().enumerate() {
            if *hash == fingerprint
                && let Some(slot) = &set.slots[way]
                && slot.check == check
                && slot.scan == scan
            {
                found = Some(way);
                break;
            }
        }
        let fresh = found.is_none();
        let way = found.unwrap_or_else(|| {
            let mut toks: Vec<Tok<'_>> = Vec::new();
            normal::scan(sql, dialect, &mut toks);
            let entry = Arc::new(Entry {
                verdict: crate::judge::judge(&toks, &scan, dialect),
                fingerprint,
                text: normal::text(&toks, TEXT_LIMIT),
                stats: S::default(),
            });
            let way = set.victim();
            self.len += usize::from(set.slots[way].is_none());
            set.hashes[way] = fingerprint;
            set.slots[way] = Some(Slot { check, scan, used: false, entry });
            way
        });
        let slot = set.slots[way].as_mut().expect("the way was found filled or has been filled");
        slot.used = !fresh;
        (&slot.entry, fresh)
    }

    /// Every entry still cached.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry<S>>> {
        self.sets.iter().flat_map(|set| set.slots.iter().flatten().map(|slot| &slot.entry))
    }

    /// How many entries are cached.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<S> Set<S> {
    /// An empty way, else the first not used since the hand last passed it.
    fn victim(&mut self) -> usize {
        if let Some(way) = self.slots.iter().position(Option::is_none) {
            return way;
        }
        loop {
            let way = self.hand as usize;
            self.hand = (self.hand + 1) % WAYS as u8;
            match &mut self.slots[way] {
                Some(slot) if slot.used => slot.used = false,
                _ => return way,
            }
        }
    }
}
