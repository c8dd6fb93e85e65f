//! The specification tables in `tests/statements/`: what each statement does and where it must go.
//!
//! A line is `SQL => EXPECTATION`; `\xNN` in the SQL is a byte. `#` begins a comment line.
//! `@mariadb VERSION`, `@mysql VERSION`, `@both` (the default) say for which servers the lines after
//! them hold; `@ansi_quotes`, `@no_backslash_escapes`, `@multibyte` switch these on, `@plain` off.
//!
//! The expectation is words in any order: a route, a class, a reason's code, effects as `+begin`
//! (all of them, if any is given; `+none` for none), `tables(a, b.c)` or `tables(*)`, `detail(x)`.
//! What isn't said isn't checked; a line with nothing but `read` expects `any_replica read plain_read`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;

use pointsman_sql::{Class, Dialect, Effects, Flavour, Reason, Route, Table, Tables, Verdict};

#[derive(Debug, Default)]
struct Expected {
    route: Option<Route>,
    class: Option<Class>,
    reason: Option<Reason>,
    effects: Option<Effects>,
    tables: Option<Tables>,
    detail: Option<String>,
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if let [b'\\', b'x', a, b, ..] = rest
            && let Ok(byte) = u8::from_str_radix(&format!("{}{}", *a as char, *b as char), 16)
        {
            out.push(byte);
            rest = &rest[4..];
            continue;
        }
        out.push(*first);
        rest = tail;
    }
    out
}

fn table(text: &str) -> Table {
    match text.trim().split_once('.') {
        Some((schema, name)) => Table { schema: Some(schema.into()), name: name.into() },
        None => Table { schema: None, name: text.trim().into() },
    }
}

fn expected(text: &str) -> Result<Expected, String> {
    let mut expected = Expected::default();
    let mut rest = text.trim();
    if rest == "read" {
        rest = "any_replica read plain_read";
    } else if let Some(more) = rest.strip_prefix("read ") {
        expected.route = Some(Route::AnyReplica);
        expected.reason = Some(Reason::PlainRead);
        expected.class = Some(Class::Read);
        rest = more;
    }
    while !rest.is_empty() {
        let (word, tail) = match rest.find([' ', '(']) {
            Some(at) if rest.as_bytes()[at] == b'(' => {
                let close = rest.find(')').ok_or("no )")?;
                (&rest[..=close], &rest[close + 1..])
            }
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, ""),
        };
        rest = tail.trim_start();
        if let Some(effect) = word.strip_prefix('+') {
            let all = expected.effects.get_or_insert_default();
            if effect != "none" {
                *all |=
                    Effects::from_name(&effect.to_uppercase()).ok_or(format!("effect {word}"))?;
            }
        } else if let Some(list) = word.strip_prefix("tables(").and_then(|w| w.strip_suffix(')')) {
            expected.tables = Some(match list.trim() {
                "*" => Tables::Unknown,
                "" => Tables::Known(Box::new([])),
                list => Tables::Known(list.split(',').map(table).collect()),
            });
        } else if let Some(detail) = word.strip_prefix("detail(").and_then(|w| w.strip_suffix(')'))
        {
            expected.detail = Some(detail.to_string());
        } else if let Some(reason) = Reason::ALL.iter().find(|r| r.code() == word) {
            expected.reason = Some(*reason);
        } else {
            match word {
                "any_replica" => expected.route = Some(Route::AnyReplica),
                "any_session" => expected.route = Some(Route::AnySession),
                "last_used" => expected.route = Some(Route::LastUsed),
                "primary" => expected.route = Some(Route::Primary),
                "proxy" => expected.route = Some(Route::Proxy),
                "read" => expected.class = Some(Class::Read),
                "write" => expected.class = Some(Class::Write),
                "session" => expected.class = Some(Class::Session),
                "other" => expected.class = Some(Class::Other),
                _ => return Err(format!("unknown word {word:?}")),
            }
        }
    }
    Ok(expected)
}

fn sorted(tables: &Tables) -> Tables {
    match tables {
        Tables::Unknown => Tables::Unknown,
        Tables::Known(list) => {
            let mut list = list.to_vec();
            list.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
            Tables::Known(list.into_boxed_slice())
        }
    }
}

fn differences(expected: &Expected, got: &Verdict) -> String {
    let mut out = String::new();
    macro_rules! check {
        ($what:literal, $want:expr, $got:expr) => {
            if let Some(want) = &$want
                && *want != $got
            {
                let _ = write!(out, " {}: want {:?}, got {:?};", $what, want, $got);
            }
        };
    }
    check!("route", expected.route, got.route);
    check!("class", expected.class, got.class);
    check!("reason", expected.reason, got.reason);
    check!("effects", expected.effects, got.effects);
    check!("tables", expected.tables.as_ref().map(sorted), sorted(&got.tables));
    check!("detail", expected.detail, got.detail.as_deref().unwrap_or_default());
    if !out.is_empty() {
        let _ = write!(out, " (reason {}, detail {:?})", got.reason.code(), got.detail);
    }
    out
}

/// Calls `check` with each case of every table: where it stands, its bytes, a dialect, what is expected.
fn each_case(mut check: impl FnMut(&str, &[u8], &Dialect, &str)) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/statements");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let both = [Flavour::MariaDb { version: 101_106 }, Flavour::MySql { version: 80_400 }];
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let mut flavours = both.to_vec();
        let mut base = Dialect::new(both[0]);
        for (number, line) in text.lines().enumerate() {
            let place = format!("{name}:{}", number + 1);
            if let Some(directive) = line.strip_prefix('@') {
                let mut words = directive.split_whitespace();
                let first = words.next().unwrap();
                let version = words.next().and_then(|v| v.parse().ok());
                match (first, version) {
                    ("mariadb", version) => {
                        flavours = vec![Flavour::MariaDb { version: version.unwrap_or(101_106) }];
                    }
                    ("mysql", version) => {
                        flavours = vec![Flavour::MySql { version: version.unwrap_or(80_400) }];
                    }
                    ("both", _) => flavours = both.to_vec(),
                    ("ansi_quotes", _) => base.ansi_quotes = true,
                    ("no_backslash_escapes", _) => base.no_backslash_escapes = true,
                    ("multibyte", _) => base.multibyte_trap = true,
                    ("plain", _) => base = Dialect::new(both[0]),
                    _ => panic!("{place}: unknown directive {directive}"),
                }
                continue;
            }
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((sql, want)) = line.rsplit_once("=>") else { panic!("{place}: no =>") };
            let sql = unescape(sql.trim_end());
            for flavour in &flavours {
                check(&place, &sql, &Dialect { flavour: *flavour, ..base }, want);
            }
        }
    }
}

#[test]
fn every_statement_goes_where_the_tables_say() {
    let mut report = String::new();
    let mut count = 0;
    each_case(|place, sql, dialect, want| {
        count += 1;
        let want = expected(want).unwrap_or_else(|e| panic!("{place}: {e}"));
        let got = pointsman_sql::classify(sql, dialect);
        let differences = differences(&want, &got);
        if !differences.is_empty() {
            let sql = String::from_utf8_lossy(sql);
            let _ = writeln!(report, "{place}: {:?}: {sql}\n   {differences}", dialect.flavour);
        }
    });
    assert!(report.is_empty(), "{count} cases; these differ:\n{report}");
    assert!(count > 1500, "only {count} cases were found");
}

#[test]
fn the_cache_says_what_the_classifier_says() {
    let mut cache = pointsman_sql::Cache::<()>::new(1 << 14, 42);
    for round in 0..2 {
        each_case(|place, sql, dialect, _| {
            let (entry, fresh) = cache.lookup(sql, dialect);
            assert_eq!(entry.verdict, pointsman_sql::classify(sql, dialect), "{place}");
            assert!(round == 0 || !fresh, "{place} was forgotten");
        });
    }
}

/// Comments, spaces and semicolons around a statement are no code.
#[test]
fn plain_comments_change_nothing() {
    each_case(|place, sql, dialect, _| {
        let plain = pointsman_sql::classify(sql, dialect);
        if plain.reason == Reason::Unknown {
            return; // it may be an unfinished string or comment
        }
        for (before, after) in [
            ("/* c */ ", " /**/"),
            ("-- FOR UPDATE\n", "\n-- x"),
            ("# INSERT '\n", " # \""),
            (" \t\r\n\x0b\x0c", "  "),
            ("", " ;"),
            ("/* ' */", " ; ; "),
            (";", " "),
        ] {
            let text = [before.as_bytes(), sql, after.as_bytes()].concat();
            assert_eq!(pointsman_sql::classify(&text, dialect), plain, "{place}: {before}{after}");
        }
    });
}
