//! The front tier: VRRP shell, health checks, schedulers and data planes.
//!
//! [`config::load`] reads a configuration, [`Director::start`] and [`Director::run`] run it until
//! SIGTERM or SIGINT; [`Shared`] shows what goes on meanwhile.

mod checks;
pub mod config;
mod control;
mod metrics;
pub mod plane;
mod services;
mod shell;
mod status;
mod sys;
mod virtuals;

use std::sync::Arc;

use sys::privileges::Kept;

pub use control::{Control, Source};
pub use metrics::Metrics;
pub use status::{InstanceStatus, RealServerStatus, Shared, VirtualServerStatus};

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

/// A started director: addresses and packets move once [`Director::run`] is called.
pub struct Director {
    shell: shell::Shell,
    virtuals: virtuals::Virtuals,
    control: Arc<Control>,
}

impl Director {
    /// Forks the guard, opens what it needs from the kernel, starts health checks. `source` reads
    /// the configuration again when the director is asked to.
    ///
    /// Call it before the process has other threads: the guard is a fork, and the signals blocked
    /// here must be blocked in every thread. Threads started afterwards are fine. What the process
    /// is allowed to do shrinks here to what `config` needs.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind then.
    pub fn start(
        config: &config::DirectorConfig,
        source: Source,
        shared: Arc<Shared>,
    ) -> Result<Self, Error> {
        let control = Arc::new(Control::new(source).map_err(Error::os("eventfd"))?);
        let vmacs = make_vmacs(config).map_err(Error::os("use_vmac"))?;
        // The data plane first: the guard that the shell forks keeps it alive a little longer.
        let loaded = virtuals::load(config)?;
        let kept = Kept::only(config).map_err(Error::os("giving up privileges"))?;
        let shell = shell::Shell::new(config, Arc::clone(&shared), Arc::clone(&control), vmacs)?;
        let virtuals = virtuals::Virtuals::start(config, loaded, shared, kept)?;
        Ok(Self { shell, virtuals, control })
    }

    /// For asking the director from other threads while it runs.
    #[must_use]
    pub fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }

    /// Runs on this thread until a signal ends it: SIGTERM or SIGINT for a stop in good order (the
    /// addresses are kept until the peer has taken over), twice for a stop at once; SIGUSR2 to be
    /// started again at once, with addresses and packets left where they are if that can be. SIGHUP
    /// reloads.
    ///
    /// # Errors
    /// [`Error`] if the kernel stops cooperating.
    pub fn run(self) -> Result<(), Error> {
        let Self { shell, mut virtuals, .. } = self;
        // The virtual servers end after the virtual routers: until the last address is gone, and
        // while neighbours still learn where it went, packets must find their way.
        match shell.run(&mut virtuals)? {
            shell::End::Stopped(vmacs) => {
                drop(virtuals);
                drop(vmacs);
            }
            shell::End::Restarting => virtuals.leave(),
        }
        Ok(())
    }
}

/// Interfaces with virtual MACs: the data plane wants them to be there.
fn make_vmacs(config: &config::DirectorConfig) -> std::io::Result<sys::vmac::Vmacs> {
    let mut vmacs = sys::vmac::Vmacs::default();
    if config.vrrp.iter().any(|v| v.use_vmac.is_some()) {
        let mut socket = sys::netlink::Socket::route()?;
        let links = sys::link::Links::read(&mut socket)?;
        for instance in &config.vrrp {
            vmacs.ensure(instance, &links, &mut socket)?;
        }
    }
    Ok(vmacs)
}
