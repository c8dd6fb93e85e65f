//! The table at the end, the same as JSON, and what the plot shows.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::Done;
use crate::plot::{Bar, Group};
use crate::scenario::Scenario;

/// One slice.
pub struct Sample {
    pub scenario: Scenario,
    pub forwarder: String,
    /// Of the forwarder.
    pub cpu_ns: u64,
    pub done: Done,
    /// Share of the machine that others used meanwhile.
    pub foreign: f64,
    /// The machine was quiet before.
    pub quiet: bool,
}

impl Sample {
    fn cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.done.count
    }

    fn latency_us(&self, part: f64) -> f64 {
        let all = &self.done.latencies;
        let at = ((all.len() - 1) as f64 * part) as usize;
        all[at] as f64 / 1e3
    }

    fn per_second(&self) -> f64 {
        self.done.count / self.done.time.as_secs_f64()
    }

    /// Others took so much of the machine that the numbers say more of them than of us.
    fn disturbed(&self) -> bool {
        !self.quiet || self.foreign > 0.10
    }
}

pub struct Report {
    pub autogroup_off: bool,
    pub slice: Duration,
    pub forwarders: Vec<String>,
    pub scenarios: Vec<Scenario>,
    pub samples: Vec<Sample>,
}

/// Smallest, middle and largest.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => [f64::NAN; 3],
        n => [values[0], (values[(n - 1) / 2] + values[n / 2]) / 2.0, values[n - 1]],
    }
}

impl Report {
    fn of(&self, scenario: Scenario, forwarder: &str) -> Vec<&Sample> {
        let mine = |s: &&Sample| s.scenario == scenario && s.forwarder == forwarder;
        self.samples.iter().filter(mine).collect()
    }

    fn cpu(&self, scenario: Scenario, forwarder: &str) -> [f64; 3] {
        spread(self.of(scenario, forwarder).iter().map(|s| s.cpu_us()).collect())
    }

    /// Round by round, so that what disturbs a whole round counts for both.
    fn ratio(&self, scenario: Scenario, a: &str, b: &str, of: impl Fn(&Sample) -> f64) -> f64 {
        let (a, b) = (self.of(scenario, a), self.of(scenario, b));
        spread(a.iter().zip(&b).map(|(a, b)| of(a) / of(b)).collect())[1]
    }

    pub fn to_text(&self) -> String {
        let mut text = format!(
            "\nslices of {:?}; CPU of the forwarder in µs for each unit, min / median / max of the \
             rounds; × and throughput are medians of the rounds' ratios\n\n\
             {:<12}{:>25}{:>9}{:>11}{:>10}{:>10}{:>9}{:>12}\n",
            self.slice,
            "",
            "CPU, µs",
            "haproxy",
            "p50, µs",
            "p95, µs",
            "p99, µs",
            "haproxy",
            "throughput"
        );
        for &scenario in &self.scenarios {
            let _ = writeln!(text, "{} ({})", scenario.name(), scenario.workload.unit());
            for forwarder in &self.forwarders {
                let samples = self.of(scenario, forwarder);
                if samples.is_empty() {
                    continue;
                }
                let [min, median, max] = self.cpu(scenario, forwarder);
                let (cpu, ratio, p99) = if forwarder == "direct" {
                    ("-".to_owned(), "-".to_owned(), "-".to_owned())
                } else {
                    let times = |of: fn(&Sample) -> f64| {
                        format!("{:.2} ×", self.ratio(scenario, forwarder, "haproxy", of))
                    };
                    let cpu = format!("{min:.1} / {median:.1} / {max:.1}");
                    (cpu, times(Sample::cpu_us), times(|s| s.latency_us(0.99)))
                };
                let latency =
                    |part| spread(samples.iter().map(|s| s.latency_us(part)).collect())[1];
                let _ = writeln!(
                    text,
                    "  {forwarder:<10}{cpu:>25}{ratio:>9}{:>11.0}{:>10.0}{:>10.0}{p99:>9}{:>10.2} ×",
                    latency(0.5),
                    latency(0.95),
                    latency(0.99),
                    self.ratio(scenario, forwarder, "direct", Sample::per_second)
                );
            }
        }
        let disturbed = self.samples.iter().filter(|s| s.disturbed()).count();
        if disturbed > 0 {
            let _ = writeln!(
                text,
                "\n{disturbed} of {} slices were disturbed by other work on this machine (up to {:.0}% \
                 of it): compare rows only if they are far apart.",
                self.samples.len(),
                self.samples.iter().map(|s| s.foreign).fold(0.0, f64::max) * 100.0
            );
        }
        if !self.autogroup_off {
            text.push_str("\nsched_autogroup could not be turned off (needs root).\n");
        }
        text
    }

    pub fn to_json(&self) -> Value {
        let samples = self.samples.iter().map(|s| {
            json!({
                "workload": s.scenario.workload.name(),
                "unit": s.scenario.workload.unit(),
                "clients": s.scenario.clients,
                "tls": s.scenario.tls,
                "through": s.forwarder,
                "cpu_us": s.cpu_us(),
                "latency_p50_us": s.latency_us(0.5),
                "latency_p95_us": s.latency_us(0.95),
                "latency_p99_us": s.latency_us(0.99),
                "per_second": s.per_second(),
                "foreign_share": s.foreign,
                "disturbed": s.disturbed(),
            })
        });
        json!({
            "slice_seconds": self.slice.as_secs_f64(),
            "autogroup_off": self.autogroup_off,
            "samples": samples.collect::<Vec<_>>(),
        })
    }

    pub fn groups(&self) -> Vec<Group> {
        let group = |&scenario: &Scenario| {
            let haproxy = self.cpu(scenario, "haproxy")[1];
            let measured = self.forwarders.iter().filter(|f| {
                f.as_str() != "direct" && !self.of(scenario, f).is_empty() && haproxy > 0.0
            });
            let bars = measured.map(|forwarder| {
                let cpu = self.cpu(scenario, forwarder);
                Bar {
                    name: forwarder.clone(),
                    spread: cpu.map(|us| us / haproxy),
                    label: format!("{:.1} µs per {}", cpu[1], scenario.workload.unit()),
                }
            });
            Group { title: scenario.name(), bars: bars.collect() }
        };
        self.scenarios.iter().map(group).collect()
    }
}
