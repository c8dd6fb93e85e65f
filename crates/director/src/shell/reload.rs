//! A new configuration while running. A virtual router is the same if its interface, VRID, version
//! and family are, and whether it speaks multicast: all else changes in place, and its addresses
//! stay where they are.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use pointsman_vrrp::{Router, State};

use super::instance::Instance;
use super::track::Tracker;
use super::{Group, Shell, group_of, make_groups};
use crate::config::{DirectorConfig, VrrpInstance};
use crate::control::Request;
use crate::sys::link::{add_address, delete_address};
use crate::sys::{bpf, now};
use crate::virtuals::{self, Loaded, Virtuals};

/// Numbers for the sentence that says what was done.
#[derive(Default)]
struct Changes {
    added: usize,
    changed: usize,
    removed: usize,
}

impl Shell {
    /// On a thread of its own: reading files must not delay an advert.
    pub(super) fn ask_for_reload(&self) {
        let control = Arc::clone(&self.control);
        let asking = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            // Both ways it ends are told by who answers, or by the source.
            let _ = control.reload();
        });
        if let Err(error) = asking {
            tracing::error!("reload: {error}");
        }
    }

    pub(super) fn answer(&mut self, virtuals: &mut Virtuals) {
        self.control.clear();
        let requests: Vec<Request> =
            self.requests_of_others.iter().flat_map(Receiver::try_iter).collect();
        for mut request in requests {
            let prepared = self.prepare(&request.config, virtuals);
            if prepared.is_ok() && virtuals.lacks_plane(&request) {
                self.load_aside(request, virtuals);
                continue;
            }
            let loaded = request.loaded.take();
            let result = prepared.and_then(|()| self.reload(&request.config, loaded, virtuals));
            match &result {
                Ok(what) => {
                    tracing::info!("reloaded: {what}");
                    self.shared.events.push("reloaded", "", what);
                }
                Err(why) => {
                    tracing::error!("not reloaded, nothing was changed: {why}");
                    self.shared.events.push("reload_failed", "", why);
                }
            }
            let _ = request.answer.send(result);
        }
    }

    /// Whether `config` could be run; makes what its data plane needs to be there.
    fn prepare(&mut self, config: &DirectorConfig, virtuals: &Virtuals) -> Result<(), String> {
        if self.stopping {
            return Err("the director is stopping".to_owned());
        }
        virtuals.allow(config)?;
        for instance in &config.vrrp {
            let checked = instance.router_config().validate();
            checked.map_err(|e| format!("vrrp_instance {}: {e}", instance.name))?;
        }
        for instance in &config.vrrp {
            let made = self.vmacs.ensure(instance, &self.links, &mut self.requests);
            made.map_err(|e| format!("vrrp_instance {}: no virtual MAC: {e}", instance.name))?;
        }
        Ok(())
    }

    /// Loads the data plane for a request that is the first to need one, and comes back with it. That
    /// may take longer than peers wait for an advert: it has a thread of its own.
    fn load_aside(&self, mut request: Request, virtuals: &Virtuals) {
        let (control, kept) = (Arc::clone(&self.control), virtuals.kept());
        let loading = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            let loaded = kept.while_loading(|| virtuals::load(&request.config));
            request.loaded = Some(loaded.map_err(|error| error.to_string()));
            control.send(request);
        });
        if let Err(error) = loading {
            // Who asked hears that nobody answers.
            tracing::error!("reload: {error}");
        }
    }

    /// Runs `config` from now on, or says why not and goes on as before.
    fn reload(
        &mut self,
        config: &DirectorConfig,
        loaded: Option<Result<Loaded, String>>,
        virtuals: &mut Virtuals,
    ) -> Result<String, String> {
        // Whatever can fail comes before whatever changes something.
        let tracker = Tracker::start(config, Some(&self.tracker));
        let tracker = tracker.map_err(|e| format!("tracking: {e}"))?;
        let servers = virtuals.reload(config, loaded.transpose()?).map_err(|e| e.to_string())?;
        if let Some(guard) = &self.guard
            && let Err(error) = bpf::links().and_then(|links| guard.keep(&links))
        {
            tracing::warn!("the guard can't keep the data plane after a crash: {error}");
        }

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
        let group = group_of(&self.groups, id);
        instance.tell_guard(self.node.router(id), group, self.guard.as_ref());
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
