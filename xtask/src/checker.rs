//! The consistency checker for as long as one likes: see `tests/src/checker`.

use anyhow::{Result, ensure};

use crate::{cargo, setup};

pub fn run(args: &[&str]) -> Result<()> {
    setup::run()?;
    cargo::check(cargo::cargo(&["build", "--quiet", "--workspace", "--bins"]))?;
    let debug = cargo::target_dir().join("debug");
    let status = std::process::Command::new(debug.join("checker"))
        .args(args)
        .env("POINTSMAN_BINARY", debug.join("pointsman"))
        .status()?;
    ensure!(status.success(), "the checker found something");
    Ok(())
}
