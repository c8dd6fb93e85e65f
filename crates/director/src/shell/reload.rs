//! A new configuration while running. A virtual router is the same if its interface, VRID, version
//! and family are, and whether it speaks multicast: all else changes in place, and its addresses
//! stay where they are.

use pointsman_vrrp::{Router, State};

use super::instance::Instance;
use super::track::Tracker;
use super::{Group, Shell, make_groups};
use crate::config::{DirectorConfig, VrrpInstance};
use crate::sys::link::{add_address, delete_address};
use crate::sys::now;
use crate::virtuals::Virtuals;

/// Numbers for the sentence that says what was done.
#[derive(Default)]
struct Changes {
    added: usize,
    changed: usize,
    removed: usize,
}

impl Shell {
    /// Runs `config` from now on, or says why not and goes on as before.
    pub(super) fn reload(
        &mut self,
        config: &DirectorConfig,
        virtuals: &mut Virtuals,
    ) -> Result<String, String> {
        if self.stopping {
            return Err("the director is stopping".to_owned());
        }
        // Whatever can fail comes before whatever changes something.
        for instance in &config.vrrp {
            let checked = instance.router_config().validate();
            checked.map_err(|e| format!("vrrp_instance {}: {e}", instance.name))?;
        }
        let tracker = Tracker::start(config, Some(&self.tracker));
        let tracker = tracker.map_err(|e| format!("tracking: {e}"))?;
        for instance in &config.vrrp {
            // Before the data plane, which listens there.
            let made = self.vmacs.ensure(instance, &self.links, &mut self.requests);
            made.map_err(|e| format!("vrrp_instance {}: no virtual MAC: {e}", instance.name))?;
        }
        let servers = virtuals.reload(config).map_err(|e| e.to_string())?;

        self.tracker = tracker;
        let changes = self.change_instances(config);
        self.change_groups(config);
        self.drop_sockets();
        for instance in &mut self.instances {
            // What is tracked is counted anew.
            instance.last_tracking = None;
        }
        self.refresh(now());
        let Changes { added, changed, removed } = changes;
        Ok(format!(
            "virtual routers: {added} added, {changed} changed, {removed} removed; {servers}"
        ))
    }

    fn change_instances(&mut self, config: &DirectorConfig) -> Changes {
        let time = now();
        let mut changes = Changes::default();
        let is_wanted = |i: &Instance| config.vrrp.iter().any(|c| i.is(c));
        for i in 0..self.instances.len() {
            if !self.instances[i].retired && !is_wanted(&self.instances[i]) {
                self.instances[i].retired = true;
                let id = self.instances[i].id;
                // Out of its group first, or the others would go with it.
                self.node.with(id, time, |router, t| router.handle_stop(t));
                changes.removed += 1;
            }
        }
        // Addresses that move from one virtual router to another are taken off first.
        for wanted in &config.vrrp {
            let live = self.instances.iter().position(|i| !i.retired && i.is(wanted));
            let Some(i) = live else { continue };
            if self.instances[i].config != *wanted {
                changes.changed += 1;
                self.instances[i].config = wanted.clone();
                self.remove_former(i);
            }
        }
        for i in 0..self.instances.len() {
            if !self.instances[i].retired {
                self.change(i);
            }
        }
        for wanted in &config.vrrp {
            if self.instances.iter().any(|i| !i.retired && i.is(wanted)) {
                continue;
            }
            match Router::new(wanted.router_config(), time) {
                Ok(router) => {
                    let id = self.node.add(router);
                    self.instances.push(Instance::new(wanted.clone(), id));
                    changes.added += 1;
                }
                // It was checked.
                Err(error) => tracing::error!("vrrp_instance {}: {error}", wanted.name),
            }
        }
        changes
    }

    /// Takes off what an instance holds and should no longer.
    fn remove_former(&mut self, i: usize) {
        let instance = &mut self.instances[i];
        let wanted = instance.placed(&self.links);
        let (stay, go) = instance.held.drain(..).partition(|p| wanted.contains(p));
        instance.held = stay;
        for placed in go {
            if let Err(error) = delete_address(&mut self.requests, &placed) {
                tracing::error!("{}: removing {}: {error}", instance.config.name, placed.ip);
            }
        }
    }

    /// Gives the state machine its instance's configuration, and an active one its new addresses.
    fn change(&mut self, i: usize) {
        let instance = &mut self.instances[i];
        let id = instance.id;
        let config = instance.config.router_config();
        if *self.node.router(id).config() == config
            && !self.node.router(id).state().holds_addresses()
        {
            return;
        }
        if self.node.router(id).state().holds_addresses() {
            let wanted = instance.placed(&self.links);
            for placed in wanted.iter().filter(|p| !instance.held.contains(p)) {
                if let Err(error) = add_address(&mut self.requests, placed) {
                    let text = format!("adding {}: {error}", placed.ip);
                    tracing::error!("{}: {text}", instance.config.name);
                    self.shared.events.push("address_error", &instance.config.name, text);
                }
            }
            instance.held = wanted;
            instance.add_routes(&self.links, &mut self.requests, &self.shared);
        }
        if *self.node.router(id).config() != config {
            let result = self.node.with(id, now(), |router, t| router.handle_config(config, t));
            if let Err(error) = result {
                // It was checked.
                tracing::error!("{}: {error}", instance.config.name);
            }
        }
        instance.tell_guard(self.node.router(id), self.guard.as_ref());
    }

    fn change_groups(&mut self, config: &DirectorConfig) {
        let mut groups = make_groups(config, &self.instances);
        for group in &mut groups {
            let before = self.groups.iter().find(|g| g.config.name == group.config.name);
            group.state = before.map_or(State::Initialize, |g| g.state);
        }
        let members = |g: &Group| g.members.iter().map(|&m| self.instances[m].id).collect();
        self.node.set_groups(groups.iter().map(members).collect(), now());
        self.groups = groups;
    }

    /// Sockets of virtual routers that are gone. Those that still say goodbye keep theirs.
    fn drop_sockets(&mut self) {
        let Self { instances, node, sockets, .. } = self;
        sockets.retain(|key, _| {
            instances.iter().any(|i| {
                i.key == *key && (!i.retired || node.router(i.id).state() != State::Stopped)
            })
        });
    }
}

impl Instance {
    /// Whether this is the virtual router that `config` means.
    fn is(&self, config: &VrrpInstance) -> bool {
        let fresh = Self::new(config.clone(), self.id);
        self.key == fresh.key
            && self.config.virtual_router_id == config.virtual_router_id
            && self.config.version == config.version
    }
}
