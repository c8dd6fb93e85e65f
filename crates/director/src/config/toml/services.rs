//! `[[virtual_server]]` with its real servers, and `[[virtual_server_group]]`.

use std::net::SocketAddr;
use std::time::Duration;

use pointsman_config::Problem;
use pointsman_config::read::{Findings, Read, Section};

use super::super::model::{
    Forwarding, Protocol, RealServer, Scheduler, ServerGroup, ServiceId, TrackFile, VirtualServer,
};
use super::checks::check;
use super::words::{command, each, word};

const KINDS: [(&str, Forwarding); 3] =
    [("DR", Forwarding::Dr), ("NAT", Forwarding::Nat), ("TUN", Forwarding::Tun)];
const PROTOCOLS: [(&str, Protocol); 6] = [
    ("TCP", Protocol::Tcp),
    ("UDP", Protocol::Udp),
    ("SCTP", Protocol::Sctp),
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("sctp", Protocol::Sctp),
];

pub(super) fn server_group(found: &mut Findings, mut section: Section<'_>) -> Option<ServerGroup> {
    let name = section.required::<String>(found, "name", "\"web\"");
    let want = "write \"192.168.4.253:80\"; port 0 is all ports";
    let vips = each(found, &mut section, "address", "is no address and port", want, |t| {
        t.parse::<SocketAddr>().ok()
    });
    let fwmarks = section.at::<Marks>(found, "fwmark").map(|m| m.value.0).unwrap_or_default();
    section.finish(found);
    name.map(|name| ServerGroup { name: name.value, vips, fwmarks })
}

/// A firewall mark, or a list of them.
struct Marks(Vec<u32>);

impl Read for Marks {
    fn read(
        found: &mut Findings,
        value: &toml::Spanned<toml::de::DeValue<'_>>,
        key: &str,
    ) -> Option<Self> {
        match value.get_ref() {
            toml::de::DeValue::Array(items) => {
                items.iter().map(|v| u32::read(found, v, key)).collect::<Option<_>>().map(Marks)
            }
            _ => u32::read(found, value, key).map(|n| Self(vec![n])),
        }
    }
}

/// What of `address`, `fwmark` and `group` it is.
fn service_id(found: &mut Findings, section: &mut Section<'_>) -> Option<ServiceId> {
    let address = section.at::<SocketAddr>(found, "address");
    let mark = section.at::<u32>(found, "fwmark");
    let group = section.at::<String>(found, "group");
    let ids: Vec<ServiceId> = [
        address.map(|a| ServiceId::Vip(a.value)),
        mark.filter(|m| m.value > 0).map(|m| ServiceId::Fwmark(m.value)),
        group.map(|g| ServiceId::Group(g.value)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let written = ["address", "fwmark", "group"].iter().filter(|k| section.is_written(k)).count();
    match (ids.len(), written) {
        (1, 1) => ids.into_iter().next(),
        // Said already.
        (0, 1) if !section.is_written("fwmark") => None,
        _ => {
            found.error(
                Problem::new("[[virtual_server]] needs one of `address`, `fwmark` and `group`")
                    .at(section.span())
                    .help("add address = \"192.168.4.253:80\""),
            );
            None
        }
    }
}

pub(super) fn virtual_server(
    found: &mut Findings,
    mut section: Section<'_>,
    groups: &[ServerGroup],
    files: &[TrackFile],
) -> Option<VirtualServer> {
    let span = section.span();
    let id = service_id(found, &mut section);
    if let Some(ServiceId::Group(name)) = &id
        && !groups.iter().any(|g| g.name == *name)
    {
        let message = format!("no [[virtual_server_group]] is called `{name}`");
        found.error(Problem::new(message).at(span.clone()));
    }
    let vip = match id {
        Some(ServiceId::Vip(vip)) => Some(vip),
        _ => None,
    };
    let known = id.is_some();
    let mut vs = VirtualServer::new(id.unwrap_or(ServiceId::Fwmark(1)));
    vs.protocol = word(found, &mut section, "protocol", Protocol::Tcp, &PROTOCOLS);
    vs.lb_algo = word(found, &mut section, "lb_algo", Scheduler::Mh, &Scheduler::ALL);
    vs.lb_kind = word(found, &mut section, "lb_kind", Forwarding::Dr, &KINDS);
    vs.hash.port = section.or(found, "hash_port", false);
    vs.hash.fallback = section.or(found, "hash_fallback", false);
    vs.persistence_timeout = section.at::<Duration>(found, "persistence_timeout").map(|d| d.value);
    vs.persistence_granularity = granularity(found, &mut section, vip);
    vs.ops = section.or(found, "ops", false);
    vs.alpha = section.or(found, "alpha", false);
    vs.omega = section.or(found, "omega", false);
    vs.quorum = section.or(found, "quorum", 1u32).max(1);
    vs.hysteresis = section.or(found, "hysteresis", 0);
    vs.quorum_up = command(found, &mut section, "quorum_up");
    vs.quorum_down = command(found, &mut section, "quorum_down");
    vs.sorry_server = section.at::<SocketAddr>(found, "sorry_server").map(|a| a.value);
    vs.sorry_server_inhibit = section.or(found, "sorry_server_inhibit", false);
    if section.is_written("sorry_server_lvs_method") {
        let usual = vs.lb_kind;
        vs.sorry_server_lvs_method =
            Some(word(found, &mut section, "sorry_server_lvs_method", usual, &KINDS));
    }
    vs.virtualhost = section.at::<String>(found, "virtualhost").map(|s| s.value);
    vs.slow_start = section.or(found, "slow_start", Duration::ZERO);
    let inhibit = section.or(found, "inhibit_on_failure", false);
    let timing = Timing::read(found, &mut section, Timing::default());
    for mut server in section.sections(found, "real_server") {
        let at = server.span();
        let address = server.required::<SocketAddr>(found, "address", "\"192.168.4.33:80\"");
        let mut real =
            RealServer::new(address.as_ref().map_or(([0, 0, 0, 0], 0).into(), |a| a.value));
        real.weight = server.checked(found, "weight", 1, |w| match *w {
            0..=65_535 => Ok(()),
            _ => Err(Problem::new("`weight` can be 65535 at most")),
        });
        real.uthreshold = server.or(found, "uthreshold", 0);
        real.lthreshold = server.or(found, "lthreshold", 0);
        real.inhibit_on_failure = server.or(found, "inhibit_on_failure", inhibit);
        real.notify_up = command(found, &mut server, "notify_up");
        real.notify_down = command(found, &mut server, "notify_down");
        if server.is_written("lb_kind") {
            real.lb_kind = Some(word(found, &mut server, "lb_kind", vs.lb_kind, &KINDS));
        }
        for section in server.sections(found, "check") {
            let check = check(found, section, &real, timing, &vs, files);
            real.checks.extend(check);
        }
        server.finish(found);
        let kind = real.lb_kind.unwrap_or(vs.lb_kind);
        if vip.is_some_and(|vip| vip.is_ipv6() != real.address.is_ipv6())
            && kind != Forwarding::Tun
            && address.is_some()
        {
            let message = "real servers must be of the address family of the virtual server";
            found.error(Problem::new(message).at(at));
        }
        vs.real_servers.push(real);
    }
    section.finish(found);
    if vs.real_servers.is_empty() {
        found.error(
            Problem::new("[[virtual_server]] has no [[virtual_server.real_server]]").at(span),
        );
    }
    known.then_some(vs)
}

/// A prefix length.
fn granularity(
    found: &mut Findings,
    section: &mut Section<'_>,
    vip: Option<SocketAddr>,
) -> Option<u8> {
    let prefix = section.at::<u8>(found, "persistence_granularity")?;
    let most = if vip.is_some_and(|v| v.is_ipv4()) { 32 } else { 128 };
    if prefix.value > most {
        let message = format!("persistence_granularity is a prefix length: 0 to {most}");
        found.error(Problem::new(message).at(prefix.span));
        return None;
    }
    Some(prefix.value)
}

/// When checks are done; what a check does not say, its virtual server does.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    pub delay_loop: Duration,
    pub connect_timeout: Duration,
    pub retry: u32,
    pub rise: u32,
    pub delay_before_retry: Duration,
    pub warmup: Option<Duration>,
}

impl Default for Timing {
    /// Faster than keepalived's (60 s, 5 s, 1, 1 s): a dead server is out within about 3 s.
    fn default() -> Self {
        Self {
            delay_loop: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            retry: 1,
            rise: 1,
            delay_before_retry: Duration::from_millis(500),
            warmup: None,
        }
    }
}

impl Timing {
    pub(super) fn read(found: &mut Findings, section: &mut Section<'_>, outer: Self) -> Self {
        let above_zero = |key: &'static str| {
            move |d: &Duration| {
                let fine = !d.is_zero();
                fine.then_some(()).ok_or_else(|| Problem::new(format!("`{key}` must be above 0")))
            }
        };
        Self {
            delay_loop: section.checked(
                found,
                "delay_loop",
                outer.delay_loop,
                above_zero("delay_loop"),
            ),
            connect_timeout: section.checked(
                found,
                "connect_timeout",
                outer.connect_timeout,
                above_zero("connect_timeout"),
            ),
            retry: section.or(found, "retry", outer.retry),
            rise: section.or(found, "rise", outer.rise).max(1),
            delay_before_retry: section.or(found, "delay_before_retry", outer.delay_before_retry),
            warmup: section.at(found, "warmup").map(|d| d.value).or(outer.warmup),
        }
    }
}
