//! keepalived.conf: virtual servers, real servers and their checks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::checkers::{Timing, check};
use super::keepalived::{as_count, as_number, place_of};
use super::keywords as kw;
use super::model::{
    Forwarding, HashOptions, Protocol, RealServer, Scheduler, ServerGroup, ServiceId, VirtualServer,
};
use super::reader::{Findings, Item, as_ip, as_seconds, flag};
use super::tree::Word;

pub(crate) fn server_group(found: &mut Findings, item: &Item<'_>) -> Option<ServerGroup> {
    let Some(name) = item.args.first() else {
        found.warn(&item.word.place, "virtual_server_group needs a name: ignored", "");
        return None;
    };
    let mut group = ServerGroup { name: name.text.clone(), vips: Vec::new(), fwmarks: Vec::new() };
    for line in item.block {
        match line.words.as_slice() {
            [keyword, mark, ..] if keyword.text == "fwmark" => {
                group.fwmarks.extend(found.word(mark, "fwmark", "a number", as_count));
            }
            [address, port @ ..] => {
                let port = match port.first() {
                    Some(p) => found.word(p, "port", "0 to 65535", as_number),
                    None => Some(0),
                };
                let range = found.word(address, &name.text, "ADDRESS or ADDRESS-LAST", as_range);
                if let (Some((first, last)), Some(port)) = (range, port) {
                    group.vips.extend(addresses(first, last).map(|ip| SocketAddr::new(ip, port)));
                }
            }
            [] => {}
        }
    }
    Some(group)
}

/// `192.168.1.10-20`: the last part of an address, up to another; hexadecimal in IPv6.
fn as_range(text: &str) -> Option<(IpAddr, u16)> {
    let (first, last) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let first: IpAddr = first.parse().ok()?;
    let own = match first {
        IpAddr::V4(a) => u16::from(a.octets()[3]),
        IpAddr::V6(a) => a.segments()[7],
    };
    let last = match (last, first) {
        (None, _) => own,
        (Some(l), IpAddr::V4(_)) => l.parse::<u8>().ok()?.into(),
        (Some(l), IpAddr::V6(_)) => u16::from_str_radix(l, 16).ok()?,
    };
    (last >= own && last - own < 256).then_some((first, last))
}

fn addresses(first: IpAddr, last: u16) -> impl Iterator<Item = IpAddr> {
    let own = match first {
        IpAddr::V4(a) => u16::from(a.octets()[3]),
        IpAddr::V6(a) => a.segments()[7],
    };
    (own..=last).map(move |n| match first {
        IpAddr::V4(a) => {
            let mut octets = a.octets();
            octets[3] = n as u8;
            octets.into()
        }
        IpAddr::V6(a) => {
            let mut segments = a.segments();
            segments[7] = n;
            segments.into()
        }
    })
}

fn service_id(found: &mut Findings, item: &Item<'_>) -> Option<ServiceId> {
    match item.args {
        [keyword, mark, ..] if keyword.text == "fwmark" => {
            found.word(mark, "fwmark", "a number from 1", as_count).map(ServiceId::Fwmark)
        }
        [keyword, name, ..] if keyword.text == "group" => Some(ServiceId::Group(name.text.clone())),
        [address, ..] => socket(found, item.keyword, item.args).map(ServiceId::Vip).or_else(|| {
            found.warn(&address.place, "virtual_server without an address: ignored", "");
            None
        }),
        [] => {
            found.warn(
                &item.word.place,
                "virtual_server needs ADDRESS PORT, `fwmark N` or `group NAME`: ignored",
                "",
            );
            None
        }
    }
}

/// `ADDRESS [PORT]`; no port is port 0.
fn socket(found: &mut Findings, keyword: &str, args: &[Word]) -> Option<SocketAddr> {
    let address = found.word(args.first()?, keyword, "an IP address", as_ip)?;
    let port = match args.get(1) {
        Some(port) => found.word(port, "port", "0 to 65535", as_number)?,
        None => 0,
    };
    Some(SocketAddr::new(address, port))
}

fn forwarding(found: &mut Findings, item: &Item<'_>) -> Option<Forwarding> {
    // As ipip instead, the real servers would not understand it.
    if let Some(word) = item.args.iter().find(|w| matches!(w.text.as_str(), "gue" | "gre")) {
        let message = format!("tunnels of type {} are not made", word.text);
        found.error(&word.place, message, "ipip is the only type");
    }
    found.value(item, "DR, NAT or TUN", |t| match t {
        "DR" => Some(Forwarding::Dr),
        "NAT" => Some(Forwarding::Nat),
        "TUN" => Some(Forwarding::Tun),
        _ => None,
    })
}

pub(crate) fn virtual_server(found: &mut Findings, item: &Item<'_>) -> Option<VirtualServer> {
    let id = service_id(found, item)?;
    let words: Vec<_> = item.args.iter().map(|w| w.text.as_str()).collect();
    let title = format!("virtual_server {}", words.join(" "));
    let mut timing = Timing::default();
    let mut inhibit = false;
    let mut vs = VirtualServer::new(id);
    let mut real_servers = Vec::new();
    found.each(item.block, &title, kw::VIRTUAL_SERVER, |found, item| match item.keyword {
        "lb_algo" | "lvs_sched" => {
            found.set(&mut vs.lb_algo, &item, "a scheduler such as rr, wlc or mh", |t| {
                Scheduler::ALL.iter().find(|(name, _)| *name == t).map(|(_, s)| *s)
            });
        }
        "lb_kind" | "lvs_method" => {
            vs.lb_kind = forwarding(found, &item).unwrap_or(vs.lb_kind);
        }
        "protocol" => {
            found.set(&mut vs.protocol, &item, "TCP, UDP or SCTP", |t| match t {
                "TCP" => Some(Protocol::Tcp),
                "UDP" => Some(Protocol::Udp),
                "SCTP" => Some(Protocol::Sctp),
                _ => None,
            });
        }
        "persistence_timeout" => {
            vs.persistence_timeout =
                found.value(&item, "a time in seconds", as_seconds).filter(|d| !d.is_zero());
        }
        "persistence_granularity" => {
            let what = "a netmask, or a prefix length of IPv6";
            vs.persistence_granularity = found.value(&item, what, as_granularity);
        }
        "slow_start" => found.seconds(&mut vs.slow_start, &item),
        "ops" => vs.ops = flag(&item),
        "omega" => vs.omega = flag(&item),
        "quorum" => found.set(&mut vs.quorum, &item, "a number from 1", as_count),
        "hysteresis" => found.set(&mut vs.hysteresis, &item, "a number", as_number),
        "quorum_up" => vs.quorum_up = found.script(&item),
        "quorum_down" => vs.quorum_down = found.script(&item),
        "sorry_server" => vs.sorry_server = socket(found, "sorry_server", item.args),
        "sorry_server_lvs_method" => vs.sorry_server_lvs_method = forwarding(found, &item),
        "sh-port" | "mh-port" => vs.hash.port = true,
        "sh-fallback" | "mh-fallback" => vs.hash.fallback = true,
        "sorry_server_inhibit" => vs.sorry_server_inhibit = flag(&item),
        "inhibit_on_failure" => inhibit = flag(&item),
        "virtualhost" => vs.virtualhost = item.args.first().map(|w| w.text.clone()),
        "real_server" => real_servers.push(item),
        _ => {
            if timing.read(found, &item) && item.keyword == "alpha" {
                vs.alpha = flag(&item);
            }
        }
    });
    // What is said for all may stand after the real servers.
    for server in &real_servers {
        vs.real_servers.extend(real_server(found, server, &vs, timing, inhibit));
    }
    if vs.real_servers.is_empty() {
        found.warn(place_of(item), format!("{title} has no real servers: ignored"), "");
        return None;
    }
    let family = |a: &SocketAddr| a.is_ipv6();
    if let ServiceId::Vip(vip) = &vs.id
        && vs.lb_kind != Forwarding::Tun
        && vs.real_servers.iter().any(|r| family(&r.address) != family(vip))
    {
        found.error(
            place_of(item),
            format!("{title} mixes IPv4 and IPv6"),
            "real servers must be of the family of the virtual server",
        );
    }
    Some(vs)
}

fn real_server(
    found: &mut Findings,
    item: &Item<'_>,
    vs: &VirtualServer,
    outer: Timing,
    inhibit: bool,
) -> Option<RealServer> {
    let mut address = socket(found, item.keyword, item.args)?;
    if let (ServiceId::Vip(vip), 0) = (&vs.id, address.port()) {
        address.set_port(vip.port());
    }
    let title = format!("real_server {} {}", address.ip(), address.port());
    let mut server = RealServer::new(address);
    server.inhibit_on_failure = inhibit;
    let mut timing = Timing::default();
    let mut virtualhost = vs.virtualhost.clone();
    let mut checkers = Vec::new();
    found.each(item.block, &title, kw::REAL_SERVER, |found, item| match item.keyword {
        "weight" => {
            found.set(&mut server.weight, &item, "0 to 65535", |t| {
                as_number(t).filter(|n| *n <= 65_535)
            });
        }
        "uthreshold" => found.set(&mut server.uthreshold, &item, "a number", as_number),
        "lthreshold" => found.set(&mut server.lthreshold, &item, "a number", as_number),
        "lb_kind" | "lvs_method" => server.lb_kind = forwarding(found, &item),
        "inhibit_on_failure" => server.inhibit_on_failure = flag(&item),
        "notify_up" => server.notify_up = found.script(&item),
        "notify_down" => server.notify_down = found.script(&item),
        "virtualhost" => virtualhost = item.args.first().map(|w| w.text.clone()),
        _ => {
            if !timing.read(found, &item) {
                checkers.push(item);
            }
        }
    });
    let timing = timing.within(outer);
    for checker in &checkers {
        server.checks.extend(check(
            found,
            checker,
            address,
            timing,
            virtualhost.clone(),
            server.weight,
        ));
    }
    Some(server)
}

/// `255.255.255.0` or `64`, in bits.
fn as_granularity(text: &str) -> Option<u8> {
    if let Ok(mask) = text.parse::<std::net::Ipv4Addr>() {
        let bits = u32::from(mask);
        return (bits.leading_ones() == bits.count_ones()).then_some(bits.count_ones() as u8);
    }
    text.parse().ok().filter(|n| (1..=128).contains(n))
}

impl VirtualServer {
    /// With keepalived's defaults.
    #[must_use]
    pub fn new(id: ServiceId) -> Self {
        Self {
            id,
            protocol: Protocol::Tcp,
            lb_algo: Scheduler::Wlc,
            lb_kind: Forwarding::Nat,
            hash: HashOptions::default(),
            persistence_timeout: None,
            persistence_granularity: None,
            ops: false,
            alpha: false,
            omega: false,
            quorum: 1,
            hysteresis: 0,
            quorum_up: None,
            quorum_down: None,
            sorry_server: None,
            sorry_server_inhibit: false,
            sorry_server_lvs_method: None,
            virtualhost: None,
            slow_start: Duration::ZERO,
            real_servers: Vec::new(),
        }
    }
}

impl RealServer {
    /// With weight 1 and no checks.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            weight: 1,
            uthreshold: 0,
            lthreshold: 0,
            lb_kind: None,
            inhibit_on_failure: false,
            notify_up: None,
            notify_down: None,
            checks: Vec::new(),
        }
    }
}
