//! What a running director is allowed to do, as the kernel tells it.
//!
//! Skips, saying so, where it is not root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::time::Duration;

use lab::{Daemon, Lab, VIP, able, eventually};

const NET_ADMIN_RAW_BPF: u64 = 1 << 12 | 1 << 13 | 1 << 39;
const SETUID_SETGID_KILL: u64 = 1 << 7 | 1 << 6 | 1 << 5;

fn status(path: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

/// Of all threads of the director and of its guard.
fn everybody(director: &Daemon) -> Vec<String> {
    let pid = director.child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let all = children.split_whitespace().map(str::to_owned).chain([pid.to_string()]);
    all.flat_map(|pid| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads.map(|t| format!("{}/status", t.unwrap().path().display())).collect::<Vec<_>>()
    })
    .collect()
}

fn site() -> Option<Lab> {
    if !able(&[]) {
        return None;
    }
    Some(Lab::new(&[254, 88, 33]))
}

/// `global` goes into global_defs, `real` into the real server.
fn config(global: &str, notify: &str, real: &str) -> String {
    format!(
        "global_defs {{\n vrrp_version 3\n {global}\n}}\n\
         vrrp_instance V {{\n interface eth0\n virtual_router_id 9\n advert_int 0.1\n {notify}\n\
         virtual_ipaddress {{\n {VIP}\n }}\n}}\n\
         virtual_server {VIP} 80 {{\n lb_algo rr\n lb_kind DR\n\
         real_server 192.168.4.33 80 {{\n weight 1\n {real}\n }}\n}}\n"
    )
}

fn run(lab: &Lab, config: &str) -> Daemon {
    let director = lab.director(88, config);
    let ready = || lab.holds(88, VIP) && lab.metric(88, &["current_connections"]).is_some();
    assert!(eventually(Duration::from_secs(10), ready), "{}", director.log());
    director
}

#[test]
fn the_network_and_its_tables_are_all_it_keeps() {
    let Some(lab) = site() else { return };
    let check = "TCP_CHECK {\n connect_timeout 1\n delay_loop 0.2\n }\n PING_CHECK {\n }";
    let director = run(&lab, &config("", "", check));
    let all = everybody(&director);
    assert!(all.len() > 3, "the guard, and threads for checks: {all:?}");
    for who in all {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(status(&who, set), NET_ADMIN_RAW_BPF, "{who} {set}");
        }
        assert_eq!((status(&who, "CapInh"), status(&who, "CapAmb")), (0, 0), "{who}");
        assert_eq!(status(&who, "NoNewPrivs"), 1, "{who}");
    }
    // A script after all: there is no way back to what was given up.
    let scripted = config("script_user nobody", "notify_master /bin/true", check);
    lab.write("director-88.conf", &scripted);
    director.signal(libc::SIGHUP);
    let refused = || director.log().contains("gave up at its start");
    assert!(eventually(Duration::from_secs(5), refused), "{}", director.log());
}

/// Until it has a data plane it may load one; but for that moment, not even then.
#[test]
fn without_virtual_servers_it_could_load_what_the_first_one_takes() {
    const PERFMON: u64 = 1 << 38;
    let Some(lab) = site() else { return };
    let both = config("", "", "");
    let alone = &both[..both.find("virtual_server ").unwrap()];
    let director = lab.director(88, alone);
    let own = director.child.id().to_string();
    let of_daemon = |who: &String| who.starts_with(&format!("/proc/{own}/"));
    assert!(eventually(Duration::from_secs(10), || lab.holds(88, VIP)), "{}", director.log());
    let sets = |who: &str| ["CapEff", "CapPrm", "CapBnd"].map(|set| status(who, set));
    let bare = NET_ADMIN_RAW_BPF;
    let all = everybody(&director);
    let (daemon, guard): (Vec<_>, Vec<_>) = all.into_iter().partition(of_daemon);
    assert!(!guard.is_empty() && guard.iter().all(|who| sets(who) == [bare; 3]), "{guard:?}");
    assert!(daemon.iter().all(|who| sets(who) == [bare, bare | PERFMON, bare]), "{daemon:?}");

    lab.write("director-88.conf", &both);
    director.signal(libc::SIGHUP);
    let loaded = || director.log().contains("1 virtual servers");
    assert!(eventually(Duration::from_secs(10), loaded), "{}", director.log());
    assert_eq!(sets(&format!("/proc/{own}/task/{own}/status")), [bare; 3]);
}

/// As in a container of Docker 20.10, which has no other name for it.
#[test]
fn who_may_only_administer_the_system_keeps_that_for_its_tables() {
    const ADMIN: u64 = 1 << 12 | 1 << 13 | 1 << 21;
    let Some(lab) = site() else { return };
    if !lab::able(&["setpriv"]) {
        return;
    }
    let config = config("", "", "TCP_CHECK {\n connect_timeout 1\n delay_loop 0.2\n }");
    let director = lab.director_by(&["setpriv", "--bounding-set", "-bpf,-perfmon"], 88, &config);
    let ready = || lab.holds(88, VIP) && lab.metric(88, &["current_connections"]).is_some();
    assert!(eventually(Duration::from_secs(10), ready), "{}", director.log());
    assert!(!director.log().contains("data plane:"), "{}", director.log());
    for who in everybody(&director) {
        assert_eq!([status(&who, "CapEff"), status(&who, "CapPrm")], [ADMIN; 2], "{who}");
    }
}

#[test]
fn scripts_run_as_their_user() {
    let Some(lab) = site() else { return };
    // What a script is and may do, for the test to read.
    let seen = lab.dir.path().join("seen");
    std::fs::create_dir(&seen).unwrap();
    let everyone = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    std::fs::set_permissions(&seen, everyone.clone()).unwrap();
    std::fs::set_permissions(lab.dir.path(), everyone.clone()).unwrap();
    let script = lab.write(
        "who",
        &format!(
            "#!/bin/sh\ngrep -E '^(Uid|CapEff)' /proc/self/status > {0}/$1.new && \
             mv {0}/$1.new {0}/$1\n",
            seen.display()
        ),
    );
    std::fs::set_permissions(&script, everyone).unwrap();
    let script = script.display();
    let told = |name: &str| std::fs::read_to_string(seen.join(name)).unwrap_or_default();
    let told_in_time = |name: &str, director: &Daemon| {
        let there = || !told(name).is_empty();
        assert!(eventually(Duration::from_secs(5), there), "{name}: {}", director.log());
        told(name)
    };

    let notify = format!("notify_master \"{script} notify\"");
    let check = format!("MISC_CHECK {{\n misc_path \"{script} check\"\n delay_loop 0.2\n }}");
    let director = run(&lab, &config("script_user nobody", &notify, &check));
    for name in ["notify", "check"] {
        let text = told_in_time(name, &director);
        assert!(text.contains("Uid:\t65534\t65534") && text.contains("0000000000000000"), "{text}");
    }
    let own = format!("/proc/{}/status", director.child.id());
    let kept = NET_ADMIN_RAW_BPF | SETUID_SETGID_KILL;
    assert_eq!((status(&own, "CapEff"), status(&own, "CapBnd")), (kept, kept));
    drop(director);

    // A script of root has what every program of root has; the director has not.
    let all = status("/proc/self/status", "CapBnd");
    let notify = format!("notify_master \"{script} root\"");
    let director = run(&lab, &config("script_user root", &notify, ""));
    let text = told_in_time("root", &director);
    assert!(text.contains("Uid:\t0\t") && text.contains(&format!("{all:016x}")), "{text}");
    let own = format!("/proc/{}/status", director.child.id());
    assert_eq!(status(&own, "CapEff"), kept);
}
