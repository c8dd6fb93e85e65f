//! Tables that outlive the daemon: pinned under bpffs, so that a restart finds the connections.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layout::LAYOUT;

/// Where, unless the environment says otherwise (POINTSMAN_BPF_DIR).
const DEFAULT: &str = "/sys/fs/bpf/pointsman";
const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;

/// Those that are pinned; the others say nothing that the next run needs.
pub(crate) const PINNED: [&str; 10] = [
    "services",
    "slots",
    "reals",
    "names",
    "loads",
    "turns",
    "statistics",
    "connections",
    "begun",
    "templates",
];

/// The directory for the tables of this network namespace in this layout, made if need be; those of
/// other layouts are removed. With it, what should be told.
pub(crate) fn directory() -> io::Result<(PathBuf, Vec<String>)> {
    let base = std::env::var_os("POINTSMAN_BPF_DIR").map_or(DEFAULT.into(), PathBuf::from);
    let parent = base.parent().unwrap_or(Path::new("/"));
    if !crate::sys::filesystem(parent).is_ok_and(|magic| magic == BPF_FS_MAGIC) {
        let text = format!("{} is not a BPF file system", parent.display());
        return Err(io::Error::other(text));
    }
    // Each network namespace is a host of its own.
    let namespace = std::fs::metadata("/proc/self/ns/net")?.ino();
    let host = base.join(format!("net-{namespace}"));
    let ours = host.join(format!("layout-{LAYOUT}"));
    std::fs::create_dir_all(&ours)?;
    let mut told = Vec::new();
    for entry in std::fs::read_dir(&host)?.flatten() {
        if entry.path() != ours {
            told.push(format!(
                "{} is of another version: its connections are forgotten",
                entry.path().display()
            ));
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok((ours, told))
}

/// Forgets what is pinned.
pub(crate) fn clear(directory: &Path) {
    for name in PINNED {
        let _ = std::fs::remove_file(directory.join(name));
    }
}
