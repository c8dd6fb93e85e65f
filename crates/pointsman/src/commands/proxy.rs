//! `pointsman proxy`: runs the MySQL proxy.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use pointsman_config::ProxyConfig;

use crate::{USAGE, logging};

/// Run the MySQL proxy until SIGTERM (then it drains and exits); SIGHUP reloads
#[derive(Debug, clap::Args)]
pub struct Args {
    /// proxy.toml; `pointsman check` says whether it is right
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    logging: logging::Args,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let Some(config) = load(&args.config) else { return Ok(ExitCode::from(USAGE)) };
    logging::init(&args.logging)?;
    serve(config)
}

/// Reads the config; what is wrong or doubtful goes to stderr.
fn load(path: &std::path::Path) -> Option<ProxyConfig> {
    match ProxyConfig::load(path) {
        Ok((config, warnings)) => {
            for warning in warnings {
                eprint!("{}", warning.render(super::style()));
            }
            Some(config)
        }
        Err(report) => {
            eprint!("{}", report.render(super::style()));
            None
        }
    }
}

/// Runs the proxy until it is told to stop.
pub fn serve(_config: ProxyConfig) -> Result<ExitCode> {
    anyhow::bail!("the proxy is not in this build yet")
}
