//! A configuration as our TOML: what [`super::parse`] reads gives the same again.
//!
//! Written is what differs from our defaults, which are not keepalived's, and a few keys that a
//! reader looks for first.

use std::fmt::{Display, Write};
use std::time::Duration;

use pointsman_config::Secret;
use pointsman_config::units::show_duration;
use pointsman_vrrp::Version;

use super::super::model::{
    Check, CheckKind, CheckUrl, DirectorConfig, Forwarding, Global, MysqlRole, Notify, OnStop,
    PlaneChoice, Protocol, RealServer, Scheduler, Script, ServerGroup, ServiceId, SyncGroup, Track,
    TrackFile, TrackProcess, TrackScript, Tracking, User, VirtualAddress, VirtualServer,
    VrrpInstance, Weight,
};
use super::services::Timing;

/// The text of `config`. It has its passwords in it.
#[must_use]
pub(crate) fn write(config: &DirectorConfig) -> String {
    let user = config.global.script_user.as_ref();
    let mut out = Out { text: String::new(), user };
    global(&mut out, &config.global);
    for script in &config.track_scripts {
        track_script(&mut out, script);
    }
    for process in &config.track_processes {
        track_process(&mut out, process);
    }
    for file in &config.track_files {
        track_file(&mut out, file);
    }
    for v in &config.vrrp {
        instance(&mut out, v);
    }
    for group in &config.sync_groups {
        sync_group(&mut out, group);
    }
    for group in &config.server_groups {
        server_group(&mut out, group);
    }
    for vs in &config.virtual_servers {
        virtual_server(&mut out, vs);
    }
    out.text
}

struct Out<'a> {
    text: String,
    /// Who runs scripts that name nobody.
    user: Option<&'a User>,
}

impl Out<'_> {
    fn table(&mut self, name: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        // A String takes everything.
        let _ = writeln!(self.text, "[[{name}]]");
    }

    fn put(&mut self, key: &str, value: impl Display) {
        let _ = writeln!(self.text, "{key} = {value}");
    }

    /// Writes what is not the default.
    fn unless<T: PartialEq + Display>(&mut self, key: &str, value: T, default: T) {
        if value != default {
            self.put(key, value);
        }
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.unless(key, value, false);
    }

    fn string(&mut self, key: &str, value: &str) {
        self.put(key, quoted(value));
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        match values {
            [] => {}
            [one] => self.put(key, format!("[{}]", quoted(one))),
            many => {
                let lines: String = many.iter().map(|v| format!("    {},\n", quoted(v))).collect();
                self.put(key, format!("[\n{lines}]"));
            }
        }
    }

    fn optional(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.string(key, &value.to_string());
        }
    }

    fn secret(&mut self, key: &str, value: Option<&Secret>) {
        if let Some(value) = value {
            self.string(key, value.expose());
        }
    }

    fn duration(&mut self, key: &str, value: Duration, default: Duration) {
        if value != default {
            self.string(key, &show_duration(value));
        }
    }

    fn script(&mut self, key: &str, script: Option<&Script>) {
        let Some(script) = script else { return };
        let command = quoted(&command_line(&script.command));
        match &script.user {
            Some(user) if self.user != Some(user) => {
                let user = quoted(&user_text(user));
                self.put(key, format!("{{ command = {command}, user = {user} }}"));
            }
            _ => self.put(key, command),
        }
    }

    fn weight(&mut self, weight: Weight, default: Weight) {
        if weight != default {
            self.put("weight", weight.value);
            self.flag("reverse", weight.reverse);
        }
    }

    fn tracking(&mut self, tracking: &Tracking) {
        let names = |list: &[Track]| list.iter().map(track_text).collect::<Vec<_>>();
        self.strings("track_interface", &names(&tracking.interfaces));
        self.strings("track_script", &names(&tracking.scripts));
        self.strings("track_file", &names(&tracking.files));
        self.strings("track_process", &names(&tracking.processes));
    }

    fn notify(&mut self, notify: &Notify) {
        self.script("notify_master", notify.master.as_ref());
        self.script("notify_backup", notify.backup.as_ref());
        self.script("notify_fault", notify.fault.as_ref());
        self.script("notify_stop", notify.stop.as_ref());
        self.script("notify", notify.any.as_ref());
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Words as `split_command` takes them apart.
fn command_line(words: &[String]) -> String {
    words.iter().map(|w| one_word(w)).collect::<Vec<_>>().join(" ")
}

fn one_word(word: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '\'' | '\\');
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

fn user_text(user: &User) -> String {
    match &user.group {
        Some(group) => format!("{}:{group}", user.name),
        None => user.name.clone(),
    }
}

fn track_text(track: &Track) -> String {
    let mut text = one_word(&track.name);
    if let Some(weight) = track.weight {
        let _ = write!(text, " weight {}", weight.value);
        if weight.reverse {
            text.push_str(" reverse");
        }
    }
    text
}

fn address_text(a: &VirtualAddress) -> String {
    let mut text = a.address.to_string();
    let whole = if a.address.is_ipv6() { 128 } else { 32 };
    if a.prefix != whole {
        let _ = write!(text, "/{}", a.prefix);
    }
    let scope = (a.scope != 0).then(|| a.scope.to_string());
    let broadcast = a.broadcast.map(|ip| ip.to_string());
    for (word, value) in [
        ("dev", a.dev.as_deref()),
        ("label", a.label.as_deref()),
        ("brd", broadcast.as_deref()),
        ("scope", scope.as_deref()),
    ] {
        if let Some(value) = value {
            let _ = write!(text, " {word} {}", one_word(value));
        }
    }
    text
}

fn name_in<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, v)| v == value).map_or("", |(word, _)| word)
}

fn global(out: &mut Out<'_>, global: &Global) {
    if !global.router_id.is_empty() {
        out.string("router_id", &global.router_id);
    }
    out.optional("script_user", global.script_user.as_ref().map(user_text));
    out.flag("enable_script_security", global.enable_script_security);
    if global.data_plane != PlaneChoice::Auto {
        out.string("data_plane", name_in(&PlaneChoice::ALL, &global.data_plane));
    }
    out.flag("lvs_flush", global.lvs_flush);
    if global.lvs_on_stop != OnStop::Remove {
        out.string("lvs_on_stop", name_in(&OnStop::ALL, &global.lvs_on_stop));
    }
    if let Some(sync) = global.flow_sync {
        out.put("flow_sync", sync);
    }
    out.secret("flow_sync_secret", global.flow_sync_secret.as_ref());
}

fn track_script(out: &mut Out<'_>, script: &TrackScript) {
    out.table("vrrp_script");
    out.string("name", &script.name);
    out.script("script", Some(&script.script));
    out.duration("interval", script.interval, Duration::from_secs(1));
    out.optional("timeout", script.timeout.map(show_duration));
    out.weight(script.weight, Weight::default());
    out.unless("rise", script.rise, 1);
    out.unless("fall", script.fall, 1);
    out.flag("init_fail", script.init_fail);
}

fn track_process(out: &mut Out<'_>, process: &TrackProcess) {
    out.table("vrrp_track_process");
    out.string("name", &process.name);
    out.string("process", &process.process);
    out.flag("full_command", process.full_command);
    out.unless("quorum", process.quorum, 1);
    out.weight(process.weight, Weight::default());
    out.duration("delay", process.delay, Duration::ZERO);
}

fn track_file(out: &mut Out<'_>, file: &TrackFile) {
    out.table("vrrp_track_file");
    out.string("name", &file.name);
    out.string("file", &file.file);
    out.weight(file.weight, Weight { value: 1, reverse: false });
}

fn instance(out: &mut Out<'_>, v: &VrrpInstance) {
    let default = VrrpInstance::new(String::new());
    out.table("vrrp");
    out.string("name", &v.name);
    if v.state_master {
        out.string("state", "MASTER");
    }
    out.string("interface", &v.interface);
    out.put("virtual_router_id", v.virtual_router_id);
    out.put("priority", v.priority);
    out.string("advert_int", &show_duration(v.advert_int));
    out.put("version", if v.version == Version::V2 { 2 } else { 3 });
    out.secret("auth_pass", v.auth_pass.as_ref());
    let texts = |list: &[VirtualAddress]| list.iter().map(address_text).collect::<Vec<_>>();
    out.strings("virtual_ipaddress", &texts(&v.virtual_ipaddress));
    out.strings("virtual_ipaddress_excluded", &texts(&v.virtual_ipaddress_excluded));
    let routes: Vec<String> = v.virtual_routes.iter().map(ToString::to_string).collect();
    out.strings("virtual_routes", &routes);
    let unicast = !v.unicast_peer.is_empty();
    out.optional(if unicast { "unicast_src_ip" } else { "mcast_src_ip" }, v.source);
    let peers: Vec<String> = v.unicast_peer.iter().map(ToString::to_string).collect();
    out.strings("unicast_peer", &peers);
    out.unless("unicast_ttl", v.unicast_ttl, default.unicast_ttl);
    out.unless("min_ttl", v.min_ttl, if unicast { 0 } else { 255 });
    out.unless("preempt", v.preempt, true);
    out.duration("preempt_delay", v.preempt_delay, Duration::ZERO);
    out.unless("down_timer_adverts", v.down_timer_adverts, default.down_timer_adverts);
    if let Some(without) = v.checksum_without_pseudo_header {
        out.put("v3_checksum_as_v2", without);
    }
    let (garp, usual) = (&v.garp, &default.garp);
    out.unless("garp_master_repeat", garp.repeat, usual.repeat);
    out.unless("garp_lower_prio_repeat", garp.lower_repeat, garp.repeat);
    out.duration("garp_master_delay", garp.delay, usual.delay);
    out.duration("garp_master_refresh", garp.refresh, usual.refresh);
    out.unless("garp_master_refresh_repeat", garp.refresh_repeat, usual.refresh_repeat);
    out.optional("stop_hold", v.stop_hold.map(show_duration));
    out.flag("dont_track_primary", v.dont_track_primary);
    if let Some(vmac) = &v.use_vmac {
        out.put("use_vmac", true);
        out.optional("vmac_name", vmac.name.as_ref());
        out.flag("vmac_xmit_base", vmac.xmit_base);
    }
    out.tracking(&v.tracking);
    out.notify(&v.notify);
}

fn sync_group(out: &mut Out<'_>, group: &SyncGroup) {
    out.table("vrrp_sync_group");
    out.string("name", &group.name);
    if group.members.is_empty() {
        out.put("group", "[]");
    }
    out.strings("group", &group.members);
    out.tracking(&group.tracking);
    out.notify(&group.notify);
}

fn server_group(out: &mut Out<'_>, group: &ServerGroup) {
    out.table("virtual_server_group");
    out.string("name", &group.name);
    let vips: Vec<String> = group.vips.iter().map(ToString::to_string).collect();
    out.strings("address", &vips);
    if !group.fwmarks.is_empty() {
        let marks: Vec<String> = group.fwmarks.iter().map(ToString::to_string).collect();
        out.put("fwmark", format!("[{}]", marks.join(", ")));
    }
}

fn kind_name(kind: Forwarding) -> &'static str {
    match kind {
        Forwarding::Dr => "DR",
        Forwarding::Nat => "NAT",
        Forwarding::Tun => "TUN",
    }
}

fn virtual_server(out: &mut Out<'_>, vs: &VirtualServer) {
    out.table("virtual_server");
    match &vs.id {
        ServiceId::Vip(vip) => out.string("address", &vip.to_string()),
        ServiceId::Fwmark(mark) => out.put("fwmark", mark),
        ServiceId::Group(name) => out.string("group", name),
    }
    match vs.protocol {
        Protocol::Tcp => {}
        Protocol::Udp => out.string("protocol", "UDP"),
        Protocol::Sctp => out.string("protocol", "SCTP"),
    }
    out.string("lb_algo", name_in(&Scheduler::ALL, &vs.lb_algo));
    out.string("lb_kind", kind_name(vs.lb_kind));
    out.flag("hash_port", vs.hash.port);
    out.flag("hash_fallback", vs.hash.fallback);
    out.optional("persistence_timeout", vs.persistence_timeout.map(show_duration));
    if let Some(prefix) = vs.persistence_granularity {
        out.put("persistence_granularity", prefix);
    }
    out.flag("ops", vs.ops);
    out.flag("alpha", vs.alpha);
    out.flag("omega", vs.omega);
    out.unless("quorum", vs.quorum, 1);
    out.unless("hysteresis", vs.hysteresis, 0);
    out.script("quorum_up", vs.quorum_up.as_ref());
    out.script("quorum_down", vs.quorum_down.as_ref());
    out.optional("sorry_server", vs.sorry_server);
    out.flag("sorry_server_inhibit", vs.sorry_server_inhibit);
    out.optional("sorry_server_lvs_method", vs.sorry_server_lvs_method.map(kind_name));
    out.optional("virtualhost", vs.virtualhost.as_ref());
    out.duration("slow_start", vs.slow_start, Duration::ZERO);
    // What the first check has is said for all; the others say where they differ.
    let first = vs.real_servers.iter().flat_map(|s| &s.checks).next();
    let usual = first.map_or_else(Timing::default, |check| Timing {
        delay_loop: check.delay_loop,
        connect_timeout: check.connect_timeout,
        retry: check.retry,
        rise: check.rise,
        delay_before_retry: check.delay_before_retry,
        warmup: None,
    });
    timing(out, usual, Timing::default());
    for server in &vs.real_servers {
        real_server(out, vs, server, usual);
    }
}

fn timing(out: &mut Out<'_>, timing: Timing, usual: Timing) {
    out.duration("delay_loop", timing.delay_loop, usual.delay_loop);
    out.duration("connect_timeout", timing.connect_timeout, usual.connect_timeout);
    out.unless("retry", timing.retry, usual.retry);
    out.unless("rise", timing.rise, usual.rise);
    out.duration("delay_before_retry", timing.delay_before_retry, usual.delay_before_retry);
    out.optional("warmup", timing.warmup.map(show_duration));
}

fn real_server(out: &mut Out<'_>, vs: &VirtualServer, server: &RealServer, usual: Timing) {
    out.table("virtual_server.real_server");
    out.string("address", &server.address.to_string());
    out.unless("weight", server.weight, 1);
    out.unless("uthreshold", server.uthreshold, 0);
    out.unless("lthreshold", server.lthreshold, 0);
    out.optional("lb_kind", server.lb_kind.map(kind_name));
    out.flag("inhibit_on_failure", server.inhibit_on_failure);
    out.script("notify_up", server.notify_up.as_ref());
    out.script("notify_down", server.notify_down.as_ref());
    for check in &server.checks {
        self::check(out, vs, server, check, usual);
    }
}

fn check(out: &mut Out<'_>, vs: &VirtualServer, server: &RealServer, c: &Check, usual: Timing) {
    out.table("virtual_server.real_server.check");
    let mut urls: &[CheckUrl] = &[];
    match &c.kind {
        CheckKind::Tcp => out.string("type", "tcp"),
        CheckKind::Http { tls, sni, http_1_1, virtualhost, urls: all } => {
            out.string("type", if *tls { "https" } else { "http" });
            out.flag("enable_sni", *sni);
            if !http_1_1 {
                out.string("http_protocol", "1.0");
            }
            if *virtualhost != vs.virtualhost {
                out.optional("virtualhost", virtualhost.as_ref());
            }
            match all.as_slice() {
                [one] if one.virtualhost.is_none() => url(out, one),
                many => urls = many,
            }
        }
        CheckKind::Smtp { helo_name } => {
            out.string("type", "smtp");
            out.string("helo_name", helo_name);
        }
        CheckKind::Dns { record, name } => {
            out.string("type", "dns");
            out.string("record", record);
            out.string("name", name);
        }
        CheckKind::Udp { payload, require_reply } => {
            out.string("type", "udp");
            if !payload.is_empty() {
                let bytes: Vec<String> = payload.iter().map(|b| format!("{b:02x}")).collect();
                out.string("payload", &bytes.join(" "));
            }
            out.flag("require_reply", *require_reply);
        }
        CheckKind::Ping => out.string("type", "ping"),
        CheckKind::Misc { script, timeout, dynamic } => {
            out.string("type", "misc");
            out.script("misc_path", Some(script));
            out.optional("misc_timeout", timeout.map(show_duration));
            out.flag("misc_dynamic", *dynamic);
        }
        CheckKind::File { track_file, weight, .. } => {
            out.string("type", "file");
            out.string("track_file", track_file);
            if let Some(weight) = weight {
                out.put("weight", weight.value);
                out.flag("reverse", weight.reverse);
            }
        }
        CheckKind::Mysql { user, password, role, max_lag } => {
            out.string("type", "mysql");
            out.optional("user", user.as_ref());
            out.secret("password", password.as_ref());
            match role {
                MysqlRole::Any => {}
                MysqlRole::Primary => out.string("role", "primary"),
                MysqlRole::Replica => out.string("role", "replica"),
            }
            out.optional("max_lag", max_lag.map(show_duration));
        }
    }
    if c.target != server.address {
        out.string("connect", &c.target.to_string());
    }
    out.optional("bind", c.bind);
    let own = Timing {
        delay_loop: c.delay_loop,
        connect_timeout: c.connect_timeout,
        retry: c.retry,
        rise: c.rise,
        delay_before_retry: c.delay_before_retry,
        warmup: c.warmup,
    };
    timing(out, own, usual);
    out.unless("alpha", c.alpha, vs.alpha);
    for one in urls {
        out.table("virtual_server.real_server.check.url");
        out.optional("virtualhost", one.virtualhost.as_ref());
        url(out, one);
    }
}

fn url(out: &mut Out<'_>, url: &CheckUrl) {
    out.string("path", &url.path);
    if !url.status_code.is_empty() {
        let code = |(low, high): &(u16, u16)| match low == high {
            true => low.to_string(),
            false => format!("\"{low}-{high}\""),
        };
        let codes: Vec<String> = url.status_code.iter().map(code).collect();
        out.put("status_code", format!("[{}]", codes.join(", ")));
    }
    out.optional("digest", url.digest.as_ref());
    out.optional("regex", url.regex.as_ref());
    out.flag("regex_no_match", url.regex_no_match);
}
