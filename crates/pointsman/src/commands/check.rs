//! `pointsman check`: says all that is wrong with config files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use pointsman_config::{Kind, ProxyConfig, Report, Warning};

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
            Ok(Checked::Good(kind, warnings)) => {
                for warning in &warnings {
                    eprintln!("{}", warning.render(super::style()).trim_end());
                }
                let doubts = match warnings.len() {
                    0 => String::new(),
                    1 => ", 1 warning".to_owned(),
                    n => format!(", {n} warnings"),
                };
                println!("{name}: ok ({}{doubts})", describe(kind));
            }
            Ok(Checked::NotYet(kind)) => {
                eprintln!("{name}: {}: not checked yet by this build", describe(kind));
                code = ExitCode::FAILURE;
            }
            Err(report) => {
                eprintln!("{}", report.render(super::style()).trim_end());
                let n = report.problems().len();
                let errors = if n == 1 { "1 error".to_owned() } else { format!("{n} errors") };
                eprintln!("{name}: {errors}");
                code = ExitCode::from(USAGE);
            }
        }
    }
    Ok(code)
}

enum Checked {
    Good(Kind, Vec<Warning>),
    NotYet(Kind),
}

fn check(path: &Path) -> Result<Checked, Report> {
    let text = pointsman_config::read_text(path, &path.display().to_string())?;
    match pointsman_config::kind(&text) {
        Kind::Proxy => ProxyConfig::load(path).map(|(_, w)| Checked::Good(Kind::Proxy, w)),
        kind @ (Kind::Director | Kind::Keepalived) => Ok(Checked::NotYet(kind)),
    }
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::Proxy => "proxy configuration",
        Kind::Director => "director configuration",
        Kind::Keepalived => "keepalived configuration",
    }
}
