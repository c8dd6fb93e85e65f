//! What instances track besides their own link: interfaces, scripts, files and processes. Scripts
//! run on a thread of their own, so that a slow fork never delays an advert.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{DirectorConfig, TrackFile, TrackProcess, TrackScript, Tracking, Weight};
use crate::sys::link::Links;
use crate::sys::process::{self, Waker};

/// How often files and processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The tracker's own clock: when nothing is due it looks this often whether to end.
const TICK: Duration = Duration::from_millis(50);

/// What is known of things tracked, by name.
#[derive(Default)]
struct Known {
    scripts: BTreeMap<String, bool>,
    /// The number in the file.
    files: BTreeMap<String, i32>,
    processes: BTreeMap<String, bool>,
}

pub(crate) struct Tracker {
    known: Arc<Mutex<Known>>,
    waker: Arc<Waker>,
    weights: Weights,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Weights {
    scripts: BTreeMap<String, Weight>,
    files: BTreeMap<String, Weight>,
    processes: BTreeMap<String, Weight>,
}

impl AsFd for Tracker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Tracker {
    /// What `before` knows of scripts that are tracked further is where they begin.
    pub fn start(config: &DirectorConfig, before: Option<&Self>) -> io::Result<Self> {
        let known_before = |script: &TrackScript| {
            let known = before?.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.scripts.get(&script.name).copied()
        };
        let first = |s: &TrackScript| known_before(s).unwrap_or(!s.init_fail);
        let weights = Weights {
            scripts: config.track_scripts.iter().map(|s| (s.name.clone(), s.weight)).collect(),
            files: config.track_files.iter().map(|s| (s.name.clone(), s.weight)).collect(),
            processes: config.track_processes.iter().map(|s| (s.name.clone(), s.weight)).collect(),
        };
        let known = Known {
            scripts: config.track_scripts.iter().map(|s| (s.name.clone(), first(s))).collect(),
            files: config.track_files.iter().map(|f| (f.name.clone(), read_file(f))).collect(),
            processes: count_processes(&config.track_processes),
        };
        let tracker = Self {
            known: Arc::new(Mutex::new(known)),
            waker: Arc::new(Waker::new()?),
            weights,
            stop: Arc::default(),
        };
        let anything = !config.track_scripts.is_empty()
            || !config.track_files.is_empty()
            || !config.track_processes.is_empty();
        if anything {
            let mut worker = Worker {
                known: Arc::clone(&tracker.known),
                waker: Arc::clone(&tracker.waker),
                stop: Arc::clone(&tracker.stop),
                scripts: config
                    .track_scripts
                    .iter()
                    .map(|s| Running::new(s.clone(), first(s)))
                    .collect(),
                files: config.track_files.clone(),
                processes: config.track_processes.clone(),
            };
            std::thread::Builder::new().name("tracker".to_owned()).spawn(move || worker.run())?;
        }
        Ok(tracker)
    }

    pub fn clear(&self) {
        self.waker.clear();
    }

    /// Children of the tracker are reaped by its own thread.
    pub fn child_ended(&self) {}

    /// What all this adds up to: the change of priority, and whether it is a fault.
    pub fn verdict<'a>(
        &self,
        trackings: impl Iterator<Item = &'a Tracking>,
        links: &Links,
    ) -> (i32, bool) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Sum::default();
        for tracking in trackings {
            for track in &tracking.interfaces {
                let up = links.by_name(&track.name).is_some_and(|(_, link)| link.up);
                sum.add(track.weight.unwrap_or_default(), up);
            }
            for track in &tracking.scripts {
                let weight = track.weight.or(self.weights.scripts.get(&track.name).copied());
                let up = known.scripts.get(&track.name).copied().unwrap_or(false);
                sum.add(weight.unwrap_or_default(), up);
            }
            for track in &tracking.processes {
                let weight = track.weight.or(self.weights.processes.get(&track.name).copied());
                let up = known.processes.get(&track.name).copied().unwrap_or(false);
                sum.add(weight.unwrap_or_default(), up);
            }
            for track in &tracking.files {
                let weight = track.weight.or(self.weights.files.get(&track.name).copied());
                let weight = weight.unwrap_or(Weight { value: 1, reverse: false });
                sum.add_file(weight, known.files.get(&track.name).copied().unwrap_or(0));
            }
        }
        (sum.adjust, sum.failed)
    }
}

#[derive(Default)]
struct Sum {
    adjust: i32,
    failed: bool,
}

impl Sum {
    /// A positive weight counts while up, a negative one while down, none makes down a fault.
    fn add(&mut self, weight: Weight, up: bool) {
        let up = up != weight.reverse;
        match weight.value {
            0 => self.failed |= !up,
            value if (value > 0) == up => self.adjust += value,
            _ => {}
        }
    }

    /// The number in the file times the weight; without one, any number but 0 is a fault.
    fn add_file(&mut self, weight: Weight, number: i32) {
        match weight.value {
            0 => self.failed |= (number != 0) != weight.reverse,
            value => {
                let sign = if weight.reverse { -1 } else { 1 };
                let product = i64::from(number) * i64::from(value) * sign;
                // keepalived: -254 and below is a fault.
                self.failed |= product <= -254;
                self.adjust = self.adjust.saturating_add(product.clamp(-1000, 1000) as i32);
            }
        }
    }
}

struct Worker {
    known: Arc<Mutex<Known>>,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    scripts: Vec<Running>,
    files: Vec<TrackFile>,
    processes: Vec<TrackProcess>,
}

/// A script between and during its runs.
struct Running {
    config: TrackScript,
    next: Instant,
    child: Option<(std::process::Child, Instant)>,
    up: bool,
    /// Results in a row that contradict `up`.
    against: u32,
    first: bool,
}

impl Running {
    fn new(config: TrackScript, up: bool) -> Self {
        Self { config, next: Instant::now(), child: None, up, against: 0, first: true }
    }

    /// Starts, reaps or ends the script. Whether `up` changed.
    fn turn(&mut self, now: Instant) -> bool {
        if let Some((child, started)) = &mut self.child {
            let limit = self.config.timeout.unwrap_or(self.config.interval);
            let result = match child.try_wait() {
                Ok(Some(status)) => status.success(),
                Ok(None) if now.duration_since(*started) < limit => return false,
                Ok(None) => {
                    process::kill_group(child);
                    let _ = child.wait();
                    tracing::warn!("vrrp_script {} ran into its timeout", self.config.name);
                    false
                }
                Err(_) => false,
            };
            self.child = None;
            return self.note(result);
        }
        if now < self.next {
            return false;
        }
        self.next = now + self.config.interval;
        match process::start(&self.config.script, &[]) {
            Ok(child) => {
                self.child = Some((child, now));
                false
            }
            Err(error) => {
                tracing::error!("vrrp_script {}: {error}", self.config.name);
                self.note(false)
            }
        }
    }

    fn note(&mut self, success: bool) -> bool {
        let first = std::mem::take(&mut self.first);
        if success == self.up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if success { self.config.rise } else { self.config.fall };
        // The first result of all decides alone: there is nothing to be damped yet.
        if self.against < needed && !first {
            return false;
        }
        self.against = 0;
        self.up = success;
        tracing::info!(
            "vrrp_script {} {}",
            self.config.name,
            if success { "succeeds" } else { "fails" }
        );
        true
    }
}

impl Worker {
    fn run(&mut self) {
        let mut look_at = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let mut changed = false;
            for script in &mut self.scripts {
                if script.turn(now) {
                    changed = true;
                    self.known
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .scripts
                        .insert(script.config.name.clone(), script.up);
                }
            }
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                let files: BTreeMap<_, _> =
                    self.files.iter().map(|f| (f.name.clone(), read_file(f))).collect();
                let processes = count_processes(&self.processes);
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                changed |= known.files != files || known.processes != processes;
                known.files = files;
                known.processes = processes;
            }
            if changed {
                self.waker.wake();
            }
            std::thread::sleep(TICK);
        }
    }
}

/// The number in a file; 0 if there is none.
fn read_file(file: &TrackFile) -> i32 {
    let text = std::fs::read_to_string(&file.file).unwrap_or_default();
    text.split_whitespace().next().and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// Whether enough processes of each name run.
fn count_processes(wanted: &[TrackProcess]) -> BTreeMap<String, bool> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let mut counts = vec![0u32; wanted.len()];
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let path = entry.path();
        let comm = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        for (process, count) in wanted.iter().zip(&mut counts) {
            let matches = if process.full_command {
                let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
                let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
                words.join(" ").trim_end() == process.process
            } else {
                // The kernel keeps 15 bytes of a name.
                let name = process.process.rsplit('/').next().unwrap_or_default();
                comm.trim_end() == name.get(..15).unwrap_or(name)
            };
            *count += u32::from(matches);
        }
    }
    wanted.iter().zip(counts).map(|(p, n)| (p.name.clone(), n >= p.quorum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(items: &[(i32, bool, bool)]) -> (i32, bool) {
        let mut sum = Sum::default();
        for &(value, reverse, up) in items {
            sum.add(Weight { value, reverse }, up);
        }
        (sum.adjust, sum.failed)
    }

    #[test]
    fn weights_add_up_as_in_keepalived() {
        assert_eq!(sum(&[(10, false, true), (20, false, false)]), (10, false));
        assert_eq!(sum(&[(-10, false, true), (-20, false, false)]), (-20, false));
        assert_eq!(sum(&[(0, false, true)]), (0, false));
        assert_eq!(sum(&[(0, false, false)]), (0, true));
        assert_eq!(sum(&[(0, true, true)]), (0, true));
        assert_eq!(sum(&[(10, true, false)]), (10, false));
    }

    #[test]
    fn a_script_counts_after_rise_and_fall_in_a_row() {
        let mut running = Running::new(
            TrackScript {
                name: "s".into(),
                script: crate::config::Script { command: vec!["true".into()], user: None },
                interval: Duration::from_secs(1),
                timeout: None,
                weight: Weight::default(),
                rise: 2,
                fall: 3,
                init_fail: false,
            },
            true,
        );
        assert!(!running.note(true));
        assert!(!running.note(false) && !running.note(false) && !running.note(true));
        assert!(!running.note(false) && !running.note(false) && running.note(false));
        assert!(!running.note(true) && running.note(true));
    }

    #[test]
    fn this_process_is_counted() {
        let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
        let process = |name: &str, quorum| TrackProcess {
            name: name.to_owned(),
            process: name.to_owned(),
            full_command: false,
            quorum,
            weight: Weight::default(),
            delay: Duration::ZERO,
        };
        let counts = count_processes(&[process(comm.trim(), 1), process("no-such-process", 1)]);
        assert!(counts[comm.trim()] && !counts["no-such-process"]);
    }
}
