//! Many ask, one answers for all: a question put once per round.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

/// Whoever asks is answered by a round that began after it asked.
pub(crate) struct Rounds<T> {
    asked: Notify,
    begun: AtomicU64,
    ended: watch::Sender<(u64, T)>,
}

impl<T: Clone + Default> Default for Rounds<T> {
    fn default() -> Self {
        Self {
            asked: Notify::new(),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new((0, T::default())),
        }
    }
}

impl<T: Clone + Default> Rounds<T> {
    /// Has a round begin after this call, without waiting for it.
    pub(crate) fn ring(&self) {
        self.asked.notify_one();
    }

    /// Waits for the outcome of a round that begins after this call.
    pub(crate) async fn ask(&self) -> T {
        let mut ended = self.ended.subscribe();
        let mine = self.begun.load(Ordering::SeqCst) + 1;
        self.ring();
        let outcome = ended.wait_for(|(round, _)| *round >= mine).await;
        outcome.map(|outcome| outcome.1.clone()).unwrap_or_default()
    }

    /// For the one that answers: waits until somebody asks. Someone who asked before the last round
    /// began may ring once more, for nothing.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// The round begins: from now on, who asks waits for the next.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn end(&self, round: u64, outcome: T) {
        self.ended.send_replace((round, outcome));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_never_older_than_the_question() {
        let rounds = Arc::new(Rounds::<u64>::default());
        let clock = Arc::new(AtomicU64::new(0));
        let answerer = tokio::spawn({
            let (rounds, clock) = (rounds.clone(), clock.clone());
            async move {
                loop {
                    rounds.asked().await;
                    let round = rounds.begin();
                    let now = clock.load(Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    rounds.end(round, now);
                }
            }
        });
        let askers: Vec<_> = (0..50)
            .map(|_| {
                let (rounds, clock) = (rounds.clone(), clock.clone());
                tokio::spawn(async move {
                    for _ in 0..100 {
                        let before = clock.fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(rounds.ask().await >= before);
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.unwrap();
        }
        answerer.abort();
    }
}
