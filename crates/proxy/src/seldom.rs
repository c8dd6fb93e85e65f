//! Log lines that a stranger can cause at will: said now and then, and how often it was.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines of a kind.
const GAP: Duration = Duration::from_secs(10);

/// One kind of log line; a static where it is written.
pub struct Seldom(Mutex<State>);

struct State {
    said: Option<Instant>,
    held_back: u64,
}

impl Seldom {
    pub const fn new() -> Self {
        Self(Mutex::new(State { said: None, held_back: 0 }))
    }

    /// Whether to say it: how many times it was not said since the last time.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.said.is_some_and(|said| now.duration_since(said) < GAP) {
            state.held_back += 1;
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

/// `tracing::warn!`, at most once in ten seconds for each place it is written.
macro_rules! warn_seldom {
    ($($line:tt)*) => {{
        static SELDOM: $crate::seldom::Seldom = $crate::seldom::Seldom::new();
        if let Some(not_shown) = SELDOM.due(std::time::Instant::now()) {
            tracing::warn!(not_shown, $($line)*);
        }
    }};
}
pub(crate) use warn_seldom;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_a_line_now_and_then() {
        let seldom = Seldom::new();
        let start = Instant::now();
        let said: Vec<_> =
            (0..30_000).filter_map(|ms| seldom.due(start + Duration::from_millis(ms))).collect();
        assert_eq!(said, [0, 9_999, 9_999]);
    }
}
