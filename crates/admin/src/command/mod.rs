//! All that can be asked of a daemon and done to it, once, for the CLI, the HTTP API and the SQL
//! console. A new command is an entry in [`COMMANDS`] and nothing else.

mod verbs;
mod views;

pub(crate) use verbs::REBUILD;

use std::collections::BTreeMap;

use crate::{Action, AdminError, Code, Daemon, Query, Status, Table, View};

/// One thing an operator can ask for or do.
#[derive(Debug)]
pub struct Command {
    /// `pointsman NAME`, `/api/v1/NAME`, `SHOW NAME` or `NAME ...`.
    pub name: &'static str,
    /// One line for the help.
    pub about: &'static str,
    pub kind: Kind,
    pub params: &'static [Param],
    /// Not shown in any help: not every daemon of this version can do it.
    pub hidden: bool,
}

/// What a command does.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `GET /api/v1/status`.
    Status,
    /// `GET /api/v1/NAME`.
    View(View),
    /// `POST /api/v1/servers/SERVER/NAME`.
    OnServer(fn(String, &Args) -> Action),
    /// `POST /api/v1/NAME`.
    OnDaemon(fn(&Args) -> Action),
}

impl Kind {
    /// Whether it only reads.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(self, Self::Status | Self::View(_))
    }
}

/// An argument of a command.
#[derive(Debug)]
pub struct Param {
    /// `?NAME=`, `--NAME`, `NAME value` in SQL.
    pub name: &'static str,
    pub about: &'static str,
    pub kind: ParamKind,
}

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    Text,
    Number,
    /// There or not: `?NAME=true`, `--NAME`, `NAME` in SQL.
    Flag,
}

/// The table of commands.
pub const COMMANDS: &[&Command] = &[
    &views::STATUS,
    &views::SERVERS,
    &views::SESSIONS,
    &views::STATEMENTS,
    &views::EVENTS,
    &views::CONFIG,
    &verbs::DRAIN,
    &verbs::MAINTAIN,
    &verbs::RESUME,
    &verbs::RELOAD,
    &verbs::SWITCHOVER,
    &verbs::FAILOVER,
    &verbs::REJOIN,
];

/// The command called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().copied().find(|c| c.name.eq_ignore_ascii_case(name))
}

/// Arguments by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args(BTreeMap<String, String>);

impl Args {
    /// The server that a command on a server is about.
    pub const SERVER: &'static str = "server";

    /// Sets an argument.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// An argument as text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// An argument as a number.
    ///
    /// # Errors
    /// It is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, AdminError> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            AdminError::new(
                Code::BadArgument,
                format!("{name} must be a whole number from 0 up, not \"{text}\""),
            )
        })
    }

    /// An argument that is there or not.
    ///
    /// # Errors
    /// It is neither true nor false.
    pub fn flag(&self, name: &str) -> Result<bool, AdminError> {
        match self.0.get(name).map(String::as_str) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(other) => Err(AdminError::new(
                Code::BadArgument,
                format!("{name} is true or false, not \"{other}\""),
            )),
        }
    }

    fn check(&self, command: &Command) -> Result<(), AdminError> {
        for name in self.0.keys() {
            let on_server = matches!(command.kind, Kind::OnServer(_)) && name == Self::SERVER;
            if !on_server && !command.params.iter().any(|p| p.name == name) {
                let known: Vec<_> = command.params.iter().map(|p| p.name).collect();
                return Err(AdminError::new(
                    Code::BadArgument,
                    match known.as_slice() {
                        [] => format!("{} takes no argument \"{name}\"", command.name),
                        _ => format!(
                            "{} takes no argument \"{name}\"; it takes {}",
                            command.name,
                            known.join(", ")
                        ),
                    },
                ));
            }
        }
        for param in command.params {
            match param.kind {
                ParamKind::Text => {}
                ParamKind::Number => drop(self.number(param.name)?),
                ParamKind::Flag => drop(self.flag(param.name)?),
            }
        }
        Ok(())
    }

    fn query(&self) -> Result<Query, AdminError> {
        Ok(Query {
            after: self.number("after")?,
            order: self.text("order"),
            limit: self.number("limit")?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        })
    }
}

/// What a command gave.
#[derive(Debug)]
pub enum Output {
    Status(Status),
    Table(Table),
    /// What was done, in one sentence.
    Done(String),
}

/// Carries out `command`.
///
/// # Errors
/// A wrong argument, or whatever the daemon says.
pub async fn run(
    daemon: &dyn Daemon,
    command: &Command,
    args: &Args,
) -> Result<Output, AdminError> {
    args.check(command)?;
    match command.kind {
        Kind::Status => Ok(Output::Status(daemon.status())),
        Kind::View(view) => {
            let query = args.query()?;
            daemon.table(view, &query)?.select(&query).map(Output::Table)
        }
        Kind::OnServer(action) => {
            let server = args.text(Args::SERVER).filter(|s| !s.is_empty()).ok_or_else(|| {
                AdminError::new(Code::BadArgument, format!("{}: which server?", command.name))
            })?;
            act(daemon, command, action(server, args)).await
        }
        Kind::OnDaemon(action) => act(daemon, command, action(args)).await,
    }
}

async fn act(daemon: &dyn Daemon, command: &Command, action: Action) -> Result<Output, AdminError> {
    tracing::info!(command = command.name, ?action, "operator");
    daemon.act(action).await.map(Output::Done)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = COMMANDS.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), COMMANDS.len());
    }

    #[test]
    fn unknown_and_malformed_arguments_are_refused() {
        let mut args = Args::default();
        args.set("limit", "ten");
        let events = find("EVENTS").expect("there is one");
        let error = args.check(events).unwrap_err();
        assert_eq!(error.code, Code::BadArgument);
        assert_eq!(error.message, "limit must be a whole number from 0 up, not \"ten\"");
        let mut args = Args::default();
        args.set("limt", "1");
        assert!(args.check(events).unwrap_err().message.contains("it takes after, limit"));
    }
}
