//! Whether reads are stale, and whether replicas answer them: see `tests/src/freshness.rs`.

use anyhow::{Result, ensure};

use crate::{cargo, setup};

pub fn run(args: &[&str]) -> Result<()> {
    setup::run()?;
    cargo::check(cargo::cargo(&["build", "--quiet", "--package", "pointsman"]))?;
    cargo::check(cargo::cargo(&["build", "--quiet", "--package", "pointsman-tests", "--bins"]))?;
    let debug = cargo::target_dir().join("debug");
    let status = std::process::Command::new(debug.join("freshness"))
        .args(args)
        .env("POINTSMAN_BINARY", debug.join("pointsman"))
        .status()?;
    ensure!(status.success(), "reads are not as fresh as promised");
    Ok(())
}
