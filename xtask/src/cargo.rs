//! Calling cargo, and finding what it made.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the manifest lies one level below the root")
        .to_owned()
}

/// `cargo ARGS` in the checkout, with the cargo that runs this.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Runs a command with its output on ours.
pub fn check(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("can't run {command:?}"))?;
    ensure!(status.success(), "failed ({status}): {command:?}");
    Ok(())
}

/// Whether `cargo SUBCOMMAND` exists here.
pub fn has(subcommand: &str) -> bool {
    cargo(&[subcommand, "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Builds the release binary.
pub fn release_binary() -> Result<PathBuf> {
    check(cargo(&["build", "--release", "--package", "pointsman"]))?;
    let binary = target_dir().join("release/pointsman");
    ensure!(binary.is_file(), "cargo built no {}", binary.display());
    Ok(binary)
}
