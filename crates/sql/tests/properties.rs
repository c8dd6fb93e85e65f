//! Properties that hold for any statement, and a second opinion on generated ones.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::ops::ControlFlow;

use pointsman_sql::lexer::{Kind, Lexer};
use pointsman_sql::{
    Cache, Class, Dialect, Effects, Flavour, Route, Tables, classify, functions, kill,
    rewrite_connection_id, scope_assignments,
};
use proptest::prelude::*;
use sqlparser::ast::{Expr, Query, Select, SetExpr, Statement, Visit, Visitor};
use sqlparser::dialect::MySqlDialect;
use sqlparser::parser::Parser;

const MARIADB: Flavour = Flavour::MariaDb { version: 101_106 };
const MYSQL: Flavour = Flavour::MySql { version: 80_400 };

fn dialects() -> impl Strategy<Value = Dialect> {
    (prop_oneof![Just(MARIADB), Just(MYSQL)], any::<[bool; 3]>()).prop_map(|(flavour, bits)| {
        Dialect {
            flavour,
            ansi_quotes: bits[0],
            no_backslash_escapes: bits[1],
            multibyte_trap: bits[2],
        }
    })
}

/// Bytes that look like SQL more often than not.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "SELECT", "FROM", "t", "WHERE", "FOR", "UPDATE", "SHARE", "LOCK", "IN", "MODE", "INTO",
            "OUTFILE", "INSERT", "VALUES", "SET", "autocommit", "=", "1", "(", ")", ",", ";", "@a",
            ":=", "@@x", ".", "'", "\"", "`", "\\", "/*", "*/", "/*!", "/*!50000", "/*M!", "--",
            "-- ", "#", "\n", " ", "f", "count", "WITH", "AS", "UNION", "NULL", "-", "+", "*", "?",
            "N'", "X'", "_utf8", "0x", "1e", "NEXT", "VALUE", "BEGIN", "END", "CREATE", "PROCEDURE",
            "KILL", "CONNECTION_ID", "information_schema", "SHOW", "EXPLAIN", "ANALYZE", "DESC",
            "\0", "\u{e9}", "$", "$$", "{", "}", "||", "->", "/*+",
        ]).prop_map(|s: &str| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec((piece, any::<bool>()), 0..40).prop_map(|pieces| {
        let mut out = Vec::new();
        for (piece, space) in pieces {
            out.extend_from_slice(&piece);
            if space {
                out.push(b' ');
            }
        }
        out
    })
}

fn check_bytes(sql: &[u8], dialect: &Dialect) {
    // Every byte is in exactly one token.
    let mut at = 0;
    for token in Lexer::new(sql, dialect) {
        assert_eq!(token.start, at);
        assert!(token.end > token.start);
        at = token.end;
    }
    assert_eq!(at, sql.len());
    // Nothing panics, and the cache agrees with the classifier.
    let verdict = classify(sql, dialect);
    let mut cache = Cache::<()>::new(8, 7);
    for fresh in [true, false] {
        let (entry, new) = cache.lookup(sql, dialect);
        assert_eq!(entry.verdict, verdict);
        assert_eq!(new, fresh);
        assert!(entry.text.len() <= 1024);
    }
    // A replica gets reads only.
    if verdict.route == Route::AnyReplica {
        let read_only_start = verdict.effects.contains(Effects::BEGIN_READ_ONLY);
        assert!(verdict.class == Class::Read || read_only_start);
        let fine = Effects::MULTI | Effects::CONNECTION_ID | Effects::BEGIN_READ_ONLY;
        assert!(fine.contains(verdict.effects), "{:?}", verdict.effects);
    }
    let _ = kill(sql, dialect);
    if let Some(scoped) = scope_assignments(sql, dialect) {
        assert_eq!(scope_assignments(&scoped.sql, dialect), None);
    }
    if let Some(new) = rewrite_connection_id(sql, dialect, b"CAST(1 AS UNSIGNED)") {
        let left = classify(&new, dialect);
        assert!(!left.effects.contains(Effects::CONNECTION_ID) || sql.len() > 1, "{left:?}");
    }
}

// ---- A grammar of queries ----
//
// Text with marks: `~` is where space or a comment may stand, `$` a literal, `%` a list of them.

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "t1", "t2", "`weird name`", "`for`", "db~.~t", "Status"])
        .prop_map(String::from)
}

fn expr() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => Just("$".to_string()),
        3 => prop::sample::select(vec!["a", "b", "t1.c", "`select`"]).prop_map(String::from),
        1 => Just("@v".to_string()),
        1 => Just("@@server_id".to_string()),
        1 => Just("?".to_string()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let op = prop::sample::select(vec!["+", "-", "*", "=", "<", "AND", "OR", "LIKE"]);
        let function = prop::sample::select(vec![
            "COUNT",
            "max",
            "CONCAT",
            "COALESCE",
            "my_func",
            "db.f",
            "`f`",
            "GET_LOCK",
            "SLEEP",
            "LAST_INSERT_ID",
            "LOWER",
            "nextval",
            "CONNECTION_ID",
        ]);
        prop_oneof![
            3 => (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("{a}~{op}~{b}")),
            3 => (function, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("IF(~{a},~{b},~$)")),
            2 => inner.clone().prop_map(|a| format!("a~IN~(%)~AND~{a}")),
            1 => inner.clone().prop_map(|a| format!("(~{a}~)")),
            1 => (inner.clone(), name()).prop_map(|(a, t)| format!("(SELECT~{a}~FROM~{t})")),
            1 => (inner.clone(), name())
                .prop_map(|(a, t)| format!("EXISTS~(SELECT~$~FROM~{t}~WHERE~{a}~FOR~UPDATE)")),
            1 => inner.prop_map(|a| format!("CASE~WHEN~{a}~THEN~$~ELSE~b~END")),
        ]
    })
}

fn query() -> impl Strategy<Value = String> {
    let tail = prop::sample::select(vec![
        "",
        "",
        "",
        "",
        "~LIMIT~$",
        "~ORDER~BY~a~DESC",
        "~FOR~UPDATE",
        "~LOCK~IN~SHARE~MODE",
        "~FOR~SHARE~SKIP~LOCKED",
        "~INTO~@v",
        "~INTO~OUTFILE~'x'",
        "~GROUP~BY~a~HAVING~b~>~$",
    ]);
    let from = prop_oneof![
        name().prop_map(|t| format!("~FROM~{t}")),
        (name(), name()).prop_map(|(a, b)| format!("~FROM~{a}~JOIN~{b}~ON~a~=~b")),
        (name(), expr()).prop_map(|(a, e)| format!("~FROM~(SELECT~{e}~FROM~{a})~AS~d")),
        Just(String::new()),
    ];
    let head = prop::sample::select(vec![
        "",
        "",
        "",
        "WITH~c~AS~(SELECT~$)~",
        "EXPLAIN~",
        "/*!50000~",
        "SELECT~$~UNION~",
        "(",
    ]);
    (head, expr(), expr(), from, prop::option::of(expr()), tail).prop_map(
        |(head, a, b, from, filter, tail)| {
            let filter = filter.map(|f| format!("~WHERE~{f}")).unwrap_or_default();
            let filter = if from.is_empty() { String::new() } else { filter };
            let close = match head {
                "/*!50000~" => "~*/",
                "(" => ")",
                _ => "",
            };
            format!("{head}SELECT~{a},~{b}{from}{filter}{tail}{close}")
        },
    )
}

/// The marks become text; `seed` decides which.
fn render(marked: &str, mut seed: u64) -> String {
    let mut next = |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % n as u64) as usize
    };
    const SPACES: &[&str] = &[
        " ",
        " ",
        " ",
        "\n",
        "\t ",
        " /* c */ ",
        " /**/",
        " -- FOR UPDATE\n",
        " # it's\n",
        "\r\n",
        " /* INTO @x */\n",
        " /* ; */",
    ];
    const LITERALS: &[&str] = &[
        "1",
        "'x'",
        "42",
        "1.5",
        "'it''s'",
        "'a\\'b'",
        "0x41",
        "'FOR UPDATE'",
        "'/*'",
        "'-- '",
        "1e3",
        "''",
        "'a;b'",
        "\"dq\"",
        "'#'",
    ];
    let mut out = String::new();
    for c in marked.chars() {
        match c {
            '~' => out.push_str(SPACES[next(SPACES.len())]),
            '$' => out.push_str(LITERALS[next(LITERALS.len())]),
            '%' => {
                for i in 0..=next(5) {
                    if i > 0 {
                        out.push_str([",", ", ", " , "][next(3)]);
                    }
                    out.push_str(LITERALS[next(LITERALS.len())]);
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// What an independent look at the syntax tree objects to.
#[derive(Default)]
struct Second {
    objection: Option<String>,
    flavour: Option<Flavour>,
}

impl Visitor for Second {
    type Break = ();
    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        if !matches!(statement, Statement::Query(_) | Statement::Explain { analyze: false, .. }) {
            self.objection = Some(format!("statement {statement}"));
        }
        ControlFlow::Continue(())
    }
    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if !query.locks.is_empty() {
            self.objection = Some("lock".into());
        }
        if matches!(&*query.body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_)) {
            self.objection = Some("write".into());
        }
        ControlFlow::Continue(())
    }
    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if select.into.is_some() {
            self.objection = Some("into".into());
        }
        ControlFlow::Continue(())
    }
    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(f) => {
                let name = f.name.to_string();
                let flavour = self.flavour.unwrap_or(MARIADB);
                let known = functions::lookup(name.as_bytes(), flavour);
                use functions::Call;
                if !matches!(known, Some(Call::Read | Call::Syntax | Call::ConnectionId)) {
                    self.objection = Some(name);
                }
            }
            Expr::Identifier(i) if i.value.starts_with('@') && !i.value.starts_with("@@") => {
                self.objection = Some(i.value.clone());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_classified(
        sql in prop::collection::vec(any::<u8>(), 0..200),
        dialect in dialects(),
    ) {
        check_bytes(&sql, &dialect);
    }

    #[test]
    fn soup_is_classified(sql in soup(), dialect in dialects()) {
        check_bytes(&sql, &dialect);
    }

    #[test]
    fn what_the_tree_shows_never_reaches_a_replica(
        marked in query(),
        seed in 1..u64::MAX,
        mysql in any::<bool>(),
    ) {
        let flavour = if mysql { MYSQL } else { MARIADB };
        let sql = render(&marked, seed);
        let verdict = classify(sql.as_bytes(), &Dialect::new(flavour));
        let mut second = Second { flavour: Some(flavour), ..Second::default() };
        if let Ok(statements) = Parser::parse_sql(&MySqlDialect {}, &sql) {
            let _ = statements.visit(&mut second);
        }
        if verdict.route == Route::AnyReplica {
            prop_assert_eq!(second.objection, None, "{}", sql);
            // Every table that was put in is in the list, unless there is no list.
            if let Tables::Known(tables) = &verdict.tables {
                for place in ["FROM~", "JOIN~"] {
                    for (at, _) in marked.match_indices(place) {
                        let rest = &marked[at + place.len()..];
                        let name = rest.trim_start_matches("db~.~");
                        let name: String = match name.strip_prefix('`') {
                            Some(quoted) => quoted.chars().take_while(|c| *c != '`').collect(),
                            None => name.chars().take_while(|c| c.is_alphanumeric()).collect(),
                        };
                        let found = name.is_empty() || tables.iter().any(|t| *t.name == name);
                        prop_assert!(found, "{}: {:?}: {}", name, tables, sql);
                    }
                }
            }
            for word in ["FOR~UPDATE", "FOR~SHARE", "LOCK~IN", "INTO~", "@v", "my_func", "db.f",
                "`f`", "GET_LOCK", "LAST_INSERT_ID", "nextval"]
            {
                prop_assert!(!marked.contains(word), "{}", sql);
            }
        } else {
            // And nothing harmless is kept from them.
            let harmless = ["FOR~UPDATE", "FOR~SHARE", "LOCK~IN", "INTO~", "@v", "my_func",
                "db.f", "`f`", "GET_LOCK", "LAST_INSERT_ID", "nextval", "EXPLAIN"]
                .iter()
                .all(|word| !marked.contains(word));
            prop_assert!(!harmless, "{:?}: {}", verdict, sql);
        }
    }

    #[test]
    fn spaces_comments_and_literals_change_neither_fingerprint_nor_verdict(
        marked in query(),
        seeds in any::<[u64; 2]>(),
        dialect in dialects(),
    ) {
        let dialect = Dialect { ansi_quotes: false, no_backslash_escapes: false, ..dialect };
        let [one, two] = seeds.map(|seed| render(&marked, seed | 1));
        let mut cache = Cache::<()>::new(64, 99);
        let first = cache.lookup(one.as_bytes(), &dialect).0.clone();
        let (second, fresh) = cache.lookup(two.as_bytes(), &dialect);
        prop_assert_eq!(&first.text, &second.text, "{}\n{}", one, two);
        prop_assert_eq!(first.fingerprint, second.fingerprint);
        prop_assert!(!fresh);
        prop_assert_eq!(
            classify(one.as_bytes(), &dialect),
            classify(two.as_bytes(), &dialect),
            "{}\n{}", one, two
        );
    }

    #[test]
    fn plain_comments_around_change_no_route(sql in soup(), dialect in dialects()) {
        // Only what is whole can have something after it: no open comment, no open string.
        if Lexer::new(&sql, &dialect).any(|t| t.kind == Kind::Odd) {
            return Ok(());
        }
        let route = classify(&sql, &dialect).route;
        for before in ["/* ' */", "-- x\n", "# `\n", " "] {
            let text = [before.as_bytes(), &sql].concat();
            prop_assert_eq!(classify(&text, &dialect).route, route);
        }
        let text = [&sql[..], b"\n/* FOR UPDATE */ -- INTO @a"].concat();
        prop_assert_eq!(classify(&text, &dialect).route, route);
    }
}

/// Deep or long statements end neither in a stack overflow nor in minutes of work.
#[test]
fn depth_and_length_are_bounded() {
    let deep = |open: &str, close: &str, n: usize| {
        format!("SELECT {}1{}", open.repeat(n), close.repeat(n))
    };
    let n = 10_000;
    let statements = [
        deep("(", ")", n),
        deep("(", ")", 19),
        deep("(SELECT ", ")", n),
        deep("(SELECT ", ")", 19),
        deep("NOT ", "", n),
        deep("- ", "", n),
        deep("-", "", 900),
        deep("IF(1,", ",2)", n),
        deep("CASE WHEN ", " THEN 1 END", 600),
        deep("a AND ", "", 900),
        deep("a.b.", "", 600),
        format!("SELECT * FROM {}t{}", "(".repeat(19), ")".repeat(19)),
        format!("SELECT * FROM {}t{}", "(".repeat(n), ")".repeat(n)),
        format!("SELECT 1{}", " + a".repeat(990)),
        format!("SELECT 1{}", " + a".repeat(n * 10)),
        format!("SELECT a{}", " UNION SELECT a".repeat(600)),
        format!("SELECT a{}", " UNION SELECT a".repeat(n)),
        format!("SELECT a FROM t{}", " JOIN t ON 1".repeat(490)),
        format!("SELECT a FROM t{}", " OR a".repeat(n)),
        format!("SELECT {}1", "/*! ".repeat(n)),
        format!("SELECT 1 {}", "/* ".repeat(n)),
        "(".repeat(n * 10),
        ";".repeat(n * 10),
        "SELECT 1;".repeat(n),
        "@".repeat(n),
        "`".repeat(n),
        "'".repeat(n),
        format!("WITH {} SELECT 1", "a (b) AS (SELECT 1), ".repeat(n)),
        format!("SELECT {}", "f(a, ".repeat(n)),
        format!("SELECT {}", "POINT(a, ".repeat(n)),
        format!("SELECT {}", "JSON_TABLE(a, ".repeat(n)),
        format!("SELECT {}", "x (a, b".repeat(n)),
    ];
    // A stack far smaller than any worker's.
    let work = move || {
        let started = std::time::Instant::now();
        for sql in statements {
            let at = std::time::Instant::now();
            let _ = classify(sql.as_bytes(), &Dialect::new(MARIADB));
            let took = at.elapsed();
            assert!(took.as_secs() < 2, "{took:?}: {}", &sql[..80]);
        }
        assert!(started.elapsed().as_secs() < 20);
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(work).unwrap().join().unwrap();
}

#[test]
fn a_long_list_is_still_a_read_and_a_long_write_a_write() {
    let dialect = Dialect::new(MARIADB);
    let list: Vec<String> = (0..200_000).map(|n| n.to_string()).collect();
    let read = format!("SELECT * FROM t WHERE a IN ({})", list.join(", "));
    assert_eq!(classify(read.as_bytes(), &dialect).route, Route::AnyReplica);
    let locking = format!("{read} FOR UPDATE");
    assert_eq!(classify(locking.as_bytes(), &dialect).route, Route::Primary);
    // Longer than is looked at: the primary, and anything may be in the rest.
    let list: Vec<String> = (0..600_000).map(|n| n.to_string()).collect();
    let long = format!("SELECT * FROM t WHERE a IN ({})", list.join(", "));
    let verdict = classify(long.as_bytes(), &dialect);
    assert_eq!(verdict.route, Route::Primary);
    assert_eq!(verdict.reason.code(), "too_long");
    let verdict = classify(format!("{long}; SET @a = 1").as_bytes(), &dialect);
    assert!(verdict.effects.contains(Effects::MULTI | Effects::USER_VAR | Effects::HIDDEN_CODE));
}

#[test]
fn a_full_cache_forgets_and_stays_bounded() {
    let dialect = Dialect::new(MARIADB);
    let mut cache = Cache::<u64>::new(64, 3);
    for n in 0..10_000 {
        let (_, fresh) = cache.lookup(format!("SELECT c{n} FROM t").as_bytes(), &dialect);
        assert!(fresh);
        // What is in use stays.
        let (_, fresh) = cache.lookup(b"SELECT kept FROM t WHERE a = 1", &dialect);
        assert!(!fresh || n < 2, "forgotten at {n}");
    }
    assert!(cache.entries().count() <= 64);
    assert_eq!(cache.entries().count(), cache.len());
}

#[test]
fn fingerprints_tell_statements_apart_and_literals_together() {
    let dialect = Dialect::new(MARIADB);
    let mut cache = Cache::<()>::new(1024, 5);
    let mut text = |sql: &str| {
        let (entry, _) = cache.lookup(sql.as_bytes(), &dialect);
        (entry.fingerprint, entry.text.to_string())
    };
    let same: &[&[&str]] = &[
        &["SELECT * FROM t WHERE a IN (1)", "select * from t where a in ('x', 2 ,-3)"],
        &["INSERT INTO t VALUES (1,2)", "insert into t values (1, NULL), ('a', 4), (-5, TRUE)"],
        &["SELECT a FROM t LIMIT 1", "SELECT a FROM t LIMIT 10, 20", "SELECT/**/a FROM t LIMIT 3"],
        &["SELECT _utf8'x'", "SELECT N'y'", "SELECT 'a' 'b'", "SELECT -1.5e3"],
        &["SELECT 1;", ";SELECT 2 ; ;"],
    ];
    let mut seen = std::collections::HashMap::new();
    for group in same {
        let first = text(group[0]);
        for sql in *group {
            let this = text(sql);
            assert_eq!(this.1.trim_end_matches([';', ' ']), first.1.trim_end_matches(';'), "{sql}");
        }
        assert_eq!(seen.insert(first.0, first.1.clone()), None);
    }
    assert_eq!(text("select a from T where b in (1,2)").1, "SELECT a FROM T WHERE b IN (?)");
    for sql in [
        "SELECT a FROM t",
        "SELECT A FROM t",
        "SELECT a FROM T",
        "SELECT `a` FROM t",
        "SELECT a, b FROM t",
        "SELECT Status FROM t",
        "SELECT STATUS FROM t",
        "SELECT a.b FROM t",
    ] {
        let (fingerprint, text) = text(sql);
        assert_eq!(seen.insert(fingerprint, text), None, "{sql}");
    }
}
