//! Is the primary that is missing dead, and is it to be replaced? Pure.

use std::time::{Duration, Instant};

use super::machine::{Effect, Machine, PAUSE, Phase};
use super::tend::ASTRAY;
use super::{Fact, Failure, Link, Outcome, State, Step};
use crate::snapshot::AdminState;

/// How long the port may refuse while a replica is still connected before that is told.
const DOUBT: Duration = Duration::from_secs(1);

impl Machine {
    /// There is no primary: is it dead, and can another one be made?
    pub(super) fn consider(&mut self, now: Instant) {
        let Some(old) = self.facts.primary else { return self.reinstate(now) };
        let Some(fact) = self.facts.servers.get(old) else { return };
        if matches!(fact.state, State::Up | State::Unknown) {
            return self.restore(old, now);
        }
        let name = fact.name.clone();
        if fact.admin == AdminState::Maintenance {
            return self.refuse(old, format!("{name} is in maintenance: it is not replaced"));
        }
        if !self.settings.auto {
            return;
        }
        if let Err(why) = self.able.clone() {
            return self.refuse(old, format!("{name} is lost and can't be replaced: {why}"));
        }
        if self.not_before.is_some() {
            return;
        }
        if let Err(why) = self.candidates(None, false) {
            return self.refuse(old, format!("{name} is lost and can't be replaced: {why}"));
        }
        let connected: Vec<_> = self.up(|fact| fact.link == Link::Connected).collect();
        if fact.state == State::Silent {
            let connected = connected.into_iter().chain(self.stopped_by_us()).collect::<Vec<_>>();
            self.doubt = None;
            let agreed = self.up(|fact| fact.link == Link::Connecting).next().is_some();
            self.phase = Phase::Verify { old, agreed };
            self.start(Step::Ping { server: old });
            for server in connected {
                // It stops fetching for that, and may not begin again.
                self.frozen.insert(server);
                self.start(Step::Reach { server });
            }
        } else if let Some(&witness) = connected.first() {
            let since = *self.doubt.get_or_insert(now);
            if now.saturating_duration_since(since) >= DOUBT {
                let witness = self.facts.name(witness).to_owned();
                self.refuse(
                    old,
                    format!(
                        "{name} refuses connections from here, but {witness} still replicates from \
                         it: it is not replaced; look at the way from Pointsman to {name}"
                    ),
                );
                self.timer = Some(now + DOUBT / 4);
            } else {
                self.hurry(now);
            }
        } else {
            self.doubt = None;
            self.freeze(self.change(old, None, now));
        }
    }

    /// A primary whose disk is full answers, and replicas are connected to it, but nothing is written
    /// there before somebody makes room. Whether it is being replaced.
    pub(super) fn relieve(&mut self, now: Instant) -> bool {
        let Some(old) = self.facts.primary else { return false };
        let fact = &self.facts.servers[old];
        if !fact.disk_full
            || fact.admin == AdminState::Maintenance
            || !self.settings.auto
            || self.able.is_err()
            || self.not_before.is_some()
            || self.candidates(None, false).is_err()
        {
            return false;
        }
        let why = format!("{}'s disk is full", fact.name);
        self.push(Effect::Hold { old, why });
        self.freeze(self.change(old, None, now));
        true
    }

    /// A site that was started whole, with a configuration that makes all servers read-only; or a primary
    /// that restarted while no Pointsman was there to see it, or one that was killed amid a change.
    fn reinstate(&mut self, now: Instant) {
        let rightful = self.facts.rightful.filter(|&i| {
            let fact = &self.facts.servers[i];
            fact.admin == AdminState::Running && fact.promote && self.settings.auto
        });
        let Some(i) = rightful.filter(|_| self.able.is_ok()) else {
            self.unopened = None;
            return;
        };
        let since = *self.unopened.get_or_insert(now);
        if now.saturating_duration_since(since) >= ASTRAY {
            // A change that was broken off may have left replicas that fetch no more.
            let stopped = |fact: &Fact| fact.state == State::Up && !fact.alone;
            self.frozen
                .extend((0..self.facts.servers.len()).filter(|&o| stopped(&self.facts.servers[o])));
            let text = format!(
                "nobody takes writes, and {} has all that there is: it is made writable",
                self.facts.name(i)
            );
            self.make_writable(i, text, now);
        }
    }

    /// Replicas that were told to stop fetching, for an attempt that came to nothing.
    pub(super) fn stopped_by_us(&self) -> Vec<usize> {
        let stopped = self.up(|fact| fact.link == Link::Stopped);
        stopped.filter(|i| self.frozen.contains(i)).collect()
    }

    /// A server that was made the primary and restarts is read-only again if its configuration says
    /// so.
    pub(super) fn restore(&mut self, old: usize, now: Instant) {
        let fact = &self.facts.servers[old];
        let restarted = self.heir.as_ref().is_some_and(|heir| heir.server == old && heir.lost);
        // A switchover that the proxy which led before did not finish.
        let left = self.broken_off && !self.lead.changing;
        if (restarted || left)
            && fact.state == State::Up
            && fact.read_only
            && fact.link == Link::None
            && !fact.astray
            && fact.admin == AdminState::Running
            && self.settings.auto
            && self.able.is_ok()
        {
            let name = self.facts.name(old).to_owned();
            let text =
                format!("{name}, the primary, came back read-only and is made writable again");
            self.make_writable(old, text, now);
        }
    }

    pub(super) fn verified(
        &mut self,
        old: usize,
        agreed: bool,
        step: &Step,
        outcome: Result<Outcome, Failure>,
        now: Instant,
    ) {
        let name = self.facts.name(old).to_owned();
        let witness = self.facts.name(step.server()).to_owned();
        // One that does not answer says nothing.
        let agreed = agreed || outcome == Ok(Outcome::Reached(false));
        let alive = match (step, outcome) {
            (Step::Ping { .. }, Ok(_)) => Some(format!("{name} answers a new connection")),
            (_, Ok(Outcome::Reached(true))) => Some(format!("{witness} can reach it")),
            _ => None,
        };
        if let Some(alive) = alive {
            self.idle();
            self.not_before = Some(now + PAUSE);
            let text = format!("{name} is silent but not dead: {alive}; it is not replaced");
            return self.refuse(old, text);
        }
        if !self.waiting.is_empty() {
            self.phase = Phase::Verify { old, agreed };
        } else if agreed {
            self.freeze(self.change(old, None, now));
        } else {
            self.idle();
            self.not_before = Some(now + PAUSE);
            let text =
                format!("{name} is silent, and no replica could be asked whether it is dead");
            self.refuse(old, text);
        }
    }
}
