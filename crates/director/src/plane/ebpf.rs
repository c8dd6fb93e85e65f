//! Direct routing by eBPF: fills the tables of `bpf/direct_routing.bpf.c`.

use std::collections::{HashMap, HashSet};
use std::io;

use super::clock::{self, Tick};
use super::flows::{Flows, Keeper, Registry, SharedRegistry, Sharing, lock};
use super::layout::{
    BY_HASH, BY_WEIGHT, Counters, FRAGMENTS, HASH_PORT, HASH_VIP, IDLE_FIRST, LEAST, LOAD_ACTIVE,
    LinkValue, Load, MAX_REALS, MAX_SCAN, Name, ONE_PACKET, PERSISTENT, REAL_LOCAL, REAL_MAC,
    REAL_NEW, REAL_USABLE, RealValue, ServiceKey, ServiceValue, Settings, family, hash_vip, mask,
    octets, service_key,
};
use super::pins;
use super::program::Program;
use super::sync::{Peers, SyncConfig};
use super::table::{self, Candidate, MAX_SLOTS};
use super::{DataPlane, Service, Target, Traffic};
use crate::config::{PlaneChoice, Scheduler};
use crate::sys::link::Links;
use crate::sys::netlink;

/// Two tables of slots for each service, so that one can be written while the other is read.
const MAX_SERVICES: usize = 1_048_576 / (2 * MAX_SLOTS);

pub(crate) struct EbpfPlane {
    pub(super) program: Program,
    /// Started with the first services: when the plane is loaded, the process must have one thread.
    flows: Option<Flows>,
    registry: SharedRegistry,
    /// Number of a service, and which of its two tables is in use.
    numbers: HashMap<ServiceKey, (u32, bool)>,
    interfaces: Vec<String>,
    processors: usize,
    /// XDP is attached: it needs the MACs of real servers.
    xdp: bool,
    peers: Option<Peers>,
    /// What is to be told once.
    told: Vec<String>,
}

/// How the program is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub interfaces: Vec<String>,
    pub attach: PlaneChoice,
    pub sync: Option<SyncConfig>,
}

impl Options {
    /// There is room for one XDP program on an interface.
    pub fn is_xdp(&self) -> bool {
        matches!(self.attach, PlaneChoice::Xdp | PlaneChoice::XdpGeneric)
    }
}

impl EbpfPlane {
    /// Loads the program and attaches it, taking over what a run before left in the tables.
    pub fn load(options: &Options) -> io::Result<Self> {
        let (mut program, mut told) = load_pinned()?;
        let processors = aya::util::nr_cpus().map_err(|(_, e)| e)?;
        let mut peers = None;
        if let Some(sync) = &options.sync {
            let links = Links::read(&mut netlink::Socket::route()?)?;
            let (open, troubles) = Peers::open(sync, &links)?;
            told.extend(troubles);
            peers = Some(open);
        }
        let tell = u32::from(peers.is_some());
        // Without the tick the program asks for the time, which takes longer.
        let Tick { tick, offset } = program.read_clock().map(clock::of).unwrap_or_default();
        program.tables.settings.set(&0, &Settings { tell, pad: 0, tick, offset })?;
        let mut plane = Self {
            program,
            flows: None,
            registry: SharedRegistry::default(),
            numbers: HashMap::new(),
            interfaces: options.interfaces.clone(),
            processors,
            xdp: options.is_xdp(),
            peers,
            told,
        };
        // What it is to know comes before the first packet.
        plane.take_over()?;
        for interface in &options.interfaces {
            plane.program.attach_tc(interface)?;
        }
        if plane.xdp {
            let generic = options.attach == PlaneChoice::XdpGeneric;
            plane.program.attach_xdp(&options.interfaces, generic)?;
        }
        Ok(plane)
    }

    /// What the run before had: services and real servers keep their numbers, and so their
    /// connections.
    fn take_over(&mut self) -> io::Result<()> {
        let tables = &self.program.tables;
        let mut registry = lock(&self.registry);
        for key in tables.services.keys()? {
            if key.family & FRAGMENTS == 0
                && let Some(value) = tables.services.get(&key)?
            {
                let table = value.base / MAX_SLOTS as u32;
                self.numbers.insert(key, (table / 2, table % 2 == 1));
                registry.services.insert(key, value);
                tables.addresses.set(&hash_vip(&key.vip), &1)?;
            }
        }
        for index in 0..MAX_REALS {
            let real = tables.reals.get(&index)?.unwrap_or_default();
            let name = tables.names.get(&index)?.unwrap_or_default();
            if real.flags & REAL_USABLE != 0 && name.family != 0 {
                registry.insert(name, index, real.generation);
            }
        }
        Ok(())
    }

    fn apply_service(&mut self, service: &Service, links: &Links) -> io::Result<ServiceKey> {
        let key = service_key(service)
            .ok_or_else(|| io::Error::other(format!("{} is not for eBPF", service.takes)))?;
        let (number, second) = match self.numbers.get(&key) {
            Some(&(number, second)) => (number, !second),
            None => (self.free_number()?, false),
        };
        let mut indexes = Vec::with_capacity(service.targets.len());
        for target in &service.targets {
            indexes.push(self.put_real(key, target, links)?);
        }
        let takes_new: Vec<usize> =
            (0..service.targets.len()).filter(|&i| service.targets[i].weight > 0).collect();
        let candidates: Vec<Candidate> = takes_new
            .iter()
            .map(|&i| {
                let Target { address, weight, .. } = service.targets[i];
                Candidate { address, weight }
            })
            .collect();
        let (order, flags) = slots_of(service, &candidates);
        let base = (number * 2 + u32::from(second)) * MAX_SLOTS as u32;
        let tables = &self.program.tables;
        for (at, &i) in order.iter().enumerate() {
            tables.slots.set(&(base + at as u32), &indexes[takes_new[i]])?;
        }
        // The new table is complete: one write makes it the one in use.
        let persistence = service.persistence;
        let value = ServiceValue {
            base,
            slots: order.len() as u32,
            flags,
            id: number,
            mask: persistence.map_or([0; 16], |p| mask(p.prefix, key.family)),
            persistence: persistence.map_or(0, |p| p.timeout.as_nanos() as u64),
            port: key.port,
            pad: [0; 6],
        };
        tables.services.set(&key, &value)?;
        tables.addresses.set(&hash_vip(&key.vip), &1)?;
        self.numbers.insert(key, (number, second));
        lock(&self.registry).services.insert(key, value);
        Ok(key)
    }

    fn free_number(&self) -> io::Result<u32> {
        (0..MAX_SERVICES as u32)
            .find(|n| !self.numbers.values().any(|(used, _)| used == n))
            .ok_or_else(|| io::Error::other(format!("at most {MAX_SERVICES} virtual servers")))
    }

    fn put_real(&self, service: ServiceKey, target: &Target, links: &Links) -> io::Result<u32> {
        let tables = &self.program.tables;
        let mut registry = lock(&self.registry);
        let name = Name::new(service, target.address);
        let index = match registry.indexes.get(&name) {
            Some(&index) => index,
            None => {
                let index = free_index(&registry)?;
                let before = tables.reals.get(&index)?.unwrap_or_default();
                registry.insert(name, index, before.generation.wrapping_add(1).max(1));
                tables.statistics.set_all(&index, self.processors, Counters::default())?;
                tables.loads.set(&index, &Load::default())?;
                tables.names.set(&index, &name)?;
                index
            }
        };
        let ip = target.address.ip();
        let local = links.addresses().iter().any(|a| a.ip == ip);
        let default = self.interfaces.first().and_then(|n| links.by_name(n)).map_or(0, |(i, _)| i);
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let interface = links.towards(ip).unwrap_or(default);
        let before = tables.reals.get(&index)?.unwrap_or_default();
        // Its MAC is looked after by the thread; of another server it would be wrong.
        let has_mac = (before.ip, before.interface) == (octets(ip), interface) && self.xdp;
        let value = RealValue {
            ip: octets(ip),
            interface,
            flags: REAL_USABLE
                | flag(local, REAL_LOCAL)
                | flag(target.weight > 0, REAL_NEW)
                | flag(has_mac, before.flags & REAL_MAC),
            mac: before.mac,
            source: before.source,
            generation: registry.generations.get(&index).copied().unwrap_or(1),
            weight: target.weight,
            upper: target.upper,
            lower: lower_threshold(target),
            family: family(ip),
            ..RealValue::default()
        };
        tables.reals.set(&index, &value)?;
        Ok(index)
    }

    /// Of each virtual address and protocol, one service takes fragments without ports that come
    /// before the first one.
    fn put_fragments(&self, kept: &[ServiceKey]) -> io::Result<()> {
        let tables = &self.program.tables;
        let registry = lock(&self.registry);
        let mut written = HashSet::new();
        for key in kept {
            let fragments = ServiceKey { port: [0; 2], family: key.family | FRAGMENTS, ..*key };
            if let Some(value) = registry.services.get(key)
                && written.insert(fragments)
            {
                tables.services.set(&fragments, value)?;
            }
        }
        for key in tables.services.keys()? {
            if key.family & FRAGMENTS != 0 && !written.contains(&key) {
                tables.services.remove(&key)?;
            }
        }
        Ok(())
    }

    fn forget_unused(&mut self, services: &[Service], kept: &[ServiceKey]) {
        let tables = &self.program.tables;
        let mut registry = lock(&self.registry);
        let gone: Vec<ServiceKey> =
            self.numbers.keys().filter(|k| !kept.contains(k)).copied().collect();
        for key in gone {
            let _ = tables.services.remove(&key);
            self.numbers.remove(&key);
            registry.services.remove(&key);
            let hash = hash_vip(&key.vip);
            if self.numbers.keys().all(|other| hash_vip(&other.vip) != hash) {
                let _ = tables.addresses.set(&hash, &0);
            }
        }
        let wanted: HashSet<Name> = services
            .iter()
            .filter_map(|s| Some((service_key(s)?, &s.targets)))
            .flat_map(|(key, targets)| targets.iter().map(move |t| Name::new(key, t.address)))
            .collect();
        let unused: Vec<(Name, u32)> = registry
            .indexes
            .iter()
            .filter(|(name, _)| !wanted.contains(name))
            .map(|(name, index)| (*name, *index))
            .collect();
        for (name, index) in unused {
            let generation = registry.remove(&name).unwrap_or(0);
            // The generation stays, for whoever gets the index next.
            let _ = tables.reals.set(&index, &RealValue { generation, ..RealValue::default() });
            let _ = tables.names.set(&index, &Name::default());
        }
    }

    fn traffic_of(&self, name: Name) -> Traffic {
        let Some(index) = lock(&self.registry).indexes.get(&name).copied() else {
            return Traffic::default();
        };
        let tables = &self.program.tables;
        let values = tables.statistics.get_all(&index, self.processors).unwrap_or_default();
        let load = tables.loads.get(&index).ok().flatten().unwrap_or_default();
        // A count that the program took below zero for a moment is none.
        let count = |n: u32| u64::from(if n > i32::MAX as u32 { 0 } else { n });
        let start = Traffic {
            active: count(load.active),
            inactive: count(load.inactive),
            ..Traffic::default()
        };
        values.iter().fold(start, |t, v| Traffic {
            packets: t.packets + v.packets,
            bytes: t.bytes + v.bytes,
            connections: t.connections + v.connections,
            ..t
        })
    }

    fn put_links(&self, links: &Links) -> io::Result<()> {
        for name in &self.interfaces {
            if let Some((index, link)) = links.by_name(name) {
                self.program.tables.links.set(&index, &LinkValue { mac: link.mac, pad: [0; 2] })?;
            }
        }
        Ok(())
    }
}

/// With pinned tables if that can be had. Those of another version are replaced.
fn load_pinned() -> io::Result<(Program, Vec<String>)> {
    let (directory, mut told) = match pins::directory() {
        Ok(found) => found,
        Err(error) => {
            tracing::info!("a restart will forget the connections: {error}");
            return Ok((Program::load(None)?, Vec::new()));
        }
    };
    match Program::load(Some(&directory)) {
        Ok(program) => Ok((program, told)),
        Err(error) => {
            pins::clear(&directory);
            told.push(format!(
                "the tables in {} can't be used, their connections are forgotten: {error}",
                directory.display()
            ));
            Ok((Program::load(Some(&directory))?, told))
        }
    }
}

fn free_index(registry: &Registry) -> io::Result<u32> {
    (0..MAX_REALS)
        .find(|i| !registry.generations.contains_key(i))
        .ok_or_else(|| io::Error::other(format!("at most {MAX_REALS} real servers")))
}

impl DataPlane for EbpfPlane {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn apply(&mut self, services: &[Service]) -> io::Result<()> {
        let links = Links::read(&mut netlink::Socket::route()?)?;
        let mut result = self.put_links(&links);
        let mut kept = Vec::new();
        for service in services {
            match self.apply_service(service, &links) {
                Ok(key) => kept.push(key),
                Err(error) => result = Err(error),
            }
        }
        result = result.and(self.put_fragments(&kept));
        self.forget_unused(services, &kept);
        if self.flows.is_none() {
            let sharing = match (self.peers.take(), self.program.events.take()) {
                (Some(peers), Some(events)) => Some(Sharing::new(peers, events)),
                _ => None,
            };
            let registry = self.registry.clone();
            let keeper = Keeper::new(&self.program.tables, registry, sharing, self.xdp)?;
            self.flows = Some(Flows::start(keeper)?);
        }
        result
    }

    /// On tc only: XDP stays where it was attached at the start.
    fn listen_on(&mut self, interface: &str) -> io::Result<()> {
        if !self.interfaces.iter().any(|i| i == interface) {
            self.program.attach_tc(interface)?;
            self.interfaces.push(interface.to_owned());
        }
        Ok(())
    }

    fn traffic(&mut self, service: &Service) -> Vec<Traffic> {
        let Some(key) = service_key(service) else { return Vec::new() };
        let targets = service.targets.iter();
        targets.map(|target| self.traffic_of(Name::new(key, target.address))).collect()
    }

    fn doubts(&mut self, services: &[Service]) -> Vec<String> {
        let mut doubts = std::mem::take(&mut self.told);
        for s in services {
            let (name, vip) = (s.scheduler.name(), s.takes);
            if let Some(instead) = stand_in(s.scheduler) {
                doubts.push(format!("{vip}: {name} is served as {instead} by the eBPF data plane"));
            }
            if by_load(s.scheduler).is_some() && s.targets.len() > MAX_SCAN {
                doubts
                    .push(format!("{vip}: {name} looks at the first {MAX_SCAN} real servers only"));
            }
        }
        doubts
    }
}

/// What is used for schedulers this data plane does not have.
pub(super) fn stand_in(scheduler: Scheduler) -> Option<&'static str> {
    use Scheduler::{Fo, Lblc, Lblcr, Ovf, Twos};
    match scheduler {
        // Those two are for caches: by destination, and by load among equals.
        Lblc | Lblcr => Some("dh"),
        Fo | Ovf | Twos => Some("wlc"),
        _ => None,
    }
}

/// The flags of schedulers that go by load.
fn by_load(scheduler: Scheduler) -> Option<u32> {
    use Scheduler::{Fo, Lc, Nq, Ovf, Sed, Twos, Wlc};
    match scheduler {
        Lc => Some(LEAST),
        Wlc | Fo | Ovf | Twos => Some(LEAST | BY_WEIGHT),
        Sed => Some(LEAST | LOAD_ACTIVE | BY_WEIGHT),
        Nq => Some(LEAST | LOAD_ACTIVE | BY_WEIGHT | IDLE_FIRST),
        _ => None,
    }
}

/// The table of a service, and the flags that say how to read it.
fn slots_of(service: &Service, candidates: &[Candidate]) -> (Vec<usize>, u32) {
    use Scheduler::{Dh, Lblc, Lblcr, Mh, Rr, Sh};
    let (order, flags) = match service.scheduler {
        Rr => (table::round_robin(candidates), 0),
        Mh => (table::maglev(candidates), BY_HASH | HASH_PORT),
        Sh if service.hash.port => (table::maglev(candidates), BY_HASH | HASH_PORT),
        Sh => (table::maglev(candidates), BY_HASH),
        Dh | Lblc | Lblcr => (table::maglev(candidates), BY_HASH | HASH_VIP),
        scheduler => match by_load(scheduler) {
            Some(flags) => ((0..candidates.len().min(MAX_SCAN)).collect(), flags),
            None => (table::weighted_round_robin(candidates), 0),
        },
    };
    let one_packet = if service.one_packet { ONE_PACKET } else { 0 };
    let persistent = if service.persistence.is_some() { PERSISTENT } else { 0 };
    (order, flags | one_packet | persistent)
}

/// As IPVS: three quarters of the upper one unless given.
fn lower_threshold(target: &Target) -> u32 {
    match (target.upper, target.lower) {
        (0, _) => 0,
        (upper, 0) => (u64::from(upper) * 3).div_ceil(4) as u32,
        (_, lower) => lower,
    }
}
