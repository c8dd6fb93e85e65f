//! Data planes: what moves packets from a virtual server to its real servers.

pub(crate) mod choice;
mod clock;
pub mod cost;
pub(crate) mod ebpf;
mod flows;
pub mod ipvs;
mod layout;
mod neighbours;
mod pins;
mod program;
mod sweep;
mod sync;
pub mod table;

pub(crate) use sync::SyncConfig;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{Forwarding, HashOptions, Protocol, Scheduler};

/// One virtual server as the data plane is to serve it from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub takes: Takes,
    pub scheduler: Scheduler,
    pub hash: HashOptions,
    pub persistence: Option<Persistence>,
    pub one_packet: bool,
    pub targets: Vec<Target>,
}

/// The packets that are for a virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Takes {
    /// Port 0: all ports.
    Address { vip: SocketAddr, protocol: Protocol },
    /// What the firewall marked.
    Mark { mark: u32, ipv6: bool },
}

impl Takes {
    #[must_use]
    pub fn is_ipv6(self) -> bool {
        match self {
            Self::Address { vip, .. } => vip.is_ipv6(),
            Self::Mark { ipv6, .. } => ipv6,
        }
    }
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { vip, protocol: Protocol::Tcp } => write!(f, "{vip}"),
            Self::Address { vip, protocol } => write!(f, "{vip} ({})", protocol.name()),
            Self::Mark { mark, .. } => write!(f, "fwmark {mark}"),
        }
    }
}

/// All connections of a client go to one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// How long after its last connection.
    pub timeout: Duration,
    /// Clients that are the same in so many bits are one. 32 or 128: each for itself.
    pub prefix: u8,
}

/// A real server of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub address: SocketAddr,
    pub forwarding: Forwarding,
    /// Zero: keeps the connections it has, gets no new ones.
    pub weight: u32,
    /// Connections from which on it gets no new ones; 0: no limit.
    pub upper: u32,
    /// It gets new ones again with fewer than these; 0: three quarters of `upper`.
    pub lower: u32,
}

/// What went to one real server since the data plane was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
    pub connections: u64,
    /// Connections it has that are established.
    pub active: u64,
    /// Connections it has that are being opened or closed, and UDP.
    pub inactive: u64,
}

/// A way to move packets. Calls block; they come from one thread.
pub trait DataPlane: Send {
    /// For people and metrics: `ebpf`, `ipvs`.
    fn name(&self) -> &'static str;

    /// Replaces everything served. Connections to targets that stay, stay.
    ///
    /// # Errors
    /// What could not be done; the rest was.
    fn apply(&mut self, services: &[Service]) -> io::Result<()>;

    /// Takes packets that arrive on one more interface, too. Those that need no interface do
    /// nothing.
    ///
    /// # Errors
    /// There is no such interface.
    fn listen_on(&mut self, _interface: &str) -> io::Result<()> {
        Ok(())
    }

    /// Traffic of the real servers of one virtual server, in the order of its targets.
    fn traffic(&mut self, service: &Service) -> Vec<Traffic>;

    /// What can't be done as asked, in a sentence each: schedulers replaced by the nearest.
    fn doubts(&mut self, services: &[Service]) -> Vec<String>;

    /// The orderly end: no packets come any more.
    fn end(&mut self) {}
}
