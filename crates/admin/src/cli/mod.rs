//! The other end of the wire: the command table as subcommands of a command line.

mod client;
mod rebuild;
mod watch;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches};

use crate::command::{self, Args, COMMANDS, Kind, ParamKind};
use crate::error::AdminError;
use crate::{Code, View};

use client::Client;

/// Where a daemon answers unless told otherwise.
pub const DEFAULT_ADMIN: &str = "http://127.0.0.1:8989";

/// A subcommand for every command of the table.
#[must_use]
pub fn commands() -> Vec<clap::Command> {
    COMMANDS.iter().map(|c| subcommand(c)).collect()
}

fn subcommand(command: &'static command::Command) -> clap::Command {
    let mut out = clap::Command::new(command.name)
        .about(command.about)
        .hide(command.hidden)
        .arg(
            Arg::new("admin")
                .long("admin")
                .value_name("URL")
                .env("POINTSMAN_ADMIN")
                .default_value(DEFAULT_ADMIN)
                .help("Which daemon to talk to"),
        )
        .arg(
            Arg::new("token")
                .long("token")
                .value_name("TOKEN")
                .env("POINTSMAN_TOKEN")
                .hide_env_values(true)
                .help("The [admin] token of that daemon, if it has one"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("For programs, not people"),
        );
    if matches!(command.kind, Kind::OnServer(_)) {
        out = out.arg(Arg::new(Args::SERVER).value_name("SERVER").required(true));
    }
    for param in command.params {
        let arg = Arg::new(param.name).long(param.name).help(param.about);
        out = out.arg(match param.kind {
            ParamKind::Number => arg.value_name("N").value_parser(clap::value_parser!(u64)),
            ParamKind::Text => arg.value_name("NAME").value_parser(clap::value_parser!(String)),
            ParamKind::Flag => arg.action(ArgAction::SetTrue),
        });
    }
    if command.kind.reads() {
        let watch = Arg::new("watch").long("watch");
        out = out.arg(if matches!(command.kind, Kind::View(View::Events)) {
            watch
                .visible_alias("follow")
                .short('f')
                .action(ArgAction::SetTrue)
                .help("Show new ones as they happen, until interrupted")
        } else {
            watch
                .value_name("SECONDS")
                .num_args(0..=1)
                .default_missing_value("2")
                .require_equals(true)
                .value_parser(clap::value_parser!(u64).range(1..))
                .help("Show it again and again, until interrupted")
        });
    }
    out
}

/// Runs the subcommand `name`, which must be one of [`commands`], and reports on stderr.
#[must_use]
pub fn run(name: &str, matches: &ArgMatches) -> ExitCode {
    match try_run(name, matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Gone) => ExitCode::SUCCESS,
        Err(Failure::Remote(error)) => {
            let _ = writeln!(io::stderr(), "{}", error.render());
            ExitCode::from(if error.code == Code::BadArgument.code() { 2 } else { 1 })
        }
    }
}

/// Why a command ended before its time.
pub(crate) enum Failure {
    /// Nobody reads our output any more (`| head`); not worth a word.
    Gone,
    Remote(Reported),
}

/// An error as it came over the wire: also one of a newer daemon, with a code not known here.
pub(crate) struct Reported {
    code: String,
    name: String,
    message: String,
    help: String,
}

impl Reported {
    fn render(&self) -> String {
        format!("error: {} ({} {})\n help: {}", self.message, self.code, self.name, self.help)
    }
}

impl From<AdminError> for Failure {
    fn from(e: AdminError) -> Self {
        Self::Remote(Reported {
            code: e.code.code().to_owned(),
            name: e.code.name().to_owned(),
            message: e.message,
            help: e.code.remedy().to_owned(),
        })
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe {
            Self::Gone
        } else {
            AdminError::new(Code::Internal, format!("can't write the output: {e}")).into()
        }
    }
}

fn try_run(name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let command = command::find(name)
        .ok_or_else(|| AdminError::new(Code::UnknownCommand, format!("no command {name}")))?;
    let text = |id: &str| matches.get_one::<String>(id).cloned();
    let client = Client::new(
        &text("admin").unwrap_or_else(|| DEFAULT_ADMIN.to_owned()),
        text("token").filter(|t| !t.is_empty()),
    )?;

    let path = match command.kind {
        Kind::OnServer(_) => {
            let server = text(Args::SERVER).unwrap_or_default();
            format!("/api/v1/servers/{}/{name}", client::encode(&server))
        }
        _ => format!("/api/v1/{name}"),
    };
    let mut params = Vec::new();
    for param in command.params {
        let value = match param.kind {
            ParamKind::Number => matches.get_one::<u64>(param.name).map(u64::to_string),
            ParamKind::Text => text(param.name),
            ParamKind::Flag => matches.get_flag(param.name).then(|| "true".to_owned()),
        };
        params.extend(value.map(|v| (param.name.to_owned(), v)));
    }
    let json = matches.get_flag("json");

    if !command.kind.reads() {
        params.push(("format".to_owned(), if json { "json" } else { "text" }.to_owned()));
        print(&client.post(&path, &params)?)?;
        if params.iter().any(|(name, _)| name == command::REBUILD) {
            return rebuild::follow(&client, &text(Args::SERVER).unwrap_or_default());
        }
        return Ok(());
    }
    if matches!(command.kind, Kind::View(View::Events)) {
        if matches.get_flag("watch") {
            return watch::events(&client, &path, params, json);
        }
    } else if let Some(seconds) = matches.get_one::<u64>("watch") {
        return watch::again(&client, &path, &params, json, *seconds);
    }
    print(&client.get(&path, &form(params, json))?.text)
}

/// Adds what asks for text as wide as the terminal, or for JSON.
fn form(mut params: Vec<(String, String)>, json: bool) -> Vec<(String, String)> {
    if json {
        return params;
    }
    params.push(("format".to_owned(), "text".to_owned()));
    if let Some(width) = terminal_width() {
        params.push(("width".to_owned(), width.to_string()));
    }
    params
}

fn terminal_width() -> Option<u16> {
    if !io::stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(width, _)| width.0)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// All names of [`commands`], for a dispatcher.
#[must_use]
pub fn is_command(name: &OsString) -> bool {
    name.to_str().is_some_and(|n| COMMANDS.iter().any(|c| c.name == n))
}
