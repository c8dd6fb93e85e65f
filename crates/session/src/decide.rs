//! Where the next statement goes, and why.

use pointsman_sql::{Class, Effects, Reason, Route, Table, Tables, Verdict};
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
            if primary == Some(server) {
                return to(Target::Server(server), Why::Transaction);
            }
            if self.status.contains(Status::IN_READ_ONLY_TRANSACTION) {
                return self.decide_on_replica(verdict, server);
            }
            // Begun while that server was the primary: it ends there, but no other begins there.
            let begins = verdict.effects.contains(Effects::BEGIN);
            return Ok(Decision {
                target: if begins { Target::Primary } else { Target::Server(server) },
                why: Why::Transaction,
                commit_first: begins.then_some(server),
            });
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
        if self.variables.schema().is_some_and(|s| s.eq_ignore_ascii_case(b"mysql")) {
            // As with its tables named in full: they are each server's own.
            return to(Target::Primary, Why::Text(Reason::ServerStatus));
        }
        to(Target::Replica, Why::Text(verdict.reason))
    }

    /// A READ ONLY transaction is open on a replica. The server refuses writes in it, but not the
    /// statements that end it implicitly and then write.
    fn decide_on_replica(&self, verdict: &Verdict, server: Server) -> Result<Decision, Refusal> {
        let stay =
            Decision { target: Target::Server(server), why: Why::Transaction, commit_first: None };
        let effects = verdict.effects;
        let opaque = effects.contains(Effects::MULTI)
            || effects.contains(Effects::TEXT_PREPARE)
            || effects.contains(Effects::HIDDEN_CODE) && verdict.reason != Reason::UnknownFunction;
        let away = Decision {
            target: Target::Primary,
            why: Why::Text(verdict.reason),
            commit_first: None,
        };
        if matches!(verdict.route, Route::AnyReplica | Route::AnySession | Route::LastUsed) {
            return Ok(stay);
        }
        if opaque {
            return Err(Refusal::OpaqueInReadOnlyTransaction);
        }
        match verdict.reason {
            // COMMIT AND CHAIN goes on as read-only, here.
            _ if effects.contains(Effects::END) => Ok(stay),
            _ if effects.intersects(
                Effects::BEGIN
                    | Effects::LOCK
                    | Effects::SET_AUTOCOMMIT
                    | Effects::XA
                    | Effects::SET_OTHER,
            ) =>
            {
                Ok(Decision { commit_first: Some(server), ..away })
            }
            // Savepoints.
            Reason::Transaction => Ok(stay),
            // The server itself refuses writes by functions, and row locks.
            Reason::LockingRead | Reason::UnknownFunction => Ok(stay),
            Reason::PrimaryFunction | Reason::PrimaryVariable | Reason::ServerStatus
                if verdict.class != Class::Write =>
            {
                Ok(stay)
            }
            // A lock that others are to see, and no business of the transaction's.
            Reason::NamedLock => Ok(away),
            Reason::UserVariable => Err(Refusal::OpaqueInReadOnlyTransaction),
            // Commits what is open before it looks whether that may write.
            _ if effects.contains(Effects::DDL) && !effects.contains(Effects::CREATE_TEMPORARY) => {
                Ok(Decision { commit_first: Some(server), ..away })
            }
            _ if verdict.class == Class::Write => Err(Refusal::ReadOnlyTransaction),
            _ => Ok(Decision { commit_first: Some(server), ..away }),
        }
    }

    fn touches_temporary(&self, tables: &Tables) -> bool {
        match tables {
            Tables::Unknown => true,
            Tables::Known(tables) => tables
                .iter()
                .any(|t| self.temporary.iter().any(|temp| t.name.eq_ignore_ascii_case(&temp.name))),
        }
    }

    /// Whether these are temporary tables of this session, each of them, as far as names tell.
    #[must_use]
    pub fn are_temporary(&self, tables: &Tables) -> bool {
        let Tables::Known(tables) = tables else { return false };
        let is = |t: &Table| {
            self.temporary
                .iter()
                .any(|temp| t.name.eq_ignore_ascii_case(&temp.name) && t.schema == temp.schema)
        };
        !self.temporary.is_empty() && !tables.is_empty() && tables.iter().all(is)
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

#[cfg(test)]
mod tests {
    use pointsman_sql::{Dialect, Flavour, classify};
    use pointsman_wire::StateChange;

    use super::*;

    const PRIMARY: Server = 0;
    const REPLICA: Server = 1;

    fn verdict(sql: &str) -> Verdict {
        classify(sql.as_bytes(), &Dialect::new(Flavour::MariaDb { version: 101_106 }))
    }

    /// A session driven by statements, each answered with the status a server would give.
    struct Script(Session);

    impl Script {
        fn new() -> Self {
            Self(Session::new(true))
        }

        fn target(&self, sql: &str) -> Result<Target, Refusal> {
            self.0.decide(&verdict(sql), Some(PRIMARY)).map(|d| d.target)
        }

        fn run(&mut self, sql: &str, on: Server, status: Status) -> &mut Self {
            self.0.sent(on, on == PRIMARY, &verdict(sql));
            self.0.replied(on, status);
            self
        }
    }

    const AUTO: Status = Status::AUTOCOMMIT;
    const IN: Status = Status::AUTOCOMMIT.union(Status::IN_TRANSACTION);
    const IN_RO: Status = IN.union(Status::IN_READ_ONLY_TRANSACTION);

    #[test]
    fn reads_go_to_replicas_and_writes_to_the_primary() {
        let s = Script::new();
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Replica));
        assert_eq!(s.target("UPDATE t SET a = 1"), Ok(Target::Primary));
        assert_eq!(s.target("SELECT * FROM t FOR UPDATE"), Ok(Target::Primary));
        assert_eq!(s.target("SET NAMES utf8mb4"), Ok(Target::AnySession));
    }

    #[test]
    fn a_transaction_stays_where_it_began_until_the_server_says_it_is_over() {
        let mut s = Script::new();
        s.run("BEGIN", PRIMARY, IN);
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Server(PRIMARY)));
        s.run("SELECT 1", PRIMARY, IN).run("COMMIT", PRIMARY, AUTO);
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Replica));
    }

    #[test]
    fn without_autocommit_everything_goes_to_the_primary() {
        let mut s = Script::new();
        s.run("SET autocommit = 0", PRIMARY, Status::empty());
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Primary));
        assert_eq!(s.target("SET NAMES latin1"), Ok(Target::Primary));
    }

    #[test]
    fn a_read_only_transaction_on_a_replica_lets_no_write_out() {
        let mut s = Script::new();
        assert_eq!(s.target("START TRANSACTION READ ONLY"), Ok(Target::Replica));
        s.run("START TRANSACTION READ ONLY", REPLICA, IN_RO);
        let here = Ok(Target::Server(REPLICA));
        for sql in [
            "SELECT * FROM t",
            "SELECT f(1)",
            "SET NAMES utf8mb4",
            "COMMIT",
            "SAVEPOINT a",
            "SHOW WARNINGS",
        ] {
            assert_eq!(s.target(sql), here, "{sql}");
        }
        for sql in [
            "INSERT INTO t VALUES (1)",
            "CREATE TEMPORARY TABLE x (a INT)",
            "LOAD DATA INFILE 'x' INTO TABLE t",
        ] {
            assert_eq!(s.target(sql), Err(Refusal::ReadOnlyTransaction), "{sql}");
        }
        for sql in ["CALL p()", "COMMIT; BEGIN; INSERT INTO t VALUES (1)", "EXECUTE s"] {
            assert_eq!(s.target(sql), Err(Refusal::OpaqueInReadOnlyTransaction), "{sql}");
        }
        // These commit what is open first.
        for sql in [
            "BEGIN",
            "DROP TABLE t",
            "CREATE TABLE x (a INT)",
            "START TRANSACTION",
            "LOCK TABLES t WRITE",
            "SET autocommit = 0",
            "SET GLOBAL max_connections = 10",
            "FLUSH TABLES",
            "STOP SLAVE",
            "RESET MASTER",
            "SHUTDOWN",
            "PURGE BINARY LOGS TO 'x'",
            "INSTALL SONAME 'x'",
        ] {
            let decision = s.0.decide(&verdict(sql), Some(PRIMARY)).unwrap();
            assert_eq!(
                (decision.target, decision.commit_first),
                (Target::Primary, Some(REPLICA)),
                "{sql}"
            );
        }
        s.run("COMMIT", REPLICA, AUTO);
        assert_eq!(s.target("INSERT INTO t VALUES (1)"), Ok(Target::Primary));
    }

    #[test]
    fn a_former_primary_is_a_replica_like_any_other() {
        let mut s = Script::new();
        s.run("INSERT INTO t VALUES (1)", PRIMARY, AUTO);
        // The roles have been exchanged since.
        s.run("START TRANSACTION READ ONLY", PRIMARY, IN_RO);
        let decide = |s: &Script, sql: &str| s.0.decide(&verdict(sql), Some(REPLICA));
        assert_eq!(decide(&s, "INSERT INTO t VALUES (1)"), Err(Refusal::ReadOnlyTransaction));
        let begin = decide(&s, "BEGIN").unwrap();
        assert_eq!((begin.target, begin.commit_first), (Target::Primary, Some(PRIMARY)));
        // A transaction that was open when that happened ends where it began.
        s.run("COMMIT", PRIMARY, AUTO).run("BEGIN", PRIMARY, IN);
        assert_eq!(decide(&s, "SELECT * FROM t").unwrap().target, Target::Server(PRIMARY));
        assert_eq!(decide(&s, "COMMIT").unwrap().target, Target::Server(PRIMARY));
        assert_eq!(decide(&s, "START TRANSACTION").unwrap().target, Target::Primary);
    }

    #[test]
    fn what_lives_on_the_primary_holds_the_reads_that_need_it() {
        let mut s = Script::new();
        s.run("CREATE TEMPORARY TABLE tmp (a INT)", PRIMARY, AUTO);
        assert_eq!(s.target("SELECT * FROM tmp"), Ok(Target::Primary));
        assert_eq!(s.target("SELECT * FROM t JOIN TMP USING (a)"), Ok(Target::Primary));
        for (sql, temporary) in [
            ("INSERT INTO tmp VALUES (1)", true),
            ("INSERT INTO Tmp SELECT * FROM t", true),
            ("INSERT INTO t SELECT * FROM tmp", false),
            ("INSERT INTO x.tmp VALUES (1)", false),
            ("COMMIT", false),
        ] {
            assert_eq!(s.0.are_temporary(&verdict(sql).tables), temporary, "{sql}");
        }
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Replica));
        assert_eq!(s.target("START TRANSACTION READ ONLY"), Ok(Target::Primary));
        let mut s = Script::new();
        s.run("LOCK TABLES t WRITE", PRIMARY, AUTO);
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Primary));
        s.run("UNLOCK TABLES", PRIMARY, AUTO);
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Replica));
        let mut s = Script::new();
        s.run("SELECT GET_LOCK('a', 1)", PRIMARY, AUTO);
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Primary));
        let mut s = Script::new();
        s.run("CALL p()", PRIMARY, AUTO);
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Primary));
    }

    #[test]
    fn questions_about_the_last_statement_go_where_it_ran() {
        let mut s = Script::new();
        s.run("SELECT SQL_CALC_FOUND_ROWS * FROM t LIMIT 1", REPLICA, AUTO);
        assert_eq!(s.target("SELECT FOUND_ROWS()"), Ok(Target::Server(REPLICA)));
        s.run("INSERT INTO t VALUES (1)", PRIMARY, AUTO);
        assert_eq!(s.target("SHOW WARNINGS"), Ok(Target::Server(PRIMARY)));
    }

    #[test]
    fn serializable_reads_stay_on_the_primary() {
        let mut s = Script::new();
        s.0.changed(StateChange::Variable { name: b"tx_isolation", value: b"SERIALIZABLE" });
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Primary));
        s.0.changed(StateChange::Variable { name: b"tx_isolation", value: b"READ-COMMITTED" });
        assert_eq!(s.target("SELECT * FROM t"), Ok(Target::Replica));
    }

    #[test]
    fn set_transaction_is_for_the_next_one_only() {
        let mut s = Script::new();
        s.run("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", PRIMARY, AUTO);
        assert_eq!(s.target("START TRANSACTION READ ONLY"), Ok(Target::Primary));
        s.run("BEGIN", PRIMARY, IN).run("COMMIT", PRIMARY, AUTO);
        assert_eq!(s.target("START TRANSACTION READ ONLY"), Ok(Target::Replica));
    }

    #[test]
    fn a_lost_connection_costs_only_what_lived_on_it() {
        use crate::Lost;
        let mut s = Script::new();
        s.run("SELECT 1", REPLICA, AUTO).run("INSERT INTO t VALUES (1)", PRIMARY, AUTO);
        assert_eq!(s.0.lost(REPLICA), Lost::Nothing);
        assert_eq!(s.0.lost(PRIMARY), Lost::Nothing);
        s.run("BEGIN", PRIMARY, IN);
        assert_eq!(s.0.lost(PRIMARY), Lost::Transaction);
        s.run("SET @a = 1", PRIMARY, AUTO);
        assert_eq!(s.0.lost(PRIMARY), Lost::State("user_variable"));
    }
}
