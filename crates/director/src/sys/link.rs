//! Interfaces and their addresses over rtnetlink(7).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::netlink::{Message, Received, Socket, attributes, nested};

/// Bits for [`Socket::route_monitor`]: links, IPv4 and IPv6 addresses.
pub(crate) const MONITOR_GROUPS: u32 =
    (libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub name: String,
    /// Administratively up and with a carrier.
    pub up: bool,
    pub mac: [u8; 6],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub index: u32,
    pub ip: IpAddr,
    pub prefix: u8,
    pub scope: u8,
    /// IPv6: duplicate address detection is not done, or failed.
    pub unusable: bool,
}

/// What the kernel has, kept up to date by its news.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: BTreeMap<u32, Link>,
    addresses: Vec<Address>,
}

/// An address we put on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub index: u32,
    pub ip: IpAddr,
    pub prefix: u8,
    pub scope: u8,
    pub label: Option<String>,
    pub broadcast: Option<IpAddr>,
}

impl Links {
    /// Reads everything anew.
    pub fn read(socket: &mut Socket) -> io::Result<Self> {
        let mut links = Self::default();
        let any = [0; 16];
        socket.dump(Message::new(libc::RTM_GETLINK, 0).body(&any), |m| links.apply(m))?;
        socket.dump(Message::new(libc::RTM_GETADDR, 0).body(&any[..8]), |m| links.apply(m))?;
        Ok(links)
    }

    /// One message of a dump or of the monitor.
    pub fn apply(&mut self, message: Received<'_>) {
        match message.kind {
            libc::RTM_NEWLINK => {
                let Some((index, link)) = parse_link(message.body) else { return };
                self.links.insert(index, link);
            }
            libc::RTM_DELLINK => {
                let Some((index, _)) = parse_link(message.body) else { return };
                self.links.remove(&index);
                self.addresses.retain(|a| a.index != index);
            }
            libc::RTM_NEWADDR => {
                let Some(address) = parse_address(message.body) else { return };
                let same = |a: &&mut Address| {
                    (a.index, a.ip, a.prefix) == (address.index, address.ip, address.prefix)
                };
                match self.addresses.iter_mut().find(same) {
                    Some(known) => *known = address,
                    None => self.addresses.push(address),
                }
            }
            libc::RTM_DELADDR => {
                let Some(gone) = parse_address(message.body) else { return };
                self.addresses
                    .retain(|a| (a.index, a.ip, a.prefix) != (gone.index, gone.ip, gone.prefix));
            }
            _ => {}
        }
    }

    pub fn by_name(&self, name: &str) -> Option<(u32, &Link)> {
        self.links.iter().find(|(_, l)| l.name == name).map(|(i, l)| (*i, l))
    }

    pub fn mac(&self, index: u32) -> Option<[u8; 6]> {
        self.links.get(&index).map(|l| l.mac)
    }

    pub fn by_index(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    pub fn has(&self, placed: &Placed) -> bool {
        self.addresses
            .iter()
            .any(|a| (a.index, a.ip, a.prefix) == (placed.index, placed.ip, placed.prefix))
    }

    /// The interface whose subnet `ip` is in; the longest prefix wins.
    pub fn towards(&self, ip: IpAddr) -> Option<u32> {
        self.addresses
            .iter()
            .filter(|a| same_subnet(a.ip, ip, a.prefix))
            .max_by_key(|a| a.prefix)
            .map(|a| a.index)
    }

    /// The address adverts on interface `index` come from: the first of the widest scope that is
    /// not one of `virtuals`; for IPv6 the link-local one (RFC 9568 section 5.1.2.1).
    pub fn source(&self, index: u32, ipv6: bool, virtuals: &[IpAddr]) -> Option<IpAddr> {
        self.addresses
            .iter()
            .filter(|a| a.index == index && !a.unusable && !virtuals.contains(&a.ip))
            .filter(|a| match a.ip {
                IpAddr::V4(_) => !ipv6,
                IpAddr::V6(ip) => ipv6 && ip.is_unicast_link_local(),
            })
            .min_by_key(|a| a.scope)
            .map(|a| a.ip)
    }
}

fn same_subnet(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    a.is_ipv4() == b.is_ipv4() && (bits(a) ^ bits(b)) & mask == 0
}

/// struct ifinfomsg: family, pad, type, index, flags, change.
fn parse_link(body: &[u8]) -> Option<(u32, Link)> {
    let fixed = body.first_chunk::<16>()?;
    let index = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    let flags = u32::from_ne_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]) as libc::c_int;
    // Bridges also send news of their ports in a family of their own.
    if fixed[0] != libc::AF_UNSPEC as u8 {
        return None;
    }
    let mut link = Link {
        name: String::new(),
        up: flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0,
        mac: [0; 6],
    };
    for (kind, value) in attributes(body, 16) {
        match kind {
            libc::IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            }
            libc::IFLA_ADDRESS => {
                if let Ok(mac) = value.try_into() {
                    link.mac = mac;
                }
            }
            _ => {}
        }
    }
    Some((index, link))
}

/// struct ifaddrmsg: family, prefixlen, flags, scope, index.
fn parse_address(body: &[u8]) -> Option<Address> {
    let &[_, prefix, flags, scope, i0, i1, i2, i3] = body.first_chunk::<8>()?;
    let mut flags = u32::from(flags);
    let mut local = None;
    let mut address = None;
    for (kind, value) in attributes(body, 8) {
        match kind {
            libc::IFA_LOCAL => local = as_ip(value),
            libc::IFA_ADDRESS => address = as_ip(value),
            libc::IFA_FLAGS => {
                flags = value.first_chunk().map_or(flags, |f| u32::from_ne_bytes(*f))
            }
            _ => {}
        }
    }
    Some(Address {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        // On a point-to-point link IFA_ADDRESS is the other end.
        ip: local.or(address)?,
        prefix,
        scope,
        unusable: flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) != 0,
    })
}

fn as_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn address_message(kind: u16, flags: libc::c_int, placed: &Placed) -> Message {
    let family = if placed.ip.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let [i0, i1, i2, i3] = placed.index.to_ne_bytes();
    let body = [family as u8, placed.prefix, 0, placed.scope, i0, i1, i2, i3];
    Message::new(kind, flags)
        .body(&body)
        .attribute(libc::IFA_LOCAL, &octets(placed.ip))
        .attribute(libc::IFA_ADDRESS, &octets(placed.ip))
}

/// struct ifinfomsg: family, pad, type, index, flags, change.
fn link_message(kind: u16, flags: libc::c_int, index: u32, up: bool) -> Message {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        let up = (libc::IFF_UP as u32).to_ne_bytes();
        body[8..12].copy_from_slice(&up);
        body[12..16].copy_from_slice(&up);
    }
    Message::new(kind, flags).body(&body)
}

fn zero_terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Makes a macvlan in private mode on interface `below`, down at first.
pub(crate) fn add_macvlan(
    socket: &mut Socket,
    name: &str,
    below: u32,
    mac: [u8; 6],
) -> io::Result<()> {
    // linux/if_link.h
    const IFLA_MACVLAN_MODE: u16 = 1;
    const MACVLAN_MODE_PRIVATE: u32 = 1;
    let mode = nested(&[(IFLA_MACVLAN_MODE, &MACVLAN_MODE_PRIVATE.to_ne_bytes())]);
    let info = nested(&[(libc::IFLA_INFO_KIND, b"macvlan"), (libc::IFLA_INFO_DATA, &mode)]);
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let message = link_message(libc::RTM_NEWLINK, flags, 0, false)
        .attribute(libc::IFLA_LINK, &below.to_ne_bytes())
        .attribute(libc::IFLA_IFNAME, &zero_terminated(name))
        .attribute(libc::IFLA_ADDRESS, &mac)
        .attribute(libc::IFLA_LINKINFO, &info);
    socket.request(message)
}

/// Sets a link up; its index.
pub(crate) fn set_link_up(socket: &mut Socket, name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a string that ends with zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    socket.request(link_message(libc::RTM_NEWLINK, 0, index, true))?;
    Ok(index)
}

pub(crate) fn delete_link(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.request(link_message(libc::RTM_DELLINK, 0, index, false))
}

/// Puts the address on its interface, usable at once: no duplicate address detection, for there
/// may be two holders for a moment. Fine if it is there already.
pub(crate) fn add_address(socket: &mut Socket, placed: &Placed) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = address_message(libc::RTM_NEWADDR, flags, placed);
    if let Some(IpAddr::V4(broadcast)) = placed.broadcast {
        message = message.attribute(libc::IFA_BROADCAST, &broadcast.octets());
    }
    if let Some(label) = &placed.label {
        let mut label = label.clone().into_bytes();
        label.push(0);
        message = message.attribute(libc::IFA_LABEL, &label);
    }
    if placed.ip.is_ipv6() {
        message = message.attribute(libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
        if placed.prefix == 128 {
            // Deprecated from the start, so that it is never chosen as a source (as keepalived).
            // struct ifa_cacheinfo: preferred, valid, created, updated.
            let mut cache = [0; 16];
            cache[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
            message = message.attribute(libc::IFA_CACHEINFO, &cache);
        }
    }
    match socket.request(message) {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Takes the address off. Fine if it or the interface is gone.
pub(crate) fn delete_address(socket: &mut Socket, placed: &Placed) -> io::Result<()> {
    match socket.request(address_message(libc::RTM_DELADDR, 0, placed)) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
        other => other,
    }
}
