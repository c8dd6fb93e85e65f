//! What the tokens of one statement show, whatever kind of statement it is.

use crate::functions::{self, Call};
use crate::keyword::{Kw, Standing};
use crate::lexer::Kind;
use crate::normal::Tok;
use crate::{Effects, Flavour, Reason};

/// Why the tokens alone keep a statement from the replicas; the worst reason wins.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    worst: Option<(u8, Reason, Box<str>)>,
    pub effects: Effects,
    /// Reads the data dictionary: depends on every table.
    pub dictionary: bool,
    /// A called function changes something.
    pub writes: bool,
}

fn rank(reason: Reason) -> u8 {
    match reason {
        Reason::LockingRead => 0,
        Reason::SelectInto => 1,
        Reason::WriteKeyword => 2,
        Reason::NamedLock => 3,
        Reason::UnknownFunction => 4,
        Reason::Unknown => 5,
        Reason::PrimaryFunction => 6,
        Reason::UserVariable => 7,
        Reason::PrimaryVariable => 8,
        Reason::ServerStatus => 9,
        _ => 20,
    }
}

impl Facts {
    pub fn worst(&self) -> Option<(Reason, &str)> {
        self.worst.as_ref().map(|(_, reason, detail)| (*reason, &**detail))
    }

    fn note(&mut self, reason: Reason, detail: &[u8]) {
        let rank = rank(reason);
        if self.worst.as_ref().is_none_or(|(r, ..)| rank < *r) {
            let mut detail = String::from_utf8_lossy(detail).into_owned();
            if detail.chars().count() > 64 {
                detail = detail.chars().take(64).collect();
            }
            self.worst = Some((rank, reason, detail.into_boxed_str()));
        }
    }

    fn call(&mut self, name: &[u8], call: Option<Call>) {
        match call {
            Some(Call::Syntax | Call::Read) => {}
            Some(Call::ReadWithArguments | Call::ReadOfTwo) => self.call(name, None),
            Some(Call::ConnectionId) => self.effects |= Effects::CONNECTION_ID,
            Some(Call::Diagnostics) => {
                self.effects |= Effects::DIAGNOSTICS;
                self.note(Reason::Diagnostics, name);
            }
            Some(Call::Primary) => self.note(Reason::PrimaryFunction, name),
            Some(Call::PrimaryWrite) => {
                self.writes = true;
                self.note(Reason::PrimaryFunction, name);
            }
            Some(Call::TakeLock) => {
                self.effects |= Effects::NAMED_LOCK;
                self.note(Reason::NamedLock, name);
            }
            Some(Call::NamedLock) => self.note(Reason::NamedLock, name),
            None => {
                self.effects |= Effects::HIDDEN_CODE;
                self.note(Reason::UnknownFunction, name);
            }
        }
    }
}

/// The name in a token: quotes and doubled quotes undone.
pub fn name(tok: &Tok<'_>) -> Vec<u8> {
    let text = match tok.kind {
        Kind::SysVar => &tok.text[2..],
        _ => tok.text,
    };
    match text.first() {
        Some(q @ (b'`' | b'"')) if text.len() >= 2 => {
            let mut out = Vec::with_capacity(text.len());
            let mut inner = text[1..text.len() - 1].iter();
            while let Some(b) = inner.next() {
                out.push(*b);
                if b == q {
                    inner.next();
                }
            }
            out
        }
        _ => text.to_vec(),
    }
}

pub fn is_name(tok: &Tok<'_>) -> bool {
    matches!(tok.kind, Kind::Word | Kind::Quoted)
}

/// Farthest that [`closing`] looks, so that nesting can't make the work quadratic.
const MAX_DISTANCE: usize = 10_000;

/// The index of the parenthesis that closes the one at `open`; `None` if there is none near.
pub fn closing(toks: &[Tok<'_>], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, tok) in toks.iter().enumerate().skip(open).take(MAX_DISTANCE) {
        match tok.kind {
            Kind::Open => depth += 1,
            Kind::Close => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

/// `name (a, b) AS (` at `i`: a common table expression with named columns.
fn names_columns(toks: &[Tok<'_>], i: usize) -> bool {
    let mut at = i + 2;
    while toks.get(at).is_some_and(is_name) {
        match toks.get(at + 1).map(|t| t.kind) {
            Some(Kind::Comma) => at += 2,
            Some(Kind::Close) => {
                return toks.get(at + 2).is_some_and(|t| t.is(Kw::As))
                    && toks.get(at + 3).is_some_and(|t| t.kind == Kind::Open);
            }
            _ => return false,
        }
    }
    false
}

/// How many arguments the call has whose parenthesis is at `open`. A list of literals is one token
/// in the normal form, so it counts as too many to tell.
fn arguments(toks: &[Tok<'_>], open: usize) -> usize {
    let Some(close) = closing(toks, open) else { return 0 };
    if close == open + 1 {
        return 0;
    }
    let mut depth = 0usize;
    let mut count = 1;
    for tok in &toks[open + 1..close] {
        match tok.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            Kind::Comma if depth == 0 => count += 1,
            Kind::Str if depth == 0 => return usize::MAX,
            _ => {}
        }
    }
    count
}

/// Whether the parenthesis at `open` holds `'path' COLUMNS (` itself, which no call can.
fn makes_table(toks: &[Tok<'_>], open: usize) -> bool {
    let Some(close) = closing(toks, open) else { return false };
    let mut depth = 0usize;
    toks[open..close].windows(3).any(|w| {
        match w[0].kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            _ => {}
        }
        depth == 1 && w[0].literal() && w[1].is(Kw::Columns) && w[2].kind == Kind::Open
    })
}

/// Tables of `information_schema` that describe the schema rather than the state of one server. Not
/// among them: `tables`, `partitions` and `statistics`, with times, estimates and an AUTO_INCREMENT of
/// each server's own.
const DICTIONARY: &[&str] = &[
    "applicable_roles",
    "character_sets",
    "check_constraints",
    "collation_character_set_applicability",
    "collations",
    "column_privileges",
    "columns",
    "columns_extensions",
    "enabled_roles",
    "engines",
    "geometry_columns",
    "key_column_usage",
    "keywords",
    "parameters",
    "referential_constraints",
    "routines",
    "schema_privileges",
    "schemata",
    "schemata_extensions",
    "spatial_ref_sys",
    "sql_functions",
    "st_geometry_columns",
    "st_spatial_reference_systems",
    "st_units_of_measure",
    "table_constraints",
    "table_constraints_extensions",
    "table_privileges",
    "tables_extensions",
    "tablespaces_extensions",
    "triggers",
    "user_privileges",
    "view_routine_usage",
    "view_table_usage",
    "views",
];

/// Tables about the state of one server, should `information_schema` be the default schema.
fn state_table(name: &[u8]) -> bool {
    const NAMES: &[&str] = &[
        "processlist",
        "global_status",
        "session_status",
        "global_variables",
        "session_variables",
        "system_variables",
        "metadata_lock_info",
        "user_statistics",
        "client_statistics",
        "index_statistics",
        "table_statistics",
        "profiling",
        "slave_status",
        "optimizer_trace",
    ];
    NAMES.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
        || name.get(..7).is_some_and(|p| p.eq_ignore_ascii_case(b"innodb_"))
}

fn variable(facts: &mut Facts, name: &[u8]) {
    const PRIMARY: &[&str] = &[
        "identity",
        "last_insert_id",
        "insert_id",
        "last_gtid",
        "pseudo_thread_id",
        "pseudo_slave_mode",
        "pseudo_replica_mode",
        "read_only",
        "super_read_only",
        "innodb_read_only",
        "transaction_read_only",
        "transaction_isolation",
        "in_transaction",
        "offline_mode",
        "relay_log_recovery",
        "log_bin",
        "sql_log_bin",
        "skip_replication",
        // Clients on the same machine connect to it, and would write there; or look for files.
        "socket",
        "datadir",
        "tmpdir",
        "secure_file_priv",
        "pid_file",
        // What can be set for the whole server only.
        "event_scheduler",
        "key_buffer_size",
        "local_infile",
        "max_connections",
        "table_definition_cache",
        "table_open_cache",
    ];
    const PREFIXES: &[&str] = &[
        "rand_seed",
        "gtid_",
        "tx_",
        "wsrep_",
        "slave_",
        "replica_",
        "rpl_",
        "group_replication_",
        "binlog_",
        "aria_",
        "general_log",
        "innodb_",
        "log_",
        "performance_schema",
        "relay_log",
        "report_",
        "slow_query_log",
        "thread_",
    ];
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if name.starts_with("session_track_") {
        facts.effects |= Effects::TRACKING;
    }
    if name == "warning_count" || name == "error_count" {
        facts.effects |= Effects::DIAGNOSTICS;
        facts.note(Reason::Diagnostics, name.as_bytes());
    } else if PRIMARY.contains(&name.as_str()) || PREFIXES.iter().any(|p| name.starts_with(p)) {
        facts.note(Reason::PrimaryVariable, name.as_bytes());
    }
}

/// Reads `toks`, one statement or the part of one that is an expression or a query.
pub fn facts(toks: &[Tok<'_>], flavour: Flavour) -> Facts {
    let mut facts = Facts::default();
    for (i, tok) in toks.iter().enumerate() {
        let next = toks.get(i + 1);
        let opens = next.is_some_and(|t| t.kind == Kind::Open);
        match tok.kind {
            Kind::Odd => facts.note(Reason::Unknown, tok.text),
            Kind::Assign => facts.note(Reason::UserVariable, tok.text),
            Kind::UserVar => {
                facts.effects |= Effects::USER_VAR;
                facts.note(Reason::UserVariable, tok.text);
            }
            Kind::SysVar => {
                // What was set for the whole server was set on the primary.
                let dotted = next.is_some_and(|t| t.kind == Kind::Dot);
                if dotted && tok.text.eq_ignore_ascii_case(b"@@global") {
                    facts.note(Reason::PrimaryVariable, tok.text);
                }
                // `@@session.x`, `@@x`, `@@cache.key_buffer_size`: the last part is the name.
                let part = match (next, toks.get(i + 2)) {
                    (Some(dot), Some(part)) if dot.kind == Kind::Dot => part,
                    _ => tok,
                };
                variable(&mut facts, &name(part));
            }
            Kind::Word | Kind::Quoted => word(&mut facts, toks, i, opens, flavour),
            _ => {}
        }
    }
    facts
}

fn word(facts: &mut Facts, toks: &[Tok<'_>], i: usize, opens: bool, flavour: Flavour) {
    let tok = &toks[i];
    let next = toks.get(i + 1);
    let prev = i.checked_sub(1).map(|p| &toks[p]);
    let prev_kw = prev.map_or(Kw::None, |p| p.kw);
    let next_kw = next.map_or(Kw::None, |n| n.kw);
    let after_dot = prev.is_some_and(|p| p.kind == Kind::Dot);

    if opens {
        let name = name(tok);
        let call = if after_dot || tok.kind == Kind::Quoted {
            // `db.f(`: never a built-in one; `` `f`( `` neither, for all one can tell.
            None
        } else {
            match functions::lookup(&name, flavour) {
                Some(Call::ReadWithArguments) if arguments(toks, i + 1) > 0 => Some(Call::Read),
                Some(Call::ReadOfTwo) if arguments(toks, i + 1) == 2 => Some(Call::Read),
                call => call,
            }
        };
        let no_call = prev_kw == Kw::As
            || (tok.is(Kw::Against) && prev.is_some_and(|p| p.kind == Kind::Close))
            || (tok.is(Kw::Columns) && prev.is_some_and(Tok::literal))
            || (tok.is(Kw::Over)
                && (prev.is_some_and(|p| p.kind == Kind::Close) || prev_kw == Kw::Nulls))
            || (call.is_none() && !after_dot && names_columns(toks, i))
            || (name.eq_ignore_ascii_case(b"json_table") && !after_dot && makes_table(toks, i + 1));
        if !no_call {
            facts.call(&name, call);
        }
    }

    if tok.kw.standing() == Standing::Danger || tok.is(Kw::For) {
        match tok.kw {
            Kw::For if matches!(next_kw, Kw::Update | Kw::Share) => {
                facts.note(Reason::LockingRead, format!("FOR {}", next_kw.text()).as_bytes());
            }
            Kw::For => {}
            Kw::Update if prev_kw == Kw::For => {}
            Kw::Lock => facts.note(Reason::LockingRead, b"LOCK IN SHARE MODE"),
            Kw::Into => facts.note(Reason::SelectInto, b"INTO"),
            Kw::Insert | Kw::Replace | Kw::Repeat if opens => {}
            Kw::Set if prev_kw == Kw::Character => {}
            // FETCH FIRST n ROWS ONLY
            Kw::Fetch
                if next_kw == Kw::Next
                    || next.is_some_and(|n| n.text.eq_ignore_ascii_case(b"first")) => {}
            Kw::Use if matches!(next_kw, Kw::Index | Kw::Key) => {}
            Kw::Insert | Kw::Update | Kw::Delete | Kw::Replace => {
                facts.note(Reason::WriteKeyword, tok.text);
            }
            _ => facts.note(Reason::Unknown, tok.text),
        }
        return;
    }
    if matches!(tok.kw, Kw::Next | Kw::Previous) && next_kw == Kw::Value {
        facts.writes |= tok.is(Kw::Next);
        facts.note(Reason::PrimaryFunction, tok.text);
    }
    if after_dot {
        // Sequences in Oracle mode.
        if [&b"nextval"[..], b"currval"].iter().any(|n| tok.text.eq_ignore_ascii_case(n)) {
            facts.writes = true;
            facts.note(Reason::PrimaryFunction, tok.text);
        }
        return;
    }
    if next.is_some_and(|n| n.kind == Kind::Dot) {
        let schema = name(tok).to_ascii_lowercase();
        match schema.as_slice() {
            // Of `mysql`, not all is replicated: servers, plugins, logs.
            b"performance_schema" | b"sys" | b"mysql" => facts.note(Reason::ServerStatus, &schema),
            b"information_schema" => {
                facts.dictionary = true;
                let table = toks.get(i + 2).map(name).unwrap_or_default().to_ascii_lowercase();
                if !DICTIONARY.iter().any(|n| n.as_bytes() == table) {
                    if table == b"processlist" {
                        facts.effects |= Effects::PROCESSLIST;
                    }
                    if matches!(&table[..], b"session_variables" | b"system_variables") {
                        facts.effects |= Effects::TRACKING;
                    }
                    if table == b"optimizer_trace" {
                        facts.effects |= Effects::DIAGNOSTICS;
                        facts.note(Reason::Diagnostics, &table);
                    } else {
                        facts.note(Reason::ServerStatus, &table);
                    }
                }
            }
            _ => {}
        }
    } else if matches!(prev_kw, Kw::From | Kw::Join | Kw::StraightJoin | Kw::Table)
        && !opens
        && state_table(&name(tok))
    {
        facts.note(Reason::ServerStatus, &name(tok));
    }
}
