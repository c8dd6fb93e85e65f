//! The eBPF program in the kernel: loading it, attaching it, its tables.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::tc::TcAttachOptions;
use aya::programs::xdp::XdpMode;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, TestRun, TestRunOptions, Xdp, tc};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};

use super::layout::{
    Connection, Counters, Flow, LinkValue, Load, Moment, Name, RealValue, ServiceKey, ServiceValue,
    Settings, Template,
};
use super::pins::PINNED;
use crate::sys::bpf::{Plain, Table};

/// Built by `bpf/build.sh`; a test builds it again and compares.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/direct_routing.bpf.o");

/// Handles on all tables. They live as long as one handle does, or the program.
#[derive(Debug)]
pub(crate) struct Tables {
    pub services: Table<ServiceKey, ServiceValue>,
    pub slots: Table<u32, u32>,
    pub reals: Table<u32, RealValue>,
    pub names: Table<u32, Name>,
    pub loads: Table<u32, Load>,
    /// One for each processor.
    pub statistics: Table<u32, Counters>,
    pub settings: Table<u32, Settings>,
    pub clock: Table<u32, Moment>,
    /// By hash: whether there may be such a virtual address.
    pub addresses: Table<u32, u32>,
    pub links: Table<u32, LinkValue>,
    pub connections: Table<Flow, Connection>,
    pub begun: Table<Flow, Connection>,
    pub templates: Table<Flow, Template>,
}

/// The loaded program; it stays attached as long as this lives.
pub(crate) struct Program {
    pub ebpf: Ebpf,
    pub tables: Tables,
    /// Connections that began or ended.
    pub events: Option<RingBuf<MapData>>,
}

/// A run that was killed keeps its program for a moment through its guard; on XDP there is room for
/// one.
const XDP_PATIENCE: Duration = Duration::from_secs(4);

/// With what is behind it: aya tells the reason in the source of its errors.
pub(crate) fn other(error: impl std::error::Error) -> io::Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    io::Error::other(text)
}

impl Program {
    /// Loads it, attached nowhere yet, with the tables pinned in `directory`, if there are any.
    pub fn load(directory: Option<&PathBuf>) -> io::Result<Self> {
        let mut loader = EbpfLoader::new();
        if let Some(directory) = directory {
            for name in PINNED {
                loader.map_pin_path(name, directory.join(name));
            }
        }
        let mut ebpf = loader.load(OBJECT).map_err(other)?;
        let tables = Tables {
            services: table(&ebpf, "services")?,
            slots: table(&ebpf, "slots")?,
            reals: table(&ebpf, "reals")?,
            names: table(&ebpf, "names")?,
            loads: table(&ebpf, "loads")?,
            statistics: table(&ebpf, "statistics")?,
            settings: table(&ebpf, "settings")?,
            clock: table(&ebpf, "clock")?,
            addresses: table(&ebpf, "addresses")?,
            links: table(&ebpf, "links")?,
            connections: table(&ebpf, "connections")?,
            begun: table(&ebpf, "begun")?,
            templates: table(&ebpf, "templates")?,
        };
        let events = ebpf.take_map("events").ok_or_else(|| missing("events"))?;
        let events = Some(RingBuf::try_from(events).map_err(other)?);
        let mut program = Self { ebpf, tables, events };
        program.classifier()?.load().map_err(other)?;
        Ok(program)
    }

    pub fn classifier(&mut self) -> io::Result<&mut SchedClassifier> {
        self.named("direct_routing")
    }

    /// Runs the program on a packet of our own, attached nowhere: so long it takes.
    pub fn measure(
        &mut self,
        name: &'static str,
        packet: &[u8],
        repeat: u32,
    ) -> io::Result<Duration> {
        let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() };
        let result = if name == "direct_routing_xdp" {
            self.xdp()?.test_run(options)
        } else {
            self.named(name)?.test_run(options)
        };
        Ok(result.map_err(other)?.duration)
    }

    /// One moment on the kernel's clocks.
    pub fn read_clock(&mut self) -> io::Result<Moment> {
        self.named("read_clock")?.load().map_err(other)?;
        self.measure("read_clock", &[0; 64], 1)?;
        self.tables.clock.get(&0)?.ok_or_else(|| missing("clock"))
    }

    pub fn named(&mut self, name: &'static str) -> io::Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        program.try_into().map_err(other)
    }

    /// On what comes in at `interface`.
    pub fn attach_tc(&mut self, interface: &str) -> io::Result<()> {
        let program = self.classifier()?;
        let attached = if has_tcx() {
            // Before the one of a run that just ended, which its guard keeps for a moment.
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            program.attach_with_options(interface, TcAttachType::Ingress, order)
        } else {
            // There already is fine, and that of a run that was killed goes.
            let _ = tc::qdisc_add_clsact(interface);
            let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, "direct_routing");
            program.attach(interface, TcAttachType::Ingress)
        };
        attached.map(drop).map_err(|e| io::Error::other(format!("attaching to {interface}: {e}")))
    }

    pub fn xdp(&mut self) -> io::Result<&mut Xdp> {
        let name = "direct_routing_xdp";
        let program = self.ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        program.try_into().map_err(other)
    }

    /// Before anything else sees a packet; `generic`: after the driver.
    pub fn attach_xdp(&mut self, interfaces: &[String], generic: bool) -> io::Result<()> {
        let mode = if generic { XdpMode::Skb } else { XdpMode::Driver };
        let program = self.xdp()?;
        program.load().map_err(other)?;
        let patience = Instant::now() + XDP_PATIENCE;
        for interface in interfaces {
            while let Err(error) = program.attach(interface, mode) {
                if Instant::now() >= patience {
                    let text = format!("attaching XDP to {interface}: {}", other(error));
                    return Err(io::Error::other(text));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::other(format!("the eBPF object has no {name}"))
}

/// A handle on a table, whose keys and values must have the sizes of the object's.
fn table<K: Plain, V: Plain>(ebpf: &Ebpf, name: &str) -> io::Result<Table<K, V>> {
    let map = ebpf.map(name).ok_or_else(|| missing(name))?;
    let (Map::Array(data) | Map::PerCpuArray(data) | Map::HashMap(data) | Map::LruHashMap(data)) =
        map
    else {
        return Err(missing(name));
    };
    let info = data.info().map_err(other)?;
    let sizes = (info.key_size() as usize, info.value_size() as usize);
    if sizes != (size_of::<K>(), size_of::<V>()) {
        return Err(io::Error::other(format!("table {name} is of another layout: {sizes:?}")));
    }
    Table::new(data.fd().as_fd())
}

/// Since Linux 6.6 programs on tc have an order of their own.
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0))
}
