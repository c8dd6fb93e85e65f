//! Instructions per statement against the figures in `tests/instructions.json`: see
//! `tests/tests/instructions.rs`.

use anyhow::{Result, bail};

use crate::{cargo, say, setup};

pub fn run(mut args: &[&str]) -> Result<()> {
    let (mut release, mut record, mut keep) = (false, false, None);
    while let [first, rest @ ..] = args {
        args = rest;
        match *first {
            "--release" => release = true,
            "--record" => record = true,
            "--keep" => match rest {
                [dir, rest @ ..] => {
                    keep = Some(std::path::absolute(dir)?);
                    args = rest;
                }
                [] => bail!("--keep wants a directory"),
            },
            other => bail!("instructions does not know {other}"),
        }
    }
    setup::run()?;
    say("instructions of the proxy's worker for one statement");
    // The whole workspace, so that features, and with them all dependencies, stay the same.
    cargo::check(cargo::cargo(&["build", "--quiet", "--workspace", "--bins"]))?;
    let mut test = cargo::cargo(&["test", "--quiet", "--package", "pointsman-tests"]);
    test.args(["--test", "instructions", "--", "--nocapture"]);
    if release {
        test.env("POINTSMAN_BINARY", cargo::release_binary()?).env("POINTSMAN_PROFILE", "release");
    } else {
        test.env("POINTSMAN_BINARY", cargo::target_dir().join("debug/pointsman"));
    }
    if record {
        test.env("POINTSMAN_RECORD", "1");
    }
    if let Some(dir) = keep {
        test.env("POINTSMAN_KEEP_COUNTS", &dir);
    }
    cargo::check(test)
}
