//! `cargo xtask site`: the whole reference site on one machine, and the classic proofs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    // Before there are other threads, so that only the one below gets these signals. Programs that
    // are started get a clean mask.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if let Err(error) = signals.thread_block() {
        eprintln!("error: can't block signals: {error}");
        return ExitCode::FAILURE;
    }
    std::thread::spawn(move || {
        if signals.wait().is_err() {
            return;
        }
        eprintln!("stopping, and putting everything away");
        pointsman_tests::reference::interrupt();
        // Asked again, and not just told twice at once: the next run puts away what is left.
        let asked = Instant::now();
        while signals.wait().is_ok() {
            if asked.elapsed() > Duration::from_secs(1) {
                std::process::exit(130);
            }
        }
    });
    match pointsman_tests::reference::walk(pointsman_tests::pointsman()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
