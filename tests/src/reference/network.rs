//! Hosts in network namespaces on one bridge: 192.168.4.0/24, as the reference site has it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// Names of namespaces: this, the process that made them, the host.
const PREFIX: &str = "pm-site";
const SWITCH: &str = "switch";

pub struct Network {
    hosts: Vec<u8>,
}

/// Why the site can't be had here, if it can't.
#[must_use]
pub fn unable() -> Option<&'static str> {
    if !geteuid().is_root() {
        return Some(
            "the site's hosts are network namespaces, and its directors load programs into the \
             kernel: only root may do that. Run it as root, e.g. sudo -E env \"PATH=$PATH\" cargo \
             xtask site",
        );
    }
    None
}

impl Network {
    /// Makes the hosts, `eth0` on each, and a bridge between them.
    ///
    /// # Errors
    /// This process is not root, or may not make namespaces.
    pub fn new(hosts: &[u8]) -> Result<Self> {
        sweep();
        ip(&["netns", "add", &name(SWITCH)])
            .context("network namespaces can't be made here (in a container: --privileged)")?;
        // From here on whatever stands is put away on drop.
        let network = Self { hosts: hosts.to_vec() };
        let switch = name(SWITCH);
        let bridge = ["type", "bridge", "mcast_snooping", "0", "forward_delay", "0"];
        ip(&[&["-n", &switch, "link", "add", "br0"], &bridge[..], &["stp_state", "0"]].concat())?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for &host in hosts {
            let (ns, port) = (name(host), format!("port{host}"));
            ip(&["netns", "add", &ns])?;
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &ns];
            ip(&[&["-n", &switch, "link", "add", &port], &peer[..]].concat())?;
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &ns, "link", "set", "lo", "up"])?;
            let address = format!("{}/24", address(host));
            ip(&["-n", &ns, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &ns, "link", "set", "eth0", "up"])?;
        }
        Ok(network)
    }

    /// Gives a machine of its own, by its process 1, an `eth0` on the bridge, as `host`.
    ///
    /// # Errors
    /// It has one, or there is no such process.
    pub fn plug(&self, host: u8, pid: u32) -> Result<()> {
        let (switch, port, pid) = (name(SWITCH), format!("port{host}"), pid.to_string());
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &pid];
        ip(&[&["-n", &switch, "link", "add", &port], &peer[..]].concat())?;
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
        let inside = |program: &[&str]| -> Result<()> {
            let mut command = Command::new("nsenter");
            command.args(["--net", "--target", &pid, "--", "ip"]).args(program);
            let output = command.output().context("can't run nsenter (util-linux)")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ip {}: {said}", program.join(" "));
            Ok(())
        };
        inside(&["link", "set", "lo", "up"])?;
        inside(&["addr", "add", &format!("{}/24", address(host)), "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])
    }

    #[must_use]
    pub fn namespace(&self, host: u8) -> String {
        name(host)
    }

    /// A program on a host. `ip` becomes the program: the process stays one.
    #[must_use]
    pub fn command(&self, host: u8, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name(host)]).arg(program);
        command
    }

    /// Whether `address` stands on the host's `eth0`.
    ///
    /// # Errors
    /// The host can't be looked at.
    pub fn holds(&self, host: u8, address: Ipv4Addr) -> Result<bool> {
        let shown = ip(&["-n", &name(host), "-br", "-4", "addr", "show", "dev", "eth0"])?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        Ok(shown.split_whitespace().any(|w| w.split('/').next() == Some(&address.to_string())))
    }

    /// Forgets which machine has which address, as waiting a minute would.
    ///
    /// # Errors
    /// The host can't be reached.
    pub fn forget_neighbours(&self, host: u8) -> Result<()> {
        ip(&["-n", &name(host), "neigh", "flush", "all"]).map(drop)
    }

    /// Packets from `host` to `other` get lost without a word, or no longer.
    ///
    /// # Errors
    /// The host can't be reached.
    pub fn lose(&self, host: u8, other: u8, lose: bool) -> Result<()> {
        let (ns, to) = (name(host), address(other).to_string());
        let entry = ["-n", &ns, "neigh", if lose { "replace" } else { "del" }, &to];
        // Nobody has this one.
        let nobody = ["lladdr", "02:00:00:00:00:01", "nud", "permanent"];
        let more = if lose { &nobody[..] } else { &[] };
        ip(&[&entry[..], more, &["dev", "eth0"]].concat()).map(drop)
    }

    /// No packets get lost any more.
    ///
    /// # Errors
    /// A host can't be reached.
    pub fn mend(&self) -> Result<()> {
        for &host in &self.hosts {
            let entries = ["neigh", "flush", "nud", "permanent", "dev", "eth0"];
            ip(&[&["-n", &name(host)], &entries[..]].concat())?;
        }
        Ok(())
    }

    /// Runs `work` on a thread in the host's namespace.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn thread<T: Send + 'static>(
        &self,
        host: u8,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let path = PathBuf::from("/run/netns").join(name(host));
        let thread = std::thread::Builder::new().spawn(move || {
            let namespace = File::open(&path).with_context(|| path.display().to_string())?;
            // Of this thread alone.
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a namespace")?;
            Ok(work())
        })?;
        Ok(thread)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for &host in &self.hosts {
            remove(&name(host));
        }
        remove(&name(SWITCH));
    }
}

#[must_use]
pub fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 4, host)
}

fn name(host: impl std::fmt::Display) -> String {
    format!("{PREFIX}-{}-{host}", std::process::id())
}

/// Ends what still runs in a namespace, and removes it. Best effort.
fn remove(namespace: &str) {
    if let Ok(output) = ip(&["netns", "pids", namespace]) {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for pid in text.lines().filter_map(|line| line.trim().parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = ip(&["netns", "del", namespace]);
}

/// The site's directory.
///
/// # Errors
/// It can't be made.
pub fn directory() -> Result<tempfile::TempDir> {
    let prefix = format!("{PREFIX}-{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().context("can't make a directory")
}

/// Removes the networks and directories of processes that were killed before they could do so. Best effort.
fn sweep() {
    for (name, _) in orphans(Path::new("/run/netns")) {
        remove(&name);
    }
    for (_, path) in orphans(&std::env::temp_dir()) {
        let _ = std::fs::remove_dir_all(path);
    }
}

/// What carries the number of a process that is gone in its name.
fn orphans(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        let Some(owner) = owner.and_then(|pid| pid.parse().ok()) else { continue };
        if kill(Pid::from_raw(owner), None).is_err() {
            found.push((name, entry.path()));
        }
    }
    found
}

fn ip(args: &[&str]) -> Result<Output> {
    let output = Command::new("ip").args(args).output().context("can't run ip (iproute2)")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output)
}
