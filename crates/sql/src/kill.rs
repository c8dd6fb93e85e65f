//! `KILL`: what it is aimed at.
//!
//! <https://mariadb.com/kb/en/kill/>, <https://dev.mysql.com/doc/refman/8.4/en/kill.html>

use crate::Dialect;
use crate::keyword::{self, Kw};
use crate::lexer::{Kind, Lexer};

/// A `KILL` statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// `KILL QUERY`: ends the statement that runs, not the connection.
    pub query: bool,
    /// `KILL SOFT` (MariaDB): leaves operations alone that would corrupt a table if cut short.
    pub soft: bool,
    pub target: KillTarget,
}

/// Who is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillTarget {
    /// The connection with this id.
    Id(u64),
    /// MariaDB's `KILL QUERY ID n`: the connection that runs the query with this id.
    QueryId(u64),
    /// MariaDB's `KILL USER name[@host]`: all connections of an account.
    User { name: Box<[u8]>, host: Option<Box<[u8]>> },
}

/// Reads a `KILL` with a literal target; `None` if `sql` is anything else, such as a `KILL` whose
/// target is an expression or a parameter.
#[must_use]
pub fn kill(sql: &[u8], dialect: &Dialect) -> Option<Kill> {
    let mut toks = Vec::with_capacity(6);
    for token in Lexer::new(sql, dialect) {
        match token.kind {
            Kind::Space | Kind::Comment | Kind::ExecOpen | Kind::ExecClose => {}
            Kind::Semi if toks.is_empty() => {}
            kind => toks.push((kind, &sql[token.start..token.end])),
        }
        if toks.len() > 12 {
            return None;
        }
    }
    while matches!(toks.last(), Some((Kind::Semi, _))) {
        toks.pop();
    }
    let kw = |i: usize| match toks.get(i) {
        Some((Kind::Word, text)) => keyword::find(text).unwrap_or_default(),
        _ => Kw::None,
    };
    if kw(0) != Kw::Kill {
        return None;
    }
    let mut at = 1;
    let mut soft = false;
    if matches!(kw(at), Kw::Hard | Kw::Soft) {
        soft = kw(at) == Kw::Soft;
        at += 1;
    }
    let mut query = false;
    let mut by_query_id = false;
    match kw(at) {
        Kw::Connection => at += 1,
        Kw::Query => {
            query = true;
            at += 1;
            if kw(at) == Kw::Id {
                by_query_id = true;
                at += 1;
            }
        }
        _ => {}
    }
    let target = if kw(at) == Kw::User && !by_query_id {
        let (name, host) = match toks.get(at + 1..)? {
            [name] => (name, None),
            [name, host] if host.0 == Kind::UserVar => (name, Some(unquote(&host.1[1..]))),
            _ => return None,
        };
        if !matches!(name.0, Kind::Word | Kind::Quoted | Kind::Str) {
            return None;
        }
        KillTarget::User { name: unquote(name.1), host }
    } else {
        let [(Kind::Num, digits)] = toks.get(at..)? else { return None };
        let id = std::str::from_utf8(digits).ok()?.parse().ok()?;
        if by_query_id { KillTarget::QueryId(id) } else { KillTarget::Id(id) }
    };
    Some(Kill { query, soft, target })
}

/// A name or string without its quotes. Backslashes are left alone: no account name has them.
fn unquote(text: &[u8]) -> Box<[u8]> {
    match text {
        [q @ (b'\'' | b'"' | b'`'), inner @ .., _] => {
            let mut out = Vec::with_capacity(inner.len());
            let mut rest = inner.iter();
            while let Some(b) = rest.next() {
                out.push(*b);
                if b == q {
                    rest.next();
                }
            }
            out.into()
        }
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Flavour;

    fn read(sql: &str) -> Option<Kill> {
        kill(sql.as_bytes(), &Dialect::new(Flavour::MariaDb { version: 101_106 }))
    }

    fn id(n: u64) -> Kill {
        Kill { query: false, soft: false, target: KillTarget::Id(n) }
    }

    fn user(name: &str, host: Option<&str>) -> KillTarget {
        KillTarget::User { name: name.as_bytes().into(), host: host.map(|h| h.as_bytes().into()) }
    }

    #[test]
    fn every_spelling_is_read() {
        assert_eq!(read("KILL 5"), Some(id(5)));
        assert_eq!(read(" /* c */ kill\nconnection 18446744073709551615 ;; "), Some(id(u64::MAX)));
        assert_eq!(read("KILL HARD CONNECTION 7"), Some(id(7)));
        assert_eq!(read("/*!50000 KILL */ 7"), Some(id(7)));
        assert_eq!(read("KILL QUERY 7"), Some(Kill { query: true, ..id(7) }));
        assert_eq!(read("KILL SOFT QUERY 7"), Some(Kill { query: true, soft: true, ..id(7) }));
        let by_id = Kill { query: true, soft: false, target: KillTarget::QueryId(9) };
        assert_eq!(read("KILL QUERY ID 9"), Some(by_id));
        assert_eq!(read("KILL USER bob"), Some(Kill { target: user("bob", None), ..id(0) }));
        let quoted = user("it's", Some("%"));
        assert_eq!(read("KILL USER 'it''s'@'%'"), Some(Kill { target: quoted, ..id(0) }));
        let ticks = user("a", Some("10.0.0.1"));
        assert_eq!(
            read("KILL QUERY USER `a`@10.0.0.1"),
            Some(Kill { query: true, target: ticks, ..id(0) })
        );
    }

    #[test]
    fn what_is_no_literal_kill_is_left_alone() {
        for sql in [
            "",
            "KILL",
            "KILL -1",
            "KILL 1.5",
            "KILL 5 6",
            "KILL ?",
            "KILL @a",
            "KILL (SELECT 1)",
            "KILL CONNECTION_ID()",
            "KILL 18446744073709551616",
            "KILL 5; SELECT 1",
            "KILL QUERY ID",
            "SELECT 1",
        ] {
            assert_eq!(read(sql), None, "{sql}");
        }
    }
}
