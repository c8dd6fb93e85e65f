//! The consistency checker for as long as one likes: see `tests/tests/checker.rs`.

use anyhow::{Result, bail};

use crate::{cargo, number, say, setup};

pub fn run(mut args: &[&str]) -> Result<()> {
    let (mut seconds, mut seed, mut only) = (60, None, None);
    while let [first, rest @ ..] = args {
        args = match *first {
            "--seconds" => {
                seconds = number("--seconds", rest.first())?;
                &rest[1..]
            }
            "--seed" => {
                seed = Some(number("--seed", rest.first())?);
                &rest[1..]
            }
            flag if flag.starts_with('-') => bail!("checker does not know {flag}"),
            name => {
                only = Some(name);
                rest
            }
        };
    }
    setup::run()?;
    say(&format!("consistency checker, {seconds} s for each kind of trouble"));
    let mut test = cargo::cargo(&["test", "--package", "pointsman-tests", "--test", "checker"]);
    test.args(["--", "--nocapture", "--test-threads=1"]).args(only);
    test.env("POINTSMAN_CHECK_SECONDS", seconds.to_string());
    if let Some(seed) = seed {
        test.env("POINTSMAN_CHECK_SEED", seed.to_string());
    }
    cargo::check(test)
}
