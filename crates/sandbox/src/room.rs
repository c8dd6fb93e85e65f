//! The sandbox's directory: made, locked while in use, removed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

const PREFIX: &str = "pointsman-sandbox-";
/// Locked by the process that uses the directory; also marks the directory as ours to remove.
const LOCK: &str = ".pointsman-sandbox";

/// A directory that is removed on drop.
#[derive(Debug)]
pub(crate) struct Room {
    path: PathBuf,
    /// False if the user made the directory: then only its content is ours.
    made: bool,
    _lock: Flock<File>,
}

impl Room {
    pub(crate) fn new(wanted: Option<&Path>) -> Result<Self> {
        match wanted {
            Some(path) => Self::at(path),
            None => {
                let path = tempfile::Builder::new()
                    .prefix(PREFIX)
                    .tempdir()
                    .context("can't make a temporary directory")?
                    .keep();
                let lock = lock(&path)?.context("another process took the temporary directory")?;
                Ok(Self { path, made: true, _lock: lock })
            }
        }
    }

    fn at(path: &Path) -> Result<Self> {
        let made = match fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => {
                return Err(error).with_context(|| format!("can't make {}", path.display()));
            }
        };
        // Servers change their directory; relative paths would not survive that.
        let path = path.canonicalize().with_context(|| format!("can't find {}", path.display()))?;
        if !made && !path.join(LOCK).exists() {
            let mut content =
                fs::read_dir(&path).with_context(|| format!("can't read {}", path.display()))?;
            ensure!(
                content.next().is_none(),
                "{} is neither empty nor an old sandbox; name a directory that may be filled and \
                 emptied",
                path.display()
            );
        }
        let Some(lock) = lock(&path)? else {
            bail!("another sandbox is running in {}", path.display());
        };
        empty(&path).with_context(|| format!("can't empty {}", path.display()))?;
        Ok(Self { path, made, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = empty(&self.path);
        let _ = fs::remove_file(self.path.join(LOCK));
        if self.made {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// `None` if another process holds it.
fn lock(dir: &Path) -> Result<Option<Flock<File>>> {
    let path = dir.join(LOCK);
    let file = File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("can't lock {}", path.display())),
    }
}

/// Removes everything but the lock.
fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
        } else if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes temporary sandboxes whose process was killed before it could do so. Best effort.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && path.join(LOCK).exists()
            && entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == geteuid().as_raw());
        if ours && let Ok(Some(_lock)) = lock(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}
