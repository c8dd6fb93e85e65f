//! Several Pointsmen before the same servers, cut off from some of them, killed and started again.

use super::*;
use crate::quorum::{Ballot, Beat, Holder, Quorum, SESSION, Wish};

/// One Pointsman's part in the agreement.
pub(super) struct Party {
    quorum: Quorum,
    name: u64,
    /// Next question to each server; none while one is under way.
    next: Vec<Option<Instant>>,
    /// Answers under way: when, from whom, asked when.
    beats: Vec<(Instant, usize, Instant, Beat)>,
    born: Instant,
}

/// What a server knows of the Pointsmen.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks {
    /// Sessions: which Pointsman's, their number, and when last heard of.
    sessions: BTreeMap<u64, (u64, Instant)>,
    lead: Option<u64>,
    change: Option<u64>,
    switch: Option<u64>,
    want: Option<u64>,
    /// What the leader takes for the primary.
    primary: Option<(u64, u32)>,
    /// Members, and whether they have stopped.
    members: BTreeMap<u64, bool>,
    count: u64,
}

impl Locks {
    fn end(&mut self, name: u64) {
        self.sessions.remove(&name);
        self.members.remove(&name);
        self.primary.take_if(|(holder, _)| *holder == name);
        for lock in [&mut self.lead, &mut self.change, &mut self.switch, &mut self.want] {
            lock.take_if(|holder| *holder == name);
        }
    }

    fn expire(&mut self, now: Instant) {
        let old = self.sessions.iter().filter(|(_, (_, last))| now > *last + SESSION);
        for name in old.map(|(name, _)| *name).collect::<Vec<_>>() {
            self.end(name);
        }
    }

    fn beat(&mut self, name: u64, wish: Wish, now: Instant) -> Ballot {
        self.expire(now);
        self.count += 1;
        let count = self.count;
        let session = self.sessions.entry(name).or_insert((count, now));
        session.1 = now;
        let number = session.0;
        let hold = |lock: &mut Option<u64>, wish: bool| {
            if wish {
                lock.get_or_insert(name);
            } else {
                lock.take_if(|holder| *holder == name);
            }
            match *lock {
                None => Holder::Nobody,
                Some(holder) if holder == name => Holder::Me,
                Some(_) => Holder::Other,
            }
        };
        if wish.member {
            self.members.insert(name, wish.cut);
        }
        self.primary.take_if(|(holder, _)| *holder == name);
        if wish.names && wish.primary != 0 {
            self.primary = Some((name, wish.primary));
        }
        let lead = hold(&mut self.lead, wish.lead);
        let others = self.members.iter().filter(|(other, _)| **other != name);
        Ballot {
            session: number,
            lead,
            names: self
                .primary
                .filter(|(holder, _)| lead == Holder::Other && self.lead == Some(*holder))
                .map(|(_, id)| id),
            want: hold(&mut self.want, wish.want),
            change: hold(&mut self.change, wish.change),
            switch: hold(&mut self.switch, wish.switch),
            member: wish.member,
            cut: wish.member && wish.cut,
            others: u8::try_from(others.clone().count()).unwrap(),
            others_cut: u8::try_from(others.filter(|(_, cut)| **cut).count()).unwrap(),
            leads: self.lead.filter(|_| lead == Holder::Other).unwrap_or(0),
            leader: None,
        }
    }
}

impl Sim {
    pub(super) fn several(servers: usize, proxies: usize, seed: u64) -> Self {
        let mut sim = Self::new(servers, seed, false);
        sim.views.clear();
        sim.lenient = false;
        for _ in 0..proxies {
            let view = sim.newcomer();
            sim.views.push(view);
        }
        sim
    }

    /// The same, and they are not told that there are several.
    fn unaware(servers: usize, proxies: usize, seed: u64) -> Self {
        let mut sim = Self::several(servers, 0, seed);
        sim.lenient = true;
        for _ in 0..proxies {
            let view = sim.newcomer();
            sim.views.push(view);
        }
        sim
    }

    fn newcomer(&mut self) -> View {
        let mut view = self.view();
        let name = self.below(u64::MAX);
        let names = (1..=self.servers.len()).map(|n| Arc::from(format!("db{n}"))).collect();
        let mut quorum = Quorum::new(names, self.lenient, name, self.now);
        quorum.set_plan(crate::quorum::Plan::Nothing, true);
        view.topology.permit(Some("nothing is agreed yet".into()), |_| true, self.now);
        view.topology.evaluate(self.now);
        view.machine.handle_lead(Lead::unknown(), self.now);
        view.party = Some(Party {
            quorum,
            name,
            next: vec![Some(self.now); self.servers.len()],
            beats: Vec::new(),
            born: self.now,
        });
        view
    }

    fn kill_proxy(&mut self, me: usize) {
        self.note(format!("proxy {me} is killed"));
        let view = &mut self.views[me];
        view.up = false;
        let name = view.party.as_ref().unwrap().name;
        for i in 0..self.servers.len() {
            // The others learn of it when nothing comes any more.
            if !self.views[me].cut.contains(&i) {
                self.locks[i].end(name);
            }
        }
    }

    fn start_proxy(&mut self, me: usize) {
        if !self.views[me].up {
            self.note(format!("proxy {me} starts"));
            let cut = std::mem::take(&mut self.views[me].cut);
            self.views[me] = self.newcomer();
            self.views[me].cut = cut;
        }
    }

    /// Publishes what is agreed.
    pub(super) fn agree(&mut self) {
        let now = self.now;
        let view = &mut self.views[self.me];
        let Some(party) = &mut view.party else { return };
        party.quorum.set_primary(view.topology.primary(), now);
        party.quorum.count(now);
        let standing = party.quorum.standing(now);
        let why = standing.writes.as_ref().err().map(|why| why.as_str().into());
        view.topology.follow(standing.names);
        view.topology.permit(why, |i| party.quorum.answers(i, now), now);
        view.topology.hold_for_others(standing.switching.then(|| "another proxy".to_owned()));
        let before = view.machine.plan();
        view.machine.handle_lead(
            Lead {
                acts: standing.leads,
                cleared: standing.cleared,
                changing: standing.changing || standing.switching,
                others: standing.others > 0,
                leader: None,
                why: None,
            },
            now,
        );
        let eager = view.machine.acts_by_itself(now);
        party.quorum.set_plan(view.machine.plan(), eager);
        if before != view.machine.plan() {
            party.next.iter_mut().flatten().for_each(|at| *at = now);
        }
        for event in view.topology.evaluate(now) {
            let me = self.me;
            self.note(format!("proxy {me}: {}: {}", event.code, event.text));
        }
    }

    /// Renews the locks.
    pub(super) fn beat(&mut self) {
        if self.views[self.me].party.is_none() {
            return;
        }
        self.agree();
        let now = self.now;
        for i in 0..self.servers.len() {
            let party = self.views[self.me].party.as_ref().unwrap();
            if party.next[i].is_none_or(|at| at > now) {
                continue;
            }
            let (name, wish) = (party.name, party.quorum.wish(i, now));
            let unheard = ms(1000 + self.below(2000));
            let (delay, beat) = if self.reached(i) {
                let ballot = self.locks[i].beat(name, wish, now);
                let slow = self.below(200) == 0;
                (ms(self.below(if slow { 600 } else { 20 })), Beat::Answer(ballot))
            } else if !self.servers[i].up && !self.servers[i].away && !self.cut(i) {
                (ms(self.below(10)), Beat::Refused)
            } else {
                (unheard, Beat::Lost)
            };
            let party = self.views[self.me].party.as_mut().unwrap();
            party.next[i] = None;
            party.beats.push((now + delay, i, now, beat));
        }
        let party = self.views[self.me].party.as_mut().unwrap();
        let (due, later) =
            std::mem::take(&mut party.beats).into_iter().partition(|(at, ..)| *at <= now);
        party.beats = later;
        let due: Vec<_> = due;
        for (_, i, asked, beat) in due {
            let party = self.views[self.me].party.as_mut().unwrap();
            if beat == Beat::Lost {
                // The session is given up; the next one is another.
                let name = party.name;
                if !self.views[self.me].cut.contains(&i) {
                    self.locks[i].end(name);
                }
            }
            let party = self.views[self.me].party.as_mut().unwrap();
            party.quorum.handle_beat(i, asked, beat, now);
            party.next[i] = Some((asked + crate::quorum::BEAT).max(now));
            self.agree();
        }
        self.effects();
    }

    /// Never two servers that take writes through Pointsmen.
    pub(super) fn check(&mut self) {
        let mut writable = BTreeSet::new();
        for me in 0..self.views.len() {
            self.me = me;
            if let Some(p) = self.primary().filter(|_| self.views[me].up)
                && self.reached(p)
                && !self.servers[p].read_only
            {
                writable.insert(p);
            }
        }
        self.me = 0;
        self.expect(writable.len() < 2, &format!("two take writes: {writable:?}"));
    }

    fn cut_proxy(&mut self, me: usize, from: impl IntoIterator<Item = usize>) {
        self.views[me].cut = from.into_iter().collect();
        let text = format!("proxy {me} is cut off from {:?}", self.views[me].cut);
        self.note(text);
    }

    fn primaries(&mut self) -> Vec<Option<usize>> {
        (0..self.views.len())
            .map(|me| self.views[me].topology.snapshot().primary.map(|id| usize::from(id.0)))
            .collect()
    }

    /// Why one may not write.
    fn why(&self, me: usize) -> String {
        let standing = self.views[me].party.as_ref().unwrap().quorum.standing(self.now);
        standing.writes.err().unwrap_or_default()
    }

    /// What each Pointsman makes of it, for the story.
    fn note_minds(&mut self) {
        for me in 0..self.views.len() {
            let view = &self.views[me];
            let snapshot = view.topology.snapshot();
            let quorum = &view.party.as_ref().unwrap().quorum;
            let text = format!(
                "proxy {me}: {:?} {} {:?}; {:?}; {:?}",
                view.topology.primary(),
                snapshot.no_primary_why,
                view.machine.status(),
                quorum.standing(self.now),
                (0..self.servers.len()).map(|i| quorum.wish(i, self.now)).collect::<Vec<_>>(),
            );
            self.note(text);
        }
        for i in 0..self.servers.len() {
            let text = format!("db{}: {:?}", i + 1, self.locks[i]);
            self.note(text);
            let text = format!(
                "db{}: read_only {}, source {:?}, has {}",
                i + 1,
                self.servers[i].read_only,
                self.servers[i].source,
                state(&self.servers[i].log)
            );
            self.note(text);
        }
    }

    /// Until all have the same primary, and have it for a while; for a minute at most.
    fn settle(&mut self) {
        let mut good = 0;
        for _ in 0..60 {
            self.run(ms(1000), false);
            let all = self.primaries();
            good = if all[0].is_some() && all.iter().all(|p| *p == all[0]) { good + 1 } else { 0 };
            if good > 5 {
                return;
            }
        }
    }

    /// Every Pointsman has started since the first fault, and the servers do not tell: all are
    /// read-only, which may be on purpose, or each has what others lack.
    fn nobody_can_know(&self) -> bool {
        let young = self.views.iter().all(|view| view.party.as_ref().unwrap().born > self.begun);
        let all_have =
            |log: &Vec<Transaction>| self.servers.iter().all(|other| log.starts_with(&other.log));
        young
            && (self.servers.iter().all(|s| s.read_only)
                || !self.servers.iter().any(|s| all_have(&s.log) && !s.read_only))
    }

    fn done(&self) -> (usize, usize) {
        self.views.iter().fold((0, 0), |(a, b), view| (a + view.changes.0, b + view.changes.1))
    }
}

#[test]
fn one_acts_and_the_others_follow() {
    for seed in 0..25 {
        for servers in [2, 3] {
            let mut sim = Sim::several(servers, 3, seed);
            sim.lossy = false;
            sim.run(ms(3000), true);
            let all = sim.primaries();
            sim.expect(all == [Some(0); 3], &format!("all write to db1: {all:?}"));
            sim.kill(0);
            sim.run(ms(2000), true);
            let all = sim.primaries();
            sim.expect(
                all[0].is_some_and(|p| p != 0) && all.iter().all(|p| *p == all[0]),
                &format!("all follow: {all:?}"),
            );
            sim.expect(sim.done() == (1, 0), "one failover");
        }
    }
}

#[test]
fn one_that_is_cut_off_neither_promotes_nor_writes() {
    for seed in 0..25 {
        let mut sim = Sim::several(3, 3, seed);
        sim.run(ms(3000), true);
        // With the primary.
        sim.servers[0].alone = true;
        sim.cut_proxy(0, [1, 2]);
        sim.cut_proxy(1, [0]);
        sim.cut_proxy(2, [0]);
        sim.run(ms(9000), true);
        let all = sim.primaries();
        sim.expect(all[0].is_none(), &format!("the one beside db1 does not write: {all:?}"));
        sim.expect(all[1].is_some_and(|p| p != 0) && all[1] == all[2], &format!("{all:?}"));
        sim.servers[0].alone = false;
        for me in 0..3 {
            sim.cut_proxy(me, []);
        }
        sim.run(ms(9000), true);
        let all = sim.primaries();
        sim.expect(all[0].is_some_and(|p| p != 0) && all[0] == all[1], &format!("{all:?}"));
        sim.expect(sim.servers[0].read_only, "db1 is fenced");
    }
}

#[test]
fn of_two_servers_the_primary_goes_on_with_those_beside_it() {
    for seed in 0..25 {
        // The replica is gone, its host with it.
        let mut sim = Sim::several(2, 2, seed);
        sim.run(ms(3000), true);
        sim.servers[1].hangs = true;
        sim.run(ms(8000), true);
        let all = sim.primaries();
        sim.expect(all == [Some(0); 2], &format!("{all:?}"));

        // The primary is gone, its host with it.
        let mut sim = Sim::several(2, 2, seed);
        sim.run(ms(3000), true);
        sim.servers[0].hangs = true;
        sim.run(ms(9000), true);
        let all = sim.primaries();
        sim.expect(all == [Some(1); 2], &format!("{all:?}"));

        // Each has one of them.
        let mut sim = Sim::several(2, 2, seed);
        sim.run(ms(3000), true);
        sim.servers[0].alone = true;
        sim.cut_proxy(0, [1]);
        sim.cut_proxy(1, [0]);
        sim.run(ms(9000), true);
        let all = sim.primaries();
        sim.expect(all == [Some(0), None], &format!("{all:?}"));
        // Another one might act, for a while; then a person is asked.
        let why = sim.why(1);
        sim.expect(why.ends_with("may have made another primary there"), &why);
        sim.run(ms(9000), true);
        let why = sim.why(1);
        sim.expect(why.contains("set agree = false"), &why);
        // One that starts now can't know.
        sim.kill_proxy(0);
        sim.start_proxy(0);
        sim.run(ms(5000), true);
        let all = sim.primaries();
        sim.expect(all == [None, None], &format!("{all:?}"));
    }
}

#[test]
fn one_that_starts_beside_the_primary_and_a_leader_writes_after_a_while() {
    for seed in 0..25 {
        let mut sim = Sim::several(2, 2, seed);
        sim.run(ms(4000), true);
        sim.servers[1].hangs = true;
        sim.run(ms(5000), true);
        for me in 0..2 {
            sim.kill_proxy(me);
            sim.start_proxy(me);
            sim.run(ms(5000), true);
            let all = sim.primaries();
            sim.expect(all[me].is_none(), "it can't know yet");
            sim.run(ms(8000), true);
            let all = sim.primaries();
            sim.expect(all == [Some(0); 2], &format!("{all:?}"));
        }
        // None is left who knows.
        sim.kill_proxy(0);
        sim.kill_proxy(1);
        sim.start_proxy(0);
        sim.start_proxy(1);
        sim.run(ms(20_000), true);
        let all = sim.primaries();
        sim.expect(all == [None; 2], &format!("{all:?}"));
    }
}

#[test]
fn one_that_need_not_be_several_acts_alone_until_it_meets_another() {
    for seed in 0..25 {
        // Half of the servers is enough for it, and for another that comes later.
        let mut sim = Sim::unaware(2, 2, seed);
        sim.kill_proxy(1);
        sim.servers[1].hangs = true;
        sim.run(ms(4000), true);
        let all = sim.primaries();
        sim.expect(all[0] == Some(0), "it writes");
        sim.start_proxy(1);
        sim.run(ms(12_000), true);
        let all = sim.primaries();
        sim.expect(all == [Some(0); 2], &format!("{all:?}"));

        let mut sim = Sim::unaware(3, 3, seed);
        sim.run(ms(3000), true);
        sim.servers[0].alone = true;
        sim.cut_proxy(0, [1, 2]);
        sim.cut_proxy(1, [0]);
        sim.cut_proxy(2, [0]);
        sim.run(ms(9000), true);
        let all = sim.primaries();
        sim.expect(all[0].is_none(), &format!("the one beside db1 does not write: {all:?}"));
        sim.expect(all[1].is_some_and(|p| p != 0) && all[1] == all[2], &format!("{all:?}"));

        // A single one replaces a primary whose host is gone.
        let mut sim = Sim::unaware(2, 1, seed);
        sim.run(ms(2000), true);
        sim.servers[0].hangs = true;
        sim.run(ms(9000), true);
        let all = sim.primaries();
        sim.expect(all == [Some(1)], "the only one acts");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(80),
        rng_seed: match std::env::var("PROPTEST_RNG_SEED").ok().and_then(|n| n.parse().ok()) {
            Some(seed) => RngSeed::Fixed(seed),
            None => RngSeed::Fixed(1),
        },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Servers freeze, die and start, proxies die and start, the network parts and heals: never two
    /// primaries (see `check`), and one when all is well again, unless nobody can know which.
    #[test]
    fn whatever_happens_no_two_servers_take_writes(
        servers in 2..4_usize,
        proxies in 2..4_usize,
        seed in any::<u64>(),
        unaware in any::<bool>(),
        faults in prop::collection::vec((0..5_usize, 0..11_u8, any::<u8>(), 0..5000_u64), 0..10),
    ) {
        let mut sim = match unaware {
            true => Sim::unaware(servers, proxies, seed),
            false => Sim::several(servers, proxies, seed),
        };
        sim.run(ms(2500), true);
        let fine = |sim: &Sim| {
            sim.servers.iter().all(|s| !s.hangs && !s.alone)
                && sim.views.iter().all(|view| view.cut.is_empty())
        };
        for (i, fault, side, wait) in faults {
            let (i, me) = (i % servers, i % proxies);
            sim.note(format!("fault {fault} at db{}", i + 1));
            match fault {
                0 => sim.kill(i),
                1 => sim.start(i),
                2 => sim.servers[i].hangs ^= true,
                3 => sim.servers[i].alone ^= true,
                4 => sim.kill_proxy(me),
                // Those who need not be several have to start while they can see each other.
                5 if !unaware || fine(&sim) => sim.start_proxy(me),
                5 => {}
                6 | 7 => {
                    // The network parts: a bit says who is on which side.
                    let left = |n: usize| (side >> n) & 1 == 1;
                    for me in 0..proxies {
                        let far: Vec<_> =
                            (0..servers).filter(|&i| left(i) != left(4 + me)).collect();
                        sim.cut_proxy(me, far);
                    }
                    let lefts = (0..servers).filter(|&i| left(i)).count();
                    for i in 0..servers {
                        sim.servers[i].alone = lefts > 0 && lefts < servers;
                    }
                }
                8 => {
                    let lags = vec![Some(Duration::ZERO); servers];
                    for me in 0..proxies {
                        sim.me = me;
                        if sim.views[me].up {
                            let now = sim.now;
                            let _ = sim.views[me].machine.switchover(None, &lags, now);
                            sim.effects();
                        }
                    }
                    sim.me = 0;
                }
                _ => {
                    sim.heal();
                    (0..proxies).for_each(|me| sim.cut_proxy(me, []));
                    (0..proxies).for_each(|me| sim.start_proxy(me));
                }
            }
            sim.run(ms(wait), true);
        }
        sim.heal();
        (0..proxies).for_each(|me| sim.cut_proxy(me, []));
        (0..proxies).for_each(|me| sim.start_proxy(me));
        sim.settle();
        let all = sim.primaries();
        sim.note_minds();
        if all.iter().all(Option::is_none) && sim.nobody_can_know() {
            return Ok(());
        }
        sim.expect(
            all[0].is_some() && all.iter().all(|p| *p == all[0]),
            &format!("one primary in the end: {all:?}"),
        );
        let p = all[0].unwrap();
        sim.expect(sim.servers[p].events, "it runs its events");
        for i in (0..servers).filter(|&i| i != p) {
            let runs = sim.follows(i, p) && sim.servers[i].events;
            sim.expect(!runs, &format!("db{} runs events as a replica", i + 1));
        }
    }
}
