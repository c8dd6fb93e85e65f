//! Commands that need no daemon: check, explain, and wrong usage.

#![allow(clippy::unwrap_used)]

mod common;

use common::{RunExt, pointsman};

#[test]
fn check_says_all_that_is_wrong_and_exits_2() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.toml");
    std::fs::write(&bad, "[[listener]]\nadress = \"x\"\n").unwrap();
    let run = pointsman(&["check", bad.to_str().unwrap()]).run();
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("bad.toml:2:1"), "{}", run.err);
    assert!(run.err.contains("did you mean `address`?"), "{}", run.err);
    assert!(run.err.contains("no [monitor]"), "{}", run.err);
    assert_eq!(pointsman(&["check", "/no/such/file"]).run().code, Some(2));
    assert_eq!(pointsman(&["check"]).run().code, Some(2));
}

#[test]
fn check_is_content_with_the_samples() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config");
    for name in ["proxy.toml", "proxy.full.toml"] {
        let path = format!("{config}/{name}");
        let run = pointsman(&["check", &path]).env("POINTSMAN_PASSWORD", "x").run();
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
        assert!(run.out.ends_with(": ok (proxy configuration)\n"), "{}", run.out);
        let run = pointsman(&["check", &path]).env_remove("POINTSMAN_PASSWORD").run();
        assert!(
            run.code == Some(2) && run.err.contains("POINTSMAN_PASSWORD is not set"),
            "{run:?}"
        );
    }
}

#[test]
fn a_keepalived_conf_is_checked_line_by_line_and_imported() {
    let site = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/site/keepalived-88.conf");
    let run = pointsman(&["check", site]).run();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.out.ends_with(": ok (keepalived configuration, 2 warnings)\n"), "{}", run.out);
    for place in ["keepalived-88.conf:20:5", "keepalived-88.conf:24:5"] {
        assert!(run.err.contains(place), "{place}: {}", run.err);
    }
    let run = pointsman(&["import", site]).run();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.err.contains("keepalived-88.conf:20:5"), "{}", run.err);
    let dir = tempfile::tempdir().unwrap();
    let toml = dir.path().join("director.toml");
    std::fs::write(&toml, &run.out).unwrap();
    let run = pointsman(&["check", toml.to_str().unwrap()]).run();
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");

    // What is missing because it was wrong: both places are told.
    let broken = std::fs::read_to_string(site).unwrap();
    let broken = broken.replace("virtual_router_id 51", "virtual_router_id 0");
    let line = 1 + broken.lines().position(|l| l.contains("virtual_router_id 0")).unwrap();
    let path = dir.path().join("broken.conf");
    std::fs::write(&path, &broken).unwrap();
    for command in ["check", "import"] {
        let run = pointsman(&[command, path.to_str().unwrap()]).run();
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.err.contains("has no virtual_router_id"), "{}", run.err);
        assert!(run.err.contains(&format!("broken.conf:{line}:")), "{}", run.err);
    }
}

#[test]
fn a_proxy_with_a_broken_config_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("proxy.toml");
    std::fs::write(&bad, "nonsense\n").unwrap();
    let run = pointsman(&["proxy", "--config", bad.to_str().unwrap()]).run();
    assert!(run.code == Some(2) && run.err.contains("proxy.toml:1:"), "{run:?}");
}

#[test]
fn explain_says_where_and_why() {
    let run = pointsman(&["explain", "SELECT * FROM t FOR UPDATE"]).run();
    assert_eq!(run.code, Some(0));
    assert!(run.out.contains("the primary") && run.out.contains("[locking_read]"), "{}", run.out);
    let run = pointsman(&["explain", "--json", "SELECT a FROM s.t"]).run();
    let json: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(json["class"], "read");
    assert_eq!(json["route"], "any_replica");
    assert_eq!(json["tables"], serde_json::json!(["s.t"]));
    let run = pointsman(&["explain", "--server-version", "x", "SELECT 1"]).run();
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[test]
fn help_shows_what_there_is() {
    let run = pointsman(&["--help"]).run();
    assert_eq!(run.code, Some(0));
    for command in ["proxy", "check", "explain", "sandbox", "status", "drain", "reload"] {
        assert!(run.out.contains(&format!("\n  {command} ")), "{command}:\n{}", run.out);
    }
    for command in ["switchover", "failover", "rejoin"] {
        assert!(run.out.contains(&format!("\n  {command} ")), "{command}:\n{}", run.out);
    }
    assert!(!run.out.contains("completions"), "{}", run.out);
    assert_eq!(pointsman(&["nonsense"]).run().code, Some(2));
    assert_eq!(pointsman(&[]).run().code, Some(2));
    assert!(pointsman(&["completions", "bash"]).run().out.contains("pointsman"));
}
