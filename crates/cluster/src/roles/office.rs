//! A server becomes the primary, or is found to be one with another history.

use std::sync::Arc;
use std::time::Instant;

use super::{Event, Topology, id_of};
use crate::member::Kind;
use crate::snapshot::Succession;

impl Topology {
    pub(super) fn take_office(&mut self, i: usize, now: Instant, events: &mut Vec<Event>) {
        let Some(answer) = &self.servers[i].answer else { return };
        let (asked, seen) = (answer.asked, answer.seen);
        let committed = answer.report.committed.clone();
        let standing = answer.report.standing();
        let had = self.servers[i].best.as_ref().filter(|_| self.primary == Some(i));
        let lost = had.is_some_and(|(best, _)| !standing.covers(best));
        let anew = had.is_some_and(|(best, _)| standing.began_anew_since(best));
        if self.primary == Some(i) && !lost {
            return;
        }
        if lost {
            events.push(Event {
                code: "primary_reset",
                server: Some(id_of(i)),
                text: format!(
                    "{} no longer has all transactions it had{}",
                    self.name(i),
                    match anew {
                        true =>
                            "; its replicas get no reads until they were reset, too, or rebuilt, or \
                             `pointsman resume` vouches for them",
                        false => "",
                    }
                ),
            });
            if anew {
                self.distrust_replicas(now);
            }
        } else if let (Some(old), Some(newest)) = (self.primary, self.timeline.newest())
            && !standing.covers(newest)
            // It has proved to have them since that look.
            && self.group.kind != Some(Kind::Galera)
        {
            events.push(Event {
                code: "transactions_lost",
                server: Some(id_of(i)),
                text: format!(
                    "{} is the primary now but lacks transactions that {} had: it is at {standing}, \
                     {} was at {newest}",
                    self.name(i),
                    self.name(old),
                    self.name(old)
                ),
            });
        }
        let old = self.primary.filter(|&old| old != i);
        let promoted = self.promoted.take_if(|(new, _)| *new == i);
        self.primary = Some(i);
        self.generation += 1;
        if let Some(old) = old {
            self.succession = Some(Arc::new(Succession {
                generation: self.generation,
                old: id_of(old),
                new: id_of(i),
                inherited: promoted
                    .map(|(_, inherited)| inherited)
                    .or_else(|| self.inherited_in_group(old, i)),
            }));
        }
        self.anonymous.begin_again();
        self.servers[i].best = None;
        self.servers[i].accepted = false;
        for known in &mut self.servers {
            known.followed = false;
        }
        self.timeline.clear();
        self.timeline.record(asked, seen, &committed);
    }

    /// Notes what each server has, for the day it comes back without.
    pub(super) fn remember(&mut self) {
        for known in &mut self.servers {
            let Some(answer) = &known.answer else { continue };
            let standing = answer.report.standing();
            let connection = answer.report.connection;
            match &mut known.best {
                Some((best, on)) if standing.covers(best) => {
                    *best = standing;
                    *on = connection;
                }
                // Reset on purpose, under our eyes. Over a new connection it may be an accident.
                Some((best, on)) if *on == connection => *best = standing,
                Some(_) => {}
                None => known.best = Some((standing, connection)),
            }
        }
    }
}
