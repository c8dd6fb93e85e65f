//! Health checks: one thread a check, so that one that hangs hurts nobody else.

pub(crate) mod dns;
mod http;
mod mysql;
mod ping;
mod probe;
#[cfg(test)]
mod real_servers;
mod stream;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::Check;

/// Small: a check needs little, and there may be thousands.
const STACK: usize = 256 << 10;

/// What a check found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Which check: numbers the manager gave.
    pub service: usize,
    pub server: usize,
    pub check: usize,
    pub up: bool,
    /// Why it is down, in a few words.
    pub why: String,
    /// MISC_CHECK with misc_dynamic: the weight to use.
    pub weight: Option<u32>,
}

/// Running checks; they end with it.
pub(crate) struct Checkers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Checkers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }
}

/// One check's damping: it takes more than `retry` failures in a row to be down, and `rise`
/// successes to be up again.
#[derive(Debug)]
pub(crate) struct Damper {
    up: bool,
    failures: u32,
    successes: u32,
    retry: u32,
    rise: u32,
}

/// What to do after a result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing changed; come again after `delay_loop`.
    Steady,
    /// Failed, or succeeded, but not often enough; come again after `delay_before_retry`.
    Retry,
    /// Changed; tell, and come again after `delay_loop`.
    Changed(bool),
}

impl Damper {
    pub fn new(up: bool, retry: u32, rise: u32) -> Self {
        Self { up, failures: 0, successes: 0, retry, rise }
    }

    pub fn note(&mut self, good: bool) -> Next {
        if good {
            self.failures = 0;
            if self.up {
                return Next::Steady;
            }
            self.successes += 1;
            if self.successes < self.rise {
                return Next::Retry;
            }
            self.successes = 0;
            self.up = true;
            return Next::Changed(true);
        }
        self.successes = 0;
        if !self.up {
            return Next::Steady;
        }
        self.failures += 1;
        if self.failures <= self.retry {
            return Next::Retry;
        }
        self.failures = 0;
        self.up = false;
        Next::Changed(false)
    }
}

impl Checkers {
    pub fn new() -> Self {
        Self { stop: Arc::default(), threads: Vec::new() }
    }

    /// Starts a check. `place` numbers its service, server and itself.
    pub fn start(
        &mut self,
        check: Check,
        place: (usize, usize, usize),
        starts_up: bool,
        sender: Sender<Verdict>,
    ) -> std::io::Result<()> {
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::Builder::new()
            .name("check".to_owned())
            .stack_size(STACK)
            .spawn(move || run(&check, place, starts_up, &sender, &stop))?;
        self.threads.push(thread);
        Ok(())
    }
}

fn run(
    check: &Check,
    (service, server, number): (usize, usize, usize),
    starts_up: bool,
    sender: &Sender<Verdict>,
    stop: &AtomicBool,
) {
    // Not all at the same moment: a part of the first interval, by number.
    let spread = check.warmup.unwrap_or(check.delay_loop.min(Duration::from_secs(1)));
    let share = (server * 7 + number * 3) % 16;
    sleep(spread * share as u32 / 16, stop);
    let mut damper = Damper::new(starts_up, check.retry, check.rise);
    let mut weight = None;
    while !stop.load(Ordering::Relaxed) {
        let result = probe::probe(check);
        let told_weight = result.as_ref().ok().copied().flatten();
        let next = damper.note(result.is_ok());
        let pause = match next {
            Next::Retry => check.delay_before_retry,
            Next::Steady | Next::Changed(_) => check.delay_loop,
        };
        if matches!(next, Next::Changed(_))
            || (damper.up && result.is_ok() && told_weight != weight)
        {
            weight = told_weight;
            let verdict = Verdict {
                service,
                server,
                check: number,
                up: result.is_ok(),
                why: result.err().unwrap_or_default(),
                weight,
            };
            if sender.send(verdict).is_err() {
                return;
            }
        }
        sleep(pause, stop);
    }
}

/// Sleeps unless it is time to end.
fn sleep(time: Duration, stop: &AtomicBool) {
    let end = Instant::now() + time;
    while !stop.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_before_down_and_is_up_at_once() {
        let mut damper = Damper::new(true, 2, 1);
        let notes: Vec<_> =
            [false, false, true, false, false, false, false, true].map(|g| damper.note(g)).into();
        assert_eq!(
            notes,
            [
                Next::Retry,
                Next::Retry,
                Next::Steady,
                Next::Retry,
                Next::Retry,
                Next::Changed(false),
                Next::Steady,
                Next::Changed(true)
            ]
        );
    }

    #[test]
    fn it_rises_only_after_so_many_good_results() {
        let mut damper = Damper::new(false, 0, 2);
        let notes = [true, false, true, true, false].map(|g| damper.note(g));
        assert_eq!(
            notes,
            [Next::Retry, Next::Steady, Next::Retry, Next::Changed(true), Next::Changed(false)]
        );
    }
}
