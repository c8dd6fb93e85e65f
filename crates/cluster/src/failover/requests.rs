//! What operators ask for.

use std::time::{Duration, Instant};

use super::machine::{Effect, Machine, Phase};
use super::{Fact, Link, State, Step};
use crate::snapshot::AdminState;

/// A replica that has more to apply than it can in about this time keeps writers waiting too long.
const CLOSE_BEHIND: Duration = Duration::from_secs(2);

impl Machine {
    /// Begins to replace the primary in good order. [`Effect::Answer`] tells how it went.
    ///
    /// # Errors
    /// Why it is not begun.
    pub fn switchover(
        &mut self,
        to: Option<usize>,
        lags: &[Option<Duration>],
        now: Instant,
    ) -> Result<(), String> {
        let (old, to) = self.pick(to, lags)?;
        let mut change = self.change(old, Some(to), now);
        (change.planned, change.asked, change.began) = (true, true, now);
        let (old_name, name) = (self.facts.name(old).to_owned(), self.facts.name(to).to_owned());
        self.tell("switchover_begun", to, format!("{name} is to take over from {old_name}"));
        if self.settings.handle_events {
            self.start(Step::Rest { server: old });
            self.phase = Phase::Rest(change);
        } else {
            self.close(change, now);
        }
        Ok(())
    }

    /// What [`Machine::switchover`] would do, or why it would not.
    ///
    /// # Errors
    /// The latter.
    pub fn rehearse(
        &self,
        to: Option<usize>,
        lags: &[Option<Duration>],
    ) -> Result<Vec<String>, String> {
        let (old, to) = self.pick(to, lags)?;
        let (old_name, to_name) = (self.facts.name(old), self.facts.name(to));
        let wait = self.settings.transaction_wait.as_millis();
        let mut plan = Vec::new();
        if self.settings.handle_events {
            plan.push(format!("disable the scheduled events of {old_name}, if it has any"));
        }
        plan.extend([
            "hold new writes back".to_owned(),
            format!("let open transactions on {old_name} end, for at most {wait} ms"),
            format!("make {old_name} read-only and cut off what still writes there"),
            format!("wait until {to_name} has applied all of it, then stop its replication"),
            format!("make {to_name} writable and let the writes through"),
        ]);
        if self.settings.handle_events {
            plan.push(format!("enable those events on {to_name}"));
        }
        let others = self.facts.servers.iter().enumerate().filter(|&(i, fact)| {
            i != old && i != to && fact.state == State::Up && fact.link != Link::None
        });
        for (_, fact) in others {
            plan.push(format!("point {} at {to_name}", fact.name));
        }
        plan.push(format!("make {old_name} a replica of {to_name}"));
        Ok(plan)
    }

    fn pick(&self, to: Option<usize>, lags: &[Option<Duration>]) -> Result<(usize, usize), String> {
        self.free()?;
        let old = self.facts.primary.filter(|_| self.facts.reigns).ok_or(
            "there is no primary to take over from; `pointsman failover` replaces one that is lost",
        )?;
        let old_name = self.facts.name(old);
        if to == Some(old) {
            return Err(format!("{old_name} is the primary already"));
        }
        let mut fit = self.candidates(to, false)?;
        let connected = |i: &usize| self.facts.servers[*i].link == Link::Connected;
        if !fit.iter().any(connected) {
            let names: Vec<_> = fit.iter().map(|&i| self.facts.name(i)).collect();
            return Err(format!("{} has no connection to {old_name}", names.join(" and ")));
        }
        fit.retain(connected);
        let without: Vec<_> = fit.extract_if(.., |i| !self.facts.servers[*i].gtids).collect();
        if fit.is_empty() {
            let names: Vec<_> = without.iter().map(|&i| self.facts.name(i)).collect();
            let names = names.join(" and ");
            return Err(format!(
                "{names} could not be followed by GTID: set gtid_mode = ON there first"
            ));
        }
        let lag = |i: usize| lags.get(i).copied().flatten();
        fit.sort_by_key(|&i| {
            let weight = std::cmp::Reverse(self.facts.servers[i].weight);
            (lag(i).is_none(), lag(i).map(|lag| lag.as_secs()), weight, i)
        });
        let best = fit[0];
        match lag(best) {
            Some(lag) if lag <= CLOSE_BEHIND => Ok((old, best)),
            Some(lag) => Err(format!(
                "{} is {:.1} s behind; writes would wait for that long",
                self.facts.name(best),
                lag.as_secs_f64()
            )),
            None => Err(format!("it is not known how far {} is behind", self.facts.name(best))),
        }
    }

    /// Begins to replace a lost primary. [`Effect::Answer`] tells how it went.
    ///
    /// # Errors
    /// Why it is not begun.
    pub fn failover(&mut self, to: Option<usize>, force: bool, now: Instant) -> Result<(), String> {
        self.free()?;
        let old =
            self.facts.primary.ok_or("no primary was ever seen, so there is none to replace")?;
        let fact = &self.facts.servers[old];
        let name = fact.name.clone();
        if to == Some(old) {
            return Err(format!("{name} is the one to be replaced"));
        }
        if !force && fact.state == State::Up {
            return Err(format!(
                "{name} is alive; `pointsman switchover` replaces it without loss, `pointsman \
                 failover --force` without regard to it"
            ));
        }
        if !force
            && let Some(witness) = self
                .facts
                .servers
                .iter()
                .find(|f| f.state == State::Up && f.link == Link::Connected)
            && fact.state == State::Refused
        {
            return Err(format!("{} still replicates from {name}; --force does it", witness.name));
        }
        self.candidates(to, force)?;
        let mut change = self.change(old, to, now);
        (change.force, change.asked) = (force, true);
        if fact.state == State::Up {
            change.began = now;
            let why = format!("{name} is being replaced by force");
            self.push(Effect::Hold { old, why });
        }
        self.tell(
            "failover_asked",
            old,
            format!("{name} is to be replaced, as the operator wants"),
        );
        self.freeze(change);
        Ok(())
    }

    /// Begins to make `server` a replica. [`Effect::Answer`] tells how it went.
    ///
    /// # Errors
    /// Why it is not begun.
    pub fn rejoin(&mut self, server: usize) -> Result<(), String> {
        self.free()?;
        self.comparable()?;
        let primary = self
            .facts
            .primary
            .filter(|_| self.facts.reigns)
            .ok_or("there is no primary that it could follow")?;
        let fact = &self.facts.servers[server];
        let name = &fact.name;
        if server == primary {
            return Err(format!("{name} is the primary"));
        }
        if fact.state != State::Up {
            return Err(format!("{name} is down"));
        }
        if fact.admin == AdminState::Maintenance {
            return Err(format!("{name} is in maintenance; `pointsman resume {name}` first"));
        }
        if fact.link == Link::Several {
            return Err(format!("{name} replicates from several sources: do it by hand"));
        }
        if fact.link == Link::Connected && fact.read_only {
            return Err(format!("{name} replicates from {} already", self.facts.name(primary)));
        }
        self.take_back(server, primary);
        Ok(())
    }

    /// Whose data `server` is to get instead of its own: a healthy replica's rather than the primary's.
    /// `force`: even if it could follow the primary as it is. `down`: even if it does not answer.
    ///
    /// # Errors
    /// Why it can't be rebuilt.
    pub fn donor(&self, server: usize, force: bool, down: bool) -> Result<usize, String> {
        self.free()?;
        self.comparable()?;
        let primary = self
            .facts
            .primary
            .filter(|_| self.facts.reigns)
            .ok_or("there is no primary that it could follow")?;
        let fact = &self.facts.servers[server];
        let name = &fact.name;
        if server == primary {
            return Err(format!("{name} is the primary: `pointsman switchover` first"));
        }
        if self.care.is_rebuilt(server) {
            return Err(format!("{name} is being rebuilt already"));
        }
        if fact.state != State::Up && !down {
            return Err(format!("{name} is down; it is given its data over a connection"));
        }
        let healthy = matches!(fact.link, Link::Connected | Link::Connecting | Link::Stopped);
        let doubted = self.care.is_out(server) || fact.distrusted.is_some();
        if fact.state == State::Up && healthy && !doubted && !force {
            return Err(format!(
                "{name} has not diverged, it replicates; --force gives it new data all the same, and \
                 what it has is gone then"
            ));
        }
        if fact.admin == AdminState::Maintenance {
            return Err(format!("{name} is in maintenance; `pointsman resume {name}` first"));
        }
        let fit = |i: &usize| {
            let fact = &self.facts.servers[*i];
            *i != server && fact.admin == AdminState::Running && !self.care.is_rebuilt(*i)
        };
        let whole = |fact: &Fact| {
            fact.link == Link::Connected && fact.read_only && fact.distrusted.is_none()
        };
        let replica = self.up(whole).find(fit);
        Ok(replica.unwrap_or(primary))
    }

    /// `server` gets another one's data and is left alone until it has them.
    pub fn rebuild_begins(&mut self, server: usize) {
        self.care.rebuild(server, true);
    }

    /// It has them, or it `failed` (completes "its rebuild ").
    pub fn rebuild_ends(&mut self, server: usize, failed: Option<String>) {
        self.care.rebuild(server, false);
        if let Some(why) = failed {
            self.care.half_done(server, why);
        }
    }

    /// Nothing else is under way, and the account may.
    fn free(&self) -> Result<(), String> {
        if !self.is_idle() || self.is_asked() {
            return Err(format!("something else is under way: {}", self.status().join("; ")));
        }
        if let Some(why) = self.lead.refusal() {
            return Err(why);
        }
        self.able.clone().map_err(|why| why.to_string())
    }
}
