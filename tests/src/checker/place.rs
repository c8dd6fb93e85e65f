//! Where a round takes place: servers on hosts of their own, so that packets between them can be lost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use pointsman_sandbox::{Flavour, Host, Node};

use crate::reference::{Network, address, unable};
use crate::{LONG, Setup, Site, wait_until};

const DATABASES: [u8; 3] = [11, 22, 66];
const PROXY: u8 = 33;

/// A primary, two replicas, the proxy, and maybe a network between them.
pub struct Place {
    pub site: Site,
    network: Option<Arc<Network>>,
}

impl Place {
    /// Does `work` on the proxy's host, with the network around it; without one, here, if this process
    /// may not make networks.
    ///
    /// # Errors
    /// There is no network to be had.
    pub fn found<T: Send + 'static>(
        work: impl FnOnce(Option<Arc<Network>>) -> T + Send + 'static,
    ) -> Result<T> {
        if unable().is_some() {
            return Ok(work(None));
        }
        let network = Arc::new(Network::new(&[&DATABASES[..], &[PROXY]].concat())?);
        let inside = network.clone();
        let done = network.thread(PROXY, move || work(Some(inside)))?.join();
        // Its panic is ours.
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Servers of `flavour`, `more` in the proxy's configuration. `failover`: Pointsman may change the
    /// primary. `lossless`: replication is semi-synchronous, so that nothing acknowledged is lost with
    /// it.
    ///
    /// # Errors
    /// They don't come up.
    pub fn start(
        network: Option<Arc<Network>>,
        flavour: Flavour,
        more: &str,
        failover: bool,
        lossless: bool,
    ) -> Result<Self> {
        let hosts = network.iter().flat_map(|network| {
            DATABASES.map(|host| Host {
                address: address(host),
                namespace: Some(network.namespace(host)),
            })
        });
        if let Some(network) = &network {
            network.mend()?;
        }
        let semi_sync: &[&str] = match flavour {
            _ if !lossless => &[],
            Flavour::MySql => &[
                "--plugin-load-add=semisync_source.so;semisync_replica.so",
                "--rpl-semi-sync-replica-enabled=ON",
                "--rpl-semi-sync-source-timeout=60000",
            ],
            _ => &[
                "--rpl-semi-sync-slave-enabled=ON",
                "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
                "--rpl-semi-sync-master-timeout=60000",
            ],
        };
        let mut server_args: Vec<_> = semi_sync.iter().map(|&arg| arg.to_owned()).collect();
        if flavour == Flavour::MySql {
            // As it is by default; Pointsman asks it how long ago a source was heard of.
            server_args.push("--performance-schema=ON".to_owned());
        }
        let site = Site::try_with(Setup {
            replicas: DATABASES.len() - 1,
            failover,
            config: format!("workers = 2\n{more}"),
            flavour,
            hosts: hosts.collect(),
            server_args,
            ..Setup::default()
        })?;
        let place = Self { site, network };
        if failover {
            place.await_able()?;
        }
        if lossless {
            let source = place.semi_sync_source();
            place.site.primary().client_sql(&format!("SET GLOBAL {source}_enabled = ON"))?;
            // One that comes back as the primary must not acknowledge what nobody else has.
            let source = source.replace('_', "-");
            for node in place.site.sandbox.nodes() {
                node.configure(&[&format!("--{source}-enabled=ON")]);
            }
            wait_until("replication is semi-synchronous", LONG, || {
                place.is_lossless(place.site.primary())
            })?;
        }
        Ok(place)
    }

    fn await_able(&self) -> Result<()> {
        wait_until("Pointsman may fail over", LONG, || {
            Ok(!self.site.cli(&["status"]).stdout.contains("can't replace it"))
        })
    }

    fn semi_sync_source(&self) -> &'static str {
        match self.site.primary().flavour() {
            Flavour::MySql => "rpl_semi_sync_source",
            _ => "rpl_semi_sync_master",
        }
    }

    /// Whether both other servers confirm what `primary` commits.
    ///
    /// # Errors
    /// It does not answer.
    pub fn is_lossless(&self, primary: &Node) -> Result<bool> {
        let clients = primary.status(&format!("{}_clients", self.semi_sync_source()))?;
        Ok(clients == DATABASES.len() as u64 - 1)
    }

    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        let mut nodes = self.site.sandbox.nodes().iter();
        nodes.find(|node| node.name() == name).expect("servers have the names of the sandbox's")
    }

    /// The names of the servers in `role` that are in service.
    ///
    /// # Errors
    /// The proxy does not answer.
    pub fn in_role(&self, role: &str) -> Result<Vec<String>> {
        let rows = self.site.admin_json("servers")?;
        let rows = rows.as_array().context("a list of servers")?.iter();
        let rows =
            rows.filter(|row| row["role"] == role && (role != "replica" || row["reads"] == true));
        Ok(rows.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
    }

    /// The server that is the primary now, if there is one.
    #[must_use]
    pub fn primary(&self) -> Option<&Node> {
        // While nothing may be written there is none to write to, whatever its role.
        let names = self.in_role("primary").ok()?;
        Some(self.node(names.first()?))
    }

    /// Until there is a primary other than `old`.
    ///
    /// # Errors
    /// None comes; with what Pointsman says about it.
    pub fn await_successor(&self, old: &str) -> Result<()> {
        self.await_primary("another primary", LONG, |name| name != old)
    }

    /// Until the primary is one that `fits`.
    ///
    /// # Errors
    /// As [`Place::await_successor`].
    pub fn await_primary(
        &self,
        what: &str,
        within: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let there =
            wait_until(what, within, || Ok(self.in_role("primary")?.iter().any(|name| fits(name))));
        there.with_context(|| self.told())
    }

    /// What Pointsman tells of all this.
    #[must_use]
    pub fn told(&self) -> String {
        ["events", "status", "servers"].map(|view| self.site.cli(&[view]).stdout).join("\n")
    }

    /// Whether packets can be lost here.
    #[must_use]
    pub fn has_network(&self) -> bool {
        self.network.is_some()
    }

    fn host(&self, node: &Node) -> u8 {
        DATABASES[usize::try_from(node.server_id()).expect("a small number") - 1]
    }

    /// Packets between `node` and the proxy get lost, or no longer.
    ///
    /// # Errors
    /// There is no network.
    pub fn part_from_proxy(&self, node: &Node, parted: bool) -> Result<()> {
        self.part(self.host(node), PROXY, parted)
    }

    /// Packets between two servers get lost, or no longer.
    ///
    /// # Errors
    /// There is no network.
    pub fn part_nodes(&self, one: &Node, other: &Node, parted: bool) -> Result<()> {
        self.part(self.host(one), self.host(other), parted)
    }

    /// Packets between `node` and everybody else get lost, or no longer.
    ///
    /// # Errors
    /// There is no network.
    pub fn cut_off(&self, node: &Node, parted: bool) -> Result<()> {
        self.part_from_proxy(node, parted)?;
        for other in self.site.sandbox.nodes().iter().filter(|other| other.name() != node.name()) {
            self.part_nodes(node, other, parted)?;
        }
        Ok(())
    }

    fn part(&self, one: u8, other: u8, parted: bool) -> Result<()> {
        let Some(network) = &self.network else { bail!("no network, no partitions") };
        network.lose(one, other, parted)?;
        network.lose(other, one, parted)
    }

    /// Every server runs and reaches every other, the proxy runs, and there is a primary.
    ///
    /// # Errors
    /// Something does not come back.
    pub fn heal(&mut self) -> Result<()> {
        if let Some(network) = &self.network {
            network.mend()?;
        }
        for node in self.site.sandbox.nodes() {
            node.start()?;
            node.unpause()?;
        }
        ensure!(self.site.proxy.is_running(), "the proxy ended:\n{}", self.site.proxy.log());
        self.site.proxy.wait_ready()?;
        self.await_primary("a primary", LONG, |_| true)
    }
}
