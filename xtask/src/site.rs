//! The whole reference site on one machine, and the classic proofs.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, say, setup};

/// Becomes the program that does it: Ctrl-C then reaches who has to put things away.
pub fn run() -> Result<()> {
    ensure!(
        setup::is_root(),
        "the site's hosts are network namespaces, and its directors load programs into the \
         kernel: only root may do that. Try\n  sudo -E env \"PATH=$PATH\" cargo xtask site"
    );
    setup::run()?;
    say("building pointsman");
    let binary = cargo::release_binary()?;
    cargo::check(cargo::cargo(&["build", "--release", "-p", "pointsman-tests", "--bins"]))?;
    let site = cargo::target_dir().join("release/reference-site");
    let error = Command::new(&site).env("POINTSMAN_BINARY", binary).exec();
    Err(error).with_context(|| format!("can't run {}", site.display()))
}
