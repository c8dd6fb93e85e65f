//! What an advertisement means: whether it counts (RFC 9568 section 7.1, RFC 3768 section 7.1), and
//! what a backup and an active router make of it (sections 6.4.2 and 6.4.3).

use std::net::IpAddr;

use super::*;

impl Router {
    pub(super) fn check<'a>(
        &mut self,
        bytes: &'a [u8],
        from: Received,
    ) -> Result<Advert<'a>, DropReason> {
        let counters = &mut self.counters;
        let (counter, reason) = 'drop: {
            if Some(from.src) == self.source {
                break 'drop (&mut counters.own_packets, DropReason::Own);
            }
            if from.ttl < self.config.min_ttl {
                break 'drop (&mut counters.ttl_errors, DropReason::Ttl(from.ttl));
            }
            let advert = match Advert::parse(bytes, from.src, from.dst) {
                Ok(advert) => advert,
                Err(error) => {
                    let counter = match error {
                        ParseError::Checksum => &mut counters.checksum_errors,
                        ParseError::Version(_) => &mut counters.version_errors,
                        _ => &mut counters.malformed,
                    };
                    break 'drop (counter, DropReason::Parse(error));
                }
            };
            if advert.version != self.config.version {
                break 'drop (&mut counters.version_errors, DropReason::WrongVersion);
            }
            if advert.vrid != self.config.vrid {
                break 'drop (&mut counters.vrid_errors, DropReason::Vrid(advert.vrid));
            }
            if advert.version == Version::V2 {
                let auth = self.config.auth.as_ref();
                if !advert.auth_type_matches(auth) {
                    let reason = DropReason::AuthType(advert.auth_type);
                    break 'drop (&mut counters.auth_type_errors, reason);
                }
                if auth.is_some_and(|a| !a.matches(&advert.auth_data)) {
                    break 'drop (&mut counters.auth_mismatches, DropReason::AuthMismatch);
                }
                if advert.interval != self.config.advert_interval {
                    let reason = DropReason::Interval(advert.interval);
                    break 'drop (&mut counters.interval_mismatches, reason);
                }
            }
            let peers = &self.config.unicast_peers;
            if !peers.is_empty() && !peers.contains(&from.src) {
                break 'drop (&mut counters.unknown_peers, DropReason::UnknownPeer);
            }
            if matches!(self.state, State::Initialize | State::Fault | State::Stopped) {
                break 'drop (&mut counters.not_listening, DropReason::NotListening);
            }
            // While leaving even an owner wants to know its successor.
            if self.config.priority == PRIORITY_OWNER && self.state != State::Leaving {
                break 'drop (&mut counters.dropped_as_owner, DropReason::Owner);
            }
            return Ok(advert);
        };
        *counter += 1;
        Err(reason)
    }

    pub(super) fn advert_as_backup(&mut self, advert: &Advert<'_>, src: IpAddr, now: Time) {
        if advert.priority == PRIORITY_STOP {
            self.peer_stopped = true;
            self.active = None;
            if !self.ready {
                // Never later than it would have been: a repeated priority 0 must not delay us.
                let at = now + self.skew();
                self.down_at = Some(self.down_at.map_or(at, |old| old.min(at)));
                // Whatever lateness there was is over: this timer is a new one.
                self.extended = false;
            }
            return;
        }
        self.active = Some((src, advert.priority));
        let inferior = advert.priority < self.effective_priority();
        if inferior && self.config.preempt {
            let preempt_at = *self.preempt_at.get_or_insert(now + self.config.preempt_delay);
            if preempt_at <= now {
                return;
            }
        } else {
            self.preempt_at = None;
        }
        self.peer_stopped = false;
        self.ready = false;
        self.extended = false;
        self.learn_interval(advert);
        self.down_at = Some(now + self.master_down_interval());
    }

    pub(super) fn advert_as_active(&mut self, advert: &Advert<'_>, src: IpAddr, now: Time) {
        if advert.priority == PRIORITY_STOP {
            // Whoever stops had drawn the traffic to itself.
            self.have_the_last_word(now);
            self.send_advert(now);
            return;
        }
        let own = (self.effective_priority(), self.source);
        if (advert.priority, Some(src)) > own {
            // It can't know that there were two, and has to announce itself again.
            self.send_advert(now);
            self.learn_interval(advert);
            self.active = Some((src, advert.priority));
            self.become_backup(Reason::Superior { priority: advert.priority, src }, now);
            return;
        }
        self.have_the_last_word(now);
        // Not more often: someone flooding us must not make us flood the link.
        if now.saturating_sub(self.last_sent) >= self.config.advert_interval / 8 {
            self.send_advert(now);
            self.announce(self.config.announce.lower_repeat);
        }
    }

    /// Another router was active too: it announces itself after its advert, maybe after what we send
    /// now, and neighbours believe who spoke last.
    fn have_the_last_word(&mut self, now: Time) {
        if self.last_word_at.is_none() && self.config.announce.lower_repeat > 0 {
            self.last_word_at = Some(now + self.config.advert_interval.min(LAST_WORD));
        }
    }

    fn learn_interval(&mut self, advert: &Advert<'_>) {
        self.active_interval = advert.interval;
    }

    // Changing state.
}

/// Same set, any order. Lists are short.
pub(super) fn same_addresses(advert: &Advert<'_>, ours: &[IpAddr]) -> bool {
    advert.addresses().len() == ours.len() && advert.addresses().all(|a| ours.contains(&a))
}
