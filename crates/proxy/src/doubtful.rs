//! Logins that look wrong wait until the accounts have been read again, since a password may have been
//! changed a moment ago. That takes up to a second; however many try wrong ones, there must be places
//! left for those who know theirs.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How many logins wait so, of all workers.
pub struct Doubtful {
    most: usize,
    waiting: AtomicUsize,
}

impl Doubtful {
    /// At most half of all clients may be such.
    #[must_use]
    pub fn new(max_connections: usize) -> Self {
        Self { most: max_connections / 2, waiting: AtomicUsize::new(0) }
    }

    /// A place to wait in, until it is dropped; `None`: it is to be judged by what is known.
    pub fn enter(&self) -> Option<impl Drop + '_> {
        let place = Place(&self.waiting);
        (self.waiting.fetch_add(1, Relaxed) < self.most).then_some(place)
    }
}

struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_places_are_for_others() {
        let doubtful = Doubtful::new(5);
        let first = doubtful.enter();
        assert!(first.is_some());
        let second = doubtful.enter();
        assert!(second.is_some() && doubtful.enter().is_none() && doubtful.enter().is_none());
        drop(first);
        assert!(doubtful.enter().is_some());
    }
}
