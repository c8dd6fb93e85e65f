//! What an open transaction has done so far, so that it can be done again on another server.
//!
//! Each statement is kept as it was sent, with a digest of what was answered. A repetition that is
//! answered otherwise is no repetition: the client has acted on the first answers.

use std::ops::Range;

use pointsman_sql::{Effects, Reason, Verdict};
use pointsman_wire::Control;
use twox_hash::xxhash3_128::{RawHasher, SecretBuffer};

use crate::state::{Pin, Session, bit};

/// One command of a transaction.
#[derive(Debug, Clone)]
pub struct Step<T> {
    /// Whatever its owner needs to send it again, beside the packet.
    pub command: T,
    /// Where its packet stands in [`Record::packets`].
    packet: Range<usize>,
    /// Of its reply.
    pub digest: u128,
    /// The AUTO_INCREMENT value it was told of, 0 if none: the next server would choose another.
    pub insert_id: u64,
}

/// The steps of a transaction, and room for more: to be used again for the next one, by whichever
/// session, so that keeping a step allocates nothing.
#[derive(Debug)]
pub struct Record<T> {
    steps: Vec<Step<T>>,
    /// The packets of all steps, one behind the other.
    packets: Vec<u8>,
    digest: Option<Box<Digest>>,
}

/// What a record may hold on to while nobody uses it, in bytes of packets and in steps.
const SPARE: [usize; 2] = [64 << 10, 256];

impl<T> Default for Record<T> {
    fn default() -> Self {
        Self { steps: Vec::new(), packets: Vec::new(), digest: None }
    }
}

impl<T> Record<T> {
    #[must_use]
    pub fn steps(&self) -> &[Step<T>] {
        &self.steps
    }

    /// The packet of one of its steps.
    #[must_use]
    pub fn packet(&self, step: &Step<T>) -> &[u8] {
        &self.packets[step.packet.clone()]
    }

    fn clear(&mut self) {
        self.steps.clear();
        self.packets.clear();
        self.packets.shrink_to(SPARE[0]);
        self.steps.shrink_to(SPARE[1]);
    }
}

/// Why a transaction can't be repeated elsewhere. The texts complete "it can't be repeated because".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoilt {
    /// More was said in it than is kept; see `replay_max_size`.
    TooLong,
    /// It depends on something the session had on the lost server, or leaves something there.
    State(&'static str),
    /// A statement of this kind can't be repeated, or may have committed something unseen.
    Statement(&'static str),
    /// It began in a way that was not seen.
    Beginning,
}

impl Spoilt {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::TooLong => "more was sent in it than replay_max_size allows to keep",
            Self::State(what) | Self::Statement(what) => what,
            Self::Beginning => "it was begun by something else than a statement of its own",
        }
    }
}

/// The statements of an open transaction.
#[derive(Debug)]
pub struct Transcript<T> {
    /// Nothing while no transaction is open, or when it can't be repeated.
    record: Option<Box<Record<T>>>,
    size: usize,
    spoilt: Option<Spoilt>,
    /// Something the session had on the server before it began.
    before: Option<Spoilt>,
    open: bool,
}

impl<T> Default for Transcript<T> {
    fn default() -> Self {
        Self { record: None, size: 0, spoilt: None, before: None, open: false }
    }
}

/// What is to be kept of an answered command.
#[derive(Debug)]
pub struct Answered<'a> {
    pub verdict: &'a Verdict,
    /// It was answered with an error.
    pub failed: bool,
    pub packet: &'a [u8],
    /// Bytes that keeping it takes beside the packet.
    pub more: usize,
    pub digest: u128,
    pub insert_id: u64,
}

/// Whether a statement, if it succeeds, begins a transaction (and commits the one that is open).
#[must_use]
pub fn begins(verdict: &Verdict) -> bool {
    verdict.effects.intersects(Effects::BEGIN | Effects::BEGIN_READ_ONLY)
        && !verdict.effects.contains(Effects::MULTI)
}

impl<T> Transcript<T> {
    /// Before a statement is sent outside a transaction: what it might begin with. `spare` gives a
    /// record to write in.
    pub fn prepare(&mut self, session: &Session, spare: impl FnOnce() -> Box<Record<T>>) {
        let record = self.clear().unwrap_or_else(spare);
        let next = session.pins & bit(Pin::NextTransaction) != 0;
        self.before = match session.lives_on_primary() {
            Some(what) => Some(Spoilt::State(what)),
            None if next => Some(Spoilt::State("SET TRANSACTION was said before it")),
            None => None,
        };
        self.record = Some(record);
        self.open = true;
    }

    /// Forgets everything: the transaction is over. Gives the record back, empty.
    pub fn clear(&mut self) -> Option<Box<Record<T>>> {
        let mut record = self.record.take();
        if let Some(record) = &mut record {
            record.clear();
        }
        if self.open {
            *self = Self::default();
        }
        record
    }

    /// A digest to take in what is answered; [`Transcript::put_back`] it. `None`: what is answered
    /// does not matter any more.
    pub fn digest(&mut self) -> Option<Box<Digest>> {
        let mut digest = self.record.as_mut()?.digest.take().unwrap_or_default();
        *digest = Digest::default();
        Some(digest)
    }

    pub fn put_back(&mut self, digest: Option<Box<Digest>>) {
        if let Some(record) = &mut self.record {
            record.digest = digest;
        }
    }

    /// A statement was answered well or with an error, and the transaction is open now. `limit`: most
    /// bytes to keep in all.
    pub fn add(&mut self, answered: &Answered<'_>, limit: usize, command: impl FnOnce() -> T) {
        let Answered { verdict, failed, .. } = *answered;
        if !self.open {
            // Nobody expected a transaction of this statement.
            self.open = true;
            self.spoilt = Some(Spoilt::Beginning);
            return;
        }
        if begins(verdict) && !failed && self.record.as_ref().is_some_and(|r| !r.steps.is_empty()) {
            // It committed what was open, and began anew.
            self.record = self.clear();
            self.open = true;
        }
        self.size += answered.packet.len() + answered.more;
        if self.spoilt.is_none() {
            self.spoilt = self.before.take().or_else(|| spoils(verdict, failed));
        }
        if self.spoilt.is_none() && self.size > limit {
            self.spoilt = Some(Spoilt::TooLong);
        }
        if self.spoilt.is_some() {
            self.record = None;
        } else if let Some(record) = &mut self.record {
            let from = record.packets.len();
            record.packets.extend_from_slice(answered.packet);
            record.steps.push(Step {
                command: command(),
                packet: from..record.packets.len(),
                digest: answered.digest,
                insert_id: answered.insert_id,
            });
        }
    }

    /// It can't be repeated any more.
    pub fn spoil(&mut self, why: Spoilt) {
        if self.open && self.spoilt.is_none() {
            self.spoilt = Some(why);
            self.record = None;
        }
    }

    /// The steps to repeat.
    ///
    /// # Errors
    /// Why it can't be repeated.
    pub fn steps(&self) -> Result<&Record<T>, Spoilt> {
        match (self.spoilt, &self.record) {
            (Some(why), _) => Err(why),
            (None, Some(record)) if !record.steps.is_empty() => Ok(record),
            (None, _) => Err(Spoilt::Beginning),
        }
    }
}

/// Whether a statement makes the transaction it is part of unrepeatable.
fn spoils(verdict: &Verdict, failed: bool) -> Option<Spoilt> {
    let effects = verdict.effects;
    let what = if effects.contains(Effects::MULTI) {
        "several statements were sent at once in it"
    } else if verdict.reason == Reason::Procedure {
        "stored code was called in it"
    } else if effects.contains(Effects::TEXT_PREPARE) {
        "PREPARE or EXECUTE was said in it"
    } else if effects.contains(Effects::XA) {
        "it is an XA transaction"
    } else if effects.intersects(Effects::NAMED_LOCK | Effects::LOCK | Effects::HANDLER) {
        "it took locks or opened handlers"
    } else if effects.contains(Effects::LOCAL_INFILE) {
        "a file of the client was loaded in it"
    } else if effects.contains(Effects::END) && !failed {
        // COMMIT AND CHAIN: open still, but another one.
        "it was begun by AND CHAIN"
    } else if verdict.reason == Reason::TooLong {
        return Some(Spoilt::TooLong);
    } else {
        return None;
    };
    Some(Spoilt::Statement(what))
}

/// Digest of a reply: everything a client acts on, nothing that differs between servers that have the
/// same data.
pub struct Digest(RawHasher<&'static [u8; 192]>);

impl Default for Digest {
    fn default() -> Self {
        Self(RawHasher::new(SecretBuffer::default()))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest")
    }
}

impl Digest {
    /// Bytes passed on as they are: definitions, rows. However they are split.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// A packet that says how it went. Status flags and session state are left out: they tell of
    /// slow queries, positions and the like.
    pub fn control(&mut self, control: &Control<'_>) {
        match control {
            Control::Ok(ok) => {
                self.0.write(b"\0ok");
                self.0.write(&ok.affected_rows.to_le_bytes());
                self.0.write(&ok.last_insert_id.to_le_bytes());
            }
            Control::Err(e) => {
                self.0.write(b"\0err");
                self.0.write(&e.code.to_le_bytes());
            }
            Control::Prepared { .. }
            | Control::ColumnsEnd(_)
            | Control::Text
            | Control::Progress => {}
            Control::LocalInfile => self.0.write(b"\0file"),
        }
    }

    #[must_use]
    pub fn finish(&self) -> u128 {
        self.0.finish_128()
    }
}

#[cfg(test)]
mod tests {
    use pointsman_sql::{Dialect, Flavour, classify};
    use pointsman_wire::Status;

    use super::*;

    const LIMIT: usize = 100;

    fn verdict(sql: &str) -> Verdict {
        classify(sql.as_bytes(), &Dialect::new(Flavour::MariaDb { version: 101_106 }))
    }

    /// A transcript of these statements, begun outside a transaction.
    fn of(session: &Session, statements: &[&str]) -> Transcript<String> {
        let mut transcript = Transcript::default();
        transcript.prepare(session, Box::default);
        for sql in statements {
            add(&mut transcript, sql);
        }
        transcript
    }

    fn add(transcript: &mut Transcript<String>, sql: &str) {
        let answered = Answered {
            verdict: &verdict(sql),
            failed: false,
            packet: sql.as_bytes(),
            more: 0,
            digest: 0,
            insert_id: 0,
        };
        transcript.add(&answered, LIMIT, || sql.to_owned());
    }

    fn kept(statements: &[&str]) -> Result<Vec<String>, Spoilt> {
        let transcript = of(&Session::new(true), statements);
        transcript.steps().map(|record| {
            let of = |s: &Step<String>| {
                assert_eq!(record.packet(s), s.command.as_bytes());
                s.command.clone()
            };
            record.steps().iter().map(of).collect()
        })
    }

    #[test]
    fn statements_are_kept_from_the_beginning() {
        let all = ["BEGIN", "INSERT INTO t VALUES (1)", "SELECT * FROM t", "SAVEPOINT a"];
        assert_eq!(kept(&all).unwrap(), all);
        let anew = ["BEGIN", "INSERT INTO t VALUES (1)", "START TRANSACTION", "SELECT 1"];
        assert_eq!(kept(&anew).unwrap(), anew[2..], "the second BEGIN committed what was before");
    }

    #[test]
    fn what_may_have_been_committed_in_between_is_not_repeated() {
        for sql in [
            "CALL p()",
            "INSERT INTO t VALUES (1); COMMIT; BEGIN",
            "COMMIT AND CHAIN",
            "EXECUTE s",
            "SELECT GET_LOCK('a', 1)",
            "LOAD DATA LOCAL INFILE 'x' INTO TABLE t",
        ] {
            assert!(matches!(kept(&["BEGIN", sql]), Err(Spoilt::Statement(_))), "{sql}");
        }
        // Nothing but the statement itself tells that this began a transaction.
        assert!(kept(&["BEGIN; INSERT INTO t VALUES (1)"]).is_err());
    }

    #[test]
    fn a_transaction_is_kept_up_to_the_limit() {
        let long = format!("INSERT INTO t VALUES ('{}')", "x".repeat(LIMIT));
        assert_eq!(kept(&["BEGIN", &long]), Err(Spoilt::TooLong));
        let mut transcript = of(&Session::new(true), &["BEGIN", &long]);
        // The next one is another.
        transcript.prepare(&Session::new(true), Box::default);
        add(&mut transcript, "BEGIN");
        assert_eq!(transcript.steps().unwrap().steps().len(), 1);
    }

    #[test]
    fn what_the_session_had_before_would_be_missing() {
        let mut session = Session::new(true);
        session.sent(0, true, &verdict("SET @a = 1"));
        assert!(matches!(of(&session, &["BEGIN"]).steps(), Err(Spoilt::State(_))));
        let mut session = Session::new(true);
        session.sent(0, true, &verdict("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"));
        assert!(matches!(of(&session, &["BEGIN"]).steps(), Err(Spoilt::State(_))));
    }

    #[test]
    fn a_transaction_that_nobody_saw_begin_is_left_alone() {
        let mut transcript = Transcript::default();
        add(&mut transcript, "SELECT f()");
        assert_eq!(transcript.steps().err(), Some(Spoilt::Beginning));
    }

    #[test]
    fn variables_go_back_to_where_the_transaction_began() {
        use pointsman_wire::StateChange::Variable;
        let mut session = Session::new(true);
        let get = |s: &Session| s.variables().get(b"sql_mode").map(<[u8]>::to_vec);
        session.changed(Variable { name: b"sql_mode", value: b"A" });
        session.replied(0, Status::AUTOCOMMIT | Status::IN_TRANSACTION);
        session.changed(Variable { name: b"sql_mode", value: b"B" });
        session.changed(Variable { name: b"sql_mode", value: b"C" });
        let version = session.variables().version();
        let present = session.rewind();
        assert_eq!(get(&session).unwrap(), b"A");
        // The repetition fails; the client has been told of C.
        session.changed(Variable { name: b"sql_mode", value: b"B" });
        session.unwind(present);
        assert_eq!(get(&session).unwrap(), b"C");
        assert!(session.variables().version() > version, "whoever saw B is out of step");
        let _ = session.rewind();
        session.changed(Variable { name: b"sql_mode", value: b"B" });
        assert!(session.variables().version() > version);
    }

    proptest::proptest! {
        #[test]
        fn a_digest_does_not_depend_on_how_bytes_arrive(
            bytes: Vec<u8>,
            cuts in proptest::collection::vec(0usize..2000, 0..6),
        ) {
            let mut whole = Digest::default();
            whole.bytes(&bytes);
            let mut pieces = Digest::default();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                pieces.bytes(head);
                rest = tail;
            }
            pieces.bytes(rest);
            proptest::prop_assert_eq!(whole.finish(), pieces.finish());
        }
    }
}
