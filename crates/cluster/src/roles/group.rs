//! Clusters that elect for themselves: who of them is written to, and who is read.
//!
//! Nobody is promoted here. In Galera, and in a group of several primaries, every member takes
//! writes, but conflicts are spared if only one is given them: the first in the config that is fit,
//! and then the same for as long as it is. In a group of a single primary it is the one elected.
//!
//! | a member | gets |
//! | --- | --- |
//! | Synced or ONLINE, connected to a majority, in the newest set of members | reads |
//! | the same, takes writes, and is chosen | writes |
//! | Donor/Desynced | reads, if `available_when_donor` |
//! | anything else | nothing |
//!
//! Another writer than the last must have all that the cluster had ordered when the last one was
//! lost, so that nobody reads there what is older than what was acknowledged before. In Galera a
//! query that waits for that tells ([`Topology::wants_proof`]); in a group the transactions it has
//! received.

use std::time::{Duration, Instant};

use super::election::Election;
use super::{Health, Topology, id_of};
use crate::ServerId;
use crate::gtid::Position;
use crate::lag::Lag;
use crate::member::{Kind, Membership};
use crate::snapshot::{AdminState, Role};

/// What is remembered of a cluster that elects for itself.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) kind: Option<Kind>,
    /// The writer when last looked.
    writer: Option<usize>,
    /// The operator wants this one.
    wanted: Option<usize>,
    /// Counts the times that the writer was lost. Who is to be the next must prove itself after.
    era: u64,
    /// When it was lost last.
    lost: Option<Instant>,
    /// The newest set of members that anyone spoke of, and since when.
    newest: Option<((u64, u64), Instant)>,
}

/// How long a member may speak of an older set of members than others do, as parts of the timeout:
/// they are not asked at the same moment.
const STRAGGLE: u32 = 4;
const BEHIND: &str = "has still to apply what its cluster has ordered";

impl Topology {
    /// Which kind of cluster the servers are members of, if they are.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.group.kind
    }

    /// Whether server `id` might become the writer of a Galera cluster if it has caught up; the
    /// number is for [`Topology::handle_proof`].
    #[must_use]
    pub fn wants_proof(&self, id: ServerId) -> Option<u64> {
        let known = self.servers.get(usize::from(id.0))?;
        let open = self.group.kind == Some(Kind::Galera) && self.group.writer.is_none();
        (open && known.proof < self.group.era).then_some(self.group.era)
    }

    /// Server `id` has applied all that its cluster had ordered at some time after it was asked for
    /// this proof.
    pub fn handle_proof(&mut self, id: ServerId, era: u64) {
        if let Some(known) = self.servers.get_mut(usize::from(id.0)) {
            known.proof = known.proof.max(era);
        }
    }

    /// The operator wants this member as the writer, or none in particular.
    pub fn prefer(&mut self, id: Option<ServerId>, now: Instant) {
        self.group.wanted = id.map(|id| usize::from(id.0));
        if self.group.wanted.is_some() {
            self.lose_writer(now);
        }
    }

    fn lose_writer(&mut self, now: Instant) {
        self.group.writer = None;
        self.group.era += 1;
        self.group.lost = Some(now);
    }

    pub(super) fn membership(&self, i: usize) -> Option<&Membership> {
        self.report(i)?.membership.as_ref()
    }

    /// Notes what kind of cluster it is, and how far its members have come.
    pub(super) fn note_group(&mut self, healths: &[Health], now: Instant) {
        let up = || (0..healths.len()).filter(|&i| healths[i] == Health::Up);
        let found = (0..healths.len()).find_map(|i| self.membership(i)).map(|m| m.kind);
        if found != self.group.kind && (found.is_some() || up().next().is_some()) {
            let era = self.group.era + 1;
            self.group = Group { kind: found, era, lost: Some(now), ..Group::default() };
        }
        let newest = up()
            .filter_map(|i| self.membership(i).map(|member| (i, member)))
            .filter(|(i, member)| member.quorum && self.foreign(*i, member).is_none())
            .map(|(_, member)| member.view)
            .max();
        match (newest, self.group.newest) {
            (Some(view), Some((known, _))) if view == known => {}
            (Some(view), _) => self.group.newest = Some((view, now)),
            (None, _) => {}
        }
    }

    /// Why member `i` gets no work at all.
    fn unfit(&self, i: usize, now: Instant) -> Option<String> {
        let Some(member) = self.membership(i) else {
            let kind = self.group.kind.map_or("cluster", Kind::as_str);
            return Some(format!("takes no part in the {kind} cluster of the others"));
        };
        if let Some(why) = member.unfit(self.settings.donors) {
            return Some(why);
        }
        if let Some(other) = self.foreign(i, member) {
            return Some(format!("{}, but of another cluster than {other}", member.state));
        }
        let straggle = self.settings.timeout / STRAGGLE;
        match self.group.newest {
            Some((view, since)) if member.view < view && now.duration_since(since) >= straggle => {
                Some(format!("{}, but the others have gone on without it", member.state))
            }
            _ => None,
        }
    }

    /// The member whose cluster counts, if that is not the one of member `i`: the writer's, else that
    /// of the most servers, else of the first.
    fn foreign(&self, i: usize, member: &Membership) -> Option<&str> {
        let same =
            |other: &Membership| other.kind == member.kind && other.cluster == member.cluster;
        let size = |of: usize| {
            let cluster = self.membership(of).map(|m| (m.kind, &m.cluster));
            let members = (0..self.servers.len()).filter(|&j| self.membership(j).is_some());
            members.filter(|&j| self.membership(j).map(|m| (m.kind, &m.cluster)) == cluster).count()
        };
        let members = (0..self.servers.len()).filter(|&j| self.membership(j).is_some());
        let reference = self
            .group
            .writer
            .filter(|&writer| self.membership(writer).is_some())
            .or_else(|| members.max_by_key(|&j| (size(j), std::cmp::Reverse(j))))?;
        let other = self.membership(reference)?;
        (reference != i && !same(other)).then(|| self.name(reference))
    }

    /// Why member `i`, which is fit to be read, is not written to.
    fn unfit_to_write(&self, i: usize) -> Option<String> {
        let report = self.report(i)?;
        let member = report.membership.as_ref()?;
        let known = &self.servers[i];
        if member.elected == Some(false) {
            return Some("is not the primary of its group".to_owned());
        }
        if report.read_only {
            return Some("is read-only".to_owned());
        }
        if member.service != crate::member::Service::Full {
            return Some(format!("is {}", member.state));
        }
        if !known.member.promote && member.elected.is_none() {
            return Some("is not to be written to (promote = false)".to_owned());
        }
        if self.group.writer == Some(i) {
            return None;
        }
        let behind = match member.kind {
            Kind::Galera => known.proof < self.group.era,
            Kind::GroupReplication => {
                member.received.as_ref().is_some_and(|all| !report.standing().covers(all))
            }
        };
        behind.then(|| BEHIND.to_owned())
    }

    pub(super) fn elect_member(&mut self, healths: &[Health], now: Instant) -> Election {
        let mut reasons = Vec::new();
        let mut fit = Vec::new();
        // At the beginning, and when the writer was lost, those that come first are waited for.
        let patient = self.group.writer.is_none()
            && !self.is_single_primary()
            && self.group.lost.is_some_and(|at| now.duration_since(at) < self.settings.timeout);
        let mut awaited = false;
        for (i, health) in healths.iter().enumerate() {
            // One in maintenance keeps its role only where nobody else could have it.
            let maintained = self.servers[i].admin == AdminState::Maintenance
                && self.membership(i).is_none_or(|member| member.elected.is_none());
            let why = match health {
                _ if maintained => Some("is in maintenance".to_owned()),
                Health::Down(_) => Some("is down".to_owned()),
                Health::Unknown(_) => Some("has not answered yet".to_owned()),
                Health::Up => match self.unfit(i, now) {
                    Some(why) => Some(format!("is {why}")),
                    None => self.unfit_to_write(i),
                },
            };
            let soon = why.as_deref() == Some(BEHIND)
                || !maintained && matches!(health, Health::Unknown(_));
            match why {
                None if !awaited => fit.push(i),
                None => {}
                Some(why) => {
                    awaited |= soon && patient && self.group.wanted.is_none();
                    reasons.push(format!("{} {why}", self.name(i)));
                }
            }
        }
        let stays = |i: &usize| !self.settings.first_writes || fit.first() == Some(i);
        let writer = match self.group.wanted {
            Some(wanted) => fit.iter().copied().find(|&i| i == wanted),
            None => {
                let last = self.group.writer.filter(|last| fit.contains(last)).filter(stays);
                last.or_else(|| fit.first().copied())
            }
        };
        // In a multi-primary cluster another one takes over only after it has proved itself.
        let writer = match (self.group.writer, writer) {
            (Some(last), Some(next)) if last != next && self.group.kind == Some(Kind::Galera) => {
                self.lose_writer(now);
                None
            }
            (_, writer) => writer,
        };
        match writer {
            Some(writer) => {
                self.group.writer = Some(writer);
                self.group.wanted.take_if(|wanted| *wanted == writer);
            }
            None if self.group.writer.is_some() => self.lose_writer(now),
            None => {}
        }
        let why = match writer {
            Some(_) => String::new(),
            None if reasons.is_empty() => "the members are being asked".to_owned(),
            None => format!("no member takes writes: {}", reasons.join(", ")),
        };
        Election { primary: writer, why, ..Election::default() }
    }

    /// Role, lag and reason of member `i`, which is up.
    pub(super) fn conclude_member(
        &self,
        i: usize,
        election: &Election,
        now: Instant,
    ) -> (Role, Option<Duration>, String) {
        let summary = self.membership(i).map(Membership::summary).unwrap_or_default();
        if election.primary == Some(i) {
            let why = match self.membership(i).and_then(|member| member.elected) {
                Some(_) => "elected by its group",
                None => "chosen to take the writes",
            };
            return (Role::Primary, None, format!("{summary}; {why}"));
        }
        if let Some(why) = self.unfit(i, now) {
            return (Role::Standalone, None, why);
        }
        let Some(answer) = &self.servers[i].answer else {
            return (Role::Unknown, None, "not looked at yet".to_owned());
        };
        let lag = match self.timeline.lag(&answer.report.applied, answer.asked) {
            Lag::Is(lag) | Lag::AtLeast(lag) => Some(lag),
            Lag::Unknown => None,
        };
        let behind = match lag {
            Some(lag) if lag.is_zero() => "up to date".to_owned(),
            Some(lag) => format!("{} behind", super::report::span(lag)),
            None => "lag unknown".to_owned(),
        };
        (Role::Replica, lag, format!("{summary}, {behind}"))
    }

    /// All that a member had when it took over, if nothing more can come of the last one.
    pub(super) fn inherited_in_group(&self, old: usize, new: usize) -> Option<Position> {
        let member = self.membership(new)?;
        let old = &self.membership(old)?.id;
        let gone = member.kind == Kind::GroupReplication && !member.reaches.contains(old);
        gone.then(|| self.report(new).map(crate::probe::Report::standing)).flatten()
    }

    /// A member that could be the writer instead, the first in the config; an error says why there
    /// is none, or why not `to`.
    ///
    /// # Errors
    /// That.
    pub fn next_writer(&self, to: Option<ServerId>, now: Instant) -> Result<ServerId, String> {
        let able = |i: usize| -> Result<(), String> {
            let name = self.name(i);
            if self.snapshot.primary == Some(id_of(i)) {
                return Err(format!("{name} is the primary already"));
            }
            if let Health::Down(why) | Health::Unknown(why) = self.health(i, now) {
                return Err(format!("{name} is down: {why}"));
            }
            if let Some(why) = self.unfit(i, now) {
                return Err(format!("{name} is {why}"));
            }
            let known = &self.servers[i];
            if known.admin == AdminState::Maintenance {
                return Err(format!("{name} is in maintenance; `pointsman resume {name}` first"));
            }
            let report = self.report(i).filter(|_| known.member.promote);
            let report = report.ok_or_else(|| format!("{name} may not be written to (promote)"))?;
            let elected = report.membership.as_ref().is_some_and(|m| m.elected.is_some());
            if report.read_only && !elected {
                return Err(format!("{name} is read-only"));
            }
            Ok(())
        };
        if let Some(to) = to {
            return able(usize::from(to.0)).map(|()| to);
        }
        let reasons: Vec<_> = (0..self.servers.len()).map(|i| (i, able(i))).collect();
        let found = reasons.iter().find(|(_, able)| able.is_ok());
        found.map(|(i, _)| id_of(*i)).ok_or_else(|| {
            let why: Vec<_> = reasons.into_iter().filter_map(|(_, able)| able.err()).collect();
            format!("nobody could take over: {}", why.join("; "))
        })
    }

    /// Whether the cluster elects one member that alone takes writes.
    #[must_use]
    pub fn is_single_primary(&self) -> bool {
        (0..self.servers.len()).any(|i| self.membership(i).is_some_and(|m| m.elected.is_some()))
    }

    /// Its name within its group, for statements.
    #[must_use]
    pub fn member_id(&self, id: ServerId) -> Option<&str> {
        self.membership(usize::from(id.0)).map(|member| &*member.id)
    }
}

#[cfg(test)]
mod tests;
