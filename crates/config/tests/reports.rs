//! What a person sees who made a mistake.

#![allow(clippy::unwrap_used)]

use pointsman_config::ProxyConfig;

const GOOD: &str = r#"
[[listener]]
address = "0.0.0.0:3306"

[[server]]
name = "db1"
address = "192.168.4.11:3306"

[[server]]
name = "db2"
address = "192.168.4.22:3306"

[monitor]
user = "pointsman"
password = "hunter2"
"#;

/// The lines of the report on `text`.
fn wrong(text: &str) -> Vec<String> {
    match ProxyConfig::parse("proxy.toml", text) {
        Ok(_) => panic!("taken for right:\n{text}"),
        Err(report) => {
            let drawn = report.to_string();
            assert!(!drawn.contains("hunter2"), "a secret was drawn:\n{drawn}");
            report.lines()
        }
    }
}

/// The report after one replacement in [`GOOD`].
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from));
    wrong(&GOOD.replacen(from, to, 1))
}

#[test]
fn a_misspelt_key_is_shown_in_its_place() {
    let text = GOOD.replacen("address = \"192", "adress = \"192", 1);
    let report = ProxyConfig::parse("proxy.toml", &text).unwrap_err();
    insta::assert_snapshot!(report, @r#"
      × [[server]] needs `address`
       ╭─[proxy.toml:5:1]
     4 │ 
     5 │ [[server]]
       · ─────┬────
       ·      ╰── no `address` in here
     6 │ name = "db1"
       ╰────
      help: add address = "192.168.4.11:3306"

      × unknown key `adress` in [[server]]
       ╭─[proxy.toml:7:1]
     6 │ name = "db1"
     7 │ adress = "192.168.4.11:3306"
       · ───┬──
       ·    ╰── did you mean `address`?
     8 │ 
       ╰────
      help: known here: name, address, weight, promote, tls, proxy_protocol
    "#);
}

#[test]
fn secrets_are_never_drawn() {
    let text = GOOD.replacen("password = ", "pasword = ", 1);
    let report = ProxyConfig::parse("proxy.toml", &text).unwrap_err();
    let drawn = report.to_string();
    assert!(drawn.contains("did you mean `password`?"), "{drawn}");
    assert!(!drawn.contains("hunter2"), "{drawn}");
    assert!(!format!("{report:?}").contains("hunter2"));
    // Nor when the file does not even parse.
    wrong(&GOOD.replacen("\"hunter2\"", "\"hunter2", 1));
    wrong(&GOOD.replacen("\"hunter2\"", "hunter2", 1));
    wrong(&format!("{GOOD}\nx = "));
    let (config, _) = ProxyConfig::parse("proxy.toml", GOOD).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn everything_is_said_at_once() {
    let lines = wrong(
        "wrokers = 2\n[[listener]]\naddress = \"0.0.0.0\"\n[[server]]\nname = \"a b\"\n\
         address = \"db1\"\nweight = 101\n[monitor]\ninterval = 250\npassword = 7\n\
         [routing]\nconsistency = \"casual\"\nmax_lag = \"0s\"\n",
    );
    assert_eq!(
        lines,
        [
            "proxy.toml:1:1: unknown key `wrokers` in the file",
            "proxy.toml:3:11: `address` is no address to listen on",
            "proxy.toml:5:8: a server's name is 1 to 64 letters, digits, dots, dashes or underscores",
            "proxy.toml:6:11: `address` is no host and port",
            "proxy.toml:7:10: 101 is too much: at most 100",
            "proxy.toml:8:1: [monitor] needs `user`",
            "proxy.toml:9:12: `interval` is no duration",
            "proxy.toml:10:12: `password` must be a secret, not a whole number",
            "proxy.toml:12:15: `consistency` can't be \"casual\"",
            "proxy.toml:13:11: must be longer than zero",
        ]
    );
}

#[test]
fn an_empty_file_says_what_to_write() {
    let report = ProxyConfig::parse("proxy.toml", "").unwrap_err();
    insta::assert_snapshot!(report, @r#"
      × proxy.toml: no [[listener]]: nothing could connect
      help: add:  [[listener]]
                  address = "0.0.0.0:3306"

      × proxy.toml: no [[server]]: there is no database to send statements to
      help: add:  [[server]]
                  name = "db1"
                  address = "192.168.4.11:3306"

      × proxy.toml: no [monitor]: the servers can't be watched
      help: add:  [monitor]
                  user = "pointsman"
                  password = { env = "POINTSMAN_PASSWORD" }
    "#);
}

#[test]
fn names_and_addresses_are_given_once() {
    let twice = |lines: Vec<String>, what: &str| {
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(what), "{lines:?}");
    };
    twice(changed("\"db2\"", "\"db1\""), "two servers are called \"db1\"");
    twice(changed("4.22", "4.11"), "server \"db1\" has this address already");
    twice(
        wrong(&format!("{GOOD}[[listener]]\naddress = \"127.0.0.1:3306\"\n")),
        "127.0.0.1:3306 is taken: [[listener]] listens there",
    );
    twice(
        wrong(&format!("{GOOD}[console]\naddress = \"127.0.0.1:8989\"\n")),
        "127.0.0.1:8989 is taken: [admin] listens there",
    );
    twice(changed("0.0.0.0:3306", "127.0.0.1:8989"), "[admin] would listen on 127.0.0.1:8989");
    twice(changed("192.168.4.22:3306", "127.0.0.1:3306"), "the proxy's own [[listener]]");
}

#[test]
fn what_is_open_to_the_world_is_guarded() {
    let off = format!("{GOOD}[admin]\naddress = \"0.0.0.0:8989\"\n");
    assert!(wrong(&off)[0].contains("needs a token"));
    ProxyConfig::parse("x", &format!("{off}token = \"t\"\n")).unwrap();
    assert!(
        wrong(&format!("{GOOD}[console]\naddress = \"0.0.0.0:8990\"\n"))[0].contains("loopback")
    );
}

#[test]
fn the_console_can_be_off() {
    let (config, _) =
        ProxyConfig::parse("x", &format!("{GOOD}[console]\naddress = \"\"\n")).unwrap();
    assert_eq!(config.console.address, None);
}

#[test]
fn secrets_come_from_files_and_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let from_file = GOOD.replacen("\"hunter2\"", &format!("{{ file = {file:?} }}"), 1);
    let (config, warnings) = ProxyConfig::parse("x", &from_file).unwrap();
    assert_eq!(config.monitor.password.expose(), "s3cret");
    assert!(warnings[0].line().contains("every user of this host can read"), "{warnings:?}");

    let (config, _) =
        ProxyConfig::parse("x", &GOOD.replacen("\"hunter2\"", "{ env = \"CARGO_PKG_NAME\" }", 1))
            .unwrap();
    assert_eq!(config.monitor.password.expose(), "pointsman-config");

    let line = &changed("\"hunter2\"", "{ env = \"NO_SUCH_VARIABLE\" }")[0];
    assert_eq!(line, "proxy.toml:15:20: the environment variable NO_SUCH_VARIABLE is not set");
    assert!(changed("\"hunter2\"", "{ file = \"/no/such\" }")[0].contains("can't read /no/such"));
    assert!(changed("\"hunter2\"", "{ }")[0].contains("either env or file"));
}

#[test]
fn a_secret_in_an_open_file_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.toml");
    std::fs::write(&path, GOOD).unwrap();
    let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let (_, warnings) = ProxyConfig::load(&path).unwrap();
    assert!(warnings[0].line().contains("every user of this host can read it"), "{warnings:?}");
    mode(0o640);
    assert!(ProxyConfig::load(&path).unwrap().1.is_empty());
    assert!(ProxyConfig::load(dir.path().join("none")).is_err());
}

#[test]
fn addresses_are_told_from_what_only_looks_like_one() {
    for bad in ["db1", "db1:", ":3306", "db1:0", "db1:99999", "::1", "::1:3306", "[::1]", "/run/x"]
    {
        let lines = changed("192.168.4.22:3306", bad);
        assert_eq!(lines, ["proxy.toml:11:11: `address` is no host and port"], "{bad}");
    }
    for good in ["db1:3306", "db-1.example.net:1", "[fd00::1]:3306"] {
        ProxyConfig::parse("x", &GOOD.replacen("192.168.4.22:3306", good, 1)).unwrap();
    }
}

#[test]
fn brackets_are_explained() {
    let text = GOOD.replace("[[listener]]", "[listener]");
    let report = ProxyConfig::parse("x", &text).unwrap_err();
    assert!(report.to_string().contains("write [[listener]]"), "{report}");
    let report = ProxyConfig::parse("x", &GOOD.replace("[monitor]", "[[monitor]]")).unwrap_err();
    assert!(report.to_string().contains("write [monitor]"), "{report}");
}

proptest::proptest! {
    /// No text makes the reader or the drawing panic, and no secret is ever drawn.
    #[test]
    fn any_text_is_read_or_reported(text in "(?s).{0,300}") {
        if let Err(report) = ProxyConfig::parse("x", &text) {
            let _ = report.to_string();
            let _ = report.lines();
        }
    }

    /// The same for files that are nearly right: bytes of a good one deleted or put in.
    #[test]
    fn a_damaged_file_is_read_or_reported(
        at in 0usize..GOOD.len(), gone in 0usize..6, more in "[\\[\\]\"'={}#a-z0-9.\\n é]{0,4}",
    ) {
        let end = (at + gone).min(GOOD.len());
        // The secret itself stays whole, else there is nothing to look for.
        let secret = GOOD.find("hunter2").unwrap();
        proptest::prop_assume!(end <= secret || at >= secret + "hunter2".len());
        let text = format!("{}{more}{}", &GOOD[..at], &GOOD[end..]);
        if let Err(report) = ProxyConfig::parse("x", &text) {
            let key_intact = text.contains("password = \"hunter2");
            let drawn = report.to_string();
            proptest::prop_assert!(!key_intact || !drawn.contains("hunter2"), "{}", drawn);
        }
    }
}

#[test]
fn tls_that_can_not_be() {
    let me = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let listener =
        |tls: &str| changed("3306\"\n\n[[server]]", &format!("3306\"\ntls = {tls}\n\n[[server]]"));
    assert_eq!(
        listener(&format!("{{ certificate = \"{me}\" }}")),
        ["proxy.toml:4:7: `certificate` without `key`"]
    );
    assert_eq!(
        listener("{ certificate = \"/nowhere\", key = \"/nowhere\" }")[0],
        "proxy.toml:4:23: can't read /nowhere: No such file or directory (os error 2)"
    );
    assert_eq!(
        listener(&format!("{{ mode = \"disabled\", client_ca = \"{me}\" }}")),
        ["proxy.toml:4:40: `client_ca` where TLS is disabled: no client could show a certificate"]
    );
    assert_eq!(
        wrong(&format!("{GOOD}[tls]\nmode = \"verify_ca\"\n")),
        ["proxy.toml:17:8: servers can't be verified without `ca`"]
    );
    assert_eq!(
        wrong(&format!("{GOOD}[tls]\nmode = \"verified\"\n")),
        ["proxy.toml:17:8: `mode` can't be \"verified\""]
    );
    assert_eq!(
        changed("3306\"\n\n[[server]]", "3306\"\nproxy_protocol = [\"lan\"]\n\n[[server]]"),
        ["proxy.toml:4:19: \"lan\" is no network"]
    );
}

#[test]
fn one_servers_tls_has_what_it_does_not_say_from_all_servers() {
    let me = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let text = GOOD.replacen("11:3306\"", "11:3306\"\ntls = { mode = \"verify_identity\" }", 1);
    let text = format!("{text}[tls]\nmode = \"required\"\nca = \"{me}\"\n");
    let (config, _) = ProxyConfig::parse("proxy.toml", &text).unwrap();
    let tls: Vec<_> = config.servers.iter().map(|s| (s.tls.mode, s.tls.ca.is_some())).collect();
    use pointsman_config::tls::ServerTlsMode::{Required, VerifyIdentity};
    assert_eq!(tls, [(VerifyIdentity, true), (Required, true)]);
}
