//! What is measured: a workload, by so many clients, with TLS or without.

use crate::load::Workload;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    pub workload: Workload,
    pub clients: usize,
    pub tls: bool,
}

/// Simultaneous clients, where nothing else is asked for.
const CLIENTS: usize = 16;
/// Large results keep a core busy each.
const LARGE_CLIENTS: usize = 2;
/// One that reads much, and those beside it.
const BESIDE: usize = 1 + 100;

impl Scenario {
    pub fn name(&self) -> String {
        let tls = if self.tls { ", TLS" } else { "" };
        let clients = if self.clients == 1 { "client" } else { "clients" };
        format!("{}, {} {clients}{tls}", self.workload.name(), self.clients)
    }

    fn plain(workload: Workload) -> Self {
        let clients = match workload {
            Workload::BesideManyRows => BESIDE,
            _ if workload.is_large() => LARGE_CLIENTS,
            _ => CLIENTS,
        };
        Self { workload, clients, tls: false }
    }

    /// Within a minute: the four kinds that matter most.
    pub fn quick() -> Vec<Self> {
        use Workload::{PhpRequest, PreparedReadOnly, TextReadWrite, TextSelect};
        [TextSelect, PreparedReadOnly, TextReadWrite, PhpRequest].map(Self::plain).to_vec()
    }

    /// What consists of small queries, once.
    pub fn small() -> Vec<Self> {
        let small = Workload::ALL.into_iter().filter(|w| !w.is_large());
        small.filter(|w| *w != Workload::BesideManyRows).map(Self::plain).collect()
    }

    /// Everything once, and what is most common with few clients, with many, and with TLS.
    pub fn usual() -> Vec<Self> {
        let mut all: Vec<_> = Workload::ALL.map(Self::plain).to_vec();
        for clients in [1, 64, 256] {
            all.push(Self { clients, ..Self::plain(Workload::TextSelect) });
        }
        for workload in [Workload::TextSelect, Workload::PhpRequest, Workload::ManyRows] {
            all.push(Self { tls: true, ..Self::plain(workload) });
        }
        all
    }

    /// Every workload by each number of clients, with TLS and without.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for workload in Workload::ALL {
            let numbers: &[usize] = match workload {
                Workload::BesideManyRows => &[BESIDE],
                _ if workload.is_large() => &[1, 2],
                _ => &[1, 16, 64, 256],
            };
            for &clients in numbers {
                for tls in [false, true] {
                    all.push(Self { workload, clients, tls });
                }
            }
        }
        all
    }
}
