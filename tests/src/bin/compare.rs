//! `cargo xtask compare`: the stories of `tests/compare`, told direct and through the proxy.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use pointsman_sandbox::{Flavour, newer_mariadb};
use pointsman_tests::compare::{Comparison, Variant, directory, load};

const USAGE: &str = "\
usage: compare [--mariadb | --newer-mariadb | --mysql] [--old | --new] [--explained] [--open] [WORDS]

Tells the cases whose `file: title` contains WORDS on a direct connection to the primary and
through the proxy, and shows whatever a client sees differ. --old and --new say what kind of
client; --explained also lists what may differ, and why; --open tells those that are known to
differ and wait to be mended.
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
    let newer = || {
        let root =
            newer_mariadb().context("no newer MariaDB here; `cargo xtask setup` gets one")?;
        anyhow::Ok((Flavour::MariaDb, Some(root)))
    };
    let mut servers = vec![(Flavour::MariaDb, None), (Flavour::MySql, None)];
    servers.extend(newer().ok());
    let mut variants = vec![Variant::Old, Variant::New];
    let (mut explained, mut words) = (false, Vec::new());
    let mut from = directory();
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--mariadb" => servers = vec![(Flavour::MariaDb, None)],
            "--newer-mariadb" => servers = vec![newer()?],
            "--mysql" => servers = vec![(Flavour::MySql, None)],
            "--old" => variants = vec![Variant::Old],
            "--new" => variants = vec![Variant::New],
            "--explained" => explained = true,
            "--open" => from.push("open"),
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(true);
            }
            flag if flag.starts_with('-') => bail!("unknown: {flag}\n\n{USAGE}"),
            _ => words.push(arg),
        }
    }
    let words = words.join(" ");
    let mut cases = load(&from)?;
    cases.retain(|case| case.name.contains(&words));
    ensure!(!cases.is_empty(), "no case is called {words:?}");
    let mut alike = true;
    for (flavour, mariadb) in servers {
        for variant in &variants {
            let newer = if mariadb.is_some() { "newer " } else { "" };
            println!("\n==> {newer}{flavour:?}, {variant:?} client");
            let comparison = Comparison::start(flavour, mariadb.clone(), *variant)?;
            let Some(comparison) = comparison else { continue };
            let report = comparison.run(&cases)?;
            print!("{report}");
            if explained {
                for (place, what, why) in &report.explained {
                    println!("  {place}: {what}\n      {why}");
                }
            }
            alike &= report.differences.is_empty();
        }
    }
    Ok(alike)
}
