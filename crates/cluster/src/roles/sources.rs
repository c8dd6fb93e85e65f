//! Who replicates from whom.

use super::{Health, Member, Topology, id_of};
use crate::probe::{Channel, IoThread};

/// Whom a server replicates from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From<'a> {
    Member(usize),
    Stranger(&'a Channel),
}

impl Member {
    /// Whether `channel` leads here, going by the address.
    fn is_at(&self, channel: &Channel) -> bool {
        let Some((host, port)) = self.address.rsplit_once(':') else { return false };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case(&channel.source_host) && port.parse() == Ok(channel.source_port)
    }
}

impl Topology {
    /// Whom this channel replicates from. What the source said of itself when last connected counts
    /// while connected; else the address does, since it may have been changed since.
    pub(super) fn from<'a>(&self, channel: &'a Channel) -> From<'a> {
        let by_address = self.servers.iter().position(|known| known.member.is_at(channel));
        let mut by_id = self.servers.iter().enumerate().filter(|(_, known)| {
            channel.source_server_id != 0
                && known
                    .answer
                    .as_ref()
                    .is_some_and(|a| a.report.server_id == channel.source_server_id)
        });
        // Two servers with one id: a mistake that some sites live with. Then it says nothing.
        let by_id = match (by_id.next(), by_id.next()) {
            (Some((i, _)), None) => Some(i),
            _ => None,
        };
        let found = if channel.io == IoThread::Running {
            by_id.or(by_address)
        } else {
            by_address.or(by_id)
        };
        found.map_or(From::Stranger(channel), From::Member)
    }

    /// The channel of `i` that leads to `target`, over other members if need be.
    pub(super) fn channel_to(&self, i: usize, target: usize) -> Option<&Channel> {
        self.report(i)?.channels.iter().find(|channel| match self.from(channel) {
            From::Member(source) => self.leads_to(source, target, self.servers.len()),
            From::Stranger(_) => false,
        })
    }

    pub(super) fn leads_to(&self, i: usize, target: usize, depth: usize) -> bool {
        i == target
            || depth > 0
                && self.report(i).is_some_and(|report| {
                    report.channels.iter().any(|channel| match self.from(channel) {
                        From::Member(source) => self.leads_to(source, target, depth - 1),
                        From::Stranger(_) => false,
                    })
                })
    }

    /// Whether some other up server fetches from `i` right now, directly.
    pub(super) fn has_replicas(&self, i: usize, healths: &[Health]) -> bool {
        (0..self.servers.len()).any(|other| {
            other != i
                && healths[other] == Health::Up
                && self.report(other).is_some_and(|report| {
                    report.channels.iter().any(|channel| {
                        channel.io == IoThread::Running && self.from(channel) == From::Member(i)
                    })
                })
        })
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
