//! Puts the id that the client was told at login in the place of `CONNECTION_ID()`.

use crate::Dialect;
use crate::keyword::{self, Kw};
use crate::lexer::{Kind, Lexer, Token};

/// Longest text of a select item that becomes its alias (servers allow 255 characters).
const MAX_ALIAS: usize = 250;

/// `sql` with every call of `CONNECTION_ID()` replaced; `None` if there is none that may be.
///
/// `replacement` is an expression of the function's type that can't be mistaken for the number of
/// a column in `ORDER BY`: `CAST(5 AS UNSIGNED)`. Items of select lists that have no alias and
/// change get their old text as one, so that result sets name their columns as before.
/// Statements that store code (`CREATE VIEW`) are left alone.
#[must_use]
pub fn rewrite_connection_id(sql: &[u8], dialect: &Dialect, replacement: &[u8]) -> Option<Vec<u8>> {
    let toks: Vec<Token> = Lexer::new(sql, dialect)
        .filter(|t| {
            !matches!(t.kind, Kind::Space | Kind::Comment | Kind::ExecOpen | Kind::ExecClose)
        })
        .collect();
    let mut edits = Vec::new();
    for statement in toks.split(|t| t.kind == Kind::Semi) {
        Statement { sql, toks: statement }.edits(replacement, &mut edits)?;
    }
    if edits.is_empty() {
        return None;
    }
    // Of insertions at one place, the inner alias was found first.
    edits.sort_by_key(|e| e.start);
    let mut out = Vec::with_capacity(sql.len() + edits.iter().map(|e| e.text.len()).sum::<usize>());
    let mut at = 0;
    for edit in &edits {
        out.extend_from_slice(&sql[at..edit.start]);
        out.extend_from_slice(&edit.text);
        at = edit.end;
    }
    out.extend_from_slice(&sql[at..]);
    Some(out)
}

struct Edit {
    start: usize,
    end: usize,
    text: Vec<u8>,
}

struct Statement<'a> {
    sql: &'a [u8],
    toks: &'a [Token],
}

/// A pair of parentheses, or what is outside them all.
#[derive(Default)]
struct Level {
    /// Where the item of the select list begins, if one is being read.
    item: Option<usize>,
    call: bool,
    alias: bool,
}

impl Statement<'_> {
    fn text(&self, i: usize) -> &[u8] {
        self.toks.get(i).map_or(&[], |t| &self.sql[t.start..t.end])
    }

    fn kw(&self, i: usize) -> Kw {
        let dotted = i > 0 && self.toks[i - 1].kind == Kind::Dot;
        match self.toks.get(i) {
            Some(t) if t.kind == Kind::Word && !dotted => {
                keyword::find(self.text(i)).unwrap_or_default()
            }
            _ => Kw::None,
        }
    }

    fn is_call(&self, i: usize) -> bool {
        let kind = |i: usize| self.toks.get(i).map(|t| t.kind);
        kind(i) == Some(Kind::Word)
            && self.text(i).eq_ignore_ascii_case(b"connection_id")
            && kind(i + 1) == Some(Kind::Open)
            && kind(i + 2) == Some(Kind::Close)
            && (i == 0 || kind(i - 1) != Some(Kind::Dot))
    }

    fn modifier(&self, i: usize) -> bool {
        matches!(
            self.kw(i),
            Kw::Distinct | Kw::Distinctrow | Kw::All | Kw::HighPriority | Kw::StraightJoin
        ) || (self.toks.get(i).is_some_and(|t| t.kind == Kind::Word)
            && [
                &b"SQL_CALC_FOUND_ROWS"[..],
                b"SQL_NO_CACHE",
                b"SQL_CACHE",
                b"SQL_SMALL_RESULT",
                b"SQL_BIG_RESULT",
                b"SQL_BUFFER_RESULT",
            ]
            .iter()
            .any(|w| self.text(i).eq_ignore_ascii_case(w)))
    }

    /// Ends the item of `level` before the token at `end`.
    fn end_item(&self, level: &mut Level, end: usize, edits: &mut Vec<Edit>) {
        let Some(start) = level.item.take() else { return };
        let aliasable = level.call && !level.alias && end > start;
        level.call = false;
        level.alias = false;
        // Only what ends so can't have an alias without AS already.
        if !aliasable || !matches!(self.toks[end - 1].kind, Kind::Close | Kind::Num) {
            return;
        }
        let to = self.toks[end - 1].end;
        let old = &self.sql[self.toks[start].start..to];
        if old.len() > MAX_ALIAS {
            return;
        }
        let mut text = b" AS `".to_vec();
        for b in old {
            text.push(*b);
            if *b == b'`' {
                text.push(b'`');
            }
        }
        text.push(b'`');
        edits.push(Edit { start: to, end: to, text });
    }

    /// `None`: an unbalanced statement, not to be touched.
    fn edits(&self, replacement: &[u8], edits: &mut Vec<Edit>) -> Option<()> {
        if matches!(self.kw(0), Kw::Create | Kw::Alter | Kw::Prepare) {
            return Some(());
        }
        let mut levels = vec![Level::default()];
        let mut i = 0;
        while i < self.toks.len() {
            if self.is_call(i) {
                for level in &mut levels {
                    level.call |= level.item.is_some();
                }
                let (start, end) = (self.toks[i].start, self.toks[i + 2].end);
                edits.push(Edit { start, end, text: replacement.to_vec() });
                i += 3;
                continue;
            }
            let level = levels.last_mut()?;
            match (self.toks[i].kind, self.kw(i)) {
                (Kind::Open, _) => levels.push(Level::default()),
                (Kind::Close, _) => {
                    self.end_item(level, i, edits);
                    levels.pop();
                    if levels.is_empty() {
                        return None;
                    }
                }
                (_, Kw::Select) => {
                    while self.modifier(i + 1) {
                        i += 1;
                    }
                    level.item = Some(i + 1);
                }
                (Kind::Comma, _) if level.item.is_some() => {
                    self.end_item(level, i, edits);
                    level.item = Some(i + 1);
                }
                (_, Kw::As) => level.alias |= level.item.is_some(),
                (
                    _,
                    Kw::From
                    | Kw::Where
                    | Kw::Union
                    | Kw::Except
                    | Kw::Intersect
                    | Kw::Order
                    | Kw::Group
                    | Kw::Having
                    | Kw::Limit
                    | Kw::Into
                    | Kw::For
                    | Kw::Lock
                    | Kw::Procedure
                    | Kw::Window
                    | Kw::On,
                ) => self.end_item(level, i, edits),
                _ => {}
            }
            i += 1;
        }
        let last = levels.last_mut()?;
        self.end_item(last, self.toks.len(), edits);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Flavour;

    fn rewritten(sql: &str) -> Option<String> {
        let dialect = Dialect::new(Flavour::MariaDb { version: 101_106 });
        rewrite_connection_id(sql.as_bytes(), &dialect, b"CAST(7 AS UNSIGNED)")
            .map(|out| String::from_utf8(out).unwrap().replace("CAST(7 AS UNSIGNED)", "<7>"))
    }

    #[test]
    fn calls_are_replaced_and_columns_keep_their_names() {
        for (sql, want) in [
            ("SELECT CONNECTION_ID()", "SELECT <7> AS `CONNECTION_ID()`"),
            ("select connection_id ( )", "select <7> AS `connection_id ( )`"),
            ("SELECT DISTINCT CONNECTION_ID();", "SELECT DISTINCT <7> AS `CONNECTION_ID()`;"),
            ("SELECT a, CONNECTION_ID() FROM t", "SELECT a, <7> AS `CONNECTION_ID()` FROM t"),
            ("SELECT CONNECTION_ID() AS id", "SELECT <7> AS id"),
            ("SELECT CONNECTION_ID() id, 1", "SELECT <7> id, 1"),
            ("SELECT CONNECTION_ID() 'id'", "SELECT <7> 'id'"),
            ("SELECT CONNECTION_ID()+1", "SELECT <7>+1 AS `CONNECTION_ID()+1`"),
            (
                "SELECT IF(CONNECTION_ID(), `a`, 2) FROM t",
                "SELECT IF(<7>, `a`, 2) AS `IF(CONNECTION_ID(), ``a``, 2)` FROM t",
            ),
            (
                "(SELECT CONNECTION_ID()) UNION SELECT CONNECTION_ID()",
                "(SELECT <7> AS `CONNECTION_ID()`) UNION SELECT <7> AS `CONNECTION_ID()`",
            ),
            (
                "SELECT (SELECT CONNECTION_ID())",
                "SELECT (SELECT <7> AS `CONNECTION_ID()`) AS `(SELECT CONNECTION_ID())`",
            ),
            (
                "SELECT * FROM t WHERE id = CONNECTION_ID() ORDER BY CONNECTION_ID()",
                "SELECT * FROM t WHERE id = <7> ORDER BY <7>",
            ),
            ("INSERT INTO t VALUES (CONNECTION_ID())", "INSERT INTO t VALUES (<7>)"),
            ("SELECT /*!50000 CONNECTION_ID() */", "SELECT /*!50000 <7> AS `CONNECTION_ID()` */"),
            ("SELECT 1; SELECT CONNECTION_ID()", "SELECT 1; SELECT <7> AS `CONNECTION_ID()`"),
        ] {
            assert_eq!(rewritten(sql).as_deref(), Some(want), "{sql}");
        }
    }

    #[test]
    fn what_is_no_call_stays() {
        for sql in [
            "SELECT 'CONNECTION_ID()'",
            "SELECT `CONNECTION_ID`()",
            "SELECT 1 -- CONNECTION_ID()",
            "SELECT /* CONNECTION_ID() */ 1",
            "SELECT db.CONNECTION_ID()",
            "SELECT connection_id FROM t",
            "CREATE VIEW v AS SELECT CONNECTION_ID()",
            "SELECT CONNECTION_ID())",
        ] {
            assert_eq!(rewritten(sql), None, "{sql}");
        }
    }
}
