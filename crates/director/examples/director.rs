//! The director alone, without the rest of Pointsman: `director FILE`. The network tests run it.

use std::path::PathBuf;
use std::process::ExitCode;

use pointsman_director::{Shared, config, run};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let Some(file) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: director FILE");
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
    match run(&config, Shared::new(Default::default())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
