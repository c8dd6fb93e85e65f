//! Other projects' own test suites, direct and through the proxy: see `tests/suites`.

use anyhow::{Result, ensure};

use crate::{cargo, setup};

pub fn run(args: &[&str]) -> Result<()> {
    setup::run()?;
    cargo::check(cargo::cargo(&["build", "--quiet", "--package", "pointsman"]))?;
    cargo::check(cargo::cargo(&["build", "--quiet", "--package", "pointsman-tests", "--bins"]))?;
    let debug = cargo::target_dir().join("debug");
    let status = std::process::Command::new(debug.join("suites"))
        .args(args)
        .env("POINTSMAN_BINARY", debug.join("pointsman"))
        .status()?;
    ensure!(status.success(), "not all is as on a direct connection, or not all could be run");
    Ok(())
}
