//! One virtual router: RFC 9568 section 6 and RFC 3768 section 6, with what practice added.
//!
//! Beyond the RFCs:
//! - **Late timers.** A process that was frozen (SIGSTOP, a paused VM, a starved machine) while
//!   active must assume that a backup has taken over meanwhile. Before it sends anything it gives
//!   up the addresses and starts over as backup.
//! - **Make before break.** A planned stop announces priority 0 but keeps the addresses (state
//!   [`State::Leaving`]) until another router advertises, or a bound passes.
//! - **Sync groups** are driven by [`crate::Node`]: a grouped router does not take over by itself
//!   when its timer expires; it becomes ready and waits for the others.

mod adverts;
mod change;
mod config;
mod state;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::checksum::ChecksumForm;
use crate::counters::Counters;
use crate::error::{ConfigError, DropReason, ParseError};
use crate::packet::{Advert, Outgoing, Version};
use crate::{PRIORITY_OWNER, PRIORITY_STOP, Time};
use adverts::same_addresses;
use change::first_fault;

pub use config::{AnnounceConfig, RouterConfig};
pub use state::{Action, Fault, Reason, Received, State};

/// How long a leaving router keeps the addresses after it heard its successor: the successor sends
/// its first advert before its gratuitous ARP, and frames sent to us in between still need us.
const HANDOVER_GRACE: Duration = Duration::from_millis(20);

/// How long after a router of lower priority advertised the addresses are announced again, at most.
const LAST_WORD: Duration = Duration::from_millis(200);

/// The least lateness of a backup's timer that counts as "was not running".
const LATE_FLOOR: Duration = Duration::from_millis(20);

/// One virtual router. See the crate documentation for how to drive it.
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    state: State,
    /// Where our adverts come from; decides between equal priorities.
    source: Option<IpAddr>,
    faults: u8,
    /// Sum of the tracking weights that apply now.
    adjust: i32,
    grouped: bool,
    /// Grouped and nobody heard for the master-down interval: may take over when all may.
    ready: bool,
    /// The active router's advert interval (version 3 learns it).
    active_interval: Duration,
    /// The last active router heard.
    active: Option<(IpAddr, u8)>,
    peer_form: Option<ChecksumForm>,
    /// The active router said priority 0, nothing heard since.
    peer_stopped: bool,
    addresses_differ: Option<IpAddr>,

    last_now: Time,
    /// Added to the caller's time: makes up for jumps back.
    shift: Duration,
    last_sent: Time,
    advert_at: Option<Time>,
    down_at: Option<Time>,
    announce_at: Option<(Time, u8)>,
    /// When to announce once more, because another router did meanwhile.
    last_word_at: Option<Time>,
    leave_at: Option<Time>,
    stop_again_at: Option<Time>,
    /// Set on hearing a lower-priority active router: from then on it may be preempted.
    preempt_at: Option<Time>,
    /// The late master-down timer was already given one more round.
    extended: bool,
    /// Until when it may begin where the process before it ended.
    succeeds_until: Option<Time>,

    actions: VecDeque<Action>,
    counters: Counters,
}

impl Router {
    /// A router that waits for [`Router::handle_interface`] to say that it can begin.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn new(config: RouterConfig, now: Time) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            active_interval: config.advert_interval,
            config,
            state: State::Initialize,
            source: None,
            faults: Fault::Interface as u8 | Fault::NoSource as u8,
            adjust: 0,
            grouped: false,
            ready: false,
            active: None,
            peer_form: None,
            peer_stopped: false,
            addresses_differ: None,
            last_now: now,
            shift: Duration::ZERO,
            last_sent: now,
            advert_at: None,
            down_at: None,
            announce_at: None,
            last_word_at: None,
            leave_at: None,
            stop_again_at: None,
            preempt_at: None,
            extended: false,
            succeeds_until: None,
            actions: VecDeque::new(),
            counters: Counters::default(),
        })
    }

    #[must_use]
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The last active router heard, with its priority; `None` while that is us.
    #[must_use]
    pub fn active_router(&self) -> Option<(IpAddr, u8)> {
        self.active
    }

    /// The priority with tracking weights in it: 1 to 254, or 255 for the owner.
    #[must_use]
    pub fn effective_priority(&self) -> u8 {
        if self.config.priority == PRIORITY_OWNER {
            return PRIORITY_OWNER;
        }
        (i32::from(self.config.priority) + self.adjust).clamp(1, 254) as u8
    }

    /// Until when a router that holds the addresses and stays silent can be sure that nobody has
    /// taken over, by the caller's clock: past it the addresses must not be answered for. For a
    /// guard that watches this process from outside. `None` if it holds none.
    #[must_use]
    pub fn active_until(&self) -> Option<Time> {
        match self.state {
            State::Active => Some(self.outside(self.last_sent + self.config.peers_wait())),
            // The bound itself is the machine's to keep; the guard is for when it can't.
            State::Leaving => {
                self.leave_at.map(|at| self.outside(at + self.config.advert_interval))
            }
            _ => None,
        }
    }

    /// Appends the advert of `priority` to be sent from the router's source to `dst`. Does nothing
    /// without a source.
    pub fn encode_advert(&self, priority: u8, dst: IpAddr, out: &mut Vec<u8>) {
        let Some(src) = self.source else { return };
        let form = self.config.checksum_form.or(self.peer_form);
        Outgoing {
            version: self.config.version,
            vrid: self.config.vrid,
            priority,
            interval: self.config.advert_interval,
            auth: self.config.auth.as_ref(),
            addresses: &self.config.addresses,
            checksum_form: form.unwrap_or(ChecksumForm::PseudoHeader),
        }
        .encode(src, dst, out);
    }

    /// When to call [`Router::handle_timeout`] next, by the caller's clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        [
            self.advert_at,
            self.down_at,
            self.announce_at.map(|(at, _)| at),
            self.last_word_at,
            self.leave_at,
            self.stop_again_at,
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| self.outside(at))
    }

    /// The next thing to do; drain until `None` after each input.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The interface went up or down, or the address to send from changed. The first call with
    /// both in order starts the router.
    pub fn handle_interface(&mut self, up: bool, source: Option<IpAddr>, now: Time) {
        let now = self.wake(now);
        let mut faults = self.faults & !(Fault::Interface as u8 | Fault::NoSource as u8);
        if !up {
            faults |= Fault::Interface as u8;
        }
        if source.is_none() {
            faults |= Fault::NoSource as u8;
        }
        self.source = source;
        self.apply_faults(faults, now);
        if self.state == State::Initialize {
            self.enter(State::Fault, Reason::Fault(first_fault(faults)));
        }
    }

    /// What is tracked now adds up to `adjust` (added to the priority), and `failed` if anything
    /// without a weight is down.
    pub fn handle_tracking(&mut self, adjust: i32, failed: bool, now: Time) {
        let now = self.wake(now);
        let before = self.effective_priority();
        self.adjust = adjust;
        let mask = Fault::Tracking as u8;
        let faults = if failed { self.faults | mask } else { self.faults & !mask };
        self.apply_faults(faults, now);
        // The peers should know at once, not an interval later.
        if self.state == State::Active && self.effective_priority() != before {
            self.send_advert(now);
        }
    }

    /// A new configuration for the same virtual router (VRID, version and family unchanged).
    /// Putting changed addresses on the interface is the caller's part.
    ///
    /// # Errors
    /// [`ConfigError`]; the old configuration stays.
    pub fn handle_config(&mut self, config: RouterConfig, now: Time) -> Result<(), ConfigError> {
        config.validate()?;
        let now = self.wake(now);
        self.config = config;
        if self.state == State::Active {
            self.send_advert(now);
            self.actions.push_back(Action::Announce { repeat: self.config.announce.repeat });
        }
        Ok(())
    }

    /// A planned stop. The router is done when its state is [`State::Stopped`].
    pub fn handle_stop(&mut self, now: Time) {
        let now = self.wake(now);
        match self.state {
            State::Active => {
                self.stop_timers();
                self.push_stop_advert();
                let interval = self.config.advert_interval;
                let hold = self.config.stop_hold.unwrap_or(interval * 3);
                if hold.is_zero() {
                    self.actions.push_back(Action::RemoveAddresses);
                    self.enter(State::Stopped, Reason::Stopping);
                    return;
                }
                self.leave_at = Some(now + hold);
                // A successor's skew time is at most one interval: if nobody was heard by then,
                // the priority 0 advert got lost.
                self.stop_again_at = Some(now + interval + interval / 2);
                self.enter(State::Leaving, Reason::Stopping);
            }
            State::Leaving | State::Stopped => {}
            State::Initialize | State::Backup | State::Fault => {
                self.stop_timers();
                self.enter(State::Stopped, Reason::Stopping);
            }
        }
    }

    /// This process ends, and another is to begin at once where it was. The peers must not notice, so
    /// the addresses stay where they are; the last advert is sent now, and may be the last until the
    /// time given, by the caller's clock: then somebody else takes over. `None` if it holds none.
    pub fn handle_restart(&mut self, now: Time) -> Option<Time> {
        let now = self.wake(now);
        if self.state != State::Active {
            return None;
        }
        self.send_advert(now);
        self.active_until()
    }

    /// Before its first input: the process before this one held the addresses, which are still there,
    /// and by `until`, as it was told by [`Router::handle_restart`], nobody else has taken over.
    pub fn succeed(&mut self, until: Time) {
        self.succeeds_until = Some(until);
    }

    /// A packet of IP protocol 112 arrived (its payload, without the IP header).
    ///
    /// # Errors
    /// Why it was dropped; also counted. Nothing needs to be done about it.
    pub fn handle_advert(
        &mut self,
        bytes: &[u8],
        from: Received,
        now: Time,
    ) -> Result<(), DropReason> {
        let now = self.wake(now);
        let advert = self.check(bytes, from)?;
        // There is somebody else.
        self.succeeds_until = None;
        self.counters.adverts_received += 1;
        self.counters.trailing_bytes += u64::from(advert.trailing > 0);
        if let Some(form) = advert.checksum_form {
            let ours = self.config.checksum_form.or(self.peer_form);
            if form != ours.unwrap_or(ChecksumForm::PseudoHeader) {
                self.counters.checksum_form_mismatches += 1;
            }
            self.peer_form = Some(form);
        }
        if advert.priority == PRIORITY_STOP {
            self.counters.priority_zero_received += 1;
        } else if !same_addresses(&advert, &self.config.addresses) {
            self.counters.address_list_mismatches += 1;
            if self.addresses_differ.replace(from.src) != Some(from.src) {
                self.actions.push_back(Action::AddressesDiffer { src: from.src });
            }
        } else if self.addresses_differ == Some(from.src) {
            self.addresses_differ = None;
        }
        match self.state {
            State::Backup => self.advert_as_backup(&advert, from.src, now),
            State::Active => self.advert_as_active(&advert, from.src, now),
            State::Leaving if advert.priority != PRIORITY_STOP => {
                self.active = Some((from.src, advert.priority));
                self.stop_again_at = None;
                let leave_at = now + HANDOVER_GRACE;
                self.leave_at = Some(self.leave_at.map_or(leave_at, |at| at.min(leave_at)));
            }
            State::Leaving | State::Initialize | State::Fault | State::Stopped => {}
        }
        Ok(())
    }

    /// Time has come: [`Router::poll_timeout`] has passed. Harmless if called early.
    pub fn handle_timeout(&mut self, now: Time) {
        let now = self.wake(now);
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if due(self.down_at) {
            self.master_down_expired(now);
        }
        if due(self.advert_at) {
            self.send_advert(now);
        }
        if due(self.announce_at.map(|(at, _)| at)) {
            if let Some((_, repeat)) = self.announce_at.take() {
                self.announce(repeat);
            }
            let AnnounceConfig { refresh, refresh_repeat, .. } = self.config.announce;
            if !refresh.is_zero() {
                self.announce_at = Some((now + refresh, refresh_repeat));
            }
        }
        if due(self.last_word_at) {
            self.last_word_at = None;
            self.announce(self.config.announce.lower_repeat);
        }
        if due(self.leave_at) {
            self.stop_timers();
            self.actions.push_back(Action::RemoveAddresses);
            let reason = match self.active {
                Some((src, _)) => Reason::PeerTookOver(src),
                None => Reason::NobodyTookOver,
            };
            self.enter(State::Stopped, reason);
            return;
        }
        if due(self.stop_again_at) {
            self.stop_again_at = None;
            self.push_stop_advert();
        }
    }

    // What a sync group does to its members.

    pub(crate) fn set_grouped(&mut self, grouped: bool, now: Time) {
        let was = std::mem::replace(&mut self.grouped, grouped);
        if was && !grouped {
            let now = self.wake(now);
            if self.faults & Fault::Group as u8 != 0 {
                self.apply_faults(self.faults & !(Fault::Group as u8), now);
            }
            if std::mem::take(&mut self.ready) {
                self.down_at = Some(now + self.master_down_interval());
            }
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Backup && self.ready
    }

    /// One that was not told of its interface yet has none: the others of its group, that were told a
    /// moment before, are not at fault.
    pub(crate) fn has_own_fault(&self) -> bool {
        self.state != State::Initialize && self.faults & !(Fault::Group as u8) != 0
    }

    pub(crate) fn handle_group_fault(&mut self, failed: bool, now: Time) {
        let now = self.wake(now);
        let mask = Fault::Group as u8;
        let faults = if failed { self.faults | mask } else { self.faults & !mask };
        self.apply_faults(faults, now);
    }

    /// All members are ready.
    pub(crate) fn handle_group_active(&mut self, now: Time) {
        let now = self.wake(now);
        if self.is_ready() {
            let reason = match self.succeeds_until {
                Some(until) if now < until => Reason::Restarted,
                _ if self.peer_stopped => Reason::PeerStopped,
                _ => Reason::HeardNobody,
            };
            self.become_active(reason, now);
        }
    }

    /// Another member had to become backup.
    pub(crate) fn handle_group_backup(&mut self, now: Time) {
        let now = self.wake(now);
        if self.state == State::Active {
            // Our peer may be waiting for us in this subnet.
            self.push_stop_advert();
            self.active_interval = self.config.advert_interval;
            self.become_backup(Reason::Group, now);
        }
    }

    // Time.

    fn outside(&self, at: Time) -> Time {
        at.saturating_sub(self.shift)
    }

    /// Every input goes through here first: makes time monotonic, and gives up being active if
    /// this process was silent for so long that a backup has taken over.
    fn wake(&mut self, now: Time) -> Time {
        let mut time = now + self.shift;
        if time < self.last_now {
            self.shift += self.last_now - time;
            time = self.last_now;
        }
        self.last_now = time;
        let silent = time.saturating_sub(self.last_sent);
        if self.state == State::Active && silent >= self.config.peers_wait() {
            self.counters.late_timers += 1;
            self.active_interval = self.config.advert_interval;
            self.become_backup(Reason::WasFrozen(silent), time);
        }
        time
    }

    /// RFC 3768: (256 - priority) / 256 seconds. RFC 9568: the same part of the active router's
    /// interval. Not rounded: whole units would make backups of near priorities expire together.
    fn skew(&self) -> Duration {
        let unit = match self.config.version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => self.active_interval,
        };
        unit * (256 - u32::from(self.effective_priority())) / 256
    }

    fn master_down_interval(&self) -> Duration {
        self.active_interval * u32::from(self.config.down_timer_adverts) + self.skew()
    }
}

#[cfg(test)]
mod tests;
