//! Finding the binary under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};

/// `pointsman` as built with these tests, in the same profile. `POINTSMAN_BINARY` names another.
///
/// Cargo does not build another package's binary for a test, so a missing or outdated one is built
/// here.
///
/// # Panics
/// It can't be built.
pub fn pointsman() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| find().expect("the binary under test"))
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("POINTSMAN_BINARY") {
        return Ok(path.into());
    }
    // target/PROFILE/deps/this-test, or target/PROFILE/a-program.
    let this = std::env::current_exe()?;
    let beside = this.parent().context("programs stand in a directory")?;
    let profile_dir = if beside.ends_with("deps") { beside.parent() } else { Some(beside) };
    let profile_dir = profile_dir.context("tests run from deps/")?;
    let binary = profile_dir.join("pointsman");
    if outdated(&binary) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("below the root");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The whole workspace, so that features, and with them all dependencies, stay the same.
        cargo.current_dir(root).args(["build", "--quiet", "--workspace", "--bins"]);
        cargo.env("CARGO_TARGET_DIR", profile_dir.parent().context("target/PROFILE")?);
        match profile_dir.file_name().and_then(|n| n.to_str()) {
            Some("debug") | None => {}
            Some(profile) => {
                cargo.args(["--profile", profile]);
            }
        }
        let status = cargo.status().context("can't run cargo")?;
        ensure!(status.success(), "cargo build failed");
    }
    ensure!(binary.is_file(), "cargo built no {}", binary.display());
    Ok(binary)
}

/// Whether a source is newer than the binary.
fn outdated(binary: &Path) -> bool {
    let Ok(built) = fs::metadata(binary).and_then(|m| m.modified()) else { return true };
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    newest(&crates).is_none_or(|newest| newest > built)
}

fn newest(dir: &Path) -> Option<SystemTime> {
    let mut newest = None;
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let at = match entry.file_type() {
            // Tests and benches are no part of the binary.
            Ok(kind) if kind.is_dir() && (name == "tests" || name == "benches") => None,
            Ok(kind) if kind.is_dir() => self::newest(&path),
            _ if path.extension().is_some_and(|e| e == "md") => None,
            _ => entry.metadata().and_then(|m| m.modified()).ok(),
        };
        newest = newest.max(at);
    }
    newest
}
