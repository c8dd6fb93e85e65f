//! Asks the primary where it stands, for reads that must see all that was committed before them.
//!
//! One task and one connection for everybody: those who ask while a question is under way share the
//! next one. Asks by itself, too, for as long as there are writes that nobody knows the place of.

use std::sync::Arc;
use std::time::Duration;

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
        if shared.writes.any_astray() {
            let _ = timeout(AGAIN, asked).await;
        } else {
            asked.await;
        }
        let round = shared.oracle.begin();
        let astray = shared.writes.astray();
        let answer = match timeout(shared.timeout, ask(&shared, &mut link)).await {
            Ok(Some(position)) => {
                if shared.writes.found(&position, astray) {
                    shared.ring_feeds(&position, |_| ());
                }
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
    let primary = before.primary?;
    if let Some((server, open)) = link
        && *server == primary
        && let Ok(position) = open.committed().await
    {
        return still(shared, before.generation, position);
    }
    *link = None;
    let mut open = shared.watched[usize::from(primary.0)].target.connect().await.ok()?;
    let position = open.committed().await.ok()?;
    *link = Some((primary, open));
    still(shared, before.generation, position)
}

/// An answer of who was deposed meanwhile says nothing.
fn still(shared: &Shared, generation: u64, position: Position) -> Option<Position> {
    (shared.snapshot().generation == generation).then_some(position)
}
