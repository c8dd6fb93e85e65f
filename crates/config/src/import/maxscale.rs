//! A maxscale.cnf as a proxy.toml.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use super::draft::{Draft, quoted};
use crate::report::Problem;

/// One parameter and where it stands.
struct Parameter {
    name: String,
    value: String,
    span: Range<usize>,
}

struct Section {
    name: String,
    span: Range<usize>,
    parameters: Vec<Parameter>,
}

impl Section {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|p| p.name == name).map(|p| p.value.as_str())
    }

    fn kind(&self) -> &str {
        match self.get("type") {
            Some(kind) => kind,
            None if self.name.eq_ignore_ascii_case("maxscale") => "maxscale",
            None => "",
        }
    }
}

/// Whether a text is a maxscale.cnf: it has a section with a `type` of MaxScale's.
#[must_use]
pub fn is_maxscale(text: &str) -> bool {
    let known = ["server", "monitor", "service", "listener"];
    sections(text).iter().any(|s| known.contains(&s.kind()))
}

/// The proxy.toml, and what of the file has no equivalent, with its place. It has the file's
/// passwords in it.
#[must_use]
pub fn maxscale(text: &str) -> (String, Vec<Problem>) {
    let sections = sections(text);
    let mut out = Import::default();
    for section in &sections {
        match section.kind() {
            "maxscale" => out.global(section),
            "server" => out.server(section),
            "monitor" => out.monitor(section),
            "service" => out.service(section),
            "listener" => out.listener(section, &sections),
            other => {
                let message = match other {
                    "" => format!("[{}] has no `type`: left out", section.name),
                    _ => format!("[{}] is a {other}, which Pointsman does not have", section.name),
                };
                out.problems.push(Problem::new(message).at(section.span.clone()));
            }
        }
    }
    (out.draft.finish(), out.problems)
}

/// `[name]`, `key=value`, whole lines of comment with `#`; a line that begins with white space goes on with the
/// value before.
fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let begin = at;
        at += line.len();
        let content = line.trim_end();
        let indent = content.len() - content.trim_start().len();
        let trimmed = content.trim();
        let span = begin + indent..begin + content.len().max(indent);
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            sections.push(Section { name: name.trim().to_owned(), span, parameters: Vec::new() });
            continue;
        }
        let Some(section) = sections.last_mut() else { continue };
        if indent > 0
            && let Some(last) = section.parameters.last_mut()
        {
            last.value.push(' ');
            last.value.push_str(trimmed);
            continue;
        }
        let (name, value) = trimmed.split_once('=').unwrap_or((trimmed, ""));
        section.parameters.push(Parameter {
            // Old files have dashes and spaces in names.
            name: name.trim().to_lowercase().replace(['-', ' '], "_"),
            value: value.trim().trim_matches(['"', '\'']).to_owned(),
            span,
        });
    }
    sections
}

#[derive(Default)]
struct Import {
    draft: Draft,
    has_monitor: bool,
    problems: Vec<Problem>,
}

/// MaxScale's `10s`, `500ms`; a bare number is seconds.
fn duration(value: &str) -> Option<String> {
    let text = if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        format!("{value}s")
    } else {
        value.to_owned()
    };
    crate::units::parse_duration(&text).map(crate::units::show_duration)
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some(true),
        "false" | "off" | "no" | "0" => Some(false),
        _ => None,
    }
}

impl Import {
    fn lost(&mut self, section: &Section, parameter: &Parameter, why: &str) {
        let message = format!("`{}` of [{}]: {why}", parameter.name, section.name);
        self.problems.push(Problem::new(message).at(parameter.span.clone()));
    }

    fn unknown(&mut self, section: &Section, parameter: &Parameter) {
        self.lost(section, parameter, "has no equivalent");
    }

    fn global(&mut self, section: &Section) {
        for p in &section.parameters {
            match (p.name.as_str(), p.value.parse::<u16>()) {
                ("threads", Ok(threads)) => {
                    let _ = writeln!(self.draft.top, "workers = {threads}");
                }
                ("threads", Err(_)) if p.value == "auto" => {}
                _ => self.unknown(section, p),
            }
        }
    }

    fn server(&mut self, section: &Section) {
        let host = section.get("address").unwrap_or_default();
        let port = section.get("port").unwrap_or("3306");
        self.draft.server(&section.name, host, port);
        for p in &section.parameters {
            match p.name.as_str() {
                "type" | "address" | "port" | "protocol" => {}
                "proxy_protocol" => {
                    if let Some(on) = boolean(&p.value) {
                        let _ = writeln!(self.draft.servers, "proxy_protocol = {on}");
                    }
                }
                "persistpoolmax" if p.value.parse::<u32>().is_ok() => {
                    self.draft.set("pool", "max_idle", &p.value);
                }
                "persistmaxtime" => match duration(&p.value) {
                    Some(time) => self.draft.set("pool", "idle_timeout", quoted(&time)),
                    None => self.unknown(section, p),
                },
                _ => self.unknown(section, p),
            }
        }
    }

    fn monitor(&mut self, section: &Section) {
        if std::mem::replace(&mut self.has_monitor, true) {
            let message = format!(
                "[{}] is a second monitor: one proxy.toml is for one set of servers",
                section.name
            );
            self.problems.push(Problem::new(message).at(section.span.clone()));
            return;
        }
        for p in &section.parameters {
            match p.name.as_str() {
                "type" | "servers" => {}
                "module" if p.value == "mariadbmon" || p.value == "mysqlmon" => {}
                "user" => self.draft.set("monitor", "user", quoted(&p.value)),
                "password" | "passwd" => {
                    self.draft.set("monitor", "password", quoted(&p.value));
                }
                "monitor_interval" => {
                    // A bare number is milliseconds here.
                    let bare = p.value.bytes().all(|b| b.is_ascii_digit());
                    let unit = if bare { "ms" } else { "" };
                    match crate::units::parse_duration(&format!("{}{unit}", p.value)) {
                        Some(time) if time < Duration::from_secs(1) && !time.is_zero() => {
                            let text = quoted(&crate::units::show_duration(time));
                            self.draft.set("monitor", "interval", text);
                        }
                        _ => self.lost(section, p, "looks are more frequent: the default stays"),
                    }
                }
                "auto_failover" | "auto_rejoin" => {
                    let key = if p.name == "auto_failover" { "auto" } else { "auto_rejoin" };
                    // `auto_failover=safe` is what Pointsman always does.
                    match boolean(&p.value).or((p.value == "safe").then_some(true)) {
                        Some(on) => self.draft.set("failover", key, on.to_string()),
                        None => self.unknown(section, p),
                    }
                }
                "handle_events" => match boolean(&p.value) {
                    Some(on) => self.draft.set("failover", "handle_events", on.to_string()),
                    None => self.unknown(section, p),
                },
                "replication_user" | "replication_password" => {
                    self.lost(section, p, "replicas keep the account they replicate with");
                }
                _ => self.unknown(section, p),
            }
        }
        // MaxScale does nothing by itself unless told to.
        if section.get("auto_failover").is_none() {
            self.draft.set("failover", "auto", "false");
        }
    }

    fn service(&mut self, section: &Section) {
        let router = section.get("router").unwrap_or_default();
        if router != "readwritesplit" {
            let message = format!(
                "[{}] routes by `{router}`: only readwritesplit has an equivalent",
                section.name
            );
            self.problems.push(Problem::new(message).at(section.span.clone()));
            return;
        }
        for p in &section.parameters {
            match p.name.as_str() {
                "type" | "router" | "servers" | "cluster" => {}
                "user" | "password" | "passwd" => {
                    self.lost(section, p, "accounts are read with [monitor]'s user");
                }
                "max_slave_replication_lag" | "max_replication_lag" => match duration(&p.value) {
                    Some(time) => self.draft.set("routing", "max_lag", quoted(&time)),
                    None => self.unknown(section, p),
                },
                "causal_reads" => {
                    let level = match p.value.as_str() {
                        "local" | "true" => "session",
                        "global" | "fast_global" | "universal" | "fast_universal" => "causal",
                        "none" | "false" => "eventual",
                        _ => "causal",
                    };
                    self.draft.set("routing", "consistency", quoted(level));
                }
                "causal_reads_timeout" => match duration(&p.value) {
                    Some(time) => {
                        self.draft.set("routing", "causal_timeout", quoted(&time));
                    }
                    None => self.unknown(section, p),
                },
                "master_accept_reads" => {
                    if let Some(on) = boolean(&p.value) {
                        self.draft.set("routing", "primary_reads", on.to_string());
                    }
                }
                "max_connections" if p.value.parse::<u32>().is_ok_and(|n| n > 0) => {
                    self.draft.set("limits", "max_connections", &p.value);
                }
                "max_connections" if p.value == "0" => {}
                "transaction_replay" | "delayed_retry" | "master_reconnection"
                    if boolean(&p.value) == Some(true) => {}
                "transaction_replay" | "delayed_retry" | "master_reconnection" => {
                    self.lost(section, p, "is always on");
                }
                "master_failure_mode" => self.lost(section, p, "writes wait, reads go on"),
                _ => self.unknown(section, p),
            }
        }
    }

    fn listener(&mut self, section: &Section, all: &[Section]) {
        let service = section.get("service").and_then(|s| all.iter().find(|o| o.name == s));
        if service.is_none_or(|s| s.get("router") != Some("readwritesplit")) {
            let message = format!("[{}] is for a service that is left out", section.name);
            self.problems.push(Problem::new(message).at(section.span.clone()));
            return;
        }
        let host = section.get("address").unwrap_or("::");
        self.draft.listener(host, section.get("port").unwrap_or("3306"));
        for p in &section.parameters {
            match p.name.as_str() {
                "type" | "service" | "address" | "port" | "protocol" => {}
                _ => self.unknown(section, p),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProxyConfig;

    /// As MariaDB's tutorial has it, with a few settings more.
    const TUTORIAL: &str = r#"
[maxscale]
threads=auto
log_info=true

[server1]
type=server
address=192.168.4.11
port=3306
protocol=MariaDBBackend

[server2]
type=server
address=192.168.4.22
port=3307
persistpoolmax=50

[MariaDB-Monitor]
type=monitor
module=mariadbmon
servers=server1,
    server2
user=monitor_user
password=my_"pass#word
monitor_interval=500ms
auto_failover=true
auto_rejoin=true

[Read-Only-Service]
type=service
router=readconnroute
servers=server1,server2

[Read-Write-Service]
type=service
router=readwritesplit
servers=server1,server2
user=maxscale
password=maxscale_pw
max_slave_replication_lag=5s
causal_reads=local
transaction_replay=true
enable_root_user=1

[Read-Write-Listener]
type=listener
service=Read-Write-Service
protocol=MariaDBClient
port=4006

[Read-Only-Listener]
type=listener
service=Read-Only-Service
port=4008
"#;

    #[test]
    fn the_tutorials_file_becomes_one_that_loads() {
        assert!(is_maxscale(TUTORIAL));
        let (text, problems) = maxscale(TUTORIAL);
        let (config, _) = ProxyConfig::parse("imported.toml", &text)
            .unwrap_or_else(|report| panic!("{report}\n{text}"));
        assert_eq!(config.servers.len(), 2);
        assert!(text.contains("address = \"192.168.4.22:3307\""), "{text}");
        assert!(text.contains("[[listener]]\naddress = \"[::]:4006\""), "{text}");
        assert!(text.contains("password = \"my_\\\"pass#word\""), "{text}");
        assert!(
            text.contains("interval = \"500ms\"") && text.contains("max_lag = \"5s\""),
            "{text}"
        );
        assert!(
            text.contains("consistency = \"session\"") && text.contains("max_idle = 50"),
            "{text}"
        );
        let line = |p: &Problem| TUTORIAL[..p.span.as_ref().unwrap().start].lines().count();
        let told: Vec<(usize, &str)> =
            problems.iter().map(|p| (line(p), p.message.as_str())).collect();
        assert_eq!(
            told.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [3, 28, 37, 38, 42, 50],
            "{told:?}"
        );
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(!is_maxscale("[[server]]\nname = \"a\"\n"));
        assert!(!is_maxscale("vrrp_instance A {\n}\n"));
        assert!(!is_maxscale("[mysqld]\nport=3306\n"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "[\\[\\]a-z=# \"\n0-9]{0,200}") {
            let _ = maxscale(&text);
        }
    }
}
