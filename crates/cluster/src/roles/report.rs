//! Conclusions in words: each server's role with a reason, and events when something changes.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::election::Election;
use super::{From, Health, Topology, id_of};
use crate::probe::{Channel, IoThread};
use crate::snapshot::{AdminState, Role, Server, ServerId, Snapshot};

/// Something people should be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Stable name for programs.
    pub code: &'static str,
    /// Which server it is about, if about one.
    pub server: Option<ServerId>,
    /// One sentence.
    pub text: String,
}

/// "1.2 s", "340 ms", "3 min".
pub(super) fn span(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        100_000..6_000_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

impl Topology {
    /// What server `i` is. `reference` is the primary or, lacking one, the last.
    pub(super) fn conclude(
        &self,
        i: usize,
        healths: &[Health],
        election: &Election,
        reference: Option<usize>,
        now: Instant,
    ) -> Server {
        let known = &self.servers[i];
        let report = self.report(i);
        let (role, lag, mut why) = match &healths[i] {
            Health::Down(why) => (Role::Down, None, why.clone()),
            Health::Unknown(why) => (Role::Unknown, None, why.clone()),
            Health::Up if self.kind().is_some() => self.conclude_member(i, election, now),
            Health::Up => self.conclude_up(i, healths, election, reference),
        };
        let trusted = known.distrust.is_none();
        if role == Role::Replica
            && let Some(distrust) = &known.distrust
        {
            why.push_str(distrust.words());
        }
        let max_lag = self.settings.max_lag;
        let allowed = if known.lagging { max_lag * 3 / 4 } else { max_lag };
        Server {
            id: id_of(i),
            name: known.member.name.clone(),
            address: known.member.address.clone(),
            role,
            admin: known.admin,
            lag,
            takes_reads: role == Role::Replica
                && trusted
                && known.admin == AdminState::Running
                && known.member.weight > 0
                && lag.is_some_and(|lag| lag <= allowed),
            why: why.into(),
            weight: known.member.weight,
            server_id: report.map_or(0, |report| report.server_id),
            logs_rows: report.is_some_and(|report| report.logs_rows),
            version: report.map_or_else(|| Arc::from(""), |report| report.version.clone()),
            source: self.source_id(i),
            kept_out: known.deposed.is_some(),
            disk_full: self.disk_full(i, now),
            read_only: report.map(|report| report.read_only),
            state: match &healths[i] {
                Health::Up => self.membership(i).map(|member| member.state.clone()),
                _ => None,
            },
            live: known.live.clone(),
        }
    }

    fn conclude_up(
        &self,
        i: usize,
        healths: &[Health],
        election: &Election,
        reference: Option<usize>,
    ) -> (Role, Option<Duration>, String) {
        if election.primary == Some(i) {
            return (Role::Primary, None, self.why_primary(i, election));
        }
        let Some(report) = self.report(i) else {
            return (Role::Unknown, None, "not looked at yet".to_owned());
        };
        if report.is_half_rebuilt() {
            let why = "kept out: it was being given another server's data, and has not got all";
            return (Role::Standalone, None, why.to_owned());
        }
        if let Some(why) = &self.servers[i].deposed
            && (report.channels.is_empty() || !report.read_only)
        {
            return (Role::Standalone, None, format!("kept out: {why}"));
        }
        // A promoted server may still have its old channels, and rivals may be in a ring.
        let toward = reference.and_then(|reference| self.channel_to(i, reference));
        let following = toward.is_some_and(|channel| !channel.stopped() && reference != Some(i));
        if self.is_rival(i, election) && !(following && election.primary.is_some()) {
            return (Role::Standalone, None, self.why_not_primary(i, election));
        }
        let channel = match (toward, reference) {
            (Some(channel), _) => channel,
            (None, _) if report.channels.is_empty() => {
                // At the start a server may have to wait until the others have been looked at.
                let is = if report.read_only { "read-only" } else { "writable" };
                let why = format!("{is}, and replicates from nobody");
                return (Role::Standalone, None, why);
            }
            (None, reference) => {
                // Nothing is known of any primary yet: whoever replicates from a member may well
                // replicate from the primary.
                let member = report
                    .channels
                    .iter()
                    .find(|channel| matches!(self.from(channel), From::Member(_)));
                match (member, reference) {
                    (Some(channel), None) => channel,
                    (member, reference) => {
                        let channel = member.unwrap_or(&report.channels[0]);
                        let why = self.why_elsewhere(channel, reference);
                        return (Role::Standalone, None, why);
                    }
                }
            }
        };
        let source = self.source_name(channel);
        if let Some(error) = channel.broken() {
            let why = format!(
                "replication from {source} is broken: error {}: {}",
                error.code, error.text
            );
            return (Role::Standalone, None, why);
        }
        let lag = self.lag(i, channel, healths);
        let mut why = self.why_replica(channel, lag, report.read_only, healths);
        if self.servers[i].full_since.is_some() && report.read_only {
            why.push_str("; its disk is full");
        }
        (Role::Replica, lag, why)
    }

    fn why_primary(&self, i: usize, election: &Election) -> String {
        let rivals: Vec<_> = election
            .candidates
            .iter()
            .filter(|&&other| other != i)
            .map(|&other| self.name(other))
            .collect();
        let mut why = if rivals.is_empty() {
            "writable, and replicates from nobody".to_owned()
        } else {
            format!("the primary before {} became writable too", rivals.join(" and "))
        };
        why.push_str(&self.without_gtids(i));
        why
    }

    fn source_name(&self, channel: &Channel) -> String {
        match self.from(channel) {
            From::Member(source) => self.name(source).to_owned(),
            From::Stranger(_) => format!("{}:{}", channel.source_host, channel.source_port),
        }
    }

    fn why_elsewhere(&self, channel: &Channel, reference: Option<usize>) -> String {
        let source = self.source_name(channel);
        match (self.from(channel), reference) {
            (From::Stranger(_), _) => {
                format!("replicates from {source}, which is not in the config")
            }
            (From::Member(_), Some(primary)) => {
                format!("replicates from {source}, but the primary is {}", self.name(primary))
            }
            (From::Member(_), None) => format!("replicates from {source}"),
        }
    }

    fn why_replica(
        &self,
        channel: &Channel,
        lag: Option<Duration>,
        read_only: bool,
        healths: &[Health],
    ) -> String {
        let source = self.source_name(channel);
        let source_down = matches!(
            self.from(channel),
            From::Member(source) if matches!(healths[source], Health::Down(_))
        );
        let mut why = match (channel.io, channel.sql_running) {
            (IoThread::Stopped, false) => format!("replication from {source} is stopped"),
            (IoThread::Stopped, true) => {
                format!("has stopped fetching from {source} (START SLAVE IO_THREAD)")
            }
            (_, false) => {
                format!("has stopped applying what {source} sends (START SLAVE SQL_THREAD)")
            }
            (IoThread::Running, true) => format!("replicates from {source}"),
            (IoThread::Connecting, true) if source_down => {
                format!("replicates from {source}, which is down")
            }
            (IoThread::Connecting, true) => match &channel.io_error {
                Some(error) => format!("can't reach its source {source}: {}", error.text),
                None => format!("is connecting to its source {source}"),
            },
        };
        let _ = match lag {
            Some(lag) if lag.is_zero() => write!(why, ", up to date"),
            Some(lag) => write!(why, ", {} behind", span(lag)),
            None => write!(why, ", lag unknown"),
        };
        if !read_only {
            why.push_str("; writable too, set read_only=1 there");
        }
        why
    }
}

/// Whether nothing changed that anybody can see.
pub(super) fn same(old: &Snapshot, new: &Snapshot) -> bool {
    old.primary == new.primary
        && old.generation == new.generation
        && old.no_primary_why == new.no_primary_why
        && old.switching == new.switching
        && old.group == new.group
        && old.cut_off == new.cut_off
        && old.anonymous == new.anonymous
        && old.greeting == new.greeting
        && old.servers.len() == new.servers.len()
        && old.servers.iter().zip(&new.servers).all(|(a, b)| {
            a.role == b.role
                && a.admin == b.admin
                && a.weight == b.weight
                && a.lag == b.lag
                && a.takes_reads == b.takes_reads
                && a.why == b.why
                && a.server_id == b.server_id
                && a.logs_rows == b.logs_rows
                && a.version == b.version
                && a.source == b.source
                && a.read_only == b.read_only
                && a.kept_out == b.kept_out
                && a.disk_full == b.disk_full
                && a.state == b.state
        })
}

/// Whether `server` can be written to beside another one that can.
fn is_rival(snapshot: &Snapshot, server: &Server) -> bool {
    let writable =
        |s: &&Server| s.role == Role::Standalone && s.read_only == Some(false) && !s.kept_out;
    snapshot.group.is_none()
        && writable(&server)
        && (snapshot.primary.is_some() || snapshot.servers.iter().filter(writable).count() > 1)
}

/// What people should be told of the way from `old` to `new`.
pub(super) fn compare(old: &Snapshot, new: &Snapshot) -> Vec<Event> {
    let mut events = Vec::new();
    if old.servers.len() != new.servers.len() {
        return events;
    }
    for (a, b) in old.servers.iter().zip(&new.servers) {
        let mut tell = |code, text| events.push(Event { code, server: Some(b.id), text });
        let name = &b.name;
        let why = &b.why;
        match (a.role, b.role) {
            (old, new) if old == new => {}
            (_, Role::Down) => tell("server_down", format!("{name} is down: {why}")),
            (Role::Down | Role::Unknown, Role::Primary) => {
                tell("server_up", format!("{name} is up, as the primary"));
            }
            (Role::Down | Role::Unknown, _) => tell("server_up", format!("{name} is up: {why}")),
            (_, Role::Standalone) if new.group.is_some() => {
                tell("member_out", format!("{name} gets no work: {why}"));
            }
            (Role::Replica, Role::Standalone) => {
                tell("replication_broken", format!("{name} is no replica any more: {why}"));
            }
            (Role::Primary, Role::Replica) if new.group.is_some() => {}
            (_, Role::Replica) if new.group.is_some() => {
                tell("member_in", format!("{name} takes reads: {why}"));
            }
            (_, Role::Replica) => tell("replica_joined", format!("{name} is a replica: {why}")),
            _ => {}
        }
        let was_known = a.lag.is_some() || new.group.is_none();
        if a.role == Role::Replica && b.role == Role::Replica && a.admin == b.admin && was_known {
            match (a.takes_reads, b.takes_reads) {
                (true, false) => tell("replica_lagging", format!("{name} gets no reads: {why}")),
                (false, true) => tell("replica_fresh", format!("{name} gets reads again: {why}")),
                _ => {}
            }
        }
        let replicates = b.role == Role::Replica && new.group.is_none();
        if replicates && a.read_only != Some(false) && b.read_only == Some(false) {
            tell(
                "replica_writable",
                format!("{name} is a replica but writable: set read_only=1 there"),
            );
        }
        match (a.disk_full, b.disk_full) {
            (false, true) => tell(
                "disk_full",
                match b.role {
                    Role::Replica => format!(
                        "{name}'s disk is full: it applies nothing until there is space on it"
                    ),
                    _ => format!("{name}'s disk is full: writes wait until there is space on it"),
                },
            ),
            (true, false) => tell("disk_freed", format!("{name} has space on its disk again")),
            _ => {}
        }
        if a.admin != b.admin {
            let text = match b.admin {
                AdminState::Running => format!("{name} is back in service"),
                AdminState::Draining => format!("{name} is draining: it gets no new work"),
                AdminState::Maintenance => format!("{name} is in maintenance: it gets no work"),
            };
            tell("admin_state", text);
        }
        if is_rival(new, b) && !is_rival(old, a) {
            tell("two_writable", format!("{name} is {why}"));
        }
    }
    if old.anonymous != new.anonymous
        && let Some(primary) = new.servers.iter().find(|server| server.role == Role::Primary)
    {
        let (name, why) = (&primary.name, &primary.why);
        events.push(match new.anonymous {
            true => Event {
                code: "gtids_missing",
                server: Some(primary.id),
                text: format!("{name} is {why}"),
            },
            false => Event {
                code: "gtids_back",
                server: Some(primary.id),
                text: format!(
                    "{name}'s transactions have GTIDs again: replicas that are sure to have the others \
                     serve fresh reads"
                ),
            },
        });
    }
    if old.primary != new.primary {
        let name = |s: &Snapshot| s.primary().map(|server| server.name.to_string());
        events.push(match (name(old), name(new)) {
            (_, None) => Event {
                code: "primary_lost",
                server: old.primary,
                text: format!("no primary: {}", new.no_primary_why),
            },
            (None, Some(new_name)) => Event {
                code: "primary_changed",
                server: new.primary,
                text: format!("{new_name} is the primary"),
            },
            (Some(old_name), Some(new_name)) => Event {
                code: "primary_changed",
                server: new.primary,
                text: format!("{new_name} is the primary now, no longer {old_name}"),
            },
        });
    }
    events
}
