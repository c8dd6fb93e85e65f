//! What a plain `INSERT` puts into its table, as far as its text tells.

use crate::Dialect;
use crate::keyword::{self, Kw};
use crate::lexer::{Kind, Lexer};

/// An `INSERT` of given values that inserts all of its rows or fails, and answers with nothing but
/// an OK: without `IGNORE`, `ON DUPLICATE KEY UPDATE`, `SELECT`, `RETURNING`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    pub rows: u64,
    /// The columns that it names; `None`: it names none, which is all of them.
    pub columns: Option<Vec<Box<[u8]>>>,
}

impl Insert {
    /// Whether it names a column of this name.
    #[must_use]
    pub fn names(&self, column: &[u8]) -> bool {
        self.columns.as_ref().is_none_or(|columns| {
            // Beyond ASCII names are equal in more ways than bytes are.
            columns.iter().any(|c| !c.is_ascii() || c.eq_ignore_ascii_case(column))
        })
    }
}

/// Reads one; `None` if `sql` is anything else, or calls `LAST_INSERT_ID()`, which changes what the OK
/// says.
#[must_use]
pub fn plain_insert(sql: &[u8], dialect: &Dialect) -> Option<Insert> {
    let mut toks = Toks::default();
    for token in Lexer::new(sql, dialect) {
        let text = &sql[token.start..token.end];
        match token.kind {
            Kind::Space | Kind::Comment => continue,
            Kind::Odd | Kind::ExecOpen | Kind::ExecClose => return None,
            Kind::Word if text.eq_ignore_ascii_case(b"last_insert_id") => return None,
            _ => {}
        }
        let kw = match token.kind {
            Kind::Word => keyword::find(text).unwrap_or_default(),
            _ => Kw::None,
        };
        toks.0.push((token.kind, kw, text));
    }
    while toks.0.last().is_some_and(|(kind, ..)| *kind == Kind::Semi) {
        toks.0.pop();
    }
    toks.insert()
}

#[derive(Default)]
struct Toks<'a>(Vec<(Kind, Kw, &'a [u8])>);

impl Toks<'_> {
    fn kind(&self, at: usize) -> Option<Kind> {
        self.0.get(at).map(|(kind, ..)| *kind)
    }

    fn is(&self, at: usize, kw: Kw) -> bool {
        self.0.get(at).is_some_and(|(_, k, _)| *k == kw)
    }

    /// The name at `at`, without its quotes.
    fn name(&self, at: usize) -> Option<Box<[u8]>> {
        let (kind, _, text) = self.0.get(at)?;
        match kind {
            Kind::Word => Some((*text).into()),
            Kind::Quoted => text.get(1..text.len().checked_sub(1)?).map(Into::into),
            _ => None,
        }
    }

    fn insert(&self) -> Option<Insert> {
        if !self.is(0, Kw::Insert) {
            return None;
        }
        let mut at = 1 + usize::from(self.is(1, Kw::Into));
        self.name(at)?;
        at += 1;
        if self.kind(at) == Some(Kind::Dot) {
            self.name(at + 1)?;
            at += 2;
        }
        if self.is(at, Kw::Set) {
            return self.assignments(at + 1);
        }
        let mut columns = None;
        if self.kind(at) == Some(Kind::Open) {
            let mut names = Vec::new();
            at += 1;
            while self.kind(at) != Some(Kind::Close) {
                names.push(self.name(at)?);
                at += 1;
                match self.kind(at)? {
                    Kind::Comma => at += 1,
                    Kind::Close => {}
                    _ => return None,
                }
            }
            at += 1;
            columns = Some(names).filter(|names| !names.is_empty());
        }
        if !self.is(at, Kw::Values) && !self.is(at, Kw::Value) {
            return None;
        }
        let mut rows = 0;
        loop {
            at = self.closed(at + 1)?;
            rows += 1;
            match self.kind(at) {
                None => return Some(Insert { rows, columns }),
                Some(Kind::Comma) => {}
                Some(_) => return None,
            }
        }
    }

    /// `SET a = 1, b = 2`
    fn assignments(&self, mut at: usize) -> Option<Insert> {
        let mut columns = Vec::new();
        loop {
            columns.push(self.name(at)?);
            if self.0.get(at + 1)?.2 != b"=" {
                return None;
            }
            at += 2;
            while let Some(kind) = self.kind(at) {
                match kind {
                    Kind::Comma => break,
                    Kind::Open => at = self.closed(at)?,
                    Kind::Semi => return None,
                    _ if self.is(at, Kw::On) || self.is(at, Kw::Returning) => return None,
                    _ => at += 1,
                }
            }
            if self.kind(at).is_none() {
                return Some(Insert { rows: 1, columns: Some(columns) });
            }
            at += 1;
        }
    }

    /// What is behind the parenthesis that closes the one at `at`.
    fn closed(&self, mut at: usize) -> Option<usize> {
        let mut depth = 0_usize;
        loop {
            match self.kind(at)? {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.checked_sub(1)?,
                Kind::Semi => return None,
                _ => {}
            }
            at += 1;
            match depth {
                0 if self.kind(at - 1) == Some(Kind::Close) => return Some(at),
                0 => return None,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Flavour;

    fn read(sql: &str) -> Option<(u64, Option<Vec<String>>)> {
        let dialect = Dialect::new(Flavour::MariaDb { version: 101_100 });
        let insert = plain_insert(sql.as_bytes(), &dialect)?;
        let text = |name: Box<[u8]>| String::from_utf8(name.into()).unwrap();
        Some((insert.rows, insert.columns.map(|c| c.into_iter().map(text).collect())))
    }

    #[test]
    fn rows_are_counted_and_columns_named() {
        let columns = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect());
        for (sql, expected) in [
            ("INSERT INTO t VALUES (1)", (1, None)),
            ("insert app.t value (1, (2 + 3)), ('x, (', f(1))  ;", (2, None)),
            (
                "/* why */ INSERT INTO t (a, `b`) VALUES (1, ?), (2, ?), (3, ?)",
                (3, columns(&["a", "b"])),
            ),
            ("INSERT INTO t () VALUES ()", (1, None)),
            ("INSERT INTO t SET a = (SELECT 1), b = 'on'", (1, columns(&["a", "b"]))),
        ] {
            assert_eq!(read(sql), Some(expected), "{sql}");
        }
    }

    #[test]
    fn whatever_else_may_become_of_it_is_not_plain() {
        for sql in [
            "INSERT IGNORE INTO t VALUES (1)",
            "INSERT DELAYED INTO t VALUES (1)",
            "INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = 2",
            "INSERT INTO t SET a = 1 ON DUPLICATE KEY UPDATE a = 2",
            "INSERT INTO t VALUES (1) RETURNING a",
            "INSERT INTO t SET a = 1 RETURNING a",
            "INSERT INTO t VALUES (1) AS new ON DUPLICATE KEY UPDATE a = new.a",
            "INSERT INTO t SELECT 1",
            "INSERT INTO t (a) SELECT 1",
            "INSERT INTO t (a) (SELECT 1)",
            "INSERT INTO t PARTITION (p) VALUES (1)",
            "INSERT INTO t VALUES (LAST_INSERT_ID(5))",
            "INSERT INTO t VALUES (1) /*!50000 ON DUPLICATE KEY UPDATE a = 2 */",
            "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)",
            "INSERT INTO t VALUES (1",
            "INSERT INTO t VALUES",
            "REPLACE INTO t VALUES (1)",
            "UPDATE t SET a = 1",
            "",
        ] {
            assert_eq!(read(sql), None, "{sql}");
        }
    }

    #[test]
    fn columns_are_compared_as_servers_do() {
        let dialect = Dialect::new(Flavour::MySql { version: 90_000 });
        let of = |sql: &str| plain_insert(sql.as_bytes(), &dialect).unwrap();
        assert!(of("INSERT INTO t (Id) VALUES (1)").names(b"id"));
        assert!(!of("INSERT INTO t (a) VALUES (1)").names(b"id"));
        assert!(of("INSERT INTO t VALUES (1)").names(b"id"));
    }
}
