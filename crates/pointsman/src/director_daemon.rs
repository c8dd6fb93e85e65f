//! The running director as its operators see it.

use std::sync::Arc;
use std::time::SystemTime;

use pointsman_admin::rows::ServerRow;
use pointsman_admin::{Action, AdminError, BoxFuture, Code, Daemon, Query, Status, Table, View};
use pointsman_director::{Control, Shared};

pub struct DirectorDaemon {
    pub shared: Arc<Shared>,
    pub control: Arc<Control>,
    pub registry: prometheus::Registry,
    pub started: SystemTime,
}

impl DirectorDaemon {
    /// Real servers, by virtual server.
    fn servers(&self) -> Table {
        let of_virtual = |virtual_server: pointsman_director::VirtualServerStatus| {
            let through = format!("for {} ({})", virtual_server.name, virtual_server.scheduler);
            virtual_server.real_servers.into_iter().map(move |real| ServerRow {
                name: real.address.to_string(),
                address: real.address.to_string(),
                role: "real_server".to_owned(),
                state: match (real.up, real.weight) {
                    (false, _) => "down",
                    (true, 0) => "draining",
                    (true, _) => "up",
                }
                .to_owned(),
                reads: real.up && real.weight > 0,
                connections: real.traffic.connections,
                why: {
                    let t = real.traffic;
                    let traffic = format!(
                        "{} active, {} inactive, {} packets, {} bytes",
                        t.active, t.inactive, t.packets, t.bytes
                    );
                    match real.why.as_str() {
                        "" => format!("{through}: {traffic}"),
                        why => format!("{through}: {traffic}; {why}"),
                    }
                },
                ..ServerRow::default()
            })
        };
        self.shared.virtual_servers().into_iter().flat_map(of_virtual).collect()
    }
}

impl Daemon for DirectorDaemon {
    fn status(&self) -> Status {
        let mut headlines = Vec::new();
        for instance in self.shared.instances() {
            let addresses: Vec<_> = instance.addresses.iter().map(ToString::to_string).collect();
            let peer = match instance.active {
                Some((address, priority)) => {
                    format!("; active is {address} with priority {priority}")
                }
                None => String::new(),
            };
            headlines.push(format!(
                "{} (VRID {} on {}): {} with priority {} for {}{peer}",
                instance.name,
                instance.virtual_router_id,
                instance.interface,
                instance.state,
                instance.priority,
                addresses.join(", ")
            ));
        }
        for server in self.shared.virtual_servers() {
            let up = server.real_servers.iter().filter(|r| r.up).count();
            let quorum = if server.quorum { "" } else { ", NO QUORUM" };
            let active: u64 = server.real_servers.iter().map(|r| r.traffic.active).sum();
            headlines.push(format!(
                "{} ({}, {}): {up} of {} real servers up{quorum}, {active} connections",
                server.name,
                server.scheduler,
                server.data_plane,
                server.real_servers.len()
            ));
        }
        Status {
            kind: "director",
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            ready: self.ready(),
            headlines,
        }
    }

    fn table(&self, view: View, query: &Query) -> Result<Table, AdminError> {
        match view {
            View::Servers => Ok(self.servers()),
            View::Events => Ok(Table::events(&self.shared.events, query)),
            View::Sessions => Err(AdminError::not_available("a list of sessions")),
            View::Statements => Err(AdminError::not_available("a list of statements")),
            View::Config => Err(AdminError::not_available("a list of the configuration")),
        }
    }

    fn act(&self, action: Action) -> BoxFuture<'_, Result<String, AdminError>> {
        let what = match action {
            Action::Reload => return Box::pin(reload(Arc::clone(&self.control))),
            Action::Drain(_) => "drain",
            Action::Maintain(_) => "maintain",
            Action::Resume(_) => "resume",
            Action::Switchover { .. } => "switchover",
            Action::Failover { .. } => "failover",
            Action::Rejoin { .. } => "rejoin",
        };
        Box::pin(async move { Err(AdminError::not_available(what)) })
    }

    fn metrics(&self) -> &prometheus::Registry {
        &self.registry
    }

    fn ready(&self) -> Result<(), String> {
        match self.shared.virtual_servers().iter().find(|s| !s.quorum) {
            Some(server) => Err(format!("{} has too few real servers", server.name)),
            None => Ok(()),
        }
    }
}

async fn reload(control: Arc<Control>) -> Result<String, AdminError> {
    let done = tokio::task::spawn_blocking(move || control.reload()).await;
    match done {
        Ok(Ok(what)) => Ok(what),
        Ok(Err(why)) => Err(AdminError::new(Code::BadConfig, why)),
        Err(error) => Err(AdminError::new(Code::Internal, error.to_string())),
    }
}
