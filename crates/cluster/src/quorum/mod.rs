//! Several proxies agree on who acts, through locks in the databases themselves. The deciding is pure;
//! [`ballot`] asks the servers.
//!
//! Each proxy keeps a session on every server and renews it every [`BEAT`]. In it it may hold named
//! locks (`GET_LOCK`), which need no write and end with the session: at once when the proxy dies, after
//! [`SESSION`] (`wait_timeout`) when it is cut off.
//!
//! | lock | its holder |
//! | --- | --- |
//! | `pointsman.lead` | wants to act. Whoever has it on more than half of the servers leads |
//! | `pointsman.change` | leads and is about to make another server the primary: nobody else writes |
//! | `pointsman.switch` | the same in good order: nobody else begins to write |
//! | `pointsman.want` | would act by itself, and does not lead: a leader that can't, or has found no primary for long, gives way |
//! | `pointsman.primary.ID` | leads, and takes the server of this `server_id` for the primary |
//! | `pointsman.member.N` | a proxy that may write, or may have been writing |
//! | `pointsman.cut.N` | a member that has stopped, and does not begin again before it has let go of this |
//!
//! # Who may write
//!
//! The leader, for [`LEASE`] from when it last renewed more than half of the locks; that is less than
//! the servers keep them for. Anybody else for [`PERMIT`] from when more than half of the servers
//! said that nobody holds `change`, nor leads for another primary. So when the leader has `change` on more than
//! half and has waited for `PERMIT` (or all members have let it know that they stopped, or the old
//! primary refuses connections since), no other proxy writes to the old primary, wherever it is.
//!
//! # Who is the primary
//!
//! Whom the leader takes for it. Others believe that ([`Standing::names`]), whatever they saw before:
//! one that was cut off may have missed any number of changes.
//!
//! # How servers are counted
//!
//! All in the config count, except one whose port refuses connections: it does not run, and nobody can
//! have a lock there. Such a refusal holds for `PERMIT` only. One that is silent counts.
//!
//! # Two servers, or any half
//!
//! With exactly half of the servers in reach and the others silent, nobody has a majority. Then:
//!
//! - Who has the primary among its half, and had a majority since it last lost sight of it, goes on.
//! - Who has not may act only if every proxy that was a member when the primary was last in sight is on
//!   this side and has stopped: then nobody can be writing to it. A single proxy is always all of them.
//! - One that has just started, and sees only half, does neither, unless that half has the primary and
//!   a leader who is sure to have seen it; then it does as that one.
//!
//! # A proxy that may be alone
//!
//! Where the config does not say whether there are others, a proxy acts and writes as if there were
//! none until it meets one, and then for good as one of several. One that starts takes no lead during
//! its first second, in which the other, which asks more often than that, sees it. What this gives
//! away: one that starts while the network is parted, beside a primary that others have replaced on the
//! far side, does not know of them.
//!
//! # What is safe
//!
//! Any partition of the network, any proxy that dies, hangs, restarts or is cut off, at any moment.
//! Locks are not written down: if a database of the leader's majority restarts during the second in
//! which another server is being promoted, *and* the network parts at that moment so that the leader
//! and a majority that includes the restarted one do not see each other, two proxies may for at most
//! `LEASE` take different servers for the primary.

pub(crate) mod ballot;
mod words;

use std::time::{Duration, Instant};

pub use words::{Ballot, Beat, Holder, Plan, Standing, Wish};

/// Between two renewals.
pub(crate) const BEAT: Duration = Duration::from_millis(100);
/// Where nobody else can have a say.
pub(crate) const LONG: Duration = Duration::from_secs(3600);
/// How long a word of the servers lets a proxy write that does not lead.
pub(crate) const PERMIT: Duration = Duration::from_secs(1);
/// How long the leader counts on a lock after it asked for its renewal.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// How long a server keeps the locks of a session that it does not hear from. Whole seconds.
pub(crate) const SESSION: Duration = Duration::from_secs(3);
/// With some of the locks but not enough for this long, they are given back.
const STALEMATE: Duration = Duration::from_secs(1);
/// A primary that died is replaced by then, if anybody can: what is left is for a person to know.
const ADVICE: Duration = Duration::from_secs(10);
/// One that has given way to another does not try for this long.
const YIELD: Duration = Duration::from_secs(3);
/// A proxy that may not act by itself leads only where nobody else has for this long.
const MODESTY: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Voter {
    /// The last answer, and when it was asked for and had.
    answer: Option<(Instant, Instant, Ballot)>,
    /// When it was asked and refused.
    refused: Option<Instant>,
    /// When the first question of the present session was asked.
    session: Option<Instant>,
    /// When `change` was known to be ours.
    change: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Quorum {
    names: Vec<std::sync::Arc<str>>,
    voters: Vec<Voter>,
    primary: Option<usize>,
    primary_id: u32,
    /// Whether it acts by itself.
    eager: bool,
    /// It leads no more, whoever asks.
    resigned: bool,
    plan: Plan,
    /// It is the only one until it meets another.
    lenient: bool,
    /// It has seen another proxy.
    met: bool,
    /// It takes over from a process that is still there, and whether that was seen: one that is no
    /// other proxy.
    heir: Option<bool>,
    /// Servers that were asked once, whatever came of it.
    tried: Vec<bool>,
    /// Since when it is watched.
    born: Instant,
    /// Since when it takes part: it had a majority once.
    joined: Option<Instant>,
    /// Since when it may not write.
    halted: Option<Instant>,
    /// Since when it stands beside the same leader: sessions here and of that one.
    beside: Option<(Instant, (u64, u64))>,
    /// It had one since it last lost sight of the primary.
    keeper: bool,
    /// Most other members there may be.
    known: u8,
    /// With some locks, but not leading.
    stalled: Option<Instant>,
    /// No attempt before that.
    pause: Option<Instant>,
    /// When a leading proxy was last seen.
    led: Instant,
    random: u64,
}

impl Quorum {
    /// `lenient`: there need not be others, and nothing is asked of a majority before one is met.
    /// `seed` makes proxies differ in when they try again.
    #[must_use]
    pub fn new(names: Vec<std::sync::Arc<str>>, lenient: bool, seed: u64, now: Instant) -> Self {
        Self {
            lenient,
            met: false,
            heir: None,
            tried: vec![false; names.len()],
            born: now,
            beside: None,
            voters: names.iter().map(|_| Voter::default()).collect(),
            names,
            primary: None,
            primary_id: 0,
            eager: false,
            resigned: false,
            plan: Plan::Nothing,
            joined: None,
            halted: None,
            keeper: false,
            known: 0,
            stalled: None,
            pause: None,
            led: now,
            random: seed | 1,
        }
    }

    /// Which server is the primary, or was until now.
    pub fn set_primary(&mut self, primary: Option<(usize, u32)>, now: Instant) {
        self.primary_id = primary.map_or(0, |(_, id)| id);
        let primary = primary.map(|(primary, _)| primary);
        if self.primary != primary {
            self.primary = primary;
            // One that was made the primary by half of the servers, all proxies being on this side.
            let here = primary.and_then(|p| self.answer(p, now, PERMIT));
            self.keeper =
                self.joined.is_some() && here.is_some_and(|ballot| ballot.others >= self.known);
        }
    }

    /// What this proxy is about to do, and whether it does so without being told to. Whether that is
    /// new.
    pub fn set_plan(&mut self, plan: Plan, eager: bool) -> bool {
        let new = (self.plan, self.eager) != (plan, eager);
        (self.plan, self.eager) = (plan, eager);
        new
    }

    /// It takes over from another process.
    pub fn succeed(&mut self) {
        self.heir = Some(false);
    }

    /// Never leads again; goes on as one that follows. What the servers still hold for it counts for
    /// nothing from here on.
    pub fn resign(&mut self) {
        self.resigned = true;
    }

    /// What a server said when it was asked at `asked`.
    pub fn handle_beat(&mut self, server: usize, asked: Instant, beat: Beat, now: Instant) {
        let Some(voter) = self.voters.get(server) else {
            return;
        };
        if voter.answer.as_ref().is_some_and(|(last, ..)| asked < *last) {
            return;
        }
        if let Beat::Answer(ballot) = &beat {
            let locks = [ballot.lead, ballot.change, ballot.switch, ballot.want];
            let others = u8::from(locks.contains(&Holder::Other)).max(ballot.others);
            self.heir = match self.heir {
                Some(true) if others == 0 => None,
                Some(seen) => Some(seen || others > 0),
                None => None,
            };
            if others > u8::from(self.heir.is_some()) {
                self.meet(now);
            }
        }
        self.tried[server] = true;
        let voter = &mut self.voters[server];
        match beat {
            Beat::Answer(ballot) => {
                let last = voter.answer.as_ref().map(|(_, _, ballot)| ballot.session);
                if last != Some(ballot.session) {
                    voter.session = Some(asked);
                    voter.change = None;
                }
                if ballot.change == Holder::Me {
                    voter.change.get_or_insert(now);
                } else {
                    voter.change = None;
                }
                if ballot.lead == Holder::Other {
                    self.led = now;
                }
                voter.refused = None;
                voter.answer = Some((asked, now, ballot));
            }
            Beat::Refused => {
                *voter = Voter { refused: Some(asked), ..Voter::default() };
            }
            Beat::Lost => *voter = Voter::default(),
        }
        self.count(now);
    }

    /// Whether nobody else is about to make another primary, or has made one, as far as this server
    /// knows.
    fn is_free(&self, ballot: &Ballot) -> bool {
        let differs = ballot.lead == Holder::Other
            && (self.primary_id == 0 || ballot.names != Some(self.primary_id));
        ballot.change != Holder::Other && !differs
    }

    /// Draws the conclusions for `now`.
    pub fn count(&mut self, now: Instant) {
        let goods = self.goods(now, |_| true).len();
        if 2 * goods > self.voters.len() {
            self.joined.get_or_insert(now);
        }
        self.follow_a_leader(now);
        if self.by_majority(now).is_some() {
            self.keeper = true;
        } else if !self.sees_primary(now) {
            self.keeper = false;
        }
        let in_view = |voter: &Voter| {
            voter.refused.is_some_and(|at| now < at + PERMIT)
                || voter.answer.as_ref().is_some_and(|(at, ..)| now < *at + PERMIT)
        };
        let others = self.others();
        self.known = if self.voters.iter().all(in_view) { others } else { self.known.max(others) };

        let leads = self.lease(now).is_some();
        let held = self.held(now).len();
        // Half of them is all there is, while the others are silent.
        let answering = (0..self.voters.len()).filter(|&i| self.answers(i, now)).count();
        let tied = 2 * held == self.running(now) && held == answering;
        if leads || held == 0 || tied || self.is_alone() {
            self.stalled = None;
        } else if now.saturating_duration_since(*self.stalled.get_or_insert(now)) > STALEMATE {
            self.stalled = None;
            let pause = 300 + self.below(700);
            self.pause = Some(now + Duration::from_millis(pause));
        }
        let wanted = (0..self.voters.len()).any(|i| {
            self.answer(i, now, PERMIT).is_some_and(|ballot| ballot.want == Holder::Other)
        });
        if leads && wanted && !self.eager && self.plan == Plan::Nothing {
            self.pause = Some(now + YIELD);
        }
        self.pause.take_if(|at| *at <= now);
        if self.permit(now).is_some() {
            self.halted = None;
        } else {
            self.halted.get_or_insert(now);
        }
    }

    /// When to call [`Quorum::count`] and look at [`Quorum::standing`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let writes = self.standing(now).writes.ok();
        let cleared = self.changed(now).map(|since| since + PERMIT + BEAT / 2);
        let advice = self.halted.map(|since| since + ADVICE);
        [writes, self.pause, cleared, advice].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Whether it has answered lately.
    #[must_use]
    pub fn answers(&self, server: usize, now: Instant) -> bool {
        self.answer(server, now, PERMIT).is_some()
    }

    /// Which locks to hold at `server`.
    #[must_use]
    pub fn wish(&self, server: usize, now: Instant) -> Wish {
        let leads = self.lease(now).is_some();
        let modest = !self.eager && now.saturating_duration_since(self.led) < MODESTY;
        // Whoever may be alone has to have seen it.
        let ripe = self.joined.is_some_and(|at| now >= at + PERMIT) || self.is_alone();
        let tries = ripe && !self.resigned && self.pause.is_none() && (leads || !modest);
        let fresh = |i: usize| self.answer(i, now, PERMIT).is_some();
        // One after the other in the same order everywhere, so that the first decides.
        let in_turn = (0..server)
            .filter(|&i| fresh(i))
            .all(|i| self.answer(i, now, PERMIT).is_some_and(|ballot| ballot.lead == Holder::Me));
        Wish {
            lead: tries && (leads || in_turn),
            change: leads && self.plan == Plan::Replace,
            switch: leads && self.plan == Plan::Switch,
            want: ripe && !self.resigned && self.eager && self.pause.is_none() && !leads,
            names: leads || self.is_alone(),
            primary: self.primary_id,
            member: true,
            // Not while another may be writing that those who count on this know nothing of.
            cut: !self.could_write(now)
                && self.answer(server, now, PERMIT).is_some_and(|b| b.others >= self.known),
        }
    }

    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        if self.is_alone() && self.tried.iter().all(|tried| *tried) {
            let acts = now >= self.born + PERMIT && !self.resigned;
            let writes = Ok(now + LONG);
            return Standing {
                leads: acts,
                cleared: acts,
                changing: false,
                switching: false,
                writes,
                leader: None,
                names: None,
                others: 0,
            };
        }
        let lease = self.lease(now);
        let writes = self.permit(now).ok_or_else(|| self.why(now));
        let ballots = || (0..self.voters.len()).filter_map(|i| self.answer(i, now, PERMIT));
        Standing {
            leads: lease.is_some(),
            cleared: lease.is_some() && self.is_cleared(now),
            changing: ballots().any(|ballot| ballot.change == Holder::Other),
            switching: ballots().any(|ballot| ballot.switch == Holder::Other),
            writes,
            leader: ballots()
                .find(|ballot| ballot.lead == Holder::Other)
                .map(|ballot| ballot.leader.clone().unwrap_or_else(|| "another host".to_owned())),
            names: self.named(now),
            others: self.others(),
        }
    }

    /// It has never seen another, and need not.
    fn is_alone(&self) -> bool {
        self.lenient && !self.met
    }

    fn meet(&mut self, now: Instant) {
        if self.is_alone() && self.tried.iter().all(|tried| *tried) {
            // It goes on with what it was doing.
            self.joined.get_or_insert(now);
            self.keeper |= self.primary.is_some_and(|p| self.answer(p, now, PERMIT).is_some());
        }
        self.met = true;
    }

    /// One that has just started and has only half of the servers, with the primary, may do what the
    /// leader beside it may, once that one is sure to know of it: it has asked the primary twice since,
    /// or would have lost its session.
    fn follow_a_leader(&mut self, now: Instant) {
        let leader = self.primary.filter(|_| self.joined.is_none()).and_then(|p| {
            let ballot = self.answer(p, now, PERMIT)?;
            let names = ballot.names.is_some_and(|id| id == self.primary_id);
            (ballot.member && ballot.lead == Holder::Other && names)
                .then_some((ballot.session, ballot.leads))
        });
        match (leader, self.beside) {
            (None, _) => self.beside = None,
            (Some(leader), Some((since, same))) if leader == same => {
                if now >= since + 2 * SESSION + PERMIT {
                    (self.joined, self.keeper) = (Some(now), true);
                }
            }
            (Some(leader), _) => self.beside = Some((now, leader)),
        }
    }

    /// What the leading proxy, if another one, takes for the primary.
    fn named(&self, now: Instant) -> Option<u32> {
        let mut led = (0..self.voters.len())
            .filter_map(|i| self.answer(i, now, PERMIT))
            .filter(|ballot| ballot.lead == Holder::Other)
            .map(|ballot| ballot.names);
        let (names, others) = (led.next()??, led.collect::<Vec<_>>());
        let most = 2 * (1 + others.len()) >= self.running(now);
        (most && others.iter().all(|other| *other == Some(names))).then_some(names)
    }

    fn answer(&self, i: usize, now: Instant, within: Duration) -> Option<&Ballot> {
        let (asked, _, ballot) = self.voters[i].answer.as_ref()?;
        (now < *asked + within).then_some(ballot)
    }

    fn refused(&self, i: usize, now: Instant) -> Option<Instant> {
        self.voters[i].refused.filter(|at| now < *at + PERMIT)
    }

    /// Servers that count.
    fn running(&self, now: Instant) -> usize {
        (0..self.voters.len()).filter(|&i| self.refused(i, now).is_none()).count()
    }

    fn others(&self) -> u8 {
        let answers = self.voters.iter().filter_map(|voter| voter.answer.as_ref());
        answers.map(|(_, _, ballot)| ballot.others).max().unwrap_or(0)
    }

    fn sees_primary(&self, now: Instant) -> bool {
        self.primary.is_none_or(|p| self.answer(p, now, PERMIT).is_some())
    }

    /// Until when each server is known to have no `change` of another proxy.
    fn goods(&self, now: Instant, fits: impl Fn(&Ballot) -> bool) -> Vec<Instant> {
        // What was said before the primary was lost sight of says nothing about one that is back.
        let since = self.primary.and_then(|p| self.voters[p].session);
        let mut goods: Vec<_> = (0..self.voters.len())
            .filter_map(|i| {
                let voter = &self.voters[i];
                let answered = voter
                    .answer
                    .as_ref()
                    .filter(|(_, _, ballot)| self.is_free(ballot) && fits(ballot))
                    .map(|(asked, ..)| *asked);
                let at = answered.or(voter.refused)?;
                (now < at + PERMIT && since.is_none_or(|since| at >= since)).then_some(at + PERMIT)
            })
            .collect();
        goods.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
        goods
    }

    /// Until when a majority lets this proxy write, which need not lead.
    fn by_majority(&self, now: Instant) -> Option<Instant> {
        self.majority(now, |ballot| ballot.member && !ballot.cut)
    }

    fn majority(&self, now: Instant, fits: impl Fn(&Ballot) -> bool) -> Option<Instant> {
        let until = *self.goods(now, fits).get(self.voters.len() / 2)?;
        match self.primary {
            // It may be slow; what it said last, in a session that is not known to be broken, counts.
            Some(p) => {
                let (.., ballot) = self.voters[p].answer.as_ref()?;
                self.is_free(ballot).then_some(until)
            }
            None => Some(until),
        }
    }

    /// Half of the servers, with the primary, and nobody else can have more.
    fn by_keeping(&self, now: Instant, fits: impl Fn(&Ballot) -> bool) -> Option<Instant> {
        let (asked, _, ballot) = self.voters[self.primary?].answer.as_ref()?;
        let until = *asked + PERMIT;
        let half = 2 * self.goods(now, &fits).len() == self.voters.len();
        (self.keeper && half && now < until && fits(ballot)).then_some(until)
    }

    /// Servers whose lock is ours, and until when.
    fn held(&self, now: Instant) -> Vec<Instant> {
        if self.resigned {
            return Vec::new();
        }
        let mut held: Vec<_> = self
            .voters
            .iter()
            .filter_map(|voter| voter.answer.as_ref())
            .filter(|(asked, _, ballot)| ballot.lead == Holder::Me && now < *asked + LEASE)
            .map(|(asked, ..)| *asked + LEASE)
            .collect();
        held.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
        held
    }

    /// Until when this proxy has the lock on more than half of the servers.
    fn majority_lease(&self, now: Instant) -> Option<Instant> {
        self.held(now).get(self.running(now) / 2).copied()
    }

    /// Until when this proxy leads.
    fn lease(&self, now: Instant) -> Option<Instant> {
        if let Some(until) = self.majority_lease(now) {
            return Some(until);
        }
        let (held, running) = (self.held(now), self.running(now));
        let tied = !held.is_empty() && 2 * held.len() == running;
        if !tied {
            return None;
        }
        if self.sees_primary(now) {
            self.by_keeping(now, |ballot| self.is_free(ballot))
        } else {
            self.all_are_here(now).then(|| held[held.len() - 1])
        }
    }

    /// All members that there may be are seen here and have stopped, this one among them.
    fn all_are_here(&self, now: Instant) -> bool {
        self.joined.is_some()
            && (0..self.voters.len()).filter_map(|i| self.answer(i, now, PERMIT)).all(|ballot| {
                ballot.cut && ballot.others >= self.known && ballot.others_cut == ballot.others
            })
    }

    fn permit(&self, now: Instant) -> Option<Instant> {
        let stays = |ballot: &Ballot| ballot.member && !ballot.cut;
        let by_lead = || {
            // The leader needs nobody's word, but to have said that it writes again.
            let (_, _, ballot) = self.voters[self.primary?].answer.as_ref()?;
            self.majority_lease(now).filter(|_| stays(ballot))
        };
        [self.by_majority(now), by_lead(), self.by_keeping(now, stays)].into_iter().flatten().max()
    }

    /// The same, but for having said so.
    fn could_write(&self, now: Instant) -> bool {
        if self.joined.is_none() {
            return self.is_alone();
        }
        self.majority(now, |_| true).is_some()
            || self.majority_lease(now).is_some()
            || self.by_keeping(now, |_| true).is_some()
    }

    /// Since when `change` is ours on enough servers.
    fn changed(&self, now: Instant) -> Option<Instant> {
        self.lease(now)?;
        let mut since: Vec<_> = (0..self.voters.len())
            .filter(|&i| self.answer(i, now, LEASE).is_some())
            .filter_map(|i| self.voters[i].change)
            .collect();
        since.sort_unstable();
        let running = self.running(now);
        let tied = 2 * since.len() == running && !self.sees_primary(now) && self.all_are_here(now);
        let need = if tied { running / 2 } else { running / 2 + 1 };
        since.get(need.max(1) - 1).copied()
    }

    fn is_cleared(&self, now: Instant) -> bool {
        let Some(since) = self.changed(now) else {
            return false;
        };
        let refuses =
            self.primary.is_some_and(|p| self.refused(p, now).is_some_and(|asked| asked > since));
        let stopped = || {
            (0..self.voters.len()).filter(|&i| self.voters[i].change.is_some()).all(|i| {
                self.voters[i].answer.as_ref().is_some_and(|(asked, _, ballot)| {
                    *asked > since && ballot.others == ballot.others_cut
                })
            })
        };
        refuses || now >= since + PERMIT + BEAT / 2 || stopped()
    }

    /// Why it may not write.
    fn why(&self, now: Instant) -> String {
        let names = |of: &mut dyn Iterator<Item = usize>| {
            let names: Vec<_> = of.map(|i| self.names[i].to_string()).collect();
            (names.len(), names.join(" and "))
        };
        let all = 0..self.voters.len();
        let change = all.clone().find_map(|i| {
            let ballot = self.answer(i, now, PERMIT)?;
            (ballot.change == Holder::Other).then(|| ballot.leader.clone())
        });
        if let Some(leader) = change {
            let leader = leader.map_or_else(String::new, |leader| format!(" at {leader}"));
            return format!("another proxy{leader} is replacing the primary");
        }
        let silent = &mut all
            .clone()
            .filter(|&i| self.answer(i, now, PERMIT).is_none() && self.refused(i, now).is_none());
        let (count, silent) = names(silent);
        let verb = if count == 1 { "does" } else { "do" };
        if 2 * count > self.voters.len() {
            format!(
                "this proxy is cut off from most of the servers ({silent} {verb} not answer), where \
                 another proxy may have made another primary"
            )
        } else if 2 * count == self.voters.len() {
            let long = |since| now >= since + ADVICE;
            let advice = match self.halted.is_some_and(long) {
                true => {
                    "; if there is none, set agree = false in [failover], or take out of the config \
                     what is gone for good"
                }
                false => "",
            };
            format!(
                "{silent} {verb} not answer, so another proxy may have made another primary there{advice}"
            )
        } else {
            "it is not agreed yet with other proxies".to_owned()
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % n
    }
}

/// Something that differs between proxies.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}
