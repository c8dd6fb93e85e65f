//! Logins that may be wrong: a bound on what they cost.
//!
//! Passwords that only a server can judge are tried there, a few at a time: wrong ones come for
//! nothing, and each costs a server a login. Logins that look wrong wait until the accounts have been
//! read again, since a password may have been changed a moment ago. That takes a twentieth of a second,
//! or up to a whole one where there are very many accounts; however many try wrong ones, there must be
//! places left for those who know theirs.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Semaphore;

/// How many logins wait so, of all workers.
pub struct Doubtful {
    most: usize,
    waiting: AtomicUsize,
    turns: Semaphore,
}

/// Passwords that are tried on the servers at once, each by a login of its own.
const AT_ONCE: usize = 8;

impl Doubtful {
    /// At most half of all clients may be such.
    #[must_use]
    pub fn new(max_connections: usize) -> Self {
        Self {
            most: max_connections / 2,
            waiting: AtomicUsize::new(0),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// A place to wait in, until it is dropped; `None`: it is to be judged by what is known.
    pub fn enter(&self) -> Option<impl Drop + '_> {
        let place = Place(&self.waiting);
        (self.waiting.fetch_add(1, Relaxed) < self.most).then_some(place)
    }

    /// Leave to try a password on the servers, until it is dropped; `None`: too many wait for theirs.
    pub async fn turn(&self) -> Option<impl Drop + '_> {
        let _place = self.enter()?;
        self.turns.acquire().await.ok()
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
    use std::future::{Future as _, poll_fn};
    use std::task::{Context, Poll};

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

    #[tokio::test]
    async fn a_few_passwords_are_tried_at_once() {
        let doubtful = Doubtful::new(100);
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(doubtful.turn().await.unwrap());
        }
        let mut next = std::pin::pin!(doubtful.turn());
        let pending = |context: &mut Context<'_>| Poll::Ready(next.as_mut().poll(context));
        assert!(poll_fn(pending).await.is_pending());
        turns.pop();
        assert!(next.await.is_some());
    }
}
