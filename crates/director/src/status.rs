//! What the director shows of itself: shared between its threads and whoever asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use pointsman_events::EventLog;
use pointsman_vrrp::{Counters, State};

use crate::config::Protocol;
use crate::plane::Traffic;

/// One virtual router as it is now.
#[derive(Debug, Clone)]
pub struct InstanceStatus {
    pub name: String,
    pub interface: String,
    pub virtual_router_id: u8,
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// With tracking weights in it.
    pub priority: u8,
    /// Who is active, with its priority, if that is another router.
    pub active: Option<(IpAddr, u8)>,
    pub addresses: Vec<IpAddr>,
    pub counters: Counters,
}

/// One virtual server as it is now.
#[derive(Debug, Clone)]
pub struct VirtualServerStatus {
    /// `192.168.4.253:80`
    pub name: String,
    /// `None` for firewall marks.
    pub vip: Option<SocketAddr>,
    pub protocol: Protocol,
    pub scheduler: &'static str,
    /// Which data plane serves it.
    pub data_plane: &'static str,
    /// Whether enough real servers are up.
    pub quorum: bool,
    pub real_servers: Vec<RealServerStatus>,
}

#[derive(Debug, Clone)]
pub struct RealServerStatus {
    pub address: SocketAddr,
    pub weight: u32,
    pub up: bool,
    /// Why it is down.
    pub why: String,
    pub traffic: Traffic,
}

/// State of a running director, for the admin side.
#[derive(Default)]
pub struct Shared {
    pub events: Arc<EventLog>,
    instances: Mutex<Vec<InstanceStatus>>,
    virtual_servers: Mutex<Vec<VirtualServerStatus>>,
}

impl Shared {
    #[must_use]
    pub fn new(events: Arc<EventLog>) -> Arc<Self> {
        Arc::new(Self { events, ..Self::default() })
    }

    /// All virtual routers, in the order of the configuration.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceStatus> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All virtual servers, in the order of the configuration.
    #[must_use]
    pub fn virtual_servers(&self) -> Vec<VirtualServerStatus> {
        self.virtual_servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_virtual_servers(&self, servers: Vec<VirtualServerStatus>) {
        *self.virtual_servers.lock().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    pub(crate) fn set_instances(&self, instances: Vec<InstanceStatus>) {
        *self.instances.lock().unwrap_or_else(PoisonError::into_inner) = instances;
    }
}
