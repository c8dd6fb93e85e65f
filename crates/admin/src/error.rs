//! What can go wrong for an operator: stable codes, each with a way out. `docs/errors.md` is this
//! list for readers; a test keeps the two the same.

use std::fmt;

use serde::Serialize;

macro_rules! codes {
    ($($variant:ident $code:literal $name:literal $http:literal $meaning:literal $remedy:literal,)*) => {
        /// A stable error code. The number never changes its meaning and is never used again.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $meaning] $variant,)* }

        impl Code {
            /// All of them, by number.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];
            /// `PM1001`
            #[must_use]
            pub fn code(self) -> &'static str { match self { $(Code::$variant => $code,)* } }
            /// `unknown_server`
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Code::$variant => $name,)* } }
            /// Status of the HTTP answer.
            #[must_use]
            pub fn http(self) -> u16 { match self { $(Code::$variant => $http,)* } }
            /// What it means.
            #[must_use]
            pub fn meaning(self) -> &'static str { match self { $(Code::$variant => $meaning,)* } }
            /// What to do about it.
            #[must_use]
            pub fn remedy(self) -> &'static str { match self { $(Code::$variant => $remedy,)* } }
        }
    };
}

codes! {
    UnknownServer "PM1001" "unknown_server" 404
        "No server of this name is configured."
        "`pointsman servers` lists the names",
    UnknownCommand "PM1002" "unknown_command" 404
        "There is no such command, view or path."
        "`pointsman help`, or `SHOW HELP` in the SQL console, lists what there is",
    BadArgument "PM1003" "bad_argument" 400
        "An argument is missing, unknown or out of range."
        "the message names the argument and what it may be",
    NotAvailable "PM1004" "not_available" 501
        "This daemon, or this version of it, can't do that."
        "`pointsman status` says which daemon and version answers",
    WrongMethod "PM1005" "wrong_method" 405
        "The path is right and the HTTP method isn't."
        "views are read with GET, everything that changes something is a POST",
    Conflict "PM1006" "conflict" 409
        "The daemon is in a state in which this can't be done."
        "`pointsman servers` and `pointsman events` say what state that is",
    BadConfig "PM1007" "bad_config" 422
        "The configuration on disk has errors; the one in force was kept."
        "`pointsman check FILE` shows the errors in their place",
    NeedsRestart "PM1008" "needs_restart" 409
        "A change in the configuration can't be taken over while the daemon runs."
        "restart the daemon, or take the change back",
    Unauthorized "PM1101" "unauthorized" 401
        "The bearer token is missing or wrong."
        "give the token of [admin] with --token, POINTSMAN_TOKEN or `Authorization: Bearer ...`",
    ForeignOrigin "PM1102" "foreign_origin" 403
        "The request came from another web site, or was sent to a name that isn't this daemon's."
        "use the daemon's own address in the URL: http://127.0.0.1:PORT/",
    NotReady "PM1103" "not_ready" 503
        "The daemon runs and can't do its job."
        "the message says why; `pointsman servers` shows the servers",
    CantListen "PM1201" "cant_listen" 500
        "An address can't be listened on."
        "free the port (`ss -ltnp`), or change the address in the configuration",
    Unreachable "PM1301" "unreachable" 502
        "No daemon answers at the admin address."
        "is `pointsman proxy` running? --admin or POINTSMAN_ADMIN says where",
    BadReply "PM1302" "bad_reply" 502
        "Something answers at the admin address, but it isn't a Pointsman of this version."
        "check --admin; the database's port is another one",
    Internal "PM1999" "internal" 500
        "A fault in Pointsman."
        "please report it with the daemon's log",
}

/// An error an operator sees: a stable code, what happened, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct AdminError {
    pub code: Code,
    /// What happened, one sentence without a full stop.
    pub message: String,
}

impl AdminError {
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// There is no server called `name`; `known` are those there are.
    #[must_use]
    pub fn unknown_server<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        Self::new(
            Code::UnknownServer,
            format!("there is no server \"{name}\"; there are: {}", known.join(", ")),
        )
    }

    /// This daemon can't do `what`.
    #[must_use]
    pub fn not_available(what: &str) -> Self {
        Self::new(Code::NotAvailable, format!("{what} is not available here"))
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code.code(), self.code.name(), self.message)
    }
}

/// The body of an HTTP error, also what the CLI reads back.
#[derive(Debug, Serialize)]
pub(crate) struct Body<'a> {
    pub code: &'a str,
    pub name: &'a str,
    pub message: &'a str,
    pub help: &'a str,
}

impl<'a> From<&'a AdminError> for Body<'a> {
    fn from(e: &'a AdminError) -> Self {
        Self {
            code: e.code.code(),
            name: e.code.name(),
            message: &e.message,
            help: e.code.remedy(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        let codes: Vec<_> = Code::ALL.iter().map(|c| c.code()).collect();
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        assert_eq!(codes, sorted);
        assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
        assert_eq!(Code::ALL.iter().map(|c| c.name()).collect::<HashSet<_>>().len(), codes.len());
    }
}

#[cfg(test)]
mod docs {
    use std::fmt::Write as _;

    use super::Code;

    /// `docs/errors.md` as it should be. `UPDATE_DOCS=1 cargo test -p pointsman-admin` writes it.
    #[test]
    fn the_list_for_readers_is_the_same() {
        let mut text = "# Errors an operator sees\n\n\
            Every error of the command line, the HTTP API and the SQL console carries one of these \
            codes. A code never changes its meaning and is never used again. Over HTTP: \
            `{\"code\", \"name\", \"message\", \"help\"}` with the status given here.\n\n\
            | code | name | HTTP | meaning | what to do |\n| --- | --- | --- | --- | --- |\n"
            .to_owned();
        for code in Code::ALL {
            let remedy = code.remedy();
            let remedy = remedy[..1].to_uppercase() + &remedy[1..];
            let _ = writeln!(
                text,
                "| {} | `{}` | {} | {} | {remedy}. |",
                code.code(),
                code.name(),
                code.http(),
                code.meaning(),
            );
        }
        let text = text.replace(" ? |", "? |").replace("?. |", "? |");
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "UPDATE_DOCS=1 rewrites it");
    }
}
