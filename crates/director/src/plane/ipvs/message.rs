//! What is said to IPVS by generic netlink, and what it says (linux/ip_vs.h). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::{Forwarding, Protocol};
use crate::plane::Takes;
use crate::sys::netlink::{attributes, put_attribute};

/// The family's name, by which the kernel tells its number.
pub const FAMILY: &str = "IPVS";
pub const VERSION: u8 = 1;

// Commands.
pub const NEW_SERVICE: u8 = 1;
pub const SET_SERVICE: u8 = 2;
pub const DEL_SERVICE: u8 = 3;
pub const GET_SERVICE: u8 = 4;
pub const NEW_DEST: u8 = 5;
pub const SET_DEST: u8 = 6;
pub const DEL_DEST: u8 = 7;
pub const GET_DEST: u8 = 8;
pub const FLUSH: u8 = 17;

const NESTED: u16 = libc::NLA_F_NESTED as u16;

// IPVS_CMD_ATTR_*
const COMMAND_SERVICE: u16 = 1;
const COMMAND_DEST: u16 = 2;

// IPVS_SVC_ATTR_*
const SERVICE_FAMILY: u16 = 1;
const SERVICE_PROTOCOL: u16 = 2;
const SERVICE_ADDRESS: u16 = 3;
const SERVICE_PORT: u16 = 4;
const SERVICE_MARK: u16 = 5;
const SERVICE_SCHEDULER: u16 = 6;
const SERVICE_FLAGS: u16 = 7;
const SERVICE_TIMEOUT: u16 = 8;
const SERVICE_NETMASK: u16 = 9;

// IPVS_DEST_ATTR_*
const DEST_ADDRESS: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_METHOD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_UPPER: u16 = 5;
const DEST_LOWER: u16 = 6;
const DEST_ACTIVE: u16 = 7;
const DEST_INACTIVE: u16 = 8;
const DEST_STATS: u16 = 10;
const DEST_FAMILY: u16 = 11;
const DEST_STATS64: u16 = 12;

// IPVS_STATS_ATTR_*
const STATS_CONNECTIONS: u16 = 1;
const STATS_PACKETS_IN: u16 = 2;
const STATS_BYTES_IN: u16 = 4;

// IP_VS_SVC_F_*
pub const PERSISTENT: u32 = 1;
pub const ONE_PACKET: u32 = 4;
/// `sh-fallback`, `mh-fallback`
pub const FALLBACK: u32 = 8;
/// `sh-port`, `mh-port`
pub const WITH_PORT: u32 = 16;
/// What a service may be asked for; the rest is the kernel's own.
const FLAGS: u32 = PERSISTENT | ONE_PACKET | FALLBACK | WITH_PORT | 32;

// IP_VS_CONN_F_*
const MASQUERADE: u32 = 0;
const TUNNEL: u32 = 2;
const DIRECT: u32 = 3;
const METHOD: u32 = 7;

/// A virtual service in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub takes: Takes,
    /// Name of the module without `ip_vs_`.
    pub scheduler: String,
    pub flags: u32,
    /// Of persistence, in seconds.
    pub timeout: u32,
    /// Clients that are the same in so many bits are one: 1 to 32 or 128.
    pub prefix: u8,
}

/// A real server of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    pub address: SocketAddr,
    /// `None`: what we never ask for (local node, bypass).
    pub forwarding: Option<Forwarding>,
    pub weight: u32,
    pub upper: u32,
    pub lower: u32,
}

/// What the kernel counts of a real server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    /// From clients to the server.
    pub packets: u64,
    pub bytes: u64,
    /// Now.
    pub active: u32,
    pub inactive: u32,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    NewService(Service),
    SetService(Service),
    DeleteService(Takes),
    NewDestination(Takes, Destination),
    SetDestination(Takes, Destination),
    DeleteDestination(Takes, SocketAddr),
    /// All services, whosoever they are.
    Flush,
}

impl Command {
    /// The number of the command, and its attributes.
    #[must_use]
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        let number = match self {
            Self::NewService(service) => {
                put_attribute(&mut bytes, COMMAND_SERVICE | NESTED, &service.encode());
                NEW_SERVICE
            }
            Self::SetService(service) => {
                put_attribute(&mut bytes, COMMAND_SERVICE | NESTED, &service.encode());
                SET_SERVICE
            }
            Self::DeleteService(takes) => {
                bytes = select(*takes);
                DEL_SERVICE
            }
            Self::NewDestination(takes, destination) => {
                bytes = select(*takes);
                put_attribute(&mut bytes, COMMAND_DEST | NESTED, &destination.encode());
                NEW_DEST
            }
            Self::SetDestination(takes, destination) => {
                bytes = select(*takes);
                put_attribute(&mut bytes, COMMAND_DEST | NESTED, &destination.encode());
                SET_DEST
            }
            Self::DeleteDestination(takes, address) => {
                bytes = select(*takes);
                put_attribute(&mut bytes, COMMAND_DEST | NESTED, &encode_address(*address));
                DEL_DEST
            }
            Self::Flush => FLUSH,
        };
        (number, bytes)
    }
}

/// Attributes that name a service: also for asking for its destinations.
#[must_use]
pub fn select(takes: Takes) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_attribute(&mut bytes, COMMAND_SERVICE | NESTED, &encode_takes(takes));
    bytes
}

fn encode_takes(takes: Takes) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_attribute(&mut bytes, SERVICE_FAMILY, &family(takes.is_ipv6()).to_ne_bytes());
    match takes {
        Takes::Mark { mark, .. } => put_attribute(&mut bytes, SERVICE_MARK, &mark.to_ne_bytes()),
        Takes::Address { vip, protocol } => {
            let protocol = protocol_number(protocol);
            put_attribute(&mut bytes, SERVICE_PROTOCOL, &protocol.to_ne_bytes());
            put_attribute(&mut bytes, SERVICE_ADDRESS, &union(vip.ip()));
            put_attribute(&mut bytes, SERVICE_PORT, &vip.port().to_be_bytes());
        }
    }
    bytes
}

impl Service {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = encode_takes(self.takes);
        let name = [self.scheduler.as_bytes(), &[0]].concat();
        put_attribute(&mut bytes, SERVICE_SCHEDULER, &name);
        // struct ip_vs_flags: flags, and which of them are meant.
        let flags = [self.flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
        put_attribute(&mut bytes, SERVICE_FLAGS, &flags);
        put_attribute(&mut bytes, SERVICE_TIMEOUT, &self.timeout.to_ne_bytes());
        // IPv4: a mask; IPv6: the length of a prefix.
        let netmask = if self.takes.is_ipv6() {
            u32::from(self.prefix).to_ne_bytes()
        } else {
            u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0).to_be_bytes()
        };
        put_attribute(&mut bytes, SERVICE_NETMASK, &netmask);
        bytes
    }

    /// From the attributes of a message. `None`: it is about something else, or about a protocol
    /// we never ask for.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let outer = find(message, COMMAND_SERVICE)?;
        let ipv6 = u32::from(read_u16(find(outer, SERVICE_FAMILY)?)?) == libc::AF_INET6 as u32;
        let takes = match find(outer, SERVICE_MARK).and_then(read_u32) {
            Some(mark) => Takes::Mark { mark, ipv6 },
            None => {
                let protocol = protocol(read_u16(find(outer, SERVICE_PROTOCOL)?)?)?;
                let ip = read_union(find(outer, SERVICE_ADDRESS)?, ipv6)?;
                let port = u16::from_be_bytes(*find(outer, SERVICE_PORT)?.first_chunk()?);
                Takes::Address { vip: SocketAddr::new(ip, port), protocol }
            }
        };
        let name = find(outer, SERVICE_SCHEDULER)?;
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let netmask = find(outer, SERVICE_NETMASK)?.first_chunk::<4>()?;
        let prefix = if ipv6 {
            u8::try_from(u32::from_ne_bytes(*netmask)).ok()?
        } else {
            u32::from_be_bytes(*netmask).leading_ones() as u8
        };
        Some(Self {
            takes,
            scheduler: String::from_utf8_lossy(name).into_owned(),
            flags: read_u32(find(outer, SERVICE_FLAGS)?)? & FLAGS,
            timeout: read_u32(find(outer, SERVICE_TIMEOUT)?)?,
            prefix,
        })
    }
}

impl Destination {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = encode_address(self.address);
        let method = match self.forwarding {
            Some(Forwarding::Tun) => TUNNEL,
            Some(Forwarding::Dr) => DIRECT,
            Some(Forwarding::Nat) | None => MASQUERADE,
        };
        for (kind, value) in [
            (DEST_METHOD, method),
            (DEST_WEIGHT, self.weight),
            (DEST_UPPER, self.upper),
            (DEST_LOWER, self.lower),
        ] {
            put_attribute(&mut bytes, kind, &value.to_ne_bytes());
        }
        bytes
    }

    /// From the attributes of a message, with what the kernel counts. `ipv6`: the service's family,
    /// which old kernels leave out.
    #[must_use]
    pub fn decode(message: &[u8], ipv6: bool) -> Option<(Self, Counts)> {
        let outer = find(message, COMMAND_DEST)?;
        let number = |kind| find(outer, kind).and_then(read_u32);
        let ipv6 = match find(outer, DEST_FAMILY).and_then(read_u16) {
            Some(family) => u32::from(family) == libc::AF_INET6 as u32,
            None => ipv6,
        };
        let ip = read_union(find(outer, DEST_ADDRESS)?, ipv6)?;
        let port = u16::from_be_bytes(*find(outer, DEST_PORT)?.first_chunk()?);
        let forwarding = match number(DEST_METHOD)? & METHOD {
            MASQUERADE => Some(Forwarding::Nat),
            TUNNEL => Some(Forwarding::Tun),
            DIRECT => Some(Forwarding::Dr),
            _ => None,
        };
        let destination = Self {
            address: SocketAddr::new(ip, port),
            forwarding,
            weight: number(DEST_WEIGHT)?,
            upper: number(DEST_UPPER)?,
            lower: number(DEST_LOWER)?,
        };
        // Those of 64 bits since Linux 4.1.
        let stats = find(outer, DEST_STATS64).or_else(|| find(outer, DEST_STATS)).unwrap_or(&[]);
        let count = |kind| find(stats, kind).and_then(read_count).unwrap_or(0);
        let counts = Counts {
            connections: count(STATS_CONNECTIONS),
            packets: count(STATS_PACKETS_IN),
            bytes: count(STATS_BYTES_IN),
            active: number(DEST_ACTIVE).unwrap_or(0),
            inactive: number(DEST_INACTIVE).unwrap_or(0),
        };
        Some((destination, counts))
    }
}

fn encode_address(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_attribute(&mut bytes, DEST_FAMILY, &family(address.is_ipv6()).to_ne_bytes());
    put_attribute(&mut bytes, DEST_ADDRESS, &union(address.ip()));
    put_attribute(&mut bytes, DEST_PORT, &address.port().to_be_bytes());
    bytes
}

fn family(ipv6: bool) -> u16 {
    if ipv6 { libc::AF_INET6 as u16 } else { libc::AF_INET as u16 }
}

fn protocol_number(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u16,
        Protocol::Udp => libc::IPPROTO_UDP as u16,
        Protocol::Sctp => libc::IPPROTO_SCTP as u16,
    }
}

fn protocol(number: u16) -> Option<Protocol> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    all.into_iter().find(|p| protocol_number(*p) == number)
}

/// union nf_inet_addr: IPv4 stands first.
fn union(ip: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes = ip.octets(),
    }
    bytes
}

fn read_union(value: &[u8], ipv6: bool) -> Option<IpAddr> {
    if ipv6 {
        return Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into());
    }
    Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into())
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn read_u16(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|v| u16::from_ne_bytes(*v))
}

fn read_u32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|v| u32::from_ne_bytes(*v))
}

/// Of 64 or, from old kernels, 32 bits.
fn read_count(value: &[u8]) -> Option<u64> {
    match value.first_chunk() {
        Some(v) => Some(u64::from_ne_bytes(*v)),
        None => read_u32(value).map(u64::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What ipvsadm 1.31 sent to a kernel, as strace told it, without the headers.
    const ADD_SERVICE: &[u8] = b"\x54\x00\x01\x80\x06\x00\x01\x00\x02\x00\x00\x00\x06\x00\x02\x00\
        \x06\x00\x00\x00\x14\x00\x03\x00\x0a\x01\x02\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x06\x00\x04\x00\x00\x50\x00\x00\x07\x00\x06\x00\x6d\x68\x00\x00\x0c\x00\x07\x00\x11\x00\x00\x00\
        \xff\xff\xff\xff\x08\x00\x08\x00\x2c\x01\x00\x00\x08\x00\x09\x00\xff\xff\xff\x00";
    const ADD_MARK: &[u8] = b"\x38\x00\x01\x80\x06\x00\x01\x00\x0a\x00\x00\x00\x08\x00\x05\x00\
        \x05\x00\x00\x00\x07\x00\x06\x00\x72\x72\x00\x00\x0c\x00\x07\x00\x00\x00\x00\x00\xff\xff\xff\xff\
        \x08\x00\x08\x00\x00\x00\x00\x00\x08\x00\x09\x00\x80\x00\x00\x00";
    const ADD_DEST: &[u8] = b"\x60\x00\x02\x80\x06\x00\x0b\x00\x02\x00\x00\x00\x14\x00\x01\x00\
        \x0a\x01\x02\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x06\x00\x02\x00\x00\x50\x00\x00\
        \x08\x00\x03\x00\x02\x00\x00\x00\x08\x00\x04\x00\x07\x00\x00\x00\x05\x00\x0d\x00\x00\x00\x00\x00\
        \x06\x00\x0e\x00\x00\x00\x00\x00\x06\x00\x0f\x00\x00\x00\x00\x00\x08\x00\x05\x00\x09\x00\x00\x00\
        \x08\x00\x06\x00\x05\x00\x00\x00";

    #[test]
    #[cfg(target_endian = "little")]
    fn it_is_what_ipvsadm_says() {
        // ipvsadm -A -t 10.1.2.3:80 -s mh -p 300 -M 255.255.255.0 -b mh-port
        let vip = SocketAddr::from(([10, 1, 2, 3], 80));
        let service = Service {
            takes: Takes::Address { vip, protocol: Protocol::Tcp },
            scheduler: "mh".to_owned(),
            flags: PERSISTENT | WITH_PORT,
            timeout: 300,
            prefix: 24,
        };
        assert_eq!(Command::NewService(service).encode(), (NEW_SERVICE, ADD_SERVICE.to_vec()));
        // ipvsadm -A -f 5 -6 -s rr
        let mark = Service {
            takes: Takes::Mark { mark: 5, ipv6: true },
            scheduler: "rr".to_owned(),
            flags: 0,
            timeout: 0,
            prefix: 128,
        };
        assert_eq!(Command::NewService(mark).encode(), (NEW_SERVICE, ADD_MARK.to_vec()));
        // ipvsadm -a -t 10.1.2.3:80 -r 10.1.2.4:80 -i -w 7 -x 9 -y 5
        let destination = Destination {
            address: SocketAddr::from(([10, 1, 2, 4], 80)),
            forwarding: Some(Forwarding::Tun),
            weight: 7,
            upper: 9,
            lower: 5,
        };
        let read = Destination::decode(ADD_DEST, false);
        assert_eq!(read, Some((destination, Counts::default())));
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(|o| IpAddr::from(Ipv4Addr::from(o))),
            any::<[u8; 16]>().prop_map(|o| IpAddr::from(Ipv6Addr::from(o))),
        ]
    }

    fn any_takes() -> impl Strategy<Value = Takes> {
        let protocols = vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocols = proptest::sample::select(protocols);
        prop_oneof![
            (any_ip(), any::<u16>(), protocols).prop_map(|(ip, port, protocol)| {
                Takes::Address { vip: SocketAddr::new(ip, port), protocol }
            }),
            (any::<u32>(), any::<bool>()).prop_map(|(mark, ipv6)| Takes::Mark { mark, ipv6 }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_can_be_read(
            takes in any_takes(),
            scheduler in "[a-z]{1,15}",
            flags in any::<u32>(),
            timeout in any::<u32>(),
            prefix in 1u8..=128,
            address in (any_ip(), any::<u16>()),
            method in 0usize..3,
            numbers in any::<[u32; 3]>(),
        ) {
            let prefix = if takes.is_ipv6() { prefix } else { prefix.min(32) };
            let flags = flags & FLAGS;
            let service = Service { takes, scheduler, flags, timeout, prefix };
            let (_, bytes) = Command::SetService(service.clone()).encode();
            prop_assert_eq!(Service::decode(&bytes), Some(service));
            let forwarding = [Forwarding::Dr, Forwarding::Nat, Forwarding::Tun][method];
            let destination = Destination {
                address: SocketAddr::new(address.0, address.1),
                forwarding: Some(forwarding),
                weight: numbers[0],
                upper: numbers[1],
                lower: numbers[2],
            };
            let (_, bytes) = Command::NewDestination(takes, destination).encode();
            let read = Destination::decode(&bytes, takes.is_ipv6());
            prop_assert_eq!(read, Some((destination, Counts::default())));
        }

        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Service::decode(&bytes);
            let _ = Destination::decode(&bytes, false);
        }
    }
}
