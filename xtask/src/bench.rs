//! What a query costs in direct connections, HAProxy and Pointsman: see `benches/`.

use anyhow::Result;

use crate::{cargo, say, setup};

pub fn run(args: &[&str]) -> Result<()> {
    setup::run()?;
    let binary = cargo::release_binary()?;
    cargo::check(cargo::cargo(&["build", "--release", "--package", "pointsman-bench"]))?;
    say("benchmark");
    let mut bench = std::process::Command::new(cargo::target_dir().join("release/pointsman-bench"));
    bench
        .arg("--pointsman")
        .arg(binary)
        .arg("--out")
        .arg(cargo::target_dir().join("bench.json"))
        .args(args)
        .current_dir(cargo::root());
    cargo::check(bench)
}
