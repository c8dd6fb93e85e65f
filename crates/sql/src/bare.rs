//! `SET @@x = ...` as `SET @@session.x = ...`, which is the same to MariaDB, but for one thing: the
//! first it does not report to whoever asked to be told of changed variables.

use crate::Dialect;
use crate::keyword::{self, Kw};
use crate::lexer::{Kind, Lexer, Token};

/// A statement that says the scope of all that it assigns.
#[derive(Debug, PartialEq, Eq)]
pub struct Scoped {
    pub sql: Vec<u8>,
    /// Names of the variables that had none, in lower case.
    pub names: Vec<Box<[u8]>>,
}

/// `sql` with a scope for each variable that is assigned without one; `None` if there is none.
///
/// What stands in stored code, in `PREPARE` and in a compound statement is left as it is.
#[must_use]
pub fn scope_assignments(sql: &[u8], dialect: &Dialect) -> Option<Scoped> {
    let toks: Vec<Token> = Lexer::new(sql, dialect)
        .filter(|t| {
            !matches!(t.kind, Kind::Space | Kind::Comment | Kind::ExecOpen | Kind::ExecClose)
        })
        .collect();
    let mut scoped = Scoped { sql: Vec::with_capacity(sql.len() + 16), names: Vec::new() };
    let mut copied = 0;
    for statement in toks.split(|t| t.kind == Kind::Semi) {
        let is_set = statement.first().is_some_and(|first| {
            first.kind == Kind::Word && keyword::find(&sql[first.start..first.end]) == Some(Kw::Set)
        });
        if !is_set {
            continue;
        }
        let mut depth = 0usize;
        for (i, tok) in statement.iter().enumerate().skip(1) {
            match tok.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            let begins = depth == 0 && (i == 1 || statement[i - 1].kind == Kind::Comma);
            let assigned = || {
                statement.get(i + 1).is_some_and(|t| {
                    t.kind == Kind::Assign || (t.kind == Kind::Op && &sql[t.start..t.end] == b"=")
                })
            };
            if tok.kind != Kind::SysVar || !begins || !assigned() {
                continue;
            }
            let name = sql[tok.start + 2..tok.end].to_ascii_lowercase();
            let name = name.strip_prefix(b"`").unwrap_or(&name);
            let name = name.strip_suffix(b"`").unwrap_or(name);
            if for_next_transaction(name) {
                continue;
            }
            scoped.names.push(name.into());
            scoped.sql.extend_from_slice(&sql[copied..tok.start + 2]);
            scoped.sql.extend_from_slice(b"session.");
            copied = tok.start + 2;
        }
    }
    if scoped.names.is_empty() {
        return None;
    }
    scoped.sql.extend_from_slice(&sql[copied..]);
    Some(scoped)
}

/// Without SESSION, these are set for the next transaction only.
pub(crate) fn for_next_transaction(name: &[u8]) -> bool {
    matches!(
        name,
        b"tx_isolation" | b"transaction_isolation" | b"tx_read_only" | b"transaction_read_only"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Flavour;

    fn scoped(sql: &str) -> Option<(String, Vec<String>)> {
        let dialect = Dialect::new(Flavour::MariaDb { version: 101_106 });
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        scope_assignments(sql.as_bytes(), &dialect)
            .map(|s| (text(&s.sql), s.names.iter().map(|n| text(n)).collect()))
    }

    #[test]
    fn variables_without_a_scope_get_one() {
        for (sql, want, names) in [
            ("SET @@sql_mode = ''", "SET @@session.sql_mode = ''", "sql_mode"),
            ("set @@SQL_mode:=\"ANSI\";", "set @@session.SQL_mode:=\"ANSI\";", "sql_mode"),
            ("SET @@`a` = 1", "SET @@session.`a` = 1", "a"),
            (
                "/* x */ SET a = 1, @@b = (SELECT @@c = 1), @@d = @@e",
                "/* x */ SET a = 1, @@session.b = (SELECT @@c = 1), @@session.d = @@e",
                "b d",
            ),
            ("SET SESSION a = 1, @@b = 2", "SET SESSION a = 1, @@session.b = 2", "b"),
            ("SELECT 1; SET @@a = 1", "SELECT 1; SET @@session.a = 1", "a"),
            (
                "SET @@tx_isolation = 'SERIALIZABLE', @@a = 1",
                "SET @@tx_isolation = 'SERIALIZABLE', @@session.a = 1",
                "a",
            ),
        ] {
            let (got, got_names) = scoped(sql).unwrap_or_else(|| panic!("{sql}"));
            assert_eq!((got.as_str(), got_names.join(" ").as_str()), (want, names), "{sql}");
        }
    }

    #[test]
    fn what_has_a_scope_or_is_not_assigned_stays() {
        for sql in [
            "SET sql_mode = ''",
            "SET @@session.a = 1, @@global.b = 2, @@local.c = 3",
            "SET @@tx_read_only = 1",
            "SET a = @@b",
            "SET @a = 1, @b = '@@c = 1'",
            "SELECT @@a = 1",
            "PREPARE s FROM 'SET @@a = 1'",
            "SET @@a",
            "SET",
        ] {
            assert_eq!(scoped(sql), None, "{sql}");
        }
    }
}
