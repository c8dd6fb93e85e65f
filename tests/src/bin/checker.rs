//! `cargo xtask checker`: is anything lost, doubled or stale, whatever happens?

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use pointsman_sandbox::Flavour;
use pointsman_tests::checker::{Place, Random, Round, Story};
use pointsman_tests::reference::{Network, unable};

const USAGE: &str = "\
usage: checker [--flavour mariadb|mysql] [--seconds N] [--seed S] [--round N] [STORY...]

Clients keep books of what they were told while servers, the proxy and the network fail at random, for
N seconds (60) on each flavour. Rounds of at most --round seconds (45), each with new servers and a
seed of its own, which is printed: `--seed S --seconds 45 STORY` repeats that round. Without root no
packets get lost.

  everything    all of this, and the proxy is killed
  replicas      replicas die, hang, fall behind, are cut off: no write may notice
  primaries     primaries die, hang, are cut off
  switchovers   primaries are changed on purpose: no error but deadlocks
  pool          as replicas, with few connections that all sessions share
  control       reads that may be stale: must be found
";

struct Asked {
    flavours: Vec<Flavour>,
    stories: Vec<Story>,
    time: Duration,
    round: Duration,
    seed: u64,
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
    if let Some(why) = unable() {
        println!("no packets get lost in this run: {why}");
    }
    match Place::found(move |network| run(&asked, network.as_ref())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn asked() -> Result<Option<Asked>> {
    let now = std::time::UNIX_EPOCH.elapsed()?.as_nanos();
    let mut asked = Asked {
        flavours: vec![Flavour::MariaDb, Flavour::MySql],
        stories: vec![],
        time: Duration::from_secs(60),
        round: Duration::from_secs(45),
        seed: u64::try_from(now % 1_000_000_000)?,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64> {
            let value = args.next().with_context(|| format!("{arg} wants a number"))?;
            value.parse().with_context(|| format!("{arg} wants a number, not {value}"))
        };
        match arg.as_str() {
            "--seconds" => asked.time = Duration::from_secs(number()?),
            "--round" => asked.round = Duration::from_secs(number()?.max(1)),
            "--seed" => asked.seed = number()?,
            "--flavour" => asked.flavours = vec![flavour(args.next().as_deref())?],
            "--mariadb" => asked.flavours = vec![Flavour::MariaDb],
            "--mysql" => asked.flavours = vec![Flavour::MySql],
            "-h" | "--help" => return Ok(None),
            name => {
                let story = Story::ALL.into_iter().find(|story| story.name() == name);
                asked.stories.push(story.with_context(|| format!("no story is named {name}"))?);
            }
        }
    }
    if asked.stories.is_empty() {
        // Most of the time for what contains the rest.
        asked.stories = vec![
            Story::Everything,
            Story::Primaries,
            Story::Everything,
            Story::Replicas,
            Story::Everything,
            Story::Switchovers,
            Story::Everything,
            Story::Pool,
        ];
    }
    Ok(Some(asked))
}

fn flavour(name: Option<&str>) -> Result<Flavour> {
    Ok(match name {
        Some("mariadb") => Flavour::MariaDb,
        Some("mysql") => Flavour::MySql,
        _ => bail!("--flavour wants mariadb or mysql"),
    })
}

/// What came of all rounds of one flavour.
#[derive(Default)]
struct Sum {
    rounds: usize,
    done: usize,
    refused: usize,
    unknown: usize,
    reads: u64,
    /// In a row: servers did not come up.
    not_begun: usize,
    failures: Vec<String>,
}

fn run(asked: &Asked, network: Option<&Arc<Network>>) -> bool {
    let mut good = true;
    for &flavour in &asked.flavours {
        let sum = rounds(asked, flavour, network);
        for failure in &sum.failures {
            println!("FAILED: {failure}");
        }
        println!(
            "{flavour:?}: {} rounds, {} writes acknowledged, {} refused, {} left in doubt, {} reads: \
             {}",
            sum.rounds,
            sum.done,
            sum.refused,
            sum.unknown,
            sum.reads,
            match sum.failures.len() {
                0 if sum.done == 0 => "NOTHING WAS DONE, so nothing is known".to_owned(),
                0 => "nothing lost, doubled or stale".to_owned(),
                n => format!("{n} ROUNDS FAILED"),
            }
        );
        good &= sum.failures.is_empty() && sum.done > 0;
    }
    good
}

fn rounds(asked: &Asked, flavour: Flavour, network: Option<&Arc<Network>>) -> Sum {
    let mut sum = Sum::default();
    let mut seed = asked.seed;
    let mut left = asked.time;
    for &story in asked.stories.iter().cycle() {
        if left.is_zero() {
            break;
        }
        let round = Round { flavour, story, seed, time: left.min(asked.round) };
        let repeat = format!(
            "checker --flavour {} --seed {seed} --seconds {} {}",
            if flavour == Flavour::MySql { "mysql" } else { "mariadb" },
            round.time.as_secs(),
            story.name()
        );
        println!("==> {repeat}");
        let begun = Instant::now();
        let failure = match round.run(network.cloned()) {
            Ok(verdict) => {
                sum.not_begun = 0;
                sum.done += verdict.done;
                sum.refused += verdict.refused;
                sum.unknown += verdict.unknown;
                sum.reads += verdict.reads;
                println!(
                    "  {} acknowledged, {} refused, {} in doubt, {} reads, longest write gap {:?}",
                    verdict.done,
                    verdict.refused,
                    verdict.unknown,
                    verdict.reads,
                    verdict.longest_gap
                );
                for (error, times) in &verdict.errors {
                    println!("    {times} times: {error}");
                }
                round.is_wrong(&verdict)
            }
            Err(error) => {
                println!("  not begun: {error:#}");
                sum.not_begun += 1;
                // A busy machine is not what is tested.
                (sum.not_begun > 3).then(|| format!("servers don't come up: {error:#}"))
            }
        };
        if let Some(failure) = failure {
            println!("  WRONG: {failure}");
            sum.failures.push(format!("{repeat}: {failure}"));
        }
        sum.rounds += 1;
        seed = Random::new(seed).number();
        // What starting servers takes does not count, but a round may end early.
        left = left.saturating_sub(begun.elapsed().min(round.time).max(Duration::from_secs(5)));
    }
    sum
}
