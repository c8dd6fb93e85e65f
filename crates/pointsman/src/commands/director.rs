//! `pointsman director`: runs the front tier.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::logging;

/// Run the front tier (VRRP and virtual servers)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TOML, or a keepalived.conf; told apart by content
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    logging: logging::Args,
}

pub fn run(args: Args) -> Result<ExitCode> {
    logging::init(&args.logging)?;
    anyhow::bail!("the director is not in this build yet; {} was not read", args.config.display())
}
