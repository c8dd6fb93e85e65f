use std::time::Duration;

use pointsman_vrrp::Version;

use super::*;

const SITE_88: &str = include_str!("../../../../config/site/keepalived-88.conf");
const SITE_99: &str = include_str!("../../../../config/site/keepalived-99.conf");

fn good(text: &str) -> (DirectorConfig, Vec<String>) {
    let (config, warnings) =
        parse_keepalived("keepalived.conf", text, &lexer::tests::Memory::default()).unwrap();
    same_as_toml(&config);
    (config, warnings.iter().map(Warning::line).collect())
}

/// Our TOML says the same.
fn same_as_toml(config: &DirectorConfig) -> String {
    let text = to_toml(config);
    match parse_toml_alone("imported.toml", &text) {
        Ok((again, _)) => assert_eq!(again, *config, "{text}"),
        Err(errors) => panic!("{errors}\n{text}"),
    }
    text
}

fn bad(text: &str) -> Vec<String> {
    let errors = parse_keepalived("keepalived.conf", text, &lexer::tests::Memory::default());
    errors.unwrap_err().reports().iter().flat_map(Report::lines).collect()
}

#[test]
fn the_reference_sites_files_load_unchanged() {
    for (text, priority) in [(SITE_88, 150), (SITE_99, 100)] {
        let (config, warnings) = good(text);
        let vi = &config.vrrp[0];
        assert_eq!((vi.name.as_str(), vi.interface.as_str()), ("VI_1", "eth0"));
        assert_eq!((vi.virtual_router_id, vi.priority, vi.version), (51, priority, Version::V2));
        assert_eq!(vi.auth_pass.as_ref().map(|p| p.expose()), Some("1111"));
        assert_eq!(vi.virtual_ipaddress[0].address.to_string(), "192.168.4.253");
        assert_eq!(vi.virtual_ipaddress[0].prefix, 32);
        let vs = &config.virtual_servers[0];
        assert_eq!(vs.id, ServiceId::Vip("192.168.4.253:80".parse().unwrap()));
        assert_eq!((vs.lb_algo, vs.lb_kind), (Scheduler::Rr, Forwarding::Dr));
        let servers: Vec<_> = vs.real_servers.iter().map(|r| r.address.to_string()).collect();
        assert_eq!(servers, ["192.168.4.33:80", "192.168.4.44:80"]);
        // As `keepalived -t` says: lines 20 and 24.
        let short: Vec<_> =
            warnings.iter().map(|w| w.rsplit_once(" in ").map_or("", |(a, _)| a)).collect();
        assert_eq!(
            short,
            [
                "keepalived.conf:20:5: unknown keyword `nat_mask`",
                "keepalived.conf:24:5: unknown keyword `nb_get_retry`"
            ]
        );
    }
}

#[test]
fn a_block_may_stand_on_one_line() {
    let (config, warnings) = good(
        "vrrp_instance A { state BACKUP interface eth0 virtual_router_id 7 priority 90 \
         authentication { auth_type PASS auth_pass 1111 } virtual_ipaddress { 10.0.0.9 10.0.0.10/24 dev eth1 } }",
    );
    assert_eq!(warnings, [] as [&str; 0]);
    let a = &config.vrrp[0];
    assert_eq!((a.virtual_router_id, a.priority, a.state_master), (7, 90, false));
    assert!(a.auth_pass.is_some());
    assert_eq!(a.virtual_ipaddress.len(), 2);
    assert_eq!(a.virtual_ipaddress[1].dev.as_deref(), Some("eth1"));
}

const REST: &str = "interface eth0\nvirtual_router_id 1\nvirtual_ipaddress {\n10.0.0.1\n}\n";

#[test]
fn what_an_instance_can_say() {
    let (config, warnings) = good(&format!(
        "global_defs {{\n vrrp_version 3\n vrrp_garp_master_repeat 2\n}}\n\
         vrrp_script chk {{\n script \"/bin/check 'a b'\"\n interval 0.5\n weight -20\n fall 3\n}}\n\
         vrrp_instance A {{\n {REST} advert_int 0.05\n nopreempt\n preempt_delay 3\n\
         unicast_src_ip 10.0.0.2\n unicast_peer {{\n 10.0.0.3\n 10.0.0.4 min_ttl 250\n }}\n\
         track_interface {{\n eth1\n eth2 weight 10\n }}\n track_script {{\n chk\n gone\n }}\n\
         notify_master \"/bin/n up\" joe\n garp_master_delay 1\n\
         virtual_ipaddress_excluded {{\n fe80::1/64 dev eth3 scope link\n }}\n}}\n"
    ));
    let a = &config.vrrp[0];
    assert_eq!((a.version, a.advert_int), (Version::V3, Duration::from_millis(50)));
    assert!(!a.preempt);
    assert_eq!((a.unicast_peer.len(), a.min_ttl), (2, 250));
    assert_eq!(a.tracking.interfaces[1].weight, Some(Weight { value: 10, reverse: false }));
    assert_eq!(a.tracking.scripts.len(), 1);
    assert_eq!((a.garp.repeat, a.garp.delay), (2, Duration::from_secs(1)));
    let notify = a.notify.master.as_ref().unwrap();
    assert_eq!(notify.command, ["/bin/n", "up"]);
    assert_eq!(notify.user.as_ref().unwrap().name, "joe");
    let excluded = &a.virtual_ipaddress_excluded[0];
    assert_eq!((excluded.prefix, excluded.scope), (64, 253));
    let script = &config.track_scripts[0];
    assert_eq!(script.script.command, ["/bin/check", "a b"]);
    assert_eq!((script.interval, script.weight.value), (Duration::from_millis(500), -20));
    assert_eq!(
        warnings.len(),
        3,
        "{warnings:?}: a script of root, preempt_delay with nopreempt, `gone`"
    );
}

#[test]
fn checks_take_their_timing_from_the_nearest_block() {
    let (config, warnings) = good(
        "virtual_server 10.0.0.1 80{\n delay_loop 6\n lb_kind DR\n connect_timeout 9\n\
         sorry_server 10.0.0.9 8080\n\
         real_server 10.0.0.2 80 {\n weight 3\n retry 7\n\
         TCP_CHECK {\n connect_timeout 2\n connect_port 8080\n nb_get_retry 4\n }\n\
         HTTP_GET {\n url {\n path /ok\n status_code 200 301-302\n digest 9b3a0c85a887a256d6939da88aabd8cd\n }\n }\n\
         MYSQL_CHECK {\n role replica\n max_lag 5\n user m\n password s\n }\n }\n}\n",
    );
    assert_eq!(warnings, [] as [&str; 0]);
    let vs = &config.virtual_servers[0];
    assert_eq!(vs.sorry_server, Some("10.0.0.9:8080".parse().unwrap()));
    let [tcp, http, mysql] = vs.real_servers[0].checks.as_slice() else { panic!() };
    assert_eq!(tcp.target.port(), 8080);
    assert_eq!((tcp.connect_timeout.as_secs(), tcp.retry), (2, 4));
    assert_eq!((http.connect_timeout.as_secs(), http.retry, http.delay_loop.as_secs()), (9, 7, 6));
    let CheckKind::Http { urls, tls: false, .. } = &http.kind else { panic!() };
    assert_eq!(urls[0].status_code, [(200, 200), (301, 302)]);
    assert!(matches!(
        &mysql.kind,
        CheckKind::Mysql { role: MysqlRole::Replica, max_lag: Some(l), .. } if l.as_secs() == 5
    ));
}

#[test]
fn an_unknown_block_is_skipped_as_a_whole() {
    let (config, warnings) = good(&format!(
        "vrrp_instance A {{\n {REST} bogus {{\n priority 3\n other {{\n x\n }}\n }}\n priority 77\n}}\n"
    ));
    assert_eq!(config.vrrp[0].priority, 77);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn groups_marks_and_ranges() {
    let (config, warnings) = good(
        "virtual_server_group G {\n 10.0.0.10-12 80\n fwmark 5\n}\n\
         virtual_server group G {\n real_server 10.0.0.2 80 {\n }\n}\n\
         virtual_server fwmark 3 {\n real_server 10.0.0.2 {\n }\n}\n\
         virtual_server group NONE {\n real_server 10.0.0.2 80 {\n }\n}\n",
    );
    assert_eq!(config.server_groups[0].vips.len(), 3);
    assert_eq!(config.server_groups[0].fwmarks, [5]);
    assert_eq!(config.virtual_servers.len(), 2);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn what_cannot_run_is_an_error_with_its_place() {
    let lines = bad("\nvrrp_instance A {\n virtual_router_id 1\n}\n");
    assert_eq!(lines, ["keepalived.conf:2:15: vrrp_instance A has no interface"]);
    let lines = bad(&format!("vrrp_instance A {{\n {REST} advert_int 0.5\n}}"));
    assert!(lines[0].contains("1 to 255 whole seconds"), "{lines:?}");
    let twice = format!("vrrp_instance A {{\n{REST}}}\nvrrp_instance B {{\n{REST}}}\n");
    assert!(bad(&twice)[0].contains("both use virtual_router_id 1"));
    assert!(bad("vrrp_instance A {\n").iter().any(|l| l.contains("never closed")));
}

#[test]
fn passwords_are_not_shown() {
    let text = format!(
        "vrrp_instance A {{\n{REST} authentication {{\n auth_pass topsecret bogus\n }}\n}}\n"
    );
    let (_, warnings) = parse_keepalived("k", &text, &lexer::tests::Memory::default()).unwrap();
    for warning in warnings {
        assert!(!warning.render(Style::default()).contains("topsecret"));
    }
}

#[test]
fn scripts_run_as_whom_the_file_says() {
    let users = |global: &str| {
        let (config, warnings) = good(&format!(
            "global_defs {{\n{global}\n}}\nvrrp_script a {{\n script /bin/a\n}}\n\
             vrrp_script b {{\n script /bin/b\n user joe staff\n}}\n\
             vrrp_instance A {{\n{REST} notify /bin/n\n}}\n\
             virtual_server 10.0.0.1 80 {{\n real_server 10.0.0.2 80 {{\n MISC_CHECK {{\n misc_path /bin/c\n }}\n }}\n}}\n"
        ));
        let mut config = config;
        let names: Vec<_> = config
            .scripts_mut()
            .into_iter()
            .map(|s| s.user.as_ref().map_or("root".to_owned(), |u| u.name.clone()))
            .collect();
        (names, warnings)
    };
    let (names, warnings) = users("script_user www");
    assert_eq!(names, ["www", "joe", "www", "www"]);
    assert_eq!(warnings, [] as [&str; 0]);
    let (names, warnings) = users("");
    assert_eq!(names, ["root", "joe", "root", "root"]);
    assert_eq!(warnings.len(), 1, "told once: {warnings:?}");
    assert!(warnings[0].starts_with("keepalived.conf:4:13: scripts run as root"), "{warnings:?}");
}

#[test]
fn root_does_not_run_what_others_may_change() {
    struct Careful;
    impl lexer::World for Careful {
        fn glob(&self, _: &Path) -> Vec<(std::path::PathBuf, Result<String, String>)> {
            Vec::new()
        }
        fn env(&self, _: &str) -> Option<String> {
            None
        }
        fn config_id(&self) -> String {
            String::new()
        }
        fn machine(&self) -> scripts::Machine {
            scripts::Machine {
                uid: |user| match user.name.as_str() {
                    "root" => Some(0),
                    "joe" => Some(1000),
                    _ => None,
                },
                changeable: |path| path.starts_with("/tmp").then(|| "/tmp".to_owned()),
            }
        }
    }
    let text = |security: &str, user: &str| {
        format!(
            "global_defs {{\n script_user root\n{security}\n}}\n\
             vrrp_script a {{\n script /tmp/a\n user {user}\n}}\n"
        )
    };
    let run = |security: &str, user: &str| {
        let (config, warnings) = parse_keepalived("k", &text(security, user), &Careful).unwrap();
        (config.track_scripts.len(), warnings.iter().map(Warning::line).collect::<Vec<_>>())
    };
    assert_eq!(run("", "root"), (1, vec![]));
    assert_eq!(run("enable_script_security", "joe"), (1, vec![]));
    let (scripts, warnings) = run("enable_script_security", "root");
    assert_eq!(scripts, 0);
    assert_eq!(warnings, ["k:5:13: others than root may change /tmp: script not run"]);
    let (scripts, warnings) = run("", "nobody-of-this-name");
    assert_eq!((scripts, warnings.len()), (0, 1));
}

#[test]
fn what_is_read_but_not_done_is_told() {
    let (_, warnings) = good(
        "global_defs {\n vrrp_rt_priority 50\n}\n\
         virtual_server 10.0.0.1 80 {\n persistence_engine sip\n\
         real_server 10.0.0.2 80 {\n uthreshold 9\n lthreshold 3\n\
         MYSQL_CHECK {\n role primary\n }\n }\n}\n",
    );
    let lines: Vec<_> = warnings.iter().map(|w| w.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["2", "5", "9"], "{warnings:?}");
}

#[test]
fn thresholds_and_granularity() {
    let (config, warnings) = good(
        "virtual_server 10.0.0.1 80 {\n persistence_granularity 255.255.255.0\n\
         real_server 10.0.0.2 80 {\n uthreshold 9\n lthreshold 3\n }\n}\n\
         virtual_server fd00::1 80 {\n persistence_granularity 64\n\
         real_server fd00::2 80 {\n }\n}\n",
    );
    assert!(warnings.is_empty(), "{warnings:?}");
    let [v4, v6] = &config.virtual_servers[..] else { panic!("{config:?}") };
    let prefixes = (v4.persistence_granularity, v6.persistence_granularity);
    assert_eq!(prefixes, (Some(24), Some(64)));
    let server = &v4.real_servers[0];
    assert_eq!((server.uthreshold, server.lthreshold), (9, 3));
    let odd = "virtual_server 10.0.0.1 80 {\n persistence_granularity 255.0.255.0\n\
               real_server 10.0.0.2 80 {\n }\n}\n";
    assert_eq!(good(odd).1.len(), 1);
}

#[test]
fn a_file_check_knows_its_file() {
    let (config, warnings) = good(
        "virtual_server 10.0.0.1 80 {\n real_server 10.0.0.2 80 {\n weight 9\n\
         FILE_CHECK {\n track_file f\n }\n FILE_CHECK {\n track_file f\n weight 0 reverse\n }\n\
         FILE_CHECK {\n track_file gone\n }\n }\n}\n\
         track_file f {\n file /run/f\n weight 2\n}\n",
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("track_file gone is not defined"));
    let kinds: Vec<_> =
        config.virtual_servers[0].real_servers[0].checks.iter().map(|c| &c.kind).collect();
    let file = |value, reverse| CheckKind::File {
        track_file: "f".into(),
        path: "/run/f".into(),
        weight: Some(Weight { value, reverse }),
        base: 9,
    };
    assert_eq!(kinds, [&file(2, false), &file(0, true)]);
}

#[test]
fn a_regex_or_a_name_that_cannot_be_used_is_told() {
    let http = |regex: &str| {
        format!(
            "virtual_server 10.0.0.1 80 {{\n real_server 10.0.0.2 80 {{\n HTTP_GET {{\n url {{\n path /\n regex \"{regex}\"\n }}\n }}\n }}\n}}\n"
        )
    };
    good(&http("a+b"));
    assert_eq!(bad(&http("a(?=b)")), ["keepalived.conf:6:8: `regex` can't be used"]);
    let (_, warnings) = good(
        "virtual_server 10.0.0.1 53 {\n real_server 10.0.0.2 53 {\n DNS_CHECK {\n type WHAT\n name a..b\n }\n }\n}\n",
    );
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

proptest::proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text in "[a-z0-9 .:/\n\"{}$@\\\\#!_-]{0,300}") {
        let _ = parse_keepalived("t.conf", &text, &lexer::tests::Memory::default());
    }

    #[test]
    fn any_order_of_real_keywords_is_taken_or_refused(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "vrrp_instance", "A", "{", "}", "\n", "interface", "eth0", "virtual_router_id", "7",
            "virtual_ipaddress", "10.0.0.1/24", "dev", "label", "scope", "priority", "notify_master",
            "\"/bin/x y\"", "virtual_server", "80", "real_server", "TCP_CHECK", "HTTP_GET", "url",
            "status_code", "200-299", "unicast_peer", "min_ttl", "track_script", "weight", "-20",
            "group", "vrrp_sync_group", "fwmark", "virtual_server_group", "10.0.0.1-9", "payload",
            "misc_path", "MISC_CHECK", "vrrp_script", "script", "interval", "0", "authentication",
        ]), 0..80),
    ) {
        let _ = parse_keepalived("t.conf", &words.join(" "), &lexer::tests::Memory::default());
    }
}

/// All that either reader knows.
const EVERYTHING: &str = include_str!("../../tests/corpus/everything.conf");

#[test]
fn everything_there_is_can_be_said_in_toml() {
    let (config, warnings) = good(EVERYTHING);
    let unasked: Vec<_> = warnings.iter().filter(|w| !w.contains("keepalived_script")).collect();
    assert_eq!(unasked, [] as [&String; 0]);
    let text = same_as_toml(&config);
    for key in [
        "virtual_routes",
        "use_vmac = true",
        "vmac_name",
        "unicast_peer",
        "min_ttl",
        "weight -20 reverse",
        "[[vrrp_track_process]]",
        "[[vrrp_track_file]]",
        "sorry_server",
        "type = \"https\"",
        "type = \"dns\"",
        "type = \"smtp\"",
        "type = \"udp\"",
        "type = \"ping\"",
        "type = \"misc\"",
        "type = \"file\"",
        "type = \"mysql\"",
        "[[virtual_server_group]]",
        "rise = 3",
        "slow_start = \"30s\"",
        "regex = ",
        "digest = ",
        "fwmark",
        "lvs_flush = true",
        "lvs_on_stop = \"flush\"",
        "hash_port = true",
        "hash_fallback = true",
        "sorry_server_lvs_method = \"NAT\"",
        "quorum_down",
    ] {
        assert!(text.contains(key), "no {key} in\n{text}");
    }
}
