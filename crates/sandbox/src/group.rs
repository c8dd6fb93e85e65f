//! Clusters that elect for themselves: Galera (MariaDB) and Group Replication (MySQL).
//!
//! Galera's nodes begin as copies of one data directory that was a member before, so that none of
//! them needs a state transfer. Group Replication's members recover from the first.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::flavour::{Flavour, Programs, REPL_PASSWORD, REPL_USER};
use crate::host::Host;
use crate::node::Node;
use crate::process::free_port;
use crate::wait_until;

/// A member joins within this, state transfer included.
pub(crate) const JOIN_TIMEOUT: Duration = Duration::from_secs(90);
const PROVIDERS: [&str; 3] = [
    "/usr/lib/galera/libgalera_smm.so",
    "/usr/lib64/galera-4/libgalera_smm.so",
    "/usr/lib64/galera/libgalera_smm.so",
];
/// Of the group, and of all that it commits.
const GROUP_NAME: &str = "c2b5d4f6-5d0e-4f2e-9d5b-706f696e7473";

/// What one member listens on beside clients.
#[derive(Debug, Clone)]
struct Seat {
    address: Ipv4Addr,
    /// Talks to the other members.
    group: u16,
    /// Galera: incremental and full state transfers.
    ist: u16,
    sst: u16,
}

/// A cluster to be, as each of its members must know it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    flavour: Flavour,
    seats: Vec<Seat>,
}

impl Plan {
    pub(crate) fn new(flavour: Flavour, members: usize, hosts: &[Host]) -> Result<Self> {
        let seats = (0..members).map(|i| {
            Ok(match hosts.get(i) {
                Some(host) => Seat { address: host.address, group: 4567, ist: 4568, sst: 4444 },
                None => Seat {
                    address: Ipv4Addr::LOCALHOST,
                    group: free_port()?,
                    ist: free_port()?,
                    sst: free_port()?,
                },
            })
        });
        Ok(Self { flavour, seats: seats.collect::<Result<_>>()? })
    }

    fn seeds(&self) -> String {
        let seeds: Vec<_> =
            self.seats.iter().map(|s| format!("{}:{}", s.address, s.group)).collect();
        seeds.join(",")
    }

    /// What member `i`, listening for clients at `port`, is told at each start.
    pub(crate) fn args(&self, i: usize, port: u16) -> Vec<String> {
        let Seat { address, group, ist, sst } = &self.seats[i];
        match self.flavour {
            Flavour::MariaDb => vec![
                "--wsrep-on=1".into(),
                format!("--wsrep-provider={}", provider().unwrap_or(PROVIDERS[0])),
                "--wsrep-cluster-name=pointsman-sandbox".into(),
                format!("--wsrep-cluster-address=gcomm://{}", self.seeds()),
                format!("--wsrep-node-name=db{}", i + 1),
                format!("--wsrep-node-address={address}:{group}"),
                format!("--wsrep-node-incoming-address={address}:{port}"),
                "--wsrep-sst-method=mariabackup".into(),
                "--wsrep-sst-auth=root:".into(),
                format!("--wsrep-sst-receive-address={address}:{sst}"),
                "--binlog-format=ROW".into(),
                "--innodb-autoinc-lock-mode=2".into(),
                "--wsrep-slave-threads=2".into(),
                // A member that is silent for 3 s is put out; by default it takes 5 s.
                format!(
                    "--wsrep-provider-options=base_port={group};ist.recv_addr={address}:{ist};\
                     gmcast.listen_addr=tcp://{address}:{group};evs.keepalive_period=PT0.5S;\
                     evs.suspect_timeout=PT3S;evs.inactive_timeout=PT6S;\
                     evs.inactive_check_period=PT0.5S;gcache.size=16M"
                ),
            ],
            Flavour::MySql => vec![
                "--performance-schema=ON".into(),
                "--plugin-load-add=group_replication.so".into(),
                format!("--loose-group-replication-group-name={GROUP_NAME}"),
                format!("--loose-group-replication-local-address={address}:{group}"),
                format!("--loose-group-replication-group-seeds={}", self.seeds()),
                "--loose-group-replication-recovery-get-public-key=ON".into(),
                "--loose-group-replication-start-on-boot=ON".into(),
                "--loose-group-replication-member-expel-timeout=0".into(),
            ],
        }
    }

    /// What it is told besides when it starts for the first time.
    pub(crate) fn first_args(&self, i: usize) -> Vec<String> {
        match self.flavour {
            Flavour::MariaDb if i == 0 => vec!["--wsrep-new-cluster".into()],
            Flavour::MariaDb => Vec::new(),
            Flavour::MySql => vec!["--loose-group-replication-start-on-boot=OFF".into()],
        }
    }

    /// A member that was just started for the first time becomes one.
    pub(crate) fn join(&self, node: &Node, first: bool, accounts: &str) -> Result<()> {
        if self.flavour == Flavour::MySql {
            let credentials = format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_USER='{REPL_USER}', \
                 SOURCE_PASSWORD='{REPL_PASSWORD}' FOR CHANNEL 'group_replication_recovery';"
            );
            node.client_sql(&credentials)?;
            if first {
                node.client_sql(accounts)?;
                node.client_sql(
                    "SET GLOBAL group_replication_bootstrap_group = ON; START GROUP_REPLICATION; \
                     SET GLOBAL group_replication_bootstrap_group = OFF",
                )?;
            } else {
                node.client_sql("START GROUP_REPLICATION")?;
            }
        }
        node.wait_member()
    }
}

pub(crate) fn provider() -> Result<&'static str> {
    let found = PROVIDERS.into_iter().find(|path| Path::new(path).is_file());
    found.context("Galera is not installed; on Debian and Ubuntu: apt-get install galera-4")
}

/// Whether a node takes part in its cluster.
pub(crate) fn is_member(node: &Node) -> Result<bool> {
    Ok(match node.flavour() {
        Flavour::MariaDb => {
            node.client_sql("SHOW STATUS LIKE 'wsrep_local_state_comment'")?.contains("Synced")
        }
        Flavour::MySql => node
            .client_sql(
                "SELECT MEMBER_STATE FROM performance_schema.replication_group_members \
                 WHERE MEMBER_ID = @@server_uuid",
            )?
            .contains("ONLINE"),
    })
}

/// Turns `data`, freshly installed, into what a member leaves behind that was shut down, accounts
/// included: others can begin as copies of it.
pub(crate) fn seed(programs: &Programs, template: &Path, data: &Path) -> Result<()> {
    provider()?;
    let room = data.parent().context("a directory around it")?;
    let plan = Plan::new(Flavour::MariaDb, 1, &[])?;
    let node =
        Node::create(programs.clone(), template.to_owned(), room, 0, None, None, &[], Some(&plan))?;
    wait_until("the first member", JOIN_TIMEOUT, || is_member(&node))?;
    node.client_sql(&programs.accounts_sql())?;
    node.stop()?;
    fs::rename(node.dir().join("data"), data)?;
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("binlog.") || matches!(&*name, "galera.cache" | "gvwstate.dat") {
            fs::remove_file(entry.path())?;
        }
    }
    let state = data.join("grastate.dat");
    let text = fs::read_to_string(&state).context("no state of the cluster left behind")?;
    ensure!(!text.contains("seqno:   -1"), "the member was not shut down cleanly: {text}");
    Ok(())
}

/// Where a Galera node stood that was not shut down cleanly, as `mysqld_safe` finds out; without it
/// the node would ask for a full copy. `None`: it is not needed, or there is nothing.
pub(crate) fn recovered_position(stderr: &str) -> Option<String> {
    let line = stderr.lines().rev().find(|line| line.contains("Recovered position"))?;
    let position = line.rsplit("position:").next()?.trim();
    (!position.starts_with("00000000-")).then(|| position.to_owned())
}

/// Whether the data directory says that nobody knows where it stands.
pub(crate) fn is_unclean(data: &Path) -> bool {
    fs::read_to_string(data.join("grastate.dat"))
        .is_ok_and(|state| state.lines().any(|line| line.split_whitespace().eq(["seqno:", "-1"])))
}
