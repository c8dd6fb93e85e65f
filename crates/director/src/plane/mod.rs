//! Data planes: what moves packets from a virtual server to its real servers.

pub mod cost;
pub(crate) mod ebpf;
mod flows;
mod layout;
mod neighbours;
mod pins;
mod program;
mod sweep;
mod sync;
pub mod table;

pub(crate) use sync::SyncConfig;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{Protocol, Scheduler};

/// One virtual server as the data plane is to serve it from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Port 0: all ports.
    pub vip: SocketAddr,
    pub protocol: Protocol,
    pub scheduler: Scheduler,
    pub persistence: Option<Persistence>,
    pub one_packet: bool,
    pub targets: Vec<Target>,
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

    /// Traffic of a real server of one virtual server.
    fn traffic(&self, service: &Service, target: SocketAddr) -> Traffic;

    /// What can't be done as asked, in a sentence each: schedulers replaced by the nearest.
    fn doubts(&self, services: &[Service]) -> Vec<String>;
}
