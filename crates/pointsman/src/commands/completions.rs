//! `pointsman completions`: for packagers, hence hidden.

use std::io;
use std::process::ExitCode;

use anyhow::Result;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct Args {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(args: Args, cli: &mut clap::Command) -> Result<ExitCode> {
    clap_complete::generate(args.shell, cli, "pointsman", &mut io::stdout());
    Ok(ExitCode::SUCCESS)
}
