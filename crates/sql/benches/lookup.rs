//! What a statement costs on its way through the classifier, in nanoseconds.
//!
//! `cargo bench -p pointsman-sql`. Prints the best and the median of many short rounds, so that a
//! noisy machine does little harm.

use std::hint::black_box;
use std::time::Instant;

use pointsman_sql::{Cache, Dialect, Flavour, classify};

fn measure(name: &str, per_round: usize, mut work: impl FnMut()) {
    let mut rounds: Vec<f64> = (0..200)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..per_round {
                work();
            }
            start.elapsed().as_nanos() as f64 / per_round as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<46} best {:>10.1} ns   median {:>10.1} ns", rounds[0], rounds[100]);
}

fn main() {
    let dialect = Dialect::new(Flavour::MariaDb { version: 101_106 });
    let mut cache = Cache::<()>::new(10_000, 1);
    let in_list: String = (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let rows: String =
        (0..1000).map(|n| format!("({n},'name {n}',NULL)")).collect::<Vec<_>>().join(",");
    let blob = "x".repeat(1 << 20);
    let cases: Vec<(&str, String, usize)> = vec![
        (
            "point select, 60 bytes",
            "SELECT id, name, price FROM products WHERE id = 1234567 LIMIT 1".into(),
            1000,
        ),
        ("sysbench point select", "SELECT c FROM sbtest1 WHERE id=501234".into(), 1000),
        ("SELECT 1", "SELECT 1".into(), 1000),
        (
            "join, 300 bytes",
            "SELECT o.id, o.created_at, c.name, SUM(i.price * i.quantity) AS total FROM orders o \
             INNER JOIN customers c ON c.id = o.customer_id LEFT JOIN items i ON i.order_id = o.id \
             WHERE o.created_at > '2024-01-01' AND c.country IN ('de','at','ch') GROUP BY o.id \
             ORDER BY total DESC LIMIT 20, 10"
                .into(),
            200,
        ),
        ("update", "UPDATE sbtest1 SET k=k+1 WHERE id=501234".into(), 1000),
        ("insert, 1000 rows, 22 KiB", format!("INSERT INTO t (a, b, c) VALUES {rows}"), 5),
        ("insert, one blob of 1 MiB", format!("INSERT INTO t VALUES (1, '{blob}')"), 5),
        ("IN list, 100,000 numbers", format!("SELECT * FROM t WHERE a IN ({in_list})"), 1),
    ];
    for (name, sql, per_round) in &cases {
        let sql = sql.as_bytes();
        measure(&format!("hit:  {name}"), *per_round, || {
            black_box(cache.lookup(black_box(sql), &dialect));
        });
    }
    for (name, sql, per_round) in &cases {
        let sql = sql.as_bytes();
        measure(&format!("miss: {name}"), (*per_round / 50).max(1), || {
            black_box(classify(black_box(sql), &dialect));
        });
    }
}
