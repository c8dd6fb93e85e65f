//! All checks and all tests, in one build profile.

use std::time::Instant;

use anyhow::Result;

use crate::{cargo, say, setup};

pub fn run() -> Result<()> {
    let begin = Instant::now();
    setup::run()?;

    let fmt = component("fmt", "rustfmt");
    let clippy = component("clippy", "clippy");
    if fmt {
        say("cargo fmt --check");
        cargo::check(cargo::cargo(&["fmt", "--all", "--check"]))?;
    }

    // The binary that the end-to-end tests start is built with the tests, in the same profile and
    // with the same features.
    if cargo::has("nextest") {
        say("cargo nextest run --workspace");
        cargo::check(cargo::cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]))?;
        say("cargo test --workspace --doc");
        cargo::check(cargo::cargo(&["test", "--workspace", "--doc", "--quiet"]))?;
    } else {
        say("cargo test --workspace");
        cargo::check(cargo::cargo(&["test", "--workspace", "--no-fail-fast"]))?;
    }

    if clippy {
        say("cargo clippy");
        let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        cargo::check(cargo::cargo(&args))?;
    }
    say(&format!("all is well, after {} s", begin.elapsed().as_secs()));
    Ok(())
}

/// Whether a part of the toolchain is there; a minimal toolchain is asked to get it.
fn component(subcommand: &str, name: &str) -> bool {
    if cargo::has(subcommand) {
        return true;
    }
    let _ = std::process::Command::new("rustup").args(["component", "add", name]).status();
    let has = cargo::has(subcommand);
    if !has {
        eprintln!("warning: {name} is not installed; `cargo {subcommand}` is left out");
    }
    has
}
