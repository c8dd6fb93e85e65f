//! Where a server runs, if not simply here.

use std::net::Ipv4Addr;
use std::process::Command;

pub(crate) const MYSQL_PORT: u16 = 3306;

/// A host of a network made of namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where the server listens and where replicas find it.
    pub address: Ipv4Addr,
    /// The network namespace (`ip netns`) the server runs in; entering it needs root.
    pub namespace: Option<String>,
}

impl Default for Host {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, namespace: None }
    }
}

impl Host {
    /// The same command, run on this host. `ip` becomes the program: the process stays one.
    pub(crate) fn enter(&self, command: Command) -> Command {
        let Some(namespace) = &self.namespace else { return command };
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", namespace]).arg(command.get_program());
        inside.args(command.get_args());
        inside
    }
}
