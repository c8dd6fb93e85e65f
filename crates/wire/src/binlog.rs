//! Binary log events as a server dumps them, as far as they say who committed what ("Binlog Event",
//! mysql.com; "Replication Protocol", mariadb.com).

mod rows;

pub use rows::{Change, Counted, Rows, TableMap};

use crate::{Malformed, Reader};

/// Event header, version 4: timestamp, type, server id, event size, position, flags.
const EVENT_HEADER: usize = 19;

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A transaction begins.
    Gtid(Gtid),
    /// A statement, or MySQL's `BEGIN`, with the id of the connection that ran it on the server where
    /// it was committed first.
    /// `error`: it failed with this number, and what it had done was kept.
    Query { thread: u32, error: u16, text: &'a [u8] },
    /// The first AUTO_INCREMENT value that the next statement was given.
    InsertId(u64),
    /// What the body of an event says of a table: see [`TableMap::parse`].
    TableMap(&'a [u8]),
    /// The statement whose row events follow: MariaDB's annotation, MySQL's with
    /// `binlog_rows_query_log_events`.
    Annotate { text: &'a [u8] },
    /// Changed rows; `None`: in a form that is not read here.
    Rows(Option<Rows<'a>>),
    /// The transaction ends, and it was one of engines that can undo.
    Committed,
    /// Something that says nothing about whose the transaction is.
    Other,
}

/// Which transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gtid {
    MariaDb {
        domain: u32,
        sequence: u64,
    },
    MySql {
        uuid: [u8; 16],
        number: u64,
    },
    /// A tagged GTID of MySQL 8.4 and later: in a serialization of its own, not looked into.
    Tagged,
}

const QUERY: u8 = 2;
const INTVAR: u8 = 5;
/// Of an INTVAR: it is for AUTO_INCREMENT, not for LAST_INSERT_ID().
const INSERT_ID: u8 = 2;
const XID: u8 = 16;
const TABLE_MAP: u8 = 19;
const FORMAT_DESCRIPTION: u8 = 15;
const ROWS: [u8; 7] = [23, 24, 25, 30, 31, 32, 39];
const MYSQL_ROWS_QUERY: u8 = 29;
const MYSQL_GTID: u8 = 33;
const MYSQL_TAGGED_GTID: u8 = 42;
const TRANSACTION_PAYLOAD: u8 = 40;
const MARIADB_ANNOTATE: u8 = 160;
const MARIADB_GTID: u8 = 162;
const MARIADB_QUERY_COMPRESSED: u8 = 165;
const MARIADB_ROWS_COMPRESSED: std::ops::RangeInclusive<u8> = 166..=171;

impl<'a> Event<'a> {
    /// Reads one event; gives the `@@server_id` it was first committed under as well.
    pub fn parse(event: &'a [u8]) -> Result<(u32, Self), Malformed> {
        let mut header = Reader::new(event.get(..EVENT_HEADER).ok_or(Malformed("short event"))?);
        header.u32()?;
        let kind = header.u8()?;
        let server_id = header.u32()?;
        let body = &event[EVENT_HEADER..];
        Ok((server_id, Self::of(kind, body)?))
    }

    fn of(kind: u8, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        Ok(match kind {
            QUERY => {
                let thread = r.u32()?;
                r.u32()?;
                let schema = usize::from(r.u8()?);
                let error = r.u16()?;
                let variables = usize::from(r.u16()?);
                r.take(variables)?;
                r.take(schema + 1)?;
                Self::Query { thread, error, text: r.rest() }
            }
            MARIADB_QUERY_COMPRESSED => {
                let thread = r.u32()?;
                r.take(5)?;
                Self::Query { thread, error: r.u16()?, text: &[] }
            }
            INTVAR if r.u8()? == INSERT_ID => Self::InsertId(u64_of(r.take(8)?)),
            TABLE_MAP => Self::TableMap(body),
            XID => Self::Committed,
            MARIADB_GTID => {
                let sequence = u64_of(r.take(8)?);
                Self::Gtid(Gtid::MariaDb { domain: r.u32()?, sequence })
            }
            MYSQL_GTID => {
                r.u8()?;
                let uuid = r.take(16)?.try_into().map_err(|_| Malformed("uuid"))?;
                Self::Gtid(Gtid::MySql { uuid, number: u64_of(r.take(8)?) })
            }
            MYSQL_TAGGED_GTID => Self::Gtid(Gtid::Tagged),
            MARIADB_ANNOTATE => Self::Annotate { text: body },
            MYSQL_ROWS_QUERY => {
                // Its length modulo 256: not to be used.
                r.u8()?;
                Self::Annotate { text: r.rest() }
            }
            TRANSACTION_PAYLOAD => Self::Rows(None),
            kind if ROWS.contains(&kind) || MARIADB_ROWS_COMPRESSED.contains(&kind) => {
                Self::Rows(Rows::of(kind, body))
            }
            _ => Self::Other,
        })
    }
}

/// Of a format description event: whether those that follow end with a checksum of four bytes, as it
/// does itself. `None`: it is another event.
#[must_use]
pub fn checksums(event: &[u8]) -> Option<bool> {
    let algorithm = event.len().checked_sub(5)?;
    (event.get(4) == Some(&FORMAT_DESCRIPTION)).then(|| event[algorithm] == 1)
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Do not wait for more events than there are.
const NON_BLOCK: u16 = 1;
/// MariaDB: with the statements that row events come from.
const ANNOTATED: u16 = 2;
/// What follows is a set of GTIDs.
const THROUGH_GTID: u16 = 4;

/// COM_BINLOG_DUMP of all there is after `@slave_connect_state` (MariaDB). `replica_id`: a server id
/// that nobody else has, or servers take this for that one's reconnection.
#[must_use]
pub fn dump(replica_id: u32) -> Vec<u8> {
    let mut out = vec![0x12];
    out.extend_from_slice(&4_u32.to_le_bytes());
    out.extend_from_slice(&(NON_BLOCK | ANNOTATED).to_le_bytes());
    out.extend_from_slice(&replica_id.to_le_bytes());
    out
}

/// COM_BINLOG_DUMP_GTID of all there is beside these transactions (MySQL): per source its UUID and
/// intervals, first and last number. `replica_id`: as for [`dump`].
#[must_use]
pub fn dump_beside<'a>(
    replica_id: u32,
    had: impl ExactSizeIterator<Item = ([u8; 16], &'a [(u64, u64)])>,
) -> Vec<u8> {
    let mut set = (had.len() as u64).to_le_bytes().to_vec();
    for (uuid, intervals) in had {
        set.extend_from_slice(&uuid);
        set.extend_from_slice(&(intervals.len() as u64).to_le_bytes());
        for (first, last) in intervals {
            set.extend_from_slice(&first.to_le_bytes());
            set.extend_from_slice(&(last + 1).to_le_bytes());
        }
    }
    let mut out = vec![0x1e];
    out.extend_from_slice(&(NON_BLOCK | THROUGH_GTID).to_le_bytes());
    out.extend_from_slice(&replica_id.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&4_u64.to_le_bytes());
    out.extend_from_slice(&(set.len() as u32).to_le_bytes());
    out.extend_from_slice(&set);
    out
}

/// A statement as servers write it into an event, for tests.
#[doc(hidden)]
#[must_use]
pub fn query_event(server_id: u32, thread: u32, text: &[u8]) -> Vec<u8> {
    let mut body = thread.to_le_bytes().to_vec();
    body.extend_from_slice(&[0; 4 + 1 + 2 + 2]);
    body.push(0);
    body.extend_from_slice(text);
    event(QUERY, server_id, &body)
}

/// Any event, for tests.
#[doc(hidden)]
#[must_use]
pub fn event(kind: u8, server_id: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.push(kind);
    out.extend_from_slice(&server_id.to_le_bytes());
    out.extend_from_slice(&((EVENT_HEADER + body.len()) as u32).to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read() {
        let event_of = |bytes: &[u8]| Event::parse(bytes).map(|(id, e)| format!("{id} {e:?}"));
        let query = query_event(7, 42, b"INSERT");
        assert!(event_of(&query).unwrap().starts_with("7 Query { thread: 42, error: 0, text: [73"));
        let mut gtid = 5_u64.to_le_bytes().to_vec();
        gtid.extend_from_slice(&[1, 0, 0, 0, 0]);
        let gtid = event(MARIADB_GTID, 7, &gtid);
        assert_eq!(
            Event::parse(&gtid),
            Ok((7, Event::Gtid(Gtid::MariaDb { domain: 1, sequence: 5 })))
        );
        assert!(
            event_of(&event(30, 7, &[0; 20]))
                .unwrap()
                .starts_with("7 Rows(Some(Rows { change: Insert")
        );
        assert_eq!(Event::parse(&event(166, 7, &[0; 20])), Ok((7, Event::Rows(None))));
        assert_eq!(
            event_of(&event(5, 7, &[2, 9, 0, 0, 0, 0, 0, 0, 0])),
            Ok("7 InsertId(9)".into())
        );
        assert_eq!(event_of(&event(5, 7, &[1, 9, 0, 0, 0, 0, 0, 0, 0])), Ok("7 Other".into()));
        assert_eq!(Event::parse(&event(4, 7, b"x")), Ok((7, Event::Other)));
        let noted = event(MYSQL_ROWS_QUERY, 7, b"\x06DELETE");
        assert_eq!(Event::parse(&noted), Ok((7, Event::Annotate { text: b"DELETE" })));
        assert!(Event::parse(&event(MYSQL_ROWS_QUERY, 7, b"")).is_err());
    }

    #[test]
    fn a_set_is_written_with_ends_that_do_not_belong_to_it() {
        let packet = dump_beside(9, [([1; 16], &[(1, 3)][..])].into_iter());
        assert_eq!(packet.len(), 1 + 2 + 4 + 4 + 8 + 4 + 8 + 16 + 8 + 16);
        assert_eq!(packet[packet.len() - 16..], [1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(kind: u8, body: Vec<u8>, cut in 0usize..40) {
            let bytes = event(kind, 1, &body);
            let _ = Event::parse(&bytes);
            let _ = Event::parse(&bytes[..cut.min(bytes.len())]);
        }
    }
}
