//! One command on its way, and what its text says of what it leaves behind.

use std::sync::Arc;

use pointsman_cluster::ServerId;
use pointsman_sql::{Class, Effects, Reason, Route};
use pointsman_wire::{BoundTypes, Expect, HEADER};

use crate::prepared::LongData;
use crate::worker::Statement;

/// What a command is, as far as its way is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Query,
    Prepare,
    /// With the client's statement id, as in the next four.
    Execute(u32),
    Fetch(u32),
    Reset(u32),
    InitDb,
    SetOption(bool),
    /// Answered by the server used last.
    LastUsed,
    Other,
}

/// One command on its way.
pub struct Job {
    pub kind: Kind,
    pub statement: Arc<Statement>,
    /// Where the statement begins in the packet, which may carry query attributes before it.
    pub text_at: usize,
    /// Instead of the client's own packet.
    pub packet: Option<Vec<u8>>,
    /// Variables whose change servers report only because of what is sent instead.
    pub untold: Vec<Box<[u8]>>,
    /// The only server that can run it.
    pub only: Option<ServerId>,
    pub bulk: bool,
    /// Its reply is a list of connections, to be told by the clients' ids.
    pub process_list: bool,
    /// For an execution: what was sent for it in advance.
    pub long_data: LongData,
    /// For an execution that is repeated: the types its packet does not name.
    pub types: Option<BoundTypes>,
    /// It was answered before, and is repeated on another server.
    pub again: bool,
}

impl Job {
    pub fn new(kind: Kind, statement: Arc<Statement>) -> Self {
        Self {
            kind,
            statement,
            text_at: HEADER + 1,
            packet: None,
            untold: Vec::new(),
            only: None,
            bulk: false,
            process_list: false,
            long_data: LongData::default(),
            types: None,
            again: false,
        }
    }

    pub fn expect(&self, first: u8) -> Expect {
        match self.kind {
            Kind::Query => Expect::Results,
            Kind::Execute(_) => Expect::Executed,
            Kind::Prepare => Expect::Prepare,
            Kind::Fetch(_) => Expect::Rows,
            _ => pointsman_wire::Command::from_byte(first).expect(),
        }
    }

    /// The statement's normal form, without what may end it.
    pub fn bare_text(&self) -> &str {
        self.statement.text.trim_end_matches([';', ' '])
    }

    /// Runs something that counts as the session's statement.
    pub fn executes(&self) -> bool {
        matches!(self.kind, Kind::Query | Kind::Execute(_))
    }
}

/// Whether it may be, or hide, an `XA PREPARE` or `SET ROLE`. Stored functions can't do that.
pub fn may_outlast_reset(statement: &Statement) -> bool {
    let verdict = &statement.verdict;
    verdict.effects.intersects(Effects::XA | Effects::SET_OTHER | Effects::TEXT_PREPARE)
        // `SET STATEMENT ... FOR` may have any other behind it.
        || verdict.reason == Reason::SetStatement
        || verdict.effects.contains(Effects::HIDDEN_CODE)
            && verdict.reason != Reason::UnknownFunction
}

/// What a statement's answer, with this id in its OK, says of `LAST_INSERT_ID()` by now; 0: it is as
/// before; `None`: it may be anything, since code that does not show, several statements and results
/// instead of an OK say less. (The id that a statement named itself is told, too, though it leaves
/// `LAST_INSERT_ID()` alone.)
pub fn insert_id_told(job: &Job, told: u64) -> Option<u64> {
    let verdict = &job.statement.verdict;
    let hidden = Effects::HIDDEN_CODE | Effects::MULTI | Effects::TEXT_PREPARE;
    if verdict.effects.intersects(hidden) || job.bulk {
        return None;
    }
    let sets = |name: &[u8]| names(&job.statement, name);
    match verdict.class {
        Class::Write if told != 0 => Some(told),
        Class::Write => (!sets(b"returning")).then_some(0),
        // `LAST_INSERT_ID(n)` sets it.
        Class::Read => (!sets(b"last_insert_id") || only_asks(&job.statement)).then_some(0),
        _ => None,
    }
}

/// Whether `LAST_INSERT_ID` has nothing between its parentheses, wherever it stands in the text.
fn only_asks(statement: &Statement) -> bool {
    let text = statement.text.to_ascii_lowercase();
    text.split("last_insert_id").skip(1).all(|rest| {
        let inside = rest.trim_start().strip_prefix('(');
        inside.is_some_and(|inside| inside.trim_start().starts_with(')'))
    })
}

/// Whether it may have changed what servers report to us.
pub fn may_stop_tracking(statement: &Statement) -> bool {
    let sets = Effects::SET_SYSVAR | Effects::SET_OTHER | Effects::MULTI | Effects::TEXT_PREPARE;
    statement.verdict.effects.intersects(sets) && names(statement, b"session_track_")
}

/// Whether it may show `session_track_...`, and does no more than to read. `text`: as it was sent.
pub fn shows_tracking(statement: &Statement, text: &[u8]) -> bool {
    let verdict = &statement.verdict;
    let harmless = Effects::TRACKING | Effects::CONNECTION_ID | Effects::USER_VAR;
    let has = |word: &[u8]| text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word));
    harmless.contains(verdict.effects)
        && matches!(
            verdict.reason,
            Reason::PlainRead
                | Reason::ServerStatus
                | Reason::PrimaryVariable
                | Reason::UserVariable
        )
        // A list of variables that leaves out most has others in quotes.
        && (has(b"track") || has(b"'%") || !has(b"'") && !has(b"\""))
}

/// Whether `name` stands in its text.
pub fn names(statement: &Statement, name: &[u8]) -> bool {
    statement.text.as_bytes().windows(name.len()).any(|w| w.eq_ignore_ascii_case(name))
}

/// Whether all that it sets is `autocommit`; or `profiling`, after which nothing of ours may run.
pub fn sets_autocommit(job: &Job) -> bool {
    let Statement { verdict, text, .. } = &*job.statement;
    let sets = verdict.effects.contains(Effects::SET_AUTOCOMMIT)
        || verdict.class == Class::Session && names(&job.statement, b"profiling");
    sets && !verdict.effects.contains(Effects::MULTI) && !text.contains(',')
}

/// Whether it is a plain `SET NAMES` or `SET CHARACTER SET`.
pub fn sets_names(job: &Job) -> bool {
    let verdict = &job.statement.verdict;
    job.kind == Kind::Query
        && verdict.route == Route::AnySession
        && verdict.effects == Effects::SET_SYSVAR
        && ["SET NAMES", "SET CHARACTER SET", "SET CHARSET"]
            .iter()
            .any(|s| job.statement.text.get(..s.len()).is_some_and(|t| t.eq_ignore_ascii_case(s)))
}
