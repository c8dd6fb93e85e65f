//! The kernel's own load balancer as a data plane: direct routing, tunnels and NAT.

pub mod message;
mod plan;
mod socket;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use self::message::{Command, Counts};
use self::socket::Ipvs;
use super::{DataPlane, Service, Takes, Traffic};
use crate::config::{Forwarding, OnStop, Scheduler};

pub(crate) struct IpvsPlane {
    kernel: Ipvs,
    /// What this run asked the kernel for.
    ours: HashSet<Takes>,
    /// Schedulers that this kernel turned out not to have.
    missing: HashSet<Scheduler>,
    on_stop: OnStop,
}

/// How it is to be run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Remove what others left, and with it their connections.
    pub flush: bool,
    pub on_stop: OnStop,
}

impl IpvsPlane {
    /// # Errors
    /// The kernel has no IPVS (`NotFound`), or we may not use it.
    pub fn open(options: Options) -> io::Result<Self> {
        let mut kernel = Ipvs::open()?;
        if options.flush {
            kernel.change(&Command::Flush)?;
        }
        let (ours, missing) = Default::default();
        Ok(Self { kernel, ours, missing, on_stop: options.on_stop })
    }

    fn reconcile(&mut self, services: &[Service]) -> io::Result<()> {
        let wanted = plan::wanted(services, &self.missing);
        let kernel = self.kernel.tables()?;
        let commands = plan::commands(&wanted, &kernel, &self.ours);
        self.ours.extend(wanted.iter().map(|t| t.service.takes));
        let mut result = Ok(());
        for command in commands {
            let Err(error) = self.kernel.change(&command) else { continue };
            if let Command::NewService(asked) | Command::SetService(asked) = &command
                && error.raw_os_error() == Some(libc::ENOENT)
                && let Some(s) = services.iter().find(|s| s.takes == asked.takes)
                && s.scheduler != Scheduler::Wlc
            {
                self.missing.insert(s.scheduler);
            }
            result = Err(io::Error::new(error.kind(), format!("{}: {error}", told(&command))));
        }
        self.ours.retain(|t| wanted.iter().any(|w| w.service.takes == *t));
        result
    }
}

/// What a command was for, for an error.
fn told(command: &Command) -> String {
    let scheduler = |s: &message::Service| format!("{} with {}", s.takes, s.scheduler);
    match command {
        Command::NewService(s) => format!("adding {}", scheduler(s)),
        Command::SetService(s) => format!("changing {}", scheduler(s)),
        Command::DeleteService(takes) => format!("removing {takes}"),
        Command::NewDestination(takes, d) => format!("{takes}: adding {}", d.address),
        Command::SetDestination(takes, d) => format!("{takes}: changing {}", d.address),
        Command::DeleteDestination(takes, address) => format!("{takes}: removing {address}"),
        Command::Flush => "flushing".to_owned(),
    }
}

impl DataPlane for IpvsPlane {
    fn name(&self) -> &'static str {
        "ipvs"
    }

    fn apply(&mut self, services: &[Service]) -> io::Result<()> {
        let lacked = self.missing.clone();
        // The second time for what somebody else changed between our look and our change, and for
        // schedulers that the kernel lacks.
        let result = self.reconcile(services).or_else(|_| self.reconcile(services));
        let mut lacking: Vec<&str> =
            self.missing.difference(&lacked).map(|scheduler| scheduler.name()).collect();
        lacking.sort_unstable();
        if result.is_ok() && !lacking.is_empty() {
            let text = format!("this kernel has no {}: served as wlc", lacking.join(", "));
            return Err(io::Error::other(text));
        }
        result
    }

    fn traffic(&mut self, service: &Service) -> Vec<Traffic> {
        let known = self.kernel.destinations(service.takes).unwrap_or_default();
        let of = |address: SocketAddr| known.iter().find(|(d, _)| d.address == address);
        let targets = service.targets.iter();
        targets.map(|t| of(t.address).map_or(Traffic::default(), |(_, c)| traffic(*c))).collect()
    }

    fn doubts(&mut self, services: &[Service]) -> Vec<String> {
        let mut doubts = Vec::new();
        for table in self.kernel.tables().unwrap_or_default() {
            let takes = table.service.takes;
            if !self.ours.contains(&takes) && services.iter().all(|s| s.takes != takes) {
                doubts.push(format!(
                    "the kernel also serves {takes}, which this configuration does not name: \
                     left as it is"
                ));
            }
        }
        for (i, service) in services.iter().enumerate() {
            if services[..i].iter().any(|s| s.takes == service.takes) {
                doubts.push(format!("{} is there twice: the first one counts", service.takes));
            }
        }
        for (ipv6, file) in [
            (false, "/proc/sys/net/ipv4/ip_forward"),
            (true, "/proc/sys/net/ipv6/conf/all/forwarding"),
        ] {
            let needs = |s: &Service| s.takes.is_ipv6() == ipv6 && has_nat(s);
            let off = std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "0");
            if off && services.iter().any(needs) {
                doubts.push(format!("NAT needs this host to forward, and {file} is 0"));
            }
        }
        doubts
    }

    fn end(&mut self) {
        let result = match self.on_stop {
            OnStop::Keep => Ok(()),
            OnStop::Remove => self.reconcile(&[]),
            OnStop::Flush => self.kernel.change(&Command::Flush),
        };
        if let Err(error) = result {
            tracing::warn!("what IPVS served is still there: {error}");
        }
    }
}

fn has_nat(service: &Service) -> bool {
    service.targets.iter().any(|t| t.forwarding == Forwarding::Nat)
}

fn traffic(counts: Counts) -> Traffic {
    Traffic {
        packets: counts.packets,
        bytes: counts.bytes,
        connections: counts.connections,
        active: counts.active.into(),
        inactive: counts.inactive.into(),
    }
}
