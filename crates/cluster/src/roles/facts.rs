//! What is known, for those who decide about another primary.

use std::time::Instant;

use super::reset::Distrust;
use super::{From, Health, Topology};
use crate::failover::{Fact, Facts, Link, State};
use crate::gtid::{Flavour, Position};
use crate::probe::{IoThread, Report};

impl Topology {
    /// The facts of `now`.
    #[must_use]
    pub fn facts(&self, now: Instant) -> Facts {
        let healths: Vec<_> = (0..self.servers.len()).map(|i| self.health(i, now)).collect();
        let primary = self.elect(&healths).primary;
        Facts {
            primary: primary.or(self.primary),
            reigns: primary.is_some(),
            rightful: self.rightful(&healths),
            anonymous: self.anonymous.any(),
            servers: (0..self.servers.len())
                .map(|i| self.fact(i, &healths[i], primary.or(self.primary), now))
                .collect(),
        }
    }

    fn fact(&self, i: usize, health: &Health, primary: Option<usize>, now: Instant) -> Fact {
        let known = &self.servers[i];
        let report = self.report(i);
        let standing = report
            .map_or_else(|| Position::empty(Flavour::default()), crate::probe::Report::standing);
        let mut received = standing.clone();
        for fetched in report.iter().flat_map(|report| &report.channels) {
            if let Some(fetched) = &fetched.received {
                received.merge(fetched);
            }
        }
        let refused = known.trouble.as_ref().is_some_and(|trouble| trouble.refused);
        Fact {
            name: known.member.name.clone(),
            admin: known.admin,
            weight: known.member.weight,
            promote: known.member.promote,
            state: match health {
                Health::Up => State::Up,
                Health::Down(_) if refused => State::Refused,
                Health::Down(_) => State::Silent,
                Health::Unknown(_) => State::Unknown,
            },
            read_only: report.is_none_or(|report| report.read_only),
            disk_full: self.disk_full(i, now),
            connection: report.map_or(0, |report| report.connection),
            standing,
            received,
            kept_out: known.deposed.is_some(),
            half_rebuilt: report.is_some_and(Report::is_half_rebuilt),
            alone: report.is_some_and(|report| report.channels.is_empty()),
            distrusted: known.distrust.as_ref().map(Distrust::unfit),
            gtids: report.is_none_or(|report| matches!(&*report.gtid_mode, "" | "ON")),
            link: primary.map_or(Link::None, |primary| self.link(i, primary)),
            astray: primary.is_some_and(|primary| {
                primary != i
                    && self.channel_to(i, primary).is_none()
                    && self.source_of(i).is_some_and(|source| source != i)
            }),
        }
    }

    fn link(&self, i: usize, primary: usize) -> Link {
        let Some(report) = self.report(i) else { return Link::None };
        let Some(channel) =
            report.channels.iter().find(|channel| self.from(channel) == From::Member(primary))
        else {
            return Link::None;
        };
        if report.channels.len() > 1 {
            Link::Several
        } else if channel.broken().is_some() {
            Link::Broken
        } else if !channel.sql_running {
            Link::Stopped
        } else {
            match channel.io {
                IoThread::Running => Link::Connected,
                IoThread::Connecting => Link::Connecting,
                // By an error that may heal: MySQL gives up after some attempts.
                IoThread::Stopped if channel.io_error.is_some() => Link::Connecting,
                IoThread::Stopped => Link::Stopped,
            }
        }
    }
}
