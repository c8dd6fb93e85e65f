//! Who is the primary, if anyone.

use super::{From, Health, Topology, id_of};
use crate::probe::{IoThread, Report};
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
}

impl Topology {
    pub(super) fn elect(&self, healths: &[Health]) -> Election {
        let candidates: Vec<_> =
            (0..healths.len()).filter(|&i| self.is_candidate(i, healths)).collect();
        let in_service =
            candidates.iter().any(|&i| self.servers[i].admin != AdminState::Maintenance);
        let mut election = Election { candidates, ..Election::default() };
        let mut fit = Vec::new();
        for &i in &election.candidates {
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
            _ => None,
        };
        if election.primary.is_none() {
            election.why = self.why_none(&fit, &election, healths);
        }
        election
    }

    fn is_candidate(&self, i: usize, healths: &[Health]) -> bool {
        if healths[i] != Health::Up || self.servers[i].deposed.is_some() {
            return false;
        }
        self.report(i).is_some_and(|report| {
            !report.read_only
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
        if known.accepted {
            return None;
        }
        let standing = report.standing();
        let best = known.best.as_ref();
        let intact = best.is_none_or(|(best, _)| standing.covers(best));
        let same_connection = best.is_some_and(|(_, on)| *on == report.connection);
        let was_primary = self.primary == Some(i);
        if was_primary && (intact || same_connection) {
            return None;
        }
        // Those that fetch from a new primary can't have what it lacks; they were only asked a little
        // later. The old one is known to have lost something.
        let fetches = |other| {
            self.channel_to(other, i).is_some_and(|channel| channel.io == IoThread::Running)
        };
        let ahead = (0..healths.len()).find(|&other| {
            other != i
                && healths[other] == Health::Up
                && self.report(other).is_some_and(|o| !standing.covers(&o.applied))
                && (was_primary || !fetches(other))
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

    pub(super) fn source_of(&self, i: usize) -> Option<usize> {
        self.report(i)?.channels.iter().find_map(|channel| match self.from(channel) {
            From::Member(source) => Some(source),
            From::Stranger(_) => None,
        })
    }

    pub(super) fn source_id(&self, i: usize) -> Option<crate::ServerId> {
        self.source_of(i).map(id_of)
    }
}
