//! The front tier: VRRP shell, health checks, schedulers and data planes.
//!
//! [`config::load`] reads a configuration, [`run`] runs it until SIGTERM or SIGINT.

pub mod config;
mod shell;
mod status;
mod sys;

use std::sync::Arc;

pub use status::{InstanceStatus, Shared};

/// Why the director can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}{}", hint(source))]
    Os { what: &'static str, source: std::io::Error },
    #[error("{0}")]
    Config(String),
}

impl Error {
    fn os(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Os { what, source }
    }
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            " (the director needs CAP_NET_ADMIN and CAP_NET_RAW: start it as root)"
        }
        _ => "",
    }
}

/// Runs the virtual routers of `config` on this thread until a signal ends it: SIGTERM or SIGINT
/// for a stop in good order (the addresses are kept until the peer has taken over), twice for a
/// stop at once.
///
/// Call it before the process has other threads: it forks a guard that takes the addresses away
/// should this process be killed, and its signals must be blocked in all threads.
///
/// # Errors
/// [`Error`] if it can't start; nothing is left behind then.
pub fn run(config: &config::DirectorConfig, shared: Arc<Shared>) -> Result<(), Error> {
    shell::Shell::new(config, shared)?.run()
}
