//! What a comment asks of Pointsman: `SELECT /* pointsman consistency=strong */ ...`. Pure.
//!
//! After the word `pointsman` (a colon may follow it) come `primary` or `consistency=LEVEL`, with
//! spaces or commas between them. Of several the strictest counts.

use crate::{Reason, Route, Verdict};

/// What may be asked for, the strictest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hint {
    /// These four: what this read may miss, whatever holds for its session.
    Eventual,
    Session,
    Causal,
    Strong,
    /// Read on the primary.
    Primary,
    /// Not understood, so: the primary.
    Unknown,
}

/// The hint in a comment, given with its `/*` and `*/`, `#` or `--`.
pub fn of(comment: &[u8]) -> Option<Hint> {
    let inner = match comment {
        [b'/', b'*', inner @ .., b'*', b'/'] => inner,
        [b'#', inner @ ..] | [b'-', b'-', inner @ ..] => inner,
        _ => return None,
    };
    let name = b"pointsman";
    let (head, rest) = inner.trim_ascii().split_at_checked(name.len())?;
    if !head.eq_ignore_ascii_case(name) {
        return None;
    }
    let rest = match rest {
        [b':', rest @ ..] => rest,
        [] => rest,
        [next, ..] if next.is_ascii_whitespace() => rest,
        _ => return None,
    };
    let words = rest.split(|b| b.is_ascii_whitespace() || *b == b',');
    words.filter(|word| !word.is_empty()).map(word).max()
}

fn word(word: &[u8]) -> Hint {
    let word = word.to_ascii_lowercase();
    match &*word {
        b"primary" => Hint::Primary,
        b"consistency=eventual" => Hint::Eventual,
        b"consistency=session" => Hint::Session,
        b"consistency=causal" => Hint::Causal,
        b"consistency=strong" => Hint::Strong,
        _ => Hint::Unknown,
    }
}

/// Only what may run on any replica is moved; a write stays where it is.
pub fn apply(verdict: &mut Verdict, hint: Option<Hint>) {
    verdict.hint = hint;
    let reason = match hint {
        Some(Hint::Primary) => Reason::Hint,
        Some(Hint::Unknown) => Reason::UnknownHint,
        _ => return,
    };
    if verdict.route == Route::AnyReplica {
        verdict.route = Route::Primary;
        verdict.reason = reason;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_understood() {
        for (comment, expected) in [
            ("/* pointsman consistency=strong */", Some(Hint::Strong)),
            ("/*POINTSMAN: Consistency=Eventual*/", Some(Hint::Eventual)),
            ("# pointsman primary", Some(Hint::Primary)),
            ("-- pointsman consistency=session\n", Some(Hint::Session)),
            ("/* pointsman consistency=causal, primary */", Some(Hint::Primary)),
            ("/* pointsman consistency=weak */", Some(Hint::Unknown)),
            ("/* pointsman consistency = strong */", Some(Hint::Unknown)),
            ("/* pointsman primary please */", Some(Hint::Unknown)),
            ("/* pointsman */", None),
            ("/* pointsmanship primary */", None),
            ("/* the pointsman primary */", None),
            ("/* cached by the page */", None),
            ("/**/", None),
            ("/*/", None),
            ("#", None),
        ] {
            assert_eq!(of(comment.as_bytes()), expected, "{comment}");
        }
    }

    #[test]
    fn a_hint_moves_reads_alone() {
        let dialect = crate::Dialect::new(crate::Flavour::MariaDb { version: 101_100 });
        let verdict = |sql: &str| crate::classify(sql.as_bytes(), &dialect);
        let read = verdict("SELECT /* pointsman consistency=eventual */ * FROM t");
        assert_eq!((read.route, read.hint), (Route::AnyReplica, Some(Hint::Eventual)));
        let read = verdict("/* pointsman primary */ SELECT * FROM t");
        assert_eq!((read.route, read.reason), (Route::Primary, Reason::Hint));
        let read = verdict("SELECT * FROM t -- pointsman fast");
        assert_eq!((read.route, read.reason), (Route::Primary, Reason::UnknownHint));
        let plain = verdict("UPDATE t SET a = 1");
        let write = verdict("UPDATE t /* pointsman consistency=eventual */ SET a = 1");
        assert_eq!(write, Verdict { hint: Some(Hint::Eventual), ..plain });
        let text = verdict("SELECT '/* pointsman primary */' FROM t");
        assert_eq!(text.hint, None);
    }

    /// Statements that differ in nothing else have verdicts of their own.
    #[test]
    fn the_cache_tells_hints_apart() {
        let dialect = crate::Dialect::new(crate::Flavour::MariaDb { version: 101_100 });
        let mut cache = crate::Cache::<()>::new(8, 1);
        let hints = ["", "/* pointsman primary */", "/* pointsman consistency=strong */"];
        for _ in 0..3 {
            for (hint, expected) in
                hints.iter().zip([None, Some(Hint::Primary), Some(Hint::Strong)])
            {
                let sql = format!("SELECT {hint} a FROM t WHERE b = 7");
                assert_eq!(cache.lookup(sql.as_bytes(), &dialect).0.verdict.hint, expected);
            }
        }
        assert_eq!(cache.len(), 3);
    }
}
