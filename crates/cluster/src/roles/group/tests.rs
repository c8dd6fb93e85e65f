//! Members of a cluster, as the monitor sees them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::gtid::Flavour;
use crate::member::{GroupLine, Service};
use crate::probe::{Look, Report};
use crate::roles::{Member, Settings};

const TIMEOUT: Duration = Duration::from_secs(2);

struct World {
    topology: Topology,
    now: Instant,
    members: Vec<Option<Membership>>,
    seqno: u64,
}

fn galera(view: u64) -> Membership {
    let mut member = Membership::galera(|_| None);
    member.cluster = "c".into();
    (member.state, member.service, member.quorum) = ("Synced".into(), Service::Full, true);
    (member.view, member.size) = ((0, view), 3);
    member
}

fn group(own: usize, states: [&str; 3], primary: usize, view: u64) -> Membership {
    let lines: Vec<_> = (0..3)
        .map(|i| GroupLine {
            id: format!("m{i}"),
            state: states[i].to_owned(),
            role: if i == primary { "PRIMARY" } else { "SECONDARY" }.to_owned(),
            view: format!("17:{view}"),
            queue: 0,
        })
        .collect();
    Membership::group(&format!("m{own}"), "g", true, &lines)
}

impl World {
    fn new(first_writes: bool, members: Vec<Option<Membership>>) -> Self {
        let settings = Settings {
            timeout: TIMEOUT,
            max_lag: Duration::from_secs(10),
            donors: false,
            first_writes,
        };
        let now = Instant::now();
        let servers = (1..=members.len()).map(|n| Member {
            name: format!("db{n}").into(),
            address: format!("10.0.0.1:{n}").into(),
            weight: 1,
            promote: true,
        });
        let topology = Topology::new(settings, servers.collect(), now);
        Self { topology, now, members, seqno: 7 }
    }

    /// Looks at all for `time`; those that are `None` refuse connections. Whoever has to prove that
    /// it has caught up does so if `proves` says so.
    fn run_with(&mut self, time: Duration, proves: impl Fn(usize) -> bool) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(50);
            for (i, member) in self.members.iter().enumerate() {
                let look = match member {
                    None => Look::Refused("nobody listens there".to_owned()),
                    Some(member) => {
                        let position = Position::Number(self.seqno);
                        let galera = member.kind == Kind::Galera;
                        let none = || Position::empty(Flavour::MySql);
                        Look::Answer(Box::new(Report {
                            flavour: if galera { Flavour::MariaDb } else { Flavour::MySql },
                            server_id: u32::try_from(i).unwrap() + 1,
                            read_only: member.elected == Some(false),
                            disk_full: false,
                            version: "10.11.6-MariaDB".into(),
                            collation: 45,
                            autocommit: true,
                            logs_rows: false,
                            gtid_mode: "".into(),
                            committed: if galera { position.clone() } else { none() },
                            state: "".into(),
                            applied: if galera { position } else { none() },
                            channels: Vec::new(),
                            membership: Some(member.clone()),
                            connection: 1,
                        }))
                    }
                };
                let id = id_of(i);
                self.topology.handle_look(id, self.now, look, self.now);
                self.topology.evaluate(self.now);
                if proves(i)
                    && let Some(era) = self.topology.wants_proof(id)
                {
                    self.topology.handle_proof(id, era);
                }
                self.topology.evaluate(self.now);
            }
        }
    }

    fn run(&mut self) {
        self.run_with(Duration::from_secs(1), |_| true);
    }

    fn primary(&self) -> Option<&str> {
        self.topology.snapshot().primary().map(|server| &*server.name)
    }

    fn readers(&self) -> Vec<&str> {
        let servers = self.topology.snapshot().servers.iter();
        servers.filter(|server| server.takes_reads).map(|server| &*server.name).collect()
    }

    fn why(&self, i: usize) -> Arc<str> {
        self.topology.snapshot().servers[i].why.clone()
    }
}

fn three() -> Vec<Option<Membership>> {
    vec![Some(galera(3)); 3]
}

#[test]
fn the_first_writes_and_the_others_are_read() {
    let mut world = World::new(false, three());
    world.run();
    assert_eq!(world.primary(), Some("db1"));
    assert_eq!(world.readers(), ["db2", "db3"]);
    assert!(world.why(0).contains("Synced"), "{}", world.why(0));
    assert_eq!(world.topology.snapshot().group, Some(Kind::Galera));
}

#[test]
fn it_does_not_flap_back_unless_told_to() {
    for first_writes in [false, true] {
        let mut world = World::new(first_writes, three());
        world.run();
        world.members = vec![None, Some(galera(4)), Some(galera(4))];
        world.run();
        assert_eq!(world.primary(), Some("db2"));
        assert_eq!(world.readers(), ["db3"]);
        world.members = vec![Some(galera(5)); 3];
        world.run();
        assert_eq!(world.primary(), Some(if first_writes { "db1" } else { "db2" }));
    }
}

#[test]
fn nobody_writes_before_the_next_has_caught_up() {
    let mut world = World::new(false, three());
    world.run();
    world.members = vec![None, Some(galera(4)), Some(galera(4))];
    world.run_with(Duration::from_secs(10), |_| false);
    assert_eq!(world.primary(), None);
    let why = &world.topology.snapshot().no_primary_why;
    assert!(why.contains("db2 has still to apply"), "{why}");
    // One that can't prove itself does not keep the others waiting for ever.
    world.run_with(Duration::from_secs(1), |i| i == 2);
    assert_eq!(world.primary(), Some("db3"));
}

#[test]
fn a_member_cut_off_gets_nothing() {
    let mut world = World::new(false, three());
    world.run();
    let mut alone = galera(4);
    (alone.state, alone.service, alone.quorum) = ("non-Primary".into(), Service::None, false);
    world.members[0] = Some(alone.clone());
    world.run();
    assert_eq!(world.primary(), Some("db2"));
    assert_eq!(world.readers(), ["db3"]);
    assert!(world.why(0).contains("non-Primary"), "{}", world.why(0));
    world.members = vec![Some(alone); 3];
    world.run();
    assert_eq!((world.primary(), world.readers().len()), (None, 0));
}

#[test]
fn one_that_still_speaks_of_the_old_members_is_left_out() {
    let mut world = World::new(false, three());
    world.run();
    world.members = vec![Some(galera(3)), Some(galera(4)), Some(galera(4))];
    world.run();
    assert_eq!(world.primary(), Some("db2"));
    assert_eq!(world.readers(), ["db3"]);
    assert!(world.why(0).contains("without it"), "{}", world.why(0));
}

#[test]
fn donors_and_strangers_get_nothing() {
    let mut donor = galera(3);
    (donor.state, donor.service) = ("Donor/Desynced".into(), Service::Donor);
    let mut stranger = galera(9);
    stranger.cluster = "another".into();
    let mut world = World::new(false, vec![Some(galera(3)), Some(donor), Some(galera(3))]);
    world.run();
    assert_eq!(world.readers(), ["db3"]);
    assert!(world.why(1).contains("Donor/Desynced"), "{}", world.why(1));
    world.members[1] = Some(stranger);
    world.run();
    assert_eq!((world.primary(), world.readers()), (Some("db1"), vec!["db3"]));
    assert!(world.why(1).contains("another cluster"), "{}", world.why(1));
}

#[test]
fn the_operator_chooses() {
    let mut world = World::new(false, three());
    world.run();
    let now = world.now;
    assert!(world.topology.next_writer(Some(id_of(0)), now).is_err());
    let to = world.topology.next_writer(Some(id_of(2)), now).unwrap();
    world.topology.hold(id_of(0), "another writer is being chosen");
    world.topology.prefer(Some(to), now);
    world.topology.evaluate(now);
    assert_eq!(world.primary(), None);
    world.run();
    assert_eq!(world.primary(), Some("db3"));
    world.run_with(Duration::from_secs(20), |_| true);
    assert_eq!(world.primary(), Some("db3"));
}

#[test]
fn the_primary_that_a_group_elects_is_followed() {
    const WELL: [&str; 3] = ["ONLINE"; 3];
    let all = |states, primary, view| (0..3).map(move |i| Some(group(i, states, primary, view)));
    let mut world = World::new(false, all(WELL, 1, 4).collect());
    world.run();
    assert_eq!((world.primary(), world.readers()), (Some("db2"), vec!["db1", "db3"]));
    // It is killed; the others see it gone.
    const GONE: [&str; 3] = ["ONLINE", "UNREACHABLE", "ONLINE"];
    world.members = all(GONE, 2, 5).collect();
    world.members[1] = None;
    world.run();
    assert_eq!((world.primary(), world.readers()), (Some("db3"), vec!["db1"]));
    let succession = world.topology.snapshot().succession.clone().unwrap();
    assert!(succession.inherited.is_some(), "what it had can be looked up");
    // A minority does nothing.
    const ALONE: [&str; 3] = ["ONLINE", "UNREACHABLE", "UNREACHABLE"];
    world.members = vec![Some(group(0, ALONE, 0, 6)), None, None];
    world.run();
    assert_eq!((world.primary(), world.readers().len()), (None, 0));
    assert!(world.why(0).contains("1 of 3"), "{}", world.why(0));
}
