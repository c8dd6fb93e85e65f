//! Asks the primary where it stands, for reads that must see all that was committed before them.
//!
//! One task and one connection for everybody: those who ask while a question is under way share the
//! next one. Asks by itself, too, for as long as there are writes that nobody knows the place of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Shared;
use crate::gtid::Position;
use crate::link::Link;
use crate::snapshot::ServerId;

/// For as long as the primary does not say it.
const AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut link: Option<(ServerId, Link)> = None;
    loop {
        let asked = shared.oracle.asked();
        if shared.writes.is_to_be_asked() {
            let _ = timeout(AGAIN, asked).await;
        } else {
            asked.await;
        }
        let round = shared.oracle.begin();
        let (astray, untold) = (shared.writes.astray(), shared.writes.untold());
        let answer = match timeout(shared.timeout, ask(&shared, &mut link)).await {
            Ok(Some(position)) => {
                if shared.writes.found(&position, astray) {
                    shared.ring_feeds(&position, |_| ());
                }
                shared.writes.clear(untold);
                Some(Arc::new(position))
            }
            _ => {
                link = None;
                None
            }
        };
        shared.oracle.end(round, answer);
    }
}

async fn ask(shared: &Shared, link: &mut Option<(ServerId, Link)>) -> Option<Position> {
    let before = shared.snapshot();
    if before.is_galera() {
        // Whoever catches up after this has all of it.
        return Some(shared.number_write());
    }
    if before.anonymous {
        return None;
    }
    let primary = before.primary?;
    let kept = match link {
        Some((server, open)) if *server == primary => open.committed().await.ok(),
        _ => None,
    };
    let (position, all) = match kept {
        Some(answer) => answer,
        None => {
            *link = None;
            let watched = &shared.watched[usize::from(primary.0)];
            let mut open = watched.target.connect().await.ok()?;
            let answer = open.committed().await.ok()?;
            *link = Some((primary, open));
            answer
        }
    };
    if !all {
        shared.update(|topology| topology.lacks_gtids(primary, Instant::now()));
    }
    // An answer of who was deposed meanwhile says nothing.
    let now = shared.snapshot();
    (now.generation == before.generation && !now.anonymous).then_some(position)
}
