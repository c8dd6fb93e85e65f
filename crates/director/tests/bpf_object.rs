//! The committed eBPF object is what its source builds, byte for byte.
//!
//! Skips, saying so, where clang-14 is not installed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

#[test]
fn the_object_is_what_the_source_builds() {
    let installed = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !installed("clang-14") || !installed("llvm-strip-14") {
        println!("skipped: clang-14 and llvm-14 are not installed");
        return;
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
    let fresh = tempfile::tempdir().unwrap().path().join("fresh.o");
    std::fs::create_dir_all(fresh.parent().unwrap()).unwrap();
    let out = Command::new("sh").arg(dir.join("build.sh")).arg(&fresh).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let committed = std::fs::read(dir.join("direct_routing.bpf.o")).unwrap();
    assert!(committed == std::fs::read(&fresh).unwrap(), "run bpf/build.sh and commit the object");
}
