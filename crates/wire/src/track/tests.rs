use super::*;
use crate::{err_packet, ok_packet, write_packet};
use proptest::prelude::*;

/// Everything a tracker says about a reply fed in pieces of the given sizes.
fn follow(
    reply: &[u8],
    expect: Expect,
    caps: Capabilities,
    cuts: &[usize],
) -> (Vec<String>, Vec<u8>) {
    let mut tracker = Tracker::new(expect, caps);
    let (mut seen, mut passed, mut pending) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = reply;
    let mut cuts = cuts.iter().copied().chain(std::iter::repeat(usize::MAX));
    while !rest.is_empty() {
        let n = cuts.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        pending.extend_from_slice(&rest[..n]);
        rest = &rest[n..];
        loop {
            match tracker.step(&pending).expect("well-formed") {
                Step::More { pass } => {
                    passed.extend_from_slice(&pending[..pass]);
                    pending.drain(..pass);
                    break;
                }
                Step::Control { end, control, done, .. } => {
                    seen.push(format!("{control:?} {done}"));
                    passed.extend_from_slice(&pending[..end]);
                    pending.drain(..end);
                }
            }
        }
    }
    assert!(tracker.is_done(), "not done after {seen:?}");
    (seen, passed)
}

fn eof(out: &mut Vec<u8>, seq: u8, status: Status) -> u8 {
    let [a, b] = status.bits().to_le_bytes();
    write_packet(out, seq, &[0xfe, 0, 0, a, b])
}

fn end_of_rows(out: &mut Vec<u8>, seq: u8, status: Status, caps: Capabilities) -> u8 {
    if caps.contains(Capabilities::DEPRECATE_EOF) {
        let [a, b] = status.bits().to_le_bytes();
        write_packet(out, seq, &[0xfe, 0, 0, a, b, 0, 0])
    } else {
        eof(out, seq, status)
    }
}

fn result_set(
    out: &mut Vec<u8>,
    mut seq: u8,
    rows: &[Vec<u8>],
    status: Status,
    caps: Capabilities,
) -> u8 {
    seq = match caps.contains(Capabilities::OPTIONAL_RESULTSET_METADATA) {
        true => write_packet(out, seq, &[2, 1]),
        false => write_packet(out, seq, &[2]),
    };
    seq = write_packet(out, seq, b"\x03def one");
    seq = write_packet(out, seq, b"\x03def two");
    if !caps.contains(Capabilities::DEPRECATE_EOF) {
        seq = eof(out, seq, Status::AUTOCOMMIT);
    }
    for row in rows {
        seq = write_packet(out, seq, row);
    }
    end_of_rows(out, seq, status, caps)
}

fn both() -> [Capabilities; 2] {
    [Capabilities::DEPRECATE_EOF, Capabilities::empty()]
}

/// Whatever shapes replies, in all combinations.
fn all() -> impl Iterator<Item = Capabilities> {
    let more = [Capabilities::OPTIONAL_RESULTSET_METADATA, Capabilities::MARIADB_PROGRESS];
    both().into_iter().flat_map(move |caps| {
        [caps, caps | more[0], caps | more[1], caps | more[0] | more[1]].into_iter()
    })
}

/// As MariaDB sends it.
const PROGRESS: &[u8] = b"\xff\xff\xff\x01\x02\x03\0\0\0\x0dChecking keys";

/// A reply cut anywhere, and into single bytes, is followed like the whole; gives what was found.
fn followed_alike(reply: &[u8], expect: Expect, caps: Capabilities) -> Vec<String> {
    let whole = follow(reply, expect, caps, &[]);
    assert_eq!(whole.1, reply);
    for at in 1..reply.len() {
        assert_eq!(follow(reply, expect, caps, &[at]), whole, "{expect:?} cut at {at}");
    }
    assert_eq!(follow(reply, expect, caps, &vec![1; reply.len()]), whole);
    whole.0
}

#[test]
fn every_split_of_every_reply_is_followed_alike() {
    for caps in all() {
        let optional = caps.contains(Capabilities::OPTIONAL_RESULTSET_METADATA);
        let more = Status::AUTOCOMMIT | Status::MORE_RESULTS;
        let mut results = Vec::new();
        let rows = [vec![1, b'a', 0xfb], vec![0xfd; 30], vec![0; 9]];
        let seq = result_set(&mut results, 1, &rows, more, caps);
        let seq = ok_packet(&mut results, seq, more);
        let seq = result_set(&mut results, seq, &[], more, caps);
        err_packet(&mut results, seq, 1064, "42000", "no");

        let mut prepared = Vec::new();
        let ok = [0, 9, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 1];
        let ok = if optional { &ok[..] } else { &ok[..12] };
        let mut seq = write_packet(&mut prepared, 1, ok);
        for section in [2, 1] {
            for _ in 0..section {
                seq = write_packet(&mut prepared, seq, b"\x03def x");
            }
            if !caps.contains(Capabilities::DEPRECATE_EOF) {
                seq = eof(&mut prepared, seq, Status::empty());
            }
        }
        let mut fields = Vec::new();
        let seq = write_packet(&mut fields, 1, b"\x03def x");
        end_of_rows(&mut fields, seq, Status::AUTOCOMMIT, caps);
        let mut text = Vec::new();
        write_packet(&mut text, 1, b"\xffUptime: 1");

        for (reply, expect) in [
            (results, Expect::Results),
            (prepared, Expect::Prepare),
            (fields, Expect::Fields),
            (text, Expect::Text),
        ] {
            followed_alike(&reply, expect, caps);
        }
    }
}

/// As MySQL answers with `resultset_metadata = NONE`.
#[test]
fn definitions_may_be_left_out() {
    for caps in both().map(|caps| caps | Capabilities::OPTIONAL_RESULTSET_METADATA) {
        let with_eof = !caps.contains(Capabilities::DEPRECATE_EOF);
        let put_eof = |out: &mut Vec<u8>, seq| match with_eof {
            true => eof(out, seq, Status::AUTOCOMMIT),
            false => seq,
        };
        let more = Status::AUTOCOMMIT | Status::MORE_RESULTS;
        let mut results = Vec::new();
        let mut seq = 1;
        for (row, status) in [(None, more), (Some(b"\x012\x013"), more)] {
            seq = write_packet(&mut results, seq, &[2, 0]);
            seq = put_eof(&mut results, seq);
            if let Some(row) = row {
                seq = write_packet(&mut results, seq, row);
            }
            seq = end_of_rows(&mut results, seq, status, caps);
        }
        ok_packet(&mut results, seq, Status::AUTOCOMMIT);
        let seen = followed_alike(&results, Expect::Results, caps);
        assert_eq!(seen.len(), if with_eof { 5 } else { 3 }, "{seen:?}");

        for (params, columns) in [(0, 0), (1, 0), (0, 2), (2, 300)] {
            let mut prepared = vec![0, 9, 0, 0, 0];
            prepared.extend_from_slice(&u16::to_le_bytes(columns));
            prepared.extend_from_slice(&u16::to_le_bytes(params));
            prepared.extend_from_slice(&[0, 0, 0, 0]);
            let mut reply = Vec::new();
            let mut seq = write_packet(&mut reply, 1, &prepared);
            for _ in [params, columns].iter().filter(|n| **n > 0) {
                seq = put_eof(&mut reply, seq);
            }
            followed_alike(&reply, Expect::Prepare, caps);
        }
        let mut fields = Vec::new();
        end_of_rows(&mut fields, 1, Status::AUTOCOMMIT, caps);
        followed_alike(&fields, Expect::Fields, caps);
    }
    let mut cut = Vec::new();
    write_packet(&mut cut, 1, &[2]);
    assert!(Tracker::new(Expect::Results, all().last().unwrap()).step(&cut).is_err());
}

#[test]
fn progress_is_no_end() {
    for caps in both() {
        let asked = caps | Capabilities::MARIADB_PROGRESS;
        // `CHECK TABLE` begins its result and then looks at the tables.
        let mut reply = Vec::new();
        let mut seq = write_packet(&mut reply, 1, PROGRESS);
        seq = write_packet(&mut reply, seq, &[1]);
        seq = write_packet(&mut reply, seq, b"\x03def one");
        if !caps.contains(Capabilities::DEPRECATE_EOF) {
            seq = eof(&mut reply, seq, Status::AUTOCOMMIT);
        }
        seq = write_packet(&mut reply, seq, PROGRESS);
        seq = write_packet(&mut reply, seq, b"\x02OK");
        seq = write_packet(&mut reply, seq, PROGRESS);
        let more = Status::AUTOCOMMIT | Status::MORE_RESULTS;
        seq = end_of_rows(&mut reply, seq, more, caps);
        seq = write_packet(&mut reply, seq, PROGRESS);
        err_packet(&mut reply, seq, 1064, "42000", "no");
        for expect in [Expect::Results, Expect::Executed] {
            let seen = followed_alike(&reply, expect, asked);
            assert_eq!(seen.iter().filter(|s| *s == "Progress false").count(), 4, "{seen:?}");
        }
        // Who has not agreed to it has been sent an error.
        let mut tracker = Tracker::new(Expect::Results, caps);
        assert!(matches!(tracker.step(&reply), Ok(Step::Control { done: true, .. })));
    }
}

#[test]
fn a_row_over_16_mib_may_begin_and_go_on_with_anything() {
    for caps in both() {
        let mut reply = Vec::new();
        let mut row = vec![0xfe; MAX_PAYLOAD + 5];
        row[MAX_PAYLOAD] = 0xff; // first byte of the continuation
        result_set(&mut reply, 1, &[row, vec![0xfe; MAX_PAYLOAD]], Status::AUTOCOMMIT, caps);
        assert_eq!(follow(&reply, Expect::Results, caps, &[70_000, 16_000_000]).1, reply);
    }
}

#[test]
fn a_cursor_ends_the_reply_before_the_rows() {
    let mut reply = Vec::new();
    let seq = write_packet(&mut reply, 1, &[1]);
    let seq = write_packet(&mut reply, seq, b"\x03def x");
    eof(&mut reply, seq, Status::CURSOR_EXISTS);
    follow(&reply, Expect::Executed, Capabilities::empty(), &[3]);
}

#[test]
fn a_procedure_with_a_cursor_of_its_own_ends_nothing() {
    for expect in [Expect::Results, Expect::Executed] {
        let status = Status::CURSOR_EXISTS | Status::MORE_RESULTS;
        let mut reply = Vec::new();
        let seq = write_packet(&mut reply, 1, &[1]);
        let seq = write_packet(&mut reply, seq, b"\x03def x");
        let seq = eof(&mut reply, seq, status);
        let seq = write_packet(&mut reply, seq, b"\x011");
        let seq = eof(&mut reply, seq, status);
        ok_packet(&mut reply, seq, Status::CURSOR_EXISTS);
        follow(&reply, expect, Capabilities::empty(), &[3]);
    }
}

#[test]
fn a_local_file_is_asked_for_and_answered() {
    let mut tracker = Tracker::new(Expect::Results, Capabilities::empty());
    let mut ask = Vec::new();
    write_packet(&mut ask, 1, b"\xfb/tmp/file");
    let step = tracker.step(&ask).unwrap();
    assert!(matches!(step, Step::Control { control: Control::LocalInfile, done: false, .. }));
    tracker.local_infile_sent(4);
    assert_eq!(tracker.next_seq(), 5);
    let mut ok = Vec::new();
    ok_packet(&mut ok, 5, Status::AUTOCOMMIT);
    assert!(matches!(tracker.step(&ok).unwrap(), Step::Control { done: true, .. }));
}

#[test]
fn a_server_that_talks_on_is_malformed() {
    let mut tracker = Tracker::new(Expect::Ok, Capabilities::empty());
    let mut reply = Vec::new();
    let seq = ok_packet(&mut reply, 1, Status::AUTOCOMMIT);
    ok_packet(&mut reply, seq, Status::AUTOCOMMIT);
    let Step::Control { end, .. } = tracker.step(&reply).unwrap() else { panic!() };
    assert!(tracker.step(&reply[end..]).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..6usize) {
        let expect = [Expect::Results, Expect::Ok, Expect::Prepare, Expect::Fields, Expect::Rows, Expect::Text][kind];
        for caps in all() {
            let mut tracker = Tracker::new(expect, caps);
            let mut rest = &bytes[..];
            loop {
                match tracker.step(rest) {
                    Ok(Step::Control { end, .. }) => rest = &rest[end..],
                    Ok(Step::More { pass }) => { prop_assert!(pass <= rest.len()); break }
                    Err(_) => break,
                }
            }
        }
    }
}
