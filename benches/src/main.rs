//! What a query costs in the forwarder: nothing (direct), HAProxy, which reads nothing, and
//! Pointsman, in one fair run. `cargo xtask bench`.
//!
//! Fair: all daemons in the foreground of one session and with `sched_autogroup` off; rounds
//! interleaved; CPU from the scheduler's own nanoseconds; foreign load watched. Throughput is not
//! reported: with clients, servers and forwarder on the same few cores it says little.

mod cpu;
mod forwarders;
mod load;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use pointsman_sandbox::{Options, Sandbox};

use crate::cpu::{Autogroup, Quiet};
use crate::forwarders::Forwarder;
use crate::load::Workload;
use crate::report::{Report, Sample};

#[derive(Debug, Parser)]
struct Args {
    /// The release binary
    #[arg(long, value_name = "FILE")]
    pointsman: PathBuf,
    /// Where the numbers go, as JSON
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Short slices and fewer rounds: within a minute
    #[arg(long)]
    quick: bool,
    /// Rounds; each measures everything once
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of one measurement
    #[arg(long)]
    seconds: Option<f64>,
    /// Only the workload whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Simultaneous clients
    #[arg(long, default_value_t = 16)]
    clients: usize,
}

fn main() -> std::process::ExitCode {
    match run(&Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 5 });
    let slice = Duration::from_secs_f64(args.seconds.unwrap_or(if args.quick { 0.9 } else { 4.0 }));

    let autogroup = Autogroup::off();
    let sandbox = Sandbox::start(Options {
        replicas: 1,
        extra_args: vec!["--innodb-buffer-pool-size=256M".into()],
        ..Options::default()
    })?;
    load::fill(&sandbox)?;
    let forwarders = [
        Forwarder::direct(&sandbox),
        Forwarder::haproxy(&sandbox)?,
        Forwarder::pointsman(&sandbox, &args.pointsman)?,
    ];
    let workloads: Vec<_> = Workload::ALL
        .into_iter()
        .filter(|w| args.only.as_ref().is_none_or(|only| w.name().contains(only.as_str())))
        .collect();

    let mut report = Report::new(autogroup.is_off(), args.clients, slice);
    // Once without counting: caches, buffer pool, the forwarders' first allocations.
    for &workload in &workloads {
        for forwarder in &forwarders {
            load::run(workload, forwarder, args.clients, Duration::from_millis(300))
                .with_context(|| format!("{} through {}", workload.name(), forwarder.name))?;
        }
    }
    let ours: Vec<u32> = sandbox.nodes().iter().filter_map(|n| n.pid()).collect();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for &workload in &workloads {
            for i in 0..forwarders.len() {
                // Who comes first changes from round to round.
                let forwarder = &forwarders[(i + round) % forwarders.len()];
                let waited = Quiet::wait(Duration::from_secs(if args.quick { 1 } else { 5 }));
                let watch = Quiet::watch(ours.iter().copied().chain(forwarder.pid()));
                let before = forwarder.cpu_ns()?;
                let done = load::run(workload, forwarder, args.clients, slice)
                    .with_context(|| format!("{} through {}", workload.name(), forwarder.name))?;
                let cpu_ns = forwarder.cpu_ns()? - before;
                report.add(Sample {
                    workload,
                    forwarder: forwarder.name,
                    cpu_ns,
                    done,
                    foreign: watch.foreign(),
                    quiet: waited,
                });
            }
        }
    }
    println!("{}", report.to_text());
    std::fs::write(&args.out, serde_json::to_string_pretty(&report.to_json())?)
        .with_context(|| format!("can't write {}", args.out.display()))?;
    println!("numbers: {}", args.out.display());
    Ok(())
}
