//! Real directors in network namespaces, alone and with real keepalived as the other router.
//!
//! Skips, saying so, where it is not root or keepalived is not installed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::time::Duration;

use lab::{Lab, Prober, VIP, able, eventually};

const SITE_88: &str = include_str!("../../../config/site/keepalived-88.conf");
const SITE_99: &str = include_str!("../../../config/site/keepalived-99.conf");

const CLIENT: u8 = 254;
const MILLI: Duration = Duration::from_millis(1);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A lab, unless it can't be had here.
macro_rules! lab_or_skip {
    ($($program:expr),*) => {{
        if !able(&[$($program),*]) {
            return;
        }
        Lab::new(&[CLIENT, 88, 99])
    }};
}

/// Version 3 with fast adverts.
fn v3(priority: u8, interval: &str) -> String {
    format!(
        "global_defs {{\n vrrp_version 3\n}}\nvrrp_instance VI_1 {{\n state BACKUP\n interface eth0\n\
         virtual_router_id 51\n priority {priority}\n advert_int {interval}\n\
         virtual_ipaddress {{\n {VIP}\n }}\n}}\n"
    )
}

fn v3_ipv6(priority: u8) -> String {
    format!(
        "vrrp_instance VI_6 {{\n state BACKUP\n interface eth0\n version 3\n\
         virtual_router_id 61\n priority {priority}\n advert_int 0.1\n\
         virtual_ipaddress {{\n fe80::253\n fd00::253\n }}\n}}\n"
    )
}

fn unicast(own: u8, peer: u8, priority: u8) -> String {
    v3(priority, "0.1").replace(
        " state BACKUP",
        &format!(
            " state BACKUP\n unicast_src_ip 192.168.4.{own}\n unicast_peer {{\n 192.168.4.{peer}\n }}"
        ),
    )
}

fn only_holder(lab: &Lab, holder: u8, other: u8, address: &str) -> bool {
    lab.holds(holder, address) && !lab.holds(other, address)
}

#[test]
fn the_reference_sites_pair_fails_over_and_back() {
    let lab = lab_or_skip!();
    let mut a = lab.director(88, SITE_88);
    let b = lab.director(99, SITE_99);
    assert!(eventually(seconds(6), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());

    let prober = Prober::start(&lab, CLIENT, VIP, MILLI);
    a.signal(libc::SIGTERM);
    a.wait();
    assert!(eventually(seconds(3), || only_holder(&lab, 99, 88, VIP)), "{}{}", a.log(), b.log());
    let gap = prober.longest_gap();
    println!("planned stop, 1 s adverts: {gap:?} without an answer");
    assert!(gap < Duration::from_millis(400), "{gap:?}\n{}{}", a.log(), b.log());

    let a = lab.director(88, SITE_88);
    assert!(eventually(seconds(8), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
}

#[test]
fn both_stopped_leaves_nothing_behind() {
    let lab = lab_or_skip!();
    let mut a = lab.director(88, &v3(150, "0.1"));
    assert!(eventually(seconds(3), || lab.holds(88, VIP)));
    a.signal(libc::SIGTERM);
    a.wait();
    assert!(!lab.holds(88, VIP), "{}", a.log());
}

#[test]
fn kill_9_never_leaves_two_holders() {
    let lab = lab_or_skip!();
    let a = lab.director(88, SITE_88);
    let b = lab.director(99, SITE_99);
    assert!(eventually(seconds(6), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
    let prober = Prober::start(&lab, CLIENT, VIP, MILLI);
    a.signal(libc::SIGKILL);
    assert!(eventually(Duration::from_millis(500), || !lab.holds(88, VIP)), "left behind");
    assert!(eventually(seconds(3), || only_holder(&lab, 99, 88, VIP)), "{}", b.log());
    let gap = prober.longest_gap();
    println!("kill -9, 1 s adverts: {gap:?} without an answer");
    assert!(gap < Duration::from_millis(1200), "the farewell makes it a skew time: {gap:?}");
}

#[test]
fn a_frozen_director_loses_the_address_and_does_not_come_back_with_it() {
    let lab = lab_or_skip!();
    let a = lab.director(88, &v3(150, "0.1"));
    let b = lab.director(99, &v3(100, "0.1"));
    assert!(eventually(seconds(3), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
    a.signal(libc::SIGSTOP);
    // The guard, not the frozen process, takes it away.
    assert!(eventually(seconds(2), || only_holder(&lab, 99, 88, VIP)), "{}{}", a.log(), b.log());
    std::thread::sleep(seconds(1));
    a.signal(libc::SIGCONT);
    // It has the higher priority, so it comes back, as a backup first.
    assert!(eventually(seconds(3), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
    assert!(a.log().contains("MASTER -> BACKUP: this process did not run for"), "{}", a.log());
}

#[test]
fn a_cut_link_moves_the_address_and_a_healed_one_leaves_one_holder() {
    let lab = lab_or_skip!();
    let a = lab.director(88, &v3(150, "0.1"));
    let b = lab.director(99, &v3(100, "0.1"));
    assert!(eventually(seconds(3), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
    lab.link(88, false);
    assert!(eventually(seconds(2), || only_holder(&lab, 99, 88, VIP)), "{}{}", a.log(), b.log());
    lab.link(88, true);
    assert!(eventually(seconds(3), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
}

#[test]
fn an_address_taken_off_by_hand_is_put_back() {
    let lab = lab_or_skip!();
    let a = lab.director(88, &v3(150, "0.1"));
    assert!(eventually(seconds(3), || lab.holds(88, VIP)));
    lab.output(88, "ip", &["addr", "del", &format!("{VIP}/32"), "dev", "eth0"]);
    assert!(eventually(seconds(1), || lab.holds(88, VIP)), "{}", a.log());
}

#[test]
fn leftovers_of_a_killed_run_are_removed_at_the_next_start() {
    let lab = lab_or_skip!();
    let b = lab.director(99, &v3(150, "0.1"));
    assert!(eventually(seconds(3), || lab.holds(99, VIP)));
    lab.output(88, "ip", &["addr", "add", &format!("{VIP}/32"), "dev", "eth0"]);
    let a = lab.director(88, &v3(100, "0.1"));
    assert!(eventually(seconds(2), || !lab.holds(88, VIP)), "{}", a.log());
    assert!(lab.holds(99, VIP), "{}", b.log());
}

#[test]
fn notify_scripts_are_told() {
    let lab = lab_or_skip!();
    let told = lab.dir.path().join("told");
    let script = lab.write("n.sh", &format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display()));
    lab.output(88, "chmod", &["+x", script.to_str().unwrap()]);
    let config = v3(150, "0.1").replace(
        " state BACKUP",
        &format!(" state BACKUP\n notify {0}\n notify_master \"{0} 'own word'\"", script.display()),
    );
    let mut a = lab.director(88, &config);
    assert!(eventually(seconds(3), || lab.holds(88, VIP)));
    a.signal(libc::SIGTERM);
    a.wait();
    let read = || std::fs::read_to_string(&told).unwrap_or_default();
    assert!(eventually(seconds(2), || read().lines().count() == 4), "{}", read());
    let mut lines: Vec<_> = read().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "INSTANCE VI_1 BACKUP 150",
            "INSTANCE VI_1 MASTER 150",
            "INSTANCE VI_1 STOP 150",
            "own word"
        ]
    );
}

#[test]
fn a_failing_script_moves_the_address() {
    let lab = lab_or_skip!();
    let healthy = lab.write("healthy", "");
    let config = format!(
        "vrrp_script chk {{\n script \"/usr/bin/test -e {}\"\n interval 0.1\n weight 0\n}}\n{}",
        healthy.display(),
        v3(150, "0.1").replace(" state BACKUP", " state BACKUP\n track_script {\n chk\n }")
    );
    let a = lab.director(88, &config);
    let b = lab.director(99, &v3(100, "0.1"));
    assert!(eventually(seconds(3), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
    std::fs::remove_file(&healthy).unwrap();
    assert!(eventually(seconds(2), || only_holder(&lab, 99, 88, VIP)), "{}{}", a.log(), b.log());
    lab.write("healthy", "");
    assert!(eventually(seconds(3), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
}

/// Each of the pair in turn, with keepalived as the other, by the same configuration.
fn with_keepalived(lab: &Lab, high: &str, low: &str, address: &str, limit: Duration) {
    for we_are_high in [true, false] {
        let start = |ours: bool, host: u8, config: &str| {
            if ours { lab.director(host, config) } else { lab.keepalived(host, config) }
        };
        let mut a = start(we_are_high, 88, high);
        let b = start(!we_are_high, 99, low);
        let told = |a: &lab::Daemon, b: &lab::Daemon| {
            format!("we are high: {we_are_high}\n{}\n{}", a.log(), b.log())
        };
        assert!(eventually(limit, || only_holder(lab, 88, 99, address)), "{}", told(&a, &b));
        // One holder, and it stays.
        std::thread::sleep(limit / 3);
        assert!(only_holder(lab, 88, 99, address), "{}", told(&a, &b));
        a.signal(libc::SIGTERM);
        a.wait();
        assert!(eventually(limit, || only_holder(lab, 99, 88, address)), "{}", told(&a, &b));
        let a = start(we_are_high, 88, high);
        assert!(eventually(limit, || only_holder(lab, 88, 99, address)), "{}", told(&a, &b));
        let ours = if we_are_high { &a } else { &b };
        assert!(!ours.log().contains("dropped"), "{}", told(&a, &b));
        assert!(!ours.log().contains("other addresses"), "{}", told(&a, &b));
    }
}

#[test]
fn with_keepalived_version_2_and_password() {
    let lab = lab_or_skip!("keepalived");
    with_keepalived(&lab, SITE_88, SITE_99, VIP, seconds(8));
}

#[test]
fn with_keepalived_version_3() {
    let lab = lab_or_skip!("keepalived");
    with_keepalived(&lab, &v3(150, "0.1"), &v3(100, "0.1"), VIP, seconds(4));
}

#[test]
fn with_keepalived_version_3_unicast() {
    let lab = lab_or_skip!("keepalived");
    let (high, low) = (unicast(88, 99, 150), unicast(99, 88, 100));
    with_keepalived(&lab, &high, &low, VIP, seconds(4));
}

#[test]
fn with_keepalived_version_3_unicast_over_ipv6() {
    let lab = lab_or_skip!("keepalived");
    let config = |own: u8, peer: u8, priority| {
        let words = format!(
            " state BACKUP\n unicast_src_ip fd00::{own}\n unicast_peer {{\n fd00::{peer}\n }}"
        );
        v3_ipv6(priority).replace(" state BACKUP", &words)
    };
    let (high, low) = (config(88, 99, 150), config(99, 88, 100));
    with_keepalived(&lab, &high, &low, "fd00::253", seconds(4));
}

#[test]
fn with_keepalived_version_3_over_ipv6() {
    let lab = lab_or_skip!("keepalived");
    with_keepalived(&lab, &v3_ipv6(150), &v3_ipv6(100), "fd00::253", seconds(4));
}

/// A running keepalived pair becomes a Pointsman pair and back, one machine at a time, as a client
/// sees it.
#[test]
fn a_rolling_replacement_keeps_the_address() {
    let lab = lab_or_skip!("keepalived");
    let mut a = lab.keepalived(88, SITE_88);
    let mut b = lab.keepalived(99, SITE_99);
    assert!(eventually(seconds(8), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
    let prober = Prober::start(&lab, CLIENT, VIP, MILLI);
    for ours in [true, false] {
        let start = |host: u8, config: &str| {
            if ours { lab.director(host, config) } else { lab.keepalived(host, config) }
        };
        b.signal(libc::SIGTERM);
        b.wait();
        b = start(99, SITE_99);
        // Until it listens: a backup says nothing.
        assert!(eventually(seconds(3), || b.log().contains("BACKUP")), "{}", b.log());
        a.signal(libc::SIGTERM);
        a.wait();
        assert!(
            eventually(seconds(5), || only_holder(&lab, 99, 88, VIP)),
            "{}{}",
            a.log(),
            b.log()
        );
        a = start(88, SITE_88);
        assert!(
            eventually(seconds(8), || only_holder(&lab, 88, 99, VIP)),
            "{}{}",
            a.log(),
            b.log()
        );
    }
    let gap = prober.longest_gap();
    println!("rolling replacement: {gap:?} without an answer at most");
    assert!(gap < seconds(2), "{gap:?}");
}

/// Whether the client hears from an address: a refused connection is an answer.
fn answers(lab: &Lab, address: &str) -> bool {
    let to = std::net::SocketAddr::new(address.parse().unwrap(), 9);
    let connect = move || std::net::TcpStream::connect_timeout(&to, seconds(1));
    let result = lab::in_namespace(lab.namespace(CLIENT), connect).join().unwrap();
    result.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// What the client has learned.
fn mac_of(lab: &Lab, address: &str) -> String {
    let shown = lab.output(CLIENT, "ip", &["neigh", "show", address]);
    shown.split("lladdr ").nth(1).and_then(|w| w.split(' ').next()).unwrap_or("").to_owned()
}

/// keepalived's protocol number of routes, which ours have too.
fn routes(lab: &Lab, host: u8) -> Vec<String> {
    let shown = lab.output(host, "ip", &["route", "show", "proto", "18", "table", "all"]);
    let mut lines: Vec<String> = shown.lines().map(|l| l.trim().to_owned()).collect();
    lines.sort();
    lines
}

#[test]
fn virtual_routes_come_and_go_with_the_address_as_keepalived_has_them() {
    let lab = lab_or_skip!("keepalived");
    let with_routes = |priority| {
        v3(priority, "0.1").replace(
            "virtual_ipaddress {",
            " virtual_routes {\n 10.77.0.0/16 via 192.168.4.254 metric 7\n\
             src 192.168.4.253 to 10.78.0.0/16 via 192.168.4.254 dev eth0\n\
             blackhole 10.79.0.0/16\n 10.80.0.0/16 via 192.168.4.254 table 100\n }\nvirtual_ipaddress {",
        )
    };
    let a = lab.director(88, &with_routes(150));
    let b = lab.keepalived(99, &with_routes(100));
    assert!(eventually(seconds(4), || only_holder(&lab, 88, 99, VIP)), "{}{}", a.log(), b.log());
    assert!(eventually(seconds(2), || routes(&lab, 88).len() == 4), "{:?}", routes(&lab, 88));
    let ours = routes(&lab, 88);
    // The guard takes them away too.
    a.signal(libc::SIGKILL);
    assert!(eventually(seconds(2), || routes(&lab, 88).is_empty()), "left behind");
    assert!(eventually(seconds(4), || only_holder(&lab, 99, 88, VIP)), "{}", b.log());
    assert!(
        eventually(seconds(2), || routes(&lab, 99) == ours),
        "{:?}\n{ours:?}",
        routes(&lab, 99)
    );
}

#[test]
fn a_virtual_mac_stays_when_the_address_moves_to_keepalived() {
    let lab = lab_or_skip!("keepalived");
    let with_mac =
        |priority| v3(priority, "0.1").replace(" interface eth0", " use_vmac\n interface eth0");
    let on = |host: u8| {
        let shown = lab.output(host, "ip", &["-br", "addr", "show", "dev", "vrrp.51"]);
        shown.contains(&format!("{VIP}/32"))
    };
    // ARP of the real address must not tell of the virtual one, nor the other way round.
    let neighbour = |address: &str| {
        lab.output(CLIENT, "ip", &["neigh", "flush", "all"]);
        assert!(answers(&lab, address), "{address} does not answer");
        mac_of(&lab, address)
    };
    let mut a = lab.director(88, &with_mac(150));
    let b = lab.keepalived(99, &with_mac(100));
    assert!(eventually(seconds(4), || on(88) && !on(99)), "{}{}", a.log(), b.log());
    assert_eq!(neighbour(VIP), "00:00:5e:00:01:33", "{}", a.log());
    assert_ne!(neighbour("192.168.4.88"), "00:00:5e:00:01:33");
    std::thread::sleep(seconds(1));
    assert!(on(88) && !on(99), "they do not hear each other\n{}{}", a.log(), b.log());

    let prober = Prober::start(&lab, CLIENT, VIP, MILLI);
    a.signal(libc::SIGTERM);
    a.wait();
    // keepalived has the address a moment before nothing else answers for it.
    let moved = || on(99) && neighbour(VIP) == "00:00:5e:00:01:33";
    assert!(eventually(seconds(4), moved), "{}{}", a.log(), b.log());
    println!("with a virtual MAC, planned stop: {:?} without an answer", prober.longest_gap());
    // Nothing is left behind.
    assert!(!lab.output(88, "ip", &["-br", "link"]).contains("vrrp.51"));
    let setting = lab.output(88, "cat", &["/proc/sys/net/ipv4/conf/eth0/arp_ignore"]);
    assert_eq!(setting.trim(), "0");

    let a = lab.director(88, &with_mac(150));
    assert!(eventually(seconds(4), || on(88) && !on(99)), "{}{}", a.log(), b.log());
    // A killed one leaves the interface, without the address; the next run takes it over.
    a.signal(libc::SIGKILL);
    assert!(eventually(seconds(4), || on(99) && !on(88)), "{}", b.log());
    let a = lab.director(88, &with_mac(150));
    assert!(eventually(seconds(4), || on(88) && !on(99)), "{}{}", a.log(), b.log());
}

#[test]
fn ipv6_addresses_stand_on_their_virtual_mac() {
    let lab = lab_or_skip!();
    let with_mac =
        |priority| v3_ipv6(priority).replace(" interface eth0", " use_vmac\n interface eth0");
    let on = |host: u8| {
        let shown = lab.output(host, "ip", &["-br", "addr", "show", "dev", "vrrp6.61"]);
        shown.contains("fd00::253/128")
    };
    let a = lab.director(88, &with_mac(150));
    let b = lab.director(99, &with_mac(100));
    assert!(eventually(seconds(4), || on(88) && !on(99)), "{}{}", a.log(), b.log());
    let there = || answers(&lab, "fd00::253");
    assert!(eventually(seconds(3), there), "{}", a.log());
    assert_eq!(mac_of(&lab, "fd00::253"), "00:00:5e:00:02:3d");
    a.signal(libc::SIGKILL);
    assert!(eventually(seconds(4), || on(99) && !on(88)), "{}", b.log());
    assert!(eventually(seconds(3), there), "{}", b.log());
}
