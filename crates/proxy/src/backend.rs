//! One connection to a database server, and commands of our own on it.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use pointsman_cluster::{Live, ServerId};
use pointsman_wire::{
    Capabilities, Command, Control, ErrPacket, HEADER, Header, Malformed, OkPacket, StateChange,
    Status, Step, Tracker, text_row, write_packet,
};
use smallvec::SmallVec;

use crate::after_login::AfterLogin;
use crate::blurred::first;
use crate::buffers::Buffer;
use crate::fate::{Commit, Marks};
use crate::pool::{Key, Slot};
use crate::reporting::NAMES;
use crate::socket::Socket;

mod login;

pub use login::{ConnectError, Login, Origin};

/// A connection that belongs to one session.
pub struct Backend {
    pub server: ServerId,
    pub socket: Socket,
    pub caps: Capabilities,
    /// The server's own id of this connection, for `KILL`.
    pub thread_id: u32,
    /// Version of the session's variables it is in step with.
    pub version: u64,
    /// The client's prepared statements here, by the client's ids.
    pub statements: HashMap<u32, Here>,
    /// Commands that go out with the next one. None of them has a reply, but for what makes it clean.
    pub pending: Vec<u8>,
    /// The replies to what makes it clean are still to be read, before any other: see
    /// [`Backend::settle`].
    owed: bool,
    /// To its cleaning belongs a reply about its schema.
    owes_schema: bool,
    /// The OK that ended its login.
    pub welcome: Box<[u8]>,
    /// Status flags of its login, or as the last command of our own left them.
    pub status: Status,
    /// Those with which it is as after its login.
    first_status: Status,
    pub live: Arc<Live>,
    pub counted: Rc<Counted>,
    pub mariadb: bool,
    /// It reports some variables by others' names; see [`crate::blurred`].
    pub blurs: bool,
    /// The position that such a server reported last.
    pub told_gtid: Vec<u8>,
    /// Since when it may have committed something that no reply has told of: those that fail can't.
    pub unsaid: Option<Instant>,
    /// No reply is owed: it may be told goodbye.
    pub in_step: bool,
    /// Its default schema; `None`: none.
    pub schema: Option<Box<[u8]>>,
    /// Who may use it.
    pub key: Key,
    pub born: Instant,
    /// The count of [`crate::shared::Shared::server_wide`] when it was made.
    pub server_wide: u64,
    /// Its place in the pool's count.
    pub slot: Option<Slot>,
    /// The newest commits it was told of, by whichever session, of each source one; `None`: there was
    /// one that could not be learnt.
    pub committed: Option<SmallVec<[Commit; 1]>>,
    /// What writes are found by in binary logs.
    pub marks: Marks,
    /// COM_SET_OPTION changed it; no reset undoes that.
    pub option_set: bool,
    /// It may have prepared an XA transaction, which a reset would roll back on this server alone;
    /// only the connection's end leaves it to be committed by another. Or it may have another role
    /// active than after its login, which MariaDB keeps over a reset.
    pub outlasts_reset: bool,
    /// The account's password had expired at its login: the server takes nothing but a new one, not
    /// even [`Backend::track`]. The ERR payload it says so with.
    pub sandboxed: Option<Box<[u8]>>,
    /// What to do after a reset; `None`: it can't be used by another session.
    pub after_login: Option<Rc<AfterLogin>>,
}

/// Most room kept for what goes out with the next command, in bytes.
const MOST_KEPT: usize = 1 << 12;

/// One open connection in the server's count.
pub struct Counted {
    live: Arc<Live>,
    open: Cell<bool>,
}

impl Counted {
    fn new(live: &Arc<Live>) -> Rc<Self> {
        live.connections.fetch_add(1, Relaxed);
        Rc::new(Self { live: Arc::clone(live), open: Cell::new(true) })
    }

    /// Whether the descriptor is still the connection's.
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// The connection is closed, or as good as.
    pub fn give_up(&self) {
        if self.open.replace(false) {
            self.live.connections.fetch_sub(1, Relaxed);
        }
    }
}

/// A prepared statement as this server knows it.
#[derive(Debug, Clone, Copy)]
pub struct Here {
    pub id: u32,
    /// It has been told the parameters' types.
    pub bound: bool,
    /// When it was used last, by the count of the session's commands.
    pub used: u64,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.counted.give_up();
        if self.in_step {
            // COM_QUIT: without it servers count and log an aborted connection.
            self.socket.try_write(&[1, 0, 0, 0, 1]);
        }
    }
}

/// The connection broke, or the server said something that is not the protocol.
#[derive(Debug)]
pub enum Broken {
    Io(io::Error),
    Malformed(Malformed),
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Malformed> for Broken {
    fn from(e: Malformed) -> Self {
        Self::Malformed(e)
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Malformed(e) => e.fmt(f),
        }
    }
}

/// How statements of our own begin that are joined to others.
const SET: &[u8] = b"\x03SET ";

/// What MySQL is to report, but for GTIDs.
const TRACKING: &[u8] = b"\x03SET session_track_system_variables='*', session_track_schema=1";
const TRACKING_MARIADB: &[u8] =
    concat!("\x03SET session_track_system_variables='", first!(), ",*', session_track_schema=1")
        .as_bytes();

/// "You must reset your password using ALTER USER statement before executing this statement."
pub const MUST_CHANGE_PASSWORD: u16 = 1820;

/// Longest packet believed while logging in, from either side, in bytes.
const LONGEST_LOGIN_PACKET: usize = 64 << 10;

/// One packet's payload from the stream, while logging in.
pub async fn read_packet(socket: &mut Socket, buf: &mut Buffer) -> io::Result<(u8, Vec<u8>)> {
    loop {
        if let Some(header) = Header::parse(buf.filled()) {
            if header.len > LONGEST_LOGIN_PACKET {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "packet too long here"));
            }
            let end = HEADER + header.len;
            if buf.filled().len() >= end {
                let payload = buf.filled()[HEADER..end].to_vec();
                buf.consume(end);
                return Ok((header.seq, payload));
            }
            buf.reserve(end);
        }
        if socket.read(buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

impl Backend {
    /// Has every change of a session variable reported: that is how state is carried, and how the
    /// positions of writes are learnt.
    pub async fn track(&mut self) -> Result<Result<(u32, u16, u16), Vec<u8>>, Broken> {
        self.command(self.tracking()).await
    }

    /// The same where only the rest may have changed.
    pub async fn track_all_but_gtids(
        &mut self,
    ) -> Result<Result<(u32, u16, u16), Vec<u8>>, Broken> {
        self.command(if self.mariadb { TRACKING_MARIADB } else { TRACKING }).await
    }

    fn tracking(&self) -> &'static [u8] {
        if self.mariadb {
            TRACKING_MARIADB
        } else {
            b"\x03SET session_track_system_variables='*', session_track_schema=1, session_track_gtids=OWN_GTID"
        }
    }

    /// Whether another session may have it, once it is clean.
    pub fn may_be_shared(&self) -> bool {
        // An interactive client's connection has other timeouts, which a reset would take away, as it
        // would the `sql_mode` of one that ignores spaces.
        !self.option_set
            && !self.outlasts_reset
            && self.sandboxed.is_none()
            && self.after_login.as_ref().is_some_and(|a| a.may_be())
            && !self.caps.intersects(Capabilities::INTERACTIVE | Capabilities::IGNORE_SPACE)
    }

    /// Makes it as after its login, but for the default schema. False: it can't be.
    pub async fn clean(&mut self) -> bool {
        if !self.clean_later() {
            let Some(after_login) = self.after_login.clone() else { return false };
            return after_login.find(self).await.unwrap_or(false);
        }
        self.in_step = false;
        let out = std::mem::take(&mut self.pending);
        if self.socket.write_all(&out).await.is_err() {
            return false;
        }
        let mut buf = Buffer::borrow();
        self.in_step = self.settle(&mut buf).await.is_ok();
        self.in_step
    }

    /// The same, but all of it goes out in front of what its next user says first: nobody waits for
    /// that alone. Only where its last user has left nothing behind that would be felt until then.
    pub fn clean_later(&mut self) -> bool {
        let Some(after_login) = self.after_login.as_ref().and_then(|a| a.way()) else {
            return false;
        };
        // In one statement: one reply less, for both sides.
        let set = [after_login, &self.tracking()[SET.len()..]].concat();
        let mut out = std::mem::take(&mut self.pending);
        out.clear();
        self.told_gtid.clear();
        self.unsaid = None;
        self.statements.clear();
        self.version = 0;
        self.status = self.first_status;
        write_packet(&mut out, 0, &[0x1f]);
        self.put_own(&mut out, &set);
        self.owes_schema = self.schema.is_some();
        if let Some(schema) = &self.schema {
            // It is still there, but its character set is not: a reset makes that the server's, for
            // LOAD DATA say. It may have been altered meanwhile, too.
            write_packet(&mut out, 0, &[b"\x02", &schema[..]].concat());
        }
        self.pending = out;
        self.owed = true;
        true
    }

    /// Resets it and then sets what belongs to its login and what is ours by a statement that begins
    /// with `after_login`; `Ok(Err(payload))`: the server refuses one of them.
    pub async fn reset(&mut self, after_login: &[u8]) -> Result<Result<(), Vec<u8>>, Broken> {
        self.pending.clear();
        self.told_gtid.clear();
        self.unsaid = None;
        self.statements.clear();
        self.version = 0;
        if let Err(payload) = self.command(&[0x1f]).await? {
            return Ok(Err(payload));
        }
        let set = [after_login, &self.tracking()[SET.len()..]].concat();
        let done = self.command(&set).await?.map(drop);
        if done.is_err() {
            // It is of use without the rest, but not without ours.
            let _ = self.track().await?;
        }
        if let Some(schema) = self.schema.clone() {
            let _ = self.command(&[b"\x02", &schema[..]].concat()).await?;
        }
        Ok(done)
    }

    /// Reads what was said to its cleaning, if that is still owed. Whoever has sent something must do
    /// so before reading the answer; what of that came along stays in `buf`.
    ///
    /// # Errors
    /// It is not clean, or gone: not to be used any more, and what was sent may have run or not.
    pub async fn settle(&mut self, buf: &mut Buffer) -> Result<(), Broken> {
        if !std::mem::take(&mut self.owed) {
            return Ok(());
        }
        for command in [Command::ResetConnection, Command::Query] {
            if let Err(payload) = self.own_reply(command, buf).await? {
                let code = error_code(&payload);
                return Err(io::Error::other(format!("error {code} on its reset")).into());
            }
        }
        if std::mem::take(&mut self.owes_schema) {
            // If that is gone or forbidden by now, whoever comes is told so by what they do there.
            let _ = self.own_reply(Command::InitDb, buf).await?;
        }
        Ok(())
    }

    /// Whether [`Backend::settle`] has anything to do.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        self.owed
    }

    /// What the client has just set `session_track_...` to: servers report that only if it is in
    /// their own list. [`Backend::track`] must follow.
    pub async fn tracked(&mut self) -> Result<Vec<(&'static [u8], Vec<u8>)>, Broken> {
        // MariaDB has no GTIDs to report.
        let names = if self.mariadb { &NAMES[..2] } else { &NAMES[..] };
        let mut ask = b"\x03SELECT".to_vec();
        for (i, name) in names.iter().enumerate() {
            ask.extend_from_slice(if i == 0 { b" @@" } else { b", @@" });
            ask.extend_from_slice(name);
        }
        let values = self.row(&ask).await?.into_iter().map(Option::unwrap_or_default);
        Ok(names.iter().copied().zip(values).collect())
    }

    /// Sends a client's command, after what was put off for it.
    pub async fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        if self.pending.is_empty() {
            return self.socket.write_all(packet).await;
        }
        let mut out = std::mem::take(&mut self.pending);
        out.extend_from_slice(packet);
        self.socket.write_all(&out).await?;
        if out.capacity() <= MOST_KEPT {
            // Its room is used again.
            out.clear();
            self.pending = out;
        }
        Ok(())
    }

    /// Sends a COM_QUERY whose text begins at `text_at` of `packet`, with something before the text.
    pub async fn send_with(
        &mut self,
        before: &[u8],
        packet: &[u8],
        text_at: usize,
    ) -> io::Result<()> {
        let len = packet.len() - HEADER + before.len();
        self.pending.extend_from_slice(&(len as u32).to_le_bytes()[..3]);
        self.pending.push(packet[HEADER - 1]);
        self.pending.extend_from_slice(&packet[HEADER..text_at]);
        self.pending.extend_from_slice(before);
        self.send(&packet[text_at..]).await
    }

    /// Appends a command of our own.
    fn put_own(&self, out: &mut Vec<u8>, payload: &[u8]) {
        if payload[0] == 0x03 && self.caps.contains(Capabilities::QUERY_ATTRIBUTES) {
            // Without attributes, in one set.
            write_packet(out, 0, &[b"\x03\0\x01", &payload[1..]].concat());
        } else {
            write_packet(out, 0, payload);
        }
    }

    /// Sends a command of our own and swallows its reply: `Ok(Err(payload))` is the server's ERR.
    /// `Ok(Ok((id, params, columns)))` is what COM_STMT_PREPARE brought, zeros for the rest.
    pub async fn command(
        &mut self,
        payload: &[u8],
    ) -> Result<Result<(u32, u16, u16), Vec<u8>>, Broken> {
        let mut out = std::mem::take(&mut self.pending);
        self.put_own(&mut out, payload);
        self.in_step = false;
        self.socket.write_all(&out).await?;
        let mut buf = Buffer::borrow();
        self.settle(&mut buf).await?;
        let answer = self.own_reply(Command::from_byte(payload[0]), &mut buf).await?;
        self.in_step = true;
        Ok(answer)
    }

    /// The only row of a short answer to COM_QUERY; empty if the server refuses.
    pub async fn row(&mut self, payload: &[u8]) -> Result<Vec<Option<Vec<u8>>>, Broken> {
        let mut out = std::mem::take(&mut self.pending);
        self.put_own(&mut out, payload);
        self.in_step = false;
        self.socket.write_all(&out).await?;
        let mut buf = Buffer::borrow();
        self.settle(&mut buf).await?;
        let (_, head) = read_packet(&mut self.socket, &mut buf).await?;
        let columns = match head.first() {
            Some(n @ 1..=250) => usize::from(*n),
            Some(0xff) => {
                self.in_step = true;
                return Ok(Vec::new());
            }
            _ => return Err(Malformed("no result").into()),
        };
        let left_out = self.caps.contains(Capabilities::OPTIONAL_RESULTSET_METADATA)
            && head.last() == Some(&0);
        let definitions = if left_out { 0 } else { columns };
        let eof = usize::from(!self.caps.contains(Capabilities::DEPRECATE_EOF));
        for _ in 0..definitions + eof {
            read_packet(&mut self.socket, &mut buf).await?;
        }
        let (_, row) = read_packet(&mut self.socket, &mut buf).await?;
        let (_, end) = read_packet(&mut self.socket, &mut buf).await?;
        if end.first() != Some(&0xfe) {
            return Err(Malformed("more than one row").into());
        }
        self.in_step = true;
        Ok(text_row(&row)?.into_iter().map(|field| field.map(<[u8]>::to_vec)).collect())
    }

    /// The reply to a command of our own. What comes behind it stays in `buf`.
    async fn own_reply(
        &mut self,
        command: Command,
        buf: &mut Buffer,
    ) -> Result<Result<(u32, u16, u16), Vec<u8>>, Broken> {
        let mut tracker = Tracker::new(command.expect(), self.caps);
        let mut answer = Ok((0, 0, 0));
        loop {
            while !tracker.is_done() {
                let (used, more) = match tracker.step(buf.filled())? {
                    Step::More { pass } => (pass, true),
                    Step::Control { pass, end, control, .. } => {
                        match control {
                            Control::Err(_) => {
                                answer = Err(buf.filled()[pass + HEADER..end].to_vec())
                            }
                            Control::Prepared { id, columns, params } => {
                                answer = Ok((id, params, columns));
                            }
                            Control::Ok(ok) => {
                                self.status = ok.status;
                                if self.blurs
                                    && let Some(gtid) = last_gtid(&ok)
                                {
                                    gtid.clone_into(&mut self.told_gtid);
                                }
                            }
                            Control::LocalInfile => return Err(Malformed("unasked file").into()),
                            _ => {}
                        }
                        (end, false)
                    }
                };
                buf.consume(used);
                if more {
                    break;
                }
            }
            if tracker.is_done() {
                return Ok(answer);
            }
            if self.socket.read(buf).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// What MariaDB tells of the session's last transaction.
fn last_gtid<'a>(ok: &OkPacket<'a>) -> Option<&'a [u8]> {
    ok.state_changes().find_map(|change| match change {
        StateChange::Variable { name: b"last_gtid", value } => Some(value),
        _ => None,
    })
}

/// Code, SQLSTATE and text of an ERR payload, for logs and retries.
#[must_use]
pub fn error_code(payload: &[u8]) -> u16 {
    ErrPacket::parse(payload).map_or(0, |e| e.code)
}
