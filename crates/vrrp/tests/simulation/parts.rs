//! What a simulation is made of.

use std::net::IpAddr;
use std::time::Duration;

use pointsman_vrrp::{Router, Time};

/// SplitMix64: small, seedable, good enough to draw events.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + Duration::from_micros(self.below((high - low).as_micros() as u64 + 1))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A packet reaches a machine.
    Arrives {
        to: usize,
        from: usize,
        bytes: Vec<u8>,
    },
    /// A process looks at its timers.
    Timer {
        node: usize,
        serial: u64,
    },
    /// The next mishap, while there are any.
    Mishap,
    Thaw {
        node: usize,
    },
    /// The process that follows one that was restarted has started.
    Begins {
        node: usize,
    },
    /// The guard keeps the addresses of a process that was restarted no longer.
    GuardsEnd {
        node: usize,
        restarts: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    Yes,
    /// SIGSTOP: packets queue up in the socket.
    Frozen,
    /// The whole machine stands still: packets are lost.
    Paused,
    /// Nothing runs but the guard, until a new process begins.
    Restarting,
}

pub struct Machine {
    pub router: Router,
    pub address: IpAddr,
    pub running: Running,
    pub inbox: Vec<(usize, Vec<u8>)>,
    pub partition: usize,
    /// Microseconds this machine's clock is ahead of true time.
    pub clock_ahead: i64,
    pub holds: bool,
    /// Whose announcement the hosts beside it heard last.
    pub neighbours_know: Option<usize>,
    pub serial: u64,
    pub transitions: u32,
    pub last_sent_nonzero: Option<Time>,
    /// Until when the process that follows may go on as active.
    pub left_until: Option<Time>,
    pub restarts: u32,
}
