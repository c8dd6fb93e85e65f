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
        if self.facts.servers[i].distrusted && !force {
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
                _ if fact.distrusted => {
                    format!("{name} was not seen to begin anew when its primary did")
                }
                Link::Broken => format!("{name}'s replication is broken"),
                Link::Stopped => format!("{name}'s replication was stopped before"),
                _ => format!("{name} does not replicate from it"),
            }
        } else {
            return None;
        })
    }

    /// Who may be promoted; the error says why nobody may.
    pub(super) fn candidates(
        &self,
        wish: Option<usize>,
        force: bool,
    ) -> Result<Vec<usize>, String> {
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
            (!applied, std::cmp::Reverse(fact.weight), i)
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
