//! A restart in place (SIGUSR2, which the unit makes of `systemctl restart`): the addresses stay, no
//! peer is told, and the next process goes on as the active router. How that stays safe whatever
//! becomes of it: see [`crate::sys::succession`].

use std::time::Duration;

use super::instance::Instance;
use super::{Shell, group_of, now};
use crate::sys::guard::Hold;
use crate::sys::link::Links;
use crate::sys::succession::Predecessor;
use crate::virtuals::Virtuals;
use pointsman_vrrp::State;

/// Peers wait for so long at least, or the guard may come too late to speak for a process that ends:
/// then a planned stop is better, which hands the addresses over without a gap.
const LEAST_TIME: Duration = Duration::from_millis(300);

/// What the process before this one held, and this one goes on with.
pub(super) struct Succeeded {
    predecessor: Predecessor,
    /// Instances, and what number the process before had for them.
    instances: Vec<(usize, usize)>,
}

impl Succeeded {
    pub fn has(&self, instance: usize) -> bool {
        self.instances.iter().any(|(i, _)| *i == instance)
    }
}

impl Shell {
    /// Leaves the addresses to the next process. Whether that is so; if not, a planned stop is next.
    pub(super) fn restart(&mut self, virtuals: &Virtuals) -> bool {
        match self.leave_addresses(virtuals) {
            Ok(()) => {
                let text = "ending to be restarted: the addresses stay for a moment";
                tracing::info!("{text}");
                true
            }
            Err(why) => {
                tracing::info!("no restart in place: {why}");
                false
            }
        }
    }

    fn leave_addresses(&mut self, virtuals: &Virtuals) -> Result<(), String> {
        if self.stopping {
            return Err("it is stopping".to_owned());
        }
        if !virtuals.can_be_left() {
            return Err("on XDP there is no room for the next process's program".to_owned());
        }
        let node = &self.node;
        let active = |i: &&Instance| node.router(i.id).state().holds_addresses();
        for instance in self.instances.iter().filter(active) {
            let name = &instance.config.name;
            let router = node.router(instance.id);
            if router.state() != State::Active {
                return Err(format!("{name} is stopping"));
            }
            if instance.config.vmac().is_some() {
                return Err(format!(
                    "{name} has a virtual MAC, whose interface ends with this process"
                ));
            }
            let peers_wait = router.config().peers_wait();
            if peers_wait < LEAST_TIME {
                return Err(format!("{name}: its peers wait for {peers_wait:?} only"));
            }
        }
        let Some(guard) = &self.guard else {
            return Err("there is no guard to look after the addresses".to_owned());
        };
        // The next process would not begin.
        self.control.check().map_err(|why| format!("the configuration can't be run: {why}"))?;
        for instance in self.instances.iter().filter(active) {
            // With the priority it has now.
            let group = group_of(&self.groups, instance.id);
            instance.tell_guard(node.router(instance.id), group, Some(guard));
        }
        guard.restart().map_err(|error| format!("the guard: {error}"))?;
        let time = now();
        for i in 0..self.instances.len() {
            let id = self.instances[i].id;
            self.node.with(id, time, |router, t| router.handle_restart(t));
        }
        // The last adverts, and until when the guard may keep what they are for.
        self.act();
        Ok(())
    }

    /// Asks for what the process before this one held. Call it before the first input.
    pub(super) fn succeed(&mut self) -> Option<Succeeded> {
        let predecessor = Predecessor::ask()?;
        let mut instances = Vec::new();
        for (i, instance) in self.instances.iter().enumerate() {
            let same = |hold: &&Hold| instance.goes_on_with(hold, &self.links);
            if let Some(hold) = predecessor.holds.iter().find(same) {
                instances.push((i, hold.router));
            }
        }
        // A group goes on together or not at all.
        let whole = |i: usize| {
            let of_it = self.groups.iter().filter(|g| g.members.contains(&i));
            of_it.flat_map(|g| &g.members).all(|m| instances.iter().any(|(i, _)| i == m))
        };
        let kept: Vec<_> = instances.iter().copied().filter(|(i, _)| whole(*i)).collect();
        for (i, number) in &kept {
            let until = predecessor.holds.iter().find(|h| h.router == *number).map(|h| h.until);
            let id = self.instances[*i].id;
            if let Some(until) = until {
                self.node.with(id, now(), |router, _| router.succeed(until));
            }
        }
        Some(Succeeded { predecessor, instances: kept })
    }

    /// They are on the interface, advertised, and our guard watches over them; or they could not be
    /// gone on with after all, and are to go.
    pub(super) fn take(&mut self, succeeded: Succeeded) {
        let Succeeded { predecessor, instances } = succeeded;
        let active = |i: usize| self.node.router(self.instances[i].id).state() == State::Active;
        let taken: Vec<usize> =
            instances.iter().filter(|(i, _)| active(*i)).map(|(_, number)| *number).collect();
        if let Err(error) = predecessor.taken(&taken) {
            tracing::warn!("the guard of the process before does not answer: {error}");
        }
    }
}

impl Instance {
    /// Whether it is the virtual router whose addresses these are, and has the same.
    fn goes_on_with(&self, hold: &Hold, links: &Links) -> bool {
        let placed = self.placed(links);
        hold.interface == self.key.interface
            && hold.vrid == self.config.virtual_router_id
            && hold.addresses.len() == placed.len()
            && hold.addresses.iter().all(|a| placed.contains(a))
    }
}
