//! The configuration in force as a list of keys and values, secrets hidden.

use crate::ProxyConfig;
use crate::rule::Action;
use crate::units::{show_duration, show_size};

/// Every key and its value as the file would write it: `routing.max_lag`, `server.db1.weight`.
#[must_use]
pub fn listing(config: &ProxyConfig) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut add = |key: String, value: String| rows.push((key, value));
    for (i, listener) in config.listeners.iter().enumerate() {
        add(format!("listener.{i}.address"), listener.address.to_string());
        if let Some(level) = listener.consistency {
            add(format!("listener.{i}.consistency"), format!("{level:?}").to_lowercase());
        }
        add(format!("listener.{i}.tls.mode"), listener.tls.mode.as_str().to_owned());
        if let Some(identity) = &listener.tls.identity {
            let path = identity.certificate.display().to_string();
            add(format!("listener.{i}.tls.certificate"), path);
        }
        if let Some(ca) = &listener.tls.client_ca {
            add(format!("listener.{i}.tls.client_ca"), ca.display().to_string());
        }
        if !listener.proxy_protocol.is_empty() {
            let networks: Vec<_> = listener.proxy_protocol.iter().map(|n| n.to_string()).collect();
            add(format!("listener.{i}.proxy_protocol"), networks.join(", "));
        }
    }
    for server in &config.servers {
        add(format!("server.{}.address", server.name), server.address.clone());
        add(format!("server.{}.weight", server.name), server.weight.to_string());
        add(format!("server.{}.promote", server.name), server.promote.to_string());
        add(format!("server.{}.tls.mode", server.name), server.tls.mode.as_str().to_owned());
        if let Some(ca) = &server.tls.ca {
            add(format!("server.{}.tls.ca", server.name), ca.display().to_string());
        }
        if server.proxy_protocol {
            add(format!("server.{}.proxy_protocol", server.name), "true".to_owned());
        }
    }
    for user in &config.users {
        add(format!("user.{}.host", user.name), user.host.clone());
        if user.password.is_some() {
            add(format!("user.{}.password", user.name), "***".to_owned());
        }
        if let Some(level) = user.consistency {
            add(format!("user.{}.consistency", user.name), format!("{level:?}").to_lowercase());
        }
    }
    for rule in &config.rules {
        if !rule.users.is_empty() {
            add(format!("rule.{}.user", rule.name), rule.users.join(", "));
        }
        if let Some(pattern) = &rule.pattern {
            add(format!("rule.{}.match", rule.name), pattern.as_str().to_owned());
        }
        let (key, value) = match &rule.action {
            Action::Consistency(level) => ("consistency", format!("{level:?}").to_lowercase()),
            Action::Primary => ("primary", "true".to_owned()),
            Action::Refuse(text) => ("refuse", text.clone()),
        };
        add(format!("rule.{}.{key}", rule.name), value);
    }
    let (monitor, routing, limits) = (&config.monitor, &config.routing, &config.limits);
    let failover = &config.failover;
    let user = |account: &Option<crate::proxy::Account>| {
        account.as_ref().map_or(&monitor.user, |account| &account.user).clone()
    };
    let replicates = if failover.replication_user.is_some() {
        user(&failover.replication_user)
    } else {
        user(&failover.user)
    };
    let rebuilds = match &failover.rebuild_user {
        Some(account) => account.user.clone(),
        None => user(&failover.user),
    };
    for (key, value) in [
        ("monitor.user", monitor.user.clone()),
        ("monitor.password", "***".to_owned()),
        ("monitor.interval", show_duration(monitor.interval)),
        ("monitor.timeout", show_duration(monitor.timeout)),
        ("monitor.accounts_interval", show_duration(monitor.accounts_interval)),
        ("routing.consistency", format!("{:?}", routing.consistency).to_lowercase()),
        ("routing.max_lag", show_duration(routing.max_lag)),
        ("routing.causal_timeout", show_duration(routing.causal_timeout)),
        ("routing.primary_reads", routing.primary_reads.to_string()),
        ("routing.by_table", routing.by_table.to_string()),
        ("failover.auto", failover.auto.map_or("if allowed".to_owned(), |auto| auto.to_string())),
        ("failover.agree", failover.agree.as_str().to_owned()),
        ("failover.user", user(&failover.user)),
        ("failover.replication_user", replicates),
        ("failover.rebuild_user", rebuilds),
        ("failover.rebuild_command", failover.rebuild_command.join(" ")),
        ("failover.auto_rejoin", failover.auto_rejoin.to_string()),
        ("failover.apply_timeout", show_duration(failover.apply_timeout)),
        ("failover.switchover_timeout", show_duration(failover.switchover_timeout)),
        ("failover.transaction_wait", show_duration(failover.transaction_wait)),
        ("failover.write_wait", show_duration(failover.write_wait)),
        ("failover.replay_max_size", show_size(failover.replay_max_size)),
        ("failover.handle_events", failover.handle_events.to_string()),
        ("failover.note_statements", failover.note_statements.to_string()),
        ("group.writer", format!("{:?}", config.group.writer).to_lowercase()),
        ("group.available_when_donor", config.group.available_when_donor.to_string()),
        ("limits.max_connections", limits.max_connections.to_string()),
        ("limits.connect_timeout", show_duration(limits.connect_timeout)),
        ("limits.login_timeout", show_duration(limits.login_timeout)),
        ("limits.max_login_errors", limits.max_login_errors.to_string()),
        ("limits.login_block", show_duration(limits.login_block)),
        ("limits.drain_timeout", show_duration(limits.drain_timeout)),
        ("limits.max_statement", show_size(limits.max_statement)),
        ("limits.statement_cache", limits.statement_cache.to_string()),
        ("admin.address", config.admin.address.to_string()),
        ("console.address", config.console.address.map_or_else(String::new, |a| a.to_string())),
        ("workers", config.workers.to_string()),
    ] {
        add(key.to_owned(), value);
    }
    rows
}
