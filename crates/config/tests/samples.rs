//! The sample files at the top of the repository are right, and say what is true.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use pointsman_config::ProxyConfig;
use pointsman_config::proxy::{
    Admin, AuthPlugin, Console, Failover, Group, Limits, Monitor, Routing,
};
use pointsman_config::tls::{ClientTls, ServerTls};

/// A sample's text, with its secrets given in place: tests don't change the environment.
fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    text.replace("{ env = \"POINTSMAN_PASSWORD\" }", "\"x\"")
        .replace("{ env = \"SHOP_PASSWORD\" }", "\"x\"")
        .replace("{ env = \"FAILOVER_PASSWORD\" }", "\"x\"")
        .replace("{ env = \"REPLICATION_PASSWORD\" }", "\"x\"")
        .replace("{ env = \"REBUILD_PASSWORD\" }", "\"x\"")
}

#[test]
fn the_smallest_file_has_the_defaults() {
    let (config, warnings) = ProxyConfig::parse("proxy.toml", &sample("proxy.toml")).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.servers.len(), 2);
    assert_defaults(&config);
}

#[test]
fn the_full_file_shows_the_defaults() {
    let text = sample("proxy.full.toml");
    let (config, warnings) = ProxyConfig::parse("proxy.full.toml", &text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_defaults(&config);
}

fn assert_defaults(config: &ProxyConfig) {
    assert_eq!(config.workers, 0);
    assert_eq!(config.routing, Routing::default());
    assert_eq!(config.failover, Failover::default());
    assert_eq!(config.group, Group::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.admin, Admin::default());
    assert_eq!(config.console, Console::default());
    assert_eq!(config.monitor.interval, Monitor::INTERVAL);
    assert_eq!(config.monitor.timeout, Monitor::TIMEOUT);
    assert_eq!(config.monitor.accounts_interval, Monitor::ACCOUNTS_INTERVAL);
    assert!(config.servers.iter().all(|s| s.weight == 1 && s.promote && !s.proxy_protocol));
    assert!(config.servers.iter().all(|s| s.tls == ServerTls::default()));
    assert!(config.listeners.iter().all(|l| l.consistency.is_none()));
    assert!(config.listeners.iter().all(|l| l.tls == ClientTls::default()));
    assert!(config.listeners.iter().all(|l| l.proxy_protocol.is_empty()));
}

/// Every key that can be written stands in the full file: each is taken out in turn and, written
/// wrong instead, must be one the reader knows.
#[test]
fn the_full_file_has_every_key() {
    let text = sample("proxy.full.toml");
    // What only comments show is legal too.
    let all: String = text
        .lines()
        .map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let key = bare.split(" = ").next().unwrap_or_default();
            let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let shown =
                (is_key && bare.contains(" = ")) || ["[[user]]", "[[rule]]"].contains(&bare);
            if shown { bare } else { line }.to_owned() + "\n"
        })
        .map(|line| line.replace("{ file = \"/etc/pointsman/token\" }", "\"t\""))
        .map(|line| match line.split_once("\"/etc/pointsman/") {
            // Any file that is there will do.
            Some((key, _)) => format!("{key}\"{}/Cargo.toml\"\n", env!("CARGO_MANIFEST_DIR")),
            None => line,
        })
        .collect();
    let (config, _) = ProxyConfig::parse("all", &all).unwrap();
    assert_eq!(config.users[0].host, "%");
    assert_eq!(config.rules.len(), 3);
    assert_eq!(config.users[0].plugin, AuthPlugin::NativePassword);
    assert!(config.admin.token.is_some());
    assert!(config.listeners[0].consistency.is_some());
    assert!(config.listeners[0].tls.identity.is_some() && config.servers[0].tls.ca.is_some());
    assert_eq!(config.listeners[0].proxy_protocol.len(), 2);

    // "known here: a, b" in the error for an unknown key is the reader's own list.
    let broken = all
        .lines()
        .map(|l| {
            let section = l.starts_with('[') && !l.contains("[[server]]");
            if section { format!("{l}\nzzz = 1\n") } else { format!("{l}\n") }
        })
        .collect::<String>();
    let broken = format!("yyy = 1\n{broken}").replacen("[[server]]", "[[server]]\nzzz = 1", 1);
    let report = ProxyConfig::parse("all", &broken).unwrap_err();
    let known: Vec<&str> = report
        .problems()
        .iter()
        .flat_map(|p| p.help.as_deref().unwrap().trim_start_matches("known here: ").split(", "))
        .collect();
    assert!(known.len() > 25, "{known:?}");
    for key in known {
        let written = all.lines().any(|l| {
            l.starts_with(&format!("{key} = "))
                || l.trim_matches(['[', ']']) == key && l.starts_with('[')
        });
        assert!(written, "proxy.full.toml does not show {key}");
    }
}

#[test]
fn durations_are_read_as_written() {
    let text = sample("proxy.toml") + "\n[routing]\nmax_lag = \"1m 30s\"\n";
    let (config, _) = ProxyConfig::parse("x", &text).unwrap();
    assert_eq!(config.routing.max_lag, Duration::from_secs(90));
}
