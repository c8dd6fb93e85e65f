//! Decides whether and how the primary is changed. Pure: no clock, no sockets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tend::Care;
use super::{Fact, Facts, Failure, Link, Outcome, Settings, State, Step, StepId};
use crate::gtid::Position;
use crate::snapshot::AdminState;

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
    received: BTreeMap<usize, Position>,
    /// Times that making it writable failed.
    attempts: u32,
    /// What it had when it stopped replicating.
    inherited: Option<Position>,
    /// When it was made writable; a look is to confirm it.
    opened: Option<Instant>,
}

/// A server that was made the primary.
#[derive(Debug)]
struct Heir {
    server: usize,
    /// What it began with.
    inherited: Option<Position>,
    /// Those that followed its predecessor, or were it: they have no other transactions than it had.
    equals: BTreeSet<usize>,
    /// The monitor's connection to it at that moment, and whether that was lost since.
    connection: u64,
    lost: bool,
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
    Close(Change),
    Settle(Change),
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
    waiting: BTreeMap<StepId, Step>,
    pub(super) next: StepId,
    effects: VecDeque<Effect>,
    timer: Option<Instant>,
    /// Failed before; no new attempt until then.
    not_before: Option<Instant>,
    /// When the primary was lost.
    lost: Option<Instant>,
    /// When it was first in doubt whether it is.
    doubt: Option<Instant>,
    /// Replicas that were told to stop fetching.
    pub(super) frozen: BTreeSet<usize>,
    pub(super) care: Care,
    /// Why nothing is done about a lost primary, as last told.
    told: Option<String>,
    /// The newest primary made here.
    heir: Option<Heir>,
}

/// How long the port may refuse while a replica is still connected before that is told.
const DOUBT: Duration = Duration::from_secs(1);
/// Between looks when every look counts.
const HURRY: Duration = Duration::from_millis(20);
/// How long looks may take to show a new primary.
const CONFIRM: Duration = Duration::from_secs(3);
/// After a failed attempt.
const PAUSE: Duration = Duration::from_secs(1);

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
            told: None,
            heir: None,
        }
    }

    /// What is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Machine::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.timer, self.not_before, self.care.next()].into_iter().flatten().min()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// What is going on, or why nothing is although there is no primary: short sentences.
    #[must_use]
    pub fn status(&self) -> Vec<String> {
        let name = |i: usize| self.facts.name(i).to_owned();
        let mut lines = Vec::new();
        lines.extend(match &self.phase {
            Phase::Idle => self.told.clone(),
            Phase::Verify { old, .. } => {
                Some(format!("finding out whether {}, which is silent, is dead", name(*old)))
            }
            Phase::Freeze(change) => {
                Some(format!("failover from {}: finding the best replica", name(change.old)))
            }
            Phase::Fetch(change, _) => Some(format!(
                "failover from {}: {} fetches what it lacks",
                name(change.old),
                name(change.to)
            )),
            Phase::Close(change) => Some(format!(
                "switchover from {} to {}: letting transactions end",
                name(change.old),
                name(change.to)
            )),
            Phase::Settle(change) => Some(format!(
                "changing the primary from {} to {}, which applies the last transactions",
                name(change.old),
                name(change.to)
            )),
            Phase::Open(change) => Some(format!("{} is becoming the primary", name(change.to))),
            Phase::Undo(change, _) => {
                Some(format!("switchover to {} is being undone", name(change.to)))
            }
        });
        lines.extend(self.care.status(&self.facts));
        match &self.able {
            Err(why) if self.settings.auto => {
                lines.push(format!("Pointsman follows the primary but can't replace it: {why}"));
            }
            Err(_) => {}
            Ok(()) if !self.settings.auto => lines.push(
                "a dead primary is not replaced ([failover] auto = false); `pointsman failover` \
                 does it"
                    .to_owned(),
            ),
            Ok(()) => {}
        }
        lines
    }

    /// Whether the account may do what changes take; else why not.
    pub fn handle_able(&mut self, able: Result<(), Arc<str>>, now: Instant) {
        self.able = able;
        self.advance(now);
    }

    pub fn handle_facts(&mut self, facts: Facts, now: Instant) {
        self.facts = facts;
        if let Some(heir) = &mut self.heir
            && let Some(fact) = self.facts.servers.get(heir.server)
        {
            // It may have been away for too short a time to be missed.
            heir.lost |= fact.state != State::Up || fact.connection != heir.connection;
        }
        if self.facts.reigns {
            self.lost = None;
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
            Phase::Close(change) => match outcome {
                Ok(Outcome::At(last)) => self.settle(change, last, now),
                Ok(_) => self.undo(change, "an unexpected answer".to_owned(), now),
                Err(failure) => self.failed(change, &step, &failure, now),
            },
            Phase::Settle(change) => self.settled(change, &step, outcome, now),
            Phase::Open(change) => self.opened(change, outcome, now),
            Phase::Undo(change, why) => self.undone(change, why, &step, outcome, now),
        }
        self.advance(now);
    }

    // ---- deciding ----

    /// Goes on if the facts allow it.
    fn advance(&mut self, now: Instant) {
        match &self.phase {
            Phase::Idle if self.facts.reigns => {
                self.told = None;
                self.doubt = None;
                self.tend(now);
            }
            Phase::Idle => self.consider(now),
            Phase::Verify { .. } if self.facts.reigns => self.idle(),
            Phase::Freeze(change) | Phase::Fetch(change, _) | Phase::Settle(change)
                if !change.planned
                    && !change.force
                    && self.facts.reigns
                    && self.facts.primary == Some(change.old) =>
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
            Phase::Fetch(change, _) | Phase::Settle(change)
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

    /// There is no primary: is it dead, and can another one be made?
    fn consider(&mut self, now: Instant) {
        let Some(old) = self.facts.primary else { return };
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

    /// Replicas that were told to stop fetching, for an attempt that came to nothing.
    fn stopped_by_us(&self) -> Vec<usize> {
        let stopped = self.up(|fact| fact.link == Link::Stopped);
        stopped.filter(|i| self.frozen.contains(i)).collect()
    }

    /// A server that was made the primary and restarts is read-only again if its configuration says
    /// so.
    fn restore(&mut self, old: usize, now: Instant) {
        let fact = &self.facts.servers[old];
        let restarted = self.heir.as_ref().is_some_and(|heir| heir.server == old && heir.lost);
        if restarted
            && fact.state == State::Up
            && fact.read_only
            && fact.link == Link::None
            && !fact.astray
            && fact.admin == AdminState::Running
            && self.settings.auto
            && self.able.is_ok()
        {
            self.make_writable(old, now);
        }
    }

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

    fn up(&self, fits: impl Fn(&Fact) -> bool) -> impl Iterator<Item = usize> {
        let all = self.facts.servers.iter().enumerate();
        all.filter(move |(_, fact)| fact.state == State::Up && fits(fact)).map(|(i, _)| i)
    }

    /// Whether its data is as new as can be had.
    fn has_followed(&self, i: usize, force: bool) -> bool {
        match self.facts.servers[i].link {
            Link::Connected | Link::Connecting => true,
            Link::None if self.is_equal(i) => true,
            Link::Stopped | Link::None => self.frozen.contains(&i) || force,
            Link::Broken => force,
            Link::Several => false,
        }
    }

    /// The primary died before anybody could follow it, and this one has all that it began with.
    fn is_equal(&self, i: usize) -> bool {
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
    fn unfit(&self, i: usize, force: bool) -> Option<String> {
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
    fn best(&self, change: &Change) -> Result<(usize, usize), String> {
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

    // ---- the way of a change ----

    fn verified(
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
            self.tell(
                "failover_begun",
                old,
                format!("{name} is dead: looking for the best replica"),
            );
        }
    }

    fn froze(
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

    fn settle(&mut self, change: Change, wanted: Position, now: Instant) {
        let wait = if change.planned {
            (change.began + self.settings.switchover_timeout).saturating_duration_since(now)
        } else {
            self.settings.apply_timeout
        };
        self.start(Step::Settle { server: change.to, wanted: wanted.clone(), wait });
        self.phase = Phase::Settle(change);
    }

    fn settled(
        &mut self,
        mut change: Change,
        step: &Step,
        outcome: Result<Outcome, Failure>,
        now: Instant,
    ) {
        let Step::Settle { wanted, .. } = step else { return };
        match outcome {
            Ok(Outcome::At(standing)) if standing.covers(wanted) => {
                // The point of no return: from here on the old one is none, dead or alive.
                let (old, to) = (self.facts.name(change.old), self.facts.name(change.to));
                let why = format!("it was the primary until {to} took over from it");
                let text =
                    format!("{to} has all that is left of {old}'s transactions ({standing})");
                self.effects.push_back(Effect::Depose { server: change.old, why });
                self.effects.push_back(Effect::Reinstate { server: change.to });
                self.effects
                    .push_back(Effect::Promoted { server: change.to, inherited: standing.clone() });
                self.tell("candidate_ready", change.to, text);
                self.care.fell(change.old, now);
                self.care.rose(change.to);
                self.start(Step::Open { server: change.to });
                change.inherited = Some(standing);
                self.phase = Phase::Open(change);
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

    fn opened(&mut self, mut change: Change, outcome: Result<Outcome, Failure>, now: Instant) {
        match outcome {
            Ok(_) => {
                change.opened = Some(now);
                self.phase = Phase::Open(change);
                self.hurry(now);
            }
            Err(_) if change.attempts < 2 => {
                change.attempts += 1;
                change.opened = None;
                self.start(Step::Open { server: change.to });
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
    fn confirm(&mut self, now: Instant) {
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

    fn succeeded(&mut self, change: &Change, now: Instant) {
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
    fn failed(&mut self, change: Change, step: &Step, failure: &Failure, now: Instant) {
        let text = self.failure_text(step, failure);
        if change.planned {
            self.undo(change, text, now);
        } else {
            self.no_way(change, text, now);
        }
    }

    /// A failover did not work out; it is tried again after a pause.
    fn no_way(&mut self, change: Change, why: String, now: Instant) {
        let name = self.facts.name(change.old).to_owned();
        self.not_before = Some(now + PAUSE);
        self.give_up(&change, why.clone());
        self.refuse(change.old, format!("{name} can't be replaced for now: {why}"));
    }

    fn give_up(&mut self, change: &Change, why: String) {
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

    fn undone(
        &mut self,
        mut change: Change,
        why: String,
        step: &Step,
        outcome: Result<Outcome, Failure>,
        _now: Instant,
    ) {
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
        self.give_up(&change, text);
    }

    // ---- small things ----

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

    fn idle(&mut self) {
        self.waiting.clear();
        self.timer = None;
        self.phase = Phase::Idle;
    }

    fn hurry(&mut self, now: Instant) {
        self.effects.push_back(Effect::Look);
        self.timer = Some(now + HURRY);
    }

    pub(super) fn tell(&mut self, code: &'static str, server: usize, text: String) {
        self.effects.push_back(Effect::Tell { code, server, text });
    }

    /// Says once why nothing is done.
    fn refuse(&mut self, server: usize, text: String) {
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
