//! `SHOW PROCESSLIST` as on a direct connection: sessions by the ids and addresses their clients know,
//! those included that the primary does not know of; connections that nobody uses left out. So is
//! the number of them in `SHOW STATUS`, which also shows the key by which clients send us passwords.
//!
//! The tables of `information_schema` and `performance_schema` show what the primary itself knows;
//! `KILL` takes ids from there as well.

use pointsman_cluster::ServerId;
use pointsman_wire::{
    Capabilities, HEADER, Header, Malformed, Reader, put_lenenc_bytes, write_packet,
};
use tokio::sync::oneshot;

use crate::client::Client;
use crate::fate::Mark;
use crate::worker::{Ask, SessionInfo};

/// What a worker knows of the connections to one server.
#[derive(Default)]
pub struct Holders {
    pub sessions: Vec<Listed>,
    /// The server's ids of the connections that no session has.
    pub idle: Vec<u32>,
}

/// One session.
pub struct Listed {
    pub id: u32,
    pub user: String,
    pub host: String,
    pub database: String,
    /// The server's own id of its connection, if it has one.
    pub thread: Option<u32>,
    /// What it runs, if it does.
    pub running: Option<String>,
    /// Since when it does, or does nothing, in seconds.
    pub time: u64,
}

impl Listed {
    pub fn of(session: &SessionInfo, server: ServerId) -> Self {
        let busy = session.busy.get().is_some();
        let last = session.last_statement.borrow();
        Self {
            id: session.id,
            user: session.user.borrow().clone(),
            host: session.peer.get().to_string(),
            database: session.database.borrow().clone(),
            thread: session.backends.borrow().iter().find(|p| p.server == server).map(|p| p.thread),
            running: last.as_ref().filter(|_| busy).map(|s| s.text.to_string()),
            time: session.changed.get().elapsed().as_secs(),
        }
    }

    /// Its row, as a server would have made it.
    fn row(&self, columns: usize) -> Vec<u8> {
        let command = if self.running.is_some() { "Query" } else { "Sleep" };
        let id = self.id.to_string();
        let time = self.time.to_string();
        let database = Some(self.database.as_str()).filter(|d| !d.is_empty());
        let fields = [
            Some(id.as_str()),
            Some(&self.user),
            Some(&self.host),
            database,
            Some(command),
            Some(&time),
            Some(""),
            self.running.as_deref(),
            Some("0.000"), // MariaDB's Progress
        ];
        let mut row = Vec::new();
        for field in fields.into_iter().chain(std::iter::repeat(None)).take(columns) {
            match field {
                Some(text) => put_lenenc_bytes(&mut row, text.as_bytes()),
                None => row.push(NULL),
            }
        }
        row
    }
}

/// In place of a field.
const NULL: u8 = 0xfb;

impl Client {
    /// Who has which connection to `server`, of all workers.
    pub(crate) async fn holders(&self, server: ServerId) -> Holders {
        let mut all = Holders::default();
        for worker in self.worker.shared.workers.get().into_iter().flatten() {
            let (reply, answer) = oneshot::channel();
            if worker.send(Ask::Holders(server, reply)).is_ok()
                && let Ok(Holders { sessions, idle }) = answer.await
            {
                all.sessions.extend(sessions);
                all.idle.extend(idle);
            }
        }
        all
    }
}

/// A server's reply to `SHOW PROCESSLIST`, as `user` is to see it. Anything but one result set, an
/// error say, stays as it is. `caps`: what was agreed with the server. `key`: our own public one.
pub fn as_seen<'a>(
    reply: Vec<u8>,
    caps: Capabilities,
    holders: &Holders,
    user: &str,
    key: impl Fn() -> Option<&'a [u8]>,
) -> Vec<u8> {
    rewritten(&reply, caps, holders, user, key).unwrap_or(reply)
}

fn rewritten<'a>(
    reply: &[u8],
    caps: Capabilities,
    holders: &Holders,
    user: &str,
    key: impl Fn() -> Option<&'a [u8]>,
) -> Result<Vec<u8>, Malformed> {
    let mut packets = Vec::new();
    let mut rest = reply;
    while let Some(header) = Header::parse(rest) {
        let end = HEADER + header.len;
        packets.push(rest.get(HEADER..end).ok_or(Malformed("cut short"))?);
        rest = &rest[end..];
    }
    let optional = caps.contains(Capabilities::OPTIONAL_RESULTSET_METADATA);
    let (columns, left_out) = match packets.first() {
        Some(&&[n @ 1..=250]) if !optional => (usize::from(n), false),
        Some(&&[n @ 1..=250, follow]) if optional => (usize::from(n), follow == 0),
        _ => return Err(NOT_A_LIST),
    };
    let definitions = if left_out { 0 } else { columns };
    let before = 1 + definitions + usize::from(!caps.contains(Capabilities::DEPRECATE_EOF));
    let [head @ .., end] = &packets[..] else { return Err(NOT_A_LIST) };
    let (head, rows) = head.split_at_checked(before).ok_or(NOT_A_LIST)?;
    if columns == 2 && end.first() == Some(&0xfe) {
        return status(head, rows, end, holders, key);
    }
    if columns < 8 || end.first() != Some(&0xfe) {
        return Err(NOT_A_LIST);
    }

    let mut out = Vec::with_capacity(reply.len() + 128 * holders.sessions.len());
    let mut seq = 1;
    for packet in head {
        seq = write_packet(&mut out, seq, packet);
    }
    let mut listed = Vec::new();
    // Who may see another's connection may see all: the monitor's own is always there.
    let mut sees_all = false;
    for row in rows {
        let mut r = Reader::new(row);
        let thread = std::str::from_utf8(r.lenenc_bytes()?).ok().and_then(|id| id.parse().ok());
        let whose = r.lenenc_bytes()?;
        sees_all |= whose != user.as_bytes();
        let session = holders.sessions.iter().find(|s| s.thread.is_some() && s.thread == thread);
        match session {
            Some(session) => {
                listed.push(session.id);
                let mut row = Vec::new();
                put_lenenc_bytes(&mut row, session.id.to_string().as_bytes());
                put_lenenc_bytes(&mut row, whose);
                put_lenenc_bytes(&mut row, session.host.as_bytes());
                if r.rest().first() == Some(&NULL) {
                    r.u8()?;
                } else {
                    r.lenenc_bytes()?;
                }
                put_without_mark(&mut row, r.rest())?;
                seq = write_packet(&mut out, seq, &row);
            }
            None if thread.is_some_and(|thread| holders.idle.contains(&thread)) => {}
            None => seq = write_packet(&mut out, seq, row),
        }
    }
    let others = holders.sessions.iter().filter(|s| !listed.contains(&s.id));
    for session in others.filter(|s| sees_all || s.user == user) {
        seq = write_packet(&mut out, seq, &session.row(columns));
    }
    write_packet(&mut out, seq, end);
    Ok(out)
}

/// The fields behind the schema, without the comment by which a running write would be found again.
fn put_without_mark(row: &mut Vec<u8>, fields: &[u8]) -> Result<(), Malformed> {
    let mut r = Reader::new(fields);
    while !r.is_empty() {
        let rest = r.rest();
        if rest[0] == NULL {
            r.u8()?;
            row.push(NULL);
            continue;
        }
        let field = r.lenenc_bytes()?;
        let bare = Mark::of(field).map_or(field, |_| &field[Mark::LEN..]);
        put_lenenc_bytes(row, bare);
    }
    Ok(())
}

/// The reply to `SHOW STATUS`: connected are the clients, not who happens to have a connection, and
/// passwords are encrypted for us.
fn status<'a>(
    head: &[&[u8]],
    rows: &[&[u8]],
    end: &[u8],
    holders: &Holders,
    key: impl Fn() -> Option<&'a [u8]>,
) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    let mut seq = 1;
    for packet in head {
        seq = write_packet(&mut out, seq, packet);
    }
    for row in rows {
        let mut r = Reader::new(row);
        let name = r.lenenc_bytes()?;
        let value = match name {
            b"Threads_connected" => {
                let count = str::from_utf8(r.lenenc_bytes()?).ok().and_then(|n| n.parse().ok());
                let count: usize = count.ok_or(NOT_A_LIST)?;
                let elsewhere = holders.sessions.iter().filter(|s| s.thread.is_none()).count();
                let count = (count + elsewhere).saturating_sub(holders.idle.len()).max(1);
                Some(count.to_string().into_bytes())
            }
            b"Rsa_public_key" | b"Caching_sha2_password_rsa_public_key" => {
                key().map(<[u8]>::to_vec)
            }
            _ => None,
        };
        let Some(value) = value else {
            seq = write_packet(&mut out, seq, row);
            continue;
        };
        let mut row = Vec::new();
        put_lenenc_bytes(&mut row, name);
        put_lenenc_bytes(&mut row, &value);
        seq = write_packet(&mut out, seq, &row);
    }
    write_packet(&mut out, seq, end);
    Ok(out)
}

const NOT_A_LIST: Malformed = Malformed("not a process list");

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Capabilities = Capabilities::empty();

    fn row(fields: &[&str]) -> Vec<u8> {
        let mut row = Vec::new();
        fields.iter().for_each(|f| put_lenenc_bytes(&mut row, f.as_bytes()));
        row
    }

    fn reply(rows: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut seq = write_packet(&mut out, 1, &[8]);
        for _ in 0..8 {
            seq = write_packet(&mut out, seq, b"\x03def");
        }
        seq = write_packet(&mut out, seq, &[0xfe, 0, 0, 2, 0]);
        for row in rows {
            seq = write_packet(&mut out, seq, row);
        }
        write_packet(&mut out, seq, &[0xfe, 0, 0, 2, 0]);
        out
    }

    fn session(id: u32, user: &str, thread: Option<u32>) -> Listed {
        Listed {
            id,
            user: user.into(),
            host: format!("10.0.0.{id}:99"),
            database: "app".into(),
            thread,
            running: None,
            time: 3,
        }
    }

    fn server_row(thread: &str, user: &str) -> Vec<u8> {
        row(&[thread, user, "proxy:1", "app", "Sleep", "1", "", "SELECT"])
    }

    #[test]
    fn connected_are_the_clients() {
        let reply = |rows: &[[&str; 2]]| {
            let mut out = Vec::new();
            let mut seq = write_packet(&mut out, 1, &[2]);
            for _ in 0..2 {
                seq = write_packet(&mut out, seq, b"\x03def");
            }
            for fields in rows {
                seq = write_packet(&mut out, seq, &row(fields));
            }
            write_packet(&mut out, seq, &[0xfe, 0, 0, 2, 0, 0, 0]);
            out
        };
        let holders = Holders {
            sessions: vec![session(70, "app", Some(5)), session(71, "app", None)],
            idle: vec![6, 7],
        };
        let told = reply(&[["Threads_cached", "3"], ["Threads_connected", "9"], ["Uptime", "1"]]);
        let seen = reply(&[["Threads_cached", "3"], ["Threads_connected", "8"], ["Uptime", "1"]]);
        assert_eq!(as_seen(told, Capabilities::DEPRECATE_EOF, &holders, "app", || None), seen);
        let told = reply(&[["Rsa_public_key", "theirs"]]);
        let seen =
            as_seen(told.clone(), Capabilities::DEPRECATE_EOF, &holders, "app", || Some(b"ours"));
        assert_eq!(seen, reply(&[["Rsa_public_key", "ours"]]));
        assert_eq!(
            as_seen(told.clone(), Capabilities::DEPRECATE_EOF, &holders, "app", || None),
            told
        );
    }

    #[test]
    fn sessions_are_listed_by_the_ids_their_clients_know() {
        let holders = Holders {
            sessions: vec![
                session(70, "app", Some(5)),
                session(71, "app", None),
                session(72, "other", None),
            ],
            idle: vec![6],
        };
        let rows = [server_row("5", "app"), server_row("6", "app")];
        let mine = row(&["70", "app", "10.0.0.70:99", "app", "Sleep", "1", "", "SELECT"]);
        let mut elsewhere = row(&["71", "app", "10.0.0.71:99", "app", "Sleep", "3", ""]);
        elsewhere.push(NULL);
        assert_eq!(
            as_seen(reply(&rows), OLD, &holders, "app", || None),
            reply(&[mine.clone(), elsewhere.clone()])
        );
        // Who sees others' connections sees others' sessions.
        let rows = [server_row("5", "app"), server_row("9", "monitor")];
        let seen = as_seen(reply(&rows), OLD, &holders, "app", || None);
        let mut theirs = row(&["72", "other", "10.0.0.72:99", "app", "Sleep", "3", ""]);
        theirs.push(NULL);
        assert_eq!(seen, reply(&[mine, server_row("9", "monitor"), elsewhere, theirs]));
    }

    #[test]
    fn definitions_need_not_be_there() {
        let caps = Capabilities::OPTIONAL_RESULTSET_METADATA | Capabilities::DEPRECATE_EOF;
        let reply = |value: &str| {
            let mut out = Vec::new();
            let seq = write_packet(&mut out, 1, &[2, 0]);
            let seq = write_packet(&mut out, seq, &row(&["Threads_connected", value]));
            write_packet(&mut out, seq, &[0xfe, 0, 0, 2, 0, 0, 0]);
            out
        };
        let holders = Holders { sessions: vec![], idle: vec![6, 7] };
        assert_eq!(as_seen(reply("9"), caps, &holders, "app", || None), reply("7"));
    }

    #[test]
    fn what_is_no_list_stays_as_it_is() {
        let mut error = Vec::new();
        write_packet(&mut error, 1, b"\xff\x01\x02#HY000no");
        let seen = as_seen(error.clone(), OLD, &Holders::default(), "app", || None);
        assert_eq!(seen, error);
        let cut = reply(&[])[..20].to_vec();
        assert_eq!(as_seen(cut.clone(), OLD, &Holders::default(), "app", || None), cut);
    }
}
