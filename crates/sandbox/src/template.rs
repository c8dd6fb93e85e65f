//! Data directories of freshly installed servers, made once and copied from then on.

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::geteuid;

/// The directory `name` in the cache, which `install` fills if it is not there yet.
pub(crate) fn make(name: &str, install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache_dir()?;
    let template = cache.join(name);
    if template.is_dir() {
        return Ok(template);
    }
    // Made aside and renamed, so that nobody copies half of one and of several makers one wins.
    let making = tempfile::Builder::new()
        .prefix("making-")
        .tempdir_in(&cache)
        .with_context(|| format!("can't write to {}", cache.display()))?;
    let data = making.path().join("data");
    install(&data)?;
    match fs::rename(&data, &template) {
        Ok(()) => Ok(template),
        Err(_) if template.is_dir() => Ok(template),
        Err(error) => Err(error).with_context(|| format!("can't make {}", template.display())),
    }
}

pub(crate) fn copy(template: &Path, data: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    copy.args(["-a", "--reflink=auto"]).args([template, data]);
    run(copy)
}

/// Runs it to its end; an error shows what it wrote.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let program = Path::new(command.get_program()).to_owned();
    let output = command.output().with_context(|| format!("can't run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} failed: {}{}",
        program.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// `$XDG_CACHE_HOME/pointsman` or `~/.cache/pointsman`, wherever files are kept that can be had
/// again.
pub(crate) fn cache_homes() -> impl Iterator<Item = PathBuf> {
    let homes = [
        env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
        env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")),
    ];
    let homes = homes.into_iter().flatten().filter(|home| home.is_absolute());
    homes.map(|home| home.join("pointsman"))
}

/// The first of [`cache_homes`] that can be written to or, failing all, a private directory in the
/// temporary directory.
fn cache_dir() -> Result<PathBuf> {
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    for cache in cache_homes() {
        if private.create(&cache).is_ok() && tempfile::tempfile_in(&cache).is_ok() {
            return Ok(cache);
        }
    }
    let cache = env::temp_dir().join(format!("pointsman-cache-{}", geteuid()));
    private.create(&cache).with_context(|| format!("can't make {}", cache.display()))?;
    let metadata = fs::symlink_metadata(&cache)?;
    // Whoever owns the template owns the servers made from it.
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        bail!("{} belongs to someone else; set XDG_CACHE_HOME", cache.display());
    }
    Ok(cache)
}
