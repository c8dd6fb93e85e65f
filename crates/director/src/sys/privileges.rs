//! What of root's power is kept while the director runs.
//!
//! The daemon needs the network's (addresses, raw sockets, IPVS) and that of its eBPF tables. Scripts
//! may need more: those of another user the power to become that user, and those of root all there
//! is. The latter get it from the kernel when they are started, as every program of root does; the
//! daemon itself has it not.

use std::io;

use super::check;
use crate::config::{DirectorConfig, PlaneChoice, Script};

// linux/capability.h
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const SYS_ADMIN: u32 = 21;
/// The kernel takes a program that computes with addresses of packets from those only who may look
/// into it.
const PERFMON: u32 = 38;
/// Both since Linux 5.8; before, SYS_ADMIN stands for them.
const BPF: u32 = 39;
const VERSION_3: u32 = 0x2008_0522;

/// Who runs scripts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Scripts {
    /// As this process does.
    root: bool,
    others: bool,
}

impl Scripts {
    fn of(config: &DirectorConfig) -> Self {
        let is_root = |script: &&mut Script| {
            script.user.as_ref().is_none_or(|user| user.name == "root" || user.name == "0")
        };
        let mut config = config.clone();
        let (root, others): (Vec<_>, Vec<_>) = config.scripts_mut().into_iter().partition(is_root);
        Self { root: !root.is_empty(), others: !others.is_empty() }
    }
}

/// What was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    scripts: Scripts,
    low_ports: bool,
    /// A data plane may still be loaded, for the first virtual server of a reload: what that takes is
    /// within reach, and in force only meanwhile.
    loading: bool,
}

impl Kept {
    /// Gives up what `config` does not need, once its data plane is loaded. Threads keep what they
    /// have: call it while there is one.
    pub fn only(config: &DirectorConfig) -> io::Result<Self> {
        let kept = Self::needed(config);
        let last = last_capability();
        let wanted = kept.capabilities(bpf_capability());
        if !kept.scripts.root {
            for capability in (0..=last).filter(|c| wanted >> c & 1 == 0) {
                // Without the right to, whoever started us has seen to it.
                // SAFETY: plain system call.
                let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
                if result < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EPERM) {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        if kept.scripts == Scripts::default() {
            // Of scripts nobody knows whether they call sudo.
            // SAFETY: plain system call.
            check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        }
        kept.keep()?;
        Ok(kept)
    }

    fn keep(self) -> io::Result<()> {
        let wanted = self.capabilities(bpf_capability());
        keep(if self.loading { wanted | 1 << PERFMON } else { wanted }, wanted)
    }

    /// Runs `load` with what loading a data plane takes.
    pub fn while_loading<T>(self, load: impl FnOnce() -> T) -> T {
        if self.loading {
            // Without it `load` says what is missing.
            let _ = keep(!0, self.capabilities(bpf_capability()) | 1 << PERFMON);
        }
        let loaded = load();
        let _ = self.keep();
        loaded
    }

    /// The data plane is loaded: this thread gives up what that took.
    pub fn without_loading(self) -> Self {
        let kept = Self { loading: false, ..self };
        if let Err(error) = kept.keep() {
            tracing::warn!("giving up privileges: {error}");
        }
        kept
    }

    /// Whether `config` can be run with what was kept, else why not.
    pub fn allow(self, config: &DirectorConfig) -> Result<(), &'static str> {
        let needed = Self::needed(config);
        if needed.scripts.root && !self.scripts.root {
            return Err("scripts of root need what the director gave up at its start: restart it");
        }
        if needed.scripts.others && !self.scripts.others && !self.scripts.root {
            return Err("scripts need what the director gave up at its start: restart it");
        }
        if needed.low_ports && !self.low_ports {
            return Err("a bind_port below 1024 needs what the director gave up at its start: \
                        restart it");
        }
        Ok(())
    }

    fn needed(config: &DirectorConfig) -> Self {
        let servers = config.virtual_servers.iter().flat_map(|vs| &vs.real_servers);
        let mut binds = servers.flat_map(|r| &r.checks).filter_map(|c| c.bind);
        let low_ports = binds.any(|bind| (1..1024).contains(&bind.port()));
        let loading =
            config.virtual_servers.is_empty() && config.global.data_plane != PlaneChoice::Ipvs;
        Self { scripts: Scripts::of(config), low_ports, loading }
    }

    /// A bit for each; `bpf` is the one for tables of eBPF.
    fn capabilities(self, bpf: u32) -> u64 {
        let mut all = vec![NET_ADMIN, NET_RAW, bpf];
        if self.scripts.root || self.scripts.others {
            // To become their user, and to end them when they take too long.
            all.extend([SETUID, SETGID, KILL]);
        }
        if self.low_ports {
            all.push(NET_BIND_SERVICE);
        }
        all.into_iter().fold(0, |set, capability| set | 1 << capability)
    }
}

/// The highest one this kernel knows.
fn last_capability() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    text.trim().parse().unwrap_or(BPF).min(63)
}

/// BPF, or what stands for it where the kernel or whoever started us (Docker 20.10) does not know it.
fn bpf_capability() -> u32 {
    let is_ours = permitted().is_ok_and(|permitted| permitted >> BPF & 1 != 0);
    if is_ours { BPF } else { SYS_ADMIN }
}

/// What this thread may do, or take in force.
fn permitted() -> io::Result<u64> {
    let data = get()?;
    Ok(u64::from(data[1].permitted) << 32 | u64::from(data[0].permitted))
}

/// struct __user_cap_header_struct
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// struct __user_cap_data_struct
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn get() -> io::Result<[Data; 2]> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: header and data are laid out as version 3 wants them, and live over the call.
    check(unsafe {
        libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) as libc::c_int
    })?;
    Ok(data)
}

/// What [`Kept::while_loading`] needs is not for the guard.
pub(super) fn without_loading() {
    // It has it from whoever has it too.
    let _ = keep(!(1 << PERFMON), !(1 << PERFMON));
}

/// Of what this thread may do, no more than `permitted`, and of that `effective` at once; nothing of
/// it is inherited.
fn keep(permitted: u64, effective: u64) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = get()?;
    for (half, data) in data.iter_mut().enumerate() {
        let permitted = data.permitted & (permitted >> (32 * half)) as u32;
        let effective = permitted & (effective >> (32 * half)) as u32;
        *data = Data { effective, permitted, inheritable: 0 };
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &mut header, data.as_ptr()) as libc::c_int })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn needed(body: &str) -> Kept {
        let check = |inner: &str| {
            format!(
                "virtual_server 10.0.0.1 80 {{\n lb_kind DR\n real_server 10.0.0.2 80 {{\n {inner}\n \
                 }}\n}}\n"
            )
        };
        Kept::needed(&config::parse_alone("k", &check(body)).unwrap().0)
    }

    #[test]
    fn no_more_than_the_configuration_needs() {
        let bare = needed("TCP_CHECK {\n }");
        assert_eq!(bare.capabilities(BPF), 1 << NET_ADMIN | 1 << NET_RAW | 1 << BPF);
        assert_eq!(bare.capabilities(SYS_ADMIN), 1 << NET_ADMIN | 1 << NET_RAW | 1 << SYS_ADMIN);
        let low = needed("TCP_CHECK {\n bind_port 99\n bindto 10.0.0.3\n }");
        assert!(low.low_ports && low.capabilities(BPF) & 1 << NET_BIND_SERVICE != 0);
        let scripts = Scripts { root: false, others: true };
        let other = Kept { scripts, low_ports: false, loading: false };
        assert!(other.capabilities(BPF) & 1 << SETUID != 0);
        assert!(!bare.loading && Kept::needed(&DirectorConfig::default()).loading);
    }

    #[test]
    fn a_reload_that_needs_more_is_refused() {
        let kept = |root, others| Kept {
            scripts: Scripts { root, others },
            low_ports: false,
            loading: false,
        };
        let config = DirectorConfig::default();
        assert_eq!(kept(false, false).allow(&config), Ok(()));
        let mut scripted = config;
        let script = Script { command: vec!["/bin/true".to_owned()], user: None };
        scripted.sync_groups.push(config::SyncGroup {
            name: "G".to_owned(),
            members: Vec::new(),
            tracking: config::Tracking::default(),
            notify: config::Notify { master: Some(script), ..Default::default() },
        });
        assert!(kept(false, true).allow(&scripted).is_err());
        assert_eq!(kept(true, false).allow(&scripted), Ok(()));
        let user = config::User { name: "nobody".to_owned(), group: None };
        if let Some(script) = &mut scripted.sync_groups[0].notify.master {
            script.user = Some(user);
        }
        assert!(kept(false, false).allow(&scripted).is_err());
        assert_eq!(kept(false, true).allow(&scripted), Ok(()));
    }
}
