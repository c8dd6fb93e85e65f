//! The thread that looks after the connection table: ends what time ends, and puts right what the
//! program counts.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::layout::{
    Connection, DATAGRAM, ESTABLISHED, Flow, Load, Name, PERSISTENT, ServiceKey, ServiceValue,
};
use super::program::Tables;
use super::sweep::Sweep;
use crate::sys::bpf::Table;
use crate::sys::{monotonic, wait_readable};

/// How often the table is walked, at best.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A walk may take this part of the time.
const SWEEP_SHARE: u32 = 20;

/// Who is who in the tables.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub indexes: HashMap<Name, u32>,
    /// By index.
    pub generations: HashMap<u32, u32>,
    pub services: HashMap<ServiceKey, ServiceValue>,
}

pub(crate) type SharedRegistry = Arc<Mutex<Registry>>;

pub(crate) fn lock(registry: &SharedRegistry) -> MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running thread; it ends with this.
pub(crate) struct Flows {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Flows {
    pub fn start(keeper: Keeper) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let thread = std::thread::Builder::new()
            .name("flows".to_owned())
            .spawn(move || keeper.run(&stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) struct Keeper {
    connections: Table<Flow, Connection>,
    begun: Table<Flow, Connection>,
    loads: Table<u32, Load>,
    templates: Table<Flow, super::layout::Template>,
    registry: SharedRegistry,
}

impl Keeper {
    pub fn new(tables: &Tables, registry: SharedRegistry) -> io::Result<Self> {
        Ok(Self {
            connections: tables.connections.try_clone()?,
            begun: tables.begun.try_clone()?,
            loads: tables.loads.try_clone()?,
            templates: tables.templates.try_clone()?,
            registry,
        })
    }

    fn run(self, stopped: &UnixStream) {
        let mut next = Instant::now() + SWEEP_EVERY;
        let mut complained = false;
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            match wait_readable(&[stopped.as_fd()], Some(wait)).as_deref() {
                Ok([false]) => {}
                _ => return,
            }
            if Instant::now() < next {
                continue;
            }
            let began = Instant::now();
            if let Err(error) = self.sweep()
                && !complained
            {
                tracing::warn!("connections can't be counted or ended by time: {error}");
                complained = true;
            }
            next = Instant::now() + SWEEP_EVERY.max(began.elapsed() * SWEEP_SHARE);
        }
    }

    fn sweep(&self) -> io::Result<()> {
        let (generations, services) = {
            let registry = lock(&self.registry);
            (registry.generations.clone(), registry.services.clone())
        };
        let sticky = services.values().any(|s| s.flags & PERSISTENT != 0);
        let mut before = HashMap::new();
        for &real in generations.keys() {
            before.insert(real, self.loads.get(&real)?.unwrap_or_default());
        }
        let mut sweep = Sweep::default();
        let mut clients: HashMap<Flow, u64> = HashMap::new();
        for table in [&self.connections, &self.begun] {
            let now = monotonic();
            table.each(|flow, connection| {
                let current = generations.get(&connection.real) == Some(&connection.generation);
                sweep.look(flow, connection, now, current);
                if sticky
                    && current
                    && let Some(key) = template_key(&services, flow)
                {
                    let seen = match connection.state {
                        ESTABLISHED => now,
                        DATAGRAM => connection.seen,
                        _ => return,
                    };
                    let latest = clients.entry(key).or_default();
                    *latest = seen.max(*latest);
                }
            })?;
            for flow in sweep.over.drain(..) {
                table.remove(&flow)?;
            }
        }
        for (real, before) in before {
            let after = self.loads.get(&real)?.unwrap_or_default();
            if let Some(load) = sweep.correction(real, before, after) {
                self.loads.set(&real, &load)?;
            }
        }
        // A client's time starts when its last connection ends.
        for (key, seen) in clients {
            if let Some(mut template) = self.templates.get(&key)?
                && template.seen < seen
            {
                template.seen = seen;
                self.templates.set(&key, &template)?;
            }
        }
        Ok(())
    }
}

/// Under which key the program remembers the server of a flow's client, if it does.
fn template_key(services: &HashMap<ServiceKey, ServiceValue>, flow: &Flow) -> Option<Flow> {
    let mut key = ServiceKey {
        vip: flow.vip,
        port: flow.vip_port,
        protocol: flow.protocol,
        family: flow.family,
    };
    let service = services.get(&key).or_else(|| {
        key.port = [0; 2];
        services.get(&key)
    })?;
    if service.flags & PERSISTENT == 0 {
        return None;
    }
    let mut client = flow.client;
    client.iter_mut().zip(service.mask).for_each(|(byte, mask)| *byte &= mask);
    Some(Flow { client, client_port: [0; 2], vip_port: service.port, ..*flow })
}
