//! Real database servers in a directory of their own: for trying Pointsman out and for its tests.
//!
//! ```no_run
//! use pointsman_sandbox::{Options, Sandbox};
//!
//! let sandbox = Sandbox::start(Options { replicas: 2, ..Options::default() })?;
//! sandbox.primary().client_sql("CREATE TABLE app.t (id INT PRIMARY KEY)")?;
//! sandbox.wait_caught_up()?;
//! sandbox.replicas()[0].kill9()?;
//! sandbox.replicas()[0].start()?;
//! # anyhow::Ok(())
//! ```
//!
//! Servers are MariaDB or MySQL; see [`Flavour`].
//!
//! `db1` is the primary, `db2`, `db3`, ... replicate from it with GTIDs (`MASTER_USE_GTID=slave_pos`,
//! `SOURCE_AUTO_POSITION=1`) and are `read_only` (in MySQL `super_read_only`, too). `@@server_id` is the number in the name. Everything listens on 127.0.0.1 and
//! on a unix socket in the node's directory.
//!
//! With [`Options::group`] all are members of one cluster that elects for itself instead: Galera or
//! Group Replication.
//!
//! | account | from | may |
//! | --- | --- | --- |
//! | `root`, no password | unix socket | everything |
//! | [`APP_USER`] / [`APP_PASSWORD`] | anywhere | everything in database `app` |
//! | [`MONITOR_USER`] / [`MONITOR_PASSWORD`] | anywhere | what [`MONITOR_GRANTS`] or [`MONITOR_GRANTS_MYSQL`] says, and with [`Options::failover`] [`FAILOVER_GRANTS`] or [`FAILOVER_GRANTS_MYSQL`] |
//! | `repl` | anywhere | replicate |
//!
//! Dropping a [`Sandbox`] kills its servers and removes its directory. If the process that holds it
//! is killed, the kernel kills the servers with it, and the next sandbox to start removes the
//! directory.

mod flavour;
mod group;
mod host;
mod mariadb;
mod mysql;
mod node;
mod process;
mod proxy_config;
mod room;
mod template;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

pub use crate::flavour::Flavour;
use crate::flavour::Programs;
use crate::group::Plan;
pub use crate::host::Host;
pub use crate::mariadb::newer_mariadb;
pub use crate::node::Node;
pub use crate::process::{free_port, spawn};
pub use crate::proxy_config::proxy_config;
use crate::room::Room;

/// May do everything in database `app`, and nothing else.
pub const APP_USER: &str = "app";
pub const APP_PASSWORD: &str = "app-secret";
/// What the proxy watches the servers with.
pub const MONITOR_USER: &str = "pointsman";
pub const MONITOR_PASSWORD: &str = "monitor-secret";
/// Exactly what the monitor needs of MariaDB, and no more:
/// `SLAVE MONITOR` for `SHOW ALL SLAVES STATUS`, `BINLOG MONITOR` for `SHOW MASTER STATUS`,
/// `REPLICATION SLAVE` to learn what became of a commit in flight when its server died, `TRIGGER` to
/// see which writes to a table change another, and `SELECT` on the two tables that hold the accounts.
pub const MONITOR_GRANTS: &[&str] = &[
    "GRANT SLAVE MONITOR, BINLOG MONITOR ON *.* TO 'pointsman'@'%'",
    "GRANT REPLICATION SLAVE, TRIGGER ON *.* TO 'pointsman'@'%'",
    "GRANT SELECT ON mysql.global_priv TO 'pointsman'@'%'",
    "GRANT SELECT ON mysql.user TO 'pointsman'@'%'",
];

/// The same for MySQL: `REPLICATION CLIENT` for `SHOW REPLICA STATUS`, and `SELECT` on
/// `mysql.component` to see that nothing rewrites statements before they are logged.
pub const MONITOR_GRANTS_MYSQL: &[&str] = &[
    "GRANT REPLICATION CLIENT, REPLICATION SLAVE, TRIGGER ON *.* TO 'pointsman'@'%'",
    "GRANT SELECT ON mysql.component TO 'pointsman'@'%'",
    "GRANT SELECT ON mysql.user TO 'pointsman'@'%'",
];

/// What it needs beside that to change the primary.
pub const FAILOVER_GRANTS: &[&str] = &[
    "GRANT REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, READ_ONLY ADMIN, CONNECTION ADMIN, \
     PROCESS, RELOAD ON *.* TO 'pointsman'@'%'",
    // For scheduled events.
    "GRANT EVENT, SET USER, BINLOG ADMIN ON *.* TO 'pointsman'@'%'",
];

/// The same for MySQL.
pub const FAILOVER_GRANTS_MYSQL: &[&str] = &[
    "GRANT REPLICATION_SLAVE_ADMIN, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, PROCESS, RELOAD \
     ON *.* TO 'pointsman'@'%'",
    // For scheduled events, those of administrators, too.
    "GRANT EVENT, SET_ANY_DEFINER, SYSTEM_USER ON *.* TO 'pointsman'@'%'",
    // To rebuild a server.
    "GRANT CLONE_ADMIN, BACKUP_ADMIN ON *.* TO 'pointsman'@'%'",
    "GRANT INSERT ON mysql.plugin TO 'pointsman'@'%'",
    "GRANT SELECT ON performance_schema.* TO 'pointsman'@'%'",
    "GRANT SELECT ON performance_schema.replication_connection_status TO 'pointsman'@'%'",
    "GRANT SELECT ON performance_schema.replication_connection_configuration TO 'pointsman'@'%'",
];

/// What the monitor needs besides to see a MySQL group and, for the last, to change its primary.
const MEMBER_GRANTS_MYSQL: &str = "\
    GRANT SELECT ON performance_schema.replication_group_members TO 'pointsman'@'%';\
    GRANT SELECT ON performance_schema.replication_group_member_stats TO 'pointsman'@'%';\
    GRANT SELECT ON performance_schema.replication_connection_status TO 'pointsman'@'%';\
    GRANT GROUP_REPLICATION_ADMIN ON *.* TO 'pointsman'@'%'";

/// What kind of sandbox to start.
#[derive(Debug, Clone)]
pub struct Options {
    pub flavour: Flavour,
    /// The root below which a MariaDB is unpacked that is to be run instead of the one that is
    /// installed; see [`newer_mariadb`].
    pub mariadb: Option<PathBuf>,
    /// Where to put it: a directory that is missing, empty, or left over from an earlier sandbox.
    /// `None`: a temporary directory.
    pub dir: Option<PathBuf>,
    /// Servers beside the primary.
    pub replicas: usize,
    /// More arguments for every server; they win over the sandbox's own.
    pub extra_args: Vec<String>,
    /// `db1` listens here, `db2` on the next port and so on. `None`: free ports below 32768.
    pub base_port: Option<u16>,
    /// `db1` lives on the first of these hosts, `db2` on the second and so on, each at port 3306.
    /// Empty: all on this one, at 127.0.0.1.
    pub hosts: Vec<Host>,
    /// The monitor's account may also change the primary ([`FAILOVER_GRANTS`]).
    pub failover: bool,
    /// All are members of one cluster that elects for itself: Galera (MariaDB) or Group Replication
    /// (MySQL). Nobody is told to replicate then.
    pub group: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flavour: Flavour::default(),
            mariadb: None,
            dir: None,
            replicas: 1,
            extra_args: Vec::new(),
            base_port: None,
            hosts: Vec::new(),
            failover: false,
            group: false,
        }
    }
}

/// Running servers. Dropping it stops and removes them.
#[derive(Debug)]
pub struct Sandbox {
    // Before `room`: servers die before their directory goes.
    nodes: Vec<Node>,
    room: Room,
}

impl Sandbox {
    /// Starts a primary and its replicas, and returns once all have the accounts and `app`.
    ///
    /// # Errors
    /// The server is not installed, its directory or ports can't be had, or a server does not come
    /// up; the error then shows the end of what that server wrote to stderr.
    pub fn start(options: Options) -> Result<Self> {
        let programs = Programs::find(options.flavour, options.mariadb)?;
        room::sweep();
        let template = programs.template(options.group)?;
        let room = Room::new(options.dir.as_deref())?;
        let members = options.replicas + 1;
        let plan = match options.group {
            true => Some(Plan::new(options.flavour, members, &options.hosts)?),
            false => None,
        };
        let create = |i: usize| -> Result<Node> {
            let port = options.base_port.map(|base| port_of(base, i)).transpose()?;
            let (host, extra_args) = (options.hosts.get(i), &options.extra_args);
            let (programs, template) = (programs.clone(), template.clone());
            Node::create(programs, template, room.path(), i, host, port, extra_args, plan.as_ref())
        };
        let grants = if options.failover { programs.failover_grants() } else { &[] };
        let Some(plan) = &plan else {
            let nodes = at_once(0..members, create)?;
            let sandbox = Self { nodes, room };
            sandbox.primary().client_sql(&programs.accounts_sql())?;
            if !grants.is_empty() {
                sandbox.primary().client_sql(&grants.join(";"))?;
            }
            at_once(1..members, |i| sandbox.node(i).replicate_from(sandbox.primary()))?;
            sandbox.wait_caught_up()?;
            return Ok(sandbox);
        };
        let accounts = [&programs.accounts_sql(), MEMBER_GRANTS_MYSQL].concat();
        let first = create(0)?;
        plan.join(&first, true, &accounts)?;
        if !grants.is_empty() {
            first.client_sql(&grants.join(";"))?;
        }
        let others = at_once(1..members, |i| {
            let node = create(i)?;
            plan.join(&node, false, "")?;
            Ok(node)
        })?;
        Ok(Self { nodes: std::iter::once(first).chain(others).collect(), room })
    }

    /// Where all of it lives.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.room.path()
    }

    /// `db1`, which was started as the primary; the sandbox does not follow later changes of role.
    #[must_use]
    pub fn primary(&self) -> &Node {
        &self.nodes[0]
    }

    /// All but `db1`.
    #[must_use]
    pub fn replicas(&self) -> &[Node] {
        &self.nodes[1..]
    }

    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Counted from 0: `node(0)` is `db1`.
    ///
    /// # Panics
    /// There is no such node.
    #[must_use]
    pub fn node(&self, i: usize) -> &Node {
        &self.nodes[i]
    }

    /// Waits until every running replica has applied what the primary has committed by now.
    ///
    /// # Errors
    /// One does not get there within 20 s.
    pub fn wait_caught_up(&self) -> Result<()> {
        let position = self.primary().position()?;
        for replica in self.replicas().iter().filter(|node| node.is_running()) {
            replica.wait_applied(&position, Duration::from_secs(20))?;
        }
        Ok(())
    }

    /// Writes a `proxy.toml` for these servers; see [`proxy_config`].
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_proxy_config(
        &self,
        path: &Path,
        listener_port: u16,
        admin_port: u16,
        more: &str,
    ) -> Result<()> {
        std::fs::write(path, proxy_config(&self.nodes, listener_port, admin_port, more))
            .with_context(|| format!("can't write {}", path.display()))
    }
}

/// Does it for all of them, each in a thread of its own; stops at the first error.
fn at_once<T: Send>(
    numbers: std::ops::Range<usize>,
    make: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let make = &make;
        let threads: Vec<_> = numbers.map(|i| scope.spawn(move || make(i))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic in there")).collect()
    })
}

fn port_of(base: u16, i: usize) -> Result<u16> {
    let port = u16::try_from(i).ok().and_then(|i| base.checked_add(i));
    port.with_context(|| format!("base port {base} leaves no room for {i} replicas"))
}

/// Polls until `done` says so. For what a server does in its own time and has no way to announce.
///
/// # Errors
/// It did not happen within `timeout`; `what` says what was waited for.
pub fn wait_until(
    what: &str,
    timeout: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let mut last = None;
    loop {
        match done() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => last = Some(error),
        }
        if Instant::now() >= deadline {
            match last {
                Some(error) => bail!("{what}: not within {timeout:?}; last error: {error:#}"),
                None => bail!("{what}: not within {timeout:?}"),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The unix socket's path must fit into `sockaddr_un`.
fn check_socket_path(path: &Path) -> Result<()> {
    ensure!(
        path.as_os_str().len() < 108,
        "{} is too long for a unix socket (107 bytes at most); choose a shorter --dir or TMPDIR",
        path.display()
    );
    Ok(())
}
