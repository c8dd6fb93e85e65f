//! Decides whether and how the primary is changed. Pure: no clock, no sockets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tend::Care;
use super::{Facts, Failure, Lead, Outcome, Settings, State, Step, StepId};
use crate::gtid::Position;

/// Something to be done on behalf of the machine, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Do it, within [`Step::limit`], and tell [`Machine::handle_outcome`].
    Do { id: StepId, step: Step },
    /// Look at all servers now.
    Look,
    /// No primary for clients: `old` is being replaced.
    Hold { old: usize, why: String },
    /// The holding is over.
    Release,
    /// Never take this server for the primary.
    Depose { server: usize, why: String },
    /// It may be the primary again.
    Reinstate { server: usize },
    /// It is about to be made writable, with these transactions.
    Promoted { server: usize, inherited: Position },
    /// For the event log.
    Tell { code: &'static str, server: usize, text: String },
    /// The operator's request is finished.
    Answer(Result<String, String>),
    /// The primary was changed.
    Count { planned: bool },
}

/// A change of the primary under way.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) old: usize,
    pub(super) to: usize,
    /// In good order, the old primary being alive.
    pub(super) planned: bool,
    /// Whom the operator wants.
    pub(super) wish: Option<usize>,
    /// By the operator, whatever speaks against it.
    pub(super) force: bool,
    /// The operator waits for the outcome.
    pub(super) asked: bool,
    pub(super) began: Instant,
    /// What each frozen replica has received.
    pub(super) received: BTreeMap<usize, Position>,
    /// Times that making it writable failed.
    pub(super) attempts: u32,
    /// What it had when it stopped replicating.
    pub(super) inherited: Option<Position>,
    /// When it was made writable; a look is to confirm it.
    pub(super) opened: Option<Instant>,
}

/// A server that was made the primary.
#[derive(Debug)]
pub(super) struct Heir {
    pub(super) server: usize,
    /// What it began with.
    pub(super) inherited: Option<Position>,
    /// Those that followed its predecessor, or were it: they have no other transactions than it had.
    pub(super) equals: BTreeSet<usize>,
    /// The monitor's connection to it at that moment, and whether that was lost since.
    pub(super) connection: u64,
    pub(super) lost: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Phase {
    Idle,
    /// Is a silent primary dead?
    Verify {
        old: usize,
        /// A replica says so.
        agreed: bool,
    },
    Freeze(Change),
    /// The one to be promoted gets from another what it lacks.
    Fetch(Change, Position),
    /// The old one's scheduled events are disabled, before writes are held back.
    Rest(Change),
    Close(Change),
    Settle(Change),
    /// Other proxies may still write to the old one. With what the new one has.
    Clear(Change, Position),
    Open(Change),
    /// What was done of a planned change is undone.
    Undo(Change, String),
}

/// See [`crate::failover`].
#[derive(Debug)]
pub struct Machine {
    pub(super) settings: Settings,
    /// Whether the account may do all that is needed; else what it lacks.
    pub(super) able: Result<(), Arc<str>>,
    pub(super) facts: Facts,
    pub(super) phase: Phase,
    /// Steps that the phase waits for.
    pub(super) waiting: BTreeMap<StepId, Step>,
    pub(super) next: StepId,
    pub(super) effects: VecDeque<Effect>,
    pub(super) timer: Option<Instant>,
    /// Failed before; no new attempt until then.
    pub(super) not_before: Option<Instant>,
    /// When the primary was lost.
    pub(super) lost: Option<Instant>,
    /// When it was first in doubt whether it is.
    pub(super) doubt: Option<Instant>,
    /// Replicas that were told to stop fetching.
    pub(super) frozen: BTreeSet<usize>,
    pub(super) care: Care,
    /// Since when the primary by rights is read-only.
    pub(super) unopened: Option<Instant>,
    /// Why nothing is done about a lost primary, as last told.
    pub(super) told: Option<String>,
    /// The newest primary made here.
    pub(super) heir: Option<Heir>,
    /// What is agreed with other proxies.
    pub(super) lead: Lead,
    /// Since when this one does not lead.
    pub(super) unled: Option<Instant>,
    /// A change was begun, here or by another proxy, and may have been broken off half-way.
    pub(super) broken_off: bool,
    /// Those that replicated from the primary when all was well.
    pub(super) following: BTreeSet<usize>,
    /// Since when it leads without a primary, and has nothing under way.
    pub(super) fruitless: Option<Instant>,
}

/// Between looks when every look counts.
const HURRY: Duration = Duration::from_millis(20);
/// After a failed attempt.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

impl Machine {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            able: Err("it is not known yet what its account may do".into()),
            facts: Facts::default(),
            phase: Phase::Idle,
            waiting: BTreeMap::new(),
            next: 1,
            effects: VecDeque::new(),
            timer: None,
            not_before: None,
            lost: None,
            doubt: None,
            frozen: BTreeSet::new(),
            care: Care::default(),
            unopened: None,
            told: None,
            heir: None,
            lead: Lead::unknown(),
            unled: None,
            broken_off: false,
            following: BTreeSet::new(),
            fruitless: None,
        }
    }

    /// What is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Machine::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let unled = self.unled_until();
        [self.timer, self.not_before, self.care.next(), unled].into_iter().flatten().min()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether the account may do what changes take; else why not.
    pub fn handle_able(&mut self, able: Result<(), Arc<str>>, now: Instant) {
        self.able = able;
        self.advance(now);
    }

    pub fn handle_facts(&mut self, facts: Facts, now: Instant) {
        let (before, reigned) = (self.facts.primary, self.facts.reigns);
        self.facts = facts;
        if self.facts.reigns && (!reigned || before != self.facts.primary) {
            self.care.wake_soon();
        }
        self.note_succession(before, now);
        self.note_followers();
        if let Some(heir) = &mut self.heir
            && let Some(fact) = self.facts.servers.get(heir.server)
        {
            // It may have been away for too short a time to be missed.
            heir.lost |= fact.state != State::Up || fact.connection != heir.connection;
        }
        if self.facts.reigns {
            self.lost = None;
            self.care_for_the_kept_out();
        } else if self.facts.primary.is_some() {
            self.lost.get_or_insert(now);
        }
        self.advance(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.timer.is_some_and(|timer| timer <= now) {
            self.timer = None;
            self.confirm(now);
        }
        self.not_before.take_if(|at| *at <= now);
        self.care.passed(now);
        self.advance(now);
    }

    /// What became of a step. Outcomes nobody waits for any more are dropped.
    pub fn handle_outcome(&mut self, id: StepId, outcome: Result<Outcome, Failure>, now: Instant) {
        if self.care_outcome(id, &outcome, now) {
            return self.advance(now);
        }
        let Some(step) = self.waiting.remove(&id) else { return };
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        match phase {
            Phase::Idle => {}
            Phase::Verify { old, agreed } => self.verified(old, agreed, &step, outcome, now),
            Phase::Freeze(change) => self.froze(change, &step, outcome, now),
            Phase::Fetch(change, wanted) => match outcome {
                Ok(_) => self.settle(change, wanted, now),
                Err(failure) => self.failed(change, &step, &failure, now),
            },
            Phase::Rest(change) => self.rested(change, &step, outcome, now),
            Phase::Close(change) => match outcome {
                Ok(Outcome::At(last)) => self.settle(change, last, now),
                Ok(_) => self.undo(change, "an unexpected answer".to_owned(), now),
                Err(failure) => self.failed(change, &step, &failure, now),
            },
            Phase::Settle(change) => self.settled(change, &step, outcome, now),
            // Nothing is waited for but other proxies.
            Phase::Clear(..) => self.phase = phase,
            Phase::Open(change) => self.opened(change, outcome, now),
            Phase::Undo(change, why) => self.undone(change, why, &step, outcome, now),
        }
        self.advance(now);
    }

    /// Goes on if the facts allow it.
    pub(super) fn advance(&mut self, now: Instant) {
        self.go_on(now);
        self.note_fruit(now);
    }

    fn go_on(&mut self, now: Instant) {
        if !self.lead.acts {
            self.step_back(now);
        }
        match &self.phase {
            Phase::Idle if self.facts.reigns => {
                self.told = None;
                self.doubt = None;
                if self.lead.acts && !self.relieve(now) {
                    self.tend(now);
                }
            }
            Phase::Idle if !self.lead.acts => self.told = None,
            Phase::Idle => self.consider(now),
            Phase::Clear(change, standing) if self.may_open(change.planned) => {
                let (change, standing) = (change.clone(), standing.clone());
                self.open(change, standing, now);
            }
            Phase::Verify { .. } if self.facts.reigns => self.idle(),
            Phase::Freeze(change)
            | Phase::Fetch(change, _)
            | Phase::Settle(change)
            | Phase::Clear(change, _)
                if !change.planned
                    && !change.force
                    && self.facts.reigns
                    && self.facts.primary == Some(change.old)
                    && !self.facts.servers[change.old].disk_full =>
            {
                let change = change.clone();
                let old = self.facts.name(change.old).to_owned();
                self.tell(
                    "failover_undone",
                    change.old,
                    format!("{old} is back: it stays the primary"),
                );
                self.give_up(&change, format!("{old} is back: it stays the primary"));
            }
            Phase::Fetch(change, _) | Phase::Settle(change) | Phase::Clear(change, _)
                if matches!(
                    self.facts.servers[change.to].state,
                    State::Refused | State::Silent
                ) =>
            {
                let change = change.clone();
                let why = format!("{} is down", self.facts.name(change.to));
                self.not_before = None;
                if change.planned {
                    self.undo(change, why, now);
                } else {
                    self.no_way(change, why, now);
                }
            }
            Phase::Open(change) if self.facts.reigns && self.facts.primary == Some(change.to) => {
                let change = change.clone();
                self.succeeded(&change, now);
            }
            _ => {}
        }
    }

    /// Begins a step that the phase waits for.
    pub(super) fn start(&mut self, step: Step) {
        let id = self.id();
        self.waiting.insert(id, step.clone());
        self.effects.push_back(Effect::Do { id, step });
    }

    pub(super) fn id(&mut self) -> StepId {
        self.next += 1;
        self.next
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(super) fn idle(&mut self) {
        self.waiting.clear();
        self.timer = None;
        self.phase = Phase::Idle;
    }

    pub(super) fn hurry(&mut self, now: Instant) {
        self.effects.push_back(Effect::Look);
        self.timer = Some(now + HURRY);
    }

    pub(super) fn tell(&mut self, code: &'static str, server: usize, text: String) {
        self.effects.push_back(Effect::Tell { code, server, text });
    }

    /// Says once why nothing is done.
    pub(super) fn refuse(&mut self, server: usize, text: String) {
        if self.told.as_ref() != Some(&text) {
            self.tell("failover_impossible", server, text.clone());
            self.told = Some(text);
        }
    }

    pub(super) fn failure_text(&self, step: &Step, failure: &Failure) -> String {
        let name = self.facts.name(step.server());
        format!("{name} could not {}: {}", step.words(), failure.text)
    }

    pub(super) fn tell_failure(&mut self, step: &Step, failure: &Failure) {
        let text = self.failure_text(step, failure);
        self.tell("step_failed", step.server(), text);
    }
}
