//! The path of one statement takes no more instructions than it did.
//!
//! The figures are in `instructions.json`, by profile. After a change that is worth what it costs, or
//! one that makes it cheaper: `cargo xtask instructions --record`.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use pointsman_tests::instructions::{Counted, Walk};
use serde_json::{Value, json};

/// How much more may pass unseen, in percent; and how much where another compiler made the binary.
const TOLERANCE: [u64; 2] = [5, 15];

fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_statement_takes_no_more_instructions_than_it_did() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let record = std::env::var_os("POINTSMAN_RECORD").is_some();
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let profile = std::env::var("POINTSMAN_PROFILE").unwrap_or_else(|_| "dev".into());
    let compiler = compiler();
    let same = file[&profile]["compiler"] == json!(compiler);
    let tolerance = TOLERANCE[usize::from(!same)];

    let mut counted = Counted::start().unwrap();
    let mut report = format!("instructions of the worker, {profile} profile, {compiler}\n");
    let (mut worse, mut figures) = (false, json!({ "compiler": compiler }));
    for walk in Walk::ALL {
        let name = walk.name();
        let now = counted.per_statement(walk).unwrap();
        let before = file[&profile][name].as_u64();
        figures[name] = json!(now);
        let change = before.map(|before| (now as f64 / before as f64 - 1.0) * 100.0);
        let change_text = change.map_or("new".to_owned(), |c| format!("{c:+.1} %"));
        let _ = writeln!(report, "  {name:<34} {now:>9}  {change_text}");
        worse |= before.is_none_or(|before| now * 100 > before * (100 + tolerance));
    }
    print!("{report}");
    if record {
        file[&profile] = figures;
        std::fs::write(&path, serde_json::to_string_pretty(&file).unwrap() + "\n").unwrap();
        return;
    }
    assert!(
        !worse,
        "{report}more than {tolerance} % over the figures in tests/instructions.json; find out why \
         (`cargo xtask instructions --keep DIR`, then callgrind_annotate), or record the new ones: \
         `cargo xtask instructions --record`"
    );
}
