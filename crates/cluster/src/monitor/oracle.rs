//! Asks the primary where it stands, for reads that must see all that was committed before them.
//!
//! One task and one connection for everybody: those who ask while a question is under way share the
//! next one.

use std::sync::Arc;

use tokio::time::timeout;

use super::Shared;
use crate::gtid::Position;
use crate::link::Link;
use crate::snapshot::ServerId;

pub(super) async fn run(shared: Arc<Shared>) {
    let mut link: Option<(ServerId, Link)> = None;
    loop {
        shared.oracle.asked().await;
        let round = shared.oracle.begin();
        let answer = match timeout(shared.timeout, ask(&shared, &mut link)).await {
            Ok(Some(position)) => Some(Arc::new(position)),
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
