//! What directors tell each other of connections, in bytes. Pure but for the random name.
//!
//! ```text
//! 0  "PMFS"   4  version 1   5  kind: 1 all, please; 2 connections   6  number of records (u16)
//! 8  sender, random at each start (u64)   16  sequence (u64)
//! 24 records of 56 bytes: client, virtual address, real server's address (16 each), client's port,
//!    virtual port, real server's port (2 each), protocol (1), family | state << 4 (1)
//! .. the first 16 bytes of HMAC-SHA-256 over all that
//! ```
//! Numbers are big-endian; IPv4 addresses stand in the last four bytes.

use std::collections::VecDeque;
use std::io;

use aws_lc_rs::{constant_time, hmac, rand};

use crate::plane::layout::{Connection, DATAGRAM, Flow, Name, SYN_RECV};

const MAGIC: &[u8; 4] = b"PMFS";
const VERSION: u8 = 1;
const HEADER: usize = 24;
const RECORD: usize = 56;
const TAG: usize = 16;
/// As many fit into a datagram that needs no fragments.
pub(crate) const MOST_RECORDS: usize = (1400 - HEADER - TAG) / RECORD;
/// Senders remembered.
const SENDERS: usize = 16;

/// A connection, with its real server named so that every director knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub flow: Flow,
    pub state: u32,
    pub ip: [u8; 16],
    pub port: [u8; 2],
}

impl Record {
    pub fn new(flow: &Flow, connection: &Connection, server: &Name) -> Self {
        Self { flow: *flow, state: connection.state, ip: server.ip, port: server.port }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// The sender has just started: it wants all there is.
    Hello,
    Flows(Vec<Record>),
}

/// Who sent a message, and its number.
pub(super) type Stamp = (u64, u64);

/// Seals messages and opens those of others.
pub(super) struct Envelope {
    key: hmac::Key,
    sender: u64,
    sequence: u64,
}

impl Envelope {
    pub fn new(secret: &[u8]) -> io::Result<Self> {
        let mut sender = [0; 8];
        rand::fill(&mut sender).map_err(|_| io::Error::other("no random numbers"))?;
        // Not the bare secret: it may be VRRP's password, used elsewhere.
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let key = hmac::sign(&root, b"pointsman flow sync 1");
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()),
            sender: u64::from_be_bytes(sender),
            sequence: 0,
        })
    }

    pub fn seal(&mut self, message: &Message) -> Vec<u8> {
        let (kind, records): (u8, &[Record]) = match message {
            Message::Hello => (1, &[]),
            Message::Flows(records) => (2, records),
        };
        self.sequence += 1;
        let mut bytes = Vec::with_capacity(HEADER + records.len() * RECORD + TAG);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, kind]);
        bytes.extend_from_slice(&(records.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&self.sender.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        for r in records {
            for address in [r.flow.client, r.flow.vip, r.ip] {
                bytes.extend_from_slice(&address);
            }
            for port in [r.flow.client_port, r.flow.vip_port, r.port] {
                bytes.extend_from_slice(&port);
            }
            bytes.extend_from_slice(&[r.flow.protocol, r.flow.family | (r.state as u8) << 4]);
        }
        bytes.extend_from_slice(&hmac::sign(&self.key, &bytes).as_ref()[..TAG]);
        bytes
    }

    pub fn open(&self, bytes: &[u8]) -> Result<(Stamp, Message), &'static str> {
        let body = bytes.len().checked_sub(TAG).ok_or("too short for flow sync")?;
        let (body, tag) = bytes.split_at(body);
        let expected = hmac::sign(&self.key, body);
        constant_time::verify_slices_are_equal(&expected.as_ref()[..TAG], tag)
            .map_err(|_| "flow sync with another secret")?;
        let (header, records) = body.split_at_checked(HEADER).ok_or("too short for flow sync")?;
        if header[..4] != *MAGIC || header[4] != VERSION {
            return Err("flow sync of another version");
        }
        let number = |at: usize| header[at..].first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        let stamp = (number(8), number(16));
        if stamp.0 == self.sender {
            return Err("own flow sync");
        }
        let count = usize::from(u16::from_be_bytes([header[6], header[7]]));
        if records.len() != count * RECORD {
            return Err("flow sync of a wrong length");
        }
        match header[5] {
            1 => Ok((stamp, Message::Hello)),
            2 => records
                .chunks_exact(RECORD)
                .map(record)
                .collect::<Option<_>>()
                .map(|records| (stamp, Message::Flows(records)))
                .ok_or("flow sync of connections that can't be"),
            _ => Err("flow sync of an unknown kind"),
        }
    }
}

fn record(bytes: &[u8]) -> Option<Record> {
    let address = |at: usize| bytes.get(at..)?.first_chunk::<16>().copied();
    let port = |at: usize| bytes.get(at..)?.first_chunk::<2>().copied();
    let (protocol, last) = (*bytes.get(54)?, *bytes.get(55)?);
    let (family, state) = (last & 0xf, u32::from(last >> 4));
    let known = [libc::AF_INET, libc::AF_INET6].contains(&family.into())
        && match i32::from(protocol) {
            libc::IPPROTO_TCP => state > SYN_RECV && state < DATAGRAM,
            libc::IPPROTO_UDP => state == DATAGRAM,
            _ => false,
        };
    known.then_some(Record {
        flow: Flow {
            client: address(0)?,
            vip: address(16)?,
            client_port: port(48)?,
            vip_port: port(50)?,
            protocol,
            family,
            pad: [0; 2],
        },
        state,
        ip: address(32)?,
        port: port(52)?,
    })
}

/// Which messages came already: a copy sent again says nothing new.
#[derive(Debug, Default)]
pub(super) struct Seen {
    latest: VecDeque<Stamp>,
}

impl Seen {
    pub fn is_new(&mut self, (sender, sequence): Stamp) -> bool {
        if let Some(known) = self.latest.iter_mut().find(|(s, _)| *s == sender) {
            let new = sequence > known.1;
            known.1 = known.1.max(sequence);
            return new;
        }
        if self.latest.len() == SENDERS {
            self.latest.pop_front();
        }
        self.latest.push_back((sender, sequence));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::layout::ESTABLISHED;
    use proptest::prelude::*;

    fn envelope(secret: &str) -> Envelope {
        Envelope::new(secret.as_bytes()).unwrap()
    }

    fn flows(n: usize) -> Message {
        let record = |i: usize| Record {
            flow: Flow {
                client: [i as u8; 16],
                vip: [2; 16],
                client_port: [3, i as u8],
                vip_port: [0, 80],
                protocol: 6,
                family: 2,
                pad: [0; 2],
            },
            state: ESTABLISHED,
            ip: [7; 16],
            port: [0, 81],
        };
        Message::Flows((0..n).map(record).collect())
    }

    #[test]
    fn what_is_sealed_can_be_opened_by_who_has_the_secret() {
        let (mut a, b) = (envelope("s"), envelope("s"));
        for message in [Message::Hello, flows(0), flows(1), flows(MOST_RECORDS)] {
            let bytes = a.seal(&message);
            assert!(bytes.len() <= 1400);
            assert_eq!(b.open(&bytes).unwrap().1, message);
            assert_eq!(envelope("t").open(&bytes), Err("flow sync with another secret"));
            assert_eq!(a.open(&bytes), Err("own flow sync"));
        }
    }

    #[test]
    fn a_changed_or_repeated_message_is_refused() {
        let (mut a, b, mut seen) = (envelope("s"), envelope("s"), Seen::default());
        let first = a.seal(&flows(2));
        let second = a.seal(&flows(2));
        for i in 0..first.len() {
            let mut changed = first.clone();
            changed[i] ^= 1;
            assert!(b.open(&changed).is_err(), "byte {i}");
        }
        assert!(seen.is_new(b.open(&first).unwrap().0));
        assert!(seen.is_new(b.open(&second).unwrap().0));
        assert!(!seen.is_new(b.open(&first).unwrap().0));
        assert!(!seen.is_new(b.open(&second).unwrap().0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut a = envelope("s");
            prop_assert!(a.open(&bytes).is_err());
            // Also with a good tag.
            bytes.splice(0..0, *MAGIC);
            let tag = hmac::sign(&a.key, &bytes).as_ref()[..TAG].to_vec();
            bytes.extend(tag);
            let _ = a.open(&bytes);
            a.sequence += 1;
        }
    }
}
