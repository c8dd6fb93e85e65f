//! While there is a primary: everybody else follows it, former primaries included.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::machine::{Effect, Machine};
use super::{Facts, Failure, Link, Outcome, State, Step, StepId};
use crate::snapshot::AdminState;

/// What is being done about servers that do not follow.
#[derive(Debug, Default)]
pub(super) struct Care {
    /// Former primaries, and servers that were to become one: writable or not, they are none.
    fallen: BTreeSet<usize>,
    /// All that were primaries before: their configuration may make them writable at each start.
    former: BTreeSet<usize>,
    /// They have transactions that the primary lacks: which.
    diverged: BTreeMap<usize, String>,
    /// Steps under way.
    busy: BTreeMap<StepId, Step>,
    /// Nothing is tried before that, and how often it failed.
    pause: BTreeMap<usize, (Instant, u32)>,
    /// The operator waits for this server.
    asked: Option<usize>,
}

/// What was just changed shows in the looks after this.
const LOOKS: Duration = Duration::from_millis(100);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Care {
    pub(super) fn next(&self) -> Option<Instant> {
        self.pause.values().map(|(at, _)| *at).min()
    }

    pub(super) fn fell(&mut self, i: usize, now: Instant) {
        self.fallen.insert(i);
        self.former.insert(i);
        // It may just have been made read-only.
        self.pause.insert(i, (now + LOOKS, 0));
        self.diverged.clear();
    }

    pub(super) fn rose(&mut self, i: usize) {
        self.fallen.remove(&i);
        self.former.remove(&i);
        self.diverged.remove(&i);
    }

    pub(super) fn status(&self, facts: &Facts) -> Vec<String> {
        let mut lines = Vec::new();
        for (&i, which) in &self.diverged {
            let name = facts.name(i);
            lines.push(format!(
                "{name} is kept out: it has transactions that the primary lacks: {which}"
            ));
        }
        for step in self.busy.values() {
            if let Step::Join { server, to } = step {
                lines.push(format!(
                    "{} is being pointed at {}",
                    facts.name(*server),
                    facts.name(*to)
                ));
            }
        }
        lines
    }

    fn is_busy(&self, i: usize) -> bool {
        self.busy.values().any(|step| step.server() == i)
    }
}

impl Machine {
    /// Sees to servers that should follow the primary and don't.
    pub(super) fn tend(&mut self, now: Instant) {
        let Some(primary) = self.facts.primary else { return };
        for i in 0..self.facts.servers.len() {
            let fact = &self.facts.servers[i];
            if i == primary || fact.state != State::Up || self.care.is_busy(i) {
                continue;
            }
            let follows = matches!(fact.link, Link::Connected | Link::Connecting);
            // One that was frozen may only look as if it followed: that look may be older.
            if follows && fact.read_only && !self.frozen.contains(&i) {
                self.care.fallen.remove(&i);
                self.care.diverged.remove(&i);
                self.care.pause.remove(&i);
            } else if let Some(step) = self.remedy(i, primary)
                && self.care.pause.get(&i).is_none_or(|(at, _)| *at <= now)
            {
                self.nurse(step);
            }
        }
    }

    /// Also those that this one did not depose itself.
    pub(super) fn care_for_the_kept_out(&mut self) {
        let kept_out = |i: &usize| self.facts.servers[*i].kept_out;
        for i in (0..self.facts.servers.len()).filter(kept_out) {
            if Some(i) != self.facts.primary {
                self.care.fallen.insert(i);
                self.care.former.insert(i);
            }
        }
    }

    /// What helps server `i`, if anything is to be done without being told.
    fn remedy(&self, i: usize, primary: usize) -> Option<Step> {
        let fact = &self.facts.servers[i];
        let fallen = self.care.fallen.contains(&i);
        let former = self.care.former.contains(&i);
        let frozen = self.frozen.contains(&i);
        if self.able.is_err() || fact.link == Link::Several {
            None
        } else if (fallen || former) && !fact.read_only {
            Some(Step::Fence { server: i })
        } else if fact.admin == AdminState::Maintenance || self.care.diverged.contains_key(&i) {
            None
        } else if frozen && matches!(fact.link, Link::Stopped | Link::Connected | Link::Connecting)
        {
            Some(Step::Thaw { server: i })
        } else if (frozen || fact.astray || (fallen && self.settings.auto_rejoin))
            && fact.link == Link::None
        {
            Some(Step::Join { server: i, to: primary })
        } else {
            None
        }
    }

    /// Makes the server that is the primary by rights writable again.
    pub(super) fn make_writable(&mut self, i: usize, now: Instant) {
        let paused = self.care.pause.get(&i).is_some_and(|(at, _)| *at > now);
        if !paused && !self.care.is_busy(i) {
            let name = self.facts.name(i).to_owned();
            let text =
                format!("{name}, the primary, came back read-only and is made writable again");
            self.tell("primary_restored", i, text);
            self.nurse(Step::Reopen { server: i });
        }
    }

    fn nurse(&mut self, step: Step) {
        let id = self.id();
        self.care.busy.insert(id, step.clone());
        self.push(Effect::Do { id, step });
    }

    /// An operator wants server `i` back as a replica.
    pub(super) fn take_back(&mut self, i: usize, primary: usize) {
        self.care.diverged.remove(&i);
        self.care.asked = Some(i);
        if !self.care.is_busy(i) {
            let writable = !self.facts.servers[i].read_only;
            if writable {
                self.care.fallen.insert(i);
            }
            self.nurse(if writable {
                Step::Fence { server: i }
            } else {
                Step::Join { server: i, to: primary }
            });
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        self.care.asked.is_some()
    }

    /// Whether `id` was a step of this kind.
    pub(super) fn care_outcome(
        &mut self,
        id: StepId,
        outcome: &Result<Outcome, Failure>,
        now: Instant,
    ) -> bool {
        let Some(step) = self.care.busy.remove(&id) else { return false };
        let i = step.server();
        let name = self.facts.name(i).to_owned();
        match (&step, outcome) {
            (_, Ok(Outcome::Diverged(which))) => {
                let to = self.facts.primary.map_or("the primary", |to| self.facts.name(to));
                let text = format!(
                    "{name} is kept out: it has transactions that {to} lacks: {which}; save what is \
                     needed of them, give it {to}'s data anew, then `pointsman rejoin {name}`"
                );
                self.tell("server_diverged", i, text.clone());
                self.care.diverged.insert(i, which.clone());
                self.answer(i, Err(text));
            }
            (Step::Fence { .. }, Ok(_)) => {
                let text = format!("{name} was made read-only and its clients were cut off");
                self.tell("server_fenced", i, text);
                self.care.pause.insert(i, (now + LOOKS, 0));
                self.push(Effect::Look);
                if self.care.asked == Some(i)
                    && let Some(primary) = self.facts.primary.filter(|_| self.facts.reigns)
                {
                    self.nurse(Step::Join { server: i, to: primary });
                }
            }
            (Step::Join { to, .. }, Ok(_)) => {
                let text = format!("{name} replicates from {} now", self.facts.name(*to));
                self.care.fallen.remove(&i);
                self.care.pause.insert(i, (now + LOOKS, 0));
                self.frozen.remove(&i);
                self.tell("server_joined", i, text.clone());
                self.push(Effect::Look);
                self.answer(i, Ok(text));
            }
            (_, Ok(_)) => {
                self.care.pause.insert(i, (now + LOOKS, 0));
                self.frozen.remove(&i);
                self.push(Effect::Look);
            }
            (_, Err(failure)) => {
                let tries = self.care.pause.get(&i).map_or(0, |(_, tries)| *tries) + 1;
                let pause =
                    (FIRST_PAUSE * (1 << tries.min(5).saturating_sub(1))).min(LONGEST_PAUSE);
                self.care.pause.insert(i, (now + pause, tries));
                let text = self.failure_text(&step, failure);
                self.answer(i, Err(text.clone()));
                if tries <= 3 {
                    self.tell("step_failed", i, text);
                }
            }
        }
        true
    }

    fn answer(&mut self, i: usize, answer: Result<String, String>) {
        if self.care.asked == Some(i) {
            self.care.asked = None;
            self.push(Effect::Answer(answer));
        }
    }
}
