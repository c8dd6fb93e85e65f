//! The program under test: `examples/director`, built with the tests, in the same profile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// Where it stands; `POINTSMAN_DIRECTOR` names another. Cargo does not build it for a test that is run
/// by itself, so a missing or outdated one is built here.
pub fn director() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("POINTSMAN_DIRECTOR") {
            return path.into();
        }
        // target/PROFILE/deps/this-test
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let program = profile.join("examples/director");
        if outdated(&program) {
            build(profile);
        }
        assert!(program.is_file(), "cargo built no {}", program.display());
        program
    })
}

fn build(profile: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace, so that features, and with them all dependencies, stay the same.
    cargo.current_dir(root).args(["build", "--quiet", "--workspace", "--bins", "--examples"]);
    cargo.env("CARGO_TARGET_DIR", profile.parent().unwrap());
    match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(name) => {
            cargo.args(["--profile", name]);
        }
    }
    assert!(cargo.status().unwrap().success(), "cargo build failed");
}

/// Whether a source is newer than the program.
fn outdated(program: &Path) -> bool {
    let Ok(built) = fs::metadata(program).and_then(|m| m.modified()) else { return true };
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["director", "vrrp", "config", "events", "wire"]
        .iter()
        .filter_map(|name| newest(&crates.join("..").join(name)))
        .any(|at| at > built)
}

fn newest(dir: &Path) -> Option<SystemTime> {
    let mut newest = None;
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_source = path.extension().is_some_and(|e| e == "rs" || e == "o" || e == "toml");
        let at = if is_dir && name != "tests" && name != "benches" {
            self::newest(&path)
        } else if !is_dir && is_source {
            entry.metadata().and_then(|m| m.modified()).ok()
        } else {
            None
        };
        newest = newest.max(at);
    }
    newest
}
