//! Among several proxies only the leading one acts: what that means for the machine. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Link;
use super::machine::{Effect, Heir, Machine, PAUSE, Phase};
use crate::quorum::Plan;

/// A server that dies may take the majority away for as long as it takes to see that it is dead.
const GRACE: Duration = Duration::from_millis(500);

/// A leader without a primary for this long lets another proxy try.
const FRUITLESS: Duration = Duration::from_secs(5);

/// What is agreed with other proxies: see [`crate::quorum`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// This one acts.
    pub acts: bool,
    /// No other proxy writes to the old primary.
    pub cleared: bool,
    /// Another one is changing the primary.
    pub changing: bool,
    /// There are others.
    pub others: bool,
    /// Where the leading one is, if it is another one.
    pub leader: Option<Arc<str>>,
    /// Why nothing may be written from here, if so.
    pub why: Option<Arc<str>>,
}

impl Lead {
    /// There are no others for sure.
    #[must_use]
    pub fn alone() -> Self {
        Self { acts: true, cleared: true, changing: false, others: false, leader: None, why: None }
    }

    /// Nothing is known yet.
    #[must_use]
    pub fn unknown() -> Self {
        Self { acts: false, cleared: false, ..Self::alone() }
    }

    /// Why this one does not act.
    pub(super) fn refusal(&self) -> Option<String> {
        if self.acts {
            return None;
        }
        Some(match (&self.leader, &self.why) {
            (Some(leader), _) => format!(
                "the Pointsman at {leader} leads, and only that one changes the primary: ask it \
                 (there, or with --admin)"
            ),
            (None, Some(why)) => why.to_string(),
            (None, None) => "no Pointsman leads yet; try again in a moment".to_owned(),
        })
    }
}

impl Machine {
    pub fn handle_lead(&mut self, lead: Lead, now: Instant) {
        if self.lead == lead {
            return;
        }
        if lead.changing && !self.lead.changing {
            self.broken_off = true;
        }
        self.unled = if lead.acts { None } else { self.unled.or(Some(now)) };
        self.lead = lead;
        self.advance(now);
    }

    /// Whether the candidate may be made writable now.
    pub(super) fn may_open(&self, planned: bool) -> bool {
        self.lead.acts && (planned || self.lead.cleared)
    }

    /// When the lead counts as lost.
    pub(super) fn unled_until(&self) -> Option<Instant> {
        let under_way = !matches!(self.phase, Phase::Idle | Phase::Open(_));
        self.unled.filter(|_| under_way).map(|since| since + GRACE)
    }

    /// What other proxies have to know.
    #[must_use]
    pub fn plan(&self) -> Plan {
        match &self.phase {
            Phase::Idle => Plan::Nothing,
            Phase::Verify { .. } => Plan::Replace,
            Phase::Freeze(change)
            | Phase::Fetch(change, _)
            | Phase::Rest(change)
            | Phase::Close(change)
            | Phase::Settle(change)
            | Phase::Clear(change, _)
            | Phase::Open(change)
            | Phase::Undo(change, _) => {
                if change.planned {
                    Plan::Switch
                } else {
                    Plan::Replace
                }
            }
        }
    }

    /// Whether it would replace a dead primary without being told to; not for now if it has led for
    /// long and found no primary: another proxy may know more.
    #[must_use]
    pub fn acts_by_itself(&self, now: Instant) -> bool {
        let long = |since| now.saturating_duration_since(since) > FRUITLESS;
        self.settings.auto && self.able.is_ok() && !self.fruitless.is_some_and(long)
    }

    /// Whether there is no primary although this one leads and nothing is under way.
    pub(super) fn note_fruit(&mut self, now: Instant) {
        if self.lead.acts && !self.facts.reigns && self.is_idle() {
            self.fruitless.get_or_insert(now);
        } else {
            self.fruitless = None;
        }
    }

    /// Another proxy leads now: whatever was begun here is for that one to finish or undo. Up to then
    /// nothing is made writable.
    pub(super) fn step_back(&mut self, now: Instant) {
        if self.unled.is_none_or(|since| now.saturating_duration_since(since) < GRACE) {
            return;
        }
        let change = match &self.phase {
            Phase::Idle | Phase::Open(_) => return,
            Phase::Verify { .. } => {
                self.idle();
                self.not_before = Some(now + PAUSE);
                return;
            }
            Phase::Freeze(change)
            | Phase::Fetch(change, _)
            | Phase::Rest(change)
            | Phase::Close(change)
            | Phase::Settle(change)
            | Phase::Clear(change, _)
            | Phase::Undo(change, _) => change.clone(),
        };
        self.broken_off = true;
        let why = "this Pointsman no longer leads".to_owned();
        self.tell("lead_lost", change.old, format!("{why}: what it had begun is broken off"));
        self.not_before = Some(now + PAUSE);
        self.give_up(&change, why);
    }

    /// Notes who follows, for the day another proxy breaks off what it began, and sees to it then.
    pub(super) fn note_followers(&mut self) {
        if !self.facts.reigns {
            return;
        }
        if self.lead.changing {
            return;
        }
        if std::mem::take(&mut self.broken_off) {
            self.care.wake_soon();
            for &i in &self.following {
                if self.facts.servers[i].link == Link::Stopped {
                    self.frozen.insert(i);
                }
            }
        }
        let connected = (0..self.facts.servers.len())
            .filter(|&i| self.facts.servers[i].link == Link::Connected)
            .collect::<Vec<_>>();
        self.following.extend(connected);
    }

    /// Another proxy made another primary: the one before is none, and to be fenced if it comes back.
    pub(super) fn note_succession(&mut self, before: Option<usize>, now: Instant) {
        let (Some(old), Some(new)) = (before, self.facts.primary) else { return };
        let by_others = self.lead.others || self.lead.leader.is_some() || self.broken_off;
        if old != new && self.facts.reigns && self.is_idle() && by_others {
            let to = self.facts.name(new);
            let why = format!("it was the primary until {to} took over from it");
            self.push(Effect::Depose { server: old, why });
            self.push(Effect::Reinstate { server: new });
            self.care.fell(old, now);
            self.care.rose(new);
            self.frozen.clear();
            self.following.clear();
            // Whoever leads later makes it writable again if it restarts.
            self.heir = Some(Heir {
                server: new,
                inherited: None,
                equals: BTreeSet::new(),
                connection: self.facts.servers[new].connection,
                lost: false,
            });
        }
    }
}
