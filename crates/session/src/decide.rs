//! Where the next statement goes, and why.

use pointsman_sql::{Class, Effects, Reason, Route, Tables, Verdict};
use pointsman_wire::Status;

use crate::state::{Pin, Server, Session, bit};

/// Where a statement goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Primary,
    /// A replica that is fresh enough, else the primary.
    Replica,
    /// This server and no other: it holds the transaction or the answer.
    Server(Server),
    /// Whichever server the session used last, else as [`Target::Replica`].
    AnySession,
    /// Pointsman acts by itself.
    Proxy,
}

/// Why it goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The text alone says so.
    Text(Reason),
    Transaction,
    AutocommitOff,
    Pinned(Pin),
    TemporaryTable,
    /// State on the primary would be missed by a read-only transaction on a replica.
    PrimaryState,
}

impl Why {
    /// Stable short form for metrics and tables.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Text(reason) => reason.code(),
            Self::Transaction => "in_transaction",
            Self::AutocommitOff => "autocommit_off",
            Self::Pinned(pin) => pin.code(),
            Self::TemporaryTable => "temporary_table",
            Self::PrimaryState => "primary_state",
        }
    }
}

/// A statement that must not be sent anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Error 1792: a write in a READ ONLY transaction (which runs on a replica).
    ReadOnlyTransaction,
    /// Stored code or several statements in a READ ONLY transaction on a replica: it could end the
    /// transaction and write, which no one would stop there.
    OpaqueInReadOnlyTransaction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub target: Target,
    pub why: Why,
    /// COMMIT the read-only transaction on this replica first, as the statement would implicitly.
    pub commit_first: Option<Server>,
}

impl Session {
    /// Decides for a statement of this verdict. `primary` is the present primary.
    pub fn decide(&self, verdict: &Verdict, primary: Option<Server>) -> Result<Decision, Refusal> {
        let to = |target, why| Ok(Decision { target, why, commit_first: None });
        if verdict.route == Route::Proxy {
            return to(Target::Proxy, Why::Text(verdict.reason));
        }
        if let Some(server) = self.transaction {
            if primary == Some(server) || self.primary == Some(server) {
                return to(Target::Server(server), Why::Transaction);
            }
            return self.decide_on_replica(verdict, server);
        }
        if verdict.route == Route::LastUsed
            && let Some(server) = self.last_used
        {
            return to(Target::Server(server), Why::Text(verdict.reason));
        }
        if !self.status.contains(Status::AUTOCOMMIT)
            && !verdict.effects.contains(Effects::BEGIN_READ_ONLY)
        {
            return to(Target::Primary, Why::AutocommitOff);
        }
        if matches!(verdict.route, Route::Primary | Route::LastUsed) {
            return to(Target::Primary, Why::Text(verdict.reason));
        }
        if self.pins != 0 {
            let pin = self.pins().next().unwrap_or(Pin::HiddenCode);
            return to(Target::Primary, Why::Pinned(pin));
        }
        if verdict.effects.contains(Effects::BEGIN_READ_ONLY)
            && (self.user_variables || self.text_prepared || !self.temporary.is_empty())
        {
            return to(Target::Primary, Why::PrimaryState);
        }
        if verdict.route == Route::AnySession {
            return to(Target::AnySession, Why::Text(verdict.reason));
        }
        if !self.temporary.is_empty() && self.touches_temporary(&verdict.tables) {
            return to(Target::Primary, Why::TemporaryTable);
        }
        to(Target::Replica, Why::Text(verdict.reason))
    }

    /// A READ ONLY transaction is open on a replica. The server refuses writes in it, but not the
    /// statements that end it implicitly and then write.
    fn decide_on_replica(&self, verdict: &Verdict, server: Server) -> Result<Decision, Refusal> {
        let stay = Decision { target: Target::Server(server), why: Why::Transaction, commit_first: None };
        let effects = verdict.effects;
        let opaque = effects.contains(Effects::MULTI)
            || effects.contains(Effects::TEXT_PREPARE)
            || effects.contains(Effects::HIDDEN_CODE) && verdict.reason != Reason::UnknownFunction;
        match verdict.route {
            Route::AnyReplica | Route::AnySession | Route::LastUsed => Ok(stay),
            _ if opaque => Err(Refusal::OpaqueInReadOnlyTransaction),
            _ if effects.contains(Effects::END) => Ok(stay),
            _ if effects.intersects(
                Effects::BEGIN | Effects::LOCK | Effects::SET_AUTOCOMMIT | Effects::XA,
            ) =>
            {
                Ok(Decision {
                    target: Target::Primary,
                    why: Why::Text(verdict.reason),
                    commit_first: Some(server),
                })
            }
            _ => match (verdict.class, verdict.reason) {
                (Class::Session, Reason::Transaction) => Ok(stay), // savepoints
                (
                    _,
                    Reason::LockingRead
                    | Reason::UnknownFunction
                    | Reason::PrimaryFunction
                    | Reason::PrimaryVariable
                    | Reason::UserVariable
                    | Reason::ServerStatus,
                ) if verdict.class != Class::Write || verdict.reason == Reason::LockingRead => Ok(stay),
                (Class::Session, _) => Ok(stay),
                _ => Err(Refusal::ReadOnlyTransaction),
            },
        }
    }

    fn touches_temporary(&self, tables: &Tables) -> bool {
        match tables {
            Tables::Unknown => true,
            Tables::Known(tables) => tables.iter().any(|t| {
                self.temporary.iter().any(|temp| t.name.eq_ignore_ascii_case(&temp.name))
            }),
        }
    }

    /// Whether anything holds this session's reads on the primary, and what.
    #[must_use]
    pub fn held_by(&self) -> Option<Why> {
        if self.transaction.is_some() {
            Some(Why::Transaction)
        } else if !self.status.contains(Status::AUTOCOMMIT) {
            Some(Why::AutocommitOff)
        } else if self.pins & !bit(Pin::NextTransaction) != 0 {
            self.pins().next().map(Why::Pinned)
        } else {
            None
        }
    }
}
