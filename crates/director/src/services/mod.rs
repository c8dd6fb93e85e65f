//! Virtual servers at work: takes the verdicts of the checks, decides which real servers get
//! connections, and tells the data plane.

mod decide;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::checks::{Checkers, Verdict};
use crate::config::{DirectorConfig, Script, ServiceId, VirtualServer};
use crate::plane::DataPlane;
use crate::status::{RealServerStatus, Shared, VirtualServerStatus};
use crate::sys::process;
use decide::{Change, Decision, Health};

/// How often traffic counters are read.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Longer than the data plane needs, unless it hangs.
const LIMIT: Duration = Duration::from_secs(5);

pub(crate) struct Services {
    input: Sender<Input>,
    thread: Option<JoinHandle<()>>,
}

enum Input {
    /// Of the checks started for this configuration: they are counted.
    Verdict(u64, Verdict),
    Servers(Vec<VirtualServer>),
    /// Interfaces that packets arrive on too, and who wants to know how that went.
    Listen(Vec<String>, Sender<std::io::Result<()>>),
    Stop,
}

impl Services {
    /// Starts the checks and fills the data plane.
    pub fn start(
        config: &DirectorConfig,
        plane: Box<dyn DataPlane>,
        shared: Arc<Shared>,
    ) -> std::io::Result<Self> {
        let servers = expand_all(config);
        let (sender, receiver) = channel();
        let manager = Manager::new(servers, plane, shared);
        let input = sender.clone();
        let thread = std::thread::Builder::new()
            .name("services".to_owned())
            .spawn(move || manager.run(&sender, &receiver))?;
        Ok(Self { input, thread: Some(thread) })
    }

    /// Has the data plane take packets on these interfaces too.
    ///
    /// # Errors
    /// It can't, or does not answer.
    pub fn listen_on(&self, interfaces: Vec<String>) -> std::io::Result<()> {
        let (answer, answered) = channel();
        let _ = self.input.send(Input::Listen(interfaces, answer));
        answered.recv_timeout(LIMIT).map_err(std::io::Error::other)?
    }

    /// Serves what `config` says from now on. What is the same in it keeps its health, and its
    /// connections.
    pub fn reload(&self, config: &DirectorConfig) {
        let _ = self.input.send(Input::Servers(expand_all(config)));
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let _ = self.input.send(Input::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn expand_all(config: &DirectorConfig) -> Vec<VirtualServer> {
    config.virtual_servers.iter().flat_map(|vs| expand(config, vs)).collect()
}

/// A virtual server for a group is one for each of its addresses.
fn expand(config: &DirectorConfig, vs: &VirtualServer) -> Vec<VirtualServer> {
    match &vs.id {
        ServiceId::Group(name) => config
            .server_groups
            .iter()
            .filter(|g| g.name == *name)
            .flat_map(|g| {
                let vips = g.vips.iter().map(|vip| ServiceId::Vip(*vip));
                vips.chain(g.fwmarks.iter().map(|mark| ServiceId::Fwmark(*mark)))
            })
            .map(|id| VirtualServer { id, ..vs.clone() })
            .collect(),
        _ => vec![vs.clone()],
    }
}

struct Manager {
    servers: Vec<VirtualServer>,
    health: Vec<Health>,
    plane: Box<dyn DataPlane>,
    shared: Arc<Shared>,
    scripts: Vec<std::process::Child>,
    /// Virtual and real servers in their slow start, and since when.
    rising: BTreeMap<(usize, usize), Instant>,
}

impl Manager {
    fn new(servers: Vec<VirtualServer>, plane: Box<dyn DataPlane>, shared: Arc<Shared>) -> Self {
        let health = servers.iter().map(Health::new).collect();
        Self { servers, health, plane, shared, scripts: Vec::new(), rising: BTreeMap::new() }
    }

    fn run(mut self, sender: &Sender<Input>, receiver: &Receiver<Input>) {
        let mut generation = 0;
        let mut checkers = self.start_checks(generation, sender);
        self.begin();
        loop {
            match receiver.recv_timeout(COUNT_EVERY) {
                Ok(Input::Verdict(of, verdict)) if of == generation => self.handle(&verdict),
                // A check that ended since.
                Ok(Input::Verdict(..)) => {}
                Ok(Input::Servers(servers)) => {
                    generation += 1;
                    drop(checkers);
                    self.replace(servers);
                    checkers = self.start_checks(generation, sender);
                    self.begin();
                }
                Ok(Input::Listen(interfaces, answer)) => {
                    let _ =
                        answer.send(interfaces.iter().try_for_each(|i| self.plane.listen_on(i)));
                }
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.scripts.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
            self.rise();
            self.show();
        }
        self.plane.end();
        for (vs, health) in self.servers.iter().zip(&self.health) {
            if vs.omega && health.has_quorum() {
                start(&mut self.scripts, vs.quorum_down.as_ref());
            }
        }
    }

    /// Starts all checks, each from what is known of its server.
    fn start_checks(&self, generation: u64, sender: &Sender<Input>) -> Checkers {
        let mut checkers = Checkers::new();
        let (verdicts, incoming) = channel::<Verdict>();
        for (s, vs) in self.servers.iter().enumerate() {
            for (r, server) in vs.real_servers.iter().enumerate() {
                for (c, check) in server.checks.iter().enumerate() {
                    let up = self.health[s].is_good(r, c);
                    let result = checkers.start(check.clone(), (s, r, c), up, verdicts.clone());
                    if let Err(error) = result {
                        tracing::error!("{}: no thread for its check: {error}", server.address);
                    }
                }
            }
        }
        drop(verdicts);
        let forward = sender.clone();
        let forwarding = std::thread::Builder::new().name("verdicts".to_owned()).spawn(move || {
            for verdict in incoming {
                if forward.send(Input::Verdict(generation, verdict)).is_err() {
                    return;
                }
            }
        });
        if let Err(error) = forwarding {
            tracing::error!("checks can't report: {error}");
        }
        checkers
    }

    /// Tells the data plane, and shows it.
    fn begin(&mut self) {
        for doubt in self.plane.doubts(&self.services()) {
            tracing::warn!("{doubt}");
            self.shared.events.push("data_plane", "", doubt);
        }
        self.apply();
        self.show();
    }

    fn replace(&mut self, servers: Vec<VirtualServer>) {
        let health = servers
            .iter()
            .map(|vs| {
                let same = |old: &&VirtualServer| old.id == vs.id && old.protocol == vs.protocol;
                let before = self.servers.iter().position(|old| same(&old));
                Health::carried_over(vs, before.map(|i| (&self.servers[i], &self.health[i])))
            })
            .collect();
        self.servers = servers;
        self.health = health;
        self.rising.clear();
    }

    /// Gives servers in their slow start what they should have by now.
    fn rise(&mut self) {
        let mut changed = false;
        let Self { rising, servers, health, .. } = self;
        rising.retain(|&(s, r), since| {
            let limit = servers[s].slow_start;
            let elapsed = if health[s].is_up(r) { since.elapsed() } else { limit };
            changed |= health[s].slow_start(&servers[s], r, elapsed);
            elapsed < limit
        });
        if changed {
            self.apply();
        }
    }

    fn services(&self) -> Vec<crate::plane::Service> {
        let both = self.servers.iter().zip(&self.health);
        both.filter_map(|(vs, health)| decide::service(vs, health)).collect()
    }

    fn apply(&mut self) {
        if let Err(error) = self.plane.apply(&self.services()) {
            let text = format!("the {} data plane: {error}", self.plane.name());
            tracing::error!("{text}");
            self.shared.events.push("data_plane_error", "", text);
        }
    }

    fn handle(&mut self, verdict: &Verdict) {
        let vs = &self.servers[verdict.service];
        let health = &mut self.health[verdict.service];
        let Decision { changes, apply } = health.note(vs, verdict);
        for change in &changes {
            if let Change::Up(r) = *change
                && !vs.slow_start.is_zero()
            {
                health.slow_start(vs, r, Duration::ZERO);
                self.rising.insert((verdict.service, r), Instant::now());
            }
        }
        if apply {
            // First the traffic, then the telling.
            self.apply();
        }
        let vs = &self.servers[verdict.service];
        let name = vs.name();
        for change in changes {
            let (code, text, script) = match change {
                Change::Up(r) => {
                    let server = &vs.real_servers[r];
                    let text = format!("{} is up", server.address);
                    ("real_server_up", text, server.notify_up.as_ref())
                }
                Change::Down(r) => {
                    let server = &vs.real_servers[r];
                    let text = format!("{} is down: {}", server.address, verdict.why);
                    ("real_server_down", text, server.notify_down.as_ref())
                }
                Change::QuorumGained => (
                    "quorum_gained",
                    "enough real servers are up".to_owned(),
                    vs.quorum_up.as_ref(),
                ),
                Change::QuorumLost => {
                    let text = match vs.sorry_server {
                        Some(sorry) => format!("too few real servers are up: {sorry} answers"),
                        None => "too few real servers are up".to_owned(),
                    };
                    ("quorum_lost", text, vs.quorum_down.as_ref())
                }
            };
            tracing::info!("{name}: {text}");
            self.shared.events.push(code, name.clone(), text);
            start(&mut self.scripts, script);
        }
    }

    fn show(&mut self) {
        let plane = &mut self.plane;
        let list = self.servers.iter().zip(&self.health).map(|(vs, health)| {
            let service = decide::service(vs, health);
            let traffic = service.as_ref().map(|s| plane.traffic(s)).unwrap_or_default();
            // One that is down is no target, and has none.
            let traffic_of = |address| {
                let at = service.as_ref()?.targets.iter().position(|t| t.address == address)?;
                traffic.get(at).copied()
            };
            VirtualServerStatus {
                name: vs.name(),
                vip: match vs.id {
                    ServiceId::Vip(vip) => Some(vip),
                    _ => None,
                },
                protocol: vs.protocol,
                scheduler: vs.lb_algo.name(),
                data_plane: plane.name(),
                quorum: health.has_quorum(),
                real_servers: vs
                    .real_servers
                    .iter()
                    .enumerate()
                    .map(|(r, server)| RealServerStatus {
                        address: server.address,
                        weight: health.weight(vs, r),
                        up: health.is_up(r),
                        why: health.why(r).to_owned(),
                        traffic: traffic_of(server.address).unwrap_or_default(),
                    })
                    .collect(),
            }
        });
        let list = list.collect();
        self.shared.set_virtual_servers(list);
    }
}

fn start(scripts: &mut Vec<std::process::Child>, script: Option<&Script>) {
    let Some(script) = script else { return };
    match process::start(script, &[]) {
        Ok(child) => scripts.push(child),
        Err(error) => tracing::error!("{}: {error}", script.command[0]),
    }
}

impl VirtualServer {
    /// `192.168.4.253:80`, `fwmark 3`, `group G`.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.id {
            ServiceId::Vip(vip) => vip.to_string(),
            ServiceId::Fwmark(mark) => format!("fwmark {mark}"),
            ServiceId::Group(group) => format!("group {group}"),
        }
    }
}
