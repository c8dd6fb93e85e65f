//! The thread that looks after the connection table: ends what time ends, puts right what the program
//! counts, shares connections with the peer, and keeps the MACs of real servers for XDP.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};

use super::layout::{
    Connection, DATAGRAM, ESTABLISHED, Event, Flow, Load, Name, PERSISTENT, REAL_LOCAL, REAL_MAC,
    RealValue, SYN_RECV, ServiceKey, ServiceValue, Template, address,
};
use super::neighbours;
use super::program::Tables;
use super::sweep::Sweep;
use super::sync::{Message, Peers, Record};
use crate::sys::bpf::Table;
use crate::sys::link::Links;
use crate::sys::{monotonic, netlink, wait_readable};

/// How often the table is walked, at best.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A walk may take this part of the time.
const SWEEP_SHARE: u32 = 20;
/// Events are gathered for so long: what a director takes with it when it dies.
const GATHER: Duration = Duration::from_millis(5);
/// Events told in a row, before the peer is listened to.
const MOST_EVENTS: usize = 4096;
/// All connections are told at most so often, whoever asks.
const TELL_ALL_EVERY: Duration = Duration::from_secs(2);
/// A connection whose packets came here so recently, in ns, is ours to tell of.
const OURS_FOR: u64 = 5_000_000_000;

/// Who is who in the tables.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub indexes: HashMap<Name, u32>,
    names: HashMap<u32, Name>,
    /// By index.
    pub generations: HashMap<u32, u32>,
    pub services: HashMap<ServiceKey, ServiceValue>,
}

impl Registry {
    pub fn insert(&mut self, name: Name, index: u32, generation: u32) {
        self.indexes.insert(name, index);
        self.names.insert(index, name);
        self.generations.insert(index, generation);
    }

    /// Gives its generation.
    pub fn remove(&mut self, name: &Name) -> Option<u32> {
        let index = self.indexes.remove(name)?;
        self.names.remove(&index);
        self.generations.remove(&index)
    }

    fn is_current(&self, connection: &Connection) -> bool {
        self.generations.get(&connection.real) == Some(&connection.generation)
    }

    /// The real server of a flow, whose service may be for all ports.
    fn server(&self, record: &Record) -> Option<(u32, u32)> {
        let flow = &record.flow;
        [flow.vip_port, [0; 2]].into_iter().find_map(|port| {
            let service =
                ServiceKey { vip: flow.vip, port, protocol: flow.protocol, family: flow.family };
            let (ip, port, family) = (record.ip, record.port, flow.family);
            let index = *self.indexes.get(&Name { service, ip, port, family, pad: 0 })?;
            Some((index, *self.generations.get(&index)?))
        })
    }
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

/// Telling the peer, and hearing it.
pub(crate) struct Sharing {
    peers: Peers,
    events: RingBuf<MapData>,
    /// When all was told last.
    told_all: Option<Instant>,
}

impl Sharing {
    pub fn new(peers: Peers, events: RingBuf<MapData>) -> Self {
        Self { peers, events, told_all: None }
    }
}

pub(crate) struct Keeper {
    connections: Table<Flow, Connection>,
    begun: Table<Flow, Connection>,
    loads: Table<u32, Load>,
    templates: Table<Flow, Template>,
    registry: SharedRegistry,
    sharing: Option<Sharing>,
    /// To be kept informed of the MACs of real servers, if XDP is attached.
    macs: Option<(Table<u32, RealValue>, netlink::Socket)>,
}

impl Keeper {
    pub fn new(
        tables: &Tables,
        registry: SharedRegistry,
        sharing: Option<Sharing>,
        xdp: bool,
    ) -> io::Result<Self> {
        let macs =
            if xdp { Some((tables.reals.try_clone()?, netlink::Socket::route()?)) } else { None };
        Ok(Self {
            sharing,
            macs,
            connections: tables.connections.try_clone()?,
            begun: tables.begun.try_clone()?,
            loads: tables.loads.try_clone()?,
            templates: tables.templates.try_clone()?,
            registry,
        })
    }

    fn run(mut self, stopped: &UnixStream) {
        let mut next = Instant::now();
        let mut complained = false;
        if let Some(sharing) = &mut self.sharing {
            sharing.peers.send(&Message::Hello);
        }
        loop {
            if Instant::now() >= next {
                let began = Instant::now();
                let result = self.sweep().and_then(|()| self.put_macs());
                if let Err(error) = result
                    && !complained
                {
                    tracing::warn!("connections can't be counted or ended by time: {error}");
                    complained = true;
                }
                next = Instant::now() + SWEEP_EVERY.max(began.elapsed() * SWEEP_SHARE);
            }
            if !self.wait(stopped, next.saturating_duration_since(Instant::now())) {
                return;
            }
            if let Err(error) = self.share() {
                tracing::debug!("sharing connections: {error}");
            }
        }
    }

    /// False: stop.
    fn wait(&self, stopped: &UnixStream, limit: Duration) -> bool {
        let mut fds = vec![stopped.as_fd()];
        fds.extend(self.sharing.iter().map(|s| s.events.as_fd()));
        fds.extend(self.sharing.iter().flat_map(|s| s.peers.fds()));
        match wait_readable(&fds, Some(limit)) {
            Ok(ready) if ready[0] => return false,
            Ok(_) => {}
            Err(_) => return false,
        }
        if self.sharing.is_some() {
            // Events that come together go into one datagram.
            match wait_readable(&[stopped.as_fd()], Some(limit.min(GATHER))) {
                Ok(ready) => return !ready[0],
                Err(_) => return false,
            }
        }
        true
    }

    /// Tells what happened here, and takes what the peer tells.
    fn share(&mut self) -> io::Result<()> {
        let Some(mut sharing) = self.sharing.take() else { return Ok(()) };
        let mut records = Vec::new();
        {
            let registry = lock(&self.registry);
            while records.len() < MOST_EVENTS
                && let Some(item) = sharing.events.next()
            {
                if let Some(event) = Event::read(&item)
                    && registry.is_current(&event.connection)
                    && let Some(name) = registry.names.get(&event.connection.real)
                {
                    records.push(Record::new(&event.flow, &event.connection, name));
                }
            }
        }
        sharing.peers.send_all(&records);
        let mut result = Ok(());
        for message in sharing.peers.receive() {
            result = result.and(match message {
                Message::Hello => self.tell_all(&mut sharing),
                Message::Flows(records) => self.learn(&records),
            });
        }
        self.sharing = Some(sharing);
        result
    }

    fn tell_all(&self, sharing: &mut Sharing) -> io::Result<()> {
        if sharing.told_all.is_some_and(|at| at.elapsed() < TELL_ALL_EVERY) {
            return Ok(());
        }
        sharing.told_all = Some(Instant::now());
        let mut records = Vec::new();
        {
            let registry = lock(&self.registry);
            for table in [&self.connections, &self.begun] {
                table.each(|flow, connection| {
                    if connection.state != SYN_RECV
                        && registry.is_current(connection)
                        && let Some(name) = registry.names.get(&connection.real)
                    {
                        records.push(Record::new(flow, connection, name));
                    }
                })?;
            }
        }
        sharing.peers.send_all(&records);
        Ok(())
    }

    /// What the peer says counts, unless the connection's packets come here.
    fn learn(&self, records: &[Record]) -> io::Result<()> {
        let registry = lock(&self.registry);
        let now = monotonic();
        for record in records {
            let Some((real, generation)) = registry.server(record) else { continue };
            let table = if record.state == DATAGRAM { &self.begun } else { &self.connections };
            if let Some(known) = table.get(&record.flow)?
                && known.heard == 0
                && registry.is_current(&known)
                && now.saturating_sub(known.seen) < OURS_FOR
            {
                continue;
            }
            let (state, heard) = (record.state, 1);
            let told = now;
            let connection = Connection { real, generation, state, heard, seen: now, told };
            table.set(&record.flow, &connection)?;
        }
        Ok(())
    }

    /// XDP sends by itself to those whose MAC is known.
    fn put_macs(&mut self) -> io::Result<()> {
        let Some((reals, socket)) = &mut self.macs else { return Ok(()) };
        let known = neighbours::read(socket)?;
        let links = Links::read(socket)?;
        let registry = lock(&self.registry);
        for index in registry.generations.keys() {
            let Some(before) = reals.get(index)? else { continue };
            let ip = address(before.ip, before.family);
            if before.flags & REAL_LOCAL != 0 {
                continue;
            }
            // An entry that can't be had now is asked for again in a second.
            let _ = neighbours::refresh(socket, &known, before.interface, ip);
            let mac = known.get(&(before.interface, ip)).and_then(|n| n.mac);
            let after = match (mac, links.mac(before.interface)) {
                (Some(mac), Some(source)) => {
                    RealValue { mac, source, flags: before.flags | REAL_MAC, ..before }
                }
                _ => RealValue { flags: before.flags & !REAL_MAC, ..before },
            };
            if before != after {
                reals.set(index, &after)?;
            }
        }
        Ok(())
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
