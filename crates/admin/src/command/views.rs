//! Commands that only look.

use super::{Command, Kind, Param, ParamKind};
use crate::View;

const LIMIT: Param =
    Param { name: "limit", about: "At most this many rows", kind: ParamKind::Number };
const ORDER: Param =
    Param { name: "order", about: "Column to sort by, highest first", kind: ParamKind::Text };

pub(super) const STATUS: Command = Command {
    name: "status",
    about: "What runs, since when, and whether it can do its job",
    kind: Kind::Status,
    params: &[],
    hidden: false,
};

pub(super) const SERVERS: Command = Command {
    name: "servers",
    about: "The servers: role, state, lag, load, and why they are what they are",
    kind: Kind::View(View::Servers),
    params: &[ORDER, LIMIT],
    hidden: false,
};

pub(super) const SESSIONS: Command = Command {
    name: "sessions",
    about: "The clients: who, from where, at which servers, bound by what",
    kind: Kind::View(View::Sessions),
    params: &[ORDER, LIMIT],
    hidden: false,
};

pub(super) const STATEMENTS: Command = Command {
    name: "statements",
    about: "The statements by fingerprint: where they go, why, how often, how long",
    kind: Kind::View(View::Statements),
    params: &[ORDER, LIMIT],
    hidden: false,
};

pub(super) const EVENTS: Command = Command {
    name: "events",
    about: "What happened: servers that died or came back, changes of the primary, reloads",
    kind: Kind::View(View::Events),
    params: &[
        Param { name: "after", about: "Only events with a higher number", kind: ParamKind::Number },
        LIMIT,
    ],
    hidden: false,
};

pub(super) const CONFIG: Command = Command {
    name: "config",
    about: "The configuration in force, without secrets",
    kind: Kind::View(View::Config),
    params: &[],
    hidden: false,
};
