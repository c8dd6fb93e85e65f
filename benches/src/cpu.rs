//! CPU time as the scheduler counts it, and whether the machine was quiet.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Nanoseconds on a CPU of all threads of a process, from `/proc/PID/task/*/schedstat`: exact,
/// unlike the times sampled at ticks. Threads must not end in between.
pub fn process_ns(pid: u32) -> Result<u64> {
    let dir = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&dir).with_context(|| format!("can't read {dir}"))? {
        let path = task?.path().join("schedstat");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("can't read {} (needs CONFIG_SCHED_INFO)", path.display()))?;
        let ns = text.split_whitespace().next().context("an empty schedstat")?;
        sum += ns.parse::<u64>()?;
    }
    Ok(sum)
}

const AUTOGROUP: &str = "/proc/sys/kernel/sched_autogroup_enabled";

/// With autogroup, a daemon in a session of its own competes as a group of its own, and gets several
/// times the CPU of another that does the same work.
pub struct Autogroup {
    restore: bool,
    off: bool,
}

impl Autogroup {
    pub fn off() -> Self {
        let was_on = fs::read_to_string(AUTOGROUP).is_ok_and(|text| text.trim() == "1");
        let restore = was_on && fs::write(AUTOGROUP, "0").is_ok();
        Self { restore, off: !was_on || restore }
    }

    pub fn is_off(&self) -> bool {
        self.off
    }
}

impl Drop for Autogroup {
    fn drop(&mut self) {
        if self.restore {
            let _ = fs::write(AUTOGROUP, "1");
        }
    }
}

/// Busy time of the whole machine, in ticks of 10 ms.
fn busy_ticks() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    [0, 1, 2, 5, 6].iter().filter_map(|i| fields.get(*i)).sum()
}

fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

/// How much of the machine others used while we measured.
pub struct Quiet {
    pids: Vec<u32>,
    since: Instant,
    busy: u64,
    ours: u64,
}

impl Quiet {
    /// Waits until the machine is nearly idle; false if it was not within `most`.
    pub fn wait(most: Duration) -> bool {
        const LOOK: Duration = Duration::from_millis(100);
        let begin = Instant::now();
        loop {
            let before = busy_ticks();
            std::thread::sleep(LOOK);
            let busy = (busy_ticks() - before) as f64 * 0.01 / (LOOK.as_secs_f64() * cores());
            if busy < 0.15 {
                return true;
            }
            if begin.elapsed() > most {
                return false;
            }
        }
    }

    /// `pids`: whose work is ours, beside this process.
    pub fn watch(pids: impl Iterator<Item = u32>) -> Self {
        let pids: Vec<_> = pids.collect();
        Self { since: Instant::now(), busy: busy_ticks(), ours: Self::ours(&pids), pids }
    }

    fn ours(pids: &[u32]) -> u64 {
        let others: u64 = pids.iter().filter_map(|pid| process_ns(*pid).ok()).sum();
        others + own_ns()
    }

    /// Share of the machine, 0 to 1, that went to others since [`Quiet::watch`].
    pub fn foreign(&self) -> f64 {
        let busy = (busy_ticks() - self.busy) as f64 * 0.01;
        let ours = Self::ours(&self.pids).saturating_sub(self.ours) as f64 / 1e9;
        let all = self.since.elapsed().as_secs_f64() * cores();
        ((busy - ours) / all).clamp(0.0, 1.0)
    }
}

/// Of this process with all threads that have ended, which `/proc/self/task` no longer shows.
fn own_ns() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    // utime and stime, in ticks of 10 ms.
    let ticks = after.split(' ').skip(11).take(2).filter_map(|f| f.parse::<u64>().ok());
    ticks.sum::<u64>() * 10_000_000
}
