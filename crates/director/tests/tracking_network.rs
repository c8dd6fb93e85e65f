//! What is tracked moves the address: files, interfaces, processes, scripts, by weight or by fault,
//! alone and in a sync group; and who preempts whom, when. Each with real keepalived as the other
//! router, and, by the same file, with keepalived in our place.
//!
//! Skips, saying so, where it is not root or keepalived is not installed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Daemon, Lab, VIP, able, eventually};

const VIP_2: &str = "192.168.4.252";
const LIMIT: Duration = Duration::from_secs(6);

fn lab() -> Option<Lab> {
    if !able(&["keepalived"]) {
        return None;
    }
    Some(Lab::new(&[88, 99]))
}

/// A pair of virtual routers; `global` goes before them, `first` into the first one.
fn config(priority: u8, global: &str, first: &str) -> String {
    let instance = |name: &str, id: u8, vip: &str, more: &str| {
        format!(
            "vrrp_instance {name} {{\n state BACKUP\n interface eth0\n virtual_router_id {id}\n\
             priority {priority}\n advert_int 0.1\n {more}\n virtual_ipaddress {{\n {vip}\n }}\n}}\n"
        )
    };
    format!(
        "global_defs {{\n vrrp_version 3\n script_user root\n}}\n{global}\n{}{}",
        instance("VI_1", 51, VIP, first),
        instance("VI_2", 52, VIP_2, "")
    )
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    Pointsman,
    Keepalived,
}

impl Program {
    fn start(self, lab: &Lab, host: u8, config: &str) -> Daemon {
        match self {
            Self::Pointsman => lab.director(host, config),
            Self::Keepalived => lab.keepalived(host, config),
        }
    }

    fn other(self) -> Self {
        if self == Self::Pointsman { Self::Keepalived } else { Self::Pointsman }
    }
}

/// .88 has both addresses; after `worse` it has all but `moved`, and after `better` both again.
fn follows(
    lab: &Lab,
    programs: &[Program],
    file: &str,
    moved: &[&str],
    worse: &dyn Fn(),
    better: &dyn Fn(),
) {
    for &program in programs {
        better();
        let a = program.start(lab, 88, file);
        let b = program.other().start(lab, 99, &config(100, "", ""));
        let are_at = |there: &[&str]| {
            [VIP, VIP_2].iter().all(|vip| {
                let at_99 = there.contains(vip);
                lab.holds(99, vip) == at_99 && lab.holds(88, vip) != at_99
            })
        };
        let logs = || format!("{program:?} follows\n{}\n{}", a.log(), b.log());
        assert!(eventually(LIMIT, || are_at(&[])), "{}", logs());
        worse();
        let began = Instant::now();
        assert!(eventually(LIMIT, || are_at(moved)), "{}", logs());
        println!("{program:?}: moved after {} ms", began.elapsed().as_millis());
        better();
        assert!(eventually(LIMIT, || are_at(&[])), "{}", logs());
    }
}

const BOTH: [Program; 2] = [Program::Pointsman, Program::Keepalived];

#[test]
fn a_file_and_a_script_have_weights() {
    let Some(lab) = lab() else { return };
    let value = lab.write("value", "0\n");
    let global = format!("track_file f {{\n file {}\n weight 1\n}}\n", value.display());
    let file = config(150, &global, "track_file {\n f\n }");
    let set = |text: &'static str| std::fs::write(&value, text).unwrap();
    follows(&lab, &BOTH, &file, &[VIP], &|| set("-100\n"), &|| set("0\n"));

    let healthy = lab.dir.path().join("healthy");
    let global = format!(
        "vrrp_script chk {{\n script \"/usr/bin/test -e {}\"\n interval 1\n weight -100\n}}\n",
        healthy.display()
    );
    let file = config(150, &global, "track_script {\n chk\n }");
    let worse = || std::fs::remove_file(&healthy).unwrap();
    let better = || std::fs::write(&healthy, "").unwrap();
    follows(&lab, &BOTH, &file, &[VIP], &worse, &better);
}

/// An interface of .88 and the other end of its cable.
fn cable(lab: &Lab) {
    lab.output(88, "ip", &["link", "add", "t0", "type", "veth", "peer", "name", "t1"]);
    lab.output(88, "ip", &["link", "set", "t0", "up"]);
}

fn plug(lab: &Lab, state: &str) {
    lab.output(88, "ip", &["link", "set", "t1", state]);
}

#[test]
fn an_interface_has_a_weight_or_is_needed() {
    let Some(lab) = lab() else { return };
    cable(&lab);
    for what in ["t0 weight -100", "t0"] {
        let file = config(150, "", &format!("track_interface {{\n {what}\n }}"));
        follows(&lab, &BOTH, &file, &[VIP], &|| plug(&lab, "down"), &|| plug(&lab, "up"));
    }
}

#[test]
fn a_sync_group_moves_as_one() {
    let Some(lab) = lab() else { return };
    cable(&lab);
    let told = lab.dir.path().join("told");
    let script = lab.write("tell", &format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display()));
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&script, executable).unwrap();
    let notify = format!("notify \"{}\"", script.display());
    let group = format!("vrrp_sync_group G {{\n group {{\n VI_1\n VI_2\n }}\n {notify}\n}}\n");
    let file = config(150, &group, &format!("{notify}\n track_interface {{\n t0\n }}"));
    // The scripts of both are told the same, stop and all.
    let [ours, theirs] = BOTH.map(|program| {
        let _ = std::fs::remove_file(&told);
        let (down, up) = (|| plug(&lab, "down"), || plug(&lab, "up"));
        follows(&lab, &[program], &file, &[VIP, VIP_2], &down, &up);
        let words = || std::fs::read_to_string(&told).unwrap_or_default();
        assert!(eventually(LIMIT, || words().matches("STOP").count() == 2), "{}", words());
        let words = words();
        // Between the two scripts there is no order.
        ["INSTANCE", "GROUP"].map(|kind| {
            words.lines().filter(|l| l.starts_with(kind)).map(str::to_owned).collect::<Vec<_>>()
        })
    });
    println!("{ours:#?}");
    assert_eq!(ours, theirs);
}

/// A process that is restarted leaves the addresses to its guard, and the next one takes both; if nobody
/// comes, whoever takes one of them has the guard let go of both.
#[test]
fn a_sync_group_moves_as_one_from_the_guard_too() {
    let Some(lab) = lab() else { return };
    let group = "vrrp_sync_group G {\n group {\n VI_1\n VI_2\n }\n}\n";
    let mut a = lab.director(88, &config(150, group, ""));
    let both = |host| lab.holds(host, VIP) && lab.holds(host, VIP_2);
    assert!(eventually(LIMIT, || both(88)), "{}", a.log());
    a.signal(libc::SIGUSR2);
    a.wait();
    assert!(both(88), "{}", a.log());
    let mut a = lab.director(88, &config(150, group, ""));
    let restarted = || a.log().matches("BACKUP -> MASTER: restarted in place").count() == 2;
    assert!(eventually(LIMIT, restarted) && both(88), "{}", a.log());
    assert!(!a.log().contains("left on the interface"), "{}", a.log());

    a.signal(libc::SIGUSR2);
    a.wait();
    assert!(both(88), "{}", a.log());
    let one = config(200, "", "");
    let b = lab.keepalived(99, &one[..one.find("vrrp_instance VI_2").unwrap()]);
    assert!(eventually(LIMIT, || lab.holds(99, VIP)), "{}", b.log());
    assert!(eventually(Duration::from_secs(1), || !lab.holds(88, VIP) && !lab.holds(88, VIP_2)));
}

/// keepalived hears of processes by a connector that is not there in a network namespace: not in our
/// place here.
#[test]
fn a_process_is_needed() {
    let Some(lab) = lab() else { return };
    let name = format!("tracked-{}", std::process::id() % 10_000);
    let program = lab.dir.path().join(&name);
    std::fs::copy("/bin/sleep", &program).unwrap();
    let global = format!("vrrp_track_process p {{\n process {name}\n weight 60\n}}\n");
    let file = config(90, &global, "track_process {\n p\n }")
        .replace("virtual_router_id 52\npriority 90", "virtual_router_id 52\npriority 150");
    let running = std::cell::RefCell::new(None::<std::process::Child>);
    let worse = || {
        if let Some(mut child) = running.borrow_mut().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    };
    let better = || {
        let child = Command::new(&program).arg("120").stdin(Stdio::null()).spawn().unwrap();
        *running.borrow_mut() = Some(child);
    };
    follows(&lab, &[Program::Pointsman], &file, &[VIP], &worse, &better);
    worse();
}

#[test]
fn who_preempts_whom_and_when() {
    let Some(lab) = lab() else { return };
    for (words, least, most) in [
        ("", Duration::ZERO, Duration::from_secs(2)),
        ("preempt_delay 3", Duration::from_secs(3), Duration::from_secs(5)),
    ] {
        let b = lab.keepalived(99, &config(100, "", ""));
        assert!(eventually(LIMIT, || lab.holds(99, VIP)), "{}", b.log());
        let a = lab.director(88, &config(150, "", words));
        let started = || a.log().contains("VI_1: INIT -> BACKUP");
        assert!(eventually(LIMIT, started), "{}", a.log());
        let began = Instant::now();
        let has = || lab.holds(88, VIP) && !lab.holds(99, VIP);
        assert!(eventually(most + LIMIT, has), "{}\n{}", a.log(), b.log());
        let took = began.elapsed();
        println!("{words}: takes over after {} ms", took.as_millis());
        assert!((least..most).contains(&took), "{words}: {took:?}\n{}\n{}", a.log(), b.log());
    }
    let b = lab.keepalived(99, &config(100, "", ""));
    assert!(eventually(LIMIT, || lab.holds(99, VIP)), "{}", b.log());
    let a = lab.director(88, &config(150, "", "nopreempt"));
    // The other address, which is preempted, shows that time enough has passed.
    assert!(eventually(LIMIT, || lab.holds(88, VIP_2)), "{}", a.log());
    assert!(lab.holds(99, VIP) && !lab.holds(88, VIP), "{}\n{}", a.log(), b.log());
    b.kill_tree();
    assert!(eventually(LIMIT, || lab.holds(88, VIP)), "{}", a.log());
}
