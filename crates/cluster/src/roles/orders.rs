//! What others say of the servers: operators, those who change the primary, other proxies.

use std::sync::Arc;
use std::time::Instant;

use super::{Hold, Topology};
use crate::gtid::Position;
use crate::snapshot::{AdminState, Permit, ServerId};

impl Topology {
    pub fn set_admin(&mut self, id: ServerId, admin: AdminState) {
        if let Some(known) = self.servers.get_mut(usize::from(id.0)) {
            // It may have been restarted meanwhile: what was last seen of it says nothing by itself.
            if known.admin != admin
                && let Some(trouble) = &mut known.trouble
            {
                trouble.refused = false;
            }
            known.admin = admin;
        }
        if admin == AdminState::Running {
            self.trust(id);
        }
    }

    /// The operator vouches for a server that would not be taken as primary because it lacks
    /// transactions. Holds until it is the primary.
    pub fn accept(&mut self, id: ServerId) {
        if let Some(known) = self.servers.get_mut(usize::from(id.0)) {
            known.accepted = true;
            known.deposed = None;
        }
    }

    /// A change of the primary in good order begins: there is no primary until another server has
    /// become one, or [`Topology::release`].
    pub fn hold(&mut self, old: ServerId, why: &str) {
        self.hold = Some(Hold { old: usize::from(old.0), why: why.into(), others: false });
    }

    /// Another proxy changes the primary in good order, or no longer does.
    pub fn hold_for_others(&mut self, why: Option<String>) {
        match (why, self.primary) {
            (Some(why), Some(old)) if self.hold.is_none() => {
                self.hold = Some(Hold { old, why: why.into(), others: true });
            }
            (Some(_), _) => {}
            (None, _) => drop(self.hold.take_if(|hold| hold.others)),
        }
    }

    /// The change was called off.
    pub fn release(&mut self) {
        self.hold = None;
    }

    /// This server is no primary from now on, whatever it says of itself; `why` completes "it is
    /// kept out: ".
    pub fn depose(&mut self, id: ServerId, why: &str) {
        if let Some(known) = self.servers.get_mut(usize::from(id.0)) {
            known.deposed = Some(why.into());
        }
    }

    /// It may be the primary again.
    pub fn reinstate(&mut self, id: ServerId) {
        if let Some(known) = self.servers.get_mut(usize::from(id.0)) {
            known.deposed = None;
        }
    }

    /// Nothing may be written from now on, and open transactions may not go on, because `why`; `None`:
    /// again, once all servers that `answer` other proxies' questions were looked at after that: what
    /// was done meanwhile is to be seen first.
    pub fn permit(&mut self, why: Option<Arc<str>>, answer: impl Fn(usize) -> bool, now: Instant) {
        if why.is_some() {
            (self.forbidden, self.regained) = (why, None);
            self.parted = true;
        } else if self.forbidden.is_some() {
            let since = *self.regained.get_or_insert(now);
            let seen = |i: usize| {
                self.servers[i].answer.as_ref().is_some_and(|answer| answer.asked >= since)
            };
            if (0..self.servers.len()).all(|i| seen(i) || !answer(i)) {
                (self.forbidden, self.regained) = (None, None);
            }
        }
    }

    /// What ends the right to write by itself, from the next snapshot on.
    pub(crate) fn set_permit(&mut self, permit: Arc<Permit>) {
        self.permit = Some(permit);
    }

    /// Why nothing may be written, and whether another proxy holds writes back.
    pub(crate) fn forbidden(&self) -> (Option<Arc<str>>, bool) {
        (self.forbidden.clone(), self.hold.as_ref().is_some_and(|hold| hold.others))
    }

    /// Which server the leading one of several proxies takes for the primary: its `@@server_id`;
    /// `None` if there is no such proxy but this one. Whatever was seen here before, that one knows
    /// better.
    ///
    /// Returns whether that is new.
    pub fn follow(&mut self, led: Option<u32>) -> bool {
        std::mem::replace(&mut self.led, led) != led
    }

    /// This server is being made writable and has `inherited` at that moment.
    pub fn promoted(&mut self, id: ServerId, inherited: Position) {
        self.promoted = Some((usize::from(id.0), inherited));
    }
}
