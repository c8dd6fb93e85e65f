//! What a change of the primary costs, as clients see it: see `tests/src/times.rs`.

use anyhow::{Result, ensure};

use crate::{cargo, setup};

pub fn run(args: &[&str]) -> Result<()> {
    setup::run()?;
    cargo::check(cargo::cargo(&["build", "--quiet", "--workspace", "--bins"]))?;
    let debug = cargo::target_dir().join("debug");
    let status = std::process::Command::new(debug.join("failover-times"))
        .args(args)
        .env("POINTSMAN_BINARY", debug.join("pointsman"))
        .status()?;
    ensure!(status.success(), "an aim was missed");
    Ok(())
}
