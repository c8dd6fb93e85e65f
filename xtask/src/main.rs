//! The project's chores. `cargo xtask` lists them.

mod bench;
mod cargo;
mod checker;
mod child;
mod compare;
mod demo;
mod freshness;
mod fuzz;
mod instructions;
mod setup;
mod site;
mod suites;
mod test;
mod times;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
usage: cargo xtask CHORE

  demo [--keep]         install what is missing, build, start a primary, a replica and the proxy,
                        run a PHP page through it, kill the replica under load, show what happened
                        (--keep: leave it running until Ctrl-C)
  site                  the whole reference site in network namespaces (needs root): client, two
                        directors, two web servers, proxies, databases; stop and kill them one
                        after the other, show what happened
  test                  install what is missing, then all checks and all tests
  bench [--quick | --all] [--only TEXT] [--other NAME=ADDRESS:PORT:PID] ...
                        CPU per query, latency, throughput: direct, HAProxy, Pointsman and others in
                        one fair run; a table, a plot (SVG) and JSON (--help: all options)
  checker [--flavour mariadb|mysql] [--seconds N] [--seed S] [STORY...]
                        clients that keep books and faults at random; is anything lost, doubled
                        or stale?
  compare [--mariadb | --newer-mariadb | --mysql] [--old | --new] [--explained] [WORDS]
                        the stories of tests/compare, direct and through the proxy: what differs?
  suites [--list] [--explained] [--mysql] [NAME [TEST...]]
                        other projects' own tests, direct and through the proxy: equal results?
  failover-times [--flavour mariadb|mysql] [--rounds N] [EVENT...]
                        what a dead, a frozen, a replaced primary costs clients that write
  freshness [--mariadb | --mysql] [-n READS]
                        reads after writes: how many are stale, how many do replicas answer?
  fuzz [TARGET] [--seconds N]
                        fuzz one target, or list them
  instructions [--release] [--record] [--keep DIR]
                        instructions per statement, against tests/instructions.json
                        (--record: these are the figures from now on; --keep: for callgrind_annotate)
  ipvs-vm [WORDS | --rate]
                        boot a virtual machine whose kernel has IPVS and run the director's tests of
                        it there (installs QEMU if need be; about two minutes); --rate: packets a
                        second by eBPF, IPVS and plain forwarding, under virtual time
  setup                 only install what is missing (apt-get)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<ExitCode> {
    match args {
        ["demo"] => demo::run(false)?,
        ["demo", "--keep"] => demo::run(true)?,
        ["test"] => test::run()?,
        ["bench", rest @ ..] => bench::run(rest)?,
        ["checker", rest @ ..] => checker::run(rest)?,
        ["failover-times", rest @ ..] => times::run(rest)?,
        ["freshness", rest @ ..] => freshness::run(rest)?,
        ["fuzz", rest @ ..] => fuzz::run(rest)?,
        ["instructions", rest @ ..] => instructions::run(rest)?,
        ["site"] => site::run()?,
        ["compare", rest @ ..] => compare::run(rest)?,
        ["suites", rest @ ..] => suites::run(rest)?,
        ["ipvs-vm", words @ ..] => vm::run(words)?,
        ["setup"] => setup::run()?,
        [] | ["help" | "--help" | "-h"] => print!("{HELP}"),
        _ => {
            eprint!("{HELP}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what comes next.
fn say(what: &str) {
    println!("\n==> {what}");
}

/// A number that must stand after `flag`.
fn number(flag: &str, value: Option<&&str>) -> Result<u64> {
    match value.and_then(|v| v.parse().ok()) {
        Some(n) => Ok(n),
        None => bail!("{flag} wants a number"),
    }
}
