//! Commands that change something.

use super::{Command, Kind, Param, ParamKind};
use crate::Action;

pub(super) const DRAIN: Command = Command {
    name: "drain",
    about: "Send no new work to a server; what runs may end",
    kind: Kind::OnServer(|server, _| Action::Drain(server)),
    params: &[],
    hidden: false,
};

pub(super) const MAINTAIN: Command = Command {
    name: "maintain",
    about: "Take a server out altogether",
    kind: Kind::OnServer(|server, _| Action::Maintain(server)),
    params: &[],
    hidden: false,
};

pub(super) const RESUME: Command = Command {
    name: "resume",
    about: "Bring a server back from drain or maintenance, and believe what it has",
    kind: Kind::OnServer(|server, _| Action::Resume(server)),
    params: &[],
    hidden: false,
};

pub(super) const RELOAD: Command = Command {
    name: "reload",
    about: "Read the configuration again",
    kind: Kind::OnDaemon(|_| Action::Reload),
    params: &[],
    hidden: false,
};

const TO: Param = Param {
    name: "to",
    about: "The new primary; else the replica that is furthest ahead",
    kind: ParamKind::Text,
};

pub(super) const SWITCHOVER: Command = Command {
    name: "switchover",
    about: "Make another server the primary, in good order",
    kind: Kind::OnDaemon(|args| Action::Switchover {
        to: args.text("to"),
        dry_run: args.flag("dry-run").unwrap_or(true),
    }),
    params: &[
        TO,
        Param {
            name: "dry-run",
            about: "Only say what would be done, or why it would not",
            kind: ParamKind::Flag,
        },
    ],
    hidden: false,
};

pub(super) const FAILOVER: Command = Command {
    name: "failover",
    about: "Make another server the primary because the present one is lost",
    kind: Kind::OnDaemon(|args| Action::Failover {
        to: args.text("to"),
        force: args.flag("force").unwrap_or(false),
    }),
    params: &[
        TO,
        Param {
            name: "force",
            about: "Even if the primary lives, or the new one may lack transactions",
            kind: ParamKind::Flag,
        },
    ],
    hidden: false,
};

/// Of `rejoin`.
pub(crate) const REBUILD: &str = "rebuild";

pub(super) const REJOIN: Command = Command {
    name: "rejoin",
    about: "Make a former primary a replica of the new one, if it has nothing of its own",
    kind: Kind::OnServer(|server, args| Action::Rejoin {
        server,
        rebuild: args.flag(REBUILD).unwrap_or(false),
        force: args.flag("force").unwrap_or(false),
    }),
    params: &[
        Param {
            name: REBUILD,
            about: "Give it another server's data: what only it has is gone then",
            kind: ParamKind::Flag,
        },
        Param {
            name: "force",
            about: "With --rebuild: even if it has not diverged",
            kind: ParamKind::Flag,
        },
    ],
    hidden: false,
};
