//! Statements about the session itself: `SET`, `USE`, transactions, `PREPARE`.

use crate::bare::for_next_transaction;
use crate::judge::primary;
use crate::keyword::Kw;
use crate::lexer::Kind;
use crate::normal::Tok;
use crate::{Class, Effects, Flavour, Reason, Route, Tables, Verdict, facts};

fn any_session(effects: Effects) -> Verdict {
    Verdict {
        class: Class::Session,
        route: Route::AnySession,
        reason: Reason::SessionState,
        detail: None,
        effects,
        tables: Tables::Known(Box::new([])),
        hint: None,
    }
}

/// `USE db`.
pub fn use_schema(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    match toks {
        [_, name] if facts::is_name(name) => any_session(Effects::USE),
        _ => {
            let effects = facts::facts(toks, flavour).effects;
            primary(Class::Session, Reason::Unknown, effects | Effects::USE)
        }
    }
}

/// `START`, `COMMIT`, `ROLLBACK`, `SAVEPOINT`, `RELEASE`, `XA`.
pub fn transaction(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let has = |kw: Kw| toks.iter().any(|t| t.is(kw));
    let second = toks.get(1).map_or(Kw::None, |t| t.kw);
    let on_primary = |effects| primary(Class::Session, Reason::Transaction, effects);
    match toks[0].kw {
        Kw::Start if second == Kw::Transaction => {
            let word = |i: usize| toks.get(i).map_or(Kw::None, |t| t.kw);
            let mut at = 2;
            let mut read_only = false;
            let mut understood = true;
            while at < toks.len() {
                match (word(at), word(at + 1), word(at + 2)) {
                    (Kw::Read, Kw::Only, _) => {
                        read_only = true;
                        at += 2;
                    }
                    (Kw::With, Kw::Consistent, Kw::Snapshot) => at += 3,
                    _ if toks[at].kind == Kind::Comma => at += 1,
                    _ => {
                        understood = false;
                        break;
                    }
                }
            }
            if read_only && understood {
                Verdict {
                    class: Class::Session,
                    route: Route::AnyReplica,
                    reason: Reason::ReadOnlyTransaction,
                    detail: None,
                    effects: Effects::BEGIN_READ_ONLY,
                    tables: Tables::Known(Box::new([])),
                    hint: None,
                }
            } else {
                on_primary(Effects::BEGIN)
            }
        }
        // START SLAVE, START REPLICA, START GROUP_REPLICATION
        Kw::Start => primary(Class::Other, Reason::Administration, Effects::empty()),
        Kw::Rollback if has(Kw::To) => on_primary(Effects::empty()),
        Kw::Commit | Kw::Rollback => {
            let chain = has(Kw::Chain)
                && !toks
                    .windows(2)
                    .any(|w| w[0].text.eq_ignore_ascii_case(b"no") && w[1].is(Kw::Chain));
            on_primary(if chain { Effects::END | Effects::BEGIN } else { Effects::END })
        }
        Kw::Xa => on_primary(Effects::XA),
        Kw::Savepoint => on_primary(Effects::empty()),
        Kw::Release if second == Kw::Savepoint => on_primary(Effects::empty()),
        _ => {
            let effects = facts::facts(toks, flavour).effects;
            primary(Class::Write, Reason::Unknown, effects | Effects::HIDDEN_CODE)
        }
    }
}

/// `PREPARE`, `EXECUTE`, `DEALLOCATE PREPARE`, `DROP PREPARE`, `EXECUTE IMMEDIATE`.
pub fn text_prepare(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let effects = facts::facts(&toks[1..], flavour).effects;
    match (toks[0].kw, toks.get(1).map(|t| t.kw)) {
        (Kw::Execute, Some(Kw::Immediate)) => {
            primary(Class::Write, Reason::Procedure, effects | Effects::HIDDEN_CODE)
        }
        (Kw::Execute, _) => primary(
            Class::Write,
            Reason::TextPrepare,
            effects | Effects::TEXT_PREPARE | Effects::HIDDEN_CODE,
        ),
        _ => primary(Class::Session, Reason::TextPrepare, effects | Effects::TEXT_PREPARE),
    }
}

/// What one assignment of a `SET` does.
enum Item {
    /// A session variable gets a literal: any server can do it.
    Plain,
    /// Only the primary should, with these effects.
    Primary(Reason, Effects),
}

/// `SET ...`.
pub fn set(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let all = facts::facts(&toks[1..], flavour);
    let second = toks.get(1).map_or(Kw::None, |t| t.kw);
    let third = toks.get(2).map_or(Kw::None, |t| t.kw);
    match second {
        Kw::Statement => {
            // SET STATEMENT max_statement_time=1 FOR DELETE ...
            return primary(Class::Write, Reason::SetStatement, all.effects);
        }
        Kw::Password | Kw::Role | Kw::Resource => {
            // Account names look like user variables, and PASSWORD() is gone from MySQL 8.
            return other(second, all.effects - Effects::USER_VAR - Effects::HIDDEN_CODE);
        }
        Kw::Default if third == Kw::Role => return other(second, all.effects - Effects::USER_VAR),
        _ => {}
    }
    let scope = matches!(second, Kw::Session | Kw::Local | Kw::Global);
    if second == Kw::Transaction || (scope && third == Kw::Transaction) {
        let effects = match second {
            Kw::Transaction => Effects::SET_NEXT_TRANSACTION,
            Kw::Global => Effects::SET_OTHER | Effects::SERVER_WIDE,
            _ => Effects::SET_SYSVAR,
        };
        return primary(Class::Session, Reason::Transaction, effects | all.effects);
    }

    let mut effects = Effects::empty();
    let mut worst = None;
    let mut items = 0;
    let mut depth = 0usize;
    let mut start = 1;
    for i in 1..=toks.len() {
        match toks.get(i).map(|t| t.kind) {
            Some(Kind::Open) => depth += 1,
            Some(Kind::Close) => depth = depth.saturating_sub(1),
            Some(Kind::Comma) | None if depth == 0 || i == toks.len() => {
                items += 1;
                if bare(&toks[start..i]) {
                    effects |= Effects::SET_BARE;
                }
                match item(&toks[start..i], flavour) {
                    Item::Plain => effects |= Effects::SET_SYSVAR,
                    Item::Primary(reason, more) => {
                        effects |= more;
                        worst.get_or_insert(reason);
                    }
                }
                start = i + 1;
            }
            _ => {}
        }
    }
    debug_assert!(items > 0);
    // All but what belongs to the names on the left was noted item by item.
    effects |= all.effects;
    match worst {
        None => any_session(effects),
        Some(reason) => primary(Class::Session, reason, effects),
    }
}

fn other(kw: Kw, effects: Effects) -> Verdict {
    let ddl = match kw {
        Kw::Role => Effects::empty(),
        _ => Effects::DDL | Effects::SERVER_WIDE,
    };
    primary(Class::Write, Reason::SetStatement, effects | Effects::SET_OTHER | ddl)
}

/// A literal, or a word that stands for itself: not `CURRENT_TIMESTAMP`, not a call.
fn plain_value(toks: &[Tok<'_>]) -> bool {
    match toks {
        [value] if value.literal() => true,
        [value] if value.kind == Kind::Word => {
            matches!(
                value.kw,
                Kw::On | Kw::Default | Kw::True | Kw::False | Kw::Binary | Kw::All | Kw::Null
            ) || (!value.kw.reserved()
                && value.text.is_ascii()
                && !value.text.to_ascii_uppercase().starts_with(b"CURRENT_")
                && !value.text.eq_ignore_ascii_case(b"localtimestamp")
                && !value.text.to_ascii_uppercase().starts_with(b"UTC_"))
        }
        _ => false,
    }
}

/// Whether it is `@@x = ...`.
fn bare(toks: &[Tok<'_>]) -> bool {
    toks.first().is_some_and(|t| {
        t.kind == Kind::SysVar && !for_next_transaction(&facts::name(t).to_ascii_lowercase())
    }) && assigns(toks.get(1))
}

fn item(toks: &[Tok<'_>], flavour: Flavour) -> Item {
    let set = Reason::SetStatement;
    let kw = |i: usize| toks.get(i).map_or(Kw::None, |t| t.kw);
    match toks.first().map(|t| t.kind) {
        None => return Item::Primary(Reason::Unknown, Effects::empty()),
        Some(Kind::UserVar) => return Item::Primary(Reason::UserVariable, Effects::USER_VAR),
        _ => {}
    }
    // SET NAMES x [COLLATE y], SET CHARACTER SET x, SET CHARSET x
    let value = match (kw(0), kw(1)) {
        (Kw::Names | Kw::Charset, _) if !assigns(toks.get(1)) => Some(1),
        (Kw::Character, Kw::Set) => Some(2),
        _ => None,
    };
    if let Some(at) = value {
        let collate = toks.iter().position(|t| t.is(Kw::Collate)).unwrap_or(toks.len());
        let fine = at <= collate
            && plain_value(&toks[at..collate])
            && (collate == toks.len() || plain_value(&toks[collate + 1..]));
        return if fine { Item::Plain } else { Item::Primary(set, Effects::SET_SYSVAR) };
    }

    let mut at = 0;
    let mut scope = kw(0);
    let mut bare = false;
    match toks[0].kind {
        Kind::SysVar => {
            let named = facts::name(&toks[0]);
            let scoped = toks.get(1).is_some_and(|t| t.kind == Kind::Dot);
            scope = match named.to_ascii_lowercase().as_slice() {
                b"session" | b"local" if scoped => Kw::Session,
                b"global" if scoped => Kw::Global,
                b"persist" | b"persist_only" if scoped => Kw::Persist,
                _ if scoped => return Item::Primary(set, Effects::SET_OTHER),
                _ => Kw::None,
            };
            bare = !scoped;
            at = if scoped { 2 } else { 0 };
        }
        _ if matches!(
            scope,
            Kw::Session | Kw::Local | Kw::Global | Kw::Persist | Kw::PersistOnly
        ) && !assigns(toks.get(1)) =>
        {
            at = 1;
        }
        _ => scope = Kw::None,
    }
    match scope {
        Kw::Global | Kw::Persist | Kw::PersistOnly => {
            return Item::Primary(set, Effects::SET_OTHER | Effects::SERVER_WIDE);
        }
        _ => {}
    }
    let Some(target) = toks.get(at) else { return Item::Primary(set, Effects::SET_OTHER) };
    if !(facts::is_name(target) || target.kind == Kind::SysVar) || !assigns(toks.get(at + 1)) {
        // A qualified name (`NEW.x`, `cache.size`), or syntax not known here.
        return Item::Primary(set, Effects::SET_SYSVAR | Effects::SET_OTHER);
    }
    let name = String::from_utf8_lossy(&facts::name(target)).to_ascii_lowercase();
    let value = &toks[at + 2..];
    if name == "autocommit" {
        return Item::Primary(Reason::Transaction, Effects::SET_AUTOCOMMIT | Effects::SET_SYSVAR);
    }
    if for_next_transaction(name.as_bytes()) {
        // Without SESSION, `SET @@x` is for the next transaction only.
        let effect = if bare { Effects::SET_NEXT_TRANSACTION } else { Effects::SET_SYSVAR };
        return Item::Primary(Reason::Transaction, effect);
    }
    if name == "profiling" {
        // What is profiled from here on is kept by that connection.
        return Item::Primary(set, Effects::SET_SYSVAR | Effects::SET_OTHER);
    }
    if belongs_to_primary(&name) || !plain_value(value) {
        let effects = facts::facts(value, flavour).effects;
        return Item::Primary(set, Effects::SET_SYSVAR | effects);
    }
    Item::Plain
}

/// Session variables that steer the next write, the binary log, or replication.
fn belongs_to_primary(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "identity",
        "insert_id",
        "last_insert_id",
        "rand_seed1",
        "rand_seed2",
        "server_id",
        "skip_replication",
        // Servers don't report that they changed, and only writes need them.
        "default_storage_engine",
        "default_tmp_storage_engine",
        "storage_engine",
        "sql_log_bin",
        "sql_log_off",
        "timestamp",
        "default_master_connection",
        "debug",
        "debug_sync",
        "debug_dbug",
        "read_only",
        "super_read_only",
        "original_commit_timestamp",
        "immediate_server_version",
        "original_server_version",
        "profiling_history_size",
    ];
    const PREFIXES: &[&str] =
        &["binlog_", "gtid_", "pseudo_", "wsrep_", "slave_", "replica_", "rpl_", "last_gtid"];
    NAMES.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))
}

fn assigns(tok: Option<&Tok<'_>>) -> bool {
    tok.is_some_and(|t| t.kind == Kind::Assign || (t.kind == Kind::Op && t.text == b"="))
}
