//! The virtual servers as a whole: whether they can be served here, by which data plane, and a new
//! configuration for them.

use std::sync::Arc;

use crate::config::{self, DirectorConfig};
use crate::plane::ebpf::Options;
use crate::plane::{self, DataPlane};
use crate::services::Services;
use crate::{Error, Shared};

pub(crate) struct Virtuals {
    services: Option<Services>,
    /// As the data plane was loaded.
    options: Options,
    shared: Arc<Shared>,
}

/// The data plane, loaded and not yet filled.
pub(crate) struct Loaded {
    plane: Option<Box<dyn DataPlane>>,
    options: Options,
}

/// Loads the data plane, if the configuration needs one.
pub(crate) fn load(config: &DirectorConfig) -> Result<Loaded, Error> {
    let options = options(config)?;
    if config.virtual_servers.is_empty() {
        return Ok(Loaded { plane: None, options });
    }
    let plane =
        plane::ebpf::EbpfPlane::load(&options).map_err(Error::os("loading the eBPF data plane"))?;
    Ok(Loaded { plane: Some(Box::new(plane)), options })
}

fn options(config: &DirectorConfig) -> Result<Options, Error> {
    Ok(Options {
        interfaces: interfaces(config)?,
        attach: config.global.data_plane,
        sync: plane::SyncConfig::of(config),
    })
}

impl Virtuals {
    pub fn start(
        config: &DirectorConfig,
        loaded: Loaded,
        shared: Arc<Shared>,
    ) -> Result<Self, Error> {
        let services = match loaded.plane {
            Some(plane) => Some(
                Services::start(config, plane, Arc::clone(&shared))
                    .map_err(Error::os("starting health checks"))?,
            ),
            None => None,
        };
        Ok(Self { services, options: loaded.options, shared })
    }

    /// Serves what `config` says from now on; what was done, in a few words.
    pub fn reload(&mut self, config: &DirectorConfig) -> Result<String, Error> {
        let wanted = options(config)?;
        let many = config.virtual_servers.len();
        let Some(services) = &self.services else {
            *self = Self::start(config, load(config)?, Arc::clone(&self.shared))?;
            return Ok(format!("{many} virtual servers"));
        };
        let is_new = |name: &&String| !self.options.interfaces.contains(name);
        let unheard: Vec<_> = wanted.interfaces.iter().filter(is_new).cloned().collect();
        if !unheard.is_empty() {
            return Err(Error::Config(format!(
                "the data plane does not listen on {} yet: that takes a restart",
                unheard.join(", ")
            )));
        }
        services.reload(config);
        let mut done = format!("{many} virtual servers");
        if wanted.attach != self.options.attach {
            done += "; the data plane stays where it is attached until a restart";
        }
        if wanted.sync != self.options.sync {
            done += "; flows are shared as before until a restart";
        }
        Ok(done)
    }
}

/// Where packets for virtual servers arrive.
fn interfaces(config: &DirectorConfig) -> Result<Vec<String>, Error> {
    if config.virtual_servers.is_empty() {
        return Ok(Vec::new());
    }
    let mut interfaces: Vec<String> = config.vrrp.iter().map(|i| i.interface.clone()).collect();
    for instance in &config.vrrp {
        let all = instance.virtual_ipaddress.iter().chain(&instance.virtual_ipaddress_excluded);
        interfaces.extend(all.filter_map(|a| a.dev.clone()));
        interfaces.extend(instance.vmac());
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
    Ok(interfaces)
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
