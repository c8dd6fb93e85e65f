//! `pointsman import`: another program's configuration as ours.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use pointsman_config::{Kind, Problem, Report};

use crate::USAGE;

/// Turn a keepalived.conf into a director's TOML, on standard output
///
/// What has no equivalent is told on standard error, with its line. The result runs as the file it
/// was made from, and has its passwords in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A keepalived.conf; files it includes are taken in
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let name = args.file.display().to_string();
    let text = match pointsman_config::read_text(&args.file, &name) {
        Ok(text) => text,
        Err(report) => return Ok(refuse(&name, &[report])),
    };
    let what = match pointsman_config::kind(&text) {
        Kind::Director => Some("is a director's TOML already"),
        Kind::Proxy if text.trim_start().starts_with('[') || text.contains("mysql_servers") => {
            Some("is not a keepalived.conf, and nothing else can be imported yet")
        }
        // Perhaps all of it is in files it includes.
        Kind::Keepalived | Kind::Proxy => None,
    };
    if let Some(what) = what {
        return Ok(refuse(&name, &[Report::new(&name, "", vec![Problem::new(what)])]));
    }
    let (config, warnings) = match pointsman_director::config::load(&args.file) {
        Ok(loaded) => loaded,
        Err(errors) => return Ok(refuse(&name, errors.reports())),
    };
    for warning in &warnings {
        eprintln!("{}", warning.render(super::style()).trim_end());
    }
    if !warnings.is_empty() {
        eprintln!("{name}: {} left out or changed, see above", count(warnings.len(), "thing"));
    }
    println!("# From {name}, by `pointsman import`.");
    print!("{}", pointsman_director::config::to_toml(&config));
    Ok(ExitCode::SUCCESS)
}

fn refuse(name: &str, reports: &[Report]) -> ExitCode {
    for report in reports {
        eprintln!("{}", report.render(super::style()).trim_end());
    }
    let n = reports.iter().map(|r| r.problems().len()).sum();
    eprintln!("{name}: {}, nothing imported", count(n, "error"));
    ExitCode::from(USAGE)
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
