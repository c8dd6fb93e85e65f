//! What a client sees differ between a direct connection and the proxy: see `tests/compare`.

use anyhow::{Result, ensure};

use crate::{cargo, setup};

pub fn run(args: &[&str]) -> Result<()> {
    setup::run()?;
    cargo::check(cargo::cargo(&["build", "--quiet", "--package", "pointsman"]))?;
    cargo::check(cargo::cargo(&["build", "--quiet", "--package", "pointsman-tests", "--bins"]))?;
    let debug = cargo::target_dir().join("debug");
    let status = std::process::Command::new(debug.join("compare"))
        .args(args)
        .env("POINTSMAN_BINARY", debug.join("pointsman"))
        .status()?;
    ensure!(status.success(), "not all is as on a direct connection");
    Ok(())
}
