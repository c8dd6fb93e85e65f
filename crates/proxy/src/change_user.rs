//! COM_CHANGE_USER: the session begins anew, as somebody else. And whether somebody could log in.

use pointsman_session::Session;
use pointsman_wire::handshake::ChangeUser;
use pointsman_wire::{Capabilities, HEADER, err_packet, write_packet};

use crate::backend::{Backend, Login, MUST_CHANGE_PASSWORD, Origin};
use crate::client::{Client, End};
use crate::credentials::Credentials;
use crate::login;
use crate::prepared::Prepared;
use crate::problem::Problem;
use crate::reporting::Reporting;
use crate::worker::{Waiting, Worker};

/// How many may fail in a session: so many passwords can be guessed in it. (MariaDB's number.)
const MOST_FAILURES: u8 = 3;

impl Client {
    /// COM_RESET_CONNECTION: all is as after the login, but for the schema.
    pub(crate) fn reset(&mut self) {
        self.give_back();
        self.prepared = Prepared::default();
        self.reporting = Reporting::default();
        let (mariadb, autocommit) =
            self.worker.snapshot(|s| (s.greeting.mariadb, s.greeting.autocommit));
        self.session.reset(autocommit);
        if !mariadb {
            // The server's own character sets, not those of the login.
            self.session.set_names(b"SET NAMES DEFAULT");
        } else if let Some(names) = &self.login_names {
            self.session.set_names(names);
        }
        self.login.database = self.session.variables().schema().map(<[u8]>::to_vec);
    }

    /// The session stays whose it was, with nothing left of what it had. MySQL ends it instead.
    async fn change_failed(&mut self, error: &[u8]) -> Result<(), End> {
        let failures = &self.info.failed_changes;
        failures.set(failures.get().saturating_add(1));
        let (mariadb, version) = self.worker.snapshot(|s| (s.greeting.mariadb, s.greeting.version));
        if !mariadb {
            self.socket.write_all(error).await?;
            return Err(End::Broken);
        }
        self.reset();
        if version >= 110_000 {
            // These leave it the server's own character sets.
            self.session.set_names(
                b"SET character_set_client=DEFAULT, collation_connection=DEFAULT, \
                  character_set_results=DEFAULT",
            );
        }
        self.show();
        self.socket.write_all(error).await?;
        Ok(())
    }

    pub(crate) async fn change_user(&mut self, payload: &[u8]) -> Result<(), End> {
        // Who has an expired password may not be somebody else before that is put right.
        if let Some(error) = self.must_change_password().await {
            let mut out = Vec::new();
            write_packet(&mut out, 1, &error);
            self.socket.write_all(&out).await?;
            return Ok(());
        }
        if self.info.failed_changes.get() >= MOST_FAILURES {
            let mut out = Vec::new();
            err_packet(&mut out, 1, 1047, "08S01", "Unknown command");
            return self.change_failed(&out).await;
        }
        let collation = ChangeUser::parse(payload, self.login.caps).ok().and_then(|c| c.collation);
        let changed =
            login::change_user(&self.worker, &mut self.socket, &self.login, payload).await?;
        match changed {
            Ok((login, seq)) => {
                let schema = self.session.variables().schema().map(<[u8]>::to_vec);
                let before = (std::mem::replace(&mut self.login, login), schema);
                self.give_back();
                self.prepared = Prepared::default();
                self.reporting = Reporting::default();
                self.session = Session::new(self.worker.snapshot(|s| s.greeting.autocommit));
                if let Some(database) = &self.login.database {
                    self.session.set_schema(database);
                }
                self.is_somebody_else();
                let mut out = Vec::new();
                match self.first_backend().await {
                    Ok(welcome) => {
                        self.login_names = None;
                        // A login to a server has room for eight bits of it only.
                        if let Some(id) = collation.filter(|id| *id > 255) {
                            self.set_collation(id).await;
                        }
                        write_packet(&mut out, seq, &self.changed_user(&welcome));
                        self.socket.write_all(&out).await?;
                        Ok(())
                    }
                    Err(error @ Problem::Server(_)) => {
                        error.packet(&mut out, seq);
                        let schema;
                        (self.login, schema) = before;
                        self.session =
                            Session::new(self.worker.snapshot(|s| s.greeting.autocommit));
                        if let Some(schema) = schema {
                            self.session.set_schema(&schema);
                        }
                        self.is_somebody_else();
                        self.change_failed(&out).await
                    }
                    Err(error) => {
                        error.packet(&mut out, seq);
                        self.socket.write_all(&out).await?;
                        Err(End::Broken)
                    }
                }
            }
            Err(packet) => self.change_failed(&packet).await,
        }
    }

    /// The login is another one now.
    fn is_somebody_else(&mut self) {
        self.info.is_now(&self.login.credentials);
        self.settle_level();
        self.settle_rules();
    }

    /// The ERR with which a server keeps a session whose password had expired at login.
    async fn must_change_password(&mut self) -> Option<Vec<u8>> {
        if let Some(error) = self.backends.iter().find_map(|b| b.sandboxed.as_deref()) {
            return Some(error.to_vec());
        }
        // MariaDB allows `SET` meanwhile, so it is not seen at login.
        let ip = self.info.peer.get().ip();
        let user = str::from_utf8(&self.login.credentials.user).ok()?;
        let accounts = self.worker.shared.cluster.accounts().load();
        if !accounts.find(user, ip).is_some_and(|account| account.expired) {
            return None;
        }
        let mut backend = self.backends.pop()?;
        let waiting = Waiting::begin(&self.info, backend.server, backend.socket.raw_fd(), None);
        let row = backend.row(b"\x03SELECT 1").await;
        drop(waiting);
        match row {
            Ok(row) => {
                self.backends.push(backend);
                let message = "You must SET PASSWORD before executing this statement";
                let mut out = Vec::new();
                err_packet(&mut out, 1, MUST_CHANGE_PASSWORD, "HY000", message);
                row.is_empty().then(|| out.split_off(HEADER))
            }
            Err(broken) => {
                self.gone(backend, &broken);
                None
            }
        }
    }

    /// Gives the session the collation with this id, and its character set, as a login would. A
    /// server that does not know it keeps its own.
    async fn set_collation(&mut self, id: u16) {
        let Some(mut backend) = self.backends.pop() else { return };
        let server = backend.server;
        // The first is MariaDB's, and complete there.
        let questions = [
            ("FULL_COLLATION_NAME", "COLLATION_CHARACTER_SET_APPLICABILITY"),
            ("COLLATION_NAME", "COLLATIONS"),
        ];
        for (name, table) in questions {
            let question = format!(
                "\x03SELECT MIN(CONCAT('SET NAMES ', CHARACTER_SET_NAME, ' COLLATE ', {name})) \
                 FROM information_schema.{table} WHERE ID = {id}"
            );
            let waiting = Waiting::begin(&self.info, server, backend.socket.raw_fd(), None);
            let row = backend.row(question.as_bytes()).await;
            drop(waiting);
            match row.map(|row| row.into_iter().next().flatten()) {
                Ok(Some(names)) => {
                    self.session.set_names(&names);
                    self.login_names = Some(names.into());
                    break;
                }
                Ok(None) => {}
                Err(broken) => {
                    self.gone(backend, &broken);
                    return;
                }
            }
        }
        // Whatever goes wrong will do so again with the next statement, and be told then.
        if let Ok(backend) = self.bring_up_to_date(backend).await {
            self.backends.push(backend);
        }
    }
}

/// Whether a server accepts these credentials; if not, its ERR payload, or `None` if no server can be
/// asked.
pub async fn try_log_in(
    worker: &Worker,
    credentials: &Credentials,
    origin: Origin,
) -> Result<(), Option<Vec<u8>>> {
    let servers = worker.snapshot(|s| {
        let primary = s.primary().cloned();
        primary
            .into_iter()
            .chain(s.servers.iter().filter(|s| s.takes_reads).cloned())
            .collect::<Vec<_>>()
    });
    let login = Login {
        credentials: credentials.clone(),
        caps: Capabilities::OFFERED - Capabilities::CONNECT_ATTRS,
        collation: 45,
        database: None,
        attributes: None,
        origin: Some(origin),
        compression: None,
    };
    let within = worker.shared.config.limits.connect_timeout;
    for server in servers {
        let tls = worker.shared.tls_to(server.id);
        match Backend::connect(&server, tls.as_deref(), &login, within).await {
            Ok(_) => return Ok(()),
            Err(crate::backend::ConnectError::Refused(payload)) => return Err(Some(payload)),
            Err(_) => {}
        }
    }
    Err(None)
}
