//! What a session's statements are: their verdicts, and what of their text is the proxy's to answer.

use std::sync::Arc;

use pointsman_sql::{Class, Dialect, Effects, Flavour, Hint, Reason, Table, Tables, Verdict};
use pointsman_wire::{Capabilities, HEADER, Malformed, Status, attributes, write_packet};

use crate::client::Client;
use crate::job::Job;
use crate::seldom::warn_seldom;
use crate::worker::Statement;

/// Ids of the collations, as clients name them at login, of character sets in which the second byte of
/// a character may look like a quote or backslash.
const MULTIBYTE_TRAP_COLLATIONS: &[u8] = &[1, 13, 28, 84, 87, 88, 95, 96, 248, 249, 250];

/// Where a statement longer than is looked at goes, whatever it says.
fn too_long(first_words: &Verdict, multi_statements: bool) -> Verdict {
    let mut verdict = Verdict::primary(Class::Write, Reason::TooLong);
    if first_words.reason != Reason::WriteKeyword || multi_statements {
        verdict.effects = Effects::HIDDEN_CODE;
    }
    verdict
}

impl Client {
    /// The verdict on a statement, from this worker's cache if it was seen before.
    pub(crate) fn classify(&self, sql: &[u8], streamed: bool) -> Arc<Statement> {
        let dialect = self.dialect();
        let mut cache = self.worker.statements.borrow_mut();
        let statement = if streamed {
            let first_words = pointsman_sql::classify(&sql[..sql.len().min(4096)], &dialect);
            let multi = self.login.caps.contains(Capabilities::MULTI_STATEMENTS);
            Arc::new(Statement {
                verdict: too_long(&first_words, multi),
                fingerprint: 0,
                text: "(too long to be looked at)".into(),
                stats: Default::default(),
            })
        } else {
            let (statement, fresh) = cache.lookup(sql, &dialect);
            if fresh && statement.verdict.hint == Some(Hint::Unknown) {
                let statement = &statement.text;
                warn_seldom!(%statement, "[PM2013] the hint in its comment is not understood");
            }
            Arc::clone(statement)
        };
        *self.info.last_statement.borrow_mut() = Some(Arc::clone(&statement));
        statement
    }

    pub(crate) fn dialect(&self) -> Dialect {
        let status = self.session.status();
        let (mariadb, version) = self.worker.snapshot(|s| (s.greeting.mariadb, s.greeting.version));
        let flavour =
            if mariadb { Flavour::MariaDb { version } } else { Flavour::MySql { version } };
        let often = self.session.variables().often();
        Dialect {
            flavour,
            ansi_quotes: match mariadb {
                true => status.contains(Status::ANSI_QUOTES),
                false => often.ansi_quotes,
            },
            no_backslash_escapes: status.contains(Status::NO_BACKSLASH_ESCAPES),
            multibyte_trap: often
                .multibyte_trap
                .unwrap_or_else(|| MULTIBYTE_TRAP_COLLATIONS.contains(&self.login.collation)),
        }
    }

    /// A verdict for commands that are no statements.
    pub(crate) fn plain(class: Class, anywhere: bool) -> Arc<Statement> {
        let mut verdict = Verdict::primary(class, Reason::Administration);
        if anywhere {
            verdict.route = pointsman_sql::Route::AnySession;
            verdict.reason = Reason::SessionState;
        }
        Arc::new(Statement { verdict, fingerprint: 0, text: "".into(), stats: Default::default() })
    }

    /// Replaces what servers can't be sent as it is. `at`: where the statement begins in the payload.
    pub(crate) fn rewrite(&self, job: &mut Job, payload: &[u8], at: usize) {
        if means_clients_id(job) {
            job.packet = self.with_own_id(payload, at);
        }
        let mariadb = || self.worker.snapshot(|s| s.greeting.mariadb);
        if job.statement.verdict.effects.contains(Effects::SET_BARE) && mariadb() {
            let (head, sql) = match &job.packet {
                Some(packet) => packet[HEADER..].split_at(at),
                None => payload.split_at(at),
            };
            if let Some(scoped) = pointsman_sql::scope_assignments(sql, &self.dialect()) {
                let mut packet = Vec::new();
                write_packet(&mut packet, 0, &[head, &scoped.sql].concat());
                job.packet = Some(packet);
                job.untold = scoped.names;
            }
        }
    }

    /// An execution of what [`Client::rewrite`] changed when it was prepared.
    pub(crate) fn leave_untold(&self, job: &mut Job) {
        if job.statement.verdict.effects.contains(Effects::SET_BARE)
            && self.worker.snapshot(|s| s.greeting.mariadb)
        {
            let text = job.statement.text.as_bytes();
            job.untold = pointsman_sql::scope_assignments(text, &self.dialect())
                .map(|scoped| scoped.names)
                .unwrap_or_default();
        }
    }

    /// The packet with `CONNECTION_ID()` answered by what the client was told at login. In MariaDB,
    /// `CRC32` of the right four bytes is a number of exactly the type that `CONNECTION_ID()` has; in
    /// MySQL, a string of 21 digits as a number is. `at`: where the statement begins in the payload.
    fn with_own_id(&self, payload: &[u8], at: usize) -> Option<Vec<u8>> {
        let (head, sql) = payload.split_at(at);
        let id = self.info.id;
        let literal = if self.worker.snapshot(|s| s.greeting.mariadb) {
            let [a, b, c, d] = crate::crc::preimage(id);
            format!("CRC32(X'{a:02X}{b:02X}{c:02X}{d:02X}')")
        } else {
            format!("CAST('{id:021}' AS UNSIGNED)")
        };
        let sql = pointsman_sql::rewrite_connection_id(sql, &self.dialect(), literal.as_bytes())?;
        let mut packet = Vec::new();
        write_packet(&mut packet, 0, &[head, &sql].concat());
        Some(packet)
    }

    /// Where the statement begins in a COM_QUERY's payload.
    pub(crate) fn text_at(&self, payload: &[u8]) -> Result<usize, Malformed> {
        match self.login.caps.contains(Capabilities::QUERY_ATTRIBUTES) {
            true => attributes::text_at(payload),
            false => Ok(1),
        }
    }
}

/// Whether its `CONNECTION_ID()` is to be what the client was told at login; not if it is compared
/// with what the server's own tables of connections say.
fn means_clients_id(job: &Job) -> bool {
    let verdict = &job.statement.verdict;
    let of_the_server = |table: &Table| {
        table.schema.as_deref().is_some_and(|schema| {
            ["information_schema", "performance_schema", "sys"]
                .iter()
                .any(|s| schema.eq_ignore_ascii_case(s))
        })
    };
    verdict.effects.contains(Effects::CONNECTION_ID)
        && !verdict.effects.contains(Effects::PROCESSLIST)
        && !matches!(&verdict.tables, Tables::Known(t) if t.iter().any(of_the_server))
}

/// Whether it is `SHOW [FULL] PROCESSLIST` and nothing else, or `SHOW STATUS`, which counts them.
pub(crate) fn is_process_list(job: &Job) -> bool {
    let verdict = &job.statement.verdict;
    let counts = || {
        let text = job.bare_text();
        matches!(verdict.reason, Reason::ServerStatus | Reason::Diagnostics)
            && !verdict.effects.intersects(Effects::MULTI | Effects::HIDDEN_CODE)
            && ["SHOW STATUS", "SHOW GLOBAL STATUS", "SHOW SESSION STATUS", "SHOW LOCAL STATUS"]
                .iter()
                .any(|s| text.get(..s.len()).is_some_and(|t| t.eq_ignore_ascii_case(s)))
    };
    counts()
        || verdict.effects == Effects::PROCESSLIST
            && ["SHOW PROCESSLIST", "SHOW FULL PROCESSLIST"]
                .iter()
                .any(|s| job.bare_text().eq_ignore_ascii_case(s))
}
