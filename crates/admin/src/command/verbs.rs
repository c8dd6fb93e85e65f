//! Commands that change something.

use super::{Command, Kind, Param};
use crate::Action;

pub(super) const DRAIN: Command = Command {
    name: "drain",
    about: "Send no new work to a server; what runs may end",
    kind: Kind::OnServer(Action::Drain),
    params: &[],
    hidden: false,
};

pub(super) const MAINTAIN: Command = Command {
    name: "maintain",
    about: "Take a server out altogether",
    kind: Kind::OnServer(Action::Maintain),
    params: &[],
    hidden: false,
};

pub(super) const RESUME: Command = Command {
    name: "resume",
    about: "Bring a server back from drain or maintenance",
    kind: Kind::OnServer(Action::Resume),
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

pub(super) const SWITCHOVER: Command = Command {
    name: "switchover",
    about: "Make another server the primary, in good order",
    kind: Kind::OnDaemon(|args| Action::Switchover { to: args.text("to") }),
    params: &[Param {
        name: "to",
        about: "The new primary; else the replica furthest ahead",
        number: false,
    }],
    hidden: true,
};

pub(super) const FAILOVER: Command = Command {
    name: "failover",
    about: "Make another server the primary because the present one is lost",
    kind: Kind::OnDaemon(|_| Action::Failover),
    params: &[],
    hidden: true,
};

pub(super) const REJOIN: Command = Command {
    name: "rejoin",
    about: "Let a former primary follow the new one",
    kind: Kind::OnServer(Action::Rejoin),
    params: &[],
    hidden: true,
};
