//! libFuzzer on stable Rust: the compiler's own coverage pass, without nightly's flag for it.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::{cargo, number, say};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares \
     --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1";

pub fn run(mut args: &[&str]) -> Result<()> {
    let fuzz = cargo::root().join("fuzz");
    let (mut name, mut seconds) = (None, 60);
    while let [first, rest @ ..] = args {
        args = match *first {
            "--seconds" => {
                seconds = number("--seconds", rest.first())?;
                &rest[1..]
            }
            flag if flag.starts_with('-') => bail!("fuzz does not know {flag}"),
            target => {
                name = Some(target);
                rest
            }
        };
    }
    let targets = targets(&fuzz)?;
    let Some(name) = name else {
        println!("targets: {}", targets.join(" "));
        return Ok(());
    };
    ensure!(
        targets.iter().any(|t| t == name),
        "no target {name}; there are: {}",
        targets.join(" ")
    );

    say(&format!("fuzzing {name} for {seconds} s"));
    // A directory of its own: other flags would rebuild everything else.
    let target_dir = cargo::target_dir().join("fuzz");
    let room = name.split('_').next().unwrap_or(name);
    let mut build = cargo::cargo(&["build", "--release", "--target", TARGET, "--bin", name]);
    build
        .args(["--features", room])
        .current_dir(&fuzz)
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_TARGET_DIR", &target_dir);
    cargo::check(build)?;

    let corpus = fuzz.join("corpus").join(name);
    let artifacts = fuzz.join("artifacts").join(name);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    let seeds = fuzz.join("seeds").join(name);
    let mut run = std::process::Command::new(target_dir.join(TARGET).join("release").join(name));
    run.arg(&corpus);
    if seeds.is_dir() {
        run.arg(&seeds);
    }
    run.args([
        format!("-max_total_time={seconds}"),
        format!("-artifact_prefix={}/", artifacts.display()),
        "-timeout=10".to_owned(),
        "-rss_limit_mb=2048".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    cargo::check(run)
}

/// Their sources' names.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(fuzz.join("fuzz_targets"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs")
            && let Some(stem) = path.file_stem()
        {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
