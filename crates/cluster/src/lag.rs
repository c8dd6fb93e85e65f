//! Replication lag in milliseconds, by comparing positions over time. Pure.
//!
//! `Seconds_Behind_Master` counts whole seconds, compares two machines' clocks, knows nothing of
//! what was not fetched yet and is `NULL` when replication stands still. Instead the monitor
//! remembers *when*, by its own clock, it saw the primary at which position. A replica that has not
//! applied what the primary had at 12:00:00.250 is behind since then. One that has applied the last
//! position seen is not behind, however long ago that was.

use std::time::{Duration, Instant};

use crate::gtid::Position;

/// Where the primary was when: samples of its position, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    /// Before the primary was asked: it had the position at most this long ago or longer.
    asked: Instant,
    /// When the answer was there: whoever is asked later can be expected to have it.
    seen: Instant,
    /// `asked` of the last of those joined to this one.
    until: Instant,
    position: Position,
}

/// More samples than this are thinned out.
const CAPACITY: usize = 512;

/// How far a replica is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// By this much. 0: it has all that was known when it was asked.
    Is(Duration),
    /// By this much and perhaps more: what it lacks is older than the first sample.
    AtLeast(Duration),
    /// Nothing to compare with.
    Unknown,
}

impl Timeline {
    /// Forgets everything, as when another server becomes the primary.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// The newest position known.
    #[must_use]
    pub fn newest(&self) -> Option<&Position> {
        self.samples.last().map(|sample| &sample.position)
    }

    /// Notes that the primary, asked at `asked`, answered `position` at `seen`.
    pub fn record(&mut self, asked: Instant, seen: Instant, position: &Position) {
        match self.samples.last() {
            // An old answer that arrived late, or nothing new.
            Some(last) if asked < last.asked || *position == last.position => return,
            // Transactions gone: its binary logs were reset. Nothing known before holds.
            Some(last) if !position.covers(&last.position) => self.clear(),
            _ => {}
        }
        if self.samples.len() >= CAPACITY {
            self.thin();
        }
        self.samples.push(Sample { asked, seen, until: asked, position: position.clone() });
    }

    /// Joins neighbours that lie close together for their age, so that the span remembered has no
    /// bound, its memory has one, and lag is at most an eighth too large. Of those joined the first
    /// time and the last position are kept: lag never gets smaller. The first sample stays alone:
    /// whoever lacks that lacks something of unknown age.
    fn thin(&mut self) {
        let Some(newest) = self.samples.last().map(|sample| sample.asked) else { return };
        let mut kept: Vec<Sample> = Vec::with_capacity(CAPACITY);
        for sample in self.samples.drain(..) {
            let alone = kept.len() < 2;
            match kept.last_mut() {
                Some(last)
                    if !alone
                        && (sample.until - last.asked) * 8
                            <= newest.saturating_duration_since(sample.until) =>
                {
                    last.until = sample.until;
                    last.position = sample.position;
                }
                _ => kept.push(sample),
            }
        }
        self.samples = kept;
    }

    /// How far a replica was behind that, asked at `asked`, had `applied`.
    #[must_use]
    pub fn lag(&self, applied: &Position, asked: Instant) -> Lag {
        // What the primary committed while the replica was being asked is no lag.
        let known = self.samples.partition_point(|sample| sample.seen <= asked);
        let Some(known) = self.samples.get(..known).filter(|known| !known.is_empty()) else {
            return match self.samples.first() {
                Some(first) if applied.covers(&first.position) => Lag::Is(Duration::ZERO),
                _ => Lag::Unknown,
            };
        };
        let first_missing = known.partition_point(|sample| applied.covers(&sample.position));
        match known.get(first_missing) {
            None => Lag::Is(Duration::ZERO),
            Some(sample) => {
                let behind = asked.saturating_duration_since(sample.asked);
                if first_missing == 0 { Lag::AtLeast(behind) } else { Lag::Is(behind) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(sequence: u64) -> Position {
        let text = if sequence == 0 { String::new() } else { format!("0-1-{sequence}") };
        Position::MariaDb(text.parse().unwrap())
    }

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn an_idle_set_has_no_lag() {
        let t0 = Instant::now();
        let mut timeline = Timeline::default();
        for i in 0..10 {
            timeline.record(t0 + ms(i * 250), t0 + ms(i * 250 + 1), &at(7));
        }
        assert_eq!(timeline.lag(&at(7), t0 + ms(60_000)), Lag::Is(ms(0)));
        assert_eq!(timeline.samples.len(), 1);
    }

    #[test]
    fn a_stopped_replica_falls_behind_at_the_pace_of_the_clock() {
        let t0 = Instant::now();
        let mut timeline = Timeline::default();
        timeline.record(t0, t0, &at(7));
        timeline.record(t0 + ms(250), t0 + ms(251), &at(8));
        timeline.record(t0 + ms(500), t0 + ms(501), &at(9));
        // Nothing committed since, and still it is further and further behind.
        for later in [600, 5_000, 60_000] {
            assert_eq!(timeline.lag(&at(7), t0 + ms(later)), Lag::Is(ms(later - 250)));
        }
        assert_eq!(timeline.lag(&at(8), t0 + ms(600)), Lag::Is(ms(100)));
        assert_eq!(timeline.lag(&at(9), t0 + ms(600)), Lag::Is(ms(0)));
    }

    #[test]
    fn what_is_committed_while_the_replica_is_asked_is_no_lag() {
        let t0 = Instant::now();
        let mut timeline = Timeline::default();
        timeline.record(t0, t0, &at(7));
        // The primary was slow to answer; the replica was asked in between.
        timeline.record(t0 + ms(250), t0 + ms(1250), &at(90));
        assert_eq!(timeline.lag(&at(7), t0 + ms(600)), Lag::Is(ms(0)));
        assert_eq!(timeline.lag(&at(7), t0 + ms(1300)), Lag::Is(ms(1050)));
    }

    #[test]
    fn what_was_missing_before_the_first_sample_is_of_unknown_age() {
        let t0 = Instant::now();
        let mut timeline = Timeline::default();
        assert_eq!(timeline.lag(&at(1), t0), Lag::Unknown);
        timeline.record(t0, t0, &at(7));
        assert_eq!(timeline.lag(&at(3), t0 + ms(100)), Lag::AtLeast(ms(100)));
        assert_eq!(timeline.lag(&at(7), t0 - ms(100)), Lag::Is(ms(0)));
    }

    #[test]
    fn a_reset_of_the_binary_logs_starts_anew() {
        let t0 = Instant::now();
        let mut timeline = Timeline::default();
        timeline.record(t0 + ms(250), t0 + ms(250), &at(700));
        timeline.record(t0, t0 + ms(300), &at(600));
        assert_eq!(timeline.newest(), Some(&at(700)), "an old answer that came late says nothing");
        timeline.record(t0 + ms(500), t0 + ms(500), &at(0));
        assert_eq!(timeline.newest(), Some(&at(0)));
        assert_eq!(timeline.samples.len(), 1);
    }

    #[test]
    fn lag_grows_for_days_in_bounded_memory() {
        let t0 = Instant::now();
        let mut timeline = Timeline::default();
        for i in 1..1_000_000_u64 {
            timeline.record(t0 + ms(i * 250), t0 + ms(i * 250 + 1), &at(i));
        }
        assert!(timeline.samples.len() <= CAPACITY);
        let now = t0 + ms(250_000_001);
        assert_eq!(timeline.lag(&at(999_999), now), Lag::Is(ms(0)));
        let mut last = Duration::ZERO;
        for applied in (1..999_999).rev().step_by(997).filter(|&applied| applied > 1) {
            let Lag::Is(lag) = timeline.lag(&at(applied), now) else { panic!("{applied}") };
            let truth = ms(250_000_001 - (applied + 1) * 250);
            assert!(lag >= truth && lag >= last, "{applied}: {lag:?} {truth:?}");
            assert!(lag <= truth * 9 / 8 + ms(500), "{applied}: {lag:?} {truth:?}");
            last = lag;
        }
    }

    proptest! {
        /// A primary commits at known times; looks at it are lost, slow, and their answers late and
        /// out of order. Lag is never more than what some look justifies, never less than the time
        /// since the look that first saw what is missing, and nothing only if nothing is missing.
        #[test]
        fn tells_the_age_of_the_oldest_missing_transaction(
            commits in prop::collection::vec(1..400_u64, 1..40),
            looks in prop::collection::vec((1..300_u64, 0..900_u64), 1..60),
            asked in 0..20_000_u64,
            applied in 0..40_u64,
        ) {
            let t0 = Instant::now();
            let sums = |gaps: Vec<u64>| {
                gaps.into_iter().scan(0, |sum, gap| { *sum += gap; Some(*sum) }).collect::<Vec<_>>()
            };
            let commits = sums(commits);
            let position_at = |time: u64| commits.iter().filter(|&&c| c <= time).count() as u64;
            let times = sums(looks.iter().map(|l| l.0).collect());
            // When answered, when asked; in the order in which they arrive.
            let mut answers: Vec<_> =
                times.iter().zip(&looks).map(|(t, (_, delay))| (t + delay, *t)).collect();
            answers.sort_unstable();
            let mut timeline = Timeline::default();
            for &(seen, asked) in &answers {
                timeline.record(t0 + ms(asked), t0 + ms(seen), &at(position_at(asked)));
            }
            let first_look = answers[0].1;
            let first_seeing = answers
                .iter()
                .filter(|&&(seen, look)| seen <= asked && position_at(look) > applied)
                .map(|a| a.1)
                .min();
            match timeline.lag(&at(applied), t0 + ms(asked)) {
                Lag::Is(lag) if lag.is_zero() => {
                    prop_assert!(first_seeing.is_none_or(|look| look == asked));
                }
                Lag::Is(lag) => {
                    // A look that was overtaken by a later one counts for nothing.
                    let since = first_seeing.expect("something was seen that is missing");
                    prop_assert!(lag <= ms(asked - since));
                    let committed = commits[usize::try_from(applied).unwrap()];
                    prop_assert!(lag <= ms(asked - committed), "not older than the transaction");
                }
                Lag::AtLeast(lag) => prop_assert!(lag <= ms(asked - first_look)),
                Lag::Unknown => prop_assert!(answers[0].0 > asked),
            }
        }
    }
}
