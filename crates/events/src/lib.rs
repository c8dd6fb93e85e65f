//! What happened, in plain sentences: a bounded log of events for operators.
//!
//! Both daemons write to one [`EventLog`]; `pointsman events`, the HTTP API and the SQL console
//! read it. An event is something a person would want to be told: a server died, a replica came
//! back, a config was reloaded. It is not a debug log.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::SystemTime;

use serde::Serialize;

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Counts up from 1 and never repeats within one run of the daemon.
    pub seq: u64,
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
    /// Stable machine-readable name, e.g. `server_down`.
    pub code: &'static str,
    /// What it is about: a server, a VRRP instance, a virtual server; empty for the daemon itself.
    pub subject: String,
    /// One sentence for a person.
    pub text: String,
}

fn unix_seconds<S: serde::Serializer>(at: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()))
}

/// The newest events, oldest dropped first. Cheap enough to write from anywhere but a hot path.
pub struct EventLog {
    capacity: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    next: u64,
    events: VecDeque<Event>,
}

impl EventLog {
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::new(Inner { next: 1, events: VecDeque::new() }) }
    }

    /// Appends an event, stamped with the wall clock.
    pub fn push(&self, code: &'static str, subject: impl Into<String>, text: impl Into<String>) {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let seq = inner.next;
        inner.next += 1;
        if inner.events.len() == self.capacity {
            inner.events.pop_front();
        }
        inner.events.push_back(Event {
            seq,
            at: SystemTime::now(),
            code,
            subject: subject.into(),
            text: text.into(),
        });
    }

    /// Events with `seq > after`, oldest first.
    #[must_use]
    pub fn since(&self, after: u64) -> Vec<Event> {
        let inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.events.iter().filter(|e| e.seq > after).cloned().collect()
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_numbers_on() {
        let log = EventLog::new(2);
        for i in 0..3 {
            log.push("x", "db1", format!("event {i}"));
        }
        let seen: Vec<_> = log.since(0).into_iter().map(|e| (e.seq, e.text)).collect();
        assert_eq!(seen, [(2, "event 1".to_owned()), (3, "event 2".to_owned())]);
        assert_eq!(log.since(2).len(), 1);
    }
}
