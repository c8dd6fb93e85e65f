//! Our own TOML, with keepalived's names: `[[vrrp]]`, `[[virtual_server]]`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pointsman_config::read::{Findings, Read, Section};
use pointsman_config::{Problem, Report, Secret};
use pointsman_vrrp::Version;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keepalived::as_address;
use super::model::{
    Attach, Check, CheckKind, CheckUrl, DirectorConfig, Forwarding, Global, MysqlRole, Protocol,
    RealServer, Scheduler, Script, ServiceId, SyncGroup, Track, TrackScript, Tracking, User,
    VirtualAddress, VirtualServer, VrrpInstance, Weight,
};
use super::reader::split_command;
use super::{Errors, Warning};

/// Reads the text of a TOML file called `name`.
pub(crate) fn parse(name: &str, text: &str) -> Result<(DirectorConfig, Vec<Warning>), Errors> {
    let fail = |problems| Err(Errors { reports: vec![Report::new(name, text, problems)] });
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let problem = Problem::new(error.message().to_owned());
            return fail(vec![match error.span() {
                Some(span) => problem.at(span),
                None => problem,
            }]);
        }
    };
    let mut found = Findings::default();
    let config = root(&mut found, &table);
    if !found.errors.is_empty() {
        return fail(found.errors);
    }
    let warnings = found
        .warnings
        .into_iter()
        .map(|problem| Warning { report: Report::new(name, text, vec![problem]) })
        .collect();
    Ok((config, warnings))
}

fn root(found: &mut Findings, table: &Spanned<DeTable<'_>>) -> DirectorConfig {
    let mut root = Section::root(table);
    let mut config = DirectorConfig::default();
    config.global.router_id = root.or(found, "router_id", String::new());
    if let Some(text) = root.at::<String>(found, "script_user") {
        let (name, group) = match text.value.split_once(':') {
            Some((name, group)) => (name, Some(group.to_owned())),
            None => (text.value.as_str(), None),
        };
        config.global.script_user = Some(User { name: name.to_owned(), group });
    }
    config.global.enable_script_security = root.or(found, "enable_script_security", false);
    config.global.data_plane = word(found, &mut root, "data_plane", Attach::Auto, &Attach::ALL);
    config.global.flow_sync = root.at::<bool>(found, "flow_sync").map(|f| f.value);
    config.global.flow_sync_secret = root.at::<Secret>(found, "flow_sync_secret").map(|s| s.value);
    // The binary's own part.
    root.section(found, "admin");
    for section in root.sections(found, "vrrp_script") {
        config.track_scripts.extend(script(found, section));
    }
    let scripts: Vec<String> = config.track_scripts.iter().map(|s| s.name.clone()).collect();
    for section in root.sections(found, "vrrp") {
        let span = section.span();
        let Some(instance) = instance(found, section, &scripts) else { continue };
        if config.vrrp.iter().any(|v| v.name == instance.name) {
            found.error(
                Problem::new(format!("two [[vrrp]] are called `{}`", instance.name)).at(span),
            );
        } else if config.vrrp.iter().any(|v| {
            (v.virtual_router_id, &v.interface, v.is_ipv6())
                == (instance.virtual_router_id, &instance.interface, instance.is_ipv6())
                && v.unicast_peer.is_empty()
        }) {
            let message = format!(
                "virtual_router_id {} is used twice on {}",
                instance.virtual_router_id, instance.interface
            );
            found.error(Problem::new(message).at(span));
        }
        config.vrrp.push(instance);
    }
    let names: Vec<String> = config.vrrp.iter().map(|v| v.name.clone()).collect();
    for mut section in root.sections(found, "vrrp_sync_group") {
        let name = section.required::<String>(found, "name", "\"VG_1\"");
        let members = section.required::<List>(found, "group", "[\"VI_1\", \"VI_2\"]");
        if let (Some(name), Some(members)) = (name, members) {
            for member in members.value.0.iter().filter(|m| !names.contains(m)) {
                let message = format!("no [[vrrp]] is called `{member}`");
                found.error(Problem::new(message).at(members.span.clone()));
            }
            config.sync_groups.push(SyncGroup {
                name: name.value,
                members: members.value.0,
                tracking: Tracking::default(),
                notify: super::Notify::default(),
            });
        }
        section.finish(found);
    }
    for section in root.sections(found, "virtual_server") {
        config.virtual_servers.extend(virtual_server(found, section));
    }
    root.finish(found);
    let config_rules = config.global.clone();
    for script in config.scripts_mut() {
        if let Err(problem) = settle(script, &config_rules) {
            found.error(Problem::new(problem));
        }
    }
    config
}

/// Gives a script its user; an error if it must not be run.
fn settle(script: &mut Script, rules: &Global) -> Result<(), String> {
    if script.user.is_none() {
        script.user.clone_from(&rules.script_user);
    }
    let machine = super::scripts::Machine::REAL;
    let uid = match &script.user {
        None => 0,
        Some(user) => {
            (machine.uid)(user).ok_or_else(|| format!("script_user: no user {} here", user.name))?
        }
    };
    match (machine.changeable)(&script.command[0]) {
        Some(part) if uid == 0 && rules.enable_script_security => Err(format!(
            "others than root may change {part}, which root would run: enable_script_security"
        )),
        _ => Ok(()),
    }
}

fn instance(
    found: &mut Findings,
    mut section: Section<'_>,
    scripts: &[String],
) -> Option<VrrpInstance> {
    let span = section.span();
    let id = section.required::<u8>(found, "virtual_router_id", "51");
    let interface = section.required::<String>(found, "interface", "\"eth0\"");
    let default_name = id.as_ref().map_or_else(String::new, |id| format!("VI_{}", id.value));
    let mut v = VrrpInstance::new(section.or(found, "name", default_name));
    v.virtual_router_id = id.as_ref().map_or(0, |id| id.value);
    v.interface = interface.as_ref().map_or_else(String::new, |i| i.value.clone());
    v.priority = section.or(found, "priority", v.priority);
    v.advert_int = section.or(found, "advert_int", v.advert_int);
    v.auth_pass = section.at::<Secret>(found, "auth_pass").map(|s| s.value);
    v.virtual_ipaddress = addresses(found, &mut section, "virtual_ipaddress");
    v.virtual_ipaddress_excluded = addresses(found, &mut section, "virtual_ipaddress_excluded");
    v.source = ips(found, &mut section, "unicast_src_ip").into_iter().next();
    v.unicast_peer = ips(found, &mut section, "unicast_peer");
    let default_ttl = if v.unicast_peer.is_empty() { 255 } else { 0 };
    v.min_ttl = section.or(found, "min_ttl", default_ttl);
    // Ours is version 3, unless a password asks for version 2.
    let default_version = if v.auth_pass.is_some() { 2u8 } else { 3 };
    v.version = match section.checked(found, "version", default_version, |n| match n {
        2 | 3 => Ok(()),
        _ => Err(Problem::new("VRRP has versions 2 and 3")),
    }) {
        2 => Version::V2,
        _ => Version::V3,
    };
    v.preempt = section.or(found, "preempt", true);
    v.preempt_delay = section.or(found, "preempt_delay", Duration::ZERO);
    v.down_timer_adverts = section.or(found, "down_timer_adverts", 3);
    v.checksum_without_pseudo_header = section.at(found, "v3_checksum_as_v2").map(|b| b.value);
    v.garp.repeat = section.or(found, "garp_master_repeat", v.garp.repeat);
    v.garp.lower_repeat = section.or(found, "garp_lower_prio_repeat", v.garp.repeat);
    v.garp.delay = section.or(found, "garp_master_delay", v.garp.delay);
    v.garp.refresh = section.or(found, "garp_master_refresh", v.garp.refresh);
    v.stop_hold = section.at(found, "stop_hold").map(|d| d.value);
    let tracks = |list: List| {
        list.0.into_iter().map(|name| Track { name, weight: None }).collect::<Vec<_>>()
    };
    v.tracking.interfaces = tracks(section.or(found, "track_interface", List::default()));
    if let Some(list) = section.at::<List>(found, "track_script") {
        for name in list.value.0.iter().filter(|n| !scripts.contains(n)) {
            let message = format!("no [[vrrp_script]] is called `{name}`");
            found.error(Problem::new(message).at(list.span.clone()));
        }
        v.tracking.scripts = tracks(list.value);
    }
    v.notify.master = command(found, &mut section, "notify_master");
    v.notify.backup = command(found, &mut section, "notify_backup");
    v.notify.fault = command(found, &mut section, "notify_fault");
    v.notify.stop = command(found, &mut section, "notify_stop");
    v.notify.any = command(found, &mut section, "notify");
    section.finish(found);
    id?;
    interface?;
    if let Err(error) = v.router_config().validate() {
        found.error(Problem::new(error.to_string()).at(span));
        return None;
    }
    Some(v)
}

fn script(found: &mut Findings, mut section: Section<'_>) -> Option<TrackScript> {
    let name = section.required::<String>(found, "name", "\"chk_nginx\"");
    let line = command(found, &mut section, "script");
    let span = section.span();
    let out = TrackScript {
        name: name.map(|n| n.value).unwrap_or_default(),
        script: line.clone().unwrap_or(Script { command: Vec::new(), user: None }),
        interval: section.checked(found, "interval", Duration::from_secs(1), |d| {
            if d.is_zero() { Err(Problem::new("`interval` must be above 0")) } else { Ok(()) }
        }),
        timeout: section.at(found, "timeout").map(|d| d.value),
        weight: Weight {
            value: section.or(found, "weight", Signed(0)).0,
            reverse: section.or(found, "reverse", false),
        },
        rise: section.or(found, "rise", 1u32).max(1),
        fall: section.or(found, "fall", 1u32).max(1),
        init_fail: section.or(found, "init_fail", false),
    };
    section.finish(found);
    if line.is_none() {
        found.error(Problem::new("[[vrrp_script]] needs `script`").at(span));
        return None;
    }
    Some(out)
}

fn virtual_server(found: &mut Findings, mut section: Section<'_>) -> Option<VirtualServer> {
    let span = section.span();
    let address = section.required::<SocketAddr>(found, "address", "\"192.168.4.253:80\"");
    let vip = address.map(|a| a.value);
    let mut vs =
        VirtualServer::new(ServiceId::Vip(vip.unwrap_or_else(|| ([0, 0, 0, 0], 0).into())));
    vs.protocol = word(
        found,
        &mut section,
        "protocol",
        Protocol::Tcp,
        &[
            ("TCP", Protocol::Tcp),
            ("UDP", Protocol::Udp),
            ("tcp", Protocol::Tcp),
            ("udp", Protocol::Udp),
        ],
    );
    vs.lb_algo = word(found, &mut section, "lb_algo", Scheduler::Mh, &Scheduler::ALL);
    vs.lb_kind = word(
        found,
        &mut section,
        "lb_kind",
        Forwarding::Dr,
        &[("DR", Forwarding::Dr), ("NAT", Forwarding::Nat), ("TUN", Forwarding::Tun)],
    );
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
    vs.virtualhost = section.at::<String>(found, "virtualhost").map(|s| s.value);
    let inhibit = section.or(found, "inhibit_on_failure", false);
    let timing = Timing::read(found, &mut section, Timing::default());
    for mut server in section.sections(found, "real_server") {
        let at = server.span();
        let address = server.required::<SocketAddr>(found, "address", "\"192.168.4.33:80\"");
        let mut real =
            RealServer::new(address.as_ref().map_or(([0, 0, 0, 0], 0).into(), |a| a.value));
        real.weight = server.or(found, "weight", 1);
        real.uthreshold = server.or(found, "uthreshold", 0);
        real.lthreshold = server.or(found, "lthreshold", 0);
        real.inhibit_on_failure = server.or(found, "inhibit_on_failure", inhibit);
        real.notify_up = command(found, &mut server, "notify_up");
        real.notify_down = command(found, &mut server, "notify_down");
        for check in server.sections(found, "check") {
            real.checks.extend(self::check(found, check, real.address, timing, &vs));
        }
        server.finish(found);
        if vip.is_some_and(|vip| vip.is_ipv6() != real.address.is_ipv6()) && address.is_some() {
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
    vip.map(|_| vs)
}

/// A prefix length.
fn granularity(
    found: &mut Findings,
    section: &mut Section<'_>,
    vip: Option<SocketAddr>,
) -> Option<u8> {
    let prefix = section.at::<u8>(found, "persistence_granularity")?;
    let most = if vip.is_some_and(|v| v.is_ipv6()) { 128 } else { 32 };
    if prefix.value > most {
        let message = format!("persistence_granularity is a prefix length: 0 to {most}");
        found.error(Problem::new(message).at(prefix.span));
        return None;
    }
    Some(prefix.value)
}

#[derive(Clone, Copy)]
struct Timing {
    delay_loop: Duration,
    connect_timeout: Duration,
    retry: u32,
    delay_before_retry: Duration,
}

impl Default for Timing {
    /// Faster than keepalived's (60 s, 5 s, 1, 1 s): a dead server is out within about 3 s.
    fn default() -> Self {
        Self {
            delay_loop: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            retry: 1,
            delay_before_retry: Duration::from_millis(500),
        }
    }
}

impl Timing {
    fn read(found: &mut Findings, section: &mut Section<'_>, outer: Self) -> Self {
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
            delay_before_retry: section.or(found, "delay_before_retry", outer.delay_before_retry),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CheckType {
    Tcp,
    Http,
    Smtp,
    Udp,
    Misc,
    Mysql,
}

fn check(
    found: &mut Findings,
    mut section: Section<'_>,
    server: SocketAddr,
    outer: Timing,
    vs: &VirtualServer,
) -> Option<Check> {
    let span = section.span();
    let timing = Timing::read(found, &mut section, outer);
    let target = section.at::<SocketAddr>(found, "connect").map_or(server, |a| a.value);
    let kind = word(
        found,
        &mut section,
        "type",
        CheckType::Tcp,
        &[
            ("tcp", CheckType::Tcp),
            ("http", CheckType::Http),
            ("smtp", CheckType::Smtp),
            ("udp", CheckType::Udp),
            ("misc", CheckType::Misc),
            ("mysql", CheckType::Mysql),
        ],
    );
    let kind = match kind {
        CheckType::Tcp => CheckKind::Tcp,
        CheckType::Http => {
            let status = section.at::<u16>(found, "status_code").map(|s| (s.value, s.value));
            let virtualhost = section.at::<String>(found, "virtualhost").map(|s| s.value);
            CheckKind::Http {
                tls: false,
                sni: false,
                http_1_1: true,
                virtualhost: virtualhost.or_else(|| vs.virtualhost.clone()),
                urls: vec![CheckUrl {
                    path: section.or(found, "path", "/".to_owned()),
                    status_code: status.into_iter().collect(),
                    ..CheckUrl::default()
                }],
            }
        }
        CheckType::Smtp => CheckKind::Smtp {
            helo_name: section.or(found, "helo_name", "smtpchecker.localhost".to_owned()),
        },
        CheckType::Udp => CheckKind::Udp {
            payload: Vec::new(),
            require_reply: section.or(found, "require_reply", false),
        },
        CheckType::Misc => {
            let script = command(found, &mut section, "misc_path");
            let Some(script) = script else {
                found.error(Problem::new("a check of type \"misc\" needs `misc_path`").at(span));
                section.finish(found);
                return None;
            };
            CheckKind::Misc {
                script,
                timeout: section.at(found, "misc_timeout").map(|d| d.value),
                dynamic: section.or(found, "misc_dynamic", false),
            }
        }
        CheckType::Mysql => {
            CheckKind::Mysql { user: None, password: None, role: MysqlRole::Any, max_lag: None }
        }
    };
    section.finish(found);
    Some(Check {
        kind,
        target,
        bind: None,
        delay_loop: timing.delay_loop,
        connect_timeout: timing.connect_timeout,
        retry: timing.retry,
        delay_before_retry: timing.delay_before_retry,
        warmup: None,
        alpha: vs.alpha,
    })
}

/// One of a few words.
fn word<T: Copy>(
    found: &mut Findings,
    section: &mut Section<'_>,
    key: &'static str,
    default: T,
    words: &[(&str, T)],
) -> T {
    let Some(written) = section.at::<String>(found, key) else { return default };
    match words.iter().find(|(word, _)| *word == written.value) {
        Some((_, value)) => *value,
        None => {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            found.error(
                Problem::new(format!("`{key}` can't be \"{}\"", written.value))
                    .at(written.span)
                    .help(format!("one of: {}", known.join(", "))),
            );
            default
        }
    }
}

fn addresses(
    found: &mut Findings,
    section: &mut Section<'_>,
    key: &'static str,
) -> Vec<VirtualAddress> {
    let Some(list) = section.at::<List>(found, key) else { return Vec::new() };
    let mut out = Vec::new();
    for text in &list.value.0 {
        let mut words = text.split_whitespace();
        let address = words.next().and_then(as_address);
        let dev = match (words.next(), words.next(), words.next()) {
            (None, ..) => Some(None),
            (Some("dev"), Some(dev), None) => Some(Some(dev.to_owned())),
            _ => None,
        };
        match (address, dev) {
            (Some(address), Some(dev)) => out.push(VirtualAddress { dev, ..address }),
            _ => found.error(
                Problem::new(format!("`{text}` is no virtual address"))
                    .at(list.span.clone())
                    .help("write \"192.168.4.253\", \"10.0.0.1/24\" or \"10.0.0.1/24 dev eth1\""),
            ),
        }
    }
    out
}

fn ips(found: &mut Findings, section: &mut Section<'_>, key: &'static str) -> Vec<IpAddr> {
    let Some(list) = section.at::<List>(found, key) else { return Vec::new() };
    let mut out = Vec::new();
    for text in &list.value.0 {
        match text.parse() {
            Ok(ip) => out.push(ip),
            Err(_) => found
                .error(Problem::new(format!("`{text}` is no IP address")).at(list.span.clone())),
        }
    }
    out
}

fn command(found: &mut Findings, section: &mut Section<'_>, key: &'static str) -> Option<Script> {
    let text = section.at::<String>(found, key)?;
    match split_command(&text.value).filter(|c| !c.is_empty()) {
        Some(command) => Some(Script { command, user: None }),
        None => {
            found.error(Problem::new(format!("`{key}` is no command")).at(text.span));
            None
        }
    }
}

/// A list of strings, or one string.
#[derive(Default)]
struct List(Vec<String>);

impl Read for List {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().map(|v| String::read(found, v, key)).collect::<Option<_>>().map(List)
            }
            _ => String::read(found, value, key).map(|s| List(vec![s])),
        }
    }
}

/// A weight: -253 to 253.
struct Signed(i32);

impl Read for Signed {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let number = match value.get_ref() {
            DeValue::Integer(n) => i32::from_str_radix(n.as_str(), n.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|n| (-253..=253).contains(n));
        if number.is_none() {
            let message = format!("`{key}` must be a whole number from -253 to 253");
            found.error(Problem::new(message).at(value.span()));
        }
        number.map(Signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = r#"
[[vrrp]]
interface = "eth0"
virtual_router_id = 51
priority = 150
auth_pass = "1111"
virtual_ipaddress = ["192.168.4.253"]

[[virtual_server]]
address = "192.168.4.253:80"
lb_algo = "rr"
delay_loop = "6s"

[[virtual_server.real_server]]
address = "192.168.4.33:80"
[[virtual_server.real_server.check]]
type = "http"
path = "/ok"

[[virtual_server.real_server]]
address = "192.168.4.44:80"
"#;

    #[test]
    fn the_reference_site_in_toml() {
        let (config, warnings) = parse("director.toml", SITE).unwrap();
        assert!(warnings.is_empty());
        let v = &config.vrrp[0];
        assert_eq!((v.name.as_str(), v.version, v.priority), ("VI_51", Version::V2, 150));
        let vs = &config.virtual_servers[0];
        assert_eq!((vs.lb_algo, vs.lb_kind), (Scheduler::Rr, Forwarding::Dr));
        assert_eq!(vs.real_servers.len(), 2);
        assert_eq!(vs.real_servers[0].checks[0].delay_loop, Duration::from_secs(6));
    }

    #[test]
    fn problems_have_places_and_all_are_told() {
        let wrong = SITE
            .replace("lb_algo = \"rr\"", "lb_algo = \"best\"")
            .replace("priority = 150", "priorty = 150")
            .replace("192.168.4.44:80", "192.168.4.44");
        let errors = parse("d.toml", &wrong).unwrap_err();
        let lines = errors.reports()[0].lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("d.toml:5:1: unknown key `priorty`"), "{lines:?}");
        assert!(parse("d.toml", "[[vrrp]\n").is_err());
        let twice = SITE.replace("[[virtual_server]]", "[[vrrp]]\ninterface = \"eth0\"\nvirtual_router_id = 51\nname = \"b\"\n[[virtual_server]]");
        assert!(parse("d.toml", &twice).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "[a-z_\\[\\]=\". 0-9\n]{0,200}") {
            let _ = parse("d.toml", &text);
        }
    }
}
