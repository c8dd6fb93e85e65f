//! Runs the virtual routers: turns packets, timers and the kernel's news into inputs of
//! [`pointsman_vrrp::Node`], and its actions into system calls. One thread, no queue in between:
//! at 10 ms adverts a hop more would show.

mod instance;
mod reload;
mod restart;
mod track;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use pointsman_vrrp::{Action, Advert, Node, Router, RouterId, State, Time};

use crate::Error;
use crate::config::{DirectorConfig, Notify, Script, SyncGroup};
use crate::control::{Control, Request};
use crate::status::{InstanceStatus, Shared};
use crate::sys::guard::Guard;
use crate::sys::link::{self, Links, add_address, delete_address};
use crate::sys::netlink;
use crate::sys::packet::FrameSocket;
use crate::sys::process::{self, Signals};
use crate::sys::vmac::Vmacs;
use crate::sys::vrrp_socket::VrrpSocket;
use crate::sys::{now, wait_readable};
use crate::virtuals::Virtuals;
use instance::{Instance, SocketKey};
use restart::Succeeded;
use track::Tracker;

/// SIGUSR2: another process is to begin where this one ends.
const SIGNALS: [libc::c_int; 5] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2, libc::SIGCHLD];

/// How the daemon ends.
pub(crate) enum End {
    /// Nothing is to stay. What is in it should end last: frames to a virtual MAC are for the virtual
    /// servers too.
    Stopped(Vmacs),
    /// Another daemon goes on with the same addresses and packets.
    Restarting,
}

/// Packets taken from one socket before timers are looked at again.
const BATCH: usize = 256;
/// Counters are shown this often at most.
const SHOW_EVERY: Duration = Duration::from_millis(250);

pub(crate) struct Shell {
    node: Node,
    instances: Vec<Instance>,
    groups: Vec<Group>,
    sockets: BTreeMap<SocketKey, VrrpSocket>,
    requests: netlink::Socket,
    monitor: netlink::Socket,
    links: Links,
    frames: FrameSocket,
    guard: Option<Guard>,
    tracker: Tracker,
    signals: Signals,
    scripts: Vec<Child>,
    shared: Arc<Shared>,
    shown_at: Option<Instant>,
    stopping: bool,
    control: Arc<Control>,
    requests_of_others: Option<Receiver<Request>>,
    vmacs: Vmacs,
}

struct Group {
    config: SyncGroup,
    members: Vec<usize>,
    state: State,
}

impl Shell {
    pub fn new(
        config: &DirectorConfig,
        shared: Arc<Shared>,
        control: Arc<Control>,
        vmacs: Vmacs,
    ) -> Result<Self, Error> {
        // Before anything that starts a thread.
        let guard = match Guard::start() {
            Ok(guard) => Some(guard),
            Err(error) => {
                tracing::warn!(
                    "no guard process: {error}; a crash will leave the addresses behind"
                );
                None
            }
        };
        let signals = Signals::take(&SIGNALS).map_err(Error::os("signals"))?;
        let mut requests = netlink::Socket::route().map_err(Error::os("netlink"))?;
        // News first, then the state: nothing falls in between.
        let monitor = netlink::Socket::route_monitor(link::MONITOR_GROUPS)
            .map_err(Error::os("netlink news"))?;
        let links = Links::read(&mut requests).map_err(Error::os("reading interfaces"))?;
        let frames = FrameSocket::open().map_err(Error::os("packet socket"))?;

        let time = now();
        let mut node = Node::new();
        let mut instances = Vec::new();
        for config in &config.vrrp {
            let router = Router::new(config.router_config(), time)
                .map_err(|e| Error::Config(format!("vrrp_instance {}: {e}", config.name)))?;
            let id = node.add(router);
            instances.push(Instance::new(config.clone(), id));
        }
        let groups = make_groups(config, &instances);
        for group in &groups {
            node.add_group(group.members.iter().map(|&i| instances[i].id).collect());
        }
        let tracker = Tracker::start(config, None).map_err(Error::os("tracking"))?;
        Ok(Self {
            node,
            instances,
            groups,
            sockets: BTreeMap::new(),
            requests,
            monitor,
            links,
            frames,
            guard,
            tracker,
            signals,
            scripts: Vec::new(),
            shared,
            shown_at: None,
            stopping: false,
            requests_of_others: control.take_requests(),
            control,
            vmacs,
        })
    }

    /// Runs until stopped by a signal.
    pub fn run(mut self, virtuals: &mut Virtuals) -> Result<End, Error> {
        let succeeded = self.succeed();
        self.clean_up_leftovers(succeeded.as_ref());
        self.refresh(now());
        self.act();
        if let Some(succeeded) = succeeded {
            self.take(succeeded);
        }
        self.show();
        loop {
            let timeout = self.node.poll_timeout().map(|at| at.saturating_sub(now()));
            let ready = self.wait(timeout).map_err(Error::os("waiting"))?;
            // What others sent, before our own timers: they may say that we need not act.
            if ready.packets {
                self.receive();
            }
            if ready.news {
                self.hear_news();
            }
            if ready.tracker {
                self.tracker.clear();
                self.refresh(now());
            }
            if ready.control {
                self.answer(virtuals);
            }
            if ready.signals
                && let Some(at_once) = self.handle_signals(virtuals)
            {
                return Ok(match at_once {
                    AtOnce::Stop => End::Stopped(self.vmacs),
                    AtOnce::Restart => End::Restarting,
                });
            }
            self.node.handle_timeout(now());
            if self.act() || self.shown_at.is_none_or(|at| at.elapsed() >= SHOW_EVERY) {
                self.show();
            }
            if self.stopping && self.node.is_stopped() {
                return Ok(End::Stopped(self.vmacs));
            }
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Ready> {
        let mut fds: Vec<BorrowedFd<'_>> =
            vec![self.signals.as_fd(), self.monitor.as_fd(), self.tracker.as_fd()];
        fds.push(self.control.as_fd());
        fds.extend(self.sockets.values().map(AsFd::as_fd));
        let ready = wait_readable(&fds, timeout)?;
        Ok(Ready {
            signals: ready[0],
            news: ready[1],
            tracker: ready[2],
            control: ready[3],
            packets: ready[4..].contains(&true),
        })
    }

    /// Whether to end at once.
    fn handle_signals(&mut self, virtuals: &Virtuals) -> Option<AtOnce> {
        while let Some(signal) = self.signals.next() {
            match signal {
                libc::SIGCHLD => {
                    self.scripts.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
                    self.tracker.child_ended();
                }
                libc::SIGHUP => self.ask_for_reload(),
                _ if self.stopping => {
                    // Asked twice: no more waiting for a successor.
                    for instance in &mut self.instances {
                        instance.remove_addresses(&mut self.requests);
                    }
                    return Some(AtOnce::Stop);
                }
                libc::SIGUSR2 if self.restart(virtuals) => return Some(AtOnce::Restart),
                _ => {
                    self.stopping = true;
                    self.shared.events.push("stopping", "", "stopping in good order");
                    self.node.handle_stop(now());
                }
            }
        }
        None
    }

    /// Addresses of a run that was killed.
    fn clean_up_leftovers(&mut self, succeeded: Option<&Succeeded>) {
        for (i, instance) in self.instances.iter().enumerate() {
            if succeeded.is_some_and(|s| s.has(i)) {
                continue;
            }
            for placed in instance.placed(&self.links) {
                if self.links.has(&placed) {
                    let text = format!("{} was left on the interface: removed", placed.ip);
                    tracing::warn!("{}: {text}", instance.config.name);
                    self.shared.events.push("leftover_removed", &instance.config.name, text);
                    let _ = delete_address(&mut self.requests, &placed);
                }
            }
            // They are ours by what they are, and harmless to miss.
            for route in instance.placed_routes(&self.links) {
                let _ = route.delete(&mut self.requests);
            }
        }
    }

    fn receive(&mut self) {
        for (key, socket) in &mut self.sockets {
            for _ in 0..BATCH {
                let (from, payload) = match socket.receive() {
                    Ok(Some(packet)) => packet,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!("receiving on {}: {error}", key.interface);
                        break;
                    }
                };
                let vrid = Advert::peek_vrid(payload);
                for instance in &mut self.instances {
                    if instance.key != *key || Some(instance.config.virtual_router_id) != vrid {
                        continue;
                    }
                    let result = self.node.handle_advert(instance.id, payload, from, now());
                    if let Err(reason) = result {
                        instance.note_drop(from.src, reason, &self.shared);
                    }
                }
            }
        }
    }

    fn hear_news(&mut self) {
        let links = &mut self.links;
        if let Err(error) = self.monitor.news(|message| links.apply(message)) {
            tracing::debug!("news of interfaces were lost ({error}): reading them anew");
            match Links::read(&mut self.requests) {
                Ok(links) => self.links = links,
                Err(error) => tracing::error!("reading interfaces: {error}"),
            }
        }
        self.refresh(now());
        for instance in &mut self.instances {
            if !self.node.router(instance.id).state().holds_addresses() {
                continue;
            }
            let lost: Vec<_> =
                instance.held.iter().filter(|p| !self.links.has(p)).cloned().collect();
            for placed in lost {
                let text = format!("{} was taken off the interface: put back", placed.ip);
                tracing::warn!("{}: {text}", instance.config.name);
                self.shared.events.push("address_restored", &instance.config.name, text);
                if let Err(error) = add_address(&mut self.requests, &placed) {
                    tracing::error!("{}: adding {}: {error}", instance.config.name, placed.ip);
                }
            }
        }
    }

    /// Tells the routers about their interfaces and what they track.
    fn refresh(&mut self, time: Time) {
        for i in 0..self.instances.len() {
            let instance = &mut self.instances[i];
            if !instance.retired {
                match self.vmacs.ensure(&instance.config, &self.links, &mut self.requests) {
                    Ok(true) => {
                        let text = "made its interface with the virtual MAC".to_owned();
                        self.shared.events.push("vmac_made", &instance.config.name, text);
                    }
                    Ok(false) => {}
                    Err(error) => {
                        instance.complain(format!("no virtual MAC: {error}"), &self.shared);
                    }
                }
            }
            if let Err(error) = instance.open_socket(&self.links, &mut self.sockets) {
                instance.complain(format!("no VRRP socket: {error}"), &self.shared);
            }
            let (up, source) = instance.interface(&self.links);
            let id = instance.id;
            if instance.last_interface != Some((up, source)) {
                instance.last_interface = Some((up, source));
                self.node.with(id, time, |r, t| r.handle_interface(up, source, t));
            }
            let groups = self.groups.iter().filter(|g| g.members.contains(&i));
            let trackings = std::iter::once(&self.instances[i].config.tracking)
                .chain(groups.map(|g| &g.config.tracking));
            let verdict = self.tracker.verdict(trackings, &self.links);
            if self.instances[i].last_tracking != Some(verdict) {
                self.instances[i].last_tracking = Some(verdict);
                self.node.with(id, time, |r, t| r.handle_tracking(verdict.0, verdict.1, t));
            }
        }
    }

    /// Does what the routers want. Whether there was anything to show.
    fn act(&mut self) -> bool {
        let mut changed = false;
        while let Some((id, action)) = self.node.poll_action() {
            let instance = &mut self.instances[id.0];
            let router = self.node.router(id);
            match action {
                Action::AddAddresses => {
                    instance.held = instance.placed(&self.links);
                    instance.tell_guard(router, group_of(&self.groups, id), self.guard.as_ref());
                    for placed in &instance.held {
                        if let Err(error) = add_address(&mut self.requests, placed) {
                            let text = format!("adding {}: {error}", placed.ip);
                            tracing::error!("{}: {text}", instance.config.name);
                            self.shared.events.push("address_error", &instance.config.name, text);
                        }
                    }
                    if !instance.config.virtual_routes.is_empty() {
                        instance.add_routes(&self.links, &mut self.requests, &self.shared);
                        instance.tell_guard(
                            router,
                            group_of(&self.groups, id),
                            self.guard.as_ref(),
                        );
                    }
                }
                Action::RemoveAddresses => {
                    instance.remove_addresses(&mut self.requests);
                    if let Some(guard) = &self.guard {
                        let _ = guard.release(id.0);
                    }
                }
                Action::SendAdvert { priority } => {
                    if let Err(error) = instance.send(router, priority, &self.sockets) {
                        instance.complain(format!("sending an advert: {error}"), &self.shared);
                    }
                    if let (Some(guard), Some(until)) = (&self.guard, router.active_until()) {
                        let _ = guard.alive(id.0, until);
                    }
                }
                Action::Announce { repeat } => {
                    instance.announce(repeat, &self.links, &self.frames);
                }
                Action::Transition { from, to, reason } => {
                    changed = true;
                    instance.since = SystemTime::now();
                    let name = instance.config.name.clone();
                    let text = format!("{from} -> {to}: {reason}");
                    tracing::info!("{name}: {text}");
                    self.shared.events.push("vrrp_transition", &name, text);
                    let priority = router.effective_priority();
                    let notify = instance.config.notify.clone();
                    if from != State::Leaving {
                        self.notify(&notify, "INSTANCE", &name, to, priority);
                    }
                    self.notify_groups();
                }
                Action::AddressesDiffer { src } => {
                    let text = format!("{src} advertises other addresses than this configuration");
                    tracing::warn!("{}: {text}", instance.config.name);
                    self.shared.events.push("addresses_differ", &instance.config.name, text);
                }
            }
        }
        changed
    }

    fn notify(&mut self, notify: &Notify, kind: &str, name: &str, to: State, priority: u8) {
        let own = match to {
            State::Active => &notify.master,
            State::Backup => &notify.backup,
            State::Fault => &notify.fault,
            State::Leaving | State::Stopped => &notify.stop,
            State::Initialize => &None,
        };
        let priority = priority.to_string();
        let with_arguments = [kind, name, to.name(), &priority];
        let mut start = |script: &Script, extra: &[&str]| match process::start(script, extra) {
            Ok(child) => self.scripts.push(child),
            Err(error) => tracing::error!("{name}: {}: {error}", script.command[0]),
        };
        if let Some(script) = own {
            start(script, &[]);
        }
        if let Some(script) = &notify.any {
            start(script, &with_arguments);
        }
    }

    fn notify_groups(&mut self) {
        for i in 0..self.groups.len() {
            let states: Vec<State> = self.groups[i]
                .members
                .iter()
                .map(|&m| self.node.router(self.instances[m].id).state())
                .collect();
            let all = |s: State| states.iter().all(|state| *state == s);
            let state = if all(State::Active) {
                State::Active
            } else if states.contains(&State::Fault) {
                State::Fault
            } else if states.iter().all(|s| matches!(s, State::Leaving | State::Stopped)) {
                // As of a router, it is told when it begins.
                State::Stopped
            } else {
                State::Backup
            };
            let before = std::mem::replace(&mut self.groups[i].state, state);
            if before != state {
                let group = self.groups[i].config.clone();
                self.notify(&group.notify, "GROUP", &group.name, state, 0);
            }
        }
    }

    fn show(&mut self) {
        self.shown_at = Some(Instant::now());
        let instances = self.instances.iter().filter(|i| !i.retired).map(|instance| {
            let router = self.node.router(instance.id);
            InstanceStatus {
                name: instance.config.name.clone(),
                interface: instance.config.interface.clone(),
                virtual_router_id: instance.config.virtual_router_id,
                state: router.state(),
                since: instance.since,
                priority: router.effective_priority(),
                active: router.active_router(),
                addresses: instance.virtuals(),
                counters: *router.counters(),
            }
        });
        self.shared.set_instances(instances.collect());
    }
}

fn make_groups(config: &DirectorConfig, instances: &[Instance]) -> Vec<Group> {
    let make = |group: &SyncGroup| {
        let is_member = |i: &Instance| !i.retired && group.members.contains(&i.config.name);
        Group {
            members: (0..instances.len()).filter(|&i| is_member(&instances[i])).collect(),
            config: group.clone(),
            state: State::Initialize,
        }
    };
    config.sync_groups.iter().map(make).collect()
}

/// The name of the sync group a router is in; instances have the numbers of their routers.
fn group_of(groups: &[Group], id: RouterId) -> Option<String> {
    let group = groups.iter().find(|g| g.members.contains(&id.0))?;
    Some(group.config.name.clone())
}

enum AtOnce {
    Stop,
    Restart,
}

struct Ready {
    signals: bool,
    news: bool,
    tracker: bool,
    control: bool,
    packets: bool,
}
