//! Virtual routes over rtnetlink(7).

use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::link::{Links, octets};
use super::netlink::{Message, Socket};
use crate::config::VirtualRoute;

/// keepalived's number in `/etc/iproute2/rt_protos`: who made the route.
const PROTOCOL: u8 = 18;

/// A route with its interface looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlacedRoute {
    pub to: IpAddr,
    pub prefix: u8,
    pub via: Option<IpAddr>,
    pub index: Option<u32>,
    pub src: Option<IpAddr>,
    pub metric: Option<u32>,
    pub table: u32,
    pub blackhole: bool,
}

impl PlacedRoute {
    /// `None`: its interface is missing.
    pub fn new(route: &VirtualRoute, links: &Links) -> Option<Self> {
        let index = match &route.dev {
            Some(dev) => Some(links.by_name(dev)?.0),
            None => None,
        };
        let VirtualRoute { to, prefix, via, src, metric, table, blackhole, .. } = *route;
        Some(Self { to, prefix, via, index, src, metric, table, blackhole })
    }

    /// struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    fn message(&self, kind: u16, flags: libc::c_int) -> Message {
        let family = if self.to.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let scope = if self.via.is_some() || self.to.is_ipv6() || self.blackhole {
            libc::RT_SCOPE_UNIVERSE
        } else {
            libc::RT_SCOPE_LINK
        };
        let way = if self.blackhole { libc::RTN_BLACKHOLE } else { libc::RTN_UNICAST };
        let table = u8::try_from(self.table).unwrap_or(libc::RT_TABLE_UNSPEC);
        let head = [family as u8, self.prefix, 0, 0, table, PROTOCOL, scope, way, 0, 0, 0, 0];
        let mut message = Message::new(kind, flags)
            .body(&head)
            .attribute(libc::RTA_DST, &octets(self.to))
            .attribute(libc::RTA_TABLE, &self.table.to_ne_bytes());
        for (kind, ip) in [(libc::RTA_GATEWAY, self.via), (libc::RTA_PREFSRC, self.src)] {
            if let Some(ip) = ip {
                message = message.attribute(kind, &octets(ip));
            }
        }
        for (kind, number) in [(libc::RTA_OIF, self.index), (libc::RTA_PRIORITY, self.metric)] {
            if let Some(number) = number {
                message = message.attribute(kind, &number.to_ne_bytes());
            }
        }
        message
    }

    /// Fine if it is there already.
    pub fn add(&self, socket: &mut Socket) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        match socket.request(self.message(libc::RTM_NEWROUTE, flags)) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Fine if it is gone.
    pub fn delete(&self, socket: &mut Socket) -> io::Result<()> {
        match socket.request(self.message(libc::RTM_DELROUTE, 0)) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
            other => other,
        }
    }
}
