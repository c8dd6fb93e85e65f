//! What is agreed with other proxies, published: see [`crate::quorum`].

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::Shared;
use crate::quorum::{self, Beat, Plan, Quorum, Standing, Wish};
use crate::roles::Topology;
use crate::snapshot::Permit;

pub(super) struct Agreement {
    quorum: Quorum,
    /// The locks that each server was last asked for.
    wished: Vec<Wish>,
    permit: Arc<Permit>,
    /// Nothing may be written, as last published.
    forbidden: bool,
}

impl Agreement {
    /// At first nothing may be written.
    pub(super) fn new(names: Vec<Arc<str>>, lenient: bool, topology: &mut Topology) -> Self {
        let now = Instant::now();
        let wished = vec![Wish::default(); names.len()];
        let quorum = Quorum::new(names, lenient, quorum::seed(), now);
        let why = Some("it is not agreed yet with other proxies".into());
        topology.permit(why, |_| true, now);
        let permit = Arc::new(Permit::new(now));
        topology.set_permit(permit.clone());
        topology.evaluate(now);
        Self { quorum, wished, permit, forbidden: true }
    }
}

impl Shared {
    /// Publishes what is agreed by now, and asks for the locks that follow from it.
    pub(crate) fn agree(&self) {
        self.with_quorum(|agreement| {
            let now = Instant::now();
            let primary = self.topology().primary();
            agreement.quorum.set_primary(primary, now);
            agreement.quorum.count(now);
            let mut standing = agreement.quorum.standing(now);
            if self.topology().elects_for_itself() {
                // Its own majority says who writes; locks there may not even be allowed.
                (standing.writes, standing.switching) = (Ok(now + quorum::LONG), false);
            }
            agreement.permit.set(*standing.writes.as_ref().unwrap_or(&now));
            let leader = standing.leader.unwrap_or_default();
            let switching = standing
                .switching
                .then(|| format!("the proxy at {leader} is changing the primary"));
            let (changed, waits) = {
                let mut topology = self.topology();
                let led = topology.follow(standing.names);
                let before = topology.forbidden();
                let may = standing.writes.is_ok();
                let answers = |i| agreement.quorum.answers(i, now);
                topology.permit(standing.writes.err().map(Arc::from), answers, now);
                topology.hold_for_others(switching);
                let after = topology.forbidden();
                agreement.forbidden = after.0.is_some();
                (before != after || led, may && agreement.forbidden)
            };
            if changed {
                self.update(|_| {});
            }
            if waits {
                self.look_everywhere();
            }
            for (i, watched) in self.watched.iter().enumerate() {
                if agreement.wished[i] != agreement.quorum.wish(i, now) {
                    watched.wake_ballot.notify_one();
                }
            }
            if !agreement.forbidden {
                self.agreed.send_if_modified(|agreed| !std::mem::replace(agreed, true));
            }
        });
    }

    /// The locks to hold at server `i`.
    pub(crate) fn wish(&self, i: usize) -> Wish {
        let wish = self.with_quorum(|agreement| {
            let wish = agreement.quorum.wish(i, Instant::now());
            agreement.wished[i] = wish;
            wish
        });
        wish.unwrap_or_default()
    }

    pub(crate) fn beat(&self, i: usize, asked: Instant, beat: Beat) {
        self.with_quorum(|agreement| agreement.quorum.handle_beat(i, asked, beat, Instant::now()));
        self.agree();
        self.news.notify_one();
    }

    /// `None` if there are no others to agree with.
    pub(crate) fn standing(&self) -> Option<Standing> {
        self.with_quorum(|agreement| agreement.quorum.standing(Instant::now()))
    }

    /// When what is agreed ends if no server says it again.
    pub(crate) fn agreed_until(&self) -> Option<Instant> {
        self.with_quorum(|agreement| agreement.quorum.poll_timeout(Instant::now())).flatten()
    }

    /// Another process, which this one takes over from, is no other proxy.
    pub(super) fn succeed(&self) {
        self.with_quorum(|agreement| agreement.quorum.succeed());
    }

    /// Leaves it to others to change the primary.
    pub(super) fn resign(&self) {
        self.with_quorum(|agreement| agreement.quorum.resign());
        self.agree();
    }

    /// What the machine is about to do, and whether it acts by itself.
    pub(crate) fn plan(&self, plan: Plan, eager: bool) {
        let new = self.with_quorum(|agreement| agreement.quorum.set_plan(plan, eager));
        if new == Some(true) {
            self.agree();
        }
    }

    fn with_quorum<T>(&self, what: impl FnOnce(&mut Agreement) -> T) -> Option<T> {
        let quorum = self.quorum.as_ref()?;
        Some(what(&mut quorum.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}
