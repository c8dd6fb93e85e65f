//! Any bytes as a statement: the lexer covers each byte once, nothing panics or hangs, the cache
//! agrees with the classifier, and what may run on a replica has no effect but those of reads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_sql::lexer::Lexer;
use pointsman_sql::{Cache, Class, Dialect, Effects, Flavour, Route, classify};
use pointsman_sql::{kill, plain_insert, rewrite_connection_id, scope_assignments};

fuzz_target!(|data: &[u8]| {
    let Some((&bits, sql)) = data.split_first() else { return };
    let dialect = Dialect {
        flavour: if bits & 1 == 0 {
            Flavour::MariaDb { version: 101_106 }
        } else {
            Flavour::MySql { version: if bits & 16 == 0 { 80_400 } else { 90_000 } }
        },
        ansi_quotes: bits & 2 != 0,
        no_backslash_escapes: bits & 4 != 0,
        multibyte_trap: bits & 8 != 0,
    };

    let mut at = 0;
    for token in Lexer::new(sql, &dialect) {
        assert_eq!(token.start, at);
        assert!(token.end > token.start);
        at = token.end;
    }
    assert_eq!(at, sql.len());

    let verdict = classify(sql, &dialect);
    let mut cache = Cache::<()>::new(8, 1);
    for _ in 0..2 {
        let (entry, _) = cache.lookup(sql, &dialect);
        assert_eq!(entry.verdict, verdict);
        assert!(entry.text.len() <= 1024);
    }
    if verdict.route == Route::AnyReplica {
        let begins = verdict.effects.contains(Effects::BEGIN_READ_ONLY);
        assert!(verdict.class == Class::Read || begins);
        let fine = Effects::MULTI | Effects::CONNECTION_ID | Effects::BEGIN_READ_ONLY;
        assert!(fine.contains(verdict.effects));
    }
    let _ = kill(sql, &dialect);
    if let Some(insert) = plain_insert(sql, &dialect) {
        assert!(insert.rows > 0 && insert.rows <= sql.len() as u64);
        assert_eq!(verdict.route, Route::Primary);
    }
    if let Some(scoped) = scope_assignments(sql, &dialect) {
        assert_eq!(scope_assignments(&scoped.sql, &dialect), None);
    }
    if let Some(rewritten) = rewrite_connection_id(sql, &dialect, b"CAST(1 AS UNSIGNED)") {
        // The id in place of the call leaves a read a read.
        if verdict.route == Route::AnyReplica {
            assert_eq!(classify(&rewritten, &dialect).route, Route::AnyReplica);
        }
    }
});
