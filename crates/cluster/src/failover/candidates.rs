//! Who may take over, and who should. Pure.

use super::machine::{Change, Machine};
use super::{Fact, Link, State};
use crate::snapshot::AdminState;

impl Machine {
    pub(super) fn up(&self, fits: impl Fn(&Fact) -> bool) -> impl Iterator<Item = usize> {
        let all = self.facts.servers.iter().enumerate();
        all.filter(move |(_, fact)| fact.state == State::Up && fits(fact)).map(|(i, _)| i)
    }

    /// Whether its data is as new as can be had.
    pub(super) fn has_followed(&self, i: usize, force: bool) -> bool {
        if self.facts.servers[i].distrusted.is_some() && !force {
            return false;
        }
        match self.facts.servers[i].link {
            Link::Connected | Link::Connecting => true,
            Link::None if self.is_equal(i) => true,
            Link::Stopped if self.broken_off && self.following.contains(&i) => true,
            Link::Stopped | Link::None => self.frozen.contains(&i) || force,
            Link::Broken => force,
            Link::Several => false,
        }
    }

    /// The primary died before anybody could follow it, and this one has all that it began with.
    pub(super) fn is_equal(&self, i: usize) -> bool {
        self.heir.as_ref().is_some_and(|heir| {
            self.facts.primary == Some(heir.server)
                && heir.equals.contains(&i)
                && heir
                    .inherited
                    .as_ref()
                    .is_some_and(|all| self.facts.servers[i].received.covers(all))
        })
    }

    /// Why this server may not be promoted.
    pub(super) fn unfit(&self, i: usize, force: bool) -> Option<String> {
        let fact = self.facts.servers.get(i)?;
        let name = &fact.name;
        Some(if fact.state != State::Up {
            format!("{name} is down")
        } else if fact.admin != AdminState::Running {
            format!("{name} is {}", fact.admin.as_str())
        } else if !fact.promote && !force {
            format!("{name} has promote = false")
        } else if fact.link == Link::Several {
            format!("{name} replicates from several sources")
        } else if !self.has_followed(i, force) {
            match fact.link {
                _ if let Some(why) = fact.distrusted => format!("{name} {why}"),
                Link::Broken => format!("{name}'s replication is broken"),
                Link::Stopped => format!("{name}'s replication was stopped before"),
                _ => format!("{name} does not replicate from it"),
            }
        } else {
            return None;
        })
    }

    /// Whether it can be told what each server has; else why not.
    pub(super) fn comparable(&self) -> Result<(), String> {
        let Some(primary) = self.facts.primary.filter(|_| self.facts.anonymous) else {
            return Ok(());
        };
        Err(format!(
            "transactions of {} have no GTIDs, or had none until lately, so what others lack can't be \
             told: set gtid_mode = ON on all servers, or do it by hand",
            self.facts.name(primary)
        ))
    }

    /// Who may be promoted; the error says why nobody may.
    pub(super) fn candidates(
        &self,
        wish: Option<usize>,
        force: bool,
    ) -> Result<Vec<usize>, String> {
        self.comparable()?;
        let others = (0..self.facts.servers.len())
            .filter(|&i| Some(i) != self.facts.primary && wish.is_none_or(|wish| wish == i));
        let mut fit = Vec::new();
        let mut unfit = Vec::new();
        for i in others {
            match self.unfit(i, force) {
                None => fit.push(i),
                Some(why) => unfit.push(why),
            }
        }
        match (fit.is_empty(), unfit.is_empty()) {
            (false, _) => Ok(fit),
            (true, true) => Err("there is no other server".to_owned()),
            (true, false) => Err(unfit.join(", ")),
        }
    }

    /// The best of those that are frozen; the error says why there is none.
    pub(super) fn best(&self, change: &Change) -> Result<(usize, usize), String> {
        let got = &change.received;
        let ahead =
            |i: usize| got.get(&i).is_some_and(|own| got.values().all(|other| own.covers(other)));
        let names = |of: &mut dyn Iterator<Item = usize>| {
            of.map(|i| self.facts.name(i).to_owned()).collect::<Vec<_>>().join(" and ")
        };
        if got.is_empty() {
            return Err("no replica could be asked what it has".to_owned());
        }
        let mut most: Vec<usize> = got.keys().copied().filter(|&i| ahead(i)).collect();
        if most.is_empty() {
            return Err(format!(
                "{} each have transactions that the others lack; name one with `pointsman failover \
                 --to SERVER --force`",
                names(&mut got.keys().copied())
            ));
        }
        most.sort_by_key(|&i| {
            let fact = &self.facts.servers[i];
            let applied = got.get(&i).is_some_and(|all| fact.standing.covers(all));
            (!fact.gtids, !applied, std::cmp::Reverse(fact.weight), i)
        });
        let may = |i: usize| {
            self.unfit(i, change.force).is_none() && change.wish.is_none_or(|wish| wish == i)
        };
        if let Some(&to) = most.iter().find(|&&i| may(i)) {
            return Ok((to, to));
        }
        let to = got.keys().copied().filter(|&i| may(i)).max_by_key(|&i| {
            let covered = got.values().filter(|other| got[&i].covers(other)).count();
            (covered, self.facts.servers[i].weight, std::cmp::Reverse(i))
        });
        let to = to.ok_or("no replica that may be promoted could be asked")?;
        Ok((to, most[0]))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Facts, Lead, Settings};
    use super::*;
    use crate::gtid::{Flavour, Position};

    /// `db1` is the primary, the others follow it.
    fn machine(servers: usize, change: impl FnOnce(&mut Facts)) -> Machine {
        let fact = |i: usize| Fact {
            name: format!("db{}", i + 1).into(),
            admin: AdminState::Running,
            weight: 1,
            promote: true,
            state: State::Up,
            read_only: i > 0,
            disk_full: false,
            connection: 1,
            standing: Position::empty(Flavour::MySql),
            received: Position::empty(Flavour::MySql),
            kept_out: false,
            half_rebuilt: false,
            distrusted: None,
            gtids: true,
            link: if i > 0 { Link::Connected } else { Link::None },
            alone: i == 0,
            astray: false,
        };
        let mut facts = Facts {
            primary: Some(0),
            reigns: true,
            servers: (0..servers).map(fact).collect(),
            ..Facts::default()
        };
        change(&mut facts);
        let mut machine = Machine::new(Settings {
            auto: true,
            auto_rejoin: true,
            apply_timeout: Duration::from_secs(10),
            switchover_timeout: Duration::from_secs(10),
            transaction_wait: Duration::from_secs(1),
            handle_events: false,
            note_statements: false,
        });
        (machine.able, machine.lead, machine.facts) = (Ok(()), Lead::alone(), facts);
        machine
    }

    #[test]
    fn one_with_an_old_history_is_neither_candidate_nor_donor() {
        let machine = machine(4, |facts| facts.servers[1].distrusted = Some("is odd"));
        assert_eq!(machine.candidates(None, false), Ok(vec![2, 3]));
        let why = machine.candidates(Some(1), false).unwrap_err();
        assert_eq!(why, "db2 is odd");
        assert_eq!(machine.candidates(Some(1), true), Ok(vec![1]));
        assert_eq!(machine.donor(3, true, false), Ok(2));
        // It is the one that is in need of data, though it replicates.
        assert_eq!(machine.donor(1, false, false), Ok(2));
        assert!(machine.donor(2, false, false).unwrap_err().contains("has not diverged"));
    }

    #[test]
    fn nobody_is_switched_over_to_who_could_not_be_followed() {
        let lag = [Some(Duration::ZERO); 3];
        let mut machine = machine(3, |facts| facts.servers[1].gtids = false);
        machine.facts.servers[2].weight = 0;
        assert!(machine.rehearse(None, &lag).unwrap()[3].contains("db3"));
        let error = machine.rehearse(Some(1), &lag).unwrap_err();
        assert_eq!(error, "db2 could not be followed by GTID: set gtid_mode = ON there first");
        // If the primary is lost it is better than none.
        assert_eq!(machine.candidates(None, false), Ok(vec![1, 2]));
    }

    #[test]
    fn without_gtids_nobody_is() {
        let mut machine = machine(3, |facts| facts.anonymous = true);
        let says_why = |error: String| assert!(error.contains("gtid_mode = ON"), "{error}");
        for force in [false, true] {
            says_why(machine.candidates(None, force).unwrap_err());
            says_why(machine.donor(1, force, false).unwrap_err());
        }
        machine.facts.servers[2].link = Link::None;
        says_why(machine.rejoin(2).unwrap_err());
    }
}
