//! The eBPF program in the kernel: loading it, attaching it, its tables.

use std::io;
use std::os::fd::AsFd;

use aya::maps::Map;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};

use super::layout::{
    Connection, Counters, Flow, LinkValue, Load, Name, RealValue, ServiceKey, ServiceValue,
    Template,
};
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
    pub links: Table<u32, LinkValue>,
    pub connections: Table<Flow, Connection>,
    pub begun: Table<Flow, Connection>,
    pub templates: Table<Flow, Template>,
}

/// The loaded program; it stays attached as long as this lives.
pub(crate) struct Program {
    pub ebpf: Ebpf,
    pub tables: Tables,
}

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
    /// Loads it, attached nowhere yet.
    pub fn load() -> io::Result<Self> {
        let ebpf = EbpfLoader::new().load(OBJECT).map_err(other)?;
        let tables = Tables {
            services: table(&ebpf, "services")?,
            slots: table(&ebpf, "slots")?,
            reals: table(&ebpf, "reals")?,
            names: table(&ebpf, "names")?,
            loads: table(&ebpf, "loads")?,
            statistics: table(&ebpf, "statistics")?,
            links: table(&ebpf, "links")?,
            connections: table(&ebpf, "connections")?,
            begun: table(&ebpf, "begun")?,
            templates: table(&ebpf, "templates")?,
        };
        let mut program = Self { ebpf, tables };
        program.classifier()?.load().map_err(other)?;
        Ok(program)
    }

    pub fn classifier(&mut self) -> io::Result<&mut SchedClassifier> {
        let name = "direct_routing";
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
            // There already is fine.
            let _ = tc::qdisc_add_clsact(interface);
            program.attach(interface, TcAttachType::Ingress)
        };
        attached.map(drop).map_err(|e| io::Error::other(format!("attaching to {interface}: {e}")))
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
