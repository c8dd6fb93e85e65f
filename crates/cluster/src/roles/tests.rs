//! A small world of servers, looked at through a network that loses, delays and reorders.

use super::*;
use crate::probe::{Error, IoThread};

mod anonymous;
mod election;
mod property;
mod reset;

const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_LAG: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Machine {
    up: bool,
    hangs: bool,
    read_only: bool,
    /// Replicates from there; the port of `db3` is 3, of a stranger 9.
    source: Option<usize>,
    io: bool,
    sql: bool,
    sql_error: Option<u32>,
    position: u64,
    /// `@@gtid_binlog_state`, as far as a test is about that.
    state: &'static str,
    gtid_mode: &'static str,
    auto_position: bool,
    connection: u64,
    /// As in MySQL, what it committed itself counts as applied.
    own: bool,
}

struct World {
    machines: Vec<Machine>,
    topology: Topology,
    now: Instant,
    events: Vec<Event>,
    /// Looks whose answers are under way.
    late: Vec<(usize, Instant, Look)>,
}

impl World {
    /// `db1` is the primary of all others, at transaction 7.
    fn new(servers: usize) -> Self {
        let machine = |i: usize| Machine {
            up: true,
            hangs: false,
            read_only: i > 0,
            source: (i > 0).then_some(0),
            io: true,
            sql: true,
            sql_error: None,
            position: 7,
            state: "",
            gtid_mode: "",
            auto_position: true,
            connection: 1,
            own: false,
        };
        let members = (1..=servers).map(|n| Member {
            name: format!("db{n}").into(),
            address: format!("10.0.0.1:{n}").into(),
            weight: 1,
            promote: true,
        });
        let now = Instant::now();
        let settings =
            Settings { timeout: TIMEOUT, max_lag: MAX_LAG, donors: false, first_writes: false };
        Self {
            machines: (0..servers).map(machine).collect(),
            topology: Topology::new(settings, members.collect(), now),
            now,
            events: Vec::new(),
            late: Vec::new(),
        }
    }

    /// As new, looked at once.
    fn known(servers: usize) -> Self {
        let mut world = Self::new(servers);
        world.look_all();
        world
    }

    fn see(&self, i: usize) -> Look {
        let m = &self.machines[i];
        if !m.up {
            return Look::Refused("connection refused".to_owned());
        }
        if m.hangs {
            return Look::Failed("no answer".to_owned());
        }
        let position = |n: u64| {
            let text = if n == 0 { String::new() } else { format!("0-1-{n}") };
            Position::MariaDb(text.parse().unwrap())
        };
        let channels = m.source.map(|source| {
            let reachable = self.machines.get(source).is_some_and(|s| s.up);
            Channel {
                name: String::new(),
                source_host: "10.0.0.1".to_owned(),
                source_port: u16::try_from(source).unwrap() + 1,
                source_server_id: u32::try_from(source).unwrap() + 1,
                io: match (m.io, reachable) {
                    (false, _) => IoThread::Stopped,
                    (true, true) => IoThread::Running,
                    (true, false) => IoThread::Connecting,
                },
                sql_running: m.sql && m.sql_error.is_none(),
                io_error: (!reachable)
                    .then(|| Error { code: 2003, text: "can't connect".to_owned() }),
                sql_error: m
                    .sql_error
                    .map(|code| Error { code, text: "duplicate entry".to_owned() }),
                auto_position: m.auto_position,
                seconds_behind: (m.io && m.sql && reachable).then_some(0),
                received: Some(position(m.position)),
            }
        });
        Look::Answer(Box::new(Report {
            flavour: Flavour::MariaDb,
            server_id: u32::try_from(i).unwrap() + 1,
            read_only: m.read_only,
            disk_full: false,
            version: "10.11.6-MariaDB".into(),
            collation: 45,
            autocommit: true,
            logs_rows: false,
            gtid_mode: m.gtid_mode.into(),
            committed: position(m.position),
            state: m.state.into(),
            applied: position(if m.source.is_some() || m.own { m.position } else { 0 }),
            channels: channels.into_iter().collect(),
            membership: None,
            connection: m.connection,
        }))
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn deliver(&mut self, i: usize, asked: Instant, look: Look) {
        self.topology.handle_look(id_of(i), asked, look, self.now);
        self.evaluate();
    }

    fn evaluate(&mut self) {
        self.events.extend(self.topology.evaluate(self.now));
        self.check();
    }

    fn look(&mut self, i: usize) {
        let look = self.see(i);
        self.deliver(i, self.now, look);
    }

    /// A tick: replication moves on, every server is looked at.
    fn look_all(&mut self) {
        self.replicate();
        for i in 0..self.machines.len() {
            self.pass(1);
            self.look(i);
        }
        self.pass(250 - self.machines.len() as u64);
    }

    fn ticks(&mut self, n: usize) {
        (0..n).for_each(|_| self.look_all());
    }

    fn replicate(&mut self) {
        for _ in 0..self.machines.len() {
            for i in 0..self.machines.len() {
                let m = &self.machines[i];
                let Some(source) = m.source.and_then(|s| self.machines.get(s)) else { continue };
                if m.up && m.io && m.sql && m.sql_error.is_none() && source.up && !source.hangs {
                    self.machines[i].position = m.position.max(source.position);
                }
            }
        }
    }

    fn snapshot(&self) -> &Snapshot {
        self.topology.snapshot()
    }

    fn roles(&self) -> String {
        let words: Vec<_> = self.snapshot().servers.iter().map(|s| s.role.as_str()).collect();
        words.join(" ")
    }

    fn why(&self, i: usize) -> &str {
        &self.snapshot().servers[i].why
    }

    fn primary(&self) -> Option<u16> {
        self.snapshot().primary.map(|id| id.0 + 1)
    }

    fn told(&self, code: &str) -> bool {
        self.events.iter().any(|event| event.code == code)
    }

    /// What must hold at every moment.
    fn check(&self) {
        let snapshot = self.snapshot();
        let primaries: Vec<_> =
            snapshot.servers.iter().filter(|s| s.role == Role::Primary).collect();
        assert!(primaries.len() <= 1, "two primaries");
        match snapshot.primary() {
            Some(primary) => {
                assert_eq!(primary.role, Role::Primary);
                assert_eq!(primary.read_only, Some(false));
                assert_ne!(primary.admin, AdminState::Maintenance);
                assert!(snapshot.no_primary_why.is_empty());
            }
            None => assert!(!snapshot.no_primary_why.is_empty()),
        }
        for server in &snapshot.servers {
            assert!(!server.why.is_empty());
            if server.takes_reads {
                assert_eq!(server.role, Role::Replica);
                assert_eq!(server.admin, AdminState::Running);
                assert!(server.lag.is_some_and(|lag| lag <= MAX_LAG));
            }
            let known = &self.topology.servers[usize::from(server.id.0)];
            if known.answer.is_some() && known.trouble.is_none() {
                assert!(!matches!(server.role, Role::Down | Role::Unknown), "{server:?}");
            }
        }
    }
}

#[test]
fn an_ordinary_set() {
    let mut w = World::new(3);
    assert_eq!(w.roles(), "unknown unknown unknown");
    w.look_all();
    assert_eq!(w.roles(), "primary replica replica");
    assert_eq!(w.primary(), Some(1));
    assert_eq!(w.why(0), "writable, and replicates from nobody");
    assert_eq!(w.why(1), "replicates from db1, up to date");
    assert!(w.snapshot().servers[1].takes_reads);
    assert_eq!(&*w.snapshot().greeting.server_version, "5.5.5-10.11.6-MariaDB");
    let version = w.snapshot().version;
    w.ticks(20);
    assert_eq!(w.snapshot().version, version, "nothing changed");
}

#[test]
fn a_lone_writable_server_is_a_primary() {
    let w = World::known(1);
    assert_eq!(w.roles(), "primary");
}

#[test]
fn a_refused_connection_is_down_at_once_and_a_slow_answer_is_nothing() {
    let mut w = World::known(3);
    w.machines[1].up = false;
    w.look(1);
    assert_eq!(w.roles(), "primary down replica");
    w.machines[1].up = true;
    w.look(1);
    assert_eq!(w.roles(), "primary replica replica");

    w.machines[0].hangs = true;
    w.pass(1500);
    w.look_all();
    assert_eq!(w.roles(), "primary replica replica");
    w.machines[0].hangs = false;
    w.look_all();
    assert_eq!(w.roles(), "primary replica replica");
    w.machines[0].hangs = true;
    w.ticks(10);
    assert_eq!(w.roles(), "down replica replica");
    assert!(w.why(0).starts_with("no answer for 2."), "{}", w.why(0));
    assert_eq!(w.primary(), None);
    let why = &w.snapshot().no_primary_why;
    assert_eq!(&**why, "no server takes writes: db1 is down, db2 is read-only, db3 is read-only");
    assert!(w.told("server_down") && w.told("primary_lost"));
}

#[test]
fn a_monitor_that_was_frozen_does_not_take_all_servers_for_dead() {
    let mut w = World::known(3);
    w.pass(3_600_000);
    w.look(1);
    assert_eq!(w.roles(), "primary replica replica");
    assert_eq!(w.events.iter().filter(|e| e.code == "server_down").count(), 0);
}

#[test]
fn replicas_go_on_serving_reads_while_the_primary_is_down() {
    let mut w = World::known(2);
    w.machines[0].position = 8;
    w.look(0);
    w.machines[0].up = false;
    w.ticks(400);
    assert_eq!(w.roles(), "down replica");
    // It lacks transaction 8, but not for longer than the primary lived.
    assert!(w.snapshot().servers[1].takes_reads, "{}", w.why(1));
    assert!(w.why(1).starts_with("replicates from db1, which is down"), "{}", w.why(1));
}

#[test]
fn a_proxy_started_while_the_primary_is_down_uses_the_replicas() {
    let mut w = World::new(2);
    w.machines[0].up = false;
    w.ticks(2);
    assert_eq!(w.roles(), "down replica");
    assert!(w.snapshot().servers[1].takes_reads, "{}", w.why(1));
}

#[test]
fn lag_grows_while_replication_is_stopped_and_the_replica_comes_back_by_itself() {
    let mut w = World::known(2);
    w.machines[1].io = false;
    w.machines[1].sql = false;
    w.ticks(100);
    assert_eq!(w.why(1), "replication from db1 is stopped, up to date");
    assert!(w.snapshot().servers[1].takes_reads, "it has all there is");
    w.machines[0].position = 8;
    w.ticks(20);
    let lag = w.snapshot().servers[1].lag.unwrap();
    assert!((4500..=5000).contains(&lag.as_millis()), "{lag:?}");
    assert!(w.snapshot().servers[1].takes_reads);
    w.ticks(25);
    assert_eq!(w.roles(), "primary replica");
    assert!(!w.snapshot().servers[1].takes_reads);
    assert!(w.told("replica_lagging"));
    w.machines[1].io = true;
    w.machines[1].sql = true;
    w.look_all();
    assert!(w.snapshot().servers[1].takes_reads);
    assert!(w.told("replica_fresh"));
}

#[test]
fn an_error_ends_being_a_replica_until_it_is_mended() {
    let mut w = World::known(2);
    w.machines[1].sql_error = Some(1062);
    w.look_all();
    assert_eq!(w.roles(), "primary standalone");
    assert_eq!(w.why(1), "replication from db1 is broken: error 1062: duplicate entry");
    assert!(w.told("replication_broken"));
    w.machines[1].sql_error = None;
    w.look_all();
    assert_eq!(w.roles(), "primary replica");
}

#[test]
fn a_writable_replica_stays_a_replica() {
    let mut w = World::known(2);
    w.machines[1].read_only = false;
    w.look_all();
    assert_eq!(w.roles(), "primary replica");
    assert!(w.why(1).ends_with("writable too, set read_only=1 there"), "{}", w.why(1));
    assert!(w.told("replica_writable"));
    // Not even stopped, and not even when the primary dies.
    w.machines[1].io = false;
    w.machines[1].sql = false;
    w.machines[0].up = false;
    w.ticks(20);
    assert_eq!(w.primary(), None);
    assert!(
        w.snapshot().no_primary_why.contains("db2 is writable but set up to replicate"),
        "{}",
        w.snapshot().no_primary_why
    );
}

#[test]
fn an_empty_data_directory_is_no_primary() {
    for victim in [0, 1] {
        let mut w = World::known(2);
        w.machines[0].up = false;
        w.ticks(2);
        let m = &mut w.machines[victim];
        *m = Machine {
            position: 0,
            connection: 2,
            source: None,
            read_only: false,
            up: true,
            ..m.clone()
        };
        w.ticks(10);
        assert_eq!(w.primary(), None, "db{}: {}", victim + 1, w.why(victim));
        assert!(w.snapshot().no_primary_why.contains("lacks"), "{}", w.snapshot().no_primary_why);
        // Unless the operator says so.
        w.topology.accept(id_of(victim));
        w.ticks(2);
        assert_eq!(w.primary(), Some(victim as u16 + 1));
    }
    let mut w = World::known(1);
    w.machines[0].position = 0;
    w.machines[0].connection = 2;
    w.ticks(2);
    assert_eq!(w.primary(), None);
    assert!(w.why(0).contains("an empty data directory?"), "{}", w.why(0));
}

#[test]
fn replicas_of_strangers_and_of_the_wrong_server_take_no_reads() {
    let mut w = World::known(3);
    w.machines[1].source = Some(8);
    w.look_all();
    assert_eq!(w.roles(), "primary standalone replica");
    assert_eq!(w.why(1), "replicates from 10.0.0.1:9, which is not in the config");

    let mut w = World::known(4);
    w.machines[1].source = None;
    w.machines[2].source = Some(1);
    w.look_all();
    assert_eq!(w.roles(), "primary standalone standalone replica");
    assert_eq!(w.why(1), "read-only, and replicates from nobody");
    assert_eq!(w.why(2), "replicates from db2, but the primary is db1");
}

#[test]
fn a_replica_of_a_replica_is_a_replica() {
    let mut w = World::known(3);
    w.machines[2].source = Some(1);
    w.look_all();
    assert_eq!(w.roles(), "primary replica replica");
    assert_eq!(w.why(2), "replicates from db2, up to date");
    assert_eq!(w.snapshot().servers[2].source, Some(ServerId(1)));
}

#[test]
fn of_a_ring_the_writable_server_is_the_primary() {
    let mut w = World::new(2);
    w.machines[0].source = Some(1);
    w.ticks(2);
    assert_eq!(w.roles(), "primary replica");
    w.machines[1].read_only = false;
    w.ticks(2);
    assert_eq!(w.roles(), "primary replica", "{}", w.why(1));
    // Who comes new to a ring with two writable servers can't know.
    let mut w2 = World::new(2);
    w2.machines.clone_from(&w.machines);
    w2.ticks(2);
    assert_eq!(w2.primary(), None);
}

#[test]
fn a_promoted_server_that_still_has_its_stopped_channel() {
    let mut w = World::known(3);
    w.machines[0].up = false;
    w.ticks(2);
    w.machines[1] = Machine { io: false, sql: false, read_only: false, ..w.machines[1].clone() };
    w.ticks(2);
    assert_eq!(w.primary(), None);
    w.machines[2].source = Some(1);
    w.ticks(2);
    assert_eq!(w.roles(), "down primary replica");
}

#[test]
fn maintenance_and_draining() {
    let mut w = World::known(3);
    w.topology.set_admin(ServerId(1), AdminState::Draining);
    w.evaluate();
    assert_eq!(w.roles(), "primary replica replica");
    assert!(!w.snapshot().servers[1].takes_reads);
    w.topology.set_admin(ServerId(1), AdminState::Running);
    w.topology.set_admin(ServerId(0), AdminState::Draining);
    w.evaluate();
    assert!(w.snapshot().servers[1].takes_reads);
    assert_eq!(w.primary(), Some(1), "writes have nowhere else to go");
    w.topology.set_admin(ServerId(0), AdminState::Maintenance);
    w.evaluate();
    assert_eq!(w.primary(), None);
    assert_eq!(&*w.snapshot().no_primary_why, "db1 is in maintenance");
    assert!(w.told("admin_state"));
    // A switchover by hand.
    w.machines[1].source = None;
    w.machines[1].read_only = false;
    w.machines[2].source = Some(1);
    w.ticks(2);
    assert_eq!(w.primary(), Some(2));
}

#[test]
fn limits_and_weights_change_while_watching() {
    let mut w = World::known(3);
    w.machines[1].sql = false;
    w.machines[0].position = 8;
    w.ticks(20);
    assert!(w.snapshot().servers[1].takes_reads);
    let max_lag = Duration::from_secs(2);
    let settings = Settings { timeout: TIMEOUT, max_lag, donors: false, first_writes: false };
    w.topology.reconfigure(settings, &[1, 1, 0]);
    w.evaluate();
    assert!(!w.snapshot().servers[1].takes_reads, "too far behind now");
    assert!(!w.snapshot().servers[2].takes_reads, "weight 0");
    assert_eq!(w.snapshot().servers[2].weight, 0);
}

#[test]
fn answers_that_overtake_each_other() {
    let mut w = World::known(2);
    let (old, asked) = (w.see(0), w.now);
    w.pass(10);
    w.machines[0].read_only = true;
    w.look(0);
    assert_eq!(w.primary(), None);
    w.pass(10);
    w.deliver(0, asked, old);
    assert_eq!(w.primary(), None, "an old answer was believed");
}

#[test]
fn servers_that_share_a_server_id_are_told_apart_by_address() {
    let mut w = World::new(3);
    for _ in 0..2 {
        for i in 0..3 {
            let mut look = w.see(i);
            if let Look::Answer(report) = &mut look {
                report.server_id = 1;
                report.channels.iter_mut().for_each(|channel| channel.source_server_id = 1);
            }
            w.pass(1);
            w.deliver(i, w.now, look);
        }
    }
    assert_eq!(w.roles(), "primary replica replica");
}

#[test]
fn while_the_primary_is_being_changed_there_is_none() {
    let mut world = World::known(2);
    let (db1, db2) = (ServerId(0), ServerId(1));
    world.topology.hold(db1, "db2 is about to become the primary");
    world.ticks(2);
    let snapshot = world.topology.snapshot();
    assert_eq!((snapshot.primary, snapshot.switching), (None, Some(db1)));
    assert_eq!(&*snapshot.no_primary_why, "db2 is about to become the primary");

    // Called off.
    world.topology.release();
    world.ticks(1);
    let snapshot = world.topology.snapshot();
    assert_eq!((snapshot.primary, snapshot.switching), (Some(db1), None));
    assert!(snapshot.succession.is_none());

    // Done.
    world.topology.hold(db1, "db2 is about to become the primary");
    world.machines[0].read_only = true;
    world.ticks(1);
    let inherited = Position::MariaDb("0-1-7".parse().unwrap());
    world.topology.promoted(db2, inherited.clone());
    world.machines[1].source = None;
    world.machines[1].read_only = false;
    world.machines[1].position = 8;
    world.ticks(1);
    let snapshot = world.topology.snapshot();
    assert_eq!((snapshot.primary, snapshot.switching), (Some(db2), None));
    let succession = snapshot.succession.as_deref().unwrap();
    assert_eq!((succession.old, succession.new), (db1, db2));
    assert_eq!(succession.inherited.as_ref(), Some(&inherited));
    assert_eq!(succession.generation, snapshot.generation);
}
