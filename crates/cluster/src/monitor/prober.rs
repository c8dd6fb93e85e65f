//! One task per server: looks at it every so often, over a connection kept open.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, timeout};

use super::{Shared, Watched};
use crate::link::{Link, failure};
use crate::probe::{Look, Report};

struct Prober {
    link: Option<Link>,
    connections: u64,
}

pub(super) async fn run(shared: Arc<Shared>, i: usize) {
    let watched = &shared.watched[i];
    let mut prober = Prober { link: None, connections: 0 };
    let mut ticks = tokio::time::interval(shared.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = watched.wake_prober.notified() => {}
        }
        // Only what was said before this look is answered by it.
        let suspect = watched.live.suspect.load(Ordering::Relaxed);
        let asked = Instant::now();
        let limit = patience(&shared, watched, asked);
        let mut question = watched.applied.ask();
        let had_link = prober.link.is_some();
        let mut look = prober.look(watched, limit).await;
        if had_link && matches!(look, Look::Failed(_)) {
            watched.applied.forget();
            // The connection may have been idle too long, or the server restarted.
            if asked.elapsed() < limit {
                question = watched.applied.ask();
                look = prober.look(watched, limit - asked.elapsed()).await;
            }
        }
        match &look {
            Look::Answer(report) => {
                if suspect {
                    watched.live.suspect.store(false, Ordering::Relaxed);
                }
                if watched.applied.answer(&question, applied(report)) {
                    shared.progress.notify_waiters();
                }
            }
            Look::Refused(_) | Look::Failed(_) => watched.applied.forget(),
        }
        let now = Instant::now();
        shared.update(|topology| topology.handle_look(watched.id, asked, look, now));
    }
}

/// How long to wait for an answer: until the server counts as down, which then is known on time.
fn patience(shared: &Shared, watched: &Watched, now: Instant) -> Duration {
    let last = shared.topology().last_answer(watched.id);
    let left = last.map(|last| (last + shared.timeout).saturating_duration_since(now));
    match left {
        Some(left) if left > shared.timeout / 4 => left,
        _ => shared.timeout,
    }
}

/// A server that replicates from nobody has what it committed itself, too.
fn applied(report: &Report) -> crate::gtid::Position {
    if report.channels.is_empty() { report.standing() } else { report.applied.clone() }
}

impl Prober {
    async fn look(&mut self, watched: &Watched, limit: Duration) -> Look {
        let attempt = async {
            let mut link = match self.link.take() {
                Some(link) => link,
                None => {
                    self.connections += 1;
                    watched.target.connect().await?
                }
            };
            let report = link.look(self.connections).await?;
            self.link = Some(link);
            Ok(report)
        };
        match timeout(limit, attempt).await {
            Ok(Ok(report)) => Look::Answer(Box::new(report)),
            Ok(Err(error)) => failure(&error),
            Err(_) => Look::Failed(format!("no answer within {} ms", limit.as_millis())),
        }
    }
}
