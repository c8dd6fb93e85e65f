//! The rooms that decide have no sockets, no clock and no runtime: that is what lets simulations
//! drive them and bug reports be replayed.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const PURE: &[&str] = &["pointsman-wire", "pointsman-sql", "pointsman-session", "pointsman-vrrp"];
const FORBIDDEN_CRATES: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "nix",
    "async-std",
    "smol",
    "polling",
    "hyper",
    "mysql_async",
    "chrono",
    "time",
];
const FORBIDDEN_WORDS: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::process",
    "std::thread",
];
/// Addresses are values, not sockets; durations are values, not clocks.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "std::net::",
        &[
            "IpAddr",
            "Ipv4Addr",
            "Ipv6Addr",
            "SocketAddr",
            "SocketAddrV4",
            "SocketAddrV6",
            "AddrParseError",
        ],
    ),
    ("std::time::", &["Duration"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args(["metadata", "--format-version=1", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn pure_crates_depend_on_nothing_that_does_io_or_knows_the_time() {
    let metadata = metadata();
    let array = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let names: BTreeMap<String, String> =
        array(&metadata["packages"]).iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
    // What a package needs to be built and used; not what its own tests need.
    let needs: BTreeMap<String, Vec<String>> = array(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let normal = array(&node["deps"])
                .into_iter()
                .filter(|dep| array(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()));
            (text(&node["id"]), normal.map(|dep| text(&dep["pkg"])).collect())
        })
        .collect();
    let mut found = 0;
    for (id, name) in names.iter().filter(|(_, name)| PURE.contains(&name.as_str())) {
        found += 1;
        let (mut seen, mut queue) = (BTreeSet::new(), vec![id]);
        while let Some(next) = queue.pop() {
            if seen.insert(next) {
                queue.extend(&needs[next]);
            }
        }
        let all: BTreeSet<_> = seen.iter().map(|id| names[*id].as_str()).collect();
        for forbidden in FORBIDDEN_CRATES {
            assert!(
                !all.contains(forbidden),
                "{name} is pure and has come to depend on {forbidden}"
            );
        }
    }
    assert_eq!(found, PURE.len(), "a pure crate is missing");
}

#[test]
fn pure_crates_name_no_socket_and_no_clock() {
    for name in PURE {
        let dir = root().join("crates").join(name.trim_start_matches("pointsman-")).join("src");
        let mut files = Vec::new();
        sources(&dir, &mut files);
        assert!(!files.is_empty(), "no sources in {}", dir.display());
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for (number, line) in code(&text) {
                let place = format!("{}:{number}: {line}", file.display());
                for word in FORBIDDEN_WORDS {
                    assert!(!has_word(line, word), "{word} in a pure crate: {place}");
                }
                for (module, allowed) in ALLOWED {
                    for rest in line.split(module).skip(1) {
                        for item in imported(rest) {
                            assert!(
                                allowed.contains(&item),
                                "{module}{item} in a pure crate: {place}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The names after `std::net::`: one, or several in braces.
fn imported(rest: &str) -> Vec<&str> {
    let part = |c: char| !c.is_alphanumeric() && c != '_';
    match rest.strip_prefix('{') {
        Some(list) => {
            let list = list.split('}').next().unwrap_or(list);
            list.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
        }
        None => rest.split(part).take(1).collect(),
    }
}

/// Whether `word` stands in `line` by itself, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part(before) && !part(after)
    })
}

/// Lines of code with their numbers: no comments, nothing from the tests at the end of the file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    let lines = lines.take_while(|(_, line)| !line.contains("#[cfg(test)]"));
    lines.map(|(i, line)| (i + 1, line.split("//").next().unwrap_or(line)))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}
