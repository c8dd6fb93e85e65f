//! From the tokens of a statement to its verdict.

use crate::facts::{self, Facts};
use crate::hint;
use crate::keyword::Kw;
use crate::lexer::Kind;
use crate::normal::{Flags, MAX_KEPT, Scan, Tok};
use crate::parse::{self, Opinion};
use crate::{
    Class, Dialect, Effects, Flavour, Reason, Route, Table, Tables, Verdict, session, show,
};

/// The verdict on a normal form; a function of it and of what the scan saw, of nothing else.
pub fn judge(toks: &[Tok<'_>], scan: &Scan, dialect: &Dialect) -> Verdict {
    let flags = scan.flags;
    let flavour = dialect.flavour;
    let mut verdict = statements(toks, flavour);
    if toks.len() >= MAX_KEPT || flags.contains(Flags::LONG) {
        if verdict.route != Route::Primary {
            verdict.route = Route::Primary;
            verdict.class = Class::Write;
            verdict.reason = Reason::TooLong;
        }
        // What was not looked at may call anything.
        verdict.effects |= Effects::HIDDEN_CODE;
        verdict.tables = Tables::Unknown;
        if flags.contains(Flags::USER_VAR) {
            verdict.effects |= Effects::USER_VAR;
        }
        if flags.contains(Flags::MULTI) {
            verdict.effects |= Effects::MULTI;
        }
    }
    if flags.contains(Flags::ODD) && verdict.route != Route::Primary {
        verdict.route = Route::Primary;
        verdict.reason = Reason::Unknown;
    }
    hint::apply(&mut verdict, scan.hint);
    verdict
}

fn statements(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let mut parts = Vec::new();
    let mut rest = toks;
    while !rest.is_empty() {
        let end = rest.iter().position(|t| t.kind == Kind::Semi).unwrap_or(rest.len());
        let part = &rest[..end];
        let after = rest.get(end + 1..).unwrap_or_default();
        if !part.is_empty() {
            if holds_statements(part) && after.iter().any(|t| t.kind != Kind::Semi) {
                // The semicolons may belong to its body, or may not.
                parts.push(opaque(part, rest, flavour));
                break;
            }
            parts.push(statement(part, flavour));
        }
        rest = after;
    }
    match parts.len() {
        0 => Verdict {
            class: Class::Other,
            route: Route::AnySession,
            reason: Reason::Empty,
            detail: None,
            effects: Effects::empty(),
            tables: Tables::Known(Box::new([])),
            hint: None,
        },
        1 => parts.remove(0),
        _ => merge(parts),
    }
}

fn merge(parts: Vec<Verdict>) -> Verdict {
    let effects = parts.iter().fold(Effects::MULTI, |all, v| all | v.effects);
    let rank = |class: Class| match class {
        Class::Write => 3,
        Class::Other => 2,
        Class::Session => 1,
        Class::Read => 0,
    };
    let class = parts.iter().map(|v| v.class).max_by_key(|c| rank(*c)).unwrap_or(Class::Write);
    let mut tables = Some(Vec::new());
    for part in &parts {
        match (&part.tables, &mut tables) {
            (Tables::Known(more), Some(all)) => {
                for table in more {
                    if !all.contains(table) {
                        all.push(table.clone());
                    }
                }
            }
            _ => tables = None,
        }
    }
    let tables = tables.map_or(Tables::Unknown, |t| Tables::Known(t.into_boxed_slice()));
    match parts.iter().find(|v| v.route != Route::AnyReplica || v.class != Class::Read) {
        None => Verdict {
            class,
            route: Route::AnyReplica,
            reason: Reason::PlainRead,
            detail: None,
            effects,
            tables,
            hint: None,
        },
        Some(odd) => Verdict {
            class,
            route: Route::Primary,
            reason: Reason::MultiStatement,
            detail: Some(odd.reason.code().into()),
            effects,
            tables,
            hint: None,
        },
    }
}

/// Whether semicolons after this may be inside it: a routine's body, a compound statement.
fn holds_statements(toks: &[Tok<'_>]) -> bool {
    match toks[0].kw {
        Kw::Create | Kw::Alter => toks.iter().take(32).any(|t| {
            matches!(t.kw, Kw::Procedure | Kw::Function | Kw::Trigger | Kw::Event | Kw::Package)
        }),
        Kw::Begin => toks.len() > 1 && !toks[1].is(Kw::Work),
        Kw::Declare | Kw::If | Kw::Case | Kw::Loop | Kw::While | Kw::Repeat | Kw::For => true,
        // A label before a compound statement.
        _ => toks.get(1).is_some_and(|t| t.kind == Kind::Op && t.text == b":"),
    }
}

fn opaque(part: &[Tok<'_>], rest: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let mut verdict = statement(part, flavour);
    verdict.effects |= facts::facts(rest, flavour).effects | Effects::MULTI | Effects::HIDDEN_CODE;
    verdict.route = Route::Primary;
    verdict.tables = Tables::Unknown;
    verdict
}

/// A verdict on the primary, with the effects that its tokens show.
pub fn primary(class: Class, reason: Reason, effects: Effects) -> Verdict {
    Verdict { effects, ..Verdict::primary(class, reason) }
}

fn detailed(mut verdict: Verdict, detail: &[u8]) -> Verdict {
    verdict.detail = Some(String::from_utf8_lossy(detail).into());
    verdict
}

/// What backups take, and give back: `UNLOCK TABLES` does not, nor these what `LOCK TABLES` has taken.
const BACKUP_LOCK: Effects = Effects::LOCK.union(Effects::NAMED_LOCK);

/// One statement, not empty, without `;`.
fn statement(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let start = toks.iter().position(|t| t.kind != Kind::Open).unwrap_or(0);
    let kw = toks[start].kw;
    if start > 0 && !matches!(kw, Kw::Select | Kw::With | Kw::Values | Kw::Table) {
        return unknown(toks, flavour);
    }
    let at = |i: usize| toks.get(i).map_or(Kw::None, |t| t.kw);
    let second = at(1);
    let known = |effects| primary(Class::Session, Reason::Transaction, effects);
    match kw {
        Kw::Select | Kw::With | Kw::Values | Kw::Table => read(toks, flavour),
        Kw::Insert | Kw::Replace | Kw::Update | Kw::Delete | Kw::Load => write(toks, flavour),
        Kw::Begin if toks.len() == 1 || (second == Kw::Work && toks.len() == 2) => {
            known(Effects::BEGIN)
        }
        Kw::Begin
        | Kw::Declare
        | Kw::If
        | Kw::Case
        | Kw::Loop
        | Kw::While
        | Kw::Repeat
        | Kw::For => {
            let effects = facts::facts(toks, flavour).effects;
            primary(Class::Write, Reason::Procedure, effects | Effects::HIDDEN_CODE)
        }
        Kw::Start | Kw::Commit | Kw::Rollback | Kw::Savepoint | Kw::Release | Kw::Xa => {
            session::transaction(toks, flavour)
        }
        Kw::Set => session::set(toks, flavour),
        Kw::Use => session::use_schema(toks, flavour),
        Kw::Show => show::show(toks, flavour),
        Kw::Desc | Kw::Describe | Kw::Explain => explain(toks, flavour),
        Kw::Help => simple_read(toks, flavour, Tables::Known(Box::new([]))),
        Kw::Get => {
            let facts = facts::facts(&toks[1..], flavour);
            let mut v = primary(Class::Session, Reason::Diagnostics, facts.effects);
            v.effects |= Effects::DIAGNOSTICS;
            // With user variables, which live on the primary, it can't follow the statement.
            if v.effects.contains(Effects::USER_VAR) || facts.worst().is_some() {
                v.reason = Reason::UserVariable;
            } else {
                v.route = Route::LastUsed;
            }
            v
        }
        Kw::Kill => {
            let mut v = primary(Class::Other, Reason::Kill, Effects::KILL);
            v.route = Route::Proxy;
            v.tables = Tables::Known(Box::new([]));
            // The id may be an expression of any kind: then the primary evaluates it.
            let effects = facts::facts(&toks[1..], flavour).effects;
            if effects.intersects(Effects::HIDDEN_CODE | Effects::NAMED_LOCK) {
                v.effects |= effects;
            }
            v
        }
        Kw::Call => {
            let effects = facts::facts(&toks[1..], flavour).effects;
            let named = toks.get(1).map(|t| t.text).unwrap_or_default();
            let v = primary(Class::Write, Reason::Procedure, effects | Effects::HIDDEN_CODE);
            detailed(v, named)
        }
        Kw::Do => {
            let facts = facts::facts(&toks[1..], flavour);
            let (reason, detail) = facts.worst().unwrap_or((Reason::Unknown, "DO"));
            detailed(primary(Class::Write, reason, facts.effects), detail.as_bytes())
        }
        Kw::Prepare | Kw::Deallocate | Kw::Execute => session::text_prepare(toks, flavour),
        Kw::Drop if second == Kw::Prepare => session::text_prepare(toks, flavour),
        Kw::Lock | Kw::Unlock => {
            let lock = match kw {
                _ if second == Kw::Instance => BACKUP_LOCK,
                Kw::Lock => Effects::LOCK,
                _ if toks.len() == 2 => Effects::UNLOCK,
                // `UNLOCK TABLE t` is an error, and unlocks nothing.
                _ => Effects::empty(),
            };
            primary(Class::Session, Reason::TableLock, lock)
        }
        Kw::Handler => {
            let effects = facts::facts(&toks[1..], flavour).effects;
            let open = if toks.iter().any(|t| t.is(Kw::Open)) {
                Effects::HANDLER
            } else {
                Effects::empty()
            };
            primary(Class::Session, Reason::Handler, effects | open)
        }
        Kw::Flush => {
            let has = |kw| toks.iter().any(|t| t.is(kw));
            if has(Kw::Lock) || (has(Kw::For) && !has(Kw::Logs)) {
                primary(Class::Other, Reason::TableLock, Effects::LOCK)
            } else {
                let privileges = |t: &Tok<'_>| t.text.eq_ignore_ascii_case(b"privileges");
                let effects = if toks.iter().any(privileges) {
                    Effects::SERVER_WIDE
                } else if has(Kw::Status) {
                    // What the session counts from here on, it counts on that connection.
                    Effects::SET_OTHER
                } else {
                    Effects::empty()
                };
                detailed(primary(Class::Other, Reason::Administration, effects), b"FLUSH")
            }
        }
        Kw::Backup => primary(Class::Other, Reason::TableLock, BACKUP_LOCK),
        Kw::Analyze => analyze(toks, flavour),
        Kw::Create | Kw::Drop | Kw::Truncate | Kw::Alter | Kw::Rename => ddl(toks, flavour),
        Kw::Grant | Kw::Revoke => {
            let effects = Effects::DDL | Effects::SERVER_WIDE;
            detailed(primary(Class::Write, Reason::WriteKeyword, effects), toks[0].text)
        }
        Kw::Install | Kw::Uninstall | Kw::Import => {
            let v = primary(Class::Other, Reason::Administration, Effects::DDL);
            detailed(v, toks[0].text)
        }
        Kw::Check
        | Kw::Checksum
        | Kw::Optimize
        | Kw::Repair
        | Kw::Purge
        | Kw::Reset
        | Kw::Shutdown
        | Kw::Restart
        | Kw::Change
        | Kw::Stop
        | Kw::Binlog
        | Kw::Clone
        | Kw::Cache => {
            let effects = facts::facts(&toks[1..], flavour).effects & Effects::USER_VAR;
            detailed(primary(Class::Other, Reason::Administration, effects), toks[0].text)
        }
        _ => unknown(toks, flavour),
    }
}

/// A statement whose first word isn't known.
fn unknown(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let facts = facts::facts(toks, flavour);
    let first = toks.iter().find(|t| t.kind != Kind::Open).map_or(&b"("[..], |t| t.text);
    let first = &first[..first.len().min(64)];
    let v = primary(Class::Write, Reason::Unknown, facts.effects | Effects::HIDDEN_CODE);
    detailed(v, first)
}

/// Where the facts send a read: `None` if nowhere but to any replica.
fn held(facts: &Facts) -> Option<Verdict> {
    let (reason, detail) = facts.worst()?;
    let class = match reason {
        Reason::PrimaryFunction if facts.writes => Class::Write,
        Reason::PrimaryFunction
        | Reason::PrimaryVariable
        | Reason::UserVariable
        | Reason::ServerStatus
        | Reason::Diagnostics => Class::Read,
        _ => Class::Write,
    };
    let class = if facts.writes { Class::Write } else { class };
    let mut verdict = detailed(primary(class, reason, facts.effects), detail.as_bytes());
    if reason == Reason::Diagnostics {
        verdict.route = Route::LastUsed;
    }
    Some(verdict)
}

/// A candidate read: `SELECT`, `WITH`, `TABLE`, `VALUES`, in parentheses or not.
pub fn read(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let facts = facts::facts(toks, flavour);
    let held = held(&facts);
    let hidden = facts.effects.contains(Effects::HIDDEN_CODE) || facts.dictionary;
    let opinion = match &held {
        // Writes and calls of unknown code: the tables can't be told anyway.
        Some(v) if hidden || v.reason == Reason::WriteKeyword => Opinion::None,
        _ => parse::opinion(toks, flavour),
    };
    let (objection, tables) = match opinion {
        Opinion::Read(tables) => (None, tables),
        Opinion::NotRead(what, tables) => (Some(what), tables),
        Opinion::None => (None, Tables::Unknown),
    };
    let tables = if hidden { Tables::Unknown } else { tables };
    match held {
        Some(verdict) => Verdict { tables, ..verdict },
        None => match objection {
            Some(what) => {
                let v = primary(Class::Write, Reason::Unknown, facts.effects);
                detailed(Verdict { tables, ..v }, what.as_bytes())
            }
            None => Verdict {
                class: Class::Read,
                route: Route::AnyReplica,
                reason: Reason::PlainRead,
                detail: None,
                effects: facts.effects,
                tables,
                hint: None,
            },
        },
    }
}

/// A read that isn't a query (`SHOW TABLES`, `DESCRIBE t`): its tokens after the first alone count.
pub fn simple_read(toks: &[Tok<'_>], flavour: Flavour, tables: Tables) -> Verdict {
    let facts = facts::facts(&toks[1..], flavour);
    match held(&facts) {
        Some(verdict) => verdict,
        None => Verdict {
            class: Class::Read,
            route: Route::AnyReplica,
            reason: Reason::PlainRead,
            detail: None,
            effects: facts.effects,
            tables,
            hint: None,
        },
    }
}

/// What an application is told of a plan is the primary's: a replica has statistics of its own.
fn planned(mut verdict: Verdict) -> Verdict {
    if verdict.route == Route::AnyReplica {
        verdict.route = Route::Primary;
        verdict.reason = Reason::ServerStatus;
        verdict.detail = Some("EXPLAIN".into());
    }
    verdict
}

fn explain(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let mut at = 1;
    let kw = |i: usize| toks.get(i).map_or(Kw::None, |t| t.kw);
    loop {
        match kw(at) {
            Kw::Extended | Kw::Partitions if kw(at + 1) != Kw::None => at += 1,
            Kw::Format if toks.get(at + 1).is_some_and(|t| t.text == b"=") => at += 3,
            _ => break,
        }
    }
    match kw(at) {
        Kw::Analyze => analyze(&toks[at..], flavour),
        Kw::For => {
            detailed(primary(Class::Other, Reason::ServerStatus, Effects::empty()), b"EXPLAIN FOR")
        }
        Kw::Select | Kw::With | Kw::Values | Kw::Table => planned(read(&toks[at..], flavour)),
        Kw::None if toks.get(at).is_some_and(|t| t.kind == Kind::Open) => {
            planned(statement(&toks[at..], flavour))
        }
        Kw::Insert | Kw::Replace | Kw::Update | Kw::Delete => {
            let effects = facts::facts(&toks[at + 1..], flavour).effects & Effects::USER_VAR;
            detailed(primary(Class::Write, Reason::WriteKeyword, effects), toks[at].text)
        }
        _ => match table_at(toks, at) {
            // `DESCRIBE t`, `DESCRIBE t column`, `DESCRIBE t 'pattern'`
            Some((table, end)) if end + 1 >= toks.len() && at == 1 => {
                simple_read(toks, flavour, Tables::Known(Box::new([table])))
            }
            _ => unknown(toks, flavour),
        },
    }
}

/// `ANALYZE TABLE`, and MariaDB's `ANALYZE SELECT`, which runs what it explains.
fn analyze(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let statement = toks.iter().position(|t| {
        matches!(
            t.kw,
            Kw::Select | Kw::With | Kw::Insert | Kw::Replace | Kw::Update | Kw::Delete | Kw::Values
        )
    });
    let table = toks.iter().take(3).any(|t| t.is(Kw::Table));
    match statement {
        Some(at) if !table => {
            let writes = matches!(toks[at].kw, Kw::Insert | Kw::Replace | Kw::Update | Kw::Delete);
            if writes {
                return write(&toks[at..], flavour);
            }
            let inner = read(&toks[at..], flavour);
            match inner.route {
                Route::AnyReplica => detailed(
                    Verdict {
                        tables: inner.tables,
                        ..primary(Class::Other, Reason::Unknown, inner.effects)
                    },
                    b"ANALYZE",
                ),
                _ => Verdict { route: Route::Primary, ..inner },
            }
        }
        _ => detailed(primary(Class::Other, Reason::Administration, Effects::empty()), b"ANALYZE"),
    }
}

/// A table's name at `at`, and where it ends.
pub fn table_at(toks: &[Tok<'_>], at: usize) -> Option<(Table, usize)> {
    let part = |i: usize| -> Option<Box<str>> {
        let tok = toks.get(i)?;
        if !facts::is_name(tok) || tok.kw.reserved() || !tok.text.is_ascii() {
            return None;
        }
        Some(String::from_utf8(facts::name(tok)).ok()?.into_boxed_str())
    };
    let first = part(at)?;
    if toks.get(at + 1).is_some_and(|t| t.kind == Kind::Dot) {
        let name = part(at + 2)?;
        if toks.get(at + 3).is_some_and(|t| t.kind == Kind::Dot) {
            return None;
        }
        return Some((Table { schema: Some(first), name }, at + 3));
    }
    Some((Table { schema: None, name: first }, at + 1))
}

/// `INSERT`, `REPLACE`, `UPDATE`, `DELETE`, `LOAD DATA`. The tables are those the text names:
/// triggers and foreign keys may write others.
fn write(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let kw = toks[0].kw;
    let kw_at = |i: usize| toks.get(i).map_or(Kw::None, |t| t.kw);
    let mut at = 1;
    while matches!(kw_at(at), Kw::LowPriority | Kw::HighPriority | Kw::Delayed | Kw::Ignore)
        || toks.get(at).is_some_and(|t| kw == Kw::Delete && t.text.eq_ignore_ascii_case(b"quick"))
    {
        at += 1;
    }
    let target = match kw {
        Kw::Insert | Kw::Replace => table_at(toks, at + usize::from(kw_at(at) == Kw::Into)),
        Kw::Delete if kw_at(at) == Kw::From => table_at(toks, at + 1).filter(|(_, end)| {
            // One table, with no alias list, `USING` or join after it.
            matches!(kw_at(*end), Kw::Where | Kw::Order | Kw::Limit | Kw::Returning)
                || *end == toks.len()
        }),
        Kw::Update => table_at(toks, at).filter(|(_, end)| kw_at(*end) == Kw::Set),
        _ => None,
    };
    let from = match kw {
        Kw::Insert | Kw::Replace => after_columns(toks),
        // LOAD DATA ... INTO TABLE t (columns) SET a = f(@b)
        Kw::Load => toks
            .iter()
            .enumerate()
            .position(|(i, t)| t.is(Kw::Set) && !toks[i.saturating_sub(1)].is(Kw::Character))
            .unwrap_or(toks.len()),
        _ => target.as_ref().map_or(1, |(_, end)| *end),
    };
    let facts = facts::facts(&toks[from..], flavour);
    let mut verdict = primary(Class::Write, Reason::WriteKeyword, facts.effects);
    if kw == Kw::Load {
        if toks.iter().take(8).any(|t| t.is(Kw::Local)) {
            verdict.effects |= Effects::LOCAL_INFILE;
        }
        if toks.iter().any(|t| t.kind == Kind::UserVar) {
            verdict.effects |= Effects::USER_VAR;
        }
    }
    // Only its own target is written, unless it selects from others: those are only read, and
    // more tables than needed do no harm, but they aren't in the list.
    if let Some((table, _)) = target
        && !verdict.effects.contains(Effects::HIDDEN_CODE)
    {
        verdict.tables = Tables::Known(Box::new([table]));
    }
    detailed(verdict, toks[0].kw.text().as_bytes())
}

/// Where the values of an `INSERT` or `REPLACE` begin: its list of columns looks like a call.
fn after_columns(toks: &[Tok<'_>]) -> usize {
    let kw_at = |i: usize| toks.get(i).map_or(Kw::None, |t| t.kw);
    let mut at = 1;
    while toks.get(at).is_some_and(|t| {
        t.kind == Kind::Dot
            || (facts::is_name(t)
                && !matches!(
                    t.kw,
                    Kw::Values | Kw::Value | Kw::Select | Kw::With | Kw::Set | Kw::Partition
                ))
    }) {
        at += 1;
    }
    at += usize::from(kw_at(at) == Kw::Partition);
    while toks.get(at).is_some_and(|t| t.kind == Kind::Open)
        && !matches!(kw_at(at + 1), Kw::Select | Kw::With)
        && toks.get(at + 1).is_none_or(|t| t.kind != Kind::Open)
    {
        at = facts::closing(toks, at).map_or(at + 1, |i| i + 1);
    }
    at + usize::from(kw_at(at) == Kw::Value)
}

fn ddl(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let kw_at = |i: usize| toks.get(i).map_or(Kw::None, |t| t.kw);
    let mut verdict = detailed(
        primary(Class::Write, Reason::WriteKeyword, Effects::DDL),
        toks[0].kw.text().as_bytes(),
    );
    let mut at = 1;
    let schema = kw_at(1) == Kw::Database
        || toks.get(1).is_some_and(|t| t.text.eq_ignore_ascii_case(b"schema"));
    if schema && matches!(toks[0].kw, Kw::Alter | Kw::Drop) {
        // Whoever has it as their schema has its character set of before.
        verdict.effects |= Effects::SERVER_WIDE;
    }
    if (1..=3).any(|i| matches!(kw_at(i), Kw::User | Kw::Role)) {
        verdict.effects |= Effects::SERVER_WIDE;
    }
    match toks[0].kw {
        Kw::Create => {
            if kw_at(at) == Kw::Or {
                at += 2;
            }
            let temporary = kw_at(at) == Kw::Temporary;
            at += usize::from(temporary);
            if matches!(kw_at(at), Kw::Table | Kw::Sequence) {
                if kw_at(at + 1) == Kw::If {
                    at += 3;
                }
                if let Some((table, _)) = table_at(toks, at + 1) {
                    verdict.tables = Tables::Known(Box::new([table]));
                }
            }
            if temporary {
                verdict.effects |= Effects::CREATE_TEMPORARY;
            }
            // `CREATE TABLE ... SELECT f(), @a`
            if !toks.iter().take(32).any(|t| t.is(Kw::View))
                && !holds_statements(toks)
                && let Some(select) = toks.iter().position(|t| t.is(Kw::Select))
            {
                verdict.effects |= facts::facts(&toks[select..], flavour).effects;
                if verdict.effects.contains(Effects::HIDDEN_CODE) && !temporary {
                    verdict.tables = Tables::Unknown;
                }
            }
        }
        Kw::Drop | Kw::Truncate => {
            at += usize::from(kw_at(at) == Kw::Temporary);
            if matches!(kw_at(at), Kw::Table | Kw::Tables | Kw::Sequence) {
                at += 1;
                if kw_at(at) == Kw::If {
                    at += 2;
                }
            } else if toks[0].is(Kw::Drop) {
                return verdict;
            }
            let mut tables = Vec::new();
            while let Some((table, end)) = table_at(toks, at) {
                tables.push(table);
                at = end;
                if toks.get(at).is_none_or(|t| t.kind != Kind::Comma) {
                    verdict.tables = Tables::Known(tables.into_boxed_slice());
                    break;
                }
                at += 1;
            }
        }
        _ => {}
    }
    verdict
}
