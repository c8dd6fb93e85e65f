//! What a query costs in the forwarder: nothing (direct), HAProxy, which reads nothing, Pointsman,
//! and any other proxy, in one fair run. `cargo xtask bench`.
//!
//! Fair: all daemons in the foreground of one session and with `sched_autogroup` off; rounds
//! interleaved; CPU from the scheduler's own nanoseconds; foreign load watched. Throughput is given
//! beside direct only: with clients, servers and forwarder on the same few cores it says no more.

mod connection;
mod cpu;
mod forwarders;
mod load;
mod plot;
mod report;
mod scenario;
mod syscalls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use pointsman_sandbox::{Options, Sandbox};
use pointsman_tests::Pki;
use rustls::ClientConfig;

use crate::cpu::{Autogroup, Quiet};
use crate::forwarders::{Forwarder, Other};
use crate::report::{Report, Sample};
use crate::scenario::Scenario;
use crate::syscalls::{Counting, PerQuery};

#[derive(Debug, Parser)]
struct Args {
    /// The release binary
    #[arg(long, value_name = "FILE")]
    pointsman: PathBuf,
    /// Another release binary, measured beside: what has a change brought?
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Where the numbers go, as JSON; the plot goes beside them, as SVG
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Four workloads, short slices and fewer rounds: within a minute
    #[arg(long)]
    quick: bool,
    /// Every workload by 1, 16, 64 and 256 clients, with TLS and without: an hour and more
    #[arg(long)]
    all: bool,
    /// Rounds; each measures everything once
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of one measurement
    #[arg(long)]
    seconds: Option<f64>,
    /// Only what has this name, or where none has, has this in its name, as the table gives it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// So many simultaneous clients, whatever the scenario
    #[arg(long)]
    clients: Option<usize>,
    /// Count system calls instead of time: what each forwarder makes for a query (needs perf and root)
    #[arg(long)]
    syscalls: bool,
    /// Another proxy before the same servers: NAME=ADDRESS:PORT:PID
    #[arg(long, value_name = "PROXY")]
    other: Vec<Other>,
    /// The primary listens here and the replica on the next port, so that other proxies know
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
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

fn scenarios(args: &Args) -> Result<Vec<Scenario>> {
    let mut all = match args {
        Args { all: true, .. } => Scenario::all(),
        Args { syscalls: true, .. } => Scenario::small(),
        Args { quick: true, .. } => Scenario::quick(),
        _ => Scenario::usual(),
    };
    if let Some(only) = &args.only {
        let exactly = all.iter().any(|s| s.name() == *only);
        all.retain(|s| if exactly { s.name() == *only } else { s.name().contains(only.as_str()) });
    }
    if let Some(clients) = args.clients {
        all.iter_mut().for_each(|s| s.clients = clients);
        all.dedup();
    }
    ensure!(!all.is_empty(), "nothing is called {}", args.only.as_deref().unwrap_or_default());
    Ok(all)
}

fn run(args: &Args) -> Result<()> {
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 5 });
    let slice = Duration::from_secs_f64(args.seconds.unwrap_or(if args.quick { 0.9 } else { 3.0 }));
    let scenarios = scenarios(args)?;

    let autogroup = Autogroup::off();
    let keys = std::env::temp_dir().join(format!("pointsman-bench-{}", std::process::id()));
    let pki = Pki::new(&keys, "bench")?;
    let certificate = pki.issue("server", &["127.0.0.1"])?;
    let tls = connection::tls(&pki.ca())?;
    let sandbox = Sandbox::start(Options {
        replicas: 1,
        base_port: args.base_port,
        extra_args: vec![
            "--innodb-buffer-pool-size=256M".into(),
            "--max-connections=2000".into(),
            "--max-allowed-packet=256M".into(),
            format!("--ssl-cert={}", certificate.certificate),
            format!("--ssl-key={}", certificate.key),
            format!("--ssl-ca={}", pki.ca()),
        ],
        ..Options::default()
    })?;
    load::fill(&sandbox)?;
    let mut forwarders = vec![
        Forwarder::direct(&sandbox),
        Forwarder::haproxy(&sandbox)?,
        Forwarder::pointsman("pointsman", &sandbox, &args.pointsman, &certificate)?,
    ];
    if let Some(binary) = &args.before {
        forwarders.push(Forwarder::pointsman("before", &sandbox, binary, &certificate)?);
    }
    for other in &args.other {
        forwarders.push(Forwarder::other(other.clone())?);
    }

    if args.syscalls {
        return count_syscalls(&scenarios, &forwarders, &tls, sandbox.dir());
    }
    let mut report = Report {
        autogroup_off: autogroup.is_off(),
        slice,
        forwarders: forwarders.iter().map(|f| f.name.clone()).collect(),
        scenarios,
        samples: Vec::new(),
    };
    let ours: Vec<u32> = sandbox.nodes().iter().filter_map(|n| n.pid()).collect();
    for round in 0..=rounds {
        // Once without counting: caches, buffer pool, the forwarders' first allocations.
        let warming = round == 0;
        if !warming {
            eprintln!("round {round} of {rounds}");
        }
        for scenario in report.scenarios.clone() {
            for i in 0..forwarders.len() {
                // Who comes first changes from round to round.
                let forwarder = &forwarders[(i + round) % forwarders.len()];
                if scenario.tls && !forwarder.tls {
                    continue;
                }
                let slice = if warming { Duration::from_millis(200) } else { slice };
                let patience = if args.quick || warming { 1 } else { 5 };
                let sample = measure(scenario, forwarder, &tls, slice, patience, &ours)
                    .with_context(|| format!("{} through {}", scenario.name(), forwarder.name))?;
                if !warming {
                    report.samples.push(sample);
                }
            }
        }
    }
    println!("{}", report.to_text());
    let title = "CPU in the proxy for each query (connection, MiB), beside HAProxy's";
    std::fs::write(&args.out, serde_json::to_string_pretty(&report.to_json())?)
        .with_context(|| format!("can't write {}", args.out.display()))?;
    let plot = args.out.with_extension("svg");
    std::fs::write(&plot, plot::svg(title, &report.groups()))?;
    println!("numbers: {}\nplot:    {}", args.out.display(), plot.display());
    let _ = std::fs::remove_dir_all(keys);
    Ok(())
}

/// For how long system calls are counted for each scenario and forwarder.
const COUNT_FOR: Duration = Duration::from_millis(1500);

fn count_syscalls(
    scenarios: &[Scenario],
    forwarders: &[Forwarder],
    tls: &Arc<ClientConfig>,
    dir: &std::path::Path,
) -> Result<()> {
    println!("{}\n", syscalls::LEGEND);
    for scenario in scenarios {
        println!("{}", PerQuery::head(&scenario.name()));
        let tls = scenario.tls.then_some(tls);
        for forwarder in forwarders.iter().filter(|f| f.tls || !scenario.tls) {
            let Some(pid) = forwarder.pid() else { continue };
            let Scenario { workload, clients, .. } = *scenario;
            load::run(workload, forwarder, tls, clients, Duration::from_millis(300))?;
            let begin = || Counting::begin(pid, dir);
            let (done, counting) =
                load::run_with(workload, forwarder, tls, clients, COUNT_FOR, begin)
                    .with_context(|| format!("{} through {}", scenario.name(), forwarder.name))?;
            println!("{}", counting.end(done.count)?.row(&format!("  {}", forwarder.name)));
        }
    }
    Ok(())
}

fn measure(
    scenario: Scenario,
    forwarder: &Forwarder,
    tls: &Arc<ClientConfig>,
    slice: Duration,
    patience: u64,
    ours: &[u32],
) -> Result<Sample> {
    let quiet = Quiet::wait(Duration::from_secs(patience));
    let watch = Quiet::watch(ours.iter().copied().chain(forwarder.pid()));
    let before = forwarder.cpu_ns()?;
    let tls = scenario.tls.then_some(tls);
    let done = load::run(scenario.workload, forwarder, tls, scenario.clients, slice)?;
    let cpu_ns = forwarder.cpu_ns()? - before;
    let (forwarder, foreign) = (forwarder.name.clone(), watch.foreign());
    Ok(Sample { scenario, forwarder, cpu_ns, done, foreign, quiet })
}
