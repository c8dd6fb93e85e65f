//! From the text of `proxy.toml` to a checked [`ProxyConfig`].

mod sockets;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::proxy::{
    Account, Agree, AuthPlugin, Consistency, Failover, Group, Limits, Listener, Monitor, Pool,
    ProxyConfig, Routing, Server, User, Writer,
};
use crate::read::{
    At, Findings, HostPort, Read, Section, Size, Words, readable_by_all, word, wrong_value,
};
use crate::report::{Problem, Report, Warning};
use crate::rule;
use crate::tls::{self, Networks, ServerTls};
use crate::units::show_duration;

use sockets::{Sockets, admin, console};

impl ProxyConfig {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it; a file that can't be read is one such problem.
    pub fn load(path: impl AsRef<Path>) -> Result<(Self, Vec<Warning>), Report> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let text = read_text(path, &name)?;
        let (config, findings) = read(&name, &text)?;
        let mut warnings = findings.warnings;
        if let Some(span) = findings.secret_in_file
            && readable_by_all(path)
        {
            warnings.push(
                Problem::new("the file holds a secret and every user of this host can read it")
                    .at(span)
                    .help(format!("chmod o-r {name}, or use {{ env = ... }} or {{ file = ... }}")),
            );
        }
        let warnings = warnings.into_iter().map(|p| Warning::new(&name, &text, p)).collect();
        Ok((config, warnings))
    }

    /// Reads and checks `text`; `name` is what reports call it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<(Self, Vec<Warning>), Report> {
        let (config, findings) = read(name, text)?;
        let warnings = findings.warnings.into_iter().map(|p| Warning::new(name, text, p)).collect();
        Ok((config, warnings))
    }
}

/// The text of a config file.
///
/// # Errors
/// A report that says why it can't be read.
pub fn read_text(path: &Path, name: &str) -> Result<String, Report> {
    std::fs::read(path)
        .map_err(|e| Problem::new(format!("can't read it: {e}")))
        .and_then(|bytes| {
            String::from_utf8(bytes).map_err(|e| {
                Problem::new(format!("not UTF-8 text (at byte {})", e.utf8_error().valid_up_to()))
            })
        })
        .map_err(|problem| Report::new(name, "", vec![problem]))
}

fn read(name: &str, text: &str) -> Result<(ProxyConfig, Findings), Report> {
    let (root, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        // What a broken file holds is guesswork; one kind of error at a time.
        let problems = syntax.iter().map(syntax_problem).collect();
        return Err(Report::new(name, text, problems));
    }
    let mut found = Findings::default();
    let config = proxy(&mut found, &root);
    match config {
        Some(config) if found.errors.is_empty() => Ok((config, found)),
        _ => Err(Report::new(name, text, found.errors)),
    }
}

fn syntax_problem(error: &toml::de::Error) -> Problem {
    let message = error.message().trim_end_matches('.').replace('\n', "; ");
    let problem = Problem::new(format!("not valid TOML: {message}"));
    match error.span() {
        Some(span) => problem.at(span),
        None => problem,
    }
}

fn proxy(found: &mut Findings, root: &Spanned<DeTable<'_>>) -> Option<ProxyConfig> {
    let mut file = Section::root(root);

    let mut sockets = Sockets::default();
    let mut listeners = Vec::new();
    for mut s in file.sections(found, "listener") {
        let address = s.required::<SocketAddr>(found, "address", "\"0.0.0.0:3306\"");
        let consistency = s.at::<Consistency>(found, "consistency").map(|c| c.value);
        let tls = tls::of_listener(found, &mut s);
        let proxy_protocol = s.or(found, "proxy_protocol", Networks(Vec::new())).0;
        s.finish(found);
        if let Some(address) = address {
            sockets.take(found, &address, "[[listener]]");
            let address = address.value;
            listeners.push(Listener { address, consistency, tls, proxy_protocol });
        }
    }
    if listeners.is_empty() && !file_has(root, "listener") {
        found.error(
            Problem::new("no [[listener]]: nothing could connect")
                .help("add:  [[listener]]\n      address = \"0.0.0.0:3306\""),
        );
    }

    let tls = tls::of_servers(found, &mut file, &ServerTls::default());
    let servers = servers(found, &mut file, &listeners, &tls, file_has(root, "server"));
    let users = users(found, &mut file);
    let rules = rule::rules(found, &mut file);
    let monitor = monitor(found, &mut file);
    let routing = routing(found, &mut file);
    let failover = failover(found, &mut file);
    let group = group(found, &mut file);
    let pool = pool(found, &mut file);
    let limits = limits(found, &mut file);
    let admin = admin(found, &mut file, &mut sockets);
    let console = console(found, &mut file, &mut sockets);
    let workers = file.checked(found, "workers", 0usize, |n| at_most(*n, 1024));
    file.finish(found);

    Some(ProxyConfig {
        listeners,
        servers,
        users,
        rules,
        monitor: monitor?,
        routing,
        failover,
        group,
        pool,
        limits,
        admin,
        console,
        workers,
    })
}

fn file_has(root: &Spanned<DeTable<'_>>, key: &str) -> bool {
    root.get_ref().iter().any(|(k, _)| k.get_ref() == key)
}

fn servers(
    found: &mut Findings,
    file: &mut Section<'_>,
    listeners: &[Listener],
    tls: &ServerTls,
    any_written: bool,
) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    let mut names: HashMap<String, Range<usize>> = HashMap::new();
    let mut addresses: HashMap<String, String> = HashMap::new();
    let mut last_span = None;
    for mut s in file.sections(found, "server") {
        last_span = Some(s.span());
        let name = s.required::<String>(found, "name", "\"db1\"");
        let address = s.required::<HostPort>(found, "address", "\"192.168.4.11:3306\"");
        let weight = s.checked(found, "weight", 1u32, |w| at_most(*w, 100));
        let promote = s.or(found, "promote", true);
        let tls = tls::of_servers(found, &mut s, tls);
        let proxy_protocol = s.or(found, "proxy_protocol", false);
        s.finish(found);
        if let Some(name) = &name {
            check_name(found, name, "server");
            if names.insert(name.value.clone(), name.span.clone()).is_some() {
                found.error(
                    Problem::new(format!("two servers are called \"{}\"", name.value))
                        .at(name.span.clone())
                        .label("the second one")
                        .help("give each server a name of its own"),
                );
            }
        }
        if let Some(address) = &address {
            let key = address.value.0.to_ascii_lowercase();
            let called = name.as_ref().map_or("?", |n| n.value.as_str()).to_owned();
            if let Some(other) = addresses.insert(key, called) {
                found.error(
                    Problem::new(format!("server \"{other}\" has this address already"))
                        .at(address.span.clone())
                        .help("each server once; shares of the reads are set with weight"),
                );
            }
            // An unspecified listener can't be compared: 0.0.0.0:3306 beside a database on this
            // host's other address is a legal set-up only with distinct addresses, which it lacks.
            if let Ok(to) = address.value.0.parse::<SocketAddr>()
                && listeners.iter().any(|l| {
                    l.address == to
                        || (l.address.ip().is_unspecified()
                            && to.ip().is_loopback()
                            && l.address.port() == to.port())
                })
            {
                found.error(
                    Problem::new("this is the proxy's own [[listener]]")
                        .at(address.span.clone())
                        .help("a server's address is where the database itself listens"),
                );
            }
        }
        if let (Some(name), Some(address)) = (name, address) {
            let (name, address) = (name.value, address.value.0);
            servers.push(Server { name, address, weight, promote, tls, proxy_protocol });
        }
    }
    if servers.is_empty() && !any_written {
        found.error(
            Problem::new("no [[server]]: there is no database to send statements to").help(
                "add:  [[server]]\n      name = \"db1\"\n      address = \"192.168.4.11:3306\"",
            ),
        );
    } else if servers.len() == 1 && found.errors.is_empty() {
        let problem =
            Problem::new("only one [[server]]: no replica to read from or to fail over to")
                .help("add the replicas too; roles are discovered");
        found.warn(match last_span {
            Some(span) => problem.at(span),
            None => problem,
        });
    }
    if servers.len() > usize::from(u16::MAX) {
        found
            .error(Problem::new(format!("{} servers are more than can be watched", servers.len())));
    }
    servers
}

/// Names stand in URLs, metric labels and commands.
pub(crate) fn check_name(found: &mut Findings, name: &At<String>, what: &str) {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.value.is_empty() || name.value.len() > 64 || !name.value.chars().all(legal) {
        found.error(
            Problem::new(format!(
                "a {what}'s name is 1 to 64 letters, digits, dots, dashes or underscores"
            ))
            .at(name.span.clone()),
        );
    }
}

fn users(found: &mut Findings, file: &mut Section<'_>) -> Vec<User> {
    let mut users: Vec<User> = Vec::new();
    for mut s in file.sections(found, "user") {
        let name = s.required::<String>(found, "name", "\"shop\"");
        let consistency = s.at::<Consistency>(found, "consistency").map(|c| c.value);
        let password = match consistency {
            // Whoever has nothing else to say here may be an account of the databases.
            Some(_) => s.at(found, "password"),
            None => s.required(found, "password", "{ env = \"SHOP_PASSWORD\" }"),
        };
        let host = s.or(found, "host", "%".to_owned());
        let plugin = s.or(found, "plugin", AuthPlugin::default());
        s.finish(found);
        let Some(name) = name else { continue };
        if password.is_none() && consistency.is_none() {
            continue;
        }
        let password = password.map(|p| p.value);
        if users.iter().any(|u| u.name == name.value && u.host == host) {
            found.error(
                Problem::new(format!("the user '{}'@'{host}' is there twice", name.value))
                    .at(name.span),
            );
            continue;
        }
        users.push(User { name: name.value, password, host, plugin, consistency });
    }
    users
}

fn monitor(found: &mut Findings, file: &mut Section<'_>) -> Option<Monitor> {
    let Some(mut s) = file.section(found, "monitor") else {
        found.error(Problem::new("no [monitor]: the servers can't be watched").help(
            "add:  [monitor]\n      user = \"pointsman\"\n      password = { env = \"POINTSMAN_PASSWORD\" }",
        ));
        return None;
    };
    let span = s.span();
    let user = s.required::<String>(found, "user", "\"pointsman\"");
    let password = s.required(found, "password", "{ env = \"POINTSMAN_PASSWORD\" }");
    let interval = s.checked(found, "interval", Monitor::INTERVAL, positive);
    let timeout = s.checked(found, "timeout", Monitor::TIMEOUT, positive);
    let accounts_interval =
        s.checked(found, "accounts_interval", Monitor::ACCOUNTS_INTERVAL, positive);
    s.finish(found);
    if !timeout.is_zero() && timeout < interval {
        found.warn(
            Problem::new(format!(
                "timeout ({}) is shorter than interval ({}): one late look and a server is down",
                show_duration(timeout),
                show_duration(interval)
            ))
            .at(span)
            .help("make timeout a few intervals"),
        );
    }
    if let Some(user) = &user
        && user.value.is_empty()
    {
        found.error(Problem::new("`user` is empty").at(user.span.clone()));
    }
    Some(Monitor {
        user: user?.value,
        password: password?.value,
        interval,
        timeout,
        accounts_interval,
    })
}

fn routing(found: &mut Findings, file: &mut Section<'_>) -> Routing {
    let default = Routing::default();
    let Some(mut s) = file.section(found, "routing") else { return default };
    let routing = Routing {
        consistency: s.or(found, "consistency", default.consistency),
        max_lag: s.checked(found, "max_lag", default.max_lag, positive),
        causal_timeout: s.or(found, "causal_timeout", default.causal_timeout),
        primary_reads: s.or(found, "primary_reads", default.primary_reads),
        by_table: s.or(found, "by_table", default.by_table),
    };
    s.finish(found);
    routing
}

fn failover(found: &mut Findings, file: &mut Section<'_>) -> Failover {
    let default = Failover::default();
    let Some(mut s) = file.section(found, "failover") else { return default };
    let failover = Failover {
        auto: s.at(found, "auto").map(|auto| auto.value),
        agree: s.or(found, "agree", default.agree),
        user: account(found, &mut s, "user", "password"),
        replication_user: account(found, &mut s, "replication_user", "replication_password"),
        rebuild_user: account(found, &mut s, "rebuild_user", "rebuild_password"),
        rebuild_command: s.or(found, "rebuild_command", Words(Vec::new())).0,
        auto_rejoin: s.or(found, "auto_rejoin", default.auto_rejoin),
        apply_timeout: s.checked(found, "apply_timeout", default.apply_timeout, positive),
        switchover_timeout: s.checked(
            found,
            "switchover_timeout",
            default.switchover_timeout,
            positive,
        ),
        transaction_wait: s.or(found, "transaction_wait", default.transaction_wait),
        write_wait: s.or(found, "write_wait", default.write_wait),
        replay_max_size: s.or(found, "replay_max_size", Size(default.replay_max_size)).0,
        handle_events: s.or(found, "handle_events", default.handle_events),
        note_statements: s.or(found, "note_statements", default.note_statements),
    };
    s.finish(found);
    failover
}

fn group(found: &mut Findings, file: &mut Section<'_>) -> Group {
    let default = Group::default();
    let Some(mut s) = file.section(found, "group") else { return default };
    let group = Group {
        writer: s.or(found, "writer", default.writer),
        available_when_donor: s.or(found, "available_when_donor", default.available_when_donor),
    };
    s.finish(found);
    group
}

fn pool(found: &mut Findings, file: &mut Section<'_>) -> Pool {
    let default = Pool::default();
    let Some(mut s) = file.section(found, "pool") else { return default };
    let pool = Pool {
        max_idle: s.or(found, "max_idle", default.max_idle),
        max_connections: s.or(found, "max_connections", default.max_connections),
        idle_timeout: s.checked(found, "idle_timeout", default.idle_timeout, positive),
        max_age: s.checked(found, "max_age", default.max_age, positive),
        wait_timeout: s.or(found, "wait_timeout", default.wait_timeout),
    };
    s.finish(found);
    pool
}

/// A user and a password that are given together or not at all.
fn account(
    found: &mut Findings,
    s: &mut Section<'_>,
    user_key: &'static str,
    password_key: &'static str,
) -> Option<Account> {
    let user = s.at::<String>(found, user_key);
    let password = s.at(found, password_key);
    match (user, password) {
        (Some(user), Some(password)) => {
            Some(Account { user: user.value, password: password.value })
        }
        (None, None) => None,
        (Some(At { span, .. }), None) => {
            found.error(
                Problem::new(format!("`{user_key}` without `{password_key}`"))
                    .at(span)
                    .help(format!("add {password_key} = {{ env = \"NAME\" }}")),
            );
            None
        }
        (None, Some(At { span, .. })) => {
            found.error(
                Problem::new(format!("`{password_key}` without `{user_key}`"))
                    .at(span)
                    .help(format!("add {user_key} = \"pointsman\"")),
            );
            None
        }
    }
}

fn limits(found: &mut Findings, file: &mut Section<'_>) -> Limits {
    let default = Limits::default();
    let Some(mut s) = file.section(found, "limits") else { return default };
    let limits = Limits {
        max_connections: s
            .checked(found, "max_connections", default.max_connections, |n| at_least(*n, 1)),
        connect_timeout: s.checked(found, "connect_timeout", default.connect_timeout, positive),
        login_timeout: s.checked(found, "login_timeout", default.login_timeout, positive),
        max_login_errors: s.or(found, "max_login_errors", default.max_login_errors),
        login_block: s.checked(found, "login_block", default.login_block, positive),
        drain_timeout: s.or(found, "drain_timeout", default.drain_timeout),
        max_statement: s
            .checked(found, "max_statement", Size(default.max_statement), |n| at_least(n.0, 1024))
            .0,
        statement_cache: s
            .checked(found, "statement_cache", default.statement_cache, |n| at_least(*n, 16)),
    };
    s.finish(found);
    limits
}

fn positive(d: &Duration) -> Result<(), Problem> {
    if d.is_zero() { Err(Problem::new("must be longer than zero")) } else { Ok(()) }
}

fn at_most<T: PartialOrd + std::fmt::Display>(n: T, most: T) -> Result<(), Problem> {
    if n > most { Err(Problem::new(format!("{n} is too much: at most {most}"))) } else { Ok(()) }
}

fn at_least<T: PartialOrd + std::fmt::Display>(n: T, least: T) -> Result<(), Problem> {
    if n < least {
        Err(Problem::new(format!("{n} is too little: at least {least}")))
    } else {
        Ok(())
    }
}

impl Read for Agree {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(true) => Some(Self::Always),
            DeValue::Boolean(false) => Some(Self::Never),
            DeValue::String(word) if word == "when-met" => Some(Self::Met),
            _ => {
                found.error(
                    wrong_value(value, key, "true, false or \"when-met\"")
                        .help("true: there are other Pointsmen; false: there are none, for sure"),
                );
                None
            }
        }
    }
}

impl Read for Writer {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        word(found, value, key, &[("stay", Self::Stay), ("first", Self::First)])
    }
}

impl Read for Consistency {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        word(
            found,
            value,
            key,
            &[
                ("eventual", Self::Eventual),
                ("session", Self::Session),
                ("causal", Self::Causal),
                ("strong", Self::Strong),
            ],
        )
    }
}

impl Read for AuthPlugin {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        word(
            found,
            value,
            key,
            &[
                ("mysql_native_password", Self::NativePassword),
                ("caching_sha2_password", Self::CachingSha2Password),
            ],
        )
    }
}
