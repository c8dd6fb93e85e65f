//! Reads statements from stdin, one a line in hexadecimal, and prints the verdict on each:
//! route, class, reason, effects, fingerprint text. For comparing the classifier with real servers.
//!
//! `cargo run --example classify -- mariadb 101106`

use std::io::{BufRead, Write};

use pointsman_sql::{Cache, Dialect, Flavour};

fn main() {
    let mut args = std::env::args().skip(1);
    let flavour = args.next();
    let version = args.next().and_then(|v| v.parse().ok()).unwrap_or(101_106);
    let mut dialect = Dialect::new(match flavour.as_deref() {
        Some("mysql") => Flavour::MySql { version },
        _ => Flavour::MariaDb { version },
    });
    for flag in args {
        match flag.as_str() {
            "ansi_quotes" => dialect.ansi_quotes = true,
            "no_backslash_escapes" => dialect.no_backslash_escapes = true,
            "multibyte" => dialect.multibyte_trap = true,
            other => panic!("unknown flag {other}"),
        }
    }
    let mut cache = Cache::<()>::new(1024, 1);
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("stdin is readable");
        let sql: Vec<u8> = (0..line.len() / 2)
            .map(|i| {
                u8::from_str_radix(&line[2 * i..2 * i + 2], 16).expect("lines are hexadecimal")
            })
            .collect();
        let (entry, _) = cache.lookup(&sql, &dialect);
        let v = &entry.verdict;
        writeln!(
            out,
            "{:?}\t{:?}\t{}\t{:?}\t{:?}\t{}",
            v.route,
            v.class,
            v.reason.code(),
            v.effects,
            v.tables,
            entry.text.replace(['\n', '\t'], " ")
        )
        .expect("stdout is writable");
        out.flush().expect("stdout is writable");
    }
}
