//! The table at the end.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::{Done, Workload};

/// One slice.
pub struct Sample {
    pub workload: Workload,
    pub forwarder: &'static str,
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
        self.cpu_ns as f64 / 1e3 / self.done.count as f64
    }

    fn latency_us(&self, part: f64) -> f64 {
        let all = &self.done.latencies;
        let at = ((all.len() - 1) as f64 * part) as usize;
        f64::from(all[at]) / 1e3
    }

    /// Others took so much of the machine that the numbers say more of them than of us.
    fn disturbed(&self) -> bool {
        !self.quiet || self.foreign > 0.10
    }
}

pub struct Report {
    autogroup_off: bool,
    clients: usize,
    slice: Duration,
    samples: Vec<Sample>,
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
    pub fn new(autogroup_off: bool, clients: usize, slice: Duration) -> Self {
        Self { autogroup_off, clients, slice, samples: Vec::new() }
    }

    pub fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    fn of(&self, workload: Workload, forwarder: &str) -> Vec<&Sample> {
        let mine = |s: &&Sample| s.workload == workload && s.forwarder == forwarder;
        self.samples.iter().filter(mine).collect()
    }

    fn cpu(&self, workload: Workload, forwarder: &str) -> [f64; 3] {
        spread(self.of(workload, forwarder).iter().map(|s| s.cpu_us()).collect())
    }

    pub fn to_text(&self) -> String {
        let mut text = format!(
            "\n{} clients, slices of {:?}; min / median / max of the rounds\n\n\
             {:<34}{:<11}{:>24}{:>9}{:>13}{:>10}\n",
            self.clients,
            self.slice,
            "",
            "through",
            "CPU in it, µs each",
            "haproxy",
            "median µs",
            "p99 µs"
        );
        for workload in Workload::ALL {
            let haproxy = self.cpu(workload, "haproxy")[1];
            for forwarder in ["direct", "haproxy", "pointsman"] {
                let samples = self.of(workload, forwarder);
                if samples.is_empty() {
                    continue;
                }
                let [min, median, max] = self.cpu(workload, forwarder);
                let (cpu, ratio) = if forwarder == "direct" {
                    ("-".to_owned(), "-".to_owned())
                } else {
                    let ratio = format!("{:.2} ×", median / haproxy);
                    (format!("{min:.1} / {median:.1} / {max:.1}"), ratio)
                };
                let latency =
                    |part| spread(samples.iter().map(|s| s.latency_us(part)).collect())[1];
                let title = if forwarder == "direct" {
                    format!("{} ({})", workload.name(), workload.unit())
                } else {
                    String::new()
                };
                let title = if title.len() > 33 && forwarder == "direct" {
                    let _ = writeln!(text, "{title}");
                    String::new()
                } else {
                    title
                };
                let _ = writeln!(
                    text,
                    "{title:<34}{forwarder:<11}{cpu:>24}{ratio:>9}{:>13.0}{:>10.0}",
                    latency(0.5),
                    latency(0.99)
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
                "workload": s.workload.name(),
                "unit": s.workload.unit(),
                "through": s.forwarder,
                "cpu_us": s.cpu_us(),
                "latency_p50_us": s.latency_us(0.5),
                "latency_p99_us": s.latency_us(0.99),
                "count": s.done.count,
                "foreign_share": s.foreign,
                "disturbed": s.disturbed(),
            })
        });
        json!({
            "clients": self.clients,
            "slice_seconds": self.slice.as_secs_f64(),
            "autogroup_off": self.autogroup_off,
            "samples": samples.collect::<Vec<_>>(),
        })
    }
}
