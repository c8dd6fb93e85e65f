//! Direct routing by eBPF on tc ingress: loads `bpf/direct_routing.bpf.o` and fills its tables.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use aya::Ebpf;
use aya::maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray, PerCpuValues};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc};
use aya::util::KernelVersion;

use super::table::{self, Candidate, MAX_SLOTS};
use super::{DataPlane, Service, Target, Traffic};
use crate::config::{Protocol, Scheduler};
use crate::sys::link::Links;
use crate::sys::netlink;

/// Built by `bpf/build.sh`; a test builds it again and compares.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/direct_routing.bpf.o");

/// Two tables of slots for each service, so that one can be written while the other is read.
const MAX_SERVICES: usize = 1_048_576 / (2 * MAX_SLOTS);
const MAX_REALS: u32 = 4096;

// Flags, as in the C source.
const BY_HASH: u32 = 1;
const HASH_PORT: u32 = 2;
const ONE_PACKET: u32 = 4;
const REAL_USABLE: u32 = 1;
const REAL_LOCAL: u32 = 2;

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ServiceKey {
    vip: [u8; 16],
    port: [u8; 2],
    protocol: u8,
    family: u8,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ServiceValue {
    base: u32,
    slots: u32,
    flags: u32,
    id: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RealValue {
    ip: [u8; 16],
    interface: u32,
    flags: u32,
    generation: u32,
    family: u8,
    pad: [u8; 3],
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct CountersValue {
    packets: u64,
    bytes: u64,
    connections: u64,
}

// SAFETY: all are repr(C) of plain numbers, without padding that is not named.
unsafe impl aya::Pod for ServiceKey {}
// SAFETY: as above.
unsafe impl aya::Pod for ServiceValue {}
// SAFETY: as above.
unsafe impl aya::Pod for RealValue {}
// SAFETY: as above.
unsafe impl aya::Pod for CountersValue {}

/// A real server of a service has one index for as long as it is configured.
type RealKey = (ServiceKey, SocketAddr);

pub(crate) struct EbpfPlane {
    // Keeps the program attached.
    _ebpf: Ebpf,
    services: BpfHashMap<MapData, ServiceKey, ServiceValue>,
    slots: Array<MapData, u32>,
    reals: Array<MapData, RealValue>,
    statistics: PerCpuArray<MapData, CountersValue>,
    /// Number of a service, and which of its two tables is in use.
    numbers: HashMap<ServiceKey, (u32, bool)>,
    indexes: HashMap<RealKey, u32>,
    generations: Vec<u32>,
    interface: u32,
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl EbpfPlane {
    /// Loads the program and attaches it to `interfaces`.
    pub fn load(interfaces: &[String]) -> io::Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).map_err(other)?;
        let program: &mut SchedClassifier = ebpf
            .program_mut("direct_routing")
            .ok_or_else(|| io::Error::other("no program in the object"))?
            .try_into()
            .map_err(other)?;
        program.load().map_err(other)?;
        for interface in interfaces {
            let attached = if has_tcx() {
                // Before the one of a run that just ended, which its guard keeps for a moment.
                let order = TcAttachOptions::TcxOrder(LinkOrder::first());
                program.attach_with_options(interface, TcAttachType::Ingress, order)
            } else {
                // There already is fine.
                let _ = tc::qdisc_add_clsact(interface);
                program.attach(interface, TcAttachType::Ingress)
            };
            attached.map_err(|e| io::Error::other(format!("attaching to {interface}: {e}")))?;
        }
        let mut map = |name: &str| {
            ebpf.take_map(name).ok_or_else(|| io::Error::other(format!("no map {name}")))
        };
        let services = map("services")?.try_into().map_err(other)?;
        let slots = map("slots")?.try_into().map_err(other)?;
        let reals = map("reals")?.try_into().map_err(other)?;
        let statistics = map("statistics")?.try_into().map_err(other)?;
        let links = Links::read(&mut netlink::Socket::route()?)?;
        let interface = interfaces.first().and_then(|n| links.by_name(n)).map_or(0, |(i, _)| i);
        Ok(Self {
            services,
            slots,
            reals,
            statistics,
            _ebpf: ebpf,
            numbers: HashMap::new(),
            indexes: HashMap::new(),
            generations: vec![0; MAX_REALS as usize],
            interface,
        })
    }

    fn apply_service(&mut self, service: &Service, links: &Links) -> io::Result<ServiceKey> {
        let key = service_key(service);
        let (number, second) = match self.numbers.get(&key) {
            Some(&(number, second)) => (number, !second),
            None => (self.free_number()?, false),
        };
        let mut indexes = Vec::with_capacity(service.targets.len());
        for target in &service.targets {
            indexes.push(self.put_real((key, target.address), links)?);
        }
        let takes_new: Vec<usize> =
            (0..service.targets.len()).filter(|&i| service.targets[i].weight > 0).collect();
        let candidates: Vec<Candidate> = takes_new
            .iter()
            .map(|&i| {
                let Target { address, weight } = service.targets[i];
                Candidate { address, weight }
            })
            .collect();
        let (order, flags) = slots_of(service, &candidates);
        let base = (number * 2 + u32::from(second)) * MAX_SLOTS as u32;
        for (at, &i) in order.iter().enumerate() {
            self.slots.set(base + at as u32, indexes[takes_new[i]], 0).map_err(other)?;
        }
        // The new table is complete: one write makes it the one in use.
        let value = ServiceValue { base, slots: order.len() as u32, flags, id: number };
        self.services.insert(key, value, 0).map_err(other)?;
        self.numbers.insert(key, (number, second));
        Ok(key)
    }

    fn free_number(&self) -> io::Result<u32> {
        (0..MAX_SERVICES as u32)
            .find(|n| !self.numbers.values().any(|(used, _)| used == n))
            .ok_or_else(|| io::Error::other(format!("at most {MAX_SERVICES} virtual servers")))
    }

    fn put_real(&mut self, key: RealKey, links: &Links) -> io::Result<u32> {
        let index = match self.indexes.get(&key) {
            Some(&index) => index,
            None => {
                let used: std::collections::HashSet<u32> = self.indexes.values().copied().collect();
                let index = (0..MAX_REALS)
                    .find(|i| !used.contains(i))
                    .ok_or_else(|| io::Error::other(format!("at most {MAX_REALS} real servers")))?;
                self.generations[index as usize] += 1;
                self.indexes.insert(key, index);
                let cpus = aya::util::nr_cpus().map_err(|(_, e)| e)?;
                let zero = CountersValue { packets: 0, bytes: 0, connections: 0 };
                let zeros = PerCpuValues::try_from(vec![zero; cpus])?;
                self.statistics.set(index, zeros, 0).map_err(other)?;
                index
            }
        };
        let ip = key.1.ip();
        let local = links.addresses().iter().any(|a| a.ip == ip);
        let value = RealValue {
            ip: octets(ip),
            interface: links.towards(ip).unwrap_or(self.interface),
            flags: REAL_USABLE | if local { REAL_LOCAL } else { 0 },
            generation: self.generations[index as usize],
            family: family(ip),
            pad: [0; 3],
        };
        self.reals.set(index, value, 0).map_err(other)?;
        Ok(index)
    }
}

impl DataPlane for EbpfPlane {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn apply(&mut self, services: &[Service]) -> io::Result<()> {
        let links = Links::read(&mut netlink::Socket::route()?)?;
        let mut result = Ok(());
        let mut kept = Vec::new();
        for service in services {
            match self.apply_service(service, &links) {
                Ok(key) => kept.push(key),
                Err(error) => result = Err(error),
            }
        }
        let gone: Vec<ServiceKey> =
            self.numbers.keys().filter(|k| !kept.contains(k)).copied().collect();
        for key in gone {
            let _ = self.services.remove(&key);
            self.numbers.remove(&key);
        }
        let wanted = |key: &RealKey| {
            services
                .iter()
                .any(|s| service_key(s) == key.0 && s.targets.iter().any(|t| t.address == key.1))
        };
        let unused: Vec<(RealKey, u32)> =
            self.indexes.iter().filter(|(k, _)| !wanted(k)).map(|(k, i)| (*k, *i)).collect();
        for (key, index) in unused {
            self.indexes.remove(&key);
            let _ = self.reals.set(index, RealValue::default(), 0);
        }
        result
    }

    fn traffic(&self, service: &Service, target: SocketAddr) -> Traffic {
        let Some(index) = self.indexes.get(&(service_key(service), target)) else {
            return Traffic::default();
        };
        let Ok(values) = self.statistics.get(index, 0) else { return Traffic::default() };
        values.iter().fold(Traffic::default(), |t, v| Traffic {
            packets: t.packets + v.packets,
            bytes: t.bytes + v.bytes,
            connections: t.connections + v.connections,
        })
    }

    fn doubts(&self, services: &[Service]) -> Vec<String> {
        services
            .iter()
            .filter_map(|s| {
                let instead = stand_in(s.scheduler)?;
                let (name, vip) = (s.scheduler.name(), s.vip);
                Some(format!("{vip}: {name} is served as {instead} by the eBPF data plane"))
            })
            .collect()
    }
}

/// What is used for schedulers this data plane does not have.
fn stand_in(scheduler: Scheduler) -> Option<&'static str> {
    match scheduler {
        Scheduler::Rr | Scheduler::Wrr | Scheduler::Mh | Scheduler::Sh => None,
        Scheduler::Lc => Some("rr"),
        Scheduler::Dh => Some("mh"),
        _ => Some("wrr"),
    }
}

/// The table of a service, and the flags that say how to read it.
fn slots_of(service: &Service, candidates: &[Candidate]) -> (Vec<usize>, u32) {
    let one_packet = if service.one_packet { ONE_PACKET } else { 0 };
    if service.sticky {
        return (table::maglev(candidates), BY_HASH | one_packet);
    }
    let (order, flags) = match service.scheduler {
        Scheduler::Rr | Scheduler::Lc => (table::round_robin(candidates), 0),
        Scheduler::Mh => (table::maglev(candidates), BY_HASH | HASH_PORT),
        Scheduler::Sh | Scheduler::Dh => (table::maglev(candidates), BY_HASH),
        _ => (table::weighted_round_robin(candidates), 0),
    };
    (order, flags | one_packet)
}

fn service_key(service: &Service) -> ServiceKey {
    ServiceKey {
        vip: octets(service.vip.ip()),
        port: service.vip.port().to_be_bytes(),
        protocol: match service.protocol {
            Protocol::Tcp => libc::IPPROTO_TCP as u8,
            Protocol::Udp => libc::IPPROTO_UDP as u8,
            Protocol::Sctp => libc::IPPROTO_SCTP as u8,
        },
        family: family(service.vip.ip()),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv6() { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }
}

/// As the program has them: IPv4 in the last four bytes.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Since Linux 6.6 programs on tc have an order of their own.
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0))
}
