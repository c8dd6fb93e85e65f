//! What is going on, for people.

use super::machine::{Machine, Phase};

impl Machine {
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
            Phase::Rest(change) => Some(format!(
                "switchover from {} to {}: disabling its scheduled events",
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
            Phase::Clear(change, _) => Some(format!(
                "failover from {}: waiting until no other Pointsman writes to it",
                name(change.old)
            )),
            Phase::Open(change) => Some(format!("{} is becoming the primary", name(change.to))),
            Phase::Undo(change, _) => {
                Some(format!("switchover to {} is being undone", name(change.to)))
            }
        });
        lines.extend(self.care.status(&self.facts));
        if self.lead.others
            && let Some(leader) = &self.lead.leader
        {
            lines
                .push(format!("the Pointsman at {leader} leads: that one replaces a lost primary"));
        }
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
}
