//! Room for prepared statements on a server that holds as many as it may (error 1461,
//! `max_prepared_stmt_count`): a session's statements are prepared there again when they are needed,
//! so the ones it has not used for long can be closed; then those of sessions that do nothing.

use std::time::Duration;

use pointsman_cluster::ServerId;
use pointsman_wire::write_packet;

use crate::backend::Backend;
use crate::client::Client;
use crate::worker::Ask;

/// "Can't create more than max_prepared_stmt_count statements".
pub const FULL: u16 = 1461;
/// How often room is made for one statement.
pub const MOST_ATTEMPTS: u32 = 5;
/// Longest wait for others to give theirs up.
const PATIENCE: Duration = Duration::from_millis(100);

impl Client {
    /// Has statements closed that nobody needs right now.
    pub(crate) async fn make_room(&self, backend: &mut Backend) {
        if self.close_oldest(backend) {
            return;
        }
        let server = backend.server;
        for worker in self.worker.shared.workers.get().into_iter().flatten() {
            let _ = worker.send(Ask::Yield(server));
        }
        self.worker.pool.someone_gave(server, PATIENCE).await;
    }

    /// Closes the half of the session's statements on this connection that was not used for longest.
    fn close_oldest(&self, backend: &mut Backend) -> bool {
        let has_cursor = |id: &u32, server: ServerId| {
            self.prepared.get(*id).is_some_and(|s| s.cursor_at == Some(server))
        };
        let mut by_use: Vec<_> = backend
            .statements
            .iter()
            .filter(|(id, _)| !has_cursor(id, backend.server))
            .map(|(id, here)| (here.used, *id))
            .collect();
        by_use.sort_unstable();
        by_use.truncate(by_use.len().div_ceil(2));
        for (_, id) in &by_use {
            if let Some(here) = backend.statements.remove(id) {
                let mut payload = [0x19, 0, 0, 0, 0];
                payload[1..].copy_from_slice(&here.id.to_le_bytes());
                write_packet(&mut backend.pending, 0, &payload);
            }
        }
        !by_use.is_empty()
    }
}
