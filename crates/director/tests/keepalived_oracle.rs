//! `keepalived -t` beside our reader over every sample configuration that Debian's package ships,
//! and a few of our own: the same words are unknown, on the same lines.
//!
//! Skips, saying so, where keepalived is not installed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unknown words as `line word`.
fn unknown_to_keepalived(path: &Path) -> BTreeSet<String> {
    let out = Command::new("keepalived").arg("-t").arg("-f").arg(path).output().unwrap();
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    text.lines()
        .filter_map(|line| {
            let (before, word) = line.split_once("Unknown keyword '")?;
            let number = before.rsplit_once("Line ")?.1.trim_end().trim_end_matches(')');
            Some(format!("{number} {}", word.trim_end_matches('\'')))
        })
        .collect()
}

fn unknown_to_us(path: &Path) -> BTreeSet<String> {
    let (_, warnings) = pointsman_director::config::load(path)
        .unwrap_or_else(|e| panic!("{}: refused\n{e}", path.display()));
    warnings
        .iter()
        .filter(|w| w.problem().message.starts_with("unknown keyword"))
        .filter_map(|w| {
            let line = w.line();
            let rest = line.strip_prefix(path.to_str()?)?.strip_prefix(':')?;
            let (number, rest) = rest.split_once(':')?;
            let word = rest.split('`').nth(1)?;
            Some(format!("{number} {word}"))
        })
        .collect()
}

#[test]
fn the_same_words_are_unknown() {
    if Command::new("keepalived").arg("-v").output().is_err() {
        println!("skipped: keepalived is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut files: Vec<PathBuf> = std::fs::read_dir("/usr/share/doc/keepalived/samples")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("keepalived.conf"))
        .collect();
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/site");
    for name in ["keepalived-88.conf", "keepalived-99.conf"] {
        files.extend([site.join(name), site.join("checked").join(name)]);
    }
    for (i, text) in OURS.iter().enumerate() {
        let path = dir.path().join(format!("ours-{i}.conf"));
        std::fs::write(&path, text).unwrap();
        files.push(path);
    }
    files.sort();
    let mut differ = Vec::new();
    for path in &files {
        let (theirs, ours) = (unknown_to_keepalived(path), unknown_to_us(path));
        if theirs != ours {
            differ.push(format!("{}: keepalived {theirs:?}, we {ours:?}", path.display()));
        }
    }
    println!("{} files compared", files.len());
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

const OURS: &[&str] = &[
    "global_defs {\n router_id A\n lvs_id x\n enable_script_security\n script_user root\n nonsense 1\n}\n",
    "vrrp_instance A {\n state BACKUP\n interface eth0\n virtual_router_id 1\n nopreempt\n\
     advert_int 1\n priority 90\n colour red\n virtual_ipaddress {\n 10.0.0.9/24 dev eth0 label eth0:1\n }\n}\n",
    "vrrp_script c {\n script \"/bin/true\"\n interval 2\n weight -4\n fall 2\n rise 2\n taste sweet\n}\n",
    "virtual_server 10.0.0.1 80 {\n delay_loop 3\n lb_algo wrr\n lb_kind DR\n protocol TCP\n\
     nat_mask 255.255.255.0\n nb_get_retry 3\n real_server 10.0.0.2 80 {\n weight 1\n\
     TCP_CHECK {\n connect_timeout 3\n retry 3\n delay_before_retry 3\n }\n }\n}\n",
    "! a comment\n# another\nvirtual_server 10.0.0.1 80 {\n lb_kind DR\n real_server 10.0.0.2 80 {\n\
     HTTP_GET {\n url {\n path /\n status_code 200\n }\n connect_port 80\n smell good\n }\n }\n}\n",
];
