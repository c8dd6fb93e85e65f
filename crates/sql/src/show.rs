//! `SHOW`: some of it describes the schema, which any replica knows; some of it one server's state.

use crate::judge::{primary, simple_read};
use crate::keyword::Kw;
use crate::lexer::Kind;
use crate::normal::Tok;
use crate::{Class, Effects, Flavour, Reason, Route, Tables, Verdict, facts};

/// `SHOW ...`.
///
/// Variables differ between servers and many of them say which role a server has, so
/// `SHOW VARIABLES` goes to the primary, which is what an application that knows of one server
/// expects. Unlike them, `SELECT @@x` names the variable and is judged by its name.
pub fn show(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let mut at = 1;
    while matches!(toks.get(at).map(|t| t.kw), Some(Kw::Full | Kw::Extended)) {
        at += 1;
    }
    let kw = |i: usize| toks.get(i).map_or(Kw::None, |t| t.kw);
    let dictionary = || simple_read(toks, flavour, Tables::Unknown);
    match (kw(at), kw(at + 1)) {
        (Kw::Warnings | Kw::Errors | Kw::Profile | Kw::Profiles, _) => diagnostics(toks, flavour),
        // SHOW COUNT(*) WARNINGS
        (Kw::None, _) if toks.get(at).is_some_and(|t| t.text.eq_ignore_ascii_case(b"count")) => {
            diagnostics(toks, flavour)
        }
        // A replica's table may be written otherwise: made by what was replicated, with a storage
        // engine that was its own default.
        (Kw::Create, _) => status(toks, Effects::empty()),
        // With estimates, times and an AUTO_INCREMENT of each server's own.
        (Kw::Index | Kw::Indexes | Kw::Keys, _) | (Kw::Table, Kw::Status) => {
            status(toks, Effects::empty())
        }
        (
            Kw::Tables
            | Kw::Columns
            | Kw::Fields
            | Kw::Databases
            | Kw::Schemas
            | Kw::Collation
            | Kw::Charset
            | Kw::Character
            | Kw::Engines
            | Kw::Triggers
            | Kw::Privileges,
            _,
        )
        | (Kw::Table | Kw::Procedure | Kw::Function | Kw::Package, _) => {
            if matches!(kw(at), Kw::Procedure | Kw::Function | Kw::Package | Kw::Triggers) {
                // SHOW PROCEDURE STATUS: PROCEDURE is no clause of a query here.
                return without(toks, at, flavour);
            }
            dictionary()
        }
        // Counters of the session, where it last did something.
        (Kw::Status, _) | (Kw::Session | Kw::Local, Kw::Status) => {
            let mut v = status(toks, Effects::empty());
            if v.effects.is_empty() && facts::facts(&toks[1..], flavour).worst().is_none() {
                v.route = Route::LastUsed;
                v.reason = Reason::Diagnostics;
            }
            v
        }
        (Kw::Variables, _) | (Kw::Session | Kw::Local, Kw::Variables) => {
            status(toks, Effects::TRACKING)
        }
        (Kw::Processlist, _) => status(toks, Effects::PROCESSLIST),
        _ => status(toks, Effects::empty()),
    }
}

fn without(toks: &[Tok<'_>], at: usize, flavour: Flavour) -> Verdict {
    simple_read(&toks[at..], flavour, Tables::Unknown)
}

fn diagnostics(toks: &[Tok<'_>], flavour: Flavour) -> Verdict {
    let facts = facts::facts(&toks[1..], flavour);
    let mut v = primary(Class::Other, Reason::Diagnostics, facts.effects | Effects::DIAGNOSTICS);
    v.tables = Tables::Known(Box::new([]));
    if facts.worst().is_none() {
        v.route = Route::LastUsed;
    }
    v
}

fn status(toks: &[Tok<'_>], effects: Effects) -> Verdict {
    let mut v = primary(Class::Other, Reason::ServerStatus, effects);
    let user_var = toks.iter().enumerate().any(|(i, t)| {
        t.kind == Kind::UserVar && !(t.joined && i > 0 && !toks[i - 1].kw.reserved())
    });
    if user_var {
        v.effects |= Effects::USER_VAR;
    }
    let words: Vec<u8> =
        toks.iter().take(3).map(|t| t.text.to_ascii_uppercase()).collect::<Vec<_>>().join(&b' ');
    v.detail = Some(String::from_utf8_lossy(&words[..words.len().min(64)]).into());
    v
}
