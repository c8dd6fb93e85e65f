//! The virtual servers as a whole: whether they can be served here, by which data plane, and a new
//! configuration for them.

use std::sync::Arc;

use crate::config::DirectorConfig;
use crate::control::Request;
use crate::plane::choice::{Kind, choose, needs_ipvs};
use crate::plane::{self, DataPlane, ebpf, ipvs};
use crate::services::Services;
use crate::sys::privileges::Kept;
use crate::{Error, Shared};

pub(crate) struct Virtuals {
    services: Option<Services>,
    /// As the data plane was loaded.
    running: Running,
    shared: Arc<Shared>,
    kept: Kept,
}

/// The data plane, loaded and not yet filled.
pub(crate) struct Loaded {
    plane: Option<Box<dyn DataPlane>>,
    running: Running,
}

/// What a data plane was loaded with, and can't change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Running {
    Nothing,
    Ebpf(ebpf::Options),
    Ipvs,
}

/// Loads the data plane, if the configuration needs one.
pub(crate) fn load(config: &DirectorConfig) -> Result<Loaded, Error> {
    if config.virtual_servers.is_empty() {
        return Ok(Loaded { plane: None, running: Running::Nothing });
    }
    let mut failure = None;
    for kind in choose(config).map_err(Error::Config)? {
        let loaded = match kind {
            Kind::Ebpf => load_ebpf(config),
            Kind::Ipvs => load_ipvs(config),
        };
        match (loaded, failure) {
            (Ok(loaded), before) => {
                if let Some(error) = before {
                    tracing::warn!("{error}: the next best data plane it is");
                }
                return Ok(loaded);
            }
            // What is best would be best to mend.
            (Err(_), Some(first)) => failure = Some(first),
            (Err(error), None) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| Error::Config("there is no data plane".to_owned())))
}

fn load_ebpf(config: &DirectorConfig) -> Result<Loaded, Error> {
    let options = ebpf_options(config)?;
    let plane =
        ebpf::EbpfPlane::load(&options).map_err(Error::os("loading the eBPF data plane"))?;
    Ok(Loaded { plane: Some(Box::new(plane)), running: Running::Ebpf(options) })
}

fn load_ipvs(config: &DirectorConfig) -> Result<Loaded, Error> {
    let options =
        ipvs::Options { flush: config.global.lvs_flush, on_stop: config.global.lvs_on_stop };
    let opened = ipvs::IpvsPlane::open(options);
    let plane = opened.map_err(|source| {
        let vs = config.virtual_servers.iter().find_map(|vs| Some((vs, needs_ipvs(config, vs)?)));
        match vs {
            Some((vs, why)) if source.kind() == std::io::ErrorKind::NotFound => Error::Config(
                format!("virtual_server {}: {why} is for IPVS, and {source}", vs.name()),
            ),
            _ => Error::Os { what: "opening IPVS", source },
        }
    })?;
    Ok(Loaded { plane: Some(Box::new(plane)), running: Running::Ipvs })
}

fn ebpf_options(config: &DirectorConfig) -> Result<ebpf::Options, Error> {
    Ok(ebpf::Options {
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
        kept: Kept,
    ) -> Result<Self, Error> {
        let services = match loaded.plane {
            Some(plane) => Some(
                Services::start(config, plane, Arc::clone(&shared))
                    .map_err(Error::os("starting health checks"))?,
            ),
            None => None,
        };
        Ok(Self { services, running: loaded.running, shared, kept })
    }

    /// Leaves all to the next process, for this one to end. Nothing is put away in good order:
    /// the guard keeps what the kernel would take back.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Whether the next process could take packets while this one still does.
    pub fn can_be_left(&self) -> bool {
        match &self.running {
            Running::Nothing | Running::Ipvs => true,
            Running::Ebpf(options) => !options.is_xdp(),
        }
    }

    /// Whether `config` can be run with the privileges that were kept.
    pub fn allow(&self, config: &DirectorConfig) -> Result<(), String> {
        self.kept.allow(config).map_err(str::to_owned)
    }

    pub fn kept(&self) -> Kept {
        self.kept
    }

    /// Whether a data plane is to be loaded first.
    pub fn lacks_plane(&self, request: &Request) -> bool {
        let wanted = !request.config.virtual_servers.is_empty();
        wanted && self.services.is_none() && request.loaded.is_none()
    }

    /// Serves what `config` says from now on, by the data plane that was loaded for it if there was
    /// none; what was done, in a few words.
    pub fn reload(
        &mut self,
        config: &DirectorConfig,
        loaded: Option<Loaded>,
    ) -> Result<String, Error> {
        let many = config.virtual_servers.len();
        let Some(services) = &self.services else {
            if let Some(loaded) = loaded {
                let kept = self.kept.without_loading();
                *self = Self::start(config, loaded, Arc::clone(&self.shared), kept)?;
            }
            return Ok(format!("{many} virtual servers"));
        };
        let mut done = format!("{many} virtual servers");
        let kinds = choose(config).map_err(Error::Config)?;
        match &mut self.running {
            Running::Ebpf(options) if kinds.contains(&Kind::Ebpf) => {
                let wanted = ebpf_options(config)?;
                let is_new = |name: &&String| !options.interfaces.contains(name);
                let unheard: Vec<_> = wanted.interfaces.iter().filter(is_new).cloned().collect();
                if !unheard.is_empty() {
                    done += &format!("; packets are taken on {} too", unheard.join(", "));
                    let listening = services.listen_on(unheard.clone());
                    listening.map_err(Error::os("taking packets on another interface"))?;
                    options.interfaces.extend(unheard);
                }
                if wanted.attach != options.attach {
                    done += "; the data plane stays where it is attached until a restart";
                }
                if wanted.sync != options.sync {
                    done += "; flows are shared as before until a restart";
                }
            }
            Running::Ipvs if kinds.contains(&Kind::Ipvs) => {}
            Running::Ipvs | Running::Ebpf(_) | Running::Nothing => {
                let text = "this needs another data plane than the one that runs: restart";
                return Err(Error::Config(text.to_owned()));
            }
        }
        services.reload(config);
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
    Ok(interfaces)
}
