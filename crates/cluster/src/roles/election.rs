//! Who is the primary, if anyone.

use std::cmp::Reverse;

use super::{From, Health, Topology};
use crate::gtid::{History, Position};
use crate::probe::{Channel, IoThread, Report};
use crate::snapshot::AdminState;

/// The outcome, and why each candidate that lost did so.
#[derive(Debug, Default)]
pub(super) struct Election {
    pub(super) primary: Option<usize>,
    /// Why nobody was elected; empty if somebody was.
    pub(super) why: String,
    /// Writable servers that might be primary.
    pub(super) candidates: Vec<usize>,
    /// Candidates that lack transactions, and which.
    pub(super) unfit: Vec<(usize, String)>,
    /// Candidates that lost to one that has all they have.
    pub(super) beaten: Vec<usize>,
}

impl Topology {
    pub(super) fn elect(&self, healths: &[Health]) -> Election {
        let mut candidates: Vec<_> =
            (0..healths.len()).filter(|&i| self.is_candidate(i, healths)).collect();
        if self.primary.is_none() && !self.all_looked_at() {
            // Who has not been asked yet may be another one.
            candidates.clear();
        }
        let in_service =
            candidates.iter().any(|&i| self.servers[i].admin != AdminState::Maintenance);
        let mut election = Election { candidates, ..Election::default() };
        let mut fit = Vec::new();
        let led = self.led();
        for &i in &election.candidates {
            if led.is_some_and(|led| led != i) {
                continue;
            }
            if in_service && self.servers[i].admin == AdminState::Maintenance {
                continue;
            }
            match self.lacks(i, healths) {
                None => fit.push(i),
                Some(why) => election.unfit.push((i, why)),
            }
        }
        let with_replicas: Vec<_> =
            fit.iter().copied().filter(|&i| self.has_replicas(i, healths)).collect();
        election.primary = match (fit.as_slice(), self.primary) {
            ([only], _) => Some(*only),
            (_, Some(last)) if with_replicas.contains(&last) => Some(last),
            (_, None) if with_replicas.len() == 1 => Some(with_replicas[0]),
            // Not while clients may still be writing to one of them.
            (_, Some(last)) if fit.contains(&last) && !self.parted => None,
            _ => self.has_all(&fit),
        };
        if let Some(i) = election.primary.filter(|_| fit.len() > 1 && with_replicas.is_empty()) {
            election.beaten = fit.iter().copied().filter(|&other| other != i).collect();
        }
        if election.primary.is_none() {
            election.why = self.why_none(&fit, &election, healths);
        }
        election
    }

    /// Whom the leading proxy takes for the primary.
    pub(super) fn led(&self) -> Option<usize> {
        let id = self.led?;
        (0..self.servers.len()).find(|&i| self.report(i).is_some_and(|r| r.server_id == id))
    }

    /// Forgets that a server was kept out which the leading proxy takes for the primary, or which the
    /// one that took over from it follows by now.
    pub(super) fn absolve(&mut self, healths: &[Health]) {
        for i in 0..self.servers.len() {
            if self.servers[i].deposed.is_none() {
                continue;
            }
            let followed = self.primary.is_some_and(|last| {
                last != i
                    && healths[last] == Health::Up
                    && self.report(last).is_some_and(|report| report.read_only)
                    && self
                        .channel_to(last, i)
                        .is_some_and(|channel| channel.io == IoThread::Running)
            });
            if followed || self.led() == Some(i) {
                self.servers[i].deposed = None;
            }
        }
    }

    /// The first that has every transaction of the others, so that nothing is lost with them. Only
    /// GTIDs tell.
    fn has_all(&self, fit: &[usize]) -> Option<usize> {
        let histories: Option<Vec<_>> =
            fit.iter().map(|&i| self.report(i).and_then(Report::history)).collect();
        let histories = histories?;
        let covers = |own: &History| histories.iter().all(|other| other.beyond(own).is_none());
        let first = histories.iter().position(covers)?;
        (fit.len() > 1 && !histories[first].is_empty()).then(|| fit[first])
    }

    fn is_candidate(&self, i: usize, healths: &[Health]) -> bool {
        if healths[i] != Health::Up || self.servers[i].deposed.is_some() {
            return false;
        }
        self.report(i).is_some_and(|report| {
            !report.read_only
                && !report.is_half_rebuilt()
                && (report.channels.is_empty()
                    || self.in_ring(i, report)
                    || report.channels.iter().all(|channel| channel.stopped())
                        && self.has_replicas(i, healths))
        })
    }

    /// Whether all that it replicates comes, in the end, from itself.
    fn in_ring(&self, i: usize, report: &Report) -> bool {
        report.channels.iter().all(|channel| match self.from(channel) {
            From::Member(source) => source != i && self.leads_to(source, i, self.servers.len()),
            From::Stranger(_) => false,
        })
    }

    /// What `i` lost, or never had, that forbids it to be the primary.
    fn lacks(&self, i: usize, healths: &[Health]) -> Option<String> {
        let report = self.report(i)?;
        let known = &self.servers[i];
        if known.accepted || self.led() == Some(i) {
            return None;
        }
        let standing = report.standing();
        let best = known.best.as_ref();
        let intact = best.is_none_or(|(best, _)| standing.covers(best));
        let same_connection = best.is_some_and(|(_, on)| *on == report.connection);
        let was_primary = self.primary == Some(i);
        if was_primary && (intact || same_connection) {
            return self.parted.then(|| self.overtaken(i, &standing, healths)).flatten();
        }
        // Those that fetch from a new primary can't have what it lacks; they were only asked a little
        // later. The old one is known to have lost something.
        let fetches = |other| {
            self.channel_to(other, i).is_some_and(|channel| channel.io == IoThread::Running)
        };
        let ahead = (0..healths.len()).find(|&other| {
            other != i
                && healths[other] == Health::Up
                && self
                    .report(other)
                    .is_some_and(|o| !o.is_half_rebuilt() && !standing.covers(&o.applied))
                && (was_primary || !fetches(other) && !self.has_given_way(other, i, healths))
        });
        if let Some(other) = ahead {
            let theirs = self.report(other).map(|report| report.applied.to_string());
            return Some(format!(
                "lacks transactions that {} has (it is at \"{standing}\", {} at \"{}\")",
                self.name(other),
                self.name(other),
                theirs.unwrap_or_default()
            ));
        }
        if was_primary {
            return standing.is_empty().then(|| {
                "came back without any of its transactions; an empty data directory?".to_owned()
            });
        }
        let newest = self.timeline.newest().filter(|newest| !standing.covers(newest))?;
        if known.followed && intact {
            return None;
        }
        let last = self.primary.map_or("the last primary", |p| self.name(p));
        Some(format!(
            "lacks transactions that {last} had (it is at \"{standing}\", {last} was at \
             \"{newest}\")"
        ))
    }

    /// Whether `other` looks like a former primary that `i` took over from before this process began:
    /// nobody has to do with it, while others follow `i`; or it takes no writes, and `i` has been written
    /// to since. What it has of its own is lost with it, whoever is asked.
    fn has_given_way(&self, other: usize, i: usize, healths: &[Health]) -> bool {
        let history = |of: usize| self.report(of).and_then(Report::history);
        let has_own = || {
            history(i)
                .zip(history(other))
                .is_some_and(|(own, theirs)| own.beyond(&theirs).is_some())
        };
        self.primary.is_none()
            && self.report(other).is_some_and(|o| o.channels.is_empty())
            && !self.has_replicas(other, healths)
            && (self.has_replicas(i, healths)
                || self.report(other).is_some_and(|o| o.read_only) && has_own())
    }

    /// Nobody takes writes, nor was anybody seen to since this process began: a primary has restarted
    /// and its configuration makes it read-only, or a change was broken off. All servers are there, and
    /// read-only or replicas; then one that follows nobody and has all that there is is the primary by rights: of
    /// several that which others fetch from, or were not told to stop fetching from.
    pub(super) fn rightful(&self, healths: &[Health]) -> Option<usize> {
        let all = || 0..healths.len();
        let quiet = |i: usize| {
            healths[i] == Health::Up
                && self.servers[i].deposed.is_none()
                // A former primary that follows another may not have been made read-only yet.
                && self.report(i).is_some_and(|r| {
                    r.read_only || !r.channels.is_empty() && !self.is_candidate(i, healths)
                })
        };
        if self.primary.is_some() || healths.len() < 2 || !all().all(quiet) {
            return None;
        }
        let histories = all().map(|i| self.report(i).and_then(Report::history));
        let histories: Vec<_> = histories.collect::<Option<_>>()?;
        let has_all = |i: &usize| {
            let Some(report) = self.report(*i) else { return false };
            let standing = report.standing();
            report.channels.is_empty()
                && !histories[*i].is_empty()
                && all().all(|other| histories[other].beyond(&histories[*i]).is_none())
                && all().filter_map(|other| self.report(other)).all(|other| {
                    let mut received = other.channels.iter().filter_map(|c| c.received.as_ref());
                    received.all(|received| standing.covers(received))
                })
        };
        all().filter(has_all).max_by_key(|&i| {
            let with = |running: bool| {
                let to = |c: &Channel| {
                    (c.io == IoThread::Running) == running && self.from(c) == From::Member(i)
                };
                let channels =
                    all().filter_map(|other| self.report(other)).flat_map(|o| &o.channels);
                channels.filter(|c| to(c)).count()
            };
            (with(true), Reverse(with(false)), Reverse(i))
        })
    }

    /// While this proxy was cut off, another one may have made another primary: one that replicates
    /// from nobody, and has more.
    fn overtaken(&self, i: usize, standing: &Position, healths: &[Health]) -> Option<String> {
        let by = (0..healths.len()).find(|&other| {
            other != i
                && healths[other] == Health::Up
                && self.report(other).is_some_and(|report| {
                    report.channels.is_empty()
                        && !report.is_half_rebuilt()
                        && !standing.covers(&report.standing())
                })
        })?;
        let theirs = self.report(by)?.standing();
        Some(format!(
            "lacks transactions that {} has, which may have been made the primary meanwhile (it is at \
             \"{standing}\", {} at \"{theirs}\")",
            self.name(by),
            self.name(by),
        ))
    }

    fn why_none(&self, fit: &[usize], election: &Election, healths: &[Health]) -> String {
        let names = |of: &[usize]| {
            of.iter().map(|&i| self.name(i).to_owned()).collect::<Vec<_>>().join(" and ")
        };
        if fit.len() > 1 {
            return format!(
                "{} are writable at the same time; set read_only=1 on all but one",
                names(fit)
            );
        }
        if let Some(led) = self.led() {
            return format!(
                "{} is the primary for the proxy that leads, and does not take writes",
                self.name(led)
            );
        }
        if let Some((i, why)) = election.unfit.first() {
            return format!("{} is writable but {why}", self.name(*i));
        }
        let states: Vec<_> = (0..healths.len())
            .map(|i| {
                let state = match &healths[i] {
                    Health::Down(_) => "is down",
                    Health::Unknown(_) => "has not answered yet",
                    Health::Up => match self.report(i) {
                        Some(report) if report.read_only => "is read-only",
                        _ => "is writable but set up to replicate",
                    },
                };
                format!("{} {state}", self.name(i))
            })
            .collect();
        format!("no server takes writes: {}", states.join(", "))
    }

    /// Whether `i` is the primary's rival: writable, and not its replica.
    pub(super) fn why_not_primary(&self, i: usize, election: &Election) -> String {
        let unfit = election.unfit.iter().find(|(other, _)| *other == i);
        match (unfit, election.primary) {
            (Some((_, why)), _) => format!("writable but {why}"),
            (None, Some(primary)) => {
                format!("writable, but so is {}, which is the primary", self.name(primary))
            }
            (None, None) if self.led().is_some_and(|led| led != i) => {
                let led = self.led().map_or("?", |led| self.name(led));
                format!("writable, but {led} is the primary for the proxy that leads")
            }
            (None, None) => {
                let others: Vec<_> = election
                    .candidates
                    .iter()
                    .filter(|&&other| other != i)
                    .map(|&other| self.name(other))
                    .collect();
                format!(
                    "writable, but so is {}: no primary until one is read_only",
                    others.join(" and ")
                )
            }
        }
    }

    pub(super) fn is_rival(&self, i: usize, election: &Election) -> bool {
        election.primary != Some(i) && election.candidates.contains(&i)
    }
}
