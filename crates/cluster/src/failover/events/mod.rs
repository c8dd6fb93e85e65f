//! Scheduled events (`CREATE EVENT`) run at the primary and nowhere else.
//!
//! On replicas all of them are disabled there (`SLAVESIDE_DISABLED`, `REPLICA_SIDE_DISABLED`), whether
//! they run at the primary or their owner has disabled them: a replica does not tell the two apart. What
//! runs is therefore remembered while the primary lives ([`Memory`], filled by `watch`), and enabled at
//! the next one by that. Nothing of this is replicated, nor is the event scheduler switched on or off.

mod alter;
mod hands;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwapOption;

pub(super) use hands::{counted, rest_all};

/// Whether an event runs at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// `ENABLED`
    Runs,
    /// `DISABLED`, by its owner.
    Off,
    /// Disabled because this is, or was, a replica.
    Rests,
}

impl Status {
    /// As `information_schema.events` has it.
    fn parse(text: &str) -> Self {
        match text {
            "ENABLED" => Self::Runs,
            "DISABLED" => Self::Off,
            _ => Self::Rests,
        }
    }
}

/// Schema and name.
type Name = (String, String);

/// Which events run at the primary, as last seen.
#[derive(Debug, Default)]
struct Memory(BTreeMap<Name, bool>);

impl Memory {
    /// All events of the primary. One that rests there is about to be enabled, or was until a change of
    /// the primary began: what was known of it stays true.
    fn see(&mut self, all: impl IntoIterator<Item = (Name, Status)>) {
        let old = std::mem::take(&mut self.0);
        self.0.extend(all.into_iter().filter_map(|(name, status)| {
            let runs = match status {
                Status::Runs => true,
                Status::Off => false,
                Status::Rests => *old.get(&name)?,
            };
            Some((name, runs))
        }));
    }

    /// Whether this event, which rests, ran at the last primary; `None` if that is not known.
    fn ran(&self, name: &Name) -> Option<bool> {
        self.0.get(name).copied()
    }

    fn any_runs(&self) -> bool {
        self.0.values().any(|runs| *runs)
    }
}

/// What is known of events, for everybody.
#[derive(Debug, Default)]
pub(crate) struct Events {
    memory: Mutex<Memory>,
    /// Why they can't be enabled and disabled, if there are some: a sentence.
    unable: ArcSwapOption<String>,
}

impl Events {
    fn memory<T>(&self, look: impl FnOnce(&mut Memory) -> T) -> T {
        look(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sentences for `pointsman status`.
    pub(super) fn status(&self) -> Vec<String> {
        self.unable.load_full().iter().map(|why| why.to_string()).collect()
    }
}

/// A few names of many, for people.
pub(super) fn few(names: &[String]) -> String {
    const FEW: usize = 3;
    let more = names.len().saturating_sub(FEW);
    let list = names.iter().take(FEW).cloned().collect::<Vec<_>>().join("; ");
    if more == 0 { list } else { format!("{list}; and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, status: Status) -> (Name, Status) {
        (("app".to_owned(), name.to_owned()), status)
    }

    #[test]
    fn what_ran_is_known_through_a_change_of_the_primary() {
        let mut memory = Memory::default();
        memory.see([event("a", Status::Runs), event("b", Status::Off)]);
        // At rest before the change, and at the next primary before they are enabled.
        memory.see([
            event("a", Status::Rests),
            event("b", Status::Rests),
            event("c", Status::Rests),
        ]);
        let ran = |memory: &Memory, name: &str| memory.ran(&event(name, Status::Off).0);
        assert_eq!(ran(&memory, "a"), Some(true));
        assert_eq!(ran(&memory, "b"), Some(false));
        assert_eq!(ran(&memory, "c"), None);
        // Its owner disabled it there; the other one was dropped.
        memory.see([event("a", Status::Off)]);
        assert_eq!((ran(&memory, "a"), ran(&memory, "b")), (Some(false), None));
        assert!(!memory.any_runs());
    }

    #[test]
    fn long_lists_are_cut() {
        let names = ["a", "b", "c", "d", "e"].map(String::from);
        assert_eq!(few(&names[..2]), "a; b");
        assert_eq!(few(&names), "a; b; c; and 2 more");
    }
}
