//! `cargo xtask failover-times`: what a change of the primary costs, as clients see it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use pointsman_sandbox::Flavour;
use pointsman_tests::checker::Place;
use pointsman_tests::reference::{Network, unable};
use pointsman_tests::times::{Event, Seen, happen};

const USAGE: &str = "\
usage: failover-times [--flavour mariadb|mysql] [--rounds N] [EVENT...]

Four clients write without a pause to a primary with two replicas, at default settings, while each of
these happens to the primary N times (5), to new servers every time: the medians, and what was worst.

  killed            kill -9
  frozen            SIGSTOP
  silent            packets to and from it get lost (needs root)
  switchover        replaced on purpose
  killed-semisync, frozen-semisync    the same with semi-synchronous replication
  killed-rows       killed-semisync with binlog_format=ROW, which MySQL has anyway
";

struct Asked {
    flavours: Vec<Flavour>,
    events: Vec<Event>,
    rounds: usize,
}

fn main() -> ExitCode {
    let asked = match asked() {
        Ok(Some(asked)) => asked,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match Place::found(move |network| measure(&asked, network.as_ref())) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) | Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn asked() -> Result<Option<Asked>> {
    let mut asked =
        Asked { flavours: vec![Flavour::MariaDb, Flavour::MySql], events: vec![], rounds: 5 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => {
                let rounds = args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                asked.rounds = rounds.context("--rounds wants a number")?;
            }
            "--flavour" => {
                asked.flavours = vec![match args.next().as_deref() {
                    Some("mariadb") => Flavour::MariaDb,
                    Some("mysql") => Flavour::MySql,
                    _ => bail!("--flavour wants mariadb or mysql"),
                }];
            }
            "-h" | "--help" => return Ok(None),
            name => {
                let event = Event::ALL.into_iter().find(|event| event.name() == name);
                asked.events.push(event.with_context(|| format!("no event is named {name}"))?);
            }
        }
    }
    if asked.events.is_empty() {
        asked.events = Event::ALL.to_vec();
    }
    Ok(Some(asked))
}

fn measure(asked: &Asked, network: Option<&Arc<Network>>) -> Result<bool> {
    let mut good = true;
    println!(
        "{:8} {:16} {:>10} {:>10} {:>10} {:>7} {:>6} {:>8}",
        "", "", "gap", "worst", "aim", "errors", "lost", "doubled"
    );
    for &flavour in &asked.flavours {
        for &event in &asked.events {
            if event == Event::Silent && network.is_none() {
                println!("{flavour:?} {}: left out: {}", event.name(), unable().unwrap_or("?"));
                continue;
            }
            let mut all = Vec::new();
            for round in 1..=asked.rounds {
                let seen = happen(event, flavour, network.cloned());
                all.push(seen.with_context(|| format!("{flavour:?} {} {round}", event.name()))?);
            }
            good &= tell(flavour, event, &all);
        }
    }
    Ok(good)
}

fn tell(flavour: Flavour, event: Event, all: &[Seen]) -> bool {
    let mut gaps: Vec<_> = all.iter().map(|seen| seen.gap).collect();
    gaps.sort();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    let errors: Vec<_> = all.iter().flat_map(|seen| &seen.errors).collect();
    let lost: usize = all.iter().map(|seen| seen.lost).sum();
    let doubled: usize = all.iter().map(|seen| seen.doubled).sum();
    let met = median < event.aim()
        && (errors.is_empty() || !event.without_errors())
        && (lost == 0 || event.may_lose())
        && doubled == 0;
    let ms = |time: Duration| format!("{} ms", time.as_millis());
    println!(
        "{:8} {:16} {:>10} {:>10} {:>10} {:>7} {:>6} {:>8}{}",
        format!("{flavour:?}"),
        event.name(),
        ms(median),
        ms(worst),
        ms(event.aim()),
        errors.len(),
        lost,
        doubled,
        if met { "" } else { "  <- misses its aim" }
    );
    for error in errors.iter().take(3) {
        println!("         {error}");
    }
    met
}
