//! Result sets of our own ("Text Resultset", "Protocol::ColumnDefinition41"), with EOF packets: for
//! clients that did not agree on CLIENT_DEPRECATE_EOF. And rows of servers' answers to ourselves.

use crate::{Malformed, Reader, Status, put_lenenc, put_lenenc_bytes, write_packet};

/// Types a column of ours can have (`enum_field_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ColumnKind {
    Tiny = 0x01,
    Double = 0x05,
    LongLong = 0x08,
    DateTime = 0x0c,
    VarString = 0xfd,
}

/// utf8mb4_general_ci, for text.
const UTF8MB4: u16 = 45;
/// `binary`, for everything else.
const BINARY: u16 = 63;

/// Appends a result set; `None` is NULL. Returns the next sequence id.
pub fn text_result<'a>(
    out: &mut Vec<u8>,
    mut seq: u8,
    columns: &[(&str, ColumnKind)],
    rows: impl IntoIterator<Item = &'a [Option<String>]>,
    status: Status,
) -> u8 {
    let mut payload = Vec::new();
    put_lenenc(&mut payload, columns.len() as u64);
    seq = write_packet(out, seq, &payload);
    for (name, kind) in columns {
        payload.clear();
        for part in ["def", "", "", "", name, ""] {
            put_lenenc_bytes(&mut payload, part.as_bytes());
        }
        payload.push(0x0c);
        let collation = if *kind == ColumnKind::VarString { UTF8MB4 } else { BINARY };
        payload.extend_from_slice(&collation.to_le_bytes());
        payload.extend_from_slice(&1024u32.to_le_bytes());
        payload.push(*kind as u8);
        payload.extend_from_slice(&[0, 0, 0x1f, 0, 0]);
        seq = write_packet(out, seq, &payload);
    }
    seq = eof(out, seq, status);
    for row in rows {
        payload.clear();
        for value in row {
            match value {
                Some(text) => put_lenenc_bytes(&mut payload, text.as_bytes()),
                None => payload.push(0xfb),
            }
        }
        seq = write_packet(out, seq, &payload);
    }
    eof(out, seq, status)
}

fn eof(out: &mut Vec<u8>, seq: u8, status: Status) -> u8 {
    let [a, b] = status.bits().to_le_bytes();
    write_packet(out, seq, &[0xfe, 0, 0, a, b])
}

/// The fields of a row ("Text Resultset Row"); `None` is NULL.
pub fn text_row(row: &[u8]) -> Result<Vec<Option<&[u8]>>, Malformed> {
    let mut r = Reader::new(row);
    let mut fields = Vec::new();
    while let Some(first) = r.rest().first() {
        fields.push(if *first == 0xfb {
            r.u8()?;
            None
        } else {
            Some(r.lenenc_bytes()?)
        });
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capabilities, Control, Expect, Step, Tracker};

    #[test]
    fn a_result_of_ours_is_one_that_can_be_followed() {
        let mut out = Vec::new();
        let rows =
            [vec![Some("db1".to_owned()), None], vec![Some(String::new()), Some("7".to_owned())]];
        let columns = [("name", ColumnKind::VarString), ("lag_ms", ColumnKind::Double)];
        text_result(&mut out, 1, &columns, rows.iter().map(Vec::as_slice), Status::AUTOCOMMIT);
        let mut tracker = Tracker::new(Expect::Results, Capabilities::PROTOCOL_41);
        let Step::Control { end, control: Control::ColumnsEnd(_), .. } =
            tracker.step(&out).unwrap()
        else {
            panic!("no columns")
        };
        let Step::Control { end: rest, done: true, .. } = tracker.step(&out[end..]).unwrap() else {
            panic!("no end")
        };
        assert_eq!(end + rest, out.len());
    }

    #[test]
    fn a_rows_fields_are_read() {
        assert_eq!(text_row(b"\x03db1\xfb\0"), Ok(vec![Some(&b"db1"[..]), None, Some(b"")]));
        assert_eq!(text_row(b""), Ok(vec![]));
        assert!(text_row(b"\x03db").is_err());
        assert!(text_row(b"\xff").is_err());
    }
}
