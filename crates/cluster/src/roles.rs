//! Who is what: looks at servers go in, a [`Snapshot`] and events come out. Pure.
//!
//! Nothing is configured about roles; all is concluded from what the servers say of themselves.
//!
//! # Up or down
//!
//! | last looks | then |
//! | --- | --- |
//! | answered within `timeout` | up, as it answered; one slow or lost answer changes nothing |
//! | connection refused since | down at once |
//! | asked in vain, and no answer for `timeout` | down |
//! | never asked, or asked for less than `timeout` in vain | unknown |
//!
//! # The primary
//!
//! A *candidate* is up, not in maintenance, `read_only=0`, and replicates from nobody. A server that
//! is set up to replicate is no candidate, even if it was stopped, unless another one fetches from
//! it; then it was promoted without `RESET SLAVE ALL`. In a ring (each replicates from the other)
//! the writable server is one.
//!
//! | candidates | then |
//! | --- | --- |
//! | none | no primary |
//! | one | it is the primary, unless it lacks transactions, see below |
//! | several, among them the primary so far, and it has replicas | it stays the primary |
//! | several at the first look, exactly one of them has replicas | that one |
//! | several at the first look, or after this proxy was cut off, and one of them has all transactions of the others (by GTID) | that one; the others are kept out |
//! | several otherwise | no primary until one is `read_only` |
//!
//! A candidate must not have lost data. The primary so far, when it comes back after its connection
//! broke, must have all that any other server has that does not follow it, and must not be empty. A
//! new one must have all that was known of the old one's transactions, or at least all that it had
//! itself when it was last seen as its replica (a promotion that loses the last transactions is for
//! whoever promotes to decide; an empty data directory is not). Else it is no primary, until the
//! operator vouches for it. At the first look, a server that has nothing to do with the others does not
//! count against one that is followed or, if it takes no writes, against one that has been written to
//! since: that one took over from it before this process began.
//!
//! Where several proxies agree, the primary is whom the leading one takes for it, if it is up and
//! writable: whoever was cut off may have missed any number of changes.
//!
//! # The others
//!
//! | an up server | role | reads |
//! | --- | --- | --- |
//! | replicates from the primary, or from a replica of it | replica | if lag is known and within `max_lag` |
//! | same, replication stopped with `STOP SLAVE` | replica | as long as lag allows |
//! | same, it can't reach its source | replica | as long as lag allows |
//! | same, `read_only=0` | replica, with a warning | as long as lag allows |
//! | same, replication broken by an error | standalone | no |
//! | replicates from a server not in the config, or one that does not lead to the primary | standalone | no |
//! | replicates from nobody, `read_only=1` | standalone | no |
//! | writable beside the primary | standalone, with a warning | no |
//!
//! Without a primary, replicas stay replicas of the last one; lag is then counted up to the moment
//! the primary was last seen, since nothing is committed any more.
//!
//! After lag took a replica out of the reads, it comes back at three quarters of `max_lag`, so that
//! it does not flap.

mod anonymous;
mod election;
mod facts;
mod group;
mod office;
mod orders;
mod report;
mod reset;
mod sources;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::gtid::{Flavour, Position};
use crate::lag::{Lag, Timeline};
use crate::probe::{Channel, Look, Report};
use crate::snapshot::{AdminState, Greeting, Live, Permit, Role, ServerId, Snapshot, Succession};

pub use report::Event;
use sources::From;

/// What the conclusions depend on beside the looks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// No answer for this long is down.
    pub timeout: Duration,
    /// Replicas further behind get no reads.
    pub max_lag: Duration,
    /// Galera nodes that give their data away serve all the same.
    pub donors: bool,
    /// In a cluster that elects for itself, and whose members all take writes, the first in the
    /// config that can gets them back.
    pub first_writes: bool,
}

/// A server as configured.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: Arc<str>,
    /// `host:port`.
    pub address: Arc<str>,
    pub weight: u32,
    /// Whether it may become the primary.
    pub promote: bool,
}

/// All that is known of the servers.
#[derive(Debug)]
pub struct Topology {
    settings: Settings,
    since: Instant,
    servers: Vec<Known>,
    /// The primary now or, while there is none, the last one.
    primary: Option<usize>,
    /// Where the primary was when.
    timeline: Timeline,
    generation: u64,
    succession: Option<Arc<Succession>>,
    /// A change of the primary in good order is under way.
    hold: Option<Hold>,
    /// Why nothing may be written, whoever is the primary: see [`crate::quorum`].
    forbidden: Option<Arc<str>>,
    /// Since when it may be again, if nothing is seen that speaks against it.
    regained: Option<Instant>,
    /// Since it was forbidden other proxies may have made another primary; none was elected since.
    parted: bool,
    permit: Option<Arc<Permit>>,
    /// The `@@server_id` of the primary, as the leading one of several proxies takes it.
    led: Option<u32>,
    /// Where a server stood when it was made the primary.
    promoted: Option<(usize, Position)>,
    anonymous: anonymous::Anonymous,
    group: group::Group,
    snapshot: Arc<Snapshot>,
}

/// There is no primary for now, although there may be a writable server.
#[derive(Debug)]
struct Hold {
    old: usize,
    why: Arc<str>,
    /// By another proxy.
    others: bool,
}

#[derive(Debug)]
struct Known {
    member: Member,
    live: Arc<Live>,
    admin: AdminState,
    looked: bool,
    answer: Option<Answer>,
    trouble: Option<Trouble>,
    /// Since when writes wait for space on its disk.
    full_since: Option<Instant>,
    /// All it was ever seen to have, and on which connection that was.
    best: Option<(Position, u64)>,
    /// Was seen to replicate from the present primary.
    followed: bool,
    /// The operator wants it as primary, whatever it lacks.
    accepted: bool,
    /// Out of the reads because of lag.
    lagging: bool,
    /// It was the primary until another was made so, or should have become one and did not: it is
    /// none, however writable. Until it follows the primary, or [`Topology::accept`].
    deposed: Option<Arc<str>>,
    /// The newest proof asked of Galera nodes that it has given; see [`Topology::wants_proof`].
    proof: u64,
    /// It may have what the primary had before that began anew.
    distrust: Option<reset::Distrust>,
}

#[derive(Debug)]
struct Answer {
    asked: Instant,
    seen: Instant,
    report: Report,
}

#[derive(Debug)]
struct Trouble {
    refused: bool,
    text: String,
}

/// Whether a server can be counted on to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Health {
    Up,
    Down(String),
    Unknown(String),
}

impl Topology {
    #[must_use]
    pub fn new(settings: Settings, members: Vec<Member>, now: Instant) -> Self {
        let servers = members
            .into_iter()
            .map(|member| Known {
                member,
                live: Arc::default(),
                admin: AdminState::Running,
                looked: false,
                answer: None,
                trouble: None,
                full_since: None,
                best: None,
                distrust: None,
                followed: false,
                accepted: false,
                lagging: false,
                deposed: None,
                proof: 0,
            })
            .collect();
        let mut topology = Self {
            settings,
            since: now,
            servers,
            primary: None,
            timeline: Timeline::default(),
            generation: 0,
            succession: None,
            hold: None,
            forbidden: None,
            regained: None,
            parted: false,
            permit: None,
            led: None,
            promoted: None,
            anonymous: anonymous::Anonymous::default(),
            group: group::Group::default(),
            snapshot: Arc::default(),
        };
        topology.evaluate(now);
        topology
    }

    /// The present state of things.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Whether every server was looked at at least once.
    #[must_use]
    pub fn all_looked_at(&self) -> bool {
        self.servers.iter().all(|known| known.looked)
    }

    /// When this server last answered.
    #[must_use]
    pub fn last_answer(&self, id: ServerId) -> Option<Instant> {
        self.servers.get(usize::from(id.0))?.answer.as_ref().map(|answer| answer.seen)
    }

    /// Whether every server that answers has answered a question asked since then.
    #[must_use]
    pub fn seen_since(&self, begun: Instant) -> bool {
        self.servers.iter().all(|known| {
            let answer = known.answer.as_ref();
            known.trouble.is_some() || answer.is_some_and(|answer| answer.asked >= begun)
        })
    }

    /// The `@@server_id`s of all servers, as far as known.
    pub(crate) fn server_ids(&self) -> Vec<u32> {
        let ids = (0..self.servers.len()).filter_map(|i| Some(self.report(i)?.server_id));
        ids.filter(|id| *id != 0).collect()
    }

    /// Whether it is a Galera or Group Replication cluster.
    pub(crate) fn elects_for_itself(&self) -> bool {
        self.group.kind.is_some()
    }

    /// The primary now or, while there is none, the last one, and its `@@server_id`.
    #[must_use]
    pub fn primary(&self) -> Option<(usize, u32)> {
        let primary = self.primary?;
        Some((primary, self.report(primary)?.server_id))
    }

    /// Changes what may change while servers are watched. `weights` are in the order of the servers.
    pub fn reconfigure(&mut self, settings: Settings, weights: &[u32]) {
        self.settings = settings;
        for (known, weight) in self.servers.iter_mut().zip(weights) {
            known.member.weight = *weight;
        }
    }

    /// Where the primary, or the last one, was when last seen.
    #[must_use]
    pub fn primary_position(&self) -> Option<&Position> {
        self.timeline.newest()
    }

    /// What the primary had committed at the newest look, and when that was answered; not of a cluster
    /// that elects for itself.
    #[must_use]
    pub fn primary_seen(&self) -> Option<(Instant, &Position)> {
        let answer = self.servers[self.primary?].answer.as_ref()?;
        self.kind().is_none().then_some((answer.seen, &answer.report.committed))
    }

    /// What the workers share of a server.
    #[must_use]
    pub fn live(&self) -> impl ExactSizeIterator<Item = &Arc<Live>> {
        self.servers.iter().map(|known| &known.live)
    }

    /// Takes in one look. Looks of one server that arrive out of order are dropped.
    pub fn handle_look(&mut self, id: ServerId, asked: Instant, look: Look, now: Instant) {
        let i = usize::from(id.0);
        let Some(known) = self.servers.get_mut(i) else { return };
        if known.answer.as_ref().is_some_and(|last| asked < last.asked) {
            return;
        }
        known.looked = true;
        match look {
            Look::Answer(report) => {
                known.trouble = None;
                known.full_since = report.disk_full.then(|| known.full_since.unwrap_or(now));
                if self.primary == Some(i) {
                    self.timeline.record(asked, now, &report.committed);
                }
                known.answer = Some(Answer { asked, seen: now, report: *report });
            }
            Look::Refused(text) => known.trouble = Some(Trouble { refused: true, text }),
            Look::Failed(text) => known.trouble = Some(Trouble { refused: false, text }),
        }
    }

    fn health(&self, i: usize, now: Instant) -> Health {
        let known = &self.servers[i];
        let timeout = self.settings.timeout;
        match (&known.answer, &known.trouble) {
            (_, Some(trouble)) if trouble.refused => Health::Down(trouble.text.clone()),
            // Silence alone says nothing: it may be the monitor that was asleep.
            (Some(_), None) => Health::Up,
            (Some(answer), Some(trouble)) => {
                let age = now.saturating_duration_since(answer.seen);
                if age < timeout {
                    Health::Up
                } else {
                    let age = report::span(age);
                    Health::Down(format!("no answer for {age}: {}", trouble.text))
                }
            }
            (None, Some(trouble)) => {
                if now.saturating_duration_since(self.since) < timeout {
                    Health::Unknown(trouble.text.clone())
                } else {
                    Health::Down(trouble.text.clone())
                }
            }
            (None, None) => Health::Unknown("not looked at yet".to_owned()),
        }
    }

    /// Whether writes have waited for space on its disk for longer than it may take to answer.
    fn disk_full(&self, i: usize, now: Instant) -> bool {
        let since = self.servers[i].full_since;
        since.is_some_and(|since| now.saturating_duration_since(since) >= self.settings.timeout)
    }

    fn report(&self, i: usize) -> Option<&Report> {
        self.servers[i].answer.as_ref().map(|answer| &answer.report)
    }

    fn name(&self, i: usize) -> &str {
        &self.servers[i].member.name
    }

    /// Draws the conclusions for `now`. Returns what people should be told; the new
    /// [`Topology::snapshot`] is the same as before if nothing changed.
    pub fn evaluate(&mut self, now: Instant) -> Vec<Event> {
        let healths: Vec<_> = (0..self.servers.len()).map(|i| self.health(i, now)).collect();
        self.note_group(&healths, now);
        self.absolve(&healths);
        let election = match self.group.kind {
            Some(_) => self.elect_member(&healths, now),
            None => self.elect(&healths),
        };
        let mut events = Vec::new();
        if let Some(i) = election.primary {
            self.take_office(i, now, &mut events);
            self.parted &= self.forbidden.is_some();
            for &other in &election.beaten {
                let why = format!("writable, but {} has all that it has", self.name(i));
                self.servers[other].deposed = Some(why.into());
            }
        }
        self.note_anonymous(now);
        self.remember();
        self.trust_again();

        let reference = election.primary.or(self.primary);
        let mut servers = Vec::with_capacity(self.servers.len());
        for i in 0..self.servers.len() {
            servers.push(self.conclude(i, &healths, &election, reference, now));
        }
        for (known, server) in self.servers.iter_mut().zip(&servers) {
            if server.role == Role::Replica {
                known.followed = true;
                if server.read_only == Some(true) && election.primary.is_some() {
                    known.deposed = None;
                }
                known.lagging = match server.lag {
                    Some(lag) if known.lagging => lag > self.settings.max_lag * 3 / 4,
                    Some(lag) => lag > self.settings.max_lag,
                    None => known.lagging,
                };
            }
        }

        self.hold.take_if(|hold| election.primary.is_some_and(|i| i != hold.old));
        let primary = election.primary.filter(|&i| {
            self.hold.is_none()
                && self.forbidden.is_none()
                && servers[i].admin != AdminState::Maintenance
        });
        let no_primary_why: Arc<str> = match (primary, election.primary) {
            (Some(_), _) => Arc::from(""),
            (None, _) if self.hold.is_some() => {
                self.hold.as_ref().map_or_else(|| Arc::from(""), |hold| hold.why.clone())
            }
            (None, Some(_)) if self.forbidden.is_some() => {
                self.forbidden.clone().unwrap_or_default()
            }
            (None, Some(i)) => format!("{} is in maintenance", self.name(i)).into(),
            (None, None) => election.why.into(),
        };
        let next = Snapshot {
            version: self.snapshot.version + 1,
            generation: self.generation,
            greeting: self.greeting(reference),
            primary: primary.map(id_of),
            no_primary_why,
            switching: self.hold.as_ref().map(|hold| id_of(hold.old)),
            cut_off: self.forbidden.as_ref().and(reference).map(id_of),
            permit: self.permit.clone(),
            anonymous: self.anonymous.any(),
            succession: self.succession.clone(),
            group: self.group.kind,
            servers,
        };
        events.extend(report::compare(&self.snapshot, &next));
        if !report::same(&self.snapshot, &next) {
            self.snapshot = Arc::new(next);
        }
        events
    }

    fn lag(&self, i: usize, channel: &Channel, healths: &[Health]) -> Option<Duration> {
        let answer = self.servers[i].answer.as_ref()?;
        let report = &answer.report;
        let primary_up = self.primary.is_some_and(|p| healths[p] == Health::Up);
        // Nothing is committed while the primary is away.
        let asked = match self.primary.and_then(|p| self.servers[p].answer.as_ref()) {
            Some(last) if !primary_up => answer.asked.min(last.seen),
            _ => answer.asked,
        };
        let reported = channel.seconds_behind.map(Duration::from_secs);
        let last = self.snapshot.servers.get(i).and_then(|server| server.lag);
        match self.timeline.lag(&report.applied, asked) {
            // Nor does a replica say more then.
            _ if self.anonymous.any() && !primary_up => reported.or(last),
            _ if self.anonymous.any() => reported,
            _ if self.timeline.newest().is_some_and(Position::is_empty) => reported,
            Lag::Is(lag) => Some(lag),
            Lag::AtLeast(lag) => reported.map(|reported| reported.max(lag)),
            // It has all that it ever received: nobody can have more.
            Lag::Unknown if !primary_up => channel
                .received
                .as_ref()
                .filter(|received| report.applied.covers(received))
                .map(|_| Duration::ZERO),
            Lag::Unknown => reported,
        }
    }

    fn greeting(&self, reference: Option<usize>) -> Greeting {
        let report = reference
            .and_then(|i| self.report(i))
            .or_else(|| (0..self.servers.len()).find_map(|i| self.report(i)));
        let Some(report) = report else { return self.snapshot.greeting.clone() };
        let version = version_number(&report.version);
        let mariadb = report.flavour == Flavour::MariaDb;
        // Up to 10.x MariaDB puts this before its version in the handshake, so that old replicas
        // do not take it for a MySQL 1.
        let prefix = if mariadb && version < 110_000 { "5.5.5-" } else { "" };
        Greeting {
            server_version: format!("{prefix}{}", report.version).into(),
            collation: report.collation,
            autocommit: report.autocommit,
            version,
            mariadb,
        }
    }
}

fn id_of(i: usize) -> ServerId {
    ServerId(u16::try_from(i).expect("servers are numbered with u16"))
}

/// `10.11.6-MariaDB` is 101106.
pub(crate) fn version_number(version: &str) -> u32 {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0_u32).min(9999);
    part() * 10_000 + part() * 100 + part()
}

#[cfg(test)]
mod tests;
