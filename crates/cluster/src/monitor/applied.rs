//! What a server is known to have applied: kept true while two tasks write it and servers restart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use crate::gtid::Position;
use crate::snapshot::Live;

/// Guards [`Live::applied`].
pub(super) struct Applied {
    live: Arc<Live>,
    /// Counts the times that all knowledge became void. What was asked before counts no more.
    era: Mutex<u64>,
}

/// Taken before a server is asked.
pub(super) struct Question {
    era: u64,
    before: Option<Arc<Position>>,
}

impl Applied {
    pub(super) fn new(live: Arc<Live>) -> Self {
        Self { live, era: Mutex::new(0) }
    }

    fn era(&self) -> MutexGuard<'_, u64> {
        self.era.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection broke: the server may come back with other data.
    pub(super) fn forget(&self) {
        let mut era = self.era();
        *era += 1;
        self.live.applied.store(None);
    }

    pub(super) fn ask(&self) -> Question {
        let era = self.era();
        Question { era: *era, before: self.live.applied.load_full() }
    }

    /// Takes in the answer to `question`. True if more is known to be applied than before.
    pub(super) fn answer(&self, question: &Question, position: Position) -> bool {
        let mut era = self.era();
        if *era != question.era {
            return false;
        }
        if question.before.as_ref().is_some_and(|before| !position.covers(before)) {
            // It has less than it had before the question: set back on purpose.
            *era += 1;
            self.live.applied.store(Some(Arc::new(position)));
            return false;
        }
        let known = self.live.applied.load_full();
        match known {
            // The other task, which asked later, was faster.
            Some(known) if known.covers(&position) => false,
            Some(known) => {
                let mut both = Position::clone(&known);
                both.merge(&position);
                self.live.applied.store(Some(Arc::new(both)));
                true
            }
            None => {
                self.live.applied.store(Some(Arc::new(position)));
                true
            }
        }
    }
}

/// Makes `slot` cover `position`; never sets it back, whoever else does the same meanwhile.
pub(crate) fn advance(slot: &ArcSwapOption<Position>, position: &Position) {
    let mut known = slot.load();
    loop {
        let next = match known.as_ref() {
            Some(known) if known.covers(position) => return,
            Some(known) => {
                let mut next = Position::clone(known);
                next.merge(position);
                next
            }
            None => position.clone(),
        };
        let seen = slot.compare_and_swap(&*known, Some(Arc::new(next)));
        let same = match (seen.as_ref(), known.as_ref()) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        known = seen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        Position::MariaDb(text.parse().unwrap())
    }

    fn known(live: &Live) -> Option<String> {
        live.applied.load().as_ref().map(|position| position.to_string())
    }

    #[test]
    fn a_slow_answer_does_not_undo_a_newer_one() {
        let live = Arc::<Live>::default();
        let applied = Applied::new(live.clone());
        let (slow, fast) = (applied.ask(), applied.ask());
        assert!(applied.answer(&fast, at("0-1-9")));
        assert!(!applied.answer(&slow, at("0-1-5")));
        assert_eq!(known(&live).as_deref(), Some("0-1-9"));
    }

    #[test]
    fn what_was_asked_before_a_connection_broke_does_not_count() {
        let live = Arc::<Live>::default();
        let applied = Applied::new(live.clone());
        let question = applied.ask();
        assert!(applied.answer(&question, at("0-1-500")));
        let late = applied.ask();
        applied.forget();
        assert!(!applied.answer(&late, at("0-1-501")));
        assert_eq!(known(&live), None);
        assert!(applied.answer(&applied.ask(), at("0-2-3")));
        assert_eq!(known(&live).as_deref(), Some("0-2-3"));
    }

    #[test]
    fn a_position_set_back_by_hand_is_believed() {
        let live = Arc::<Live>::default();
        let applied = Applied::new(live.clone());
        applied.answer(&applied.ask(), at("0-1-500"));
        let other = applied.ask();
        applied.answer(&applied.ask(), at("0-1-100"));
        assert_eq!(known(&live).as_deref(), Some("0-1-100"));
        assert!(!applied.answer(&other, at("0-1-500")));
        assert_eq!(known(&live).as_deref(), Some("0-1-100"));
    }

    #[test]
    fn writers_on_many_threads_never_set_the_newest_write_back() {
        let slot = ArcSwapOption::empty();
        std::thread::scope(|scope| {
            for server in 0..4_u64 {
                let slot = &slot;
                scope.spawn(move || {
                    for i in 0..5_000_u64 {
                        let mine = at(&format!("0-1-{}", i * 4 + server));
                        advance(slot, &mine);
                        assert!(slot.load().as_ref().unwrap().covers(&mine));
                    }
                });
            }
        });
        assert_eq!(slot.load().as_ref().unwrap().to_string(), "0-1-19999");
    }
}
