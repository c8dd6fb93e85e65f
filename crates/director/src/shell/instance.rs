//! One virtual router's part of the system: its socket, its addresses, its complaints.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use pointsman_vrrp::{Auth, DropReason, Router, RouterId};

use crate::config::VrrpInstance;
use crate::status::Shared;
use crate::sys::guard::{Guard, Hold, StandIn};
use crate::sys::link::{Links, Placed, delete_address};
use crate::sys::packet::FrameSocket;
use crate::sys::route::PlacedRoute;
use crate::sys::vrrp_socket::VrrpSocket;
use crate::sys::{netlink, now};

/// The same complaint is repeated after this long at the earliest.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Instances that can share a socket do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SocketKey {
    pub interface: String,
    pub ipv6: bool,
    pub multicast: bool,
    pub unicast_ttl: u8,
}

pub(crate) struct Instance {
    pub config: VrrpInstance,
    pub id: RouterId,
    pub key: SocketKey,
    /// What was put on interfaces.
    pub held: Vec<Placed>,
    /// Routes that were made.
    pub routes: Vec<PlacedRoute>,
    /// The interface adverts go over; 0 while there is none.
    index: u32,
    pub since: SystemTime,
    /// No longer configured: stops, and is not shown.
    pub retired: bool,
    pub last_interface: Option<(bool, Option<IpAddr>)>,
    pub last_tracking: Option<(i32, bool)>,
    complained: BTreeMap<String, Instant>,
    /// Senders and kinds of packets dropped that were told of.
    drops_told: BTreeSet<(IpAddr, String)>,
}

impl Instance {
    pub fn new(config: VrrpInstance, id: RouterId) -> Self {
        let key = SocketKey {
            interface: config.speaks_on(),
            ipv6: config.is_ipv6(),
            multicast: config.unicast_peer.is_empty(),
            unicast_ttl: config.unicast_ttl,
        };
        Self {
            config,
            id,
            key,
            held: Vec::new(),
            routes: Vec::new(),
            index: 0,
            since: SystemTime::now(),
            retired: false,
            last_interface: None,
            last_tracking: None,
            complained: BTreeMap::new(),
            drops_told: BTreeSet::new(),
        }
    }

    /// All virtual addresses, those in adverts first.
    pub fn virtuals(&self) -> Vec<IpAddr> {
        let config = &self.config;
        let all = config.virtual_ipaddress.iter().chain(&config.virtual_ipaddress_excluded);
        all.map(|a| a.address).collect()
    }

    /// The virtual addresses and where they go; those whose interface is missing are left out.
    pub fn placed(&self, links: &Links) -> Vec<Placed> {
        let config = &self.config;
        let all = config.virtual_ipaddress.iter().chain(&config.virtual_ipaddress_excluded);
        let device = config.device();
        all.filter_map(|a| {
            let dev = a.dev.as_deref().unwrap_or(&device);
            let (index, _) = links.by_name(dev)?;
            Some(Placed {
                index,
                ip: a.address,
                prefix: a.prefix,
                scope: a.scope,
                label: a.label.clone(),
                broadcast: a.broadcast,
            })
        })
        .collect()
    }

    /// Its routes; those whose interface is missing are left out.
    pub fn placed_routes(&self, links: &Links) -> Vec<PlacedRoute> {
        self.config.virtual_routes.iter().filter_map(|r| PlacedRoute::new(r, links)).collect()
    }

    /// Makes the routes there should be. What can't be made is told.
    pub fn add_routes(&mut self, links: &Links, requests: &mut netlink::Socket, shared: &Shared) {
        let wanted = self.placed_routes(links);
        for route in self.routes.iter().filter(|r| !wanted.contains(r)) {
            if let Err(error) = route.delete(requests) {
                tracing::error!("{}: removing a route: {error}", self.config.name);
            }
        }
        for route in &wanted {
            if let Err(error) = route.add(requests) {
                let text = format!("adding the route to {}/{}: {error}", route.to, route.prefix);
                tracing::error!("{}: {text}", self.config.name);
                shared.events.push("route_error", &self.config.name, text);
            }
        }
        self.routes = wanted;
    }

    /// Whether the interface is up, and the address adverts come from.
    pub fn interface(&self, links: &Links) -> (bool, Option<IpAddr>) {
        let Some((index, link)) = links.by_name(&self.config.interface) else {
            return (false, None);
        };
        let source = match self.config.source {
            Some(ip) => links.addresses().iter().any(|a| a.ip == ip).then_some(ip),
            None => links.source(index, self.key.ipv6, &self.virtuals()),
        };
        let vmac_up = match self.config.vmac() {
            Some(vmac) => links.by_name(&vmac).is_some_and(|(_, vmac)| vmac.up),
            None => true,
        };
        ((link.up && vmac_up) || self.config.dont_track_primary, source)
    }

    /// Opens the socket if there is none for the interface as it is now: an interface that was
    /// deleted and made anew has another index.
    pub fn open_socket(
        &mut self,
        links: &Links,
        sockets: &mut BTreeMap<SocketKey, VrrpSocket>,
    ) -> io::Result<()> {
        let Some((index, _)) = links.by_name(&self.key.interface) else {
            sockets.remove(&self.key);
            return Ok(());
        };
        self.index = index;
        if sockets.get(&self.key).is_some_and(|s| s.index() == index) {
            return Ok(());
        }
        let SocketKey { interface, ipv6, multicast, unicast_ttl } = &self.key;
        let socket = VrrpSocket::open(interface, index, *ipv6, *multicast, *unicast_ttl)?;
        sockets.insert(self.key.clone(), socket);
        Ok(())
    }

    fn destinations(&self) -> Vec<IpAddr> {
        if self.config.unicast_peer.is_empty() {
            vec![VrrpSocket::group(self.key.ipv6)]
        } else {
            self.config.unicast_peer.clone()
        }
    }

    /// Source, destination and payload of an advert to everyone it goes to.
    fn adverts(&self, router: &Router, priority: u8) -> Vec<(IpAddr, IpAddr, Vec<u8>)> {
        let Some((_, Some(src))) = self.last_interface else { return Vec::new() };
        self.destinations()
            .into_iter()
            .map(|dst| {
                let mut payload = Vec::new();
                router.encode_advert(priority, dst, &mut payload);
                (src, dst, payload)
            })
            .collect()
    }

    pub fn send(
        &self,
        router: &Router,
        priority: u8,
        sockets: &BTreeMap<SocketKey, VrrpSocket>,
    ) -> io::Result<()> {
        let Some(socket) = sockets.get(&self.key) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let mut result = Ok(());
        for (src, dst, payload) in self.adverts(router, priority) {
            // One peer that can't be reached must not keep the others from hearing us.
            if let Err(error) = socket.send(&payload, src, dst) {
                result = Err(error);
            }
        }
        result
    }

    /// `group`: the name of its sync group.
    pub fn tell_guard(&self, router: &Router, group: Option<String>, guard: Option<&Guard>) {
        let Some(guard) = guard else { return };
        let hold = Hold {
            router: self.id.0,
            addresses: self.held.clone(),
            routes: self.routes.clone(),
            interface: self.key.interface.clone(),
            index: self.index,
            vrid: self.config.virtual_router_id,
            unicast_ttl: self.config.unicast_ttl,
            farewell: self.adverts(router, pointsman_vrrp::PRIORITY_STOP),
            stand_in: StandIn {
                priority: router.effective_priority(),
                adverts: self.adverts(router, router.effective_priority()),
                interval: router.config().advert_interval,
                peers_wait: router.config().peers_wait(),
                multicast: self.key.multicast,
                min_ttl: router.config().min_ttl,
                group,
                auth: router.config().auth.as_ref().map(Auth::data),
            },
            until: router.active_until().unwrap_or_else(|| now() + Duration::from_secs(1)),
        };
        if let Err(error) = guard.hold(hold) {
            tracing::warn!("{}: the guard does not answer: {error}", self.config.name);
        }
    }

    pub fn announce(&self, repeat: u8, links: &Links, frames: &FrameSocket) {
        for _ in 0..repeat {
            for placed in &self.held {
                let Some(link) = links.by_index(placed.index) else { continue };
                let interface = (placed.index, link.name.as_str());
                if let Err(error) = frames.announce(interface, link.mac, placed.ip) {
                    tracing::debug!("{}: announcing {}: {error}", self.config.name, placed.ip);
                }
            }
        }
    }

    /// The routes first: some need the addresses.
    pub fn remove_addresses(&mut self, requests: &mut netlink::Socket) {
        for route in self.routes.drain(..) {
            if let Err(error) = route.delete(requests) {
                let (name, to) = (&self.config.name, route.to);
                tracing::error!("{name}: removing the route to {to}: {error}");
            }
        }
        for placed in self.held.drain(..) {
            if let Err(error) = delete_address(requests, &placed) {
                tracing::error!("{}: removing {}: {error}", self.config.name, placed.ip);
            }
        }
    }

    /// Says what is wrong, but not again and again.
    pub fn complain(&mut self, text: String, shared: &Shared) {
        let fresh = self.complained.get(&text).is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY);
        if fresh {
            tracing::error!("{}: {text}", self.config.name);
            shared.events.push("vrrp_error", &self.config.name, &text);
            if self.complained.len() > 100 {
                self.complained.clear();
            }
            self.complained.insert(text, Instant::now());
        }
    }

    /// A packet was dropped: tells of each kind and sender once, for most mean that two routers are
    /// configured differently.
    pub fn note_drop(&mut self, src: IpAddr, reason: DropReason, shared: &Shared) {
        if matches!(reason, DropReason::Own | DropReason::NotListening) {
            return;
        }
        let text = reason.to_string();
        // Anyone on the link can invent senders.
        if self.drops_told.len() < 100 && self.drops_told.insert((src, text.clone())) {
            tracing::warn!("{}: adverts of {src} are dropped: {text}", self.config.name);
            let text = format!("adverts of {src} are dropped: {text}");
            shared.events.push("advert_dropped", &self.config.name, text);
        }
    }
}
