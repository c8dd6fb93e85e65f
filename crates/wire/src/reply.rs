//! OK, EOF and ERR packets ("Protocol::OK_Packet", "Protocol::EOF_Packet", "Protocol::ERR_Packet")
//! and session state changes ("Session State Information").

use bitflags::bitflags;

use crate::{
    Capabilities, HEADER, Header, Malformed, Reader, put_lenenc, put_lenenc_bytes, write_packet,
};

bitflags! {
    /// Server status flags ("SERVER_STATUS_flags_enum").
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Status: u16 {
        const IN_TRANSACTION = 0x0001;
        const AUTOCOMMIT = 0x0002;
        const MORE_RESULTS = 0x0008;
        const NO_GOOD_INDEX = 0x0010;
        const NO_INDEX = 0x0020;
        const CURSOR_EXISTS = 0x0040;
        const LAST_ROW_SENT = 0x0080;
        const DB_DROPPED = 0x0100;
        const NO_BACKSLASH_ESCAPES = 0x0200;
        const METADATA_CHANGED = 0x0400;
        const SLOW = 0x0800;
        const OUT_PARAMETERS = 0x1000;
        const IN_READ_ONLY_TRANSACTION = 0x2000;
        const SESSION_STATE_CHANGED = 0x4000;
        /// MariaDB: ANSI_QUOTES.
        const ANSI_QUOTES = 0x8000;
    }
}

/// An OK packet, or the OK that ends a result set where EOF is deprecated.
#[derive(Debug, Clone, Copy)]
pub struct OkPacket<'a> {
    pub affected_rows: u64,
    pub last_insert_id: u64,
    pub status: Status,
    pub warnings: u16,
    pub info: &'a [u8],
    /// Raw session state changes, empty if there are none.
    pub state: &'a [u8],
}

impl<'a> OkPacket<'a> {
    /// `payload` starts with 0x00 or 0xfe.
    pub fn parse(payload: &'a [u8], caps: Capabilities) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        r.u8()?;
        let affected_rows = r.lenenc()?;
        let last_insert_id = r.lenenc()?;
        let status = Status::from_bits_retain(r.u16()?);
        let warnings = r.u16()?;
        let mut ok =
            Self { affected_rows, last_insert_id, status, warnings, info: &[], state: &[] };
        if !r.is_empty() {
            // Servers send `info` length-encoded with and without CLIENT_SESSION_TRACK.
            ok.info = r.lenenc_bytes()?;
            if caps.contains(Capabilities::SESSION_TRACK)
                && status.contains(Status::SESSION_STATE_CHANGED)
                && !r.is_empty()
            {
                // MariaDB appends a byte for the length as a character in the default schema's
                // character set: in ucs2, utf16 and utf32, one or three zeros stand before it.
                let zeros = r.rest().iter().take(3).take_while(|byte| **byte == 0).count();
                if zeros < r.rest().len() {
                    r.take(zeros)?;
                }
                ok.state = r.lenenc_bytes()?;
            }
        }
        Ok(ok)
    }

    /// The session state changes it carries.
    #[must_use]
    pub fn state_changes(&self) -> StateChanges<'a> {
        StateChanges { outer: Reader::new(self.state), variables: Reader::new(&[]) }
    }
}

/// One change of the session's state as the server reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateChange<'a> {
    /// A system variable now has this value.
    Variable { name: &'a [u8], value: &'a [u8] },
    /// The default schema is now this one.
    Schema(&'a [u8]),
    /// Something else about the session changed.
    Changed,
    /// MySQL: GTIDs of the transaction just committed.
    Gtids(&'a [u8]),
    /// Characteristics of the open or next transaction, as statements.
    TransactionCharacteristics(&'a [u8]),
    /// One letter per property of the transaction's state.
    TransactionState(&'a [u8]),
    /// A kind this code does not know.
    Other(u8),
}

/// Iterates over session state changes; stops at the first malformed one.
#[derive(Debug, Clone)]
pub struct StateChanges<'a> {
    outer: Reader<'a>,
    /// MariaDB packs several variables into one entry.
    variables: Reader<'a>,
}

impl<'a> Iterator for StateChanges<'a> {
    type Item = StateChange<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.variables.is_empty() {
            let name = self.variables.lenenc_bytes().ok()?;
            let value = self.variables.lenenc_bytes().ok()?;
            return Some(StateChange::Variable { name, value });
        }
        if self.outer.is_empty() {
            return None;
        }
        let kind = self.outer.u8().ok()?;
        let data = self.outer.lenenc_bytes().ok()?;
        let mut r = Reader::new(data);
        Some(match kind {
            0 => {
                self.variables = r;
                return self.next();
            }
            1 => StateChange::Schema(r.lenenc_bytes().ok()?),
            2 => StateChange::Changed,
            3 => {
                r.u8().ok()?; // encoding specification, always 0
                StateChange::Gtids(r.lenenc_bytes().ok()?)
            }
            4 => StateChange::TransactionCharacteristics(r.lenenc_bytes().ok()?),
            5 => StateChange::TransactionState(r.lenenc_bytes().ok()?),
            other => StateChange::Other(other),
        })
    }
}

/// Rewrites an OK packet in place so that it carries only those state changes the client may see.
///
/// `packet` is one whole packet with its header. With `keep` false for all, or a client without
/// `CLIENT_SESSION_TRACK`, the state and its flag go away. Returns the new length, never longer.
/// A packet that can't be parsed is left as it is.
pub fn retain_state(
    packet: &mut [u8],
    client_tracks: bool,
    mut keep: impl FnMut(StateChange<'_>) -> bool,
) -> usize {
    let len = packet.len();
    let caps = Capabilities::SESSION_TRACK;
    let Ok(ok) = OkPacket::parse(&packet[HEADER..], caps) else { return len };
    if !ok.status.contains(Status::SESSION_STATE_CHANGED) {
        return len;
    }
    let payload = with_state(packet[HEADER], &ok, |change| client_tracks && keep(change), None);
    let new = HEADER + payload.len();
    if new > len {
        return len;
    }
    let seq = packet[3];
    packet[..HEADER].copy_from_slice(&Header { len: payload.len(), seq }.to_bytes());
    packet[HEADER..new].copy_from_slice(&payload);
    new
}

/// An OK packet's payload with those state changes it shall `keep`, one `more`, and another `info`. One that
/// can't be parsed stays as it is.
#[must_use]
pub fn ok_payload(
    payload: &[u8],
    keep: impl FnMut(StateChange<'_>) -> bool,
    more: Option<StateChange<'_>>,
    info: Option<&[u8]>,
) -> Vec<u8> {
    match OkPacket::parse(payload, Capabilities::SESSION_TRACK) {
        Ok(ok) => {
            let ok = OkPacket { info: info.unwrap_or(ok.info), ..ok };
            with_state(payload[0], &ok, keep, more)
        }
        Err(_) => payload.to_vec(),
    }
}

fn with_state(
    first: u8,
    ok: &OkPacket<'_>,
    mut keep: impl FnMut(StateChange<'_>) -> bool,
    more: Option<StateChange<'_>>,
) -> Vec<u8> {
    let mut kept = Vec::new();
    for change in ok.state_changes().filter(|change| keep(*change)).chain(more) {
        put_state_change(&mut kept, change);
    }
    let mut status = ok.status;
    status.set(Status::SESSION_STATE_CHANGED, !kept.is_empty());
    let mut payload = vec![first];
    put_lenenc(&mut payload, ok.affected_rows);
    put_lenenc(&mut payload, ok.last_insert_id);
    payload.extend_from_slice(&status.bits().to_le_bytes());
    payload.extend_from_slice(&ok.warnings.to_le_bytes());
    if !ok.info.is_empty() || !kept.is_empty() {
        put_lenenc_bytes(&mut payload, ok.info);
    }
    if !kept.is_empty() {
        put_lenenc_bytes(&mut payload, &kept);
    }
    payload
}

fn put_state_change(out: &mut Vec<u8>, change: StateChange<'_>) {
    let mut data = Vec::new();
    let kind = match change {
        StateChange::Variable { name, value } => {
            put_lenenc_bytes(&mut data, name);
            put_lenenc_bytes(&mut data, value);
            0
        }
        StateChange::Schema(name) => {
            put_lenenc_bytes(&mut data, name);
            1
        }
        StateChange::Changed => {
            put_lenenc_bytes(&mut data, b"1");
            2
        }
        StateChange::Gtids(gtids) => {
            data.push(0);
            put_lenenc_bytes(&mut data, gtids);
            3
        }
        StateChange::TransactionCharacteristics(text) => {
            put_lenenc_bytes(&mut data, text);
            4
        }
        StateChange::TransactionState(text) => {
            put_lenenc_bytes(&mut data, text);
            5
        }
        StateChange::Other(_) => return,
    };
    out.push(kind);
    put_lenenc_bytes(out, &data);
}

/// An ERR packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrPacket<'a> {
    pub code: u16,
    pub sqlstate: &'a [u8],
    pub message: &'a [u8],
}

impl<'a> ErrPacket<'a> {
    /// `payload` starts with 0xff.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        r.u8()?;
        let code = r.u16()?;
        let rest = r.rest();
        // Errors before the client's capabilities are known carry no SQLSTATE.
        let (sqlstate, message) = match rest.split_first() {
            Some((b'#', tail)) if tail.len() >= 5 => tail.split_at(5),
            _ => (&b"HY000"[..], rest),
        };
        Ok(Self { code, sqlstate, message })
    }
}

/// Appends an ERR packet; returns the next sequence id.
pub fn err_packet(out: &mut Vec<u8>, seq: u8, code: u16, sqlstate: &str, message: &str) -> u8 {
    let mut payload = Vec::with_capacity(9 + message.len());
    payload.push(0xff);
    payload.extend_from_slice(&code.to_le_bytes());
    payload.push(b'#');
    payload.extend_from_slice(sqlstate.as_bytes());
    payload.extend_from_slice(message.as_bytes());
    write_packet(out, seq, &payload)
}

/// Appends an OK packet without rows, id or info; returns the next sequence id.
pub fn ok_packet(out: &mut Vec<u8>, seq: u8, status: Status) -> u8 {
    let [s0, s1] = status.bits().to_le_bytes();
    write_packet(out, seq, &[0, 0, 0, s0, s1, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tracked_ok() -> Vec<u8> {
        let mut state = Vec::new();
        put_state_change(&mut state, StateChange::Variable { name: b"autocommit", value: b"ON" });
        put_state_change(&mut state, StateChange::Variable { name: b"last_gtid", value: b"0-1-7" });
        put_state_change(&mut state, StateChange::Schema(b"app"));
        let mut payload = vec![0, 1, 5];
        payload.extend_from_slice(&0x4002u16.to_le_bytes());
        payload.extend_from_slice(&[0, 0, 0]);
        put_lenenc_bytes(&mut payload, &state);
        let mut packet = Vec::new();
        write_packet(&mut packet, 3, &payload);
        packet
    }

    #[test]
    fn the_client_sees_only_what_it_asked_for() {
        let mut packet = tracked_ok();
        let n = retain_state(&mut packet, true, |c| {
            !matches!(c, StateChange::Variable { name: b"last_gtid", .. })
        });
        let ok = OkPacket::parse(&packet[HEADER..n], Capabilities::SESSION_TRACK).unwrap();
        let seen: Vec<_> = ok.state_changes().collect();
        assert_eq!(
            seen,
            [
                StateChange::Variable { name: b"autocommit", value: b"ON" },
                StateChange::Schema(b"app")
            ]
        );
        assert_eq!((ok.affected_rows, ok.last_insert_id), (1, 5));
    }

    /// As MariaDB 10.11 answers `CREATE TABLE` in a schema of ucs2, and an `UPDATE` in one of utf32.
    #[test]
    fn what_changed_is_found_behind_zeros() {
        let state = b"\x14\0\x12\x09last_gtid\x070-1-850";
        for (head, zeros) in [(&b"\0\0\0\x02@\0\0\0"[..], 1), (b"\0\x02\0\x02@\0\0\x03Row", 3)] {
            let payload = [head, &[0; 3][..zeros], state].concat();
            let ok = OkPacket::parse(&payload, Capabilities::SESSION_TRACK).unwrap();
            let gtid = StateChange::Variable { name: b"last_gtid", value: b"0-1-850" };
            assert_eq!(ok.state_changes().collect::<Vec<_>>(), [gtid]);
        }
        let nothing = OkPacket::parse(b"\0\0\0\x02@\0\0\0\0", Capabilities::SESSION_TRACK).unwrap();
        assert_eq!(nothing.state, b"");
    }

    #[test]
    fn nothing_is_left_for_a_client_that_does_not_track() {
        let mut packet = tracked_ok();
        let n = retain_state(&mut packet, false, |_| true);
        assert_eq!(&packet[..n], [7, 0, 0, 3, 0, 1, 5, 2, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn arbitrary_packets_never_panic(mut payload in proptest::collection::vec(any::<u8>(), 1..200)) {
            let _ = OkPacket::parse(&payload, Capabilities::all()).map(|ok| ok.state_changes().count());
            let _ = ErrPacket::parse(&payload);
            payload.splice(0..0, [payload.len() as u8, 0, 0, 1]);
            let n = retain_state(&mut payload, true, |_| false);
            prop_assert!(n <= payload.len());
        }
    }
}
