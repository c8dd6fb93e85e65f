//! Any bytes as a row of an answer that the proxy asked for itself, and any values in a result set of
//! its own: what parses survives being written and followed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_wire::{
    Capabilities, ColumnKind, Control, Expect, HEADER, Header, Status, Step, Tracker,
    put_lenenc_bytes, text_result, text_row,
};

/// The payloads of these packets.
fn payloads(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut payloads = Vec::new();
    while let Some(header) = Header::parse(bytes) {
        assert_eq!(header.seq, payloads.len() as u8);
        let (packet, rest) = bytes.split_at(HEADER + header.len);
        payloads.push(&packet[HEADER..]);
        bytes = rest;
    }
    assert!(bytes.is_empty());
    payloads
}

fuzz_target!(|data: &[u8]| {
    let Ok(fields) = text_row(data) else { return };
    let mut again = Vec::new();
    for field in &fields {
        match field {
            Some(bytes) => put_lenenc_bytes(&mut again, bytes),
            None => again.push(0xfb),
        }
    }
    // Lengths can be written in more ways than one.
    assert!(again.len() <= data.len());
    assert_eq!(text_row(&again).as_ref(), Ok(&fields));

    let texts = |f: &Option<&[u8]>| f.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let row: Vec<_> = fields.iter().map(texts).collect();
    if row.is_empty() {
        return;
    }
    let kinds = [ColumnKind::VarString, ColumnKind::LongLong, ColumnKind::DateTime];
    let columns: Vec<_> = (0..row.len()).map(|i| ("c", kinds[i % kinds.len()])).collect();
    let mut out = Vec::new();
    let rows = [&row[..], &row[..]];
    text_result(&mut out, 0, &columns, rows, Status::AUTOCOMMIT);
    let packets = payloads(&out);
    assert_eq!(packets.len(), 1 + row.len() + 1 + 2 + 1);
    for packet in &packets[row.len() + 2..row.len() + 4] {
        let read = text_row(packet).expect("what we wrote");
        assert!(read.iter().zip(&row).all(|(a, b)| *a == b.as_deref().map(str::as_bytes)));
    }

    let mut tracker = Tracker::new(Expect::Results, Capabilities::PROTOCOL_41);
    let mut rest = &out[..];
    loop {
        match tracker.step(rest).expect("what we wrote") {
            Step::More { pass } => {
                assert!(pass > 0, "the end was not found");
                rest = &rest[pass..];
            }
            Step::Control { end, control, done, .. } => {
                assert!(!matches!(control, Control::Err(_) | Control::LocalInfile));
                rest = &rest[end..];
                if done {
                    break;
                }
            }
        }
    }
    assert!(rest.is_empty());
});
