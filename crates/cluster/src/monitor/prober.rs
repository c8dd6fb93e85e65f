//! One task per server: looks at it every so often, over a connection kept open.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mysql_async::Error as SqlError;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, sleep, timeout};

use super::{Shared, Watched};
use crate::gtid::Position;
use crate::link::{Link, failure};
use crate::probe::{Channel, Look, Report};

/// How often it is asked whether the looks that an order waits for are done.
const POLL: Duration = Duration::from_millis(5);

type FullLook = Pin<Box<dyn Future<Output = Result<(Link, Report), SqlError>> + Send>>;

#[derive(Default)]
struct Prober {
    link: Option<Link>,
    /// Connections made so far. Those made beside a stuck one count too.
    connections: u64,
    /// As the server last said, since it was last lost sight of.
    channels: Option<Vec<Channel>>,
    /// A look that has its first half and waits for the second, the status of replication. The
    /// server is alive then, and is not asked for it again until it has answered.
    stuck: Option<FullLook>,
}

/// Looks at all servers, and waits for those that answer; no longer than looks are apart.
pub(super) async fn look_now(shared: &Shared) {
    let begun = Instant::now();
    shared.look_everywhere();
    while !shared.topology().seen_since(begun) && begun.elapsed() < shared.interval {
        sleep(POLL).await;
    }
}

pub(super) async fn run(shared: Arc<Shared>, i: usize) {
    let watched = &shared.watched[i];
    let mut prober = Prober::default();
    let mut ticks = tokio::time::interval(shared.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let gap = shared.interval / 10;
    let mut looked = Instant::now();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = watched.wake_prober.notified() => {
                // However many workers complain.
                sleep(gap.saturating_sub(looked.elapsed())).await;
            }
        }
        looked = Instant::now();
        // Only what was said before this look is answered by it.
        let suspect = watched.live.suspect.load(Ordering::Relaxed);
        let asked = Instant::now();
        let limit = patience(&shared, watched, asked);
        let mut question = watched.applied.ask();
        let had_link = prober.link.is_some();
        let mut look = prober.look(watched, limit, shared.interval).await;
        if had_link && matches!(look, Look::Failed(_)) {
            watched.applied.forget();
            // The connection may have been idle too long, or the server restarted.
            if asked.elapsed() < limit {
                question = watched.applied.ask();
                look = prober.look(watched, limit - asked.elapsed(), shared.interval).await;
            }
        }
        match &look {
            Look::Answer(report) => {
                if suspect {
                    watched.live.suspect.store(false, Ordering::Relaxed);
                }
                // Of Galera nodes only the feed tells.
                if !matches!(report.applied, Position::Number(_))
                    && watched.applied.answer(&question, applied(report))
                {
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
fn applied(report: &Report) -> Position {
    if report.channels.is_empty() { report.standing() } else { report.applied.clone() }
}

impl Prober {
    async fn look(&mut self, watched: &Watched, limit: Duration, grace: Duration) -> Look {
        let outcome = match timeout(limit, self.attempt(watched, grace)).await {
            Ok(Ok(report)) => {
                self.channels = Some(report.channels.clone());
                return Look::Answer(Box::new(report));
            }
            Ok(Err(error)) => failure(&error),
            Err(_) => Look::Failed(format!("no answer within {} ms", limit.as_millis())),
        };
        // It may come back as another server.
        self.link = None;
        self.stuck = None;
        self.channels = None;
        outcome
    }

    async fn attempt(&mut self, watched: &Watched, grace: Duration) -> Result<Report, SqlError> {
        let stuck = match &mut self.stuck {
            Some(look) => timeout(Duration::ZERO, look).await.ok(),
            None => None,
        };
        if let Some(outcome) = stuck {
            self.stuck = None;
            self.link = outcome.ok().map(|(link, _)| link);
        }
        let link = match self.link.take() {
            Some(link) => link,
            None => {
                self.connections += 1;
                watched.target.connect().await?
            }
        };
        if let (Some(_), Some(channels)) = (&self.stuck, &self.channels) {
            // Another connection still waits for the status of replication.
            let channels = channels.clone();
            let (link, mut report) = link.look(self.connections, None).await?;
            self.link = Some(link);
            report.channels = channels;
            return Ok(report);
        }
        let (sender, early) = oneshot::channel();
        let mut look: FullLook = Box::pin(link.look(self.connections, Some(sender)));
        let early = tokio::select! {
            biased;
            outcome = &mut look => Err(outcome),
            Ok(early) = early => Ok(early),
        };
        let outcome = match (early, &self.channels) {
            (Err(outcome), _) => outcome,
            (Ok(_), None) => look.await,
            (Ok(mut early), Some(channels)) => match timeout(grace, &mut look).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    early.channels = channels.clone();
                    self.stuck = Some(look);
                    return Ok(early);
                }
            },
        };
        let (link, report) = outcome?;
        self.link = Some(link);
        Ok(report)
    }
}
