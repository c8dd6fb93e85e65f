//! One task per server: while it is a replica, finds out at once when it has applied what is wanted.
//!
//! All sessions share the one waiting query, so that nobody waits twice and the monitor's ticks do
//! not decide how long a read after a write has to wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Shared;
use crate::link::Link;

/// How long the server is asked to wait: shortest and longest. What is wanted in the meantime waits as
/// well, so it is short while the replica keeps up, and long when asking more often changes nothing.
const WAIT: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// How long a feed rests after an answer that nobody waits for: at first, and at most, while nobody
/// comes. A primary that commits thousands of times a second would otherwise have thousands of
/// questions asked on its account, at a tenth of all that the proxy costs; whoever does wait, wakes it.
const REST: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(40)];

pub(super) async fn run(shared: Arc<Shared>, i: usize) {
    let watched = &shared.watched[i];
    let mut link: Option<Link> = None;
    let mut wait = WAIT[0];
    let mut rest = REST[0];
    // Whether the connection worked when last used.
    let mut proven = false;
    loop {
        if !shared.is_fed(watched.id) {
            link = None;
            watched.wake_feed.notified().await;
            continue;
        }
        let open = match &mut link {
            Some(open) => open,
            // Before it is needed, so that the first read after a write finds it ready.
            None => match timeout(shared.timeout, watched.target.connect()).await {
                Ok(Ok(new)) => link.insert(new),
                _ => {
                    sleep(shared.interval).await;
                    continue;
                }
            },
        };
        let galera = open.is_galera();
        let proof = if galera { shared.wanted_proof(watched.id) } else { None };
        let target = shared.target().filter(|target| {
            target.is_numbered() == galera
                && target.flavour() == open.flavour()
                && !watched.live.has_applied(target)
        });
        if target.is_none() && proof.is_none() {
            (wait, rest) = (WAIT[0], REST[0]);
            watched.wake_feed.notified().await;
            continue;
        }
        let question = watched.applied.ask();
        let answer = timeout(wait + shared.timeout, async {
            match &target {
                Some(target) if !galera => open.wait_applied(target, wait).await,
                _ => {
                    let number = shared.number();
                    open.catch_up().await.map(|()| number)
                }
            }
        });
        match answer.await {
            Ok(Ok(position)) => {
                proven = true;
                let covers = target.is_none_or(|target| position.covers(&target));
                wait = if covers { WAIT[0] } else { WAIT[1].min(wait * 2) };
                if let Some(era) = proof {
                    shared.update(|topology| topology.handle_proof(watched.id, era));
                }
                if watched.applied.answer(&question, position) {
                    shared.progress.notify_waiters();
                }
                if covers {
                    let hurried = timeout(rest, watched.hurry_feed.notified()).await.is_ok();
                    // A node of a cluster may have to prove itself meanwhile.
                    rest = if hurried || galera { REST[0] } else { REST[1].min(rest * 2) };
                }
            }
            failed => {
                if let Ok(Err(error)) = failed {
                    tracing::debug!(server = i, %error, "position feed");
                }
                link = None;
                watched.applied.forget();
                // A server that refuses the question must not be asked in a tight loop; one that
                // only closed an idle connection is asked again at once.
                if !proven {
                    sleep(shared.interval).await;
                }
                proven = false;
            }
        }
    }
}
