//! `cargo xtask suites`: other projects' own tests, direct and through the proxy.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use pointsman_sandbox::Flavour;
use pointsman_tests::suites::{Place, all};

const USAGE: &str = "\
usage: suites [--list] [--explained] [--mysql] [--proxied | --direct] [NAME [TEST...]]

Runs the suites of tests/suites (or the one called NAME, or only some TESTs of it, named as that
suite names them) on a direct connection to the primary and through the proxy, each time on new
servers, and shows whatever differs. --mysql runs them on MySQL; --explained also lists what may
differ, and why; --direct and --proxied run one side only.
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
    let (mut explained, mut only, mut words) = (false, None, Vec::new());
    let mut flavour = Flavour::MariaDb;
    let mut suites = all()?;
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--list" => {
                suites.iter().for_each(|suite| println!("{}", suite.name));
                return Ok(true);
            }
            "--explained" => explained = true,
            "--mysql" => flavour = Flavour::MySql,
            "--direct" => only = Some(Place::Direct),
            "--proxied" => only = Some(Place::Proxied),
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(true);
            }
            flag if flag.starts_with("--") => bail!("unknown: {flag}\n\n{USAGE}"),
            _ => words.push(arg),
        }
    }
    let tests = words.split_off(words.len().min(1));
    if let Some(name) = words.pop() {
        let names = suites.iter().map(|suite| suite.name.as_str()).collect::<Vec<_>>().join(" ");
        suites.retain(|suite| suite.name == name);
        ensure!(!suites.is_empty(), "no suite {name}; there are: {names}");
    }
    let base = std::env::temp_dir().join(format!("pointsman-suites-{}", std::process::id()));
    let (mut alike, mut table) = (true, String::new());
    for suite in &suites {
        println!("\n==> {}", suite.name);
        if let Some(why) = suite.not_on(flavour) {
            println!("    not on {flavour:?}: {why}");
            continue;
        }
        if let Err(error) = suite.prepare() {
            println!("    can't be had: {error:#}");
            table += &format!("{:<16} can't be had\n", suite.name);
            alike = false;
            continue;
        }
        let out = |side: &str| base.join(&suite.name).join(side);
        let mut sides = Vec::new();
        for (place, side) in [(Place::Direct, "direct"), (Place::Proxied, "proxied")] {
            if only.is_some_and(|only| only != place) {
                continue;
            }
            let start = std::time::Instant::now();
            let (results, findings) = suite.run(place, flavour, &out(side), &tests)?;
            println!("    {side:<8} {results}  {:>5.0?}", start.elapsed());
            table += &format!("{:<16} {side:<8} {results}\n", suite.name);
            for finding in &findings {
                println!("    {finding}");
            }
            alike &= findings.is_empty();
            sides.push(results);
        }
        let [direct, proxied] = &sides[..] else { continue };
        let comparison = suite.compare(direct, proxied)?;
        for what in &comparison.differences {
            println!("  DIFFERS {what}");
        }
        alike &= comparison.differences.is_empty();
        println!(
            "    {} differ, {} more may",
            comparison.differences.len(),
            comparison.explained.len()
        );
        if explained {
            for (what, why) in &comparison.explained {
                println!("  may: {what}\n      {why}");
            }
        }
    }
    print!("\n{table}");
    println!("What they wrote is in {}", base.display());
    Ok(alike)
}
