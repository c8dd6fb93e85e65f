//! `pointsman import`: another program's configuration as ours.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use pointsman_config::{Kind, Problem, Report, import};
use pointsman_director::config::Warning;

use crate::USAGE;

/// Turn a maxscale.cnf, a proxysql.cnf or a keepalived.conf into our TOML, on standard output
///
/// What has no equivalent is told on standard error, with its line. The result has the file's
/// passwords in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A maxscale.cnf, a proxysql.cnf, or a keepalived.conf (files it includes are taken in)
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let name = args.file.display().to_string();
    let text = match pointsman_config::read_text(&args.file, &name) {
        Ok(text) => text,
        Err(report) => return Ok(refuse(&name, &[report])),
    };
    let imported = if import::is_maxscale(&text) {
        Some(import::maxscale(&text))
    } else if import::is_proxysql(&text) {
        match import::proxysql(&text) {
            Ok(imported) => Some(imported),
            Err(problem) => {
                return Ok(refuse(&name, &[Report::new(&name, &text, vec![problem])]));
            }
        }
    } else {
        None
    };
    if let Some((toml, lost)) = imported {
        let shown = Report::new(&name, &text, lost.clone());
        if !lost.is_empty() {
            eprintln!("{}", shown.render(super::style()).trim_end());
            told(&name, lost.len());
        }
        println!("# From {name}, by `pointsman import`.");
        print!("{toml}");
        return Ok(ExitCode::SUCCESS);
    }
    let what = match pointsman_config::kind(&text) {
        Kind::Director => Some("is a director's TOML already"),
        Kind::Proxy if text.trim_start().starts_with('[') => {
            Some("is no maxscale.cnf, proxysql.cnf or keepalived.conf: nothing else is imported")
        }
        // Perhaps all of it is in files it includes.
        Kind::Keepalived | Kind::Proxy => None,
    };
    if let Some(what) = what {
        return Ok(refuse(&name, &[Report::new(&name, "", vec![Problem::new(what)])]));
    }
    let (config, warnings) = match pointsman_director::config::load(&args.file) {
        Ok(loaded) => loaded,
        Err(errors) => {
            draw(errors.warnings());
            return Ok(refuse(&name, errors.reports()));
        }
    };
    draw(&warnings);
    if !warnings.is_empty() {
        told(&name, warnings.len());
    }
    println!("# From {name}, by `pointsman import`.");
    print!("{}", pointsman_director::config::to_toml(&config));
    Ok(ExitCode::SUCCESS)
}

fn draw(warnings: &[Warning]) {
    for warning in warnings {
        eprintln!("{}", warning.render(super::style()).trim_end());
    }
}

fn told(name: &str, n: usize) {
    eprintln!("{name}: {} left out or changed, see above", count(n, "thing"));
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
