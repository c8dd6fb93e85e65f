//! The director alone, without the rest of Pointsman: `director FILE [METRICS]`. The network tests
//! run it. METRICS is a file that is kept as a scrape of /metrics would show it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pointsman_director::{Director, Metrics, Shared, config};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(file) = arguments.next() else {
        eprintln!("usage: director FILE [METRICS]");
        return ExitCode::from(2);
    };
    let (config, warnings) = match config::load(&file) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprint!("{errors}");
            return ExitCode::from(2);
        }
    };
    for warning in warnings {
        eprintln!("{}", warning.line());
    }
    let source = Box::new(move || match config::load(&file) {
        Ok((config, _)) => Ok(config),
        Err(errors) => {
            eprint!("{errors}");
            Err(errors.to_string())
        }
    });
    let shared = Shared::new(Default::default());
    let result = Director::start(&config, source, Arc::clone(&shared)).and_then(|director| {
        if let Some(metrics) = arguments.next() {
            std::thread::spawn(move || keep(&metrics, shared));
        }
        director.run()
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn keep(file: &Path, shared: Arc<Shared>) {
    let registry = prometheus::Registry::new();
    registry.register(Box::new(Metrics::new(shared))).expect("names are unique");
    let whole = file.with_extension("new");
    loop {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
        let written = std::fs::write(&whole, text.unwrap_or_default());
        // A reader must never see half of it.
        if let Err(error) = written.and_then(|()| std::fs::rename(&whole, file)) {
            eprintln!("{}: {error}", file.display());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
