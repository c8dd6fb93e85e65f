//! `keepalived -t` beside our reader: over every sample configuration that Debian's package ships
//! and those of `tests/corpus`. Both accept the same files, and what one warns of the other does,
//! line by line, but for differences that are explained here.
//!
//! Skips, saying so, where keepalived is not installed or namespaces can't be made.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::able;

/// Messages of keepalived that we have no counterpart for, and why.
const THEIRS: &[(&str, &str)] = &[
    ("not tracking", "we don't watch virtual routes"),
    ("script_security", "we look at each script, and say which"),
    ("SECURITY VIOLATION", "we look at each script, and say which"),
    ("is deprecated", "the word does what it did"),
    ("Please use", "the second half of a message"),
    ("protocol specified for fwmark", "it is as well for us"),
    ("incompatible with AH", "the whole authentication type is told of, not what follows from it"),
    ("has no preference", "virtual rules are told of as a whole"),
    ("invalid IP 192.168", "virtual rules are told of as a whole"),
    ("Invalid rule", "virtual rules are told of as a whole"),
    ("no protocol set", "TCP, as keepalived.conf(5) says"),
    ("has port specified - port will be ignored", "as it is"),
    ("ports don't match", "direct routing keeps the port: the data plane says so"),
    ("exceeds total weight", "the quorum is what the file says"),
    ("hysteresis", "the hysteresis is what the file says"),
    ("Unknown keyword '}'", "what follows from a block it does not know"),
    ("Unexpected '{'", "what follows from a block it does not know"),
    ("Sync group", "a sync group without members is told of by the members it misses"),
    ("No script set for", "keepalived says so of the line that ends the block"),
    ("not found, ignoring", "keepalived says so of the line in the block"),
    ("no scheduler set", "what follows from a wrong word, which was told of"),
    ("no password given", "it reads one word of a line, we read all"),
    ("due to SYNC group", "weights count for members of a group too"),
];

/// Words of ours.
const EXTENSIONS: &[&str] = &[
    "data_plane",
    "flow_sync",
    "flow_sync_secret",
    "slow_start",
    "rise",
    "MYSQL_CHECK",
    "user",
    "password",
    "role",
    "max_lag",
];

/// Messages of ours that keepalived has no counterpart for, and why.
const OURS: &[(&str, &str)] = &[
    ("is not supported", "keepalived does it, we don't"),
    ("this route can't be made", "keepalived does it, we don't"),
    ("scripts run as root", "keepalived says so once, without a line"),
    ("is not defined: not tracked", "keepalived says so of the line in the block"),
    ("has no script: ignored", "keepalived says so of the line that ends the block"),
    ("has no virtual_ipaddress", "keepalived says nothing"),
    ("preempt_delay has no effect", "keepalived says nothing"),
    ("after a tracked name has no meaning", "keepalived says nothing"),
    ("as keepalived, `state` is ignored", "keepalived says nothing"),
    ("only the first 8 characters", "keepalived truncates in silence"),
    ("VRRP version 3 has no authentication", "keepalived says nothing"),
];

#[derive(Default)]
struct Said {
    accepted: bool,
    /// By line; 0 where none is named.
    lines: BTreeMap<usize, BTreeSet<String>>,
}

impl Said {
    fn unknown(&self, quote: char) -> BTreeSet<(usize, String)> {
        let words = self.lines.iter().flat_map(|(line, all)| all.iter().map(move |m| (*line, m)));
        words
            .filter(|(_, m)| m.to_lowercase().starts_with("unknown keyword"))
            .filter_map(|(line, m)| Some((line, m.split(quote).nth(1)?.to_owned())))
            .collect()
    }
}

/// Hosts have the interfaces the samples speak of.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let name = format!("pmd-oracle-{}", std::process::id());
        let ip = |args: &[&str]| {
            let out = Command::new("ip").args(args).output().unwrap();
            assert!(out.status.success(), "ip {args:?}");
        };
        ip(&["netns", "add", &name]);
        for (i, link) in ["eth0", "eth1", "eth2", "eth3", "eth4", "eth0.1"].iter().enumerate() {
            let peer = format!("peer{i}");
            ip(&["-n", &name, "link", "add", link, "type", "veth", "peer", "name", &peer]);
        }
        ip(&["-n", &name, "addr", "add", "192.168.200.5/24", "dev", "eth0"]);
        Self(name)
    }

    fn keepalived(&self, path: &Path) -> Said {
        let out = Command::new("ip")
            .args(["netns", "exec", &self.0, "keepalived", "-t", "-f"])
            .arg(path)
            .output()
            .unwrap();
        let text = [out.stdout, out.stderr].concat();
        let mut said = Said { accepted: true, ..Said::default() };
        for line in String::from_utf8_lossy(&text).lines().filter(|l| !l.trim().is_empty()) {
            let numbered = line.strip_prefix('(').and_then(|rest| {
                let (place, message) = rest.split_once(") ")?;
                Some((place.rsplit_once("Line ")?.1.parse().ok()?, message.trim()))
            });
            let (number, message) = numbered.unwrap_or((0, line.trim()));
            said.lines.entry(number).or_default().insert(message.to_owned());
            // Its exit code is 5 for a warning as well: what it can't run it says so.
            said.accepted &= !message.contains("is too large") && !message.contains("terminating");
        }
        said
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ours(path: &Path) -> Said {
    let mut said = Said::default();
    let Ok((config, warnings)) = pointsman_director::config::load(path) else { return said };
    said.accepted = true;
    // And our own TOML says the same.
    let toml = pointsman_director::config::to_toml(&config);
    match pointsman_director::config::parse("imported.toml", &toml) {
        Ok((again, _)) => assert_eq!(again, config, "{}:\n{toml}", path.display()),
        Err(errors) => panic!("{}:\n{errors}\n{toml}", path.display()),
    }
    for warning in warnings {
        let line = warning.line();
        let number = line.rsplit_once(": ").and_then(|_| {
            let rest = line.strip_prefix(path.to_str()?)?.strip_prefix(':')?;
            rest.split(':').next()?.parse().ok()
        });
        let message = warning.problem().message.clone();
        said.lines.entry(number.unwrap_or(0)).or_default().insert(message);
    }
    said
}

fn files() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in [Path::new("/usr/share/doc/keepalived/samples"), &here.join("tests/corpus")] {
        files.extend(std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()));
    }
    files.retain(|p| p.file_name().unwrap().to_string_lossy().contains(".conf"));
    for name in ["keepalived-88.conf", "keepalived-99.conf"] {
        let site = here.join("../../config/site");
        files.extend([site.join(name), site.join("checked").join(name)]);
    }
    files.sort();
    files
}

#[test]
fn both_accept_and_warn_alike() {
    if !able(&["keepalived"]) {
        return;
    }
    let namespace = Namespace::new();
    let files = files();
    let mut differ = Vec::new();
    let mut explained = BTreeMap::<&str, usize>::new();
    let mut same = 0;
    for path in &files {
        let (theirs, ours) = (namespace.keepalived(path), ours(path));
        let name = path.file_name().unwrap().to_string_lossy();
        if theirs.accepted != ours.accepted {
            differ.push(format!(
                "{name}: accepted {} by keepalived, {} by us",
                theirs.accepted, ours.accepted
            ));
            continue;
        }
        let mut unknown = theirs.unknown('\'');
        unknown.retain(|(_, word)| !EXTENSIONS.contains(&word.as_str()) && word != "}");
        if unknown != ours.unknown('`') {
            differ.push(format!("{name}: unknown words {unknown:?}, ours {:?}", ours.unknown('`')));
        }
        let mut compare = |a: &Said,
                           b: &Said,
                           table: &[(&'static str, &'static str)],
                           who: &str| {
            for (line, messages) in &a.lines {
                for message in messages {
                    let is_extension =
                        EXTENSIONS.iter().any(|w| message.contains(&format!("'{w}'")));
                    if (*line > 0 && b.lines.contains_key(line)) || is_extension {
                        same += 1;
                    } else if let Some((_, why)) = table.iter().find(|(m, _)| message.contains(m)) {
                        *explained.entry(why).or_default() += 1;
                    } else {
                        differ.push(format!("{name}:{line}: only {who}: {message}"));
                    }
                }
            }
        };
        compare(&theirs, &ours, THEIRS, "keepalived");
        compare(&ours, &theirs, OURS, "Pointsman");
    }
    println!("{} files, {same} warnings of both", files.len());
    for (why, count) in &explained {
        println!("{count:4} of one: {why}");
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
