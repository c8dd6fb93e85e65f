//! What may happen to servers, to the proxy and between them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use pointsman_sandbox::{Flavour, Node};

use super::{Place, Random};
use crate::wait_until;

/// One kind of trouble. Each lasts a moment and is over when it returns; but for the primaries that
/// were replaced, which Pointsman sees to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A replica is killed and started.
    KillReplica,
    /// A replica hangs.
    FreezeReplica,
    /// A replica fetches and does not apply.
    StopApplying,
    /// A replica does not fetch.
    StopFetching,
    /// A replica applies everything a second late.
    DelayReplica,
    /// The proxy loses the way to a replica.
    PartReplica,
    /// A replica loses the way to the primary.
    PartReplication,
    /// The primary is killed, and started when it was replaced.
    KillPrimary,
    /// The primary hangs until it was replaced.
    FreezePrimary,
    /// The primary is cut off from everybody until it was replaced.
    CutPrimary,
    /// The proxy alone loses the way to the primary, which must not be replaced for that.
    PartPrimary,
    /// The primary is changed on purpose.
    Switchover,
    /// The proxy is killed and started.
    KillProxy,
    /// The same while the primary is being replaced, because it was killed or on purpose.
    KillProxyAmid,
}

use Trouble::*;

impl Trouble {
    /// Of replicas; no write may notice.
    pub const REPLICAS: &[Self] = &[
        KillReplica,
        FreezeReplica,
        StopApplying,
        StopFetching,
        DelayReplica,
        PartReplica,
        PartReplication,
    ];
    /// Of primaries.
    pub const PRIMARIES: &[Self] = &[KillPrimary, FreezePrimary, CutPrimary, PartPrimary];
    /// Everything.
    pub const ALL: &[Self] = &[
        KillReplica,
        FreezeReplica,
        StopApplying,
        StopFetching,
        DelayReplica,
        PartReplica,
        PartReplication,
        KillPrimary,
        KillPrimary,
        FreezePrimary,
        CutPrimary,
        PartPrimary,
        Switchover,
        Switchover,
        KillProxy,
        KillProxyAmid,
        KillProxyAmid,
    ];

    /// Packets have to get lost for it.
    #[must_use]
    pub fn needs_network(self) -> bool {
        matches!(self, PartReplica | PartReplication | CutPrimary | PartPrimary)
    }

    /// What the server is told makes sense to a replica only.
    fn needs_replication(self) -> bool {
        matches!(self, StopApplying | StopFetching | DelayReplica)
    }

    /// The primary may be replaced: nothing else may be amiss, or something acknowledged could be
    /// lost with two servers at once.
    #[must_use]
    pub fn takes_the_primary(self) -> bool {
        matches!(self, KillPrimary | FreezePrimary | CutPrimary | Switchover | KillProxyAmid)
    }

    /// Causes it, and ends it. Returns what was done, in words; `None` if this was not the moment.
    ///
    /// # Errors
    /// What should have happened then did not.
    pub fn cause(self, place: &mut Place, random: &mut Random) -> Result<Option<String>> {
        if self == KillProxy {
            place.site.restart_proxy()?;
            place.site.proxy.wait_ready()?;
            return Ok(Some("the proxy is killed and started".to_owned()));
        }
        let Some(old) = place.primary() else { return Ok(None) };
        let old_name = old.name().to_owned();
        if self.takes_the_primary()
            && !(place.in_role("replica")?.len() == 2 && place.is_lossless(old)?)
        {
            return Ok(None);
        }
        if self == KillProxyAmid {
            return amid(place, &old_name, random).map(Some);
        }
        let others: Vec<_> =
            place.site.sandbox.nodes().iter().filter(|node| node.name() != old_name).collect();
        let replica = *random.one_of(&others);
        let replicates = place.in_role("replica")?.iter().any(|name| name == replica.name());
        if self.needs_replication() && !replicates {
            return Ok(None);
        }
        let moment = random.moment(50, 550);
        let words = replica_word(replica);
        let (name, ms) = (replica.name(), moment.as_millis());
        let what = match self {
            KillReplica => {
                replica.kill9()?;
                std::thread::sleep(moment);
                replica.start()?;
                format!("{name} is killed, and started after {ms} ms")
            }
            FreezeReplica => {
                replica.pause()?;
                std::thread::sleep(moment);
                replica.unpause()?;
                format!("{name} hangs for {ms} ms")
            }
            StopApplying | StopFetching => {
                let thread = if self == StopApplying { "SQL_THREAD" } else { "IO_THREAD" };
                replica.client_sql(&format!("STOP {words} {thread}"))?;
                std::thread::sleep(moment);
                replica.client_sql(&format!("START {words} {thread}"))?;
                format!("{name} stops its {thread} for {ms} ms")
            }
            DelayReplica => {
                delay(replica, 1)?;
                std::thread::sleep(Duration::from_secs(2) + moment);
                delay(replica, 0)?;
                format!("{name} is a second late for {} ms", 2000 + ms)
            }
            PartReplica => {
                // Now and then for longer than the monitor's timeout.
                let long = moment * (1 + 8 * u32::from(random.below(3) == 0));
                place.part_from_proxy(replica, true)?;
                std::thread::sleep(long);
                place.part_from_proxy(replica, false)?;
                format!("nothing gets from the proxy to {name} for {} ms", long.as_millis())
            }
            PartReplication => {
                place.part_nodes(replica, old, true)?;
                std::thread::sleep(moment * 4);
                place.part_nodes(replica, old, false)?;
                format!("nothing gets from {old_name} to {name} for {} ms", 4 * ms)
            }
            KillPrimary => {
                old.kill9()?;
                place.await_successor(&old_name)?;
                std::thread::sleep(moment);
                old.start()?;
                format!("{old_name}, the primary, is killed")
            }
            FreezePrimary => {
                old.pause()?;
                place.await_successor(&old_name)?;
                std::thread::sleep(moment);
                old.unpause()?;
                format!("{old_name}, the primary, hangs")
            }
            CutPrimary => {
                place.cut_off(old, true)?;
                place.await_successor(&old_name)?;
                std::thread::sleep(moment);
                place.cut_off(old, false)?;
                format!("{old_name}, the primary, is cut off")
            }
            PartPrimary => {
                place.part_from_proxy(old, true)?;
                std::thread::sleep(moment * 6);
                place.part_from_proxy(old, false)?;
                place.await_primary("a primary", crate::LONG, |_| true)?;
                format!("nothing gets from the proxy to {old_name}, the primary, for {} ms", 6 * ms)
            }
            Switchover => {
                let done = place.site.cli(&["switchover"]);
                format!("switchover: {}{}", done.stdout.trim(), done.stderr.trim())
            }
            KillProxy | KillProxyAmid => unreachable!("seen to above"),
        };
        if self.takes_the_primary() {
            await_former(place, &old_name);
        }
        Ok(Some(what))
    }
}

/// The proxy dies while it replaces the primary.
fn amid(place: &mut Place, old: &str, random: &mut Random) -> Result<String> {
    let moment = random.moment(0, 700);
    let ms = moment.as_millis();
    let killed = random.below(2) == 0;
    if killed {
        place.node(old).kill9()?;
        std::thread::sleep(moment);
        place.site.restart_proxy()?;
        // Whoever knew that it was the primary is gone: it has to come back, or to be replaced.
        std::thread::sleep(random.moment(0, 1500));
        place.node(old).start()?;
    } else {
        std::thread::scope(|scope| {
            let site = &mut place.site;
            let mut switchover = site.command(&["switchover"]);
            scope.spawn(move || crate::Output::of(&mut switchover));
            std::thread::sleep(moment / 7);
            site.restart_proxy()
        })?;
    }
    let what = if killed { "is killed" } else { "is to be replaced" };
    let text = format!("{old}, the primary, {what}, and the proxy is killed {ms} ms later");
    place
        .await_primary("a primary after the proxy's death", crate::LONG, |_| true)
        .with_context(|| text.clone())?;
    place.site.proxy.wait_ready()?;
    await_former(place, old);
    Ok(text)
}

/// Until a former primary follows, or has been kept out for a while: it may have something of its own.
fn await_former(place: &Place, name: &str) {
    let _ = wait_until("it follows", Duration::from_secs(3), || {
        Ok(place.primary().is_some_and(|primary| primary.name() == name)
            || place.in_role("replica")?.iter().any(|replica| replica == name))
    });
}

fn replica_word(node: &Node) -> &'static str {
    match node.flavour() {
        Flavour::MySql => "REPLICA",
        _ => "SLAVE",
    }
}

/// It applies everything this late from now on.
fn delay(replica: &Node, seconds: u32) -> Result<()> {
    let sql = match replica.flavour() {
        Flavour::MySql => format!(
            "STOP REPLICA SQL_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = {seconds}; \
             START REPLICA SQL_THREAD"
        ),
        _ => format!("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = {seconds}; START SLAVE"),
    };
    replica.client_sql(&sql).map(drop)
}
