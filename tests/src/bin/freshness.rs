//! `cargo xtask freshness`: are reads stale, and do replicas answer them?

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use pointsman_sandbox::Flavour;
use pointsman_tests::freshness::{Kind, Seen, delay, read_after_write, read_another_table, site};

const USAGE: &str = "\
usage: freshness [--mariadb | --mysql] [-n READS]

Reads READS times (100000) what was just written, on one connection and on another, text and
prepared, with an idle replica and, a hundredth as often, with one that is a second late; then reads
a table while another one is written.
";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let mut flavours = vec![Flavour::MariaDb, Flavour::MySql];
    let mut n: u64 = 100_000;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--mariadb" => flavours = vec![Flavour::MariaDb],
            "--mysql" => flavours = vec![Flavour::MySql],
            "-n" => n = args.next().context("-n wants a number")?.parse().context("-n")?,
            "-h" | "--help" => {
                print!("{USAGE}");
                return Ok(true);
            }
            other => bail!("freshness does not know {other}\n{USAGE}"),
        }
    }
    let mut good = true;
    for flavour in flavours {
        good &= measure(flavour, n)?;
    }
    Ok(good)
}

fn measure(flavour: Flavour, n: u64) -> Result<bool> {
    let mut good = true;
    let mut tell = |what: &str, seen: Seen, least: f64| {
        let met = seen.stale == 0 && seen.share() >= least;
        good &= met;
        println!(
            "{flavour:?}  {what:42} {:>7} reads, {} stale, {:5.1}% on replicas{}",
            seen.reads,
            seen.stale,
            seen.share(),
            if met { "" } else { "  <- NOT AS PROMISED" }
        );
    };
    let place = site(flavour, "")?;
    let mut all = Seen::default();
    for kind in Kind::ALL {
        let seen = read_after_write(&place, kind, n.div_ceil(4))?;
        tell(kind.name(), seen, 0.0);
        all.reads += seen.reads;
        all.stale += seen.stale;
        all.on_replicas += seen.on_replicas;
    }
    tell("all of these", all, 95.0);
    delay(&place)?;
    for kind in Kind::ALL {
        let seen = read_after_write(&place, kind, n.div_ceil(400))?;
        tell(&format!("a second late: {}", kind.name()), seen, 0.0);
    }
    // Until the replica has the last write of what is read now.
    std::thread::sleep(Duration::from_millis(1500));
    let seen = read_another_table(&place, Duration::from_secs(5))?;
    tell("a second late: b read while a is written", seen, 95.0);
    Ok(good)
}
