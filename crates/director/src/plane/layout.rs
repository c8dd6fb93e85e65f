//! What the eBPF program and user space share: `bpf/tables.h` in Rust.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Service, Takes};
use crate::config::Protocol;
use crate::sys::bpf::Plain;

/// Counts up with every change of `tables.h`: tables pinned by a version with another layout are not
/// taken over.
pub(crate) const LAYOUT: u32 = 1;

// Flags of a service.
pub(crate) const BY_HASH: u32 = 1;
pub(crate) const HASH_PORT: u32 = 2;
pub(crate) const ONE_PACKET: u32 = 4;
pub(crate) const HASH_VIP: u32 = 8;
pub(crate) const LEAST: u32 = 16;
pub(crate) const LOAD_ACTIVE: u32 = 32;
pub(crate) const BY_WEIGHT: u32 = 64;
pub(crate) const IDLE_FIRST: u32 = 128;
pub(crate) const PERSISTENT: u32 = 256;

// Flags of a real server.
pub(crate) const REAL_USABLE: u32 = 1;
pub(crate) const REAL_LOCAL: u32 = 2;
pub(crate) const REAL_MAC: u32 = 4;
pub(crate) const REAL_NEW: u32 = 8;

// States of a connection.
pub(crate) const SYN_RECV: u32 = 1;
pub(crate) const ESTABLISHED: u32 = 2;
pub(crate) const FIN_WAIT: u32 = 3;
pub(crate) const CLOSED: u32 = 4;
pub(crate) const DATAGRAM: u32 = 5;

/// In the family of a [`ServiceKey`]: it takes fragments whose ports are not known.
pub(crate) const FRAGMENTS: u8 = 0x80;

/// Entries of the table that says which virtual addresses there may be.
pub(crate) const ADDRESSES: u32 = 4096;

pub(crate) const MAX_REALS: u32 = 4096;
/// As many real servers of one virtual server are compared by load.
pub(crate) const MAX_SCAN: usize = 256;

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct ServiceKey {
    pub vip: [u8; 16],
    /// Network order.
    pub port: [u8; 2],
    pub protocol: u8,
    pub family: u8,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ServiceValue {
    pub base: u32,
    pub slots: u32,
    pub flags: u32,
    pub id: u32,
    pub mask: [u8; 16],
    /// ns
    pub persistence: u64,
    pub port: [u8; 2],
    pub pad: [u8; 6],
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RealValue {
    pub ip: [u8; 16],
    pub interface: u32,
    pub flags: u32,
    pub generation: u32,
    pub weight: u32,
    pub upper: u32,
    pub lower: u32,
    pub mac: [u8; 6],
    pub source: [u8; 6],
    pub family: u8,
    pub pad: [u8; 3],
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub active: u32,
    pub inactive: u32,
    pub full: u32,
    pub pad: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Flow {
    pub client: [u8; 16],
    pub vip: [u8; 16],
    pub client_port: [u8; 2],
    pub vip_port: [u8; 2],
    pub protocol: u8,
    pub family: u8,
    pub pad: [u8; 2],
}

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Connection {
    pub real: u32,
    pub generation: u32,
    pub state: u32,
    /// From the peer; no packet of it came here since.
    pub heard: u32,
    /// ns of CLOCK_MONOTONIC
    pub seen: u64,
    pub told: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Template {
    pub real: u32,
    pub generation: u32,
    pub seen: u64,
    pub timeout: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub packets: u64,
    pub bytes: u64,
    pub connections: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Event {
    pub flow: Flow,
    pub connection: Connection,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Settings {
    pub tell: u32,
    pub pad: u32,
    /// ns of a jiffy; 0: the program asks for the time.
    pub tick: u64,
    pub offset: u64,
}

/// One moment on both clocks.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moment {
    pub jiffies: u64,
    /// CLOCK_MONOTONIC
    pub ns: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkValue {
    pub mac: [u8; 6],
    pub pad: [u8; 2],
}

/// Which real server an index stands for: not for the program, but for the next run of this one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Name {
    pub service: ServiceKey,
    pub ip: [u8; 16],
    pub port: [u8; 2],
    /// As in [`ServiceKey`]; 0: nobody.
    pub family: u8,
    pub pad: u8,
}

macro_rules! plain {
    ($($name:ty),*) => {
        // SAFETY: all are repr(C) of plain numbers, without padding that is not named; the sizes
        // are tested against those of the object.
        $(unsafe impl Plain for $name {})*
    };
}
plain!(ServiceKey, ServiceValue, RealValue, Load, Flow, Connection, Template, Counters, Event);
plain!(Settings, Moment, LinkValue, Name);

/// The index of a virtual address in the table of that many.
pub(crate) fn hash_vip(vip: &[u8; 16]) -> u32 {
    let words = vip.chunks_exact(4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    let folded: u32 = words.fold(0, |h, word| h ^ word);
    folded.wrapping_mul(0x9e37_79b1) >> (32 - ADDRESSES.ilog2())
}

impl Event {
    /// As it stands in the ring buffer.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        crate::sys::bpf::read(bytes)
    }
}

impl Name {
    pub fn new(service: ServiceKey, address: SocketAddr) -> Self {
        Self {
            service,
            ip: octets(address.ip()),
            port: address.port().to_be_bytes(),
            family: family(address.ip()),
            pad: 0,
        }
    }
}

/// `None`: marks can't be seen where the program runs.
pub(crate) fn service_key(service: &Service) -> Option<ServiceKey> {
    let Takes::Address { vip, protocol } = service.takes else { return None };
    Some(ServiceKey {
        vip: octets(vip.ip()),
        port: vip.port().to_be_bytes(),
        protocol: match protocol {
            Protocol::Tcp => libc::IPPROTO_TCP as u8,
            Protocol::Udp => libc::IPPROTO_UDP as u8,
            Protocol::Sctp => libc::IPPROTO_SCTP as u8,
        },
        family: family(vip.ip()),
    })
}

pub(crate) fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv6() { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }
}

/// As the program has them: IPv4 in the last four bytes.
pub(crate) fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The other way round.
pub(crate) fn address(octets: [u8; 16], family: u8) -> IpAddr {
    if family == libc::AF_INET6 as u8 {
        return Ipv6Addr::from(octets).into();
    }
    let [.., a, b, c, d] = octets;
    Ipv4Addr::new(a, b, c, d).into()
}

/// The mask of a prefix that long, as the program has it.
pub(crate) fn mask(prefix: u8, family: u8) -> [u8; 16] {
    let bits = if family == libc::AF_INET6 as u8 { prefix.min(128) } else { prefix.min(32) + 96 };
    (u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cut_the_client() {
        let v4 = |prefix| address(mask(prefix, libc::AF_INET as u8), libc::AF_INET as u8);
        assert_eq!(v4(24).to_string(), "255.255.255.0");
        assert_eq!(v4(32).to_string(), "255.255.255.255");
        assert_eq!(v4(0).to_string(), "0.0.0.0");
        let v6 = |prefix| address(mask(prefix, libc::AF_INET6 as u8), libc::AF_INET6 as u8);
        assert_eq!(v6(64).to_string(), "ffff:ffff:ffff:ffff::");
        assert_eq!(v6(0).to_string(), "::");
    }
}
