//! Tests that need a kernel with IPVS, in a virtual machine that has one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, say, setup};

/// Runs the network tests of IPVS in the virtual machine; `words` say which. `--rate`: measures
/// packets a second instead.
pub fn run(words: &[&str]) -> Result<()> {
    let (name, mut arguments, machine): (_, Vec<&str>, &[&str]) = match words {
        // One processor, whose time counts instructions: two nanoseconds each.
        ["--rate"] => ("packet_rate", vec!["--ignored"], &["-icount", "shift=1,sleep=off"]),
        _ => ("ipvs_network", words.to_vec(), &["-smp", "2"]),
    };
    arguments.extend(["--nocapture", "--test-threads", "1"]);
    ensure!(cfg!(target_arch = "x86_64"), "only known how to for x86_64");
    setup::vm()?;
    let kernel = kernel()?;
    say("building the tests");
    // The whole workspace, as everything else that is built for debugging: features stay the same.
    cargo::check(cargo::cargo(&["build", "--quiet", "--workspace", "--bins", "--examples"]))?;
    let mut build = cargo::cargo(&["test", "--quiet", "--workspace", "--no-run"]);
    build.args(["--message-format", "json"]);
    let output = build.output().context("can't run cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let test = executable(&String::from_utf8_lossy(&output.stdout), name)
        .with_context(|| format!("cargo built no test called {name}"))?;
    say("booting (emulated: everything takes ten times as long)");
    let out = std::env::temp_dir().join(format!("pointsman-vm-{}", std::process::id()));
    // target/PROFILE/deps/the-test. What has just been built is not to be built there, whatever
    // happens to the sources meanwhile.
    let profile = test.ancestors().nth(2).context("tests stand in deps/")?;
    let director = profile.join("examples/director");
    let command = format!(
        "modprobe ip_vs && POINTSMAN_DIRECTOR={} {} {}",
        director.display(),
        test.display(),
        arguments.join(" ")
    );
    let mut vm = Command::new("sh");
    vm.args(["-euc", include_str!("vm.sh"), "vm"]).arg(kernel).arg(command).arg(&out).args(machine);
    let result = cargo::check(vm);
    let _ = std::fs::remove_dir_all(&out);
    result
}

/// The path of a test's program in what cargo says in JSON, a message a line.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let after = |line: &str, key: &str| {
        let (_, rest) = line.split_once(&format!("\"{key}\":\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let of_it = |line: &&str| line.contains(&format!("\"name\":\"{name}\""));
    messages.lines().filter(of_it).find_map(|line| after(line, "executable")).map(PathBuf::from)
}

/// A kernel of Debian's, unpacked where MySQL's server is too.
fn kernel() -> Result<PathBuf> {
    let root = setup::cache()?.join("linux");
    if !Path::new(&root).join("boot").is_dir() {
        say(&format!("unpacking a kernel into {}", root.display()));
        let mut command = Command::new("sh");
        command.args(["-euc", include_str!("kernel.sh"), "kernel"]).arg(&root);
        cargo::check(command)?;
    }
    Ok(root)
}
