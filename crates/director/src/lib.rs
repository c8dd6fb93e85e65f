//! The front tier: VRRP shell, health checks, schedulers and data planes.
//!
//! [`config::load`] reads a configuration, [`Director::start`] and [`Director::run`] run it until
//! SIGTERM or SIGINT; [`Shared`] shows what goes on meanwhile.

mod checks;
pub mod config;
mod metrics;
pub mod plane;
mod services;
mod shell;
mod status;
mod sys;

use std::sync::Arc;

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
    _services: Option<services::Services>,
}

impl Director {
    /// Forks the guard, opens what it needs from the kernel, starts health checks.
    ///
    /// Call it before the process has other threads: the guard is a fork, and the signals blocked
    /// here must be blocked in every thread. Threads started afterwards are fine.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind then.
    pub fn start(config: &config::DirectorConfig, shared: Arc<Shared>) -> Result<Self, Error> {
        // The data plane first: the guard that the shell forks keeps it alive a little longer.
        let plane = load_plane(config)?;
        let shell = shell::Shell::new(config, Arc::clone(&shared))?;
        let services = match plane {
            Some(plane) => Some(
                services::Services::start(config, plane, shared)
                    .map_err(Error::os("starting health checks"))?,
            ),
            None => None,
        };
        Ok(Self { shell, _services: services })
    }

    /// Runs on this thread until a signal ends it: SIGTERM or SIGINT for a stop in good order (the
    /// addresses are kept until the peer has taken over), twice for a stop at once.
    ///
    /// # Errors
    /// [`Error`] if the kernel stops cooperating.
    pub fn run(self) -> Result<(), Error> {
        let Self { shell, _services } = self;
        // The virtual servers end after the virtual routers: until the last address is gone, and
        // while neighbours still learn where it went, packets must find their way.
        shell.run()
    }
}

/// [`Director::start`] and [`Director::run`] in one.
///
/// # Errors
/// [`Error`]
pub fn run(config: &config::DirectorConfig, shared: Arc<Shared>) -> Result<(), Error> {
    Director::start(config, shared)?.run()
}

fn load_plane(config: &config::DirectorConfig) -> Result<Option<Box<dyn plane::DataPlane>>, Error> {
    if config.virtual_servers.is_empty() {
        return Ok(None);
    }
    let mut interfaces: Vec<String> = config.vrrp.iter().map(|i| i.interface.clone()).collect();
    for instance in &config.vrrp {
        let all = instance.virtual_ipaddress.iter().chain(&instance.virtual_ipaddress_excluded);
        interfaces.extend(all.filter_map(|a| a.dev.clone()));
    }
    interfaces.sort();
    interfaces.dedup();
    if interfaces.is_empty() {
        return Err(Error::Config(
            "virtual servers need a vrrp_instance: its interface is where their packets arrive"
                .to_owned(),
        ));
    }
    for vs in &config.virtual_servers {
        servable(vs)
            .map_err(|why| Error::Config(format!("virtual_server {}: {why}", vs.name())))?;
    }
    let options = plane::ebpf::Options {
        interfaces,
        attach: config.global.data_plane,
        sync: plane::SyncConfig::of(config),
    };
    let plane =
        plane::ebpf::EbpfPlane::load(&options).map_err(Error::os("loading the eBPF data plane"))?;
    Ok(Some(Box::new(plane)))
}

/// Whether there is a data plane for what is asked. Serving it another way in silence would send
/// packets where nobody expects them.
fn servable(vs: &config::VirtualServer) -> Result<(), &'static str> {
    use config::{Forwarding, Protocol, ServiceId};
    let kinds = vs.real_servers.iter().map(|r| r.lb_kind.unwrap_or(vs.lb_kind));
    if kinds.into_iter().any(|kind| kind != Forwarding::Dr) {
        return Err(
            "only `lb_kind DR` is served yet (keepalived's default, when it is not written, \
                    is NAT)",
        );
    }
    if matches!(vs.id, ServiceId::Fwmark(_)) {
        return Err("firewall marks are not served yet");
    }
    if vs.protocol == Protocol::Sctp {
        return Err("SCTP is not served yet");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_data_plane_can_do_is_refused() {
        let load = |algo: &str, id: &str| {
            let text = format!(
                "virtual_server {id} {{\n {algo}\n real_server 10.0.0.2 80 {{\n weight 1\n }}\n}}\n"
            );
            config::parse_alone("k", &text).unwrap().0.virtual_servers.remove(0)
        };
        assert_eq!(servable(&load("lb_kind DR", "10.0.0.1 80")), Ok(()));
        assert!(servable(&load("lb_kind NAT", "10.0.0.1 80")).is_err());
        assert!(servable(&load("lb_algo rr", "10.0.0.1 80")).is_err(), "NAT is the default");
        assert!(servable(&load("lb_kind DR", "fwmark 3")).is_err());
    }
}
