//! keepalived.conf: virtual servers, real servers and their checks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pointsman_config::Secret;

use super::keepalived::{as_count, as_number, place_of};
use super::keywords as kw;
use super::model::{
    Check, CheckKind, CheckUrl, Forwarding, MysqlRole, Protocol, RealServer, Scheduler, Script,
    ServerGroup, ServiceId, User, VirtualServer,
};
use super::reader::{Findings, Item, as_ip, as_seconds, flag};
use super::tree::Word;
use crate::checks::dns;

/// Timing of checks: set for a virtual server, a real server or one checker.
#[derive(Debug, Clone, Copy, Default)]
struct Timing {
    delay_loop: Option<Duration>,
    connect_timeout: Option<Duration>,
    retry: Option<u32>,
    delay_before_retry: Option<Duration>,
    warmup: Option<Duration>,
    alpha: Option<bool>,
}

impl Timing {
    /// Takes a keyword if it is one of timing.
    fn read(&mut self, found: &mut Findings, item: &Item<'_>) -> bool {
        let want = "a time in seconds";
        match item.keyword {
            "delay_loop" => {
                self.delay_loop = found.value(item, "a time above 0 in seconds", |t| {
                    as_seconds(t).filter(|d| !d.is_zero())
                });
            }
            "connect_timeout" => {
                self.connect_timeout = found.value(item, "a time above 0 in seconds", |t| {
                    as_seconds(t).filter(|d| !d.is_zero())
                });
            }
            "retry" | "nb_get_retry" => self.retry = found.value(item, "a number", as_number),
            "delay_before_retry" => self.delay_before_retry = found.value(item, want, as_seconds),
            "warmup" => self.warmup = found.value(item, want, as_seconds),
            "alpha" => self.alpha = Some(flag(item)),
            _ => return false,
        }
        true
    }

    /// What is not set here is taken from `outer`.
    fn within(self, outer: Self) -> Self {
        Self {
            delay_loop: self.delay_loop.or(outer.delay_loop),
            connect_timeout: self.connect_timeout.or(outer.connect_timeout),
            retry: self.retry.or(outer.retry),
            delay_before_retry: self.delay_before_retry.or(outer.delay_before_retry),
            warmup: self.warmup.or(outer.warmup),
            alpha: self.alpha.or(outer.alpha),
        }
    }
}

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
        "ops" => vs.ops = flag(&item),
        "omega" => vs.omega = flag(&item),
        "quorum" => found.set(&mut vs.quorum, &item, "a number from 1", as_count),
        "hysteresis" => found.set(&mut vs.hysteresis, &item, "a number", as_number),
        "quorum_up" => vs.quorum_up = found.script(&item),
        "quorum_down" => vs.quorum_down = found.script(&item),
        "sorry_server" => vs.sorry_server = socket(found, "sorry_server", item.args),
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

fn check(
    found: &mut Findings,
    item: &Item<'_>,
    address: SocketAddr,
    outer: Timing,
    virtualhost: Option<String>,
    weight: u32,
) -> Option<Check> {
    let table = kw::checker(item.keyword);
    let mut timing = Timing::default();
    let mut target = address;
    let mut bind_ip = None;
    let mut bind_port = 0;
    let mut host = virtualhost;
    let (mut urls, mut sni, mut http_1_1) = (Vec::new(), false, false);
    let mut helo_name = None;
    let (mut record, mut name) = ("SOA".to_owned(), ".".to_owned());
    let (mut misc, mut misc_user, mut misc_timeout, mut dynamic) =
        (None::<Script>, None, None, false);
    let (mut payload, mut require_reply) = (Vec::new(), false);
    let (mut track_file, mut file_weight) = (None, None);
    let (mut user, mut password, mut role, mut max_lag) = (None, None, MysqlRole::Any, None);
    found.each(item.block, item.keyword, &table, |found, item| {
        if timing.read(found, &item) {
            return;
        }
        match item.keyword {
            "connect_ip" => {
                if let Some(ip) = found.value(&item, "an IP address", as_ip) {
                    target.set_ip(ip);
                }
            }
            "connect_port" => {
                if let Some(port) = found.value(&item, "1 to 65535", as_number) {
                    target.set_port(port);
                }
            }
            "bindto" => bind_ip = found.value(&item, "an IP address", as_ip),
            "bind_port" => found.set(&mut bind_port, &item, "1 to 65535", as_number),
            "virtualhost" => host = item.args.first().map(|w| w.text.clone()),
            "url" => urls.push(url(found, &item)),
            "enable_sni" => sni = flag(&item),
            "http_protocol" => http_1_1 = item.args[0].text.starts_with("1.1"),
            "helo_name" => helo_name = item.args.first().map(|w| w.text.clone()),
            "host" => {
                for line in item.block {
                    if let [keyword, value, ..] = line.words.as_slice() {
                        match keyword.text.as_str() {
                            "connect_ip" => {
                                if let Some(ip) = found.word(value, "connect_ip", "an IP", as_ip) {
                                    target.set_ip(ip);
                                }
                            }
                            "connect_port" => {
                                let port = found.word(value, "connect_port", "a port", as_number);
                                target.set_port(port.unwrap_or(target.port()));
                            }
                            _ => {}
                        }
                    }
                }
            }
            "type" => {
                found.set(
                    &mut record,
                    &item,
                    "A, NS, CNAME, SOA, PTR, MX, TXT, AAAA or ANY",
                    |t| dns::number(t).map(|_| t.to_owned()),
                );
            }
            "name" => {
                found.set(&mut name, &item, "a domain name", |t| {
                    dns::encode(t).map(|_| t.to_owned())
                });
            }
            "misc_path" => misc = found.whole_line_script(&item),
            "misc_timeout" => misc_timeout = found.value(&item, "a time in seconds", as_seconds),
            "misc_dynamic" => dynamic = flag(&item),
            "payload" => payload = hex(item.args),
            "require_reply" => {
                require_reply = true;
                if let Some(word) = item.args.first() {
                    let message =
                        "a pattern of `require_reply` is not looked at: any reply will do";
                    found.warn(&word.place, message, "");
                }
            }
            "track_file" => track_file = item.args.first().map(|w| w.text.clone()),
            "weight" => file_weight = found.weight("weight", item.args),
            "user" => {
                user = item.args.first().map(|w| w.text.clone());
                misc_user = user
                    .clone()
                    .map(|name| User { name, group: item.args.get(1).map(|w| w.text.clone()) });
            }
            "password" => password = item.args.first().map(|w| Secret::new(w.text.clone())),
            "role" => {
                found.set(&mut role, &item, "primary, replica or any", |t| match t {
                    "primary" => Some(MysqlRole::Primary),
                    "replica" => Some(MysqlRole::Replica),
                    "any" => Some(MysqlRole::Any),
                    _ => None,
                });
            }
            "max_lag" => max_lag = found.value(&item, "a time in seconds", as_seconds),
            _ => {}
        }
    });
    let mut default_retry = 1;
    let mut port = None;
    let kind = match item.keyword {
        "TCP_CHECK" => CheckKind::Tcp,
        "HTTP_GET" | "SSL_GET" => {
            let tls = item.keyword == "SSL_GET";
            if urls.is_empty() {
                urls.push(CheckUrl { path: "/".to_owned(), ..CheckUrl::default() });
            }
            CheckKind::Http { tls, sni, http_1_1, virtualhost: host, urls }
        }
        "SMTP_CHECK" => {
            port = Some(25);
            CheckKind::Smtp {
                helo_name: helo_name.unwrap_or_else(|| "smtpchecker.localhost".into()),
            }
        }
        "DNS_CHECK" => {
            default_retry = 3;
            port = Some(53);
            CheckKind::Dns { record, name }
        }
        "UDP_CHECK" => CheckKind::Udp { payload, require_reply },
        "PING_CHECK" => CheckKind::Ping,
        "MISC_CHECK" => {
            default_retry = 0;
            let Some(mut script) = misc else {
                found.warn(&item.word.place, "MISC_CHECK has no misc_path: ignored", "");
                return None;
            };
            script.user = misc_user;
            let script = found.settle(script, place_of(item))?;
            CheckKind::Misc { script, timeout: misc_timeout, dynamic }
        }
        "FILE_CHECK" => {
            let Some(track_file) = track_file else {
                found.warn(&item.word.place, "FILE_CHECK has no track_file: ignored", "");
                return None;
            };
            CheckKind::File { track_file, path: String::new(), weight: file_weight, base: weight }
        }
        "MYSQL_CHECK" => {
            port = Some(3306);
            if user.is_none() && (role != MysqlRole::Any || max_lag.is_some()) {
                found.warn(
                    &item.word.place,
                    "role and max_lag need a `user` to ask with: only the greeting is read",
                    "add `user NAME` and `password WORD`",
                );
            }
            CheckKind::Mysql { user, password, role, max_lag }
        }
        _ => return None,
    };
    if target.port() == 0 {
        target.set_port(port.unwrap_or(0));
    }
    let timing = timing.within(outer);
    Some(Check {
        kind,
        target,
        bind: bind_ip.map(|ip| SocketAddr::new(ip, bind_port)),
        delay_loop: timing.delay_loop.unwrap_or(Duration::from_secs(60)),
        connect_timeout: timing.connect_timeout.unwrap_or(Duration::from_secs(5)),
        retry: timing.retry.unwrap_or(default_retry),
        delay_before_retry: timing.delay_before_retry.unwrap_or(Duration::from_secs(1)),
        warmup: timing.warmup,
        alpha: timing.alpha.unwrap_or(false),
    })
}

fn url(found: &mut Findings, item: &Item<'_>) -> CheckUrl {
    let mut url = CheckUrl { path: "/".to_owned(), ..CheckUrl::default() };
    found.each(item.block, "url", kw::URL, |found, item| match item.keyword {
        "path" => url.path.clone_from(&item.args[0].text),
        "digest" => {
            url.digest = found.value(&item, "32 hexadecimal digits", |t| {
                let fine = t.len() == 32 && t.bytes().all(|b| b.is_ascii_hexdigit());
                fine.then(|| t.to_ascii_lowercase())
            });
        }
        "status_code" => {
            for word in item.args {
                url.status_code.extend(found.word(word, "status_code", "200 or 200-299", |t| {
                    let (low, high) = t.split_once('-').unwrap_or((t, t));
                    let range = (low.parse().ok()?, high.parse().ok()?);
                    (range.0 >= 100 && range.0 <= range.1 && range.1 <= 999).then_some(range)
                }));
            }
        }
        "virtualhost" => url.virtualhost = item.args.first().map(|w| w.text.clone()),
        "regex" => {
            let words: Vec<_> = item.args.iter().map(|w| w.text.as_str()).collect();
            let pattern = words.join(" ");
            // Without it the check would ask less than the file says.
            match regex::bytes::Regex::new(&pattern) {
                Ok(_) => url.regex = Some(pattern),
                Err(_) => found.error(
                    place_of(&item),
                    "`regex` can't be used",
                    "no look-around or back-references; syntax: docs of Rust's regex crate",
                ),
            }
        }
        _ => url.regex_no_match = flag(&item),
    });
    url
}

/// keepalived's free format: "Ab12f 3" is AB 12 0F 03.
fn hex(words: &[Word]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in words {
        let digits: Vec<u8> =
            word.text.chars().filter_map(|c| c.to_digit(16).map(|d| d as u8)).collect();
        for pair in digits.chunks(2) {
            out.push(match pair {
                [high, low] => high << 4 | low,
                [low] => *low,
                _ => 0,
            });
        }
    }
    out
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
            virtualhost: None,
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
