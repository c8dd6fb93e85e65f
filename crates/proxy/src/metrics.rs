//! Everything the proxy counts, in Prometheus' form: added up when it is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pointsman_cluster::Role;
use prometheus::core::Desc;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::shared::Shared;
use crate::stats::{BOUNDS_US, CLASSES, Latency, Repeated, class_label};

/// Adds up the workers' counters at each scrape.
pub struct Collector {
    shared: Arc<Shared>,
    descs: Vec<Desc>,
}

/// Name and help of every family, in the order they are collected.
const FAMILIES: &[(&str, &str)] = &[
    ("pointsman_client_connections", "Clients connected now."),
    ("pointsman_client_connections_total", "Clients ever accepted."),
    ("pointsman_client_logins_failed_total", "Logins that were refused."),
    ("pointsman_statements_total", "Statements answered, by server and class."),
    (
        "pointsman_statement_duration_seconds",
        "Time from a statement's arrival to its last byte, by server and class.",
    ),
    (
        "pointsman_statement_errors_total",
        "Statements that ended in an error, by server and error code.",
    ),
    ("pointsman_reads_to_primary_total", "Reads that went to the primary, by reason."),
    (
        "pointsman_reads_retried_total",
        "Reads repeated on another server after theirs failed, unseen by the client.",
    ),
    (
        "pointsman_causal_wait_seconds",
        "How long reads waited for a replica to have what they must see.",
    ),
    (
        "pointsman_reads_by_table_total",
        "Reads served by replicas that lacked writes, but none to the tables they read.",
    ),
    ("pointsman_rule_statements_total", "Statements that fell under a [[rule]]."),
    (
        "pointsman_tables_known",
        "Tables that causal reads are told apart by; 0 while they wait for all writes.",
    ),
    ("pointsman_statements_waiting", "Statements that wait for a primary now."),
    (
        "pointsman_primary_wait_seconds",
        "How long statements waited for a primary, while there was none.",
    ),
    (
        "pointsman_transactions_replayed_total",
        "Transactions repeated on another server after theirs was lost, by outcome.",
    ),
    (
        "pointsman_failovers_total",
        "Changes of the primary made by this proxy, by kind: failover, switchover.",
    ),
    ("pointsman_server_up", "Whether the server answers."),
    ("pointsman_server_role", "1 for the server's present role."),
    ("pointsman_server_takes_reads", "Whether reads may go to the server."),
    (
        "pointsman_server_replication_lag_seconds",
        "Replication lag behind the primary; absent if unknown.",
    ),
    ("pointsman_server_connections", "Connections to the server, by state."),
];

impl Collector {
    pub fn new(shared: Arc<Shared>) -> Self {
        let descs = FAMILIES
            .iter()
            .map(|(name, help)| {
                Desc::new((*name).to_owned(), (*help).to_owned(), Vec::new(), Default::default())
                    .expect("names are valid")
            })
            .collect();
        Self { shared, descs }
    }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let mut labels: Vec<_> = pairs
        .iter()
        .map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        })
        .collect();
    labels.sort_by(|a, b| a.name().cmp(b.name()));
    labels
}

fn counter(pairs: &[(&str, &str)], value: u64) -> Metric {
    let mut metric = Metric::from_label(labels(pairs));
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    metric.set_counter(counter);
    metric
}

fn gauge(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut metric = Metric::from_label(labels(pairs));
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

fn histogram<'a>(pairs: &[(&str, &str)], parts: impl Iterator<Item = &'a Latency>) -> Metric {
    let mut counts = [0; BOUNDS_US.len() + 1];
    let mut sum_ns = 0;
    for latency in parts {
        counts.iter_mut().zip(&latency.buckets).for_each(|(sum, c)| *sum += c.get());
        sum_ns += latency.sum_ns.get();
    }
    let mut seen = 0;
    let mut buckets = Vec::new();
    for (count, bound) in counts.iter().zip(BOUNDS_US) {
        seen += count;
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(seen);
        bucket.set_upper_bound(bound as f64 / 1e6);
        buckets.push(bucket);
    }
    let mut histogram = Histogram::default();
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum_ns as f64 / 1e9);
    histogram.set_bucket(buckets);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_histogram(histogram);
    metric
}

impl prometheus::core::Collector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = &self.shared.stats;
        let snapshot = self.shared.cluster.shared().load();
        let mut metrics: BTreeMap<&str, (MetricType, Vec<Metric>)> = BTreeMap::new();
        let mut add = |name, kind, metric| {
            metrics.entry(name).or_insert_with(|| (kind, Vec::new())).1.push(metric);
        };
        use MetricType::{COUNTER, GAUGE, HISTOGRAM};
        let (failovers, switchovers) = self.shared.cluster.failovers();
        for (kind, count) in [("failover", failovers), ("switchover", switchovers)] {
            add("pointsman_failovers_total", COUNTER, counter(&[("kind", kind)], count));
        }
        add("pointsman_client_connections", GAUGE, gauge(&[], self.shared.sessions() as f64));
        let sum =
            |f: &dyn Fn(&crate::stats::WorkerStats) -> u64| stats.iter().map(|s| f(s)).sum::<u64>();
        add(
            "pointsman_client_connections_total",
            COUNTER,
            counter(&[], sum(&|s| s.connections_total.get())),
        );
        add(
            "pointsman_client_logins_failed_total",
            COUNTER,
            counter(&[], sum(&|s| s.logins_failed.get())),
        );
        add(
            "pointsman_reads_retried_total",
            COUNTER,
            counter(&[], sum(&|s| s.retried_reads.get())),
        );
        add(
            "pointsman_causal_wait_seconds",
            HISTOGRAM,
            histogram(&[], stats.iter().map(|s| &s.causal_wait)),
        );
        let waiting = sum(&|s| s.held());
        add("pointsman_statements_waiting", GAUGE, gauge(&[], waiting as f64));
        add(
            "pointsman_primary_wait_seconds",
            HISTOGRAM,
            histogram(&[], stats.iter().map(|s| &s.primary_wait)),
        );
        let by_table = sum(&|s| s.reads_by_table.get());
        add("pointsman_reads_by_table_total", COUNTER, counter(&[], by_table));
        for (place, rule) in self.shared.config.rules.iter().enumerate() {
            let n = sum(&|s| s.rules[place].get());
            let pairs = [("rule", rule.name.as_str())];
            add("pointsman_rule_statements_total", COUNTER, counter(&pairs, n));
        }
        let tables = self.shared.cluster.writes().tables_known();
        add("pointsman_tables_known", GAUGE, gauge(&[], tables as f64));
        for outcome in Repeated::ALL {
            let pairs = [("outcome", outcome.code())];
            let n = sum(&|s| s.repeated[outcome as usize].get());
            add("pointsman_transactions_replayed_total", COUNTER, counter(&pairs, n));
        }

        let mut to_primary: BTreeMap<&str, u64> = BTreeMap::new();
        let mut errors: BTreeMap<(u16, u16), u64> = BTreeMap::new();
        for worker in stats {
            for (code, n) in worker.reads_to_primary() {
                *to_primary.entry(code).or_default() += n;
            }
            let rare = worker.rare.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for (key, n) in &rare.errors {
                *errors.entry(*key).or_default() += n;
            }
        }
        for (reason, n) in to_primary.into_iter().filter(|(_, n)| *n > 0) {
            add("pointsman_reads_to_primary_total", COUNTER, counter(&[("reason", reason)], n));
        }
        for server in &snapshot.servers {
            let name = &*server.name;
            for class in CLASSES {
                let of = |s: &'_ Arc<crate::stats::WorkerStats>| {
                    s.statements.get(usize::from(server.id.0)).map(|by| by[class as usize].count())
                };
                let pairs = [("server", name), ("class", class_label(class))];
                let n = stats.iter().filter_map(of).sum();
                add("pointsman_statements_total", COUNTER, counter(&pairs, n));
                let parts = stats
                    .iter()
                    .filter_map(|s| s.statements.get(usize::from(server.id.0)))
                    .map(|by| &by[class as usize]);
                add("pointsman_statement_duration_seconds", HISTOGRAM, histogram(&pairs, parts));
            }
            for ((_, code), n) in errors.iter().filter(|((s, _), _)| *s == server.id.0) {
                let pairs = [("server", name), ("code", &*code.to_string())];
                add("pointsman_statement_errors_total", COUNTER, counter(&pairs, *n));
            }
            let by_server = [("server", name)];
            let up = !matches!(server.role, Role::Down | Role::Unknown);
            add("pointsman_server_up", GAUGE, gauge(&by_server, f64::from(u8::from(up))));
            add(
                "pointsman_server_takes_reads",
                GAUGE,
                gauge(&by_server, f64::from(u8::from(server.takes_reads))),
            );
            let role = [("server", name), ("role", server.role.as_str())];
            add("pointsman_server_role", GAUGE, gauge(&role, 1.0));
            if let Some(lag) = server.lag {
                add(
                    "pointsman_server_replication_lag_seconds",
                    GAUGE,
                    gauge(&by_server, lag.as_secs_f64()),
                );
            }
            let running = server.live.running.load(Relaxed);
            let open = server.live.connections.load(Relaxed);
            let states = [("running", running), ("idle", open.saturating_sub(running))];
            for (state, n) in states {
                let pairs = [("server", name), ("state", state)];
                add("pointsman_server_connections", GAUGE, gauge(&pairs, f64::from(n)));
            }
        }
        FAMILIES
            .iter()
            .filter_map(|(name, help)| {
                let (kind, metric) = metrics.remove(name)?;
                let mut family = MetricFamily::default();
                family.set_name((*name).to_owned());
                family.set_help((*help).to_owned());
                family.set_field_type(kind);
                family.set_metric(metric);
                Some(family)
            })
            .collect()
    }
}
