//! The course of a change, from the first step to the last or back again. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::events::few;
use super::machine::{Change, Effect, Heir, Machine, PAUSE, Phase};
use super::{Failure, Outcome, State, Step};
use crate::gtid::Position;
use crate::snapshot::AdminState;

/// How long looks may take to show a new primary.
const CONFIRM: Duration = Duration::from_secs(3);

impl Machine {
    pub(super) fn change(&self, old: usize, wish: Option<usize>, now: Instant) -> Change {
        Change {
            old,
            to: wish.unwrap_or(old),
            planned: false,
            wish,
            force: false,
            asked: false,
            began: self.lost.unwrap_or(now),
            received: BTreeMap::new(),
            attempts: 0,
            inherited: None,
            opened: None,
        }
    }

    /// Stops all replicas from fetching, so that what they have is final.
    pub(super) fn freeze(&mut self, change: Change) {
        self.waiting.clear();
        let of_interest: Vec<_> = (0..self.facts.servers.len())
            .filter(|&i| {
                i != change.old
                    && self.facts.servers[i].state == State::Up
                    && self.facts.servers[i].admin != AdminState::Maintenance
                    && self.has_followed(i, change.force)
            })
            .collect();
        for server in of_interest {
            self.frozen.insert(server);
            self.start(Step::Freeze { server });
        }
        let (old, asked) = (change.old, change.asked);
        self.phase = Phase::Freeze(change);
        if !asked {
            let name = self.facts.name(old).to_owned();
            let why = match self.facts.servers[old].disk_full {
                true => "can't write, since its disk is full",
                false => "is dead",
            };
            self.tell("failover_begun", old, format!("{name} {why}: looking for the best replica"));
        }
    }

    pub(super) fn froze(
        &mut self,
        mut change: Change,
        step: &Step,
        outcome: Result<Outcome, Failure>,
        now: Instant,
    ) {
        let server = step.server();
        match outcome {
            Ok(Outcome::At(received)) => {
                change.received.insert(server, received);
            }
            Ok(_) => {}
            Err(failure) => self.tell_failure(step, &failure),
        }
        if !self.waiting.is_empty() {
            self.phase = Phase::Freeze(change);
            return;
        }
        if change.force
            && let Some(wish) = change.wish
            && let Some(own) = change.received.get(&wish).cloned()
        {
            change.to = wish;
            return self.settle(change, own, now);
        }
        match self.best(&change) {
            Err(why) => self.no_way(change, why, now),
            Ok((to, ahead)) => {
                change.to = to;
                let wanted = change.received[&ahead].clone();
                if to == ahead {
                    self.settle(change, wanted, now);
                } else {
                    self.start(Step::Join { server: to, to: ahead });
                    self.phase = Phase::Fetch(change, wanted);
                }
            }
        }
    }

    /// Whatever became of that: events are no reason not to change the primary.
    pub(super) fn rested(
        &mut self,
        change: Change,
        step: &Step,
        outcome: Result<Outcome, Failure>,
        now: Instant,
    ) {
        self.care.wake_soon();
        match outcome {
            Ok(Outcome::Rested { failed, .. }) if !failed.is_empty() => {
                let text = format!(
                    "scheduled events could not be disabled on {}: {}",
                    self.facts.name(change.old),
                    few(&failed)
                );
                self.tell("events_not_at_rest", change.old, text);
            }
            Ok(_) => {}
            Err(failure) => self.tell_failure(step, &failure),
        }
        self.close(change, now);
    }

    /// New writes are held back from here on.
    pub(super) fn close(&mut self, mut change: Change, now: Instant) {
        let (old, to) = (self.facts.name(change.old), self.facts.name(change.to));
        let why = format!("a switchover from {old} to {to} is under way");
        change.began = now;
        self.effects.push_back(Effect::Hold { old: change.old, why });
        let wait = self.settings.transaction_wait;
        self.start(Step::Close { server: change.old, wait });
        self.phase = Phase::Close(change);
    }

    pub(super) fn settle(&mut self, change: Change, wanted: Position, now: Instant) {
        let wait = if change.planned {
            (change.began + self.settings.switchover_timeout).saturating_duration_since(now)
        } else {
            self.settings.apply_timeout
        };
        self.start(Step::Settle { server: change.to, wanted: wanted.clone(), wait });
        self.phase = Phase::Settle(change);
    }

    pub(super) fn settled(
        &mut self,
        change: Change,
        step: &Step,
        outcome: Result<Outcome, Failure>,
        now: Instant,
    ) {
        let Step::Settle { wanted, .. } = step else { return };
        match outcome {
            Ok(Outcome::At(standing)) if standing.covers(wanted) => {
                if self.may_open(change.planned) {
                    self.open(change, standing, now);
                } else {
                    self.phase = Phase::Clear(change, standing);
                }
            }
            Ok(_) => {
                let failure = Failure { text: "it lacks transactions".to_owned(), late: false };
                self.failed(change, step, &failure, now);
            }
            Err(failure) if failure.late && !change.planned => {
                let to = self.facts.name(change.to).to_owned();
                let text = format!("{to} still applies what it has received; it is waited for");
                self.tell("failover_waits", change.to, text);
                self.settle(change, wanted.clone(), now);
            }
            Err(failure) => self.failed(change, step, &failure, now),
        }
    }

    /// The point of no return: from here on the old one is none, dead or alive.
    pub(super) fn open(&mut self, mut change: Change, standing: Position, now: Instant) {
        let (old, to) = (self.facts.name(change.old), self.facts.name(change.to));
        let why = format!("it was the primary until {to} took over from it");
        let text = format!("{to} has all that is left of {old}'s transactions ({standing})");
        self.effects.push_back(Effect::Depose { server: change.old, why });
        self.effects.push_back(Effect::Reinstate { server: change.to });
        self.effects.push_back(Effect::Promoted { server: change.to, inherited: standing.clone() });
        self.tell("candidate_ready", change.to, text);
        self.care.fell(change.old, now);
        self.care.rose(change.to);
        self.start(self.opening(&change));
        change.inherited = Some(standing);
        self.phase = Phase::Open(change);
    }

    fn opening(&self, change: &Change) -> Step {
        let follows = |i: usize| {
            let fact = &self.facts.servers[i];
            i != change.to
                && (change.planned || i != change.old)
                && fact.state == State::Up
                && fact.admin != AdminState::Maintenance
        };
        let confirmed = (0..self.facts.servers.len()).any(follows);
        Step::Open { server: change.to, confirmed }
    }

    pub(super) fn opened(
        &mut self,
        mut change: Change,
        outcome: Result<Outcome, Failure>,
        now: Instant,
    ) {
        match outcome {
            Ok(_) => {
                change.opened = Some(now);
                self.phase = Phase::Open(change);
                self.hurry(now);
            }
            Err(_) if change.attempts < 2 => {
                change.attempts += 1;
                change.opened = None;
                self.start(self.opening(&change));
                self.phase = Phase::Open(change);
            }
            Err(failure) => {
                // It may be writable all the same, or will be: then it is to be fenced.
                let (old, to) = (self.facts.name(change.old), self.facts.name(change.to));
                let why = format!("it was to take over from {old} and could not be made writable");
                let text = format!("{to} could not be made writable: {}", failure.text);
                self.effects.push_back(Effect::Depose { server: change.to, why });
                self.effects.push_back(Effect::Reinstate { server: change.old });
                self.care.rose(change.old);
                self.care.fell(change.to, now);
                self.tell("failover_failed", change.to, text.clone());
                if change.planned {
                    self.undo(change, text, now);
                } else {
                    self.no_way(change, text, now);
                }
            }
        }
    }

    /// Only a look shows that it is writable, and that may fail: it may have died at that moment.
    pub(super) fn confirm(&mut self, now: Instant) {
        let Phase::Open(change) = &self.phase else { return };
        let Some(since) = change.opened else { return };
        let died = self.facts.servers[change.to].state != State::Up;
        if died || now.saturating_duration_since(since) > CONFIRM {
            let change = change.clone();
            let text = "no look has shown it as the primary since".to_owned();
            self.opened(change, Err(Failure { text, late: true }), now);
        } else {
            self.hurry(now);
        }
    }

    pub(super) fn succeeded(&mut self, change: &Change, now: Instant) {
        let (old, to) = (self.facts.name(change.old), self.facts.name(change.to));
        let ms = now.saturating_duration_since(change.began).as_millis();
        let text = if change.planned {
            format!("{to} is the primary now, instead of {old}; writes were held for {ms} ms")
        } else {
            format!("{to} is the primary now, {ms} ms after {old} was lost")
        };
        let code = if change.planned { "switchover" } else { "failover" };
        self.tell(code, change.to, text.clone());
        self.effects.push_back(Effect::Count { planned: change.planned });
        if change.asked {
            self.effects.push_back(Effect::Answer(Ok(text)));
        }
        self.frozen.remove(&change.to);
        let equals = (0..self.facts.servers.len())
            .filter(|&i| i != change.to && (change.planned || i != change.old))
            .filter(|&i| self.facts.servers[i].state == State::Up)
            .collect();
        let inherited = change.inherited.clone();
        let server = change.to;
        let connection = self.facts.servers[server].connection;
        self.heir = Some(Heir { server, inherited, equals, connection, lost: false });
        self.idle();
        self.told = None;
        self.tend(now);
    }

    /// A step that the change can't do without failed.
    pub(super) fn failed(&mut self, change: Change, step: &Step, failure: &Failure, now: Instant) {
        let text = self.failure_text(step, failure);
        if change.planned {
            self.undo(change, text, now);
        } else {
            self.no_way(change, text, now);
        }
    }

    /// A failover did not work out; it is tried again after a pause.
    pub(super) fn no_way(&mut self, change: Change, why: String, now: Instant) {
        let name = self.facts.name(change.old).to_owned();
        self.not_before = Some(now + PAUSE);
        self.give_up(&change, why.clone());
        self.refuse(change.old, format!("{name} can't be replaced for now: {why}"));
    }

    pub(super) fn give_up(&mut self, change: &Change, why: String) {
        self.effects.push_back(Effect::Release);
        if change.asked {
            self.effects.push_back(Effect::Answer(Err(why)));
        }
        self.idle();
    }

    pub(super) fn undo(&mut self, change: Change, why: String, _now: Instant) {
        self.waiting.clear();
        self.frozen.insert(change.to);
        self.start(Step::Reopen { server: change.old });
        self.phase = Phase::Undo(change, why);
    }

    pub(super) fn undone(
        &mut self,
        mut change: Change,
        why: String,
        step: &Step,
        outcome: Result<Outcome, Failure>,
        now: Instant,
    ) {
        if let Step::Thaw { server } = step {
            if outcome.is_ok() {
                self.thawed(*server, now);
            }
            return self.give_up(&change, why);
        }
        let gone = self.facts.servers[change.old].state == State::Refused;
        if let Err(failure) = &outcome
            && change.attempts < 4
            && !gone
        {
            change.attempts += 1;
            self.tell_failure(step, failure);
            self.start(step.clone());
            self.phase = Phase::Undo(change, why);
            return;
        }
        let old = self.facts.name(change.old).to_owned();
        let text = match outcome {
            Ok(_) => format!("{why}; {old} is the primary as before"),
            Err(failure) => format!(
                "{why}; and {old} could not be made writable again: {}; SET GLOBAL read_only=0 there \
                 if it lives",
                failure.text
            ),
        };
        self.effects.push_back(Effect::Look);
        self.tell("switchover_undone", change.old, text.clone());
        if self.facts.servers[change.to].state == State::Up {
            // Whoever asked may ask again at once.
            self.effects.push_back(Effect::Release);
            self.start(Step::Thaw { server: change.to });
            self.phase = Phase::Undo(change, text);
        } else {
            self.give_up(&change, text);
        }
    }
}
