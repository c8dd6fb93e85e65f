//! Passing a server's reply to the client: the same bytes, looked at only where it matters.

use std::io;
use std::time::Instant;

use pointsman_session::Session;
use pointsman_wire::{
    Capabilities, Control, ErrPacket, HEADER, Header, MAX_PAYLOAD, OkPacket, StateChange, Status,
    Step, Tracker, retain_state,
};

use crate::backend::{Backend, Broken};
use crate::blurred::Blurred;
use crate::buffers::Buffer;
use crate::reporting::Reporting;
use crate::socket::Socket;

/// What came of a reply.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Code of the ERR that ended it.
    pub error: Option<u16>,
    /// COM_STMT_PREPARE_OK: the server's id, and how many parameters.
    pub prepared: Option<(u32, u16)>,
    /// A cursor stays open on the server.
    pub cursor: bool,
    /// As the OK packet said.
    pub insert_id: u64,
    /// Variables it reported that may stand for others.
    pub blurred: Blurred,
}

/// How a relay failed.
pub enum Failure {
    /// The server's side; `passed` bytes had gone to the client, and if a packet of our own may
    /// follow them, this is its sequence id.
    Server { broken: Broken, passed: u64, next_seq: Option<u8> },
    /// The server said that it takes no writes; that is all it did, and the client knows nothing.
    ReadOnly,
    /// The server has no room for another prepared statement; the client knows nothing. Its ERR.
    Full(Vec<u8>),
    /// A replica refused what the primary may accept; the client knows nothing. Its ERR.
    Behind(Vec<u8>),
    /// The client's side.
    Client,
}

/// Who gets a reply.
pub enum Sink<'a> {
    Client(&'a mut Socket),
    /// It was given to the client before, when the statement first ran.
    Nobody,
    /// Kept, to be looked at as a whole before the client gets it.
    Keep(Vec<u8>),
}

impl Sink<'_> {
    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Client(client) => client.write_all(bytes).await.map_err(|_| Failure::Client),
            Self::Nobody => Ok(()),
            Self::Keep(kept) => {
                kept.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// What a relay tells while it goes on.
pub trait Watcher {
    /// The client's own id for the statement just prepared, given the server's.
    fn prepared(&mut self, id: u32, params: u16) -> u32;
    /// When what is relayed was sent.
    fn began(&self) -> Instant;
    /// A transaction was committed at this position, not before `began`. The client does not know yet.
    fn wrote(&mut self, gtid: &[u8], began: Instant);
    /// Whether a statement that ended like this may have committed something that no reply of this
    /// kind of server names the position of.
    fn commits_unsaid(&self, status: Status) -> bool;
    /// A reply ended well; the client does not know yet.
    fn ended(&mut self, status: Status);
    /// Something may have been committed, and the reply can't say where.
    async fn wrote_somewhere(&mut self);
    /// Bytes of a result, as they are passed on.
    fn passing(&mut self, bytes: &[u8]);
    /// A packet of the reply that says how it went.
    fn said(&mut self, control: &Control<'_>);
    /// Whether this error means no more than that the server has ceased to be the primary.
    fn is_read_only(&self, error: &ErrPacket<'_>) -> bool;
    /// Whether this error means that it holds too many prepared statements.
    fn is_full(&self, error: &ErrPacket<'_>) -> bool;
    /// Whether this error may mean no more than that the replica lacks what the primary has.
    fn is_behind(&self, error: &ErrPacket<'_>) -> bool;
    /// Whether a statement of this kind, ending in an error here, may have committed something.
    fn may_have_written(&self, in_transaction: bool) -> bool;
}

/// Relays one reply.
pub async fn relay(
    backend: &mut Backend,
    client: &mut Sink<'_>,
    session: &mut Session,
    tracker: &mut Tracker,
    client_caps: Capabilities,
    reporting: &Reporting,
    watcher: &mut impl Watcher,
) -> Result<Outcome, Failure> {
    let server = backend.server;
    let mut outcome = Outcome::default();
    let mut passed = 0;
    // A result set ended with news of the session that its EOF could not carry.
    let mut owed = false;
    let mut file_seq = 0;
    // Long waits hold no buffer.
    if let Err(e) = backend.socket.readable().await {
        return Err(Failure::Server { broken: e.into(), passed, next_seq: Some(1) });
    }
    let mut buf = Buffer::borrow();
    if backend.is_owed()
        && let Err(broken) = Box::pin(backend.settle(&mut buf)).await
    {
        return Err(Failure::Server { broken, passed, next_seq: Some(1) });
    }
    // What came with the last of that.
    let mut came = !buf.is_empty();
    loop {
        let failed = match came {
            true => Ok(buf.filled().len()),
            false => backend.socket.read(&mut buf).await,
        };
        came = false;
        let failed = match failed {
            Ok(0) => Some(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(_) => None,
            Err(e) => Some(e),
        };
        if let Some(e) = failed {
            let next_seq = match client {
                Sink::Keep(_) => Some(1),
                _ => (tracker.at_boundary() && buf.is_empty()).then(|| tracker.next_seq()),
            };
            return Err(Failure::Server { broken: e.into(), passed, next_seq });
        }
        let full = buf.is_full();
        // Everything up to here may go out.
        let mut ready = 0;
        let wants_file = loop {
            match tracker.step(&buf.filled()[ready..]) {
                Err(e) => return Err(Failure::Server { broken: e.into(), passed, next_seq: None }),
                Ok(Step::More { pass }) => {
                    watcher.passing(&buf.filled()[ready..ready + pass]);
                    ready += pass;
                    break false;
                }
                Ok(Step::Control { pass, end, control, .. }) => {
                    let (start, mut end) = (ready + pass, ready + end);
                    watcher.passing(&buf.filled()[ready..start]);
                    watcher.said(&control);
                    match control {
                        Control::Ok(ok) => {
                            let status = ok.status;
                            outcome.cursor = status.contains(Status::CURSOR_EXISTS);
                            outcome.insert_id = ok.last_insert_id;
                            session.replied(server.0, status);
                            if status.contains(Status::SESSION_STATE_CHANGED) {
                                if ok.state.is_empty() {
                                    owed = true;
                                    backend.unsaid.get_or_insert_with(|| watcher.began());
                                }
                                let blurred = &mut outcome.blurred;
                                note_changes(session, backend, &ok, watcher, blurred);
                                let seen = Seen { client_caps, reporting };
                                let len = seen.only(&mut buf.filled_mut()[start..end]);
                                let gone = end - start - len;
                                if gone > 0 {
                                    buf.close_gap(end, gone);
                                    end -= gone;
                                }
                            }
                            if !owed {
                                backend.unsaid = None;
                            }
                            owed |= watcher.commits_unsaid(status);
                            if !status.contains(Status::MORE_RESULTS) {
                                watcher.ended(status);
                                if owed {
                                    watcher.wrote_somewhere().await;
                                }
                            }
                        }
                        Control::Err(e) => {
                            // What was committed before it failed is told with the next that succeeds.
                            backend.unsaid.get_or_insert_with(|| watcher.began());
                            if passed == 0 && start == 0 && watcher.is_read_only(&e) {
                                return Err(Failure::ReadOnly);
                            }
                            if passed == 0 && start == 0 && watcher.is_full(&e) {
                                return Err(Failure::Full(buf.filled()[HEADER..end].to_vec()));
                            }
                            if passed == 0 && start == 0 && watcher.is_behind(&e) {
                                return Err(Failure::Behind(buf.filled()[HEADER..end].to_vec()));
                            }
                            outcome.error = Some(e.code);
                            if owed || watcher.may_have_written(session.transaction().is_some()) {
                                watcher.wrote_somewhere().await;
                            }
                        }
                        Control::Prepared { id, params, .. } => {
                            outcome.prepared = Some((id, params));
                            let own = watcher.prepared(id, params);
                            let at = start + HEADER + 1;
                            buf.filled_mut()[at..at + 4].copy_from_slice(&own.to_le_bytes());
                        }
                        Control::ColumnsEnd(status) => {
                            if status.contains(Status::SESSION_STATE_CHANGED) {
                                hide_change(&mut buf.filled_mut()[start..end]);
                            }
                        }
                        // Passed on like anything else: as from any other beginning of a reply,
                        // there is no way back from it, since its sequence id is used up.
                        Control::Text | Control::Progress => {}
                        Control::LocalInfile => {
                            file_seq = buf.filled()[start + HEADER - 1].wrapping_add(1);
                            ready = end;
                            break true;
                        }
                    }
                    ready = end;
                }
            }
        };
        if ready > 0 {
            client.write_all(&buf.filled()[..ready]).await?;
            if !matches!(client, Sink::Keep(_)) {
                passed += ready as u64;
            }
            buf.consume(ready);
        }
        if wants_file {
            let Sink::Client(client) = client else { return Err(Failure::Client) };
            let seq = send_file(backend, client, file_seq).await?;
            tracker.local_infile_sent(seq);
        }
        if tracker.is_done() {
            return Ok(outcome);
        }
        if full {
            buf.widen();
        }
    }
}

fn note_changes(
    session: &mut Session,
    backend: &mut Backend,
    ok: &OkPacket<'_>,
    watcher: &mut impl Watcher,
    blurred: &mut Blurred,
) {
    let began = backend.unsaid.unwrap_or_else(|| watcher.began());
    for change in ok.state_changes() {
        match change {
            StateChange::Variable { name: b"last_gtid", value } => {
                if backend.blurs && backend.told_gtid == value {
                    // Something was set that has no place of its own, for this connection only.
                    session.changed(StateChange::Variable { name: b"timestamp", value: b"" });
                    continue;
                }
                if backend.blurs {
                    value.clone_into(&mut backend.told_gtid);
                }
                if !value.is_empty() {
                    watcher.wrote(value, began);
                }
            }
            StateChange::Gtids(gtids) => watcher.wrote(gtids, began),
            StateChange::Schema(name) => {
                backend.schema = (!name.is_empty()).then(|| name.into());
                session.changed(change);
            }
            other => {
                if let StateChange::Variable { name, .. } = other
                    && backend.blurs
                {
                    blurred.note(name);
                }
                session.changed(other);
            }
        }
    }
}

/// What the client is to see of an OK or EOF that says that the session changed.
struct Seen<'a> {
    client_caps: Capabilities,
    reporting: &'a Reporting,
}

impl Seen<'_> {
    /// Leaves only that in the packet; gives its new length.
    fn only(&self, packet: &mut [u8]) -> usize {
        if is_eof(packet) {
            hide_change(packet);
            return packet.len();
        }
        let tracks = self.client_caps.contains(Capabilities::SESSION_TRACK);
        retain_state(packet, tracks, |change| self.reporting.wants(change))
    }
}

fn is_eof(packet: &[u8]) -> bool {
    packet.len() == HEADER + 5 && packet[HEADER] == 0xfe
}

/// Takes "something about the session changed" out of an EOF's status: that is for us, and what
/// changed can't be told in an EOF.
fn hide_change(eof: &mut [u8]) {
    if is_eof(eof) {
        eof[HEADER + 4] &= !(Status::SESSION_STATE_CHANGED.bits() >> 8) as u8;
    }
}

/// LOAD DATA LOCAL INFILE: the client's packets go to the server until an empty one. `seq`: what the
/// server expects the first to have; compressed ones may have any.
async fn send_file(backend: &mut Backend, client: &mut Socket, mut seq: u8) -> Result<u8, Failure> {
    let mut buf = Buffer::borrow();
    let mut left = 0;
    loop {
        if left == 0 {
            while Header::parse(buf.filled()).is_none() {
                if !client.read(&mut buf).await.is_ok_and(|n| n > 0) {
                    return Err(Failure::Client);
                }
            }
            if client.is_compressed() {
                buf.filled_mut()[HEADER - 1] = seq;
                seq = seq.wrapping_add(1);
            }
            let header = Header::parse(buf.filled()).expect("just seen");
            left = HEADER + header.len;
            debug_assert!(header.len <= MAX_PAYLOAD);
            if header.len == 0 {
                backend.socket.write_all(&buf.filled()[..HEADER]).await.map_err(server_failed)?;
                return Ok(header.seq);
            }
        }
        if buf.is_empty() && !client.read(&mut buf).await.is_ok_and(|n| n > 0) {
            return Err(Failure::Client);
        }
        let n = left.min(buf.filled().len());
        backend.socket.write_all(&buf.filled()[..n]).await.map_err(server_failed)?;
        buf.consume(n);
        left -= n;
    }
}

fn server_failed(e: io::Error) -> Failure {
    Failure::Server { broken: e.into(), passed: 1, next_seq: None }
}
