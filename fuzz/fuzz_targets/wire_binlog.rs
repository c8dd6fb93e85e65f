//! Any bytes as the events of a binary log: no panic, no more rows than bytes, and what an event says
//! stands in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_wire::binlog::{self, Event, TableMap, dump_beside};

fuzz_target!(|data: &[u8]| {
    let (mut rest, mut tables) = (data, Vec::new());
    // Its length, its type, and whether it is cut short, before each event's body.
    while let Some((&[low, high, kind, cut], more)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([low, high])).min(more.len());
        let (body, behind) = more.split_at(len);
        rest = behind;
        let whole = binlog::event(kind, 7, body);
        let bytes = &whole[..whole.len() - usize::from(cut).min(whole.len())];
        let _ = binlog::checksums(bytes);
        let Ok((server_id, event)) = Event::parse(bytes) else { continue };
        assert_eq!(server_id, 7);
        match event {
            Event::TableMap(body) => {
                if let Ok(table) = TableMap::parse(body) {
                    assert!(table.schema.len() + table.name.len() <= body.len());
                    tables.push(table);
                }
            }
            Event::Rows(Some(rows)) => {
                for table in &tables {
                    let Ok(counted) = rows.count(table) else { continue };
                    assert!(counted.rows <= body.len() as u64);
                    assert!(counted.rows > 0 || counted.first.iter().all(Option::is_none));
                    assert!(counted.first.len() <= body.len() * 8);
                }
            }
            Event::Query { text, .. } | Event::Annotate { text } => assert!(bytes.ends_with(text)),
            _ => {}
        }
        // The position that is asked for is written for any numbers.
        if let (Ok(uuid), [a, b, ..]) = (<[u8; 16]>::try_from(&body[..body.len().min(16)]), body) {
            let intervals = [(u64::from(*a), u64::from(*b))];
            let packet = dump_beside(9, [(uuid, &intervals[..])].into_iter());
            assert_eq!(packet.len(), 71);
        }
    }
});
