//! What the director shows of itself: shared between its threads and whoever asks.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use pointsman_events::EventLog;
use pointsman_vrrp::{Counters, State};

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

/// State of a running director, for the admin side.
#[derive(Default)]
pub struct Shared {
    pub events: Arc<EventLog>,
    instances: Mutex<Vec<InstanceStatus>>,
}

impl Shared {
    #[must_use]
    pub fn new(events: Arc<EventLog>) -> Arc<Self> {
        Arc::new(Self { events, instances: Mutex::default() })
    }

    /// All virtual routers, in the order of the configuration.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceStatus> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_instances(&self, instances: Vec<InstanceStatus>) {
        *self.instances.lock().unwrap_or_else(PoisonError::into_inner) = instances;
    }
}
