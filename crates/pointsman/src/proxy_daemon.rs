//! The running proxy as its operators see it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use pointsman_admin::rows::{ServerRow, SessionRow, StatementRow};
use pointsman_admin::{Action, AdminError, BoxFuture, Code, Daemon, Query, Status, Table, View};
use pointsman_cluster::{AdminState, Role, ServerId, Snapshot};
use pointsman_config::ProxyConfig;
use pointsman_proxy::Proxy;
use pointsman_sql::{Class, Route};

pub struct ProxyDaemon {
    pub proxy: Arc<Proxy>,
    /// The file a reload reads; the sandbox has one too.
    pub config_path: PathBuf,
    pub registry: prometheus::Registry,
    pub started: SystemTime,
}

impl ProxyDaemon {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.proxy.cluster().snapshot()
    }

    fn servers(&self) -> Table {
        let row = |server: &pointsman_cluster::Server| {
            let down = matches!(server.role, Role::Down | Role::Unknown);
            let state = match server.admin {
                AdminState::Running if down => "down",
                AdminState::Running => server.state.as_deref().unwrap_or("up"),
                other => other.as_str(),
            };
            let live = &server.live;
            ServerRow {
                name: server.name.to_string(),
                address: server.address.to_string(),
                role: server.role.as_str().to_owned(),
                state: state.to_owned(),
                reads: server.takes_reads && !live.suspect.load(Relaxed),
                lag: server.lag,
                running: u64::from(live.running.load(Relaxed)),
                connections: u64::from(live.connections.load(Relaxed)),
                statements: self.proxy.statements_on(server.id),
                version: Some(server.version.to_string()).filter(|v| !v.is_empty()),
                server_id: Some(u64::from(server.server_id)).filter(|id| *id != 0),
                why: server.why.to_string(),
            }
        };
        self.snapshot().servers.iter().map(row).collect()
    }

    fn sessions(&self) -> Table {
        let snapshot = self.snapshot();
        let name = |id: ServerId| snapshot.server(id).map_or("?", |s| &s.name).to_owned();
        let row = |s: pointsman_proxy::SessionRow| SessionRow {
            id: u64::from(s.id),
            user: s.user,
            client: s.client,
            database: Some(s.database).filter(|d| !d.is_empty()),
            servers: s.backends.iter().map(|(id, _)| name(*id)).collect::<Vec<_>>().join(" "),
            state: match s.busy {
                Some(server) => format!("running on {}", name(server)),
                None => "idle".to_owned(),
            },
            transaction: s
                .transaction
                .map(|read_only| if read_only { "read_only" } else { "read_write" }.to_owned()),
            pin: s.held.and(snapshot.primary).map(name),
            pin_reason: s.held.map(str::to_owned),
            statements: s.statements,
            idle: s.busy.is_none().then_some(s.state_for),
        };
        self.proxy.sessions().into_iter().map(row).collect()
    }

    fn statements(&self) -> Table {
        let row = |s: pointsman_proxy::StatementRow| StatementRow {
            fingerprint: format!("{:016x}", s.fingerprint),
            class: class(s.class).to_owned(),
            route: route(s.route).to_owned(),
            reason: s.reason.to_owned(),
            count: s.count,
            errors: s.errors,
            total: s.total,
            mean: s
                .total
                .checked_div(u32::try_from(s.count).unwrap_or(u32::MAX))
                .unwrap_or_default(),
            p95: Some(s.p95()),
            max: s.max,
            text: s.text,
        };
        self.proxy.statements().into_iter().map(row).collect()
    }

    fn set_admin(&self, name: &str, state: AdminState) -> Result<(), AdminError> {
        self.proxy.cluster().set_admin(name, state).map_err(|unknown| {
            AdminError::unknown_server(&unknown.name, unknown.known.iter().map(String::as_str))
        })
    }

    fn check_name(&self, name: Option<&str>) -> Result<(), AdminError> {
        let snapshot = self.snapshot();
        match name {
            Some(name) if snapshot.find(name).is_none() => {
                Err(AdminError::unknown_server(name, snapshot.servers.iter().map(|s| &*s.name)))
            }
            _ => Ok(()),
        }
    }

    fn reload(&self) -> Result<String, AdminError> {
        let path = self.config_path.display();
        match ProxyConfig::load(&self.config_path) {
            Err(report) => Err(AdminError::new(Code::BadConfig, report.lines().join("; "))),
            Ok((new, _)) if takes_effect_live(self.proxy.config(), &new) => {
                // First what may fail, so that all is taken over or nothing.
                let tls = pointsman_proxy::Tls::load(&new)
                    .map_err(|e| AdminError::new(Code::BadConfig, e.to_string()))?;
                match self.proxy.cluster().reconfigure(&new) {
                    Ok(()) => {
                        self.proxy.set_tls(tls);
                        Ok(format!(
                            "{path} and its certificates are read; TLS, weights and max_lag are \
                             as it says"
                        ))
                    }
                    Err(e) => Err(AdminError::new(Code::NeedsRestart, e.to_string())),
                }
            }
            Ok(_) => Err(AdminError::new(
                Code::NeedsRestart,
                format!(
                    "{path} is right and changes more than TLS, weights and max_lag, which is all \
                     that can be taken over now"
                ),
            )),
        }
    }
}

/// Whether `new` differs from `old` only in what a running proxy can change.
fn takes_effect_live(old: &ProxyConfig, new: &ProxyConfig) -> bool {
    let mut like_old = new.clone();
    like_old.routing.max_lag = old.routing.max_lag;
    for (listener, before) in like_old.listeners.iter_mut().zip(&old.listeners) {
        listener.tls = before.tls.clone();
    }
    for (server, before) in like_old.servers.iter_mut().zip(&old.servers) {
        server.weight = before.weight;
        server.tls = before.tls.clone();
    }
    like_old == *old
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Read => "read",
        Class::Write => "write",
        Class::Session => "session",
        Class::Other => "other",
    }
}

fn route(route: Route) -> &'static str {
    match route {
        Route::AnyReplica => "any_replica",
        Route::AnySession => "any_session",
        Route::LastUsed => "last_used",
        Route::Primary => "primary",
        Route::Proxy => "pointsman",
    }
}

impl Daemon for ProxyDaemon {
    fn status(&self) -> Status {
        let snapshot = self.snapshot();
        let mut headlines = Vec::new();
        match snapshot.primary() {
            Some(primary) => headlines.push(format!("{} is the primary", primary.name)),
            None => headlines.push(format!("no primary: {}", snapshot.no_primary_why)),
        }
        if let Some(kind) = snapshot.group {
            headlines.push(format!("the servers are a cluster of their own: {}", kind.as_str()));
        }
        let replicas = snapshot.servers.iter().filter(|s| s.role == Role::Replica).count();
        let reading = snapshot.servers.iter().filter(|s| s.takes_reads).count();
        headlines.push(format!("{reading} of {replicas} replicas take reads"));
        for server in &snapshot.servers {
            if !matches!(server.role, Role::Primary | Role::Replica)
                || server.admin != AdminState::Running
            {
                headlines.push(format!("{}: {}", server.name, server.why));
            }
        }
        if let Some(primary) = snapshot.primary().filter(|_| snapshot.anonymous) {
            headlines.push(format!("{}: {}", primary.name, primary.why));
        }
        headlines.extend(self.proxy.cluster().failover_status().iter().cloned());
        if let Some(why) = self.proxy.cluster().not_by_table() {
            headlines.push(why.to_string());
        }
        headlines.push(format!("{} clients connected", self.proxy.session_count()));
        Status {
            kind: "proxy",
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            ready: self.ready(),
            headlines,
        }
    }

    fn table(&self, view: View, query: &Query) -> Result<Table, AdminError> {
        match view {
            View::Servers => Ok(self.servers()),
            View::Sessions => Ok(self.sessions()),
            View::Statements => Ok(self.statements()),
            View::Events => Ok(Table::events(self.proxy.cluster().events(), query)),
            View::Config => Ok(pointsman_config::listing(self.proxy.config())
                .into_iter()
                .map(|(key, value)| pointsman_admin::rows::ConfigRow { key, value })
                .collect()),
        }
    }

    fn act(&self, action: Action) -> BoxFuture<'_, Result<String, AdminError>> {
        Box::pin(async move {
            match action {
                Action::Drain(server) => {
                    self.set_admin(&server, AdminState::Draining)?;
                    Ok(format!("{server} gets no new sessions and reads; what runs may end"))
                }
                Action::Maintain(server) => {
                    self.set_admin(&server, AdminState::Maintenance)?;
                    Ok(format!(
                        "{server} is out for maintenance; `pointsman resume {server}` brings it back"
                    ))
                }
                Action::Resume(server) => {
                    self.set_admin(&server, AdminState::Running)?;
                    Ok(format!("{server} is back in service"))
                }
                Action::Reload => self.reload(),
                Action::Switchover { to, dry_run } => {
                    self.check_name(to.as_deref())?;
                    let cluster = self.proxy.cluster();
                    let done = if dry_run {
                        cluster.rehearse_switchover(to).await
                    } else {
                        cluster.switchover(to).await
                    };
                    done.map_err(|why| AdminError::new(Code::Conflict, why))
                }
                Action::Failover { to, force } => {
                    self.check_name(to.as_deref())?;
                    let done = self.proxy.cluster().failover(to, force).await;
                    done.map_err(|why| AdminError::new(Code::Conflict, why))
                }
                Action::Rejoin { server, rebuild, force } => {
                    self.check_name(Some(&server))?;
                    let done = self.proxy.cluster().rejoin(server, rebuild, force).await;
                    done.map_err(|why| AdminError::new(Code::Conflict, why))
                }
            }
        })
    }

    fn metrics(&self) -> &prometheus::Registry {
        &self.registry
    }

    fn ready(&self) -> Result<(), String> {
        let snapshot = self.snapshot();
        match snapshot.primary {
            Some(_) => Ok(()),
            None => Err(format!("no primary: {}", snapshot.no_primary_why)),
        }
    }
}
