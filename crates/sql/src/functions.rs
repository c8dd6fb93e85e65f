//! Which functions a read may call: `functions.txt`, read once.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::Flavour;

/// What calling a function means for where the statement may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A word that stands before `(` without being a function.
    Syntax,
    /// Free of side effects, or with the same effects on any server (`SLEEP`).
    Read,
    /// As [`Call::Read`] if there is an argument; else a stored function may have that name.
    ReadWithArguments,
    /// As [`Call::Read`] if there are two arguments.
    ReadOfTwo,
    ConnectionId,
    /// Asks about the statement before it.
    Diagnostics,
    /// Its answer belongs to the primary.
    Primary,
    /// It changes something, on the primary.
    PrimaryWrite,
    /// Takes a named lock.
    TakeLock,
    /// Asks for or releases a named lock.
    NamedLock,
}

struct Known {
    call: Call,
    mariadb: bool,
    mysql: bool,
    /// First version of the flavour that has it.
    since: u32,
}

const TEXT: &str = include_str!("functions.txt");

fn parse(text: &'static str) -> HashMap<&'static str, Vec<Known>> {
    let mut all: HashMap<&'static str, Vec<Known>> = HashMap::new();
    let mut section = (Call::Read, true, true);
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if let Some(head) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let mut words = head.split_whitespace();
            let call = match words.next() {
                Some("syntax") => Call::Syntax,
                Some("read") => Call::Read,
                Some("read_with_arguments") => Call::ReadWithArguments,
                Some("read_of_two") => Call::ReadOfTwo,
                Some("connection_id") => Call::ConnectionId,
                Some("diagnostics") => Call::Diagnostics,
                Some("primary") => Call::Primary,
                Some("primary_write") => Call::PrimaryWrite,
                Some("take_lock") => Call::TakeLock,
                Some("named_lock") => Call::NamedLock,
                other => unreachable!("a section of functions.txt is called {other:?}"),
            };
            let flavour = words.next();
            section = (call, flavour != Some("mysql"), flavour != Some("mariadb"));
            continue;
        }
        for word in line.split_whitespace() {
            let (name, since) = word.split_once('>').unwrap_or((word, "0"));
            let (call, mariadb, mysql) = section;
            let since = since.parse().expect("functions.txt has a version after each >");
            all.entry(name).or_default().push(Known { call, mariadb, mysql, since });
        }
    }
    all
}

/// What `name` (in any case) is on servers of this flavour; `None`: not known.
#[must_use]
pub fn lookup(name: &[u8], flavour: Flavour) -> Option<Call> {
    static ALL: OnceLock<HashMap<&'static str, Vec<Known>>> = OnceLock::new();
    let all = ALL.get_or_init(|| parse(TEXT));
    let name = std::str::from_utf8(name).ok()?.to_ascii_uppercase();
    all.get(name.as_str())?
        .iter()
        .find(|known| match flavour {
            Flavour::MariaDb { version } => known.mariadb && known.since <= version,
            Flavour::MySql { version } => known.mysql && known.since <= version,
        })
        .map(|known| known.call)
}

/// All names known for a flavour, for checks against a real server.
#[doc(hidden)]
pub fn names(flavour: Flavour) -> Vec<(&'static str, Call)> {
    let mut names: Vec<_> = parse(TEXT)
        .into_keys()
        .filter_map(|name| Some((name, lookup(name.as_bytes(), flavour)?)))
        .collect();
    names.sort_by_key(|(name, _)| *name);
    names
}
