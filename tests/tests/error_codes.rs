//! Every error code that the sources give to people is explained in `docs/`, and none twice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn files(dir: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, ending, out);
        } else if path.extension().is_some_and(|e| e == ending) {
            out.push(path);
        }
    }
}

fn codes(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("PM").filter_map(|(at, _)| {
        let code = text.get(at..at + 6)?;
        let digits = code[2..].bytes().all(|b| b.is_ascii_digit());
        let ends = !text[at + 6..].starts_with(|c: char| c.is_ascii_alphanumeric());
        (digits && ends).then(|| code.to_owned())
    })
}

#[test]
fn every_error_code_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    for room in std::fs::read_dir(root.join("crates")).unwrap().flatten() {
        files(&room.path().join("src"), "rs", &mut sources);
    }
    let used: BTreeSet<_> = sources
        .iter()
        .flat_map(|p| codes(&std::fs::read_to_string(p).unwrap()).collect::<Vec<_>>())
        .collect();
    assert!(used.len() > 20, "only {used:?}");
    let mut docs = Vec::new();
    files(&root.join("docs"), "md", &mut docs);
    let mut explained = BTreeSet::new();
    for line in docs.iter().flat_map(|p| {
        std::fs::read_to_string(p).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    }) {
        if let Some(code) = line.strip_prefix("| PM").and_then(|rest| rest.get(..4)) {
            assert!(explained.insert(format!("PM{code}")), "PM{code} is explained twice");
        }
    }
    let missing: Vec<_> = used.difference(&explained).collect();
    assert!(missing.is_empty(), "not explained in docs/: {missing:?}");
    let stale: Vec<_> = explained.difference(&used).collect();
    assert!(stale.is_empty(), "explained in docs/ but not used: {stale:?}");
}
