//! How a server takes part in a cluster that elects for itself: Galera, or MySQL's Group
//! Replication. Pure: made of what the server says, judged by [`crate::roles`].
//!
//! Sources: <https://galeracluster.com/library/documentation/galera-status-variables.html>,
//! <https://dev.mysql.com/doc/refman/9.0/en/group-replication-server-states.html>.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::gtid::Position;

/// Which kind of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Galera,
    GroupReplication,
}

impl Kind {
    /// As its documentation calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Galera => "Galera",
            Self::GroupReplication => "Group Replication",
        }
    }
}

/// What a member can be used for, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Full,
    /// Galera: it gives its data to a joining node, or was told to fall behind (`wsrep_desync`).
    Donor,
    /// Neither reads nor writes.
    None,
}

/// What a member says of itself and of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub kind: Kind,
    /// Which cluster: `wsrep_cluster_state_uuid`, `group_replication_group_name`.
    pub cluster: Arc<str>,
    /// Its own name in there: `wsrep_gcomm_uuid`, `server_uuid`.
    pub id: Arc<str>,
    /// In the field's words: "Synced", "Donor/Desynced", "non-Primary"; "ONLINE", "RECOVERING".
    pub state: Arc<str>,
    pub service: Service,
    /// It is connected to a majority, as it believes.
    pub quorum: bool,
    /// Counts the changes of membership; the same number is the same set of members, a higher one a
    /// later set.
    pub view: (u64, u64),
    /// How many members it knows of.
    pub size: u32,
    /// Group Replication: ids of those that it can reach.
    pub reaches: Vec<Arc<str>>,
    /// Whether it is the one that takes writes; `None` where all do.
    pub elected: Option<bool>,
    /// Why it takes no statements although it is well.
    pub refuses: Option<&'static str>,
    /// Transactions it has received and not applied.
    pub queue: u64,
    /// Group Replication: all that it has received.
    pub received: Option<Position>,
}

impl Membership {
    /// From `wsrep_*` status and variables.
    #[must_use]
    pub fn galera(value: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| value(name).unwrap_or_default();
        let number = |name: &str| text(name).trim().parse::<u64>().unwrap_or(0);
        let on = |name: &str| matches!(text(name).as_str(), "ON" | "1");
        let quorum = text("wsrep_cluster_status").eq_ignore_ascii_case("Primary");
        let (local, ready) = (number("wsrep_local_state"), on("wsrep_ready"));
        // Joining, Donor/Desynced, Joined, Synced.
        let service = match local {
            _ if !quorum => Service::None,
            2 => Service::Donor,
            4 if ready => Service::Full,
            _ => Service::None,
        };
        let state = match text("wsrep_cluster_status") {
            status if !quorum && !status.is_empty() => status,
            _ => text("wsrep_local_state_comment"),
        };
        let rejects = text("wsrep_reject_queries");
        let refuses = if !rejects.is_empty() && rejects != "NONE" {
            Some("wsrep_reject_queries is set")
        } else if service == Service::Donor && on("wsrep_sst_donor_rejects_queries") {
            Some("wsrep_sst_donor_rejects_queries is set")
        } else {
            None
        };
        Self {
            kind: Kind::Galera,
            cluster: text("wsrep_cluster_state_uuid").into(),
            id: text("wsrep_gcomm_uuid").into(),
            state: state.into(),
            service,
            quorum,
            view: (0, number("wsrep_cluster_conf_id")),
            size: u32::try_from(number("wsrep_cluster_size")).unwrap_or(0),
            reaches: Vec::new(),
            elected: None,
            refuses,
            queue: number("wsrep_local_recv_queue"),
            received: None,
        }
    }

    /// From the lines of `performance_schema.replication_group_members`.
    #[must_use]
    pub fn group(own: &str, name: &str, single_primary: bool, lines: &[GroupLine]) -> Self {
        let mine = lines.iter().find(|line| line.id == own).or_else(|| lines.first());
        let state = mine.map_or("OFFLINE", |line| line.state.as_str());
        let reachable = |line: &&GroupLine| line.state != "UNREACHABLE";
        let reached = lines.iter().filter(reachable).count();
        let quorum = reached * 2 > lines.len() && matches!(state, "ONLINE" | "RECOVERING");
        let service = if quorum && state == "ONLINE" { Service::Full } else { Service::None };
        Self {
            kind: Kind::GroupReplication,
            cluster: name.into(),
            id: own.into(),
            state: state.into(),
            service,
            quorum,
            view: mine.map_or((0, 0), |line| view(&line.view)),
            size: u32::try_from(lines.len()).unwrap_or(u32::MAX),
            reaches: lines.iter().filter(reachable).map(|line| line.id.as_str().into()).collect(),
            elected: single_primary
                .then(|| mine.is_some_and(|line| line.role == "PRIMARY" && line.id == own)),
            refuses: None,
            queue: mine.map_or(0, |line| line.queue),
            received: None,
        }
    }

    /// Completes "db1 is ", or stands for itself: why it gets no work at all. `donors`: those that
    /// give their data away are used all the same.
    #[must_use]
    pub fn unfit(&self, donors: bool) -> Option<String> {
        let state = &self.state;
        if let Some(why) = self.refuses {
            return Some(format!("{state}, but {why}"));
        }
        Some(match (self.kind, self.service) {
            (_, Service::Full) => return None,
            (_, Service::Donor) if donors => return None,
            (_, Service::Donor) => {
                format!("{state}: it gives its data to another node, or wsrep_desync is set")
            }
            (Kind::Galera, Service::None) if !self.quorum => {
                format!("{state}: not in the primary component of its cluster")
            }
            (Kind::Galera, Service::None) => format!("{state}: it is joining its cluster"),
            (Kind::GroupReplication, Service::None) => match &**state {
                "ONLINE" => {
                    let seen = self.reaches.len();
                    format!("ONLINE, but it reaches only {seen} of {} members", self.size)
                }
                "RECOVERING" => "RECOVERING: it is joining its group".to_owned(),
                "ERROR" => "ERROR: its group has put it out, or it could not apply what it got; \
                            see its error log"
                    .to_owned(),
                _ => format!("{state}: not in its group (START GROUP_REPLICATION)"),
            },
        })
    }

    /// "Synced, one of 3", with what waits to be applied.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!("{}, one of {}", self.state, self.size);
        if self.queue > 0 {
            let _ = write!(text, ", {} transactions wait to be applied", self.queue);
        }
        text
    }
}

/// One line of `performance_schema.replication_group_members`, with its statistics.
#[derive(Debug, Clone, Default)]
pub struct GroupLine {
    pub id: String,
    pub state: String,
    pub role: String,
    /// `VIEW_ID`.
    pub view: String,
    /// Transactions that wait for certification or to be applied.
    pub queue: u64,
}

/// `17325:4`: when the group began, and how often its members changed since.
fn view(text: &str) -> (u64, u64) {
    let (group, number) = text.split_once(':').unwrap_or(("", text));
    (group.parse().unwrap_or(0), number.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn galera(pairs: &[(&str, &str)]) -> Membership {
        Membership::galera(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const SYNCED: [(&str, &str); 5] = [
        ("wsrep_cluster_status", "Primary"),
        ("wsrep_local_state", "4"),
        ("wsrep_local_state_comment", "Synced"),
        ("wsrep_ready", "ON"),
        ("wsrep_cluster_size", "3"),
    ];

    #[test]
    fn galera_in_its_own_words() {
        let with = |more: &[(&'static str, &'static str)]| galera(&[more, &SYNCED].concat());
        assert_eq!(with(&[]).unfit(false), None);
        assert_eq!(with(&[("wsrep_reject_queries", "NONE")]).unfit(false), None);
        let cut_off = with(&[("wsrep_cluster_status", "non-Primary")]);
        assert_eq!((&*cut_off.state, cut_off.quorum), ("non-Primary", false));
        assert!(cut_off.unfit(true).is_some());
        let donor = [("wsrep_local_state", "2"), ("wsrep_local_state_comment", "Donor/Desynced")];
        assert!(with(&donor).unfit(false).is_some_and(|why| why.starts_with("Donor/Desynced")));
        assert_eq!(with(&donor).unfit(true), None);
        let shy = [&donor[..], &[("wsrep_sst_donor_rejects_queries", "ON")]].concat();
        assert!(with(&shy).unfit(true).is_some());
        assert!(with(&[("wsrep_reject_queries", "ALL")]).unfit(true).is_some());
        assert!(with(&[("wsrep_local_state", "3")]).unfit(true).is_some());
        assert!(with(&[("wsrep_ready", "OFF")]).unfit(true).is_some());
    }

    fn line(id: &str, state: &str, role: &str) -> GroupLine {
        let view = "1732530000000:7".to_owned();
        GroupLine { id: id.into(), state: state.into(), role: role.into(), view, queue: 0 }
    }

    #[test]
    fn a_group_member_needs_a_majority() {
        let lines = |a: &str, b: &str, c: &str| {
            let lines =
                [line("a", a, "PRIMARY"), line("b", b, "SECONDARY"), line("c", c, "SECONDARY")];
            Membership::group("a", "g", true, &lines)
        };
        let well = lines("ONLINE", "ONLINE", "UNREACHABLE");
        assert_eq!((well.unfit(false), well.elected), (None, Some(true)));
        assert_eq!(well.view, (1_732_530_000_000, 7));
        assert_eq!(well.reaches.len(), 2);
        let alone = lines("ONLINE", "UNREACHABLE", "UNREACHABLE");
        assert!(alone.unfit(false).is_some_and(|why| why.contains("1 of 3")));
        assert!(lines("RECOVERING", "ONLINE", "ONLINE").unfit(false).is_some());
        assert!(lines("ERROR", "ONLINE", "ONLINE").unfit(false).is_some());
        let out = Membership::group("a", "g", true, &[line("", "OFFLINE", "")]);
        assert_eq!((out.quorum, out.elected), (false, Some(false)));
    }
}
