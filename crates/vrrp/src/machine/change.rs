//! From one state to another, and what is sent on the way.

use super::*;

impl Router {
    pub(super) fn apply_faults(&mut self, faults: u8, now: Time) {
        self.faults = faults;
        match self.state {
            State::Stopped => {}
            State::Initialize | State::Fault if faults == 0 => {
                let reason =
                    if self.state == State::Fault { Reason::Recovered } else { Reason::Started };
                self.start(reason, now);
            }
            State::Initialize | State::Fault => {}
            State::Leaving if faults != 0 => {
                self.stop_timers();
                self.actions.push_back(Action::RemoveAddresses);
                self.enter(State::Stopped, Reason::Fault(first_fault(faults)));
            }
            State::Active | State::Backup if faults != 0 => {
                let was_active = self.state == State::Active;
                self.stop_timers();
                if was_active {
                    self.actions.push_back(Action::RemoveAddresses);
                    self.push_stop_advert();
                }
                self.active = None;
                self.counters.became_fault += 1;
                self.enter(State::Fault, Reason::Fault(first_fault(faults)));
            }
            State::Leaving | State::Active | State::Backup => {}
        }
    }

    fn start(&mut self, reason: Reason, now: Time) {
        self.active_interval = self.config.advert_interval;
        let succeeds = self.succeeds_until.is_some_and(|until| now < until);
        if succeeds && !self.grouped {
            self.become_active(Reason::Restarted, now);
            return;
        }
        if self.config.priority == PRIORITY_OWNER && !self.grouped {
            self.become_active(reason, now);
            return;
        }
        self.become_backup(reason, now);
        if self.config.priority == PRIORITY_OWNER || succeeds {
            self.down_at = None;
            self.ready = true;
        }
    }

    pub(super) fn master_down_expired(&mut self, now: Time) {
        let late = self.down_at.map_or(Duration::ZERO, |at| now.saturating_sub(at));
        if late >= self.active_interval.max(LATE_FLOOR) && !self.extended {
            // We were not running, so we can't know whether anybody advertised. Listen first.
            self.counters.late_timers += 1;
            self.extended = true;
            self.down_at = Some(now + self.master_down_interval());
            return;
        }
        self.down_at = None;
        if self.grouped {
            self.ready = true;
            return;
        }
        let reason = if self.peer_stopped { Reason::PeerStopped } else { Reason::HeardNobody };
        self.become_active(reason, now);
    }

    pub(super) fn become_active(&mut self, reason: Reason, now: Time) {
        self.stop_timers();
        self.active = None;
        self.succeeds_until = None;
        self.counters.became_active += 1;
        self.actions.push_back(Action::AddAddresses);
        self.state_now(
            State::Active,
            |router| {
                router.send_advert(now);
                let AnnounceConfig { repeat, delay, .. } = router.config.announce;
                router.announce(repeat);
                if !delay.is_zero() {
                    router.announce_at = Some((now + delay, repeat));
                } else if !router.config.announce.refresh.is_zero() {
                    let AnnounceConfig { refresh, refresh_repeat, .. } = router.config.announce;
                    router.announce_at = Some((now + refresh, refresh_repeat));
                }
            },
            reason,
        );
    }

    pub(super) fn become_backup(&mut self, reason: Reason, now: Time) {
        if self.state.holds_addresses() {
            self.actions.push_back(Action::RemoveAddresses);
        }
        self.stop_timers();
        self.counters.became_backup += 1;
        self.down_at = Some(now + self.master_down_interval());
        self.enter(State::Backup, reason);
    }

    pub(super) fn enter(&mut self, to: State, reason: Reason) {
        self.state_now(to, |_| (), reason);
    }

    /// Changes state, does `then`, and says so last: notifying is what can wait.
    fn state_now(&mut self, to: State, then: impl FnOnce(&mut Self), reason: Reason) {
        let from = std::mem::replace(&mut self.state, to);
        then(self);
        self.actions.push_back(Action::Transition { from, to, reason });
    }

    pub(super) fn stop_timers(&mut self) {
        self.advert_at = None;
        self.down_at = None;
        self.announce_at = None;
        self.last_word_at = None;
        self.leave_at = None;
        self.stop_again_at = None;
        self.preempt_at = None;
        self.extended = false;
        self.ready = false;
        self.peer_stopped = false;
    }

    // Sending.

    pub(super) fn send_advert(&mut self, now: Time) {
        self.counters.adverts_sent += 1;
        self.actions.push_back(Action::SendAdvert { priority: self.effective_priority() });
        // From the time it was due, so that lateness does not add up; unless that is long ago.
        let interval = self.config.advert_interval;
        let next = self.advert_at.filter(|at| *at <= now).unwrap_or(now) + interval;
        self.advert_at = Some(if next > now { next } else { now + interval });
        self.last_sent = now;
    }

    pub(super) fn push_stop_advert(&mut self) {
        if self.faults & (Fault::Interface as u8 | Fault::NoSource as u8) != 0 {
            return;
        }
        self.counters.adverts_sent += 1;
        self.counters.priority_zero_sent += 1;
        self.actions.push_back(Action::SendAdvert { priority: PRIORITY_STOP });
    }

    pub(super) fn announce(&mut self, repeat: u8) {
        if repeat > 0 {
            self.counters.announcements += u64::from(repeat);
            self.actions.push_back(Action::Announce { repeat });
        }
    }
}

pub(super) fn first_fault(faults: u8) -> Fault {
    [Fault::Interface, Fault::NoSource, Fault::Tracking]
        .into_iter()
        .find(|f| faults & *f as u8 != 0)
        .unwrap_or(Fault::Group)
}
