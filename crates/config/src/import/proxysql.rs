//! A proxysql.cnf as a proxy.toml.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use super::draft::{Draft, quoted};
use super::libconfig::{self, Setting, Value};
use crate::report::Problem;
use crate::rule::Pattern;
use crate::units::show_duration;

/// Whether a text is a proxysql.cnf: it has one of its tables.
#[must_use]
pub fn is_proxysql(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start();
        let tables = ["mysql_servers", "mysql_variables", "mysql_users", "admin_variables"];
        tables.iter().any(|table| {
            let rest = line.strip_prefix(table).map(str::trim_start);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':']))
        })
    })
}

/// The proxy.toml, and what of the file has no equivalent, with its place. It has the file's
/// passwords in it.
///
/// # Errors
/// The place at which the file can't be read.
pub fn proxysql(text: &str) -> Result<(String, Vec<Problem>), Problem> {
    let settings = libconfig::parse(text)?;
    let mut import = Import { writers: writers(&settings), ..Import::default() };
    for setting in &settings {
        match setting.name.as_str() {
            "mysql_variables" => import.variables(setting),
            "mysql_servers" => import.servers(setting),
            "mysql_users" => import.users(setting),
            "mysql_query_rules" => import.rules(setting),
            // Who is the primary is discovered.
            "mysql_replication_hostgroups"
            | "mysql_group_replication_hostgroups"
            | "mysql_galera_hostgroups" => {}
            _ => import.unknown(setting),
        }
    }
    if !import.draft.has("monitor", "user") {
        // What ProxySQL has where the file says nothing.
        import.draft.set("monitor", "user", quoted("monitor"));
    }
    if !import.draft.has("monitor", "password") {
        import.draft.set("monitor", "password", quoted("monitor"));
    }
    if import.draft.listeners.is_empty() {
        import.draft.listener("0.0.0.0", "6033");
    }
    // ProxySQL leaves that to others.
    import.draft.set("failover", "auto", "false");
    Ok((import.draft.finish(), import.problems))
}

/// Hostgroups whose servers are the primary, and those of its replicas.
#[derive(Default)]
struct Groups {
    writer: Option<String>,
    readers: BTreeSet<String>,
}

/// Of the first cluster that the file names.
fn writers(settings: &[Setting]) -> Groups {
    let clusters = settings.iter().filter(|s| s.name.ends_with("_hostgroups"));
    let mut first = clusters.flat_map(|s| s.value.groups()).map(|(group, _)| group);
    let Some(group) = first.next() else { return Groups::default() };
    let of = |name: &str| get(group, name).and_then(Value::text).map(str::to_owned);
    let readers = ["reader_hostgroup", "backup_writer_hostgroup"].iter().filter_map(|n| of(n));
    Groups { writer: of("writer_hostgroup"), readers: readers.collect() }
}

impl Groups {
    fn has(&self, group: &str) -> bool {
        self.writer.is_none()
            || self.writer.as_deref() == Some(group)
            || self.readers.contains(group)
    }

    /// Where nothing is said, the lower number is the writer by everybody's habit.
    fn is_writer(&self, group: &str) -> bool {
        self.writer.as_deref().map_or(group == "0", |writer| writer == group)
    }
}

#[derive(Default)]
struct Import {
    writers: Groups,
    draft: Draft,
    problems: Vec<Problem>,
    addresses: Vec<String>,
    names: BTreeSet<String>,
    max_lag: Option<u64>,
    most: Option<u64>,
    rule_names: usize,
}

fn get<'a>(group: &'a [Setting], name: &str) -> Option<&'a Value> {
    group.iter().find(|s| s.name == name).map(|s| &s.value)
}

fn number(value: &Value) -> Option<u64> {
    value.text()?.parse().ok()
}

fn is_on(value: &Value) -> bool {
    value.text().is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"))
}

impl Import {
    fn lost(&mut self, span: &Range<usize>, message: impl Into<String>) {
        self.problems.push(Problem::new(message).at(span.clone()));
    }

    fn unknown(&mut self, setting: &Setting) {
        self.lost(&setting.span, format!("`{}` has no equivalent", setting.name));
    }

    fn variables(&mut self, all: &Setting) {
        let libconfig::Kind::Group(variables) = &all.value.kind else { return self.unknown(all) };
        for s in variables {
            let text = s.value.text().unwrap_or_default();
            match (s.name.as_str(), number(&s.value)) {
                ("threads", Some(n @ 1..=1024)) => {
                    let _ = writeln!(self.draft.top, "workers = {n}");
                }
                ("interfaces", _) => self.interfaces(s, text),
                ("max_connections", Some(n)) if n > 0 => {
                    self.draft.set("limits", "max_connections", n.to_string());
                }
                ("monitor_username", _) => self.draft.set("monitor", "user", quoted(text)),
                ("monitor_password", _) => self.draft.set("monitor", "password", quoted(text)),
                ("connect_timeout_server", Some(ms)) if ms > 0 => {
                    let time = quoted(&show_duration(Duration::from_millis(ms)));
                    self.draft.set("limits", "connect_timeout", time);
                }
                ("connect_timeout_server_max", Some(ms)) => {
                    // How long a statement waits for a server: failovers hide here.
                    let time = quoted(&show_duration(Duration::from_millis(ms)));
                    self.draft.set("failover", "write_wait", time);
                }
                ("max_replication_lag" | "monitor_slave_lag_when_null", _) => self.unknown(s),
                (name, _) if name.starts_with("monitor_") => {
                    self.lost(&s.span, format!("`{name}`: servers are watched more closely"));
                }
                ("server_version", _) => {
                    self.lost(&s.span, "`server_version`: clients are told the primary's own");
                }
                ("default_schema", _) => {
                    self.lost(
                        &s.span,
                        "`default_schema`: none is chosen, as on a direct connection",
                    );
                }
                ("commands_stats" | "sessions_sort", _) => {}
                ("multiplexing", _) if is_on(&s.value) => {}
                _ => self.unknown(s),
            }
        }
    }

    fn interfaces(&mut self, setting: &Setting, text: &str) {
        for interface in text.split(';').map(str::trim).filter(|i| !i.is_empty()) {
            match interface.rsplit_once(':') {
                Some((host, port)) if port.parse::<u16>().is_ok() => {
                    let host = host.trim_matches(['[', ']']);
                    match host.parse::<std::net::IpAddr>() {
                        Ok(_) => self.draft.listener(host, port),
                        Err(_) => self.lost(
                            &setting.span,
                            format!("`{interface}`: only an IP address can be listened on"),
                        ),
                    }
                }
                _ => self.lost(
                    &setting.span,
                    format!("`{interface}`: there are no Unix sockets, only addresses"),
                ),
            }
        }
    }

    fn servers(&mut self, all: &Setting) {
        for (server, span) in all.value.groups() {
            let text = |name| get(server, name).and_then(Value::text);
            let Some(host) = text("address").or(text("hostname")) else {
                self.lost(span, "a server without an address");
                continue;
            };
            let port = text("port").unwrap_or("3306");
            let group = text("hostgroup").or(text("hostgroup_id")).unwrap_or("0");
            if !self.writers.has(group) {
                self.lost(
                    span,
                    format!(
                        "the server of hostgroup {group} is of another cluster: one proxy.toml is \
                         for one set of servers"
                    ),
                );
                continue;
            }
            if port == "0" {
                self.lost(span, format!("`{host}`: there are no Unix sockets, only addresses"));
                continue;
            }
            let address = format!("{host}:{port}");
            // The writer may be in the readers' group as well.
            if self.addresses.contains(&address) {
                continue;
            }
            self.addresses.push(address);
            let name = self.name(text("comment").unwrap_or_default());
            self.draft.server(&name, host, port);
            for s in server {
                self.server_setting(s);
            }
        }
    }

    /// A comment, if it may be a name; else `db1` and so on.
    fn name(&mut self, comment: &str) -> String {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let may = !comment.is_empty() && comment.len() <= 64 && comment.chars().all(legal);
        let mut n = self.addresses.len();
        let mut name = if may { comment.to_owned() } else { format!("db{n}") };
        while !self.names.insert(name.clone()) {
            n += 1;
            name = format!("db{n}");
        }
        name
    }

    fn server_setting(&mut self, s: &Setting) {
        let n = number(&s.value);
        match s.name.as_str() {
            "address" | "hostname" | "port" | "hostgroup" | "hostgroup_id" | "comment" => {}
            "weight" => match n {
                Some(n) if n <= 100 => {
                    let _ = writeln!(self.draft.servers, "weight = {n}");
                }
                _ => {
                    self.lost(&s.span, "`weight` can be 100 at most here: give all smaller ones");
                }
            },
            "max_connections" => match (n, self.most) {
                (Some(n), None) => {
                    self.most = Some(n);
                    self.draft.set("pool", "max_connections", n.to_string());
                }
                (Some(n), Some(most)) if n == most => {}
                _ => self.lost(&s.span, "`max_connections` is the same for all servers here: the first one's"),
            },
            "max_replication_lag" => match n {
                Some(0) => {}
                Some(n) if self.max_lag.is_none_or(|lag| lag == n) => {
                    self.max_lag = Some(n);
                    let time = quoted(&show_duration(Duration::from_secs(n)));
                    self.draft.set("routing", "max_lag", time);
                }
                _ => self.lost(&s.span, "`max_replication_lag` is the same for all servers here: the first one's"),
            },
            "use_ssl" => {
                if is_on(&s.value) {
                    self.draft.servers += "tls = { mode = \"required\" }\n";
                }
            }
            "status" if s.value.text() == Some("ONLINE") => {}
            "status" => self.lost(
                &s.span,
                "a server that is not to be used: `pointsman drain` or `maintain` it, or leave it out",
            ),
            "compression" | "max_latency_ms" if n == Some(0) => {}
            _ => self.unknown(s),
        }
    }

    /// Accounts are those of the databases; what a file adds to them is told.
    fn users(&mut self, all: &Setting) {
        for (user, _) in all.value.groups() {
            let name = get(user, "username").and_then(Value::text).unwrap_or_default();
            for s in user {
                match s.name.as_str() {
                    "username" | "password" | "comment" | "frontend" | "backend" => {}
                    "active" if is_on(&s.value) => {}
                    "active" => self.lost(
                        &s.span,
                        format!("`{name}` can log in: lock the account in the databases instead"),
                    ),
                    "transaction_persistent" if is_on(&s.value) => {}
                    "transaction_persistent" => {
                        self.lost(&s.span, "transactions always stay on one server");
                    }
                    "default_hostgroup" => {
                        let group = s.value.text().unwrap_or_default();
                        if !self.writers.is_writer(group) && self.writers.writer.is_some() {
                            self.lost(
                                &s.span,
                                format!("`{name}`: writes go to the primary, whoever sends them"),
                            );
                        }
                    }
                    "fast_forward" | "max_connections" | "schema_locked" | "use_ssl"
                        if number(&s.value) == Some(0) => {}
                    "default_schema" if s.value.text() == Some("") => {}
                    _ => self.lost(&s.span, format!("`{}` of `{name}` has no equivalent", s.name)),
                }
            }
        }
    }

    fn rules(&mut self, all: &Setting) {
        let mut rules: Vec<_> = all.value.groups().collect();
        rules.sort_by_key(|(rule, _)| get(rule, "rule_id").and_then(number).unwrap_or(u64::MAX));
        for (rule, span) in rules {
            // Without `active` a rule is not.
            if get(rule, "active").is_some_and(is_on) {
                self.rule(rule, span);
            }
        }
    }

    fn rule(&mut self, rule: &[Setting], span: &Range<usize>) {
        let text = |name| get(rule, name).and_then(Value::text);
        let id = text("rule_id").unwrap_or("?");
        let known = [
            "rule_id",
            "active",
            "apply",
            "comment",
            "username",
            "match_digest",
            "match_pattern",
            "re_modifiers",
            "destination_hostgroup",
            "error_msg",
            "log",
            "gtid_from_hostgroup",
        ];
        let harmless = |s: &Setting| {
            let default =
                matches!(s.name.as_str(), "flagIN" | "negate_match_pattern" | "multiplex");
            default && matches!(s.value.text(), Some("0"))
        };
        let foreign: Vec<&str> = rule
            .iter()
            .filter(|s| !known.contains(&s.name.as_str()) && !harmless(s))
            .map(|s| s.name.as_str())
            .collect();
        if !foreign.is_empty() {
            let message =
                format!("rule {id} is left out: `{}` has no equivalent", foreign.join("`, `"));
            return self.lost(span, message);
        }
        let pattern = text("match_digest").or(text("match_pattern"));
        let action = match (text("error_msg"), text("destination_hostgroup")) {
            (Some(error), _) => format!("refuse = {}", quoted(error)),
            (None, Some(group)) if self.writers.is_writer(group) => {
                if pattern.is_some_and(is_known_as_locking) {
                    return;
                }
                "primary = true".to_owned()
            }
            (None, Some(_)) => {
                if !pattern.is_some_and(is_all_reads) {
                    self.lost(
                        span,
                        format!(
                            "rule {id} is left out: what is a read goes to a replica without a rule"
                        ),
                    );
                }
                return;
            }
            (None, None) => {
                return self.lost(span, format!("rule {id} does nothing that has an equivalent"));
            }
        };
        let user = text("username");
        if pattern.is_none() && user.is_none() {
            return self.lost(span, format!("rule {id} is left out: it is for all statements"));
        }
        if let Some(pattern) = pattern
            && let Err(why) = Pattern::new(pattern)
        {
            return self
                .lost(span, format!("rule {id} is left out: its expression is not read ({why})"));
        }
        if pattern.is_some() && text("match_digest").is_none() {
            self.lost(
                span,
                format!("rule {id} is looked for in the statement with its literals as `?`"),
            );
        }
        self.rule_names += 1;
        let name =
            format!("rule-{}", if id == "?" { self.rule_names.to_string() } else { id.to_owned() });
        let _ = write!(self.draft.rules, "\n[[rule]]\nname = {}\n", quoted(&name));
        if let Some(user) = user {
            let _ = writeln!(self.draft.rules, "user = {}", quoted(user));
        }
        if let Some(pattern) = pattern {
            let _ = writeln!(self.draft.rules, "match = {}", quoted(pattern));
        }
        let _ = writeln!(self.draft.rules, "{action}");
    }
}

/// The rule that everybody has for the primary: locking reads stay there anyway.
fn is_known_as_locking(pattern: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    pattern.starts_with("^select")
        && ["for update", "for share", "lock in share mode"].iter().any(|l| pattern.contains(l))
}

/// The rule that everybody has for the replicas.
fn is_all_reads(pattern: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let rest =
        pattern.trim_start_matches("(?i)").trim_start_matches('^').trim_start_matches("\\s*");
    rest.strip_prefix("select").is_some_and(|rest| {
        let rest = rest.trim_end_matches('$');
        ["", " ", ".*", " .*", "\\s", "\\s+", "\\b"].contains(&rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProxyConfig;

    /// As the package's own file has it, filled in as tutorials do.
    const USUAL: &str = r#"
datadir="/var/lib/proxysql"
admin_variables=
{
	admin_credentials="admin:admin"
	mysql_ifaces="0.0.0.0:6032"
}
mysql_variables=
{
	threads=4
	max_connections=2048
	default_query_delay=0
	interfaces="0.0.0.0:6033;/tmp/proxysql.sock"
	default_schema="information_schema"
	server_version="5.5.30"
	connect_timeout_server=3000
	monitor_username="monitor"
	monitor_password="mon\"itor"
	monitor_ping_interval=10000
}
mysql_servers =
(
	{ address="192.168.4.11" , port=3306 , hostgroup=10, max_connections=200, comment="db1" },
	{ address="192.168.4.22" , port=3306 , hostgroup=20, max_connections=200, weight=10, max_replication_lag=5, use_ssl=1 },
	{ address="192.168.4.11" , port=3306 , hostgroup=20 },
	{ address="10.0.0.1" , port=3306 , hostgroup=30 }
)
mysql_users:
(
	{ username = "shop" , password = "*AA" , default_hostgroup = 10 , active = 1 },
	{ username = "cron" , password = "x" , default_hostgroup = 20 , fast_forward = 1 }
)
mysql_query_rules:
(
	{ rule_id=2 active=1 match_digest="^SELECT" destination_hostgroup=20 apply=1 },
	{ rule_id=1 active=1 match_digest="^SELECT.*FOR UPDATE$" destination_hostgroup=10 apply=1 },
	{ rule_id=3 active=1 match_digest="FROM carts" destination_hostgroup=10 apply=1 },
	{ rule_id=4 active=1 username="cron" match_pattern="^DROP" error_msg="not by cron" },
	{ rule_id=5 active=1 match_digest="x" cache_ttl=5000 destination_hostgroup=20 },
	{ rule_id=6 active=0 match_digest="y" destination_hostgroup=20 }
	{ rule_id=7 active=1 match_digest="^(?!SELECT)" destination_hostgroup=10 }
)
mysql_replication_hostgroups = ( { writer_hostgroup=10 , reader_hostgroup=20 , comment="shop" } )
"#;

    #[test]
    fn the_usual_file_becomes_one_that_loads() {
        assert!(is_proxysql(USUAL));
        let (text, problems) = proxysql(USUAL).unwrap();
        let (config, _) = ProxyConfig::parse("imported.toml", &text)
            .unwrap_or_else(|report| panic!("{report}\n{text}"));
        let servers: Vec<(&str, &str, u32)> = config
            .servers
            .iter()
            .map(|s| (s.name.as_str(), s.address.as_str(), s.weight))
            .collect();
        assert_eq!(servers, [("db1", "192.168.4.11:3306", 1), ("db2", "192.168.4.22:3306", 10)]);
        assert_eq!(config.listeners[0].address.port(), 6033);
        assert_eq!(config.monitor.user, "monitor");
        assert_eq!(config.workers, 4);
        assert_eq!(config.limits.max_connections, 2048);
        assert_eq!(config.pool.max_connections, 200);
        assert_eq!(config.routing.max_lag, Duration::from_secs(5));
        assert_eq!(config.failover.auto, Some(false));
        let rules: Vec<&str> = config.rules.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(rules, ["rule-3", "rule-4"]);
        let line = |p: &Problem| USUAL[..p.span.as_ref().unwrap().start].matches('\n').count() + 1;
        let told: Vec<usize> = problems.iter().map(line).collect();
        // Data directory, admin, delay, socket, schema, version, ping interval; the other cluster's
        // server; two things of cron's account; rules 4, 5 and 7.
        let expected = [2, 3, 12, 13, 14, 15, 19, 26, 31, 31, 38, 39, 41];
        assert_eq!(told, expected, "{problems:#?}");
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(!is_proxysql("[[server]]\nname = \"mysql_servers\"\n"));
        assert!(!is_proxysql("vrrp_instance A {\n}\n"));
    }

    #[test]
    fn what_can_not_be_read_is_an_error() {
        let problem = proxysql("mysql_servers = ( { address = }").unwrap_err();
        assert!(problem.message.contains("a value"), "{}", problem.message);
    }
}
