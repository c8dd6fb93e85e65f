//! Looks for a commit among the transactions of a binary log.

use pointsman_cluster::gtid::{Flavour, Position};
use pointsman_wire::Malformed;
use pointsman_wire::binlog::{self, Event, Gtid};

use super::done::Done;
use super::mark::Mark;
use super::{Commit, Fate, Inquiry, Told};

/// Reads transactions, one event after the other, until one of them must be the one.
pub struct Search<'a> {
    inquiry: &'a Inquiry,
    flavour: Flavour,
    told: &'a Told,
    /// Events end with a checksum.
    checksums: bool,
    present: Option<Present>,
    /// One might be it, and nothing tells.
    doubtful: bool,
}

/// The transaction being read.
#[derive(Default)]
pub(super) struct Present {
    /// Some session of this proxy was told of it.
    pub(super) told: bool,
    /// This one.
    own: bool,
    tagged: bool,
    /// Connections are named in it.
    threads: bool,
    /// It was committed over the connection in question before.
    earlier: bool,
    /// This is what is looked for.
    found: bool,
    /// What it did.
    done: Done,
    /// Statements are noted in it.
    noted: bool,
    may_be: bool,
}

impl<'a> Search<'a> {
    pub fn new(inquiry: &'a Inquiry, flavour: Flavour, told: &'a Told) -> Self {
        Self { inquiry, flavour, told, checksums: false, present: None, doubtful: false }
    }

    /// The next event; `whole`: all of it. What is looked for, once all of it was read.
    pub fn bytes(&mut self, event: &[u8], whole: bool) -> Result<Option<Done>, Malformed> {
        if let Some(checksums) = binlog::checksums(event) {
            self.checksums = checksums;
        }
        let end = event.len().saturating_sub(if self.checksums && whole { 4 } else { 0 });
        let (server_id, event) = Event::parse(&event[..end])?;
        Ok(self.event(server_id, &event, whole))
    }

    fn event(&mut self, server_id: u32, event: &Event<'_>, whole: bool) -> Option<Done> {
        if let Event::Gtid(gtid) = event {
            let found = self.finish();
            if server_id == self.inquiry.server_id {
                self.present = Some(self.begin(gtid));
            }
            return found;
        }
        let present = self.present.as_mut()?;
        match event {
            // A replica writes these itself, under the name of any connection.
            Event::Query { text, .. } if is_about_transactions(text) => return None,
            Event::Query { thread, .. } => {
                present.threads = true;
                let ours = *thread == self.inquiry.thread
                    && !(present.own || present.told || present.earlier);
                // Without its number one can't tell it from an earlier one of the same session.
                self.doubtful |= ours && present.tagged;
                present.found |= ours && !present.tagged;
            }
            Event::Annotate { text } => {
                present.noted = true;
                let marks = &self.inquiry.marks;
                let mark = Mark::of(text).and_then(|mark| marks.is_of_last(mark));
                present.found |= mark == Some(true);
                let others = mark == Some(false) || marks.on_all();
                present.may_be |= !others
                    && match &self.inquiry.texts {
                        None => true,
                        Some(texts) => texts.iter().any(|t| is_same_text(t, text)),
                    };
            }
            Event::Rows(_) => present.may_be |= !present.noted,
            _ => {}
        }
        present.done.event(event, whole);
        match event {
            Event::Committed => self.finish(),
            _ => None,
        }
    }

    /// The transaction is over.
    fn finish(&mut self) -> Option<Done> {
        let present = self.present.take()?;
        if present.found {
            return Some(present.done);
        }
        let others = present.threads || present.told || present.own || present.earlier;
        self.doubtful |= !others && present.may_be;
        None
    }

    pub fn end(mut self) -> Fate {
        if let Some(done) = self.finish() {
            return Fate::Committed(Box::new(done));
        }
        match self.doubtful {
            true => Fate::Unknown("the next primary has a transaction that may be it"),
            false => Fate::Absent,
        }
    }

    pub(super) fn begin(&self, gtid: &Gtid) -> Present {
        let (text, commit) = match gtid {
            Gtid::MariaDb { domain, sequence } => {
                let server_id = self.inquiry.server_id;
                let text = format!("{domain}-{server_id}-{sequence}");
                (text, (source(*domain, server_id), *sequence))
            }
            Gtid::MySql { uuid, number } => {
                let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
                let (a, b, c, d, e) =
                    (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
                let source = u128::from_be_bytes(*uuid);
                (format!("{a}-{b}-{c}-{d}-{e}:{number}"), (source, *number))
            }
            Gtid::Tagged => return Present { tagged: true, ..Present::default() },
        };
        let position = Position::parse(self.flavour, text.as_bytes());
        let own = self.inquiry.own.as_ref();
        Present {
            own: position.is_ok_and(|p| own.is_some_and(|own| own.covers(&p))),
            told: self.told.contains(&commit),
            earlier: self
                .inquiry
                .committed
                .iter()
                .any(|(source, number)| *source == commit.0 && commit.1 <= *number),
            ..Present::default()
        }
    }
}

/// MariaDB's.
pub(super) fn source(domain: u32, server_id: u32) -> u128 {
    u128::from(domain) << 32 | u128::from(server_id)
}

/// The newest commit of each domain or source in a position.
pub fn commits(position: &Position) -> impl Iterator<Item = Commit> + '_ {
    let (mariadb, mysql) = match position {
        Position::MariaDb(position) => (Some(position), None),
        Position::MySql(set) => (None, Some(set)),
        Position::Number(_) => (None, None),
    };
    let of_domains = mariadb.into_iter().flat_map(|p| &p.domains);
    let of_domains = of_domains.map(|g| (source(g.domain, g.server), g.sequence));
    let of_servers = mysql.into_iter().flat_map(|set| set.sources()).flat_map(|(source, all)| {
        all.iter().map(|(_, last)| (u128::from_be_bytes(source.uuid), *last))
    });
    of_domains.chain(of_servers)
}

/// Whether it begins or ends a transaction, or a part of one.
fn is_about_transactions(text: &[u8]) -> bool {
    [&b"BEGIN"[..], b"COMMIT", b"SAVEPOINT", b"ROLLBACK", b"XA"].iter().any(|word| {
        text.strip_prefix(*word)
            .is_some_and(|rest| rest.first().is_none_or(|b| !b.is_ascii_alphanumeric()))
    })
}

/// Whether a server may have logged `sent` as `logged`: it leaves out what ends a statement, and with a
/// semicolon the comment behind it.
pub(super) fn is_same_text(sent: &[u8], logged: &[u8]) -> bool {
    fn bare(text: &[u8]) -> &[u8] {
        let outside = |b: &u8| b" ;\n\r\t\0\x0b\x0c".contains(b);
        let end = text.iter().rposition(|b| !outside(b)).map_or(0, |i| i + 1);
        let begin = text[..end].iter().position(|b| !outside(b)).unwrap_or(end);
        &text[begin..end]
    }
    bare(sent).starts_with(bare(logged))
}

/// Whether servers log this statement with the text that it was sent with: they write into comments
/// that are code, and `LOAD DATA` is logged in words of their own.
pub fn is_logged_as_sent(text: &[u8]) -> bool {
    let code = |at: &[u8]| matches!(at, [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!']);
    let mut words = text.split(|b| !b.is_ascii_alphanumeric() && *b != b'_');
    !words.any(|word| word.eq_ignore_ascii_case(b"LOAD"))
        && !text.windows(4).any(code)
        && !text.ends_with(b"/*!")
}
