//! While there is a primary: everybody else follows it, former primaries included.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::events::{counted, few};
use super::machine::{Effect, Machine};
use super::rebuild::is_marked;
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
    /// Told to fetch again; no look has shown it yet.
    thawed: BTreeSet<usize>,
    /// Steps under way.
    busy: BTreeMap<StepId, Step>,
    /// Nothing is tried before that (`None`: it has passed), and how often it failed.
    pause: BTreeMap<usize, (Option<Instant>, u32)>,
    /// Since when these replicate from nobody although they have nothing of their own.
    strays: BTreeMap<usize, Instant>,
    /// The operator waits for this server.
    asked: Option<usize>,
    /// They are given another server's data.
    rebuilt: BTreeSet<usize>,
    /// The monitor's connection to each server when it was last prepared.
    prepared: BTreeMap<usize, u64>,
    /// That failed, and they may have half of them: why.
    half_done: BTreeMap<usize, String>,
    /// They could not be made read-only, since their disk is full: what was asked of them waits there for
    /// space, and is not asked again before.
    stuck: BTreeSet<usize>,
    wake: Wake,
}

/// Scheduled events of the primary that the one before ran.
#[derive(Debug)]
struct Wake {
    /// To be seen to.
    due: bool,
    /// But not before that (`None`: it has passed), and how often it failed.
    at: Option<Instant>,
    tries: u32,
    /// What does not run, as last told.
    asleep: Option<String>,
}

impl Default for Wake {
    fn default() -> Self {
        // Whoever led before may not have come to it.
        Self { due: true, at: None, tries: 0, asleep: None }
    }
}

/// What was just changed shows in the looks after this.
const LOOKS: Duration = Duration::from_millis(100);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a server must have been astray: an operator may be at it.
pub(super) const ASTRAY: Duration = Duration::from_secs(2);

impl Care {
    pub(super) fn next(&self) -> Option<Instant> {
        let wake = self.wake.at.filter(|_| self.wake.due);
        self.pause.values().filter_map(|(at, _)| *at).chain(wake).min()
    }

    /// The primary is another one, or is again: it is to run its events.
    pub(super) fn wake_soon(&mut self) {
        self.wake = Wake::default();
    }

    /// What was waited for until now is waited for no more.
    pub(super) fn passed(&mut self, now: Instant) {
        for (at, _) in self.pause.values_mut() {
            at.take_if(|at| *at <= now);
        }
        self.wake.at.take_if(|at| *at <= now);
    }

    fn rest(&mut self, i: usize, until: Instant, tries: u32) {
        self.pause.insert(i, (Some(until), tries));
    }

    fn rests(&self, i: usize, now: Instant) -> bool {
        self.pause.get(&i).is_some_and(|(at, _)| at.is_some_and(|at| at > now))
    }

    pub(super) fn fell(&mut self, i: usize, now: Instant) {
        self.fallen.insert(i);
        self.former.insert(i);
        // It may just have been made read-only.
        self.rest(i, now + LOOKS, 0);
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
        for &i in &self.stuck {
            let name = facts.name(i);
            lines.push(format!(
                "{name} is not read-only yet: its disk is full, and until there is space it takes no order"
            ));
        }
        for (&i, why) in &self.half_done {
            let name = facts.name(i);
            lines.push(format!(
                "{name} is kept out: its rebuild {why}; `pointsman rejoin {name} --rebuild` begins again"
            ));
        }
        lines.extend(self.wake.asleep.clone());
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

    pub(super) fn is_rebuilt(&self, i: usize) -> bool {
        self.rebuilt.contains(&i)
    }

    /// Begins, or is over: what it had of its own is gone then.
    pub(super) fn rebuild(&mut self, i: usize, begins: bool) {
        self.diverged.remove(&i);
        self.half_done.remove(&i);
        if begins {
            self.rebuilt.insert(i);
        } else {
            self.rebuilt.remove(&i);
        }
    }

    /// It can't follow as it is.
    pub(super) fn is_out(&self, i: usize) -> bool {
        self.diverged.contains_key(&i) || self.half_done.contains_key(&i)
    }

    pub(super) fn half_done(&mut self, i: usize, why: String) {
        self.half_done.insert(i, why);
    }

    fn is_busy(&self, i: usize) -> bool {
        self.is_rebuilt(i) || self.busy.values().any(|step| step.server() == i)
    }
}

impl Machine {
    /// Sees to servers that should follow the primary and don't.
    pub(super) fn tend(&mut self, now: Instant) {
        let Some(primary) = self.facts.primary else { return };
        self.note_strays(primary, now);
        for i in 0..self.facts.servers.len() {
            let fact = &self.facts.servers[i];
            if i == primary || fact.state != State::Up || self.care.is_busy(i) {
                continue;
            }
            if !fact.disk_full && self.care.stuck.remove(&i) {
                self.care.pause.remove(&i);
            }
            let follows = matches!(fact.link, Link::Connected | Link::Connecting);
            if fact.half_rebuilt && !self.care.half_done.contains_key(&i) {
                self.care.fallen.insert(i);
                self.care.half_done(i, "did not end".to_owned());
            }
            // One that was frozen may only look as if it followed: that look may be older.
            if follows && !self.care.rests(i, now) && self.care.thawed.remove(&i) {
                self.frozen.remove(&i);
            }
            if follows && fact.read_only && !self.frozen.contains(&i) {
                self.care.fallen.remove(&i);
                self.care.diverged.remove(&i);
                self.care.half_done.remove(&i);
                self.care.pause.remove(&i);
            } else if let Some(step) = self.remedy(i, primary)
                && !self.care.rests(i, now)
            {
                self.nurse(step);
            }
        }
        self.wake(primary);
        self.prepare(primary, now);
    }

    fn wake(&mut self, primary: usize) {
        let wake = &self.care.wake;
        if self.settings.handle_events
            && wake.due
            && wake.at.is_none()
            && self.facts.reigns
            && self.facts.servers[primary].state == State::Up
            && !self.care.is_busy(primary)
        {
            self.care.wake.due = false;
            self.nurse(Step::Wake { server: primary });
        }
    }

    /// What was to run is running, or why not.
    fn woken(&mut self, i: usize, outcome: &Result<Outcome, Failure>, now: Instant) {
        let name = self.facts.name(i).to_owned();
        let tries = self.care.wake.tries + 1;
        self.care.wake.tries = tries;
        let pause = (FIRST_PAUSE * (1 << tries.min(5).saturating_sub(1))).min(LONGEST_PAUSE);
        let (asleep, told) = match outcome {
            Ok(Outcome::Woken { events, failed, unknown, idle }) => {
                if *events > 0 {
                    let text = format!(
                        "{name} runs {} that the last primary ran{}",
                        counted(*events),
                        match idle {
                            true =>
                                ", or will: its event scheduler is off (SET GLOBAL event_scheduler = ON)",
                            false => "",
                        }
                    );
                    self.tell("events_run", i, text);
                }
                if !unknown.is_empty() && tries == 1 {
                    let text = format!(
                        "{name} has {} that Pointsman does not enable, not having seen whether they ran \
                         on the last primary: {}; ALTER EVENT ... ENABLE if they should run",
                        counted(unknown.len()),
                        few(unknown)
                    );
                    self.tell("events_unknown", i, text);
                }
                if failed.is_empty() {
                    self.care.wake.asleep = None;
                    return;
                }
                let text = format!(
                    "{} that ran on the last primary could not be enabled on {name}: {}",
                    counted(failed.len()),
                    few(failed)
                );
                (Some(text.clone()), text)
            }
            Ok(_) => return,
            Err(failure) => (None, self.failure_text(&Step::Wake { server: i }, failure)),
        };
        // A primary that is lost has other troubles.
        let news = if asleep.is_some() { asleep != self.care.wake.asleep } else { tries <= 3 };
        if news && self.facts.reigns {
            self.tell("events_asleep", i, told);
        }
        self.care.wake.asleep = asleep;
        self.care.wake.due = true;
        self.care.wake.at = Some(now + pause);
    }

    /// Once after each start of a server, while nothing else is to be done there.
    fn prepare(&mut self, primary: usize, now: Instant) {
        if !self.settings.auto || self.able.is_err() {
            return;
        }
        let due = |&i: &usize| {
            let fact = &self.facts.servers[i];
            let well = i == primary && self.facts.reigns
                || fact.link == Link::Connected && !self.frozen.contains(&i);
            well && fact.state == State::Up
                && fact.admin != AdminState::Maintenance
                && !self.care.rests(i, now)
                && self.care.prepared.get(&i) != Some(&fact.connection)
        };
        if self.care.busy.is_empty()
            && self.care.rebuilt.is_empty()
            && let Some(i) = (0..self.facts.servers.len()).find(due)
        {
            self.care.prepared.insert(i, self.facts.servers[i].connection);
            let note = self.settings.note_statements;
            self.nurse(Step::Prepare { server: i, replica: i != primary, note });
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

    /// A former primary that this process does not know to be one, as after a restart of its own, is
    /// seen by that it follows nobody, has nothing that the primary lacks and, if it can still be
    /// written to, lacks something that the primary has. After a while it counts as fallen.
    fn note_strays(&mut self, primary: usize, now: Instant) {
        let all = &self.facts.servers[primary].standing;
        let astray = |i: usize| {
            let fact = &self.facts.servers[i];
            i != primary
                && !self.care.is_rebuilt(i)
                && !self.care.is_out(i)
                && self.settings.auto
                && self.settings.auto_rejoin
                && self.comparable().is_ok()
                && fact.distrusted.is_none()
                && fact.state == State::Up
                && fact.admin == AdminState::Running
                && fact.alone
                && !fact.standing.is_empty()
                && all.covers(&fact.standing)
                && (fact.read_only || !fact.standing.covers(all))
        };
        let strays: Vec<_> = (0..self.facts.servers.len()).filter(|&i| astray(i)).collect();
        self.care.strays.retain(|i, _| strays.contains(i));
        for i in strays {
            let since = *self.care.strays.entry(i).or_insert(now);
            if now.saturating_duration_since(since) < ASTRAY {
                continue;
            }
            if self.care.fallen.insert(i) {
                let (name, to) = (self.facts.name(i).to_owned(), self.facts.name(primary));
                let text = format!(
                    "{name} follows nobody and has nothing that {to} lacks: it is made its replica"
                );
                self.tell("server_astray", i, text);
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
            let stuck = fact.disk_full && self.care.stuck.contains(&i);
            (!stuck).then_some(Step::Fence { server: i })
        } else if fact.admin == AdminState::Maintenance || self.care.is_out(i) {
            None
        } else if frozen && matches!(fact.link, Link::Stopped | Link::Connected | Link::Connecting)
        {
            Some(Step::Thaw { server: i })
        } else if (frozen || fact.astray || (fallen && self.settings.auto_rejoin))
            && fact.link == Link::None
            && self.comparable().is_ok()
        {
            Some(Step::Join { server: i, to: primary })
        } else {
            None
        }
    }

    /// Makes the server that is the primary by rights writable again; `text` says why.
    pub(super) fn make_writable(&mut self, i: usize, text: String, now: Instant) {
        if !self.care.rests(i, now) && !self.care.is_busy(i) {
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

    /// Whether something is done at a replica that stops its replication for a moment.
    pub(super) fn is_tending(&self) -> bool {
        let stops = |step: &Step| {
            matches!(step, Step::Prepare { .. } | Step::Thaw { .. } | Step::Join { .. })
        };
        self.care.busy.values().any(stops)
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
            (Step::Wake { .. }, outcome) => self.woken(i, outcome, now),
            (_, Ok(Outcome::Diverged(which))) => {
                let to = self.facts.primary.map_or("the primary", |to| self.facts.name(to));
                let text = match is_marked(which) {
                    true => format!(
                        "{name} is kept out: it was being rebuilt, and has not got all data; `pointsman \
                         rejoin {name} --rebuild` begins again"
                    ),
                    false => format!(
                        "{name} is kept out: it has transactions that {to} lacks: {which}; save what \
                         is needed of them, then `pointsman rejoin {name} --rebuild` gives it a \
                         healthy server's data"
                    ),
                };
                self.tell("server_diverged", i, text.clone());
                if is_marked(which) {
                    let why = "did not end".to_owned();
                    self.care.half_done(i, why);
                } else {
                    self.care.diverged.insert(i, which.clone());
                }
                self.answer(i, Err(text));
            }
            (Step::Fence { .. }, Ok(_)) => {
                let text = format!("{name} was made read-only and its clients were cut off");
                self.tell("server_fenced", i, text);
                self.care.rest(i, now + LOOKS, 0);
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
                self.care.rest(i, now + LOOKS, 0);
                self.frozen.remove(&i);
                self.tell("server_joined", i, text.clone());
                self.push(Effect::Look);
                self.answer(i, Ok(text));
            }
            (Step::Thaw { .. }, Ok(_)) => self.thawed(i, now),
            (Step::Prepare { .. }, Ok(outcome)) => {
                let Outcome::Prepared { released, noted } = *outcome else { return true };
                if released {
                    let text = format!(
                        "{name} is a replica and had the role of a semi-synchronous source, too: it \
                         waited for the confirmation of what it applied; that role was switched off"
                    );
                    self.tell("semi_sync_released", i, text);
                }
                if noted {
                    let text = format!(
                        "{name} notes statements in its binary log from now on \
                         (binlog_rows_query_log_events): by them it can be told whether the last \
                         writes of a dead primary were done"
                    );
                    self.tell("statements_noted", i, text);
                }
                self.push(Effect::Look);
            }
            // Nothing depends on it.
            (Step::Prepare { .. }, Err(failure)) => {
                let text = self.failure_text(&step, failure);
                self.tell("step_failed", i, text);
            }
            (_, Ok(_)) => {
                self.care.rest(i, now + LOOKS, 0);
                self.frozen.remove(&i);
                self.push(Effect::Look);
            }
            (Step::Fence { .. }, Err(_)) if self.facts.servers[i].disk_full => {
                let text = format!(
                    "{name} can't be made read-only while its disk is full; no client of Pointsman gets \
                     there, and it is made read-only once there is space"
                );
                self.care.stuck.insert(i);
                self.tell("fence_waits", i, text.clone());
                self.answer(i, Err(text));
            }
            (_, Err(failure)) => {
                let tries = self.care.pause.get(&i).map_or(0, |(_, tries)| *tries) + 1;
                let pause =
                    (FIRST_PAUSE * (1 << tries.min(5).saturating_sub(1))).min(LONGEST_PAUSE);
                self.care.rest(i, now + pause, tries);
                let text = self.failure_text(&step, failure);
                self.answer(i, Err(text.clone()));
                if tries <= 3 {
                    self.tell("step_failed", i, text);
                }
            }
        }
        true
    }

    /// It fetches again; until a look shows that it is known to be stopped by us.
    pub(super) fn thawed(&mut self, i: usize, now: Instant) {
        self.care.rest(i, now + LOOKS, 0);
        self.care.thawed.insert(i);
        self.push(Effect::Look);
    }

    fn answer(&mut self, i: usize, answer: Result<String, String>) {
        if self.care.asked == Some(i) {
            self.care.asked = None;
            self.push(Effect::Answer(answer));
        }
    }
}
