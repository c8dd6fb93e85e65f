//! Any bytes as a server's reply: what the tracker says must not depend on how they were split, it
//! must pass on every byte exactly once, and it must not panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_wire::{Capabilities, Control, Expect, Step, Tracker, retain_state};

/// All that was passed on, how often something was found, and how it ended.
#[derive(PartialEq, Debug)]
struct Seen {
    passed: Vec<u8>,
    controls: Vec<String>,
    done: bool,
    malformed: bool,
}

fn follow(reply: &[u8], expect: Expect, caps: Capabilities, piece: usize) -> Seen {
    let mut tracker = Tracker::new(expect, caps);
    let mut seen = Seen { passed: vec![], controls: vec![], done: false, malformed: false };
    let mut pending = Vec::new();
    for chunk in reply.chunks(piece) {
        pending.extend_from_slice(chunk);
        loop {
            match tracker.step(&pending) {
                Err(_) => {
                    seen.malformed = true;
                    return seen;
                }
                Ok(Step::More { pass }) => {
                    seen.passed.extend_from_slice(&pending[..pass]);
                    pending.drain(..pass);
                    break;
                }
                Ok(Step::Control { pass, end, control, done }) => {
                    assert!(pass <= end && end <= pending.len());
                    seen.controls.push(format!("{control:?} {done}"));
                    let file = matches!(control, Control::LocalInfile);
                    if matches!(control, Control::Ok(_)) {
                        let mut packet = pending[pass..end].to_vec();
                        let len = packet.len();
                        assert!(retain_state(&mut packet, true, |_| true) <= len);
                        assert!(retain_state(&mut packet, false, |_| true) <= len);
                    }
                    seen.passed.extend_from_slice(&pending[..end]);
                    pending.drain(..end);
                    if file {
                        tracker.local_infile_sent(2);
                    }
                    if done {
                        seen.done = true;
                        assert!(tracker.is_done());
                        return seen;
                    }
                }
            }
        }
    }
    seen
}

fuzz_target!(|data: &[u8]| {
    let Some((&[how, more, piece], reply)) = data.split_first_chunk::<3>() else { return };
    let expect = match how % 8 {
        0 => Expect::Ok,
        1 => Expect::Prepare,
        2 => Expect::Fields,
        3 => Expect::Rows,
        4 => Expect::Text,
        5 => Expect::Executed,
        _ => Expect::Results,
    };
    let mut caps = Capabilities::PROTOCOL_41;
    caps.set(Capabilities::DEPRECATE_EOF, how & 0x40 != 0);
    caps.set(Capabilities::SESSION_TRACK, how & 0x80 != 0);
    caps.set(Capabilities::OPTIONAL_RESULTSET_METADATA, more & 1 != 0);
    caps.set(Capabilities::MARIADB_PROGRESS, more & 2 != 0);
    let whole = follow(reply, expect, caps, reply.len().max(1));
    let split = follow(reply, expect, caps, usize::from(piece).max(1));
    // A fault may be noticed before all of a packet is there; what comes before it is the same.
    if whole.malformed == split.malformed && !whole.malformed {
        assert_eq!(whole, split);
    } else {
        let common = whole.controls.len().min(split.controls.len());
        assert_eq!(whole.controls[..common], split.controls[..common]);
    }
});
