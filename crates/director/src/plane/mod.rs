//! Data planes: what moves packets from a virtual server to its real servers.

pub(crate) mod ebpf;
pub mod table;

use std::io;
use std::net::SocketAddr;

use crate::config::{Protocol, Scheduler};

/// One virtual server as the data plane is to serve it from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Port 0: all ports.
    pub vip: SocketAddr,
    pub protocol: Protocol,
    pub scheduler: Scheduler,
    /// All connections of a client go to one server.
    pub sticky: bool,
    pub one_packet: bool,
    pub targets: Vec<Target>,
}

/// A real server of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub address: SocketAddr,
    /// Zero: keeps the connections it has, gets no new ones.
    pub weight: u32,
}

/// What went to one real server since the data plane was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
    pub connections: u64,
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
