//! `KILL` by the id the client was told, not the server's.
//!
//! Whether one may kill another's session is the server's to say: the `KILL` runs there, as the user
//! who asks. Ids that are no session's are the servers' own: of a session's connection to the primary,
//! as `information_schema.processlist` shows it, or of one that did not come through this proxy.

use pointsman_cluster::ServerId;
use pointsman_sql::{Dialect, Kill, KillTarget};
use pointsman_wire::{Capabilities, HEADER};
use tokio::sync::oneshot;

use crate::backend::{Backend, Broken, Login, error_code};
use crate::buffers::Buffer;
use crate::client::{Client, End};
use crate::credentials::Credentials;
use crate::job::Job;
use crate::problem::Problem;
use crate::worker::{Ask, SessionInfo};

/// Which sessions are meant.
#[derive(Debug, Clone)]
pub enum Whom {
    /// The one with this id.
    Session(u32),
    /// The one whose connection to this server has this id there.
    Thread(ServerId, u32),
    /// An account's; `host`: those from this address only.
    User { name: String, host: Option<String> },
}

impl Whom {
    pub fn is(&self, session: &SessionInfo) -> bool {
        match self {
            Self::Session(id) => session.id == *id,
            Self::Thread(server, thread) => {
                let backends = session.backends.borrow();
                backends.iter().any(|p| p.server == *server && p.thread == *thread)
            }
            Self::User { name, host } => {
                let ip = session.peer.get().ip().to_canonical();
                *session.user.borrow() == *name
                    && host.as_ref().is_none_or(|host| {
                        *host == ip.to_string() || host == "localhost" && ip.is_loopback()
                    })
            }
        }
    }
}

/// What it takes to kill a session's work on the servers.
pub struct Victim {
    pub id: u32,
    /// Whose it is; `None`: it has not logged in yet.
    pub credentials: Option<Credentials>,
    pub backends: Vec<(ServerId, u32)>,
    pub busy: Option<ServerId>,
}

/// How to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct How {
    /// The connection, or only what it is running.
    connection: bool,
    soft: bool,
}

impl How {
    fn command(self, thread: u32) -> Vec<u8> {
        let soft = if self.soft { "SOFT " } else { "" };
        let what = if self.connection { "" } else { "QUERY " };
        format!("\x03KILL {soft}{what}{thread}").into_bytes()
    }
}

/// No server could be asked whether one may.
const NO_JUDGE: &str = "[PM2002] can't reach a server to ask whether you may";

impl Client {
    pub(crate) async fn kill_by_statement(
        &mut self,
        job: Job,
        dialect: &Dialect,
        request: &mut Buffer,
        end: usize,
    ) -> Result<(), End> {
        let text = if end == 0 { request.filled().len() } else { end };
        let Some(Kill { query, soft, target }) =
            pointsman_sql::kill(&request.filled()[job.text_at..text], dialect)
        else {
            return match &*job.bare_text().to_ascii_uppercase() {
                "KILL CONNECTION_ID()" | "KILL CONNECTION CONNECTION_ID()" => {
                    self.kill_oneself(How { connection: true, soft: false }).await
                }
                "KILL QUERY CONNECTION_ID()" => {
                    self.kill_oneself(How { connection: false, soft: false }).await
                }
                // Some other expression, for the primary's own ids, or an error.
                _ => self.run(job, request, end).await,
            };
        };
        let how = How { connection: !query, soft };
        match target {
            KillTarget::Id(id) => match self.meant(id).await {
                Some(victim) => {
                    self.skip(request, end).await?;
                    self.kill_one(victim, how).await
                }
                None => self.run(job, request, end).await,
            },
            KillTarget::User { name, host } => {
                self.skip(request, end).await?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let host = host.map(|h| text(&h)).filter(|h| h != "%");
                self.kill_all(Whom::User { name: text(&name), host }, how).await
            }
            // It means the same to the primary.
            KillTarget::QueryId(_) => self.run(job, request, end).await,
        }
    }

    /// COM_PROCESS_KILL.
    pub(crate) async fn kill_by_command(
        &mut self,
        job: Job,
        request: &mut Buffer,
        end: usize,
    ) -> Result<(), End> {
        // MySQL 9 has no such command any more, and says so.
        if self.worker.snapshot(|s| !s.greeting.mariadb && s.greeting.version >= 90_000) {
            return self.run(job, request, end).await;
        }
        let id = request.filled()[HEADER + 1..HEADER + 5].try_into().map_or(0, u32::from_le_bytes);
        match self.meant(u64::from(id)).await {
            Some(victim) => self.kill_one(victim, How { connection: true, soft: false }).await,
            None => self.run(job, request, end).await,
        }
    }

    /// Whose id it is, if any session's.
    async fn meant(&self, id: u64) -> Option<Victim> {
        let id = u32::try_from(id).ok()?;
        if let Some(session) = self.find(Whom::Session(id)).await.pop() {
            return Some(session);
        }
        let primary = self.worker.snapshot(|s| s.primary)?;
        self.find(Whom::Thread(primary, id)).await.pop()
    }

    async fn find(&self, whom: Whom) -> Vec<Victim> {
        let mut found = Vec::new();
        for worker in self.worker.shared.workers.get().into_iter().flatten() {
            let (reply, answer) = oneshot::channel();
            if worker.send(Ask::Find(whom.clone(), reply)).is_ok() {
                found.extend(answer.await.unwrap_or_default());
            }
        }
        found
    }

    async fn kill_one(&mut self, victim: Victim, how: How) -> Result<(), End> {
        if victim.id == self.info.id {
            return self.kill_oneself(how).await;
        }
        match self.kill_other(&victim, how).await {
            Ok(()) => self.ok(1).await,
            Err(problem) => self.report(problem, 1).await,
        }
    }

    async fn kill_all(&mut self, whom: Whom, how: How) -> Result<(), End> {
        let mut oneself = false;
        let mut killed = 0;
        for victim in self.find(whom).await {
            if victim.id == self.info.id {
                oneself = true;
                continue;
            }
            // Those that one may not kill are passed over, as by servers.
            if self.kill_other(&victim, how).await.is_ok() {
                killed += 1;
            }
        }
        if oneself {
            return self.kill_oneself(how).await;
        }
        self.ok_with(1, killed).await
    }

    /// As servers do, the statement that kills is the one that is killed.
    async fn kill_oneself(&mut self, how: How) -> Result<(), End> {
        let mariadb = self.worker.snapshot(|s| s.greeting.mariadb);
        if !how.connection {
            self.info.killed.set(false);
            return self.error(1, 1317, "70100", "Query execution was interrupted").await;
        }
        if mariadb {
            self.error(1, 1927, "70100", "Connection was killed").await?;
        } else {
            self.error(1, 1317, "70100", "Query execution was interrupted").await?;
        }
        Err(End::Broken)
    }

    /// Another session of whichever user.
    async fn kill_other(&mut self, victim: &Victim, how: How) -> Result<(), Problem> {
        let whose = victim.credentials.as_ref().map(|c| &c.user);
        let mut may = whose == Some(&self.login.credentials.user);
        if may && how.connection {
            self.end(victim.id);
        }
        for (server, thread) in &victim.backends {
            if !how.connection && victim.busy != Some(*server) {
                continue;
            }
            let Some(mut backend) = self.another(*server, None).await else { continue };
            match backend.command(&how.command(*thread)).await {
                Ok(Ok(_)) => may = true,
                Ok(Err(payload)) if !may && error_code(&payload) != UNKNOWN_THREAD => {
                    return Err(not_yours(victim.id, payload));
                }
                // It may have ended by itself meanwhile; then there is nothing to do.
                Ok(Err(_)) | Err(Broken::Io(_) | Broken::Malformed(_)) => {}
            }
        }
        if !may {
            self.ask_whether(victim).await?;
        }
        if how.connection {
            self.end(victim.id);
        }
        Ok(())
    }

    /// Nothing of the session is on a server that could say so: whether one may kill it is tried on
    /// a connection made for that.
    async fn ask_whether(&self, victim: &Victim) -> Result<(), Problem> {
        let cannot = || Problem::own(2003, "HY000", NO_JUDGE);
        let primary = self.worker.snapshot(|s| s.primary).ok_or_else(cannot)?;
        let mut own = self.another(primary, None).await.ok_or_else(cannot)?;
        let not_owner = || not_owner(victim.id);
        // Who has not logged in yet is nobody's.
        let credentials = victim.credentials.as_ref().ok_or_else(not_owner)?;
        let stand_in = self.another(primary, Some(credentials)).await.ok_or_else(not_owner)?;
        let how = How { connection: false, soft: false };
        match own.command(&how.command(stand_in.thread_id)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(payload)) => Err(not_yours(victim.id, payload)),
            Err(_) => Err(cannot()),
        }
    }

    /// A connection for a moment: one's own, or `of` somebody else.
    async fn another(&self, server: ServerId, of: Option<&Credentials>) -> Option<Backend> {
        let login = Login {
            credentials: of.unwrap_or(&self.login.credentials).clone(),
            caps: Capabilities::OFFERED - Capabilities::CONNECT_ATTRS,
            collation: self.login.collation,
            database: None,
            attributes: None,
            origin: self.login.origin,
            compression: None,
        };
        let server = self.worker.snapshot(|s| s.server(server).cloned())?;
        let tls = self.worker.shared.tls_to(server.id);
        let within = self.config().limits.connect_timeout;
        Backend::connect(&server, tls.as_deref(), &login, within).await.ok()
    }

    fn end(&self, id: u32) {
        for worker in self.worker.shared.workers.get().into_iter().flatten() {
            let _ = worker.send(Ask::End(id));
        }
    }
}

const UNKNOWN_THREAD: u16 = 1094;
const NOT_OWNER: u16 = 1095;

/// The server's refusal, with the id that the client knows.
fn not_yours(id: u32, payload: Vec<u8>) -> Problem {
    if error_code(&payload) == NOT_OWNER {
        return not_owner(id);
    }
    Problem::Server(payload)
}

fn not_owner(id: u32) -> Problem {
    Problem::own(NOT_OWNER, "HY000", format!("You are not owner of thread {id}"))
}
