//! Which connections are over, and how many each real server has. Pure.

use std::collections::HashMap;

use super::layout::{CLOSED, Connection, DATAGRAM, ESTABLISHED, FIN_WAIT, Flow, Load, SYN_RECV};

const SECOND: u64 = 1_000_000_000;

/// How long a connection without a packet is remembered, in ns: IPVS's times (`tcp_timeouts` in
/// ip_vs_proto_tcp.c, `udp_timeouts` in ip_vs_proto_udp.c).
pub(crate) fn timeout(state: u32) -> u64 {
    match state {
        ESTABLISHED => 900 * SECOND,
        FIN_WAIT => 120 * SECOND,
        DATAGRAM => 300 * SECOND,
        SYN_RECV => 60 * SECOND,
        CLOSED => 10 * SECOND,
        _ => 0,
    }
}

/// One walk over the connections.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    loads: HashMap<u32, Load>,
    /// To be forgotten: too old, or their real server is gone.
    pub over: Vec<Flow>,
}

impl Sweep {
    /// `is_current`: whether the table's entry for the real server is still the same server.
    pub fn look(&mut self, flow: &Flow, c: &Connection, now: u64, is_current: bool) {
        if !is_current || now.saturating_sub(c.seen) > timeout(c.state) {
            self.over.push(*flow);
            return;
        }
        let load = self.loads.entry(c.real).or_default();
        if c.state == ESTABLISHED {
            load.active += 1;
        } else {
            load.inactive += 1;
        }
    }

    /// What the count of a real server must be, if it isn't. `before` is from before the walk,
    /// `after` from now: what the program counted meanwhile is in neither for sure, and is put
    /// right the next time.
    pub fn correction(&self, real: u32, before: Load, after: Load) -> Option<Load> {
        let seen = self.loads.get(&real).copied().unwrap_or_default();
        if (seen.active, seen.inactive) == (before.active, before.inactive) {
            return None;
        }
        let add = |seen: u32, before: u32, after: u32| {
            seen.wrapping_add(after.wrapping_sub(before)).min(i32::MAX as u32)
        };
        // A difference that would go below zero is none that happened after the walk.
        let fix = |seen: u32, before: u32, after: u32| {
            let sum = i64::from(seen) + i64::from(after.wrapping_sub(before) as i32);
            if sum < 0 { seen } else { add(seen, before, after) }
        };
        Some(Load {
            active: fix(seen.active, before.active, after.active),
            inactive: fix(seen.inactive, before.inactive, after.inactive),
            ..after
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(state: u32, seen: u64) -> Connection {
        Connection { real: 3, generation: 1, state, seen, ..Connection::default() }
    }

    fn flow(port: u16) -> Flow {
        Flow { client_port: port.to_be_bytes(), ..Flow::default() }
    }

    #[test]
    fn connections_are_counted_until_their_time_is_over() {
        let mut sweep = Sweep::default();
        let now = 1000 * SECOND;
        sweep.look(&flow(1), &connection(ESTABLISHED, now - 899 * SECOND), now, true);
        sweep.look(&flow(2), &connection(ESTABLISHED, now - 901 * SECOND), now, true);
        sweep.look(&flow(3), &connection(FIN_WAIT, now - 119 * SECOND), now, true);
        sweep.look(&flow(4), &connection(CLOSED, now - 11 * SECOND), now, true);
        sweep.look(&flow(5), &connection(DATAGRAM, now - 299 * SECOND), now, true);
        sweep.look(&flow(6), &connection(ESTABLISHED, now), now, false);
        // A packet that came after the clock was read.
        sweep.look(&flow(7), &connection(SYN_RECV, now + 5), now, true);
        assert_eq!(sweep.over, [flow(2), flow(4), flow(6)]);
        let counted = sweep.correction(3, Load::default(), Load::default()).unwrap();
        assert_eq!((counted.active, counted.inactive), (1, 3));
    }

    #[test]
    fn what_comes_and_goes_meanwhile_is_kept() {
        let mut sweep = Sweep::default();
        sweep.look(&flow(1), &connection(ESTABLISHED, 0), 0, true);
        let load = |active, inactive| Load { active, inactive, full: 1, pad: 0 };
        assert_eq!(sweep.correction(3, load(1, 0), load(5, 0)), None, "it was right");
        assert_eq!(sweep.correction(3, load(4, 2), load(6, 2)), Some(load(3, 0)));
        assert_eq!(sweep.correction(3, load(4, 0), load(2, 0)), Some(load(1, 0)));
        assert_eq!(sweep.correction(9, load(0, 0), load(0, 0)), None);
    }
}
