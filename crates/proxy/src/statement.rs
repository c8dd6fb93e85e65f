//! Commands about prepared statements, as far as they need no server.

use pointsman_wire::{BoundTypes, Capabilities, HEADER, Layout, with_types, write_packet};

use crate::buffers::Buffer;
use crate::client::{Client, End};
use crate::prepared::PreparedStatement;

impl Client {
    /// How the client lays out its COM_STMT_EXECUTE.
    pub(crate) fn layout(&self, params: u16) -> Layout {
        let attributes = self.login.caps.contains(Capabilities::QUERY_ATTRIBUTES);
        Layout { params, attributes }
    }

    /// The statement a command is about; `least`: bytes of the command's fixed part.
    pub(crate) fn statement_of(
        &self,
        request: &Buffer,
        end: usize,
        least: usize,
    ) -> Option<(u32, &PreparedStatement)> {
        let payload =
            &request.filled()[HEADER..if end == 0 { request.filled().len() } else { end }];
        let id = payload.get(1..5).filter(|_| payload.len() >= least)?;
        let id = self.prepared.resolve(u32::from_le_bytes(id.try_into().ok()?));
        Some((id, self.prepared.get(id)?))
    }

    /// COM_STMT_SEND_LONG_DATA: kept until the statement is executed, on whichever server that will
    /// be. There is no reply, not even to a wrong one.
    pub(crate) async fn keep_long_data(
        &mut self,
        request: &mut Buffer,
        end: usize,
    ) -> Result<(), End> {
        let id = self.statement_of(request, end, 7).map(|(id, _)| id);
        let mut kept =
            id.and_then(|id| self.prepared.get_mut(id)).map(|s| std::mem::take(&mut s.long_data));
        if let Some(kept) = &mut kept {
            kept.begin();
        }
        if end != 0 {
            if let Some(kept) = &mut kept {
                kept.push(&request.filled()[..end]);
            }
        } else {
            let keep = |piece: &[u8]| {
                if let Some(kept) = &mut kept {
                    kept.push(piece);
                }
            };
            self.read_through(request, keep).await?;
        }
        if let (Some(id), Some(kept)) = (id, kept)
            && let Some(statement) = self.prepared.get_mut(id)
        {
            statement.long_data = kept;
        }
        Ok(())
    }

    pub(crate) async fn unknown_statement(
        &mut self,
        request: &mut Buffer,
        end: usize,
        by: &str,
    ) -> Result<(), End> {
        let id = request
            .filled()
            .get(HEADER + 1..HEADER + 5)
            .map_or(0, |b| b.try_into().map_or(0, u32::from_le_bytes));
        self.skip(request, end).await?;
        let mariadb = self.worker.snapshot(|s| s.greeting.mariadb);
        let by = if mariadb { by } else { "mysql_stmt_precheck" };
        let message = format!("Unknown prepared statement handler ({id}) given to {by}");
        self.error(1, 1243, "HY000", &message).await
    }

    /// Forgets a statement; the servers are told along with the next command.
    pub(crate) fn close_statement(&mut self, id: u32) {
        let keep = self.session.transaction().is_some();
        self.prepared.close(id, keep);
        for backend in &mut self.backends {
            if let Some(here) = backend.statements.remove(&id) {
                let mut payload = [0x19, 0, 0, 0, 0];
                payload[1..].copy_from_slice(&here.id.to_le_bytes());
                write_packet(&mut backend.pending, 0, &payload);
            }
        }
    }
}

/// The execute packet a server needs: its own statement id, and the types if it has not had them.
/// `None`: `packet` itself, which has the id now.
pub fn execute_packet(
    packet: &mut [u8],
    id: u32,
    types: Option<(&BoundTypes, Layout)>,
) -> Option<Vec<u8>> {
    packet.get_mut(HEADER + 1..HEADER + 5)?.copy_from_slice(&id.to_le_bytes());
    let (types, layout) = types?;
    let payload = with_types(&packet[HEADER..], layout, types)?;
    let mut out = Vec::with_capacity(HEADER + payload.len());
    write_packet(&mut out, 0, &payload);
    Some(out)
}
