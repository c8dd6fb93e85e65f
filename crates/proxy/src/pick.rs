//! Which replica serves a read. Pure.

use std::sync::atomic::Ordering::Relaxed;

use pointsman_cluster::gtid::Position;
use pointsman_cluster::{Server, ServerId, Snapshot};

/// What a read asks of a replica.
pub struct Wanted<'a> {
    /// It must have applied this; `None`: anything within `max_lag`.
    pub position: Option<&'a Position>,
    /// Servers that just failed this statement.
    pub excluded: &'a [ServerId],
    /// Servers this session is connected to already; worth a little more load.
    pub connected: &'a dyn Fn(ServerId) -> bool,
    /// The primary takes reads too.
    pub primary_reads: bool,
}

/// How many running statements a connection already open outweighs.
const STAY: u64 = 4;

/// The replica with the fewest running statements for its weight, among those fresh enough.
pub fn replica<'a>(snapshot: &'a Snapshot, wanted: &Wanted<'_>) -> Option<&'a Server> {
    let mut best: Option<(u64, &Server)> = None;
    for server in &snapshot.servers {
        let is_primary = snapshot.primary == Some(server.id);
        if !(server.takes_reads || is_primary && wanted.primary_reads)
            || wanted.excluded.contains(&server.id)
            || server.live.suspect.load(Relaxed)
            || !is_primary && wanted.position.is_some_and(|p| !has_applied(server, p))
        {
            continue;
        }
        let away = if (wanted.connected)(server.id) { 0 } else { STAY };
        let running = u64::from(server.live.running.load(Relaxed)) + away;
        let load = (running * 1000 + u64::from(server.live.connections.load(Relaxed)))
            / u64::from(server.weight.max(1));
        if best.is_none_or(|(least, _)| load < least) {
            best = Some((load, server));
        }
    }
    best.map(|(_, server)| server)
}

/// Whether `server` is known to have applied `position`.
pub fn has_applied(server: &Server, position: &Position) -> bool {
    server.live.applied.load().as_deref().is_some_and(|applied| applied.covers(position))
}
