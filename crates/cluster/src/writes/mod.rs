//! The last write to each table: what a causal read has to wait for, and what it need not.
//!
//! A write counts for the tables that it can have changed, if the [`Catalog`] leaves no doubt which
//! these are, from before the write was sent until it is acknowledged; else it counts for all.
//! Tables share a fixed number of slots by hash: where two meet, a read waits for a write too many,
//! never for one too few.

mod astray;
mod catalog;
mod key;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use smallvec::SmallVec;

pub use astray::Astray;
pub use catalog::{Catalog, ForeignKey, TableRow};
pub use key::{Hasher, TableKey};

use crate::gtid::Position;
use crate::monitor::advance;

/// How many positions are kept, however many tables there are. A power of two.
const SLOTS: usize = 4096;
/// Most tables of one transaction that are told apart.
const MOST_TOUCHED: usize = 64;
/// A MySQL position of more parts than this is replaced by that of all writes, which has few.
const MOST_PARTS: usize = 8;
/// For how long a change of the schema may be under way on the server after the connection that it
/// was sent over was lost.
const UNSETTLED: Duration = Duration::from_secs(600);

/// See the module.
pub struct LastWrites {
    hasher: Hasher,
    /// Newest write that some client was told is done.
    newest: ArcSwapOption<Position>,
    /// Newest write of which it is not certain which tables it changed.
    anywhere: ArcSwapOption<Position>,
    slots: Box<[ArcSwapOption<Position>]>,
    /// What the primary had when it was last looked at, and when its answer had come.
    floor: ArcSwapOption<(Instant, Position)>,
    /// Writes that clients were told are done while nobody could say where: how many there were, ever,
    /// and how many of them are within [`LastWrites::newest`] by now.
    astray: AtomicU64,
    found: AtomicU64,
    /// Writes that a server of MySQL told no GTID of: how many there were, ever, and of how many it is
    /// known that there is none to tell, since it has nothing in its binary log of them.
    untold: AtomicU64,
    cleared: AtomicU64,
    /// The primary's transactions have no GTIDs, or the newest of them may have none.
    anonymous: AtomicBool,
    /// What whoever has it has of those that had none, if there were any.
    anonymous_until: ArcSwapOption<Position>,
    catalog: ArcSwapOption<Known>,
    /// Grows whenever a statement that may change the schema is sent, and when it has ended.
    changes: AtomicU64,
    /// How many of them are under way.
    under_way: AtomicU32,
    unsettled_until: Mutex<Option<Instant>>,
    /// Without it every write counts for all tables.
    by_table: bool,
}

struct Known {
    catalog: Arc<Catalog>,
    /// [`LastWrites::changes`] when it was read.
    changes: u64,
}

/// The tables that a session has written since its last commit.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    tables: SmallVec<[TableKey; 4]>,
    /// Any table may be among them.
    anything: bool,
    /// A server that may log other words than were sent got one of the statements.
    reworded: bool,
    /// Something that others see was changed in them, as far as replies say.
    lasting: bool,
    /// [`LastWrites::changes`] when the first of them was added.
    changes: u64,
}

impl Touched {
    /// A write whose tables can't be told.
    pub fn anything(&mut self) {
        self.anything = true;
    }

    /// A write that changed something that others see.
    pub fn lasting(&mut self) {
        self.lasting = true;
    }

    /// The server has named the position of all so far.
    pub fn told(&mut self) {
        self.lasting = false;
    }

    /// Whether there was any such.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.lasting
    }

    pub fn clear(&mut self) {
        self.tables.clear();
        self.anything = false;
        self.reworded = false;
        self.lasting = false;
    }

    /// Whether all that was sent, where rows are logged, is noted in the words that it was sent in, and
    /// nothing else with it: no trigger's or stored function's statement, none that a plugin has
    /// rewritten.
    #[must_use]
    pub fn logged_as_sent(&self) -> bool {
        !self.anything && !self.reworded
    }

    fn is_empty(&self) -> bool {
        self.tables.is_empty() && !self.anything
    }
}

/// Something that may change the schema is under way, until this is dropped.
pub struct SchemaChange {
    writes: Arc<LastWrites>,
    settled: bool,
}

impl SchemaChange {
    /// The server has answered, so it is over.
    pub fn settled(mut self) {
        self.settled = true;
    }
}

impl Drop for SchemaChange {
    fn drop(&mut self) {
        if !self.settled {
            *self.writes.unsettled() = Some(Instant::now() + UNSETTLED);
        }
        self.writes.changes.fetch_add(1, SeqCst);
        self.writes.under_way.fetch_sub(1, SeqCst);
    }
}

impl LastWrites {
    #[must_use]
    pub fn new(by_table: bool) -> Self {
        Self {
            hasher: Hasher::default(),
            newest: ArcSwapOption::empty(),
            anywhere: ArcSwapOption::empty(),
            floor: ArcSwapOption::empty(),
            slots: (0..SLOTS).map(|_| ArcSwapOption::empty()).collect(),
            astray: AtomicU64::new(0),
            found: AtomicU64::new(0),
            untold: AtomicU64::new(0),
            cleared: AtomicU64::new(0),
            anonymous: AtomicBool::new(false),
            anonymous_until: ArcSwapOption::empty(),
            catalog: ArcSwapOption::empty(),
            changes: AtomicU64::new(0),
            under_way: AtomicU32::new(0),
            unsettled_until: Mutex::default(),
            by_table,
        }
    }

    fn unsettled(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.unsettled_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// The newest write of all.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Position>> {
        self.newest.load_full()
    }

    /// The newest write of all, for a look at it, which costs less than a share in it. `None` if there
    /// are others that it does not cover: see [`any_astray`](Self::any_astray).
    pub fn with_newest<R>(&self, look: impl FnOnce(Option<&Arc<Position>>) -> R) -> Option<R> {
        let astray = self.astray.load(SeqCst);
        if self.found.load(SeqCst) != astray || self.any_untold() {
            return None;
        }
        let newest = self.newest.load();
        // It may have been taken away meanwhile; that is counted first.
        (self.astray.load(SeqCst) == astray).then(|| look(newest.as_ref()))
    }

    /// Whether whoever has applied `applied` has every write. Lock-free.
    #[must_use]
    pub fn all_within(&self, applied: &Position) -> bool {
        self.newest.load().as_ref().is_none_or(|newest| applied.covers(newest))
    }

    /// The primary, of a cluster that goes by GTIDs, had this, by an answer that had come by `at`.
    pub(crate) fn set_floor(&self, at: Instant, position: &Position) {
        self.floor.store(Some(Arc::new((at, position.clone()))));
    }

    /// Whether a write that was sent after `began` can't have this position, unless the primary's
    /// history was begun anew meanwhile. Lock-free. True once, until the primary is looked at again.
    pub(crate) fn is_set_back(&self, position: &Position, began: Instant) -> bool {
        let below = |floor: &Arc<(Instant, Position)>| {
            floor.1.covers(position) && floor.0 < began && !position.is_empty()
        };
        self.floor.load().as_ref().is_some_and(below)
            && self.floor.swap(None).as_ref().is_some_and(below)
    }

    /// What is known of the tables, if nothing can have changed since it was read.
    fn trusted(&self) -> Option<(Arc<Catalog>, u64)> {
        let known = self.catalog.load();
        let known = known.as_ref()?;
        self.unchanged_since(known.changes).then(|| (Arc::clone(&known.catalog), known.changes))
    }

    fn unchanged_since(&self, changes: u64) -> bool {
        self.under_way.load(SeqCst) == 0 && self.changes.load(SeqCst) == changes
    }

    /// A statement that may change the schema is about to be sent.
    #[must_use]
    pub fn schema_change(self: &Arc<Self>) -> SchemaChange {
        self.under_way.fetch_add(1, SeqCst);
        self.changes.fetch_add(1, SeqCst);
        SchemaChange { writes: Arc::clone(self), settled: false }
    }

    /// A write is about to be sent that names these tables; `schema` is the default one.
    pub fn touch<'a>(
        &self,
        touched: &mut Touched,
        schema: Option<&[u8]>,
        tables: impl IntoIterator<Item = (Option<&'a str>, &'a str)>,
    ) {
        if touched.anything {
            return;
        }
        let Some((catalog, changes)) = self.trusted() else { return touched.anything() };
        if touched.is_empty() {
            touched.changes = changes;
        }
        touched.reworded |= !catalog.as_sent;
        for (qualifier, table) in tables {
            let schema = qualifier.map(str::as_bytes).or(schema);
            let written = schema
                .and_then(|schema| self.hasher.key(schema, table))
                .and_then(|key| Some((key, catalog.written_with(key)?)));
            let Some((key, others)) = written else { return touched.anything() };
            for key in std::iter::once(key).chain(others.iter().copied()) {
                if !touched.tables.contains(&key) {
                    touched.tables.push(key);
                }
            }
            if touched.tables.len() > MOST_TOUCHED {
                return touched.anything();
            }
        }
    }

    /// A client is about to be told that its write at `position` is done. Cheap, and from any thread.
    pub fn note(&self, position: &Position, touched: &Touched) {
        advance(&self.newest, position);
        let certain = !touched.is_empty()
            && !touched.anything
            && self.unchanged_since(touched.changes)
            && self.catalog.load().is_some();
        if !certain {
            advance(&self.anywhere, position);
            return;
        }
        for key in &touched.tables {
            let slot = self.slot(*key);
            advance(slot, position);
            // More than is needed, and short.
            let long = slot.load().as_ref().is_some_and(|p| p.parts() > MOST_PARTS);
            if long && let Some(newest) = self.newest.load_full() {
                advance(slot, &newest);
            }
        }
    }

    fn slot(&self, key: TableKey) -> &ArcSwapOption<Position> {
        &self.slots[key.index(SLOTS)]
    }

    /// The keys of the tables that a read names, if each of them is certain to be a table.
    pub fn tables_of_read<'a>(
        &self,
        schema: Option<&[u8]>,
        tables: impl IntoIterator<Item = (Option<&'a str>, &'a str)>,
    ) -> Option<SmallVec<[TableKey; 4]>> {
        let (catalog, _) = self.trusted()?;
        tables
            .into_iter()
            .map(|(qualifier, table)| {
                let schema = qualifier.map(str::as_bytes).or(schema)?;
                let key = self.hasher.key(schema, table)?;
                catalog.is_table(key).then_some(key)
            })
            .collect()
    }

    /// What a server must have applied to serve a read of these tables; `None`: nothing.
    #[must_use]
    pub fn needed(&self, tables: &[TableKey]) -> Option<Arc<Position>> {
        let mut needed = self.anywhere.load_full();
        for key in tables {
            let slot = self.slot(*key).load();
            let Some(position) = slot.as_ref() else { continue };
            needed = match needed {
                None => Some(Arc::clone(position)),
                Some(known) if known.covers(position) => Some(known),
                Some(known) if position.covers(&known) => Some(Arc::clone(position)),
                Some(mut known) => {
                    Arc::make_mut(&mut known).merge(position);
                    Some(known)
                }
            };
        }
        needed
    }

    /// Positions noted before have lost their meaning: another server is the primary now, and this
    /// is what it began with.
    pub(crate) fn restart(&self, start: Option<&Position>) {
        self.catalog.store(None);
        if start.is_none() {
            self.note_astray();
        }
        let start = start.cloned().map(Arc::new);
        if self.anonymous_until.load().is_some() {
            self.anonymous_until.store(start.clone());
        }
        self.newest.store(start.clone());
        self.anywhere.store(start);
        self.slots.iter().for_each(|slot| slot.store(None));
        *self.unsettled() = None;
    }

    /// Before the schema is read: the number to [`publish`](Self::publish) with. `None`: not now, it
    /// may be changing.
    pub(crate) fn before_reading(&self) -> Option<u64> {
        let unsettled = self.unsettled().is_some_and(|until| Instant::now() < until);
        let changes = self.changes.load(SeqCst);
        (self.by_table && !unsettled && self.unchanged_since(changes)).then_some(changes)
    }

    /// Whether reads and writes are told apart by table now.
    #[must_use]
    pub fn is_by_table(&self) -> bool {
        self.trusted().is_some()
    }

    /// How many tables are told apart now.
    #[must_use]
    pub fn tables_known(&self) -> usize {
        self.trusted().map_or(0, |(catalog, _)| catalog.len())
    }

    /// Whether it is wanted at all.
    pub(crate) fn wants_catalog(&self) -> bool {
        self.by_table
    }

    /// Takes over what was read of the schema since [`before_reading`](Self::before_reading) gave
    /// `changes`. Returns whether it still counts.
    pub(crate) fn publish(&self, catalog: Arc<Catalog>, changes: u64) -> bool {
        if !self.unchanged_since(changes) {
            return false;
        }
        let old = self.catalog.load_full();
        if old.is_none_or(|old| old.catalog != catalog)
            && let Some(newest) = self.newest.load_full()
        {
            // What was counted by another schema counts for all tables now.
            advance(&self.anywhere, &newest);
        }
        self.catalog.store(Some(Arc::new(Known { catalog, changes })));
        true
    }

    /// Nothing is known of the tables any more.
    pub(crate) fn forget_catalog(&self) {
        self.catalog.store(None);
    }
}

#[cfg(test)]
mod tests;
