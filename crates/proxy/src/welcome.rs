//! The first connection of a client, made at its login, and what the OK of that says to it.

use pointsman_cluster::ServerId;
use pointsman_wire::{Capabilities, OkPacket, StateChange, Status, auth, ok_payload};
use smallvec::SmallVec;

use crate::client::Client;
use crate::connect::{Unusable, too_many};
use crate::login::Owed;
use crate::problem::Problem;

impl Client {
    /// The first connection, made at login: it lets the server itself say whether it accepts the
    /// client and its schema. Gives the server's OK.
    pub async fn first_backend(&mut self) -> Result<Box<[u8]>, Problem> {
        let mut excluded: SmallVec<[ServerId; 4]> = SmallVec::new();
        loop {
            let choice = match self.accounts_at() {
                Ok(position) => {
                    self.replica_or_primary(position.as_deref(), &excluded, None).await?
                }
                Err(_) => self.primary(None).await?,
            };
            match self.connect(choice.server).await {
                Ok(backend) => {
                    let status = backend.status
                        & (Status::AUTOCOMMIT | Status::NO_BACKSLASH_ESCAPES | Status::ANSI_QUOTES);
                    self.session.replied(choice.server.0, status);
                    let welcome = backend.welcome.clone();
                    // One that was used before may have another schema, or the server none of it.
                    match self.bring_up_to_date(backend).await {
                        Ok(backend) => self.backends.push(backend),
                        Err(Unusable::Refused(payload)) if choice.primary => {
                            return Err(Problem::Server(payload));
                        }
                        // A replica may not know yet what the primary does.
                        Err(_) => {
                            excluded.push(choice.server);
                            continue;
                        }
                    }
                    return Ok(welcome);
                }
                Err(Unusable::TooMany) => return Err(too_many()),
                Err(Unusable::Refused(payload)) if choice.primary => {
                    return Err(Problem::Server(payload));
                }
                Err(Unusable::Unreachable(why)) if choice.primary => {
                    self.worker.shared.cluster.report_failure(choice.server);
                    if self.await_change(choice.server).await {
                        continue;
                    }
                    let name = self.name(choice.server);
                    return Err(Problem::own(
                        2003,
                        "HY000",
                        format!("[PM2002] can't reach server {name}: {why}"),
                    ));
                }
                Err(Unusable::Unreachable(_)) => {
                    self.worker.shared.cluster.report_failure(choice.server);
                    excluded.push(choice.server);
                }
                Err(_) => excluded.push(choice.server),
            }
        }
    }

    /// The OK of a login as the client would have got it: `ok` may be that of an earlier session,
    /// which had another schema. It vouches for our certificate, instead of theirs, where they do that
    /// and where it helps.
    pub(crate) fn welcomed(&self, ok: &[u8], owed: &Owed) -> Vec<u8> {
        let theirs = vouches(ok);
        // MySQL's clients have no use for it, but show it.
        let reads =
            owed.certificate.is_some() && !self.login.caps.contains(Capabilities::LONG_PASSWORD);
        let certificate = owed.certificate.as_ref().map_or(&[][..], |c| c);
        let vouched = || self.login.credentials.vouch(owed.native_salt.as_ref()?, certificate);
        let ours = if theirs || reads { vouched() } else { None };
        let info = ours.as_deref().or(theirs.then_some(&[]));
        self.as_seen(ok, true, info)
    }

    /// The same for COM_CHANGE_USER. The MariaDBs that vouch at a login have no more to say here than
    /// the schema.
    pub(crate) fn changed_user(&self, ok: &[u8]) -> Vec<u8> {
        let terse = vouches(ok);
        self.as_seen(ok, !terse, terse.then_some(&[]))
    }

    fn as_seen(&self, ok: &[u8], variables: bool, info: Option<&[u8]>) -> Vec<u8> {
        let tracks = self.login.caps.contains(Capabilities::SESSION_TRACK);
        let schema = self.login.database.as_deref().map(StateChange::Schema);
        ok_payload(
            ok,
            |change| match change {
                _ if !tracks || !variables => false,
                StateChange::Schema(_) => false,
                other => self.reporting.wants(other),
            },
            schema.filter(|_| tracks),
            info,
        )
    }
}

/// Whether the OK of a login vouches for the server's certificate.
fn vouches(ok: &[u8]) -> bool {
    OkPacket::parse(ok, Capabilities::SESSION_TRACK)
        .is_ok_and(|ok| ok.info.first() == Some(&auth::VOUCHED))
}
