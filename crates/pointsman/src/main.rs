//! The command line of Pointsman. Each command is a file in `commands`; those that only talk to a
//! running daemon come from the command table of `pointsman-admin`.

mod commands;
mod director_daemon;
mod logging;
mod proxy_daemon;
mod takeover;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Many small allocations on many threads: what mimalloc is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for wrong usage and wrong configuration, as clap's own.
const USAGE: u8 = 2;

#[derive(Parser)]
#[command(
    name = "pointsman",
    version,
    about = "Sets the points for websites on MySQL and MariaDB: a read/write splitting proxy and a VRRP/LVS front tier",
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Proxy(commands::proxy::Args),
    Director(commands::director::Args),
    Check(commands::check::Args),
    Explain(commands::explain::Args),
    Import(commands::import::Args),
    Realserver(commands::realserver::Args),
    Sandbox(commands::sandbox::Args),
    Completions(commands::completions::Args),
}

/// The whole command line: ours, then the command table's.
fn cli() -> clap::Command {
    Cli::command().subcommands(pointsman_admin::cli::commands())
}

fn main() -> ExitCode {
    let matches = cli().get_matches();
    if let Some((name, rest)) = matches.subcommand()
        && pointsman_admin::command::find(name).is_some()
    {
        return pointsman_admin::cli::run(name, rest);
    }
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let done = match cli.command {
        Command::Proxy(args) => commands::proxy::run(args),
        Command::Director(args) => commands::director::run(args),
        Command::Check(args) => commands::check::run(args),
        Command::Explain(args) => commands::explain::run(args),
        Command::Import(args) => commands::import::run(args),
        Command::Realserver(args) => commands::realserver::run(args),
        Command::Sandbox(args) => commands::sandbox::run(args),
        Command::Completions(args) => commands::completions::run(args, &mut crate::cli()),
    };
    done.unwrap_or_else(|error| {
        // One line: the error and what caused it.
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_well_formed() {
        super::cli().debug_assert();
    }
}
