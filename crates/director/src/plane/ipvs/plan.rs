//! From what the kernel serves to what it is to serve. Pure.
//!
//! What is there already is kept and changed in place, whoever put it there: a service that
//! keepalived or an earlier run left keeps its connections. What is there and was not asked for is
//! none of ours, unless this run asked for it before.

use std::collections::HashSet;

use super::message::{Command, Destination, FALLBACK, ONE_PACKET, PERSISTENT, Service, WITH_PORT};
use crate::config::Scheduler;
use crate::plane::{self, Takes};

/// A service and its real servers: as wanted, or as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub service: Service,
    pub destinations: Vec<Destination>,
}

/// IPVS's default, which is not zero even without persistence.
const DEFAULT_TIMEOUT: u32 = 0;

/// What is wanted, in the kernel's terms. Schedulers in `missing` are replaced by `wlc`.
pub(crate) fn wanted(services: &[plane::Service], missing: &HashSet<Scheduler>) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for service in services {
        // A second one for the same packets would only undo the first, each time.
        if tables.iter().any(|t| t.service.takes == service.takes) {
            continue;
        }
        let whole = if service.takes.is_ipv6() { 128 } else { 32 };
        let scheduler =
            if missing.contains(&service.scheduler) { Scheduler::Wlc } else { service.scheduler };
        let mut flags = 0;
        for (on, flag) in [
            (service.persistence.is_some(), PERSISTENT),
            (service.one_packet, ONE_PACKET),
            (service.hash.fallback, FALLBACK),
            (service.hash.port, WITH_PORT),
        ] {
            flags |= if on { flag } else { 0 };
        }
        let mut destinations: Vec<Destination> = Vec::new();
        for target in &service.targets {
            let destination = Destination {
                address: target.address,
                forwarding: Some(target.forwarding),
                weight: target.weight,
                upper: target.upper,
                lower: target.lower,
            };
            // The sorry server may be one of the real servers: what is said last counts.
            match destinations.iter_mut().find(|d| d.address == target.address) {
                Some(known) => *known = destination,
                None => destinations.push(destination),
            }
        }
        tables.push(Table {
            service: Service {
                takes: service.takes,
                scheduler: scheduler.name().to_owned(),
                flags,
                timeout: service.persistence.map_or(DEFAULT_TIMEOUT, seconds),
                prefix: service.persistence.map_or(whole, |p| p.prefix.clamp(1, whole)),
            },
            destinations,
        });
    }
    tables
}

/// Whole ones, at least one: the kernel takes zero for "not persistent".
fn seconds(persistence: plane::Persistence) -> u32 {
    let timeout = persistence.timeout;
    let whole = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    u32::try_from(whole).unwrap_or(u32::MAX).max(1)
}

/// The commands that lead from what the kernel has to what is wanted. `ours`: asked for before, so
/// that it goes if it is not wanted any more.
pub(crate) fn commands(wanted: &[Table], kernel: &[Table], ours: &HashSet<Takes>) -> Vec<Command> {
    let mut commands = Vec::new();
    for table in wanted {
        let takes = table.service.takes;
        let there = kernel.iter().find(|t| t.service.takes == takes);
        match there {
            None => commands.push(Command::NewService(table.service.clone())),
            Some(there) if same(&there.service, &table.service) => {}
            Some(_) => commands.push(Command::SetService(table.service.clone())),
        }
        let known = there.map_or(&[][..], |t| &t.destinations);
        for destination in &table.destinations {
            match known.iter().find(|d| d.address == destination.address) {
                None => commands.push(Command::NewDestination(takes, *destination)),
                Some(there) if there == destination => {}
                Some(_) => commands.push(Command::SetDestination(takes, *destination)),
            }
        }
        // Last, so that there is never none while there is to be one.
        for there in known {
            if !table.destinations.iter().any(|d| d.address == there.address) {
                commands.push(Command::DeleteDestination(takes, there.address));
            }
        }
    }
    for there in kernel {
        let takes = there.service.takes;
        if ours.contains(&takes) && !wanted.iter().any(|t| t.service.takes == takes) {
            commands.push(Command::DeleteService(takes));
        }
    }
    commands
}

/// Of a service without persistence, the kernel may say any timeout and mask.
fn same(there: &Service, wanted: &Service) -> bool {
    let persistent = wanted.flags & PERSISTENT != 0;
    (&there.scheduler, there.flags) == (&wanted.scheduler, wanted.flags)
        && (!persistent || (there.timeout, there.prefix) == (wanted.timeout, wanted.prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Forwarding, HashOptions, Protocol};
    use crate::plane::{Persistence, Target};
    use std::net::SocketAddr;
    use std::time::Duration;

    fn takes(last: u8) -> Takes {
        let vip = SocketAddr::from(([10, 0, 0, last], 80));
        Takes::Address { vip, protocol: Protocol::Tcp }
    }

    fn target(last: u8, weight: u32) -> Target {
        let address = SocketAddr::from(([10, 0, 1, last], 80));
        Target { address, forwarding: Forwarding::Nat, weight, upper: 0, lower: 0 }
    }

    fn service(last: u8, targets: &[Target]) -> plane::Service {
        plane::Service {
            takes: takes(last),
            scheduler: Scheduler::Wrr,
            hash: HashOptions::default(),
            persistence: None,
            one_packet: false,
            targets: targets.to_vec(),
        }
    }

    fn tables(services: &[plane::Service]) -> Vec<Table> {
        wanted(services, &HashSet::new())
    }

    /// What the kernel has after `commands`.
    fn run(mut kernel: Vec<Table>, commands: &[Command]) -> Vec<Table> {
        fn at(kernel: &mut [Table], takes: Takes) -> &mut Table {
            kernel.iter_mut().find(|t| t.service.takes == takes).unwrap()
        }
        for command in commands.iter().cloned() {
            match command {
                Command::NewService(service) => {
                    assert!(kernel.iter().all(|t| t.service.takes != service.takes));
                    kernel.push(Table { service, destinations: Vec::new() });
                }
                Command::SetService(service) => {
                    let table = at(&mut kernel, service.takes);
                    table.service = service;
                }
                Command::DeleteService(takes) => kernel.retain(|t| t.service.takes != takes),
                Command::NewDestination(takes, destination) => {
                    let table = at(&mut kernel, takes);
                    assert!(table.destinations.iter().all(|d| d.address != destination.address));
                    table.destinations.push(destination);
                }
                Command::SetDestination(takes, destination) => {
                    let all = &mut at(&mut kernel, takes).destinations;
                    *all.iter_mut().find(|d| d.address == destination.address).unwrap() =
                        destination;
                }
                Command::DeleteDestination(takes, address) => {
                    let all = &mut at(&mut kernel, takes).destinations;
                    assert!(all.iter().any(|d| d.address == address));
                    all.retain(|d| d.address != address);
                }
                Command::Flush => kernel.clear(),
            }
        }
        kernel
    }

    fn sorted(mut tables: Vec<Table>) -> Vec<Table> {
        tables.sort_by_key(|t| format!("{:?}", t.service.takes));
        tables.iter_mut().for_each(|t| t.destinations.sort_by_key(|d| d.address));
        tables
    }

    #[test]
    fn what_is_there_is_kept_and_what_is_foreign_left_alone() {
        let foreign = tables(&[service(9, &[target(1, 1)])]);
        let before = tables(&[service(1, &[target(1, 1), target(2, 1)])]);
        let kernel = [foreign, before].concat();
        let after = tables(&[service(1, &[target(2, 0), target(3, 1)])]);
        let add = match after[0].destinations[..] {
            [drained, added] => [
                Command::SetDestination(takes(1), drained),
                Command::NewDestination(takes(1), added),
                Command::DeleteDestination(takes(1), target(1, 1).address),
            ],
            _ => panic!("{after:?}"),
        };
        assert_eq!(commands(&after, &kernel, &HashSet::new()), add);
        assert_eq!(commands(&after, &after, &HashSet::new()), []);
    }

    #[test]
    fn only_what_was_asked_for_before_is_removed() {
        let kernel = tables(&[service(1, &[]), service(9, &[])]);
        let ours = HashSet::from([takes(1)]);
        assert_eq!(commands(&[], &kernel, &ours), [Command::DeleteService(takes(1))]);
    }

    #[test]
    fn timeouts_without_persistence_say_nothing() {
        let want = tables(&[service(1, &[])]);
        let mut kernel = want.clone();
        (kernel[0].service.timeout, kernel[0].service.prefix) = (360, 0);
        assert_eq!(commands(&want, &kernel, &HashSet::new()), []);
        let mut sticky = service(1, &[]);
        sticky.persistence = Some(Persistence { timeout: Duration::from_millis(500), prefix: 24 });
        let want = tables(&[sticky]);
        assert_eq!((want[0].service.timeout, want[0].service.prefix), (1, 24));
        let set = Command::SetService(want[0].service.clone());
        assert_eq!(commands(&want, &kernel, &HashSet::new()), [set]);
    }

    #[test]
    fn what_the_kernel_lacks_is_served_by_wlc() {
        let table = wanted(&[service(1, &[])], &HashSet::from([Scheduler::Wrr]));
        assert_eq!(table[0].service.scheduler, "wlc");
    }

    proptest::proptest! {
        #[test]
        fn whatever_was_there_what_is_wanted_comes_of_it(
            before in proptest::collection::vec(
                (1u8..5, proptest::collection::vec((1u8..6, 0u32..3), 0..6)), 0..5),
            after in proptest::collection::vec(
                (1u8..5, proptest::collection::vec((1u8..6, 0u32..3), 0..6)), 0..5),
        ) {
            let of = |list: &[(u8, Vec<(u8, u32)>)]| {
                let services: Vec<plane::Service> = list
                    .iter()
                    .map(|(last, targets)| {
                        let targets: Vec<Target> =
                            targets.iter().map(|&(last, weight)| target(last, weight)).collect();
                        service(*last, &targets)
                    })
                    .collect();
                tables(&services)
            };
            let (kernel, want) = (of(&before), of(&after));
            let ours = kernel.iter().map(|t| t.service.takes).collect();
            let done = run(kernel.clone(), &commands(&want, &kernel, &ours));
            proptest::prop_assert_eq!(sorted(done), sorted(want));
        }
    }
}
