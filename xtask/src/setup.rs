//! Installs what tests and demo need and this machine lacks, with apt-get.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::say;

/// What shows that a package is there.
enum Sign {
    /// One of these programs.
    Program(&'static [&'static str]),
    File(&'static str),
    /// A file in this directory whose name begins like this.
    Glob(&'static str, &'static str),
    /// These modules of PHP.
    PhpModules(&'static [&'static str]),
}

use Sign::{File, Glob, PhpModules, Program};

/// Databases, clients and the programs Pointsman is compared with.
const NEEDED: &[(&str, Sign)] = &[
    ("mariadb-server", Program(&["mariadbd"])),
    ("mariadb-client", Program(&["mariadb"])),
    ("galera-4", File("/usr/lib/galera/libgalera_smm.so")),
    ("mariadb-backup", Program(&["mariadb-backup"])),
    ("socat", Program(&["socat"])),
    ("php-cli", Program(&["php"])),
    ("php-mysql", PhpModules(&["mysqli", "pdo_mysql"])),
    ("sysbench", Program(&["sysbench"])),
    ("haproxy", Program(&["haproxy"])),
    ("prometheus", Program(&["promtool"])),
    ("valgrind", Program(&["callgrind_control"])),
];

/// For the front tier. Its tests say so if they can't run.
const FRONT_TIER: &[(&str, Sign)] = &[
    ("keepalived", Program(&["keepalived"])),
    ("clang-14", Program(&["clang-14"])),
    ("llvm-14", Program(&["llvm-strip-14"])),
    ("libbpf-dev", File("/usr/include/bpf/bpf_helpers.h")),
    ("iproute2", Program(&["ip"])),
    ("procps", Program(&["sysctl"])),
    ("systemd", File("/lib/systemd/systemd")),
    ("ethtool", Program(&["ethtool"])),
    ("bpftool", Program(&["bpftool"])),
    ("nginx-light", Program(&["nginx"])),
    ("dnsmasq-base", Program(&["dnsmasq"])),
    // Not beside another mail server.
    ("exim4-daemon-light", Program(&["exim4", "postfix", "smtpd"])),
    ("php-fpm", Glob("/usr/sbin", "php-fpm")),
    ("curl", Program(&["curl"])),
    ("openssl", Program(&["openssl"])),
    ("python3", Program(&["python3"])),
];

/// For the virtual machine whose kernel has IPVS.
const VM: &[(&str, Sign)] = &[
    ("qemu-system-x86", Program(&["qemu-system-x86_64"])),
    ("busybox-static", Program(&["busybox"])),
    ("kmod", Program(&["modprobe"])),
    ("cpio", Program(&["cpio"])),
    ("iproute2", Program(&["ip"])),
    ("procps", Program(&["sysctl"])),
    ("ipvsadm", Program(&["ipvsadm"])),
    ("iptables", Program(&["iptables"])),
];

/// Only what the virtual machine needs.
pub fn vm() -> Result<()> {
    let missing = missing(VM);
    if !missing.is_empty() {
        say(&format!("installing {}", missing.join(" ")));
    }
    apt_get(is_root(), &missing)
}

pub fn run() -> Result<()> {
    packages()?;
    for unpacked in UNPACKED {
        if let Err(error) = unpacked.get() {
            eprintln!("warning: no {}, its tests will be skipped ({error:#})", unpacked.name);
        }
    }
    Ok(())
}

fn packages() -> Result<()> {
    let needed = missing(NEEDED);
    let front_tier = missing(FRONT_TIER);
    if needed.is_empty() && front_tier.is_empty() {
        return Ok(());
    }
    let all = || needed.iter().chain(&front_tier).copied().collect::<Vec<_>>().join(" ");
    say(&format!("installing {}", all()));
    if which("apt-get").is_none() {
        bail!("apt-get is not here; please install by other means: {}", all());
    }
    let root = is_root();
    if !root && which("sudo").is_none() {
        bail!(
            "installing needs root and there is no sudo; as root, run:\n  apt-get install \
             --no-install-recommends {}",
            all()
        );
    }
    apt_get(root, &needed).with_context(|| format!("installing {}", needed.join(" ")))?;
    if let Err(error) = apt_get(root, &front_tier) {
        eprintln!("warning: {} not installed ({error:#})", front_tier.join(", "));
    }
    let still = missing(NEEDED);
    ensure!(
        still.is_empty(),
        "apt-get ended well, but these are still missing: {}",
        still.join(" ")
    );
    Ok(())
}

/// While packages are installed, `policy-rc.d` keeps Debian from starting their services; one that
/// was there already stays, one that we put there goes.
const SCRIPT: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends --no-remove "$@"
"#;

fn apt_get(root: bool, packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(if root { "sh" } else { "sudo" });
    if !root {
        command.arg("sh");
    }
    command.args(["-euc", SCRIPT, "setup"]).args(packages);
    let status = command.status().context("can't run the package manager")?;
    ensure!(status.success(), "apt-get failed ({status}); what it said stands above");
    Ok(())
}

/// Where large things are kept that are not installed.
pub fn cache() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let cache = cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("pointsman");
    std::fs::create_dir_all(&cache)?;
    Ok(cache)
}

/// A database server that this Debian does not have and another release of it has: unpacked into a
/// directory of its own, where the sandbox finds it.
struct Unpacked {
    name: &'static str,
    /// What says where it is, if not in the cache's `directory`.
    variable: &'static str,
    directory: &'static str,
    release: &'static str,
    server: &'static str,
    packages: &'static [&'static str],
}

const UNPACKED: [Unpacked; 2] = [
    Unpacked {
        name: "MySQL",
        variable: "MYSQL_ROOT",
        directory: "mysql-9.7",
        release: "sid",
        server: "mysqld",
        packages: &["mysql-server-core", "mysql-client-core"],
    },
    Unpacked {
        name: "newer MariaDB",
        variable: "MARIADB_ROOT",
        directory: "mariadb-11.8",
        release: "trixie",
        server: "mariadbd",
        packages: &["mariadb-server", "mariadb-client"],
    },
];

impl Unpacked {
    fn get(&self) -> Result<()> {
        let root = match std::env::var_os(self.variable) {
            Some(root) => PathBuf::from(root),
            None => cache()?.join(self.directory),
        };
        if root.join("usr/sbin").join(self.server).is_file() {
            return Ok(());
        }
        ensure!(cfg!(target_arch = "x86_64"), "only known how to for x86_64");
        ensure!(!root.exists(), "{} exists, but holds no {}", root.display(), self.server);
        say(&format!("unpacking a {} into {}", self.name, root.display()));
        let parent = root.parent().with_context(|| format!("{} must be below /", self.variable))?;
        std::fs::create_dir_all(parent)?;
        let mut command = Command::new("sh");
        command.args(["-euc", include_str!("unpack.sh"), "unpack"]).arg(&root);
        command.args([self.release, self.server]).args(self.packages);
        let status = command.status().context("can't run sh")?;
        ensure!(status.success(), "see above");
        Ok(())
    }
}

fn missing(packages: &[(&'static str, Sign)]) -> Vec<&'static str> {
    packages.iter().filter(|(_, sign)| !shows(sign)).map(|(name, _)| *name).collect()
}

fn shows(sign: &Sign) -> bool {
    match sign {
        Program(names) => names.iter().any(|name| which(name).is_some()),
        File(path) => Path::new(path).exists(),
        Glob(dir, prefix) => std::fs::read_dir(dir).is_ok_and(|entries| {
            let mut names = entries.flatten().map(|entry| entry.file_name());
            names.any(|name| name.to_string_lossy().starts_with(prefix))
        }),
        PhpModules(wanted) => Command::new("php").arg("-m").output().is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
            wanted.iter().all(|module| text.lines().any(|line| line.trim() == *module))
        }),
    }
}

/// Finds a program, also where servers live, which is not on everybody's PATH.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
    })
}
