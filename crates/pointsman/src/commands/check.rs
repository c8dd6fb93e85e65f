//! `pointsman check`: says all that is wrong with config files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use pointsman_config::{Kind, Problem, ProxyConfig, Report};

use crate::USAGE;

/// Say all that is wrong with configuration files of either daemon
#[derive(Debug, clap::Args)]
pub struct Args {
    /// proxy.toml, a director's TOML or a keepalived.conf; told apart by content
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for path in &args.files {
        let name = path.display();
        match check(path) {
            Ok((kind, warnings)) => {
                for warning in &warnings {
                    eprintln!("{}", warning.trim_end());
                }
                let doubts = match warnings.len() {
                    0 => String::new(),
                    1 => ", 1 warning".to_owned(),
                    n => format!(", {n} warnings"),
                };
                println!("{name}: ok ({}{doubts})", describe(kind));
            }
            Err(reports) => {
                for report in &reports {
                    eprintln!("{}", report.render(super::style()).trim_end());
                }
                let n: usize = reports.iter().map(|r| r.problems().len()).sum();
                let errors = if n == 1 { "1 error".to_owned() } else { format!("{n} errors") };
                eprintln!("{name}: {errors}");
                code = ExitCode::from(USAGE);
            }
        }
    }
    Ok(code)
}

/// What kind of file it is, and its warnings, drawn.
fn check(path: &Path) -> Result<(Kind, Vec<String>), Vec<Report>> {
    let text =
        pointsman_config::read_text(path, &path.display().to_string()).map_err(|r| vec![r])?;
    let style = super::style();
    match pointsman_config::kind(&text) {
        Kind::Proxy => match ProxyConfig::load(path) {
            Ok((config, warnings)) => {
                // What is in the files it names.
                pointsman_proxy::Tls::load(&config).map_err(|error| {
                    let problem = Problem::new(error.to_string());
                    vec![Report::new(&path.display().to_string(), &text, vec![problem])]
                })?;
                Ok((Kind::Proxy, warnings.iter().map(|w| w.render(style)).collect()))
            }
            Err(report) => Err(vec![report]),
        },
        kind @ (Kind::Director | Kind::Keepalived) => {
            match pointsman_director::config::load(path) {
                Ok((_, warnings)) => Ok((kind, warnings.iter().map(|w| w.render(style)).collect())),
                Err(errors) => {
                    for warning in errors.warnings() {
                        eprintln!("{}", warning.render(style).trim_end());
                    }
                    Err(errors.reports().to_vec())
                }
            }
        }
    }
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::Proxy => "proxy configuration",
        Kind::Director => "director configuration",
        Kind::Keepalived => "keepalived configuration",
    }
}
