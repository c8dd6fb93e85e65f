//! `KILL id` by the id the client was told, not the server's.

use pointsman_cluster::ServerId;
use pointsman_sql::{Dialect, KillTarget};
use pointsman_wire::Capabilities;
use tokio::sync::oneshot;

use crate::backend::{Backend, Login};
use crate::client::{Client, End};
use crate::worker::Ask;

/// Whom to kill, and who asks.
pub struct KillRequest {
    pub id: u32,
    /// The connection, or only what it is running.
    pub connection: bool,
    /// The user who asks; only their own sessions may be killed.
    pub by: String,
}

/// What it takes to kill a session's work on the servers.
pub struct Victim {
    pub user: String,
    pub backends: Vec<(ServerId, u32)>,
    pub busy: Option<ServerId>,
}

impl Client {
    pub async fn kill_by_statement(&mut self, sql: &[u8], dialect: &Dialect) -> Result<(), End> {
        match pointsman_sql::kill(sql, dialect) {
            Some(kill) => match kill.target {
                KillTarget::Id(id) => match u32::try_from(id) {
                    Ok(id) => self.kill(id, !kill.query).await,
                    Err(_) => self.unknown_thread(id).await,
                },
                KillTarget::QueryId(_) | KillTarget::User { .. } => {
                    let message =
                        "[PM2006] KILL is possible by connection id only: KILL [QUERY] id";
                    self.error(1, 1235, "42000", message).await
                }
            },
            None => {
                let message = "[PM2006] KILL needs a number: KILL [QUERY] id";
                self.error(1, 1235, "42000", message).await
            }
        }
    }

    async fn unknown_thread(&mut self, id: u64) -> Result<(), End> {
        self.error(1, 1094, "HY000", &format!("Unknown thread id: {id}")).await
    }

    pub async fn kill(&mut self, id: u32, connection: bool) -> Result<(), End> {
        let by = self.info.user.borrow().clone();
        let mut victim = None;
        for worker in self.worker.shared.workers.get().into_iter().flatten() {
            let (reply, answer) = oneshot::channel();
            let request = KillRequest { id, connection, by: by.clone() };
            if worker.send(Ask::Kill(request, reply)).is_ok()
                && let Ok(Some(found)) = answer.await
            {
                victim = Some(found);
                break;
            }
        }
        let Some(victim) = victim else { return self.unknown_thread(u64::from(id)).await };
        if victim.user != by {
            return self
                .error(1, 1095, "HY000", &format!("You are not owner of thread {id}"))
                .await;
        }
        let login = Login {
            credentials: self.login.credentials.clone(),
            caps: Capabilities::OFFERED - Capabilities::CONNECT_ATTRS,
            collation: self.login.collation,
            database: None,
            attributes: None,
            origin: self.login.origin,
            compression: None,
        };
        let within = self.config().limits.connect_timeout;
        for (server, thread) in victim.backends {
            if !connection && victim.busy != Some(server) {
                continue;
            }
            let Some(server) = self.worker.snapshot(|s| s.server(server).cloned()) else {
                continue;
            };
            let tls = self.worker.shared.tls_to(server.id);
            let connected = Backend::connect(&server, tls.as_deref(), &login, within).await;
            if let Ok(mut backend) = connected {
                let what = if connection { "KILL" } else { "KILL QUERY" };
                let command = format!("\x03{what} {thread}");
                // It may have ended by itself meanwhile; then there is nothing to do.
                let _ = backend.command(command.as_bytes()).await;
            }
        }
        if id == self.info.id && connection {
            let _ = self.error(1, 1317, "70100", "Query execution was interrupted").await;
            return Err(End::Broken);
        }
        self.ok(1).await
    }
}
