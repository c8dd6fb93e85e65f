//! Which server gets a connection, and what happens to those it has: real packets through the eBPF
//! data plane in network namespaces.
//!
//! Skips, saying so, where it is not root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::time::Duration;

use lab::traffic::{Arrivals, Connection, Server, VIP6, datagram, udp};
use lab::{Daemon, Lab, VIP, able, eventually};

const CLIENT: u8 = 254;

struct Site {
    lab: Lab,
    servers: Vec<Server>,
}

impl Site {
    fn new() -> Option<Self> {
        if !able(&[]) {
            return None;
        }
        let lab = Lab::new(&[CLIENT, 88, 33, 44]);
        let servers = [33, 44].map(|host| Server::start(&lab, host)).into();
        Some(Self { lab, servers })
    }

    /// A director that is ready to serve. `service` goes into the virtual servers, `first` and
    /// `second` into their real servers.
    fn director(&self, service: &str, first: &str, second: &str) -> Daemon {
        self.run(&Self::config("", service, first, second), None)
    }

    fn run(&self, config: &str, bpf: Option<&std::path::Path>) -> Daemon {
        let director = match bpf {
            Some(bpf) => self.lab.director_pinned(88, config, bpf),
            None => self.lab.director(88, config),
        };
        let ready = || {
            self.lab.holds(88, VIP)
                && self.lab.holds(88, VIP6)
                && self.lab.metric(88, &["current_connections"]).is_some()
        };
        assert!(eventually(Duration::from_secs(10), ready), "{}", director.log());
        director
    }

    fn config(global: &str, service: &str, first: &str, second: &str) -> String {
        let vrrp = |name: &str, id: u8, vip: &str| {
            format!(
                "vrrp_instance {name} {{\n interface eth0\n virtual_router_id {id}\n\
                 advert_int 0.1\n virtual_ipaddress {{\n {vip}\n }}\n}}\n"
            )
        };
        let virtual_server = |vip: &str, net: &str, protocol: &str| {
            format!(
                "virtual_server {vip} 80 {{\n {service}\n lb_kind DR\n protocol {protocol}\n\
                 real_server {net}33 80 {{\n {first}\n }}\n\
                 real_server {net}44 80 {{\n {second}\n }}\n}}\n"
            )
        };
        let mut config = format!("global_defs {{\n vrrp_version 3\n {global}\n}}\n");
        config += &vrrp("V4", 9, VIP);
        config += &vrrp("V6", 10, "fe80::253\n fd00::253/128");
        for protocol in ["TCP", "UDP"] {
            config += &virtual_server(VIP, "192.168.4.", protocol);
            config += &virtual_server(VIP6, "fd00::", protocol);
        }
        config
    }

    fn open(&self) -> Connection {
        Connection::open(&self.lab, CLIENT, VIP, None).unwrap()
    }

    fn open_from(&self, ip: &str) -> u8 {
        Connection::open(&self.lab, CLIENT, VIP, Some(ip)).unwrap().server
    }

    fn held(&self, server: u8, state: &str) -> f64 {
        let server = format!("192.168.4.{server}:80");
        self.lab.metric(88, &["current_connections", &server, &format!("\"{state}\"")]).unwrap()
    }
}

fn count(connections: &[Connection], server: u8) -> usize {
    connections.iter().filter(|c| c.server == server).count()
}

#[test]
fn the_least_loaded_server_gets_the_next_connection() {
    let Some(site) = Site::new() else { return };
    for algo in ["lc", "wlc", "sed", "nq"] {
        let weight = if algo == "lc" { "weight 1" } else { "weight 3" };
        let _director = site.director(&format!("lb_algo {algo}"), weight, "weight 1");
        let mut held: Vec<Connection> = (0..8).map(|_| site.open()).collect();
        let shares = (count(&held, 33), count(&held, 44));
        println!("{algo}: {shares:?}");
        // nq gives an idle server its first connection whatever its weight.
        let expected = if algo == "lc" { (4, 4) } else { (6, 2) };
        assert_eq!(shares, expected, "{algo}");
        // Those of one server end: it gets all that come until it has its share again.
        held.retain(|c| c.server == 44);
        let ended = || site.held(33, "inactive") == shares.0 as f64;
        assert!(eventually(Duration::from_secs(5), ended), "{algo}: {}", site.held(33, "active"));
        assert_eq!(site.held(33, "active"), 0.0);
        let next: Vec<Connection> = (0..3).map(|_| site.open()).collect();
        assert_eq!(count(&next, 33), 3, "{algo}");
        drop((held, next));
        // The next director starts without those that are left.
    }
}

/// By turns, by weights, by a hash of the client; over IPv4 and IPv6.
#[test]
fn turns_weights_and_hashes() {
    let Some(site) = Site::new() else { return };
    for (algo, expected) in
        [("rr", Some((4, 4))), ("wrr", Some((6, 2))), ("sh", None), ("mh", None)]
    {
        let weight = if algo == "wrr" { "weight 3" } else { "weight 1" };
        let _director = site.director(&format!("lb_algo {algo}"), weight, "weight 1");
        for vip in [VIP, VIP6] {
            let open = || Connection::open(&site.lab, CLIENT, vip, None).unwrap();
            let held: Vec<Connection> = (0..8).map(|_| open()).collect();
            let shares = (count(&held, 33), count(&held, 44));
            println!("{algo} {vip}: {shares:?}");
            match (algo, expected) {
                (_, Some(expected)) => assert_eq!(shares, expected, "{algo} {vip}"),
                // All of one client's.
                ("sh", _) => assert!(shares == (8, 0) || shares == (0, 8), "{shares:?}"),
                // Each port for itself: that 16 go to one happens once in 32,768 times.
                _ => {
                    let more: Vec<Connection> = (0..8).map(|_| open()).collect();
                    let first = shares.0 + count(&more, 33);
                    assert!((1..16).contains(&first), "{first} of 16");
                }
            }
        }
    }
}

#[test]
fn dh_sends_all_for_one_address_to_one_server() {
    let Some(site) = Site::new() else { return };
    let _director = site.director("lb_algo dh", "weight 1", "weight 1");
    site.lab.output(CLIENT, "ip", &["addr", "add", "192.168.4.250/24", "dev", "eth0"]);
    let first = site.open().server;
    for ip in ["192.168.4.254", "192.168.4.250"] {
        assert!((0..4).all(|_| site.open_from(ip) == first));
    }
}

#[test]
fn a_client_stays_with_its_server_for_a_while() {
    let Some(site) = Site::new() else { return };
    for ip in ["192.168.4.250/24", "10.9.8.7/32"] {
        site.lab.output(CLIENT, "ip", &["addr", "add", ip, "dev", "eth0"]);
    }
    for host in [33, 44] {
        site.lab.output(host, "ip", &["route", "add", "10.9.8.7", "dev", "eth0"]);
    }
    let service = "lb_algo rr\n persistence_timeout 2\n persistence_granularity 255.255.255.0";
    let _director = site.director(service, "weight 1", "weight 1");
    let first = site.open_from("192.168.4.254");
    let other = if first == 33 { 44 } else { 33 };
    for _ in 0..3 {
        assert_eq!(site.open_from("192.168.4.254"), first);
        assert_eq!(site.open_from("192.168.4.250"), first, "the same network");
    }
    assert_eq!(site.open_from("10.9.8.7"), other, "another network gets the next turn");
    // Over IPv6, and by UDP from another port each time: by turns they would alternate.
    let v6 = || Connection::open(&site.lab, CLIENT, VIP6, None).unwrap().server;
    let server = v6();
    assert!((0..3).all(|_| v6() == server));
    for vip in [VIP, VIP6] {
        let ask = || datagram(&udp(&site.lab, CLIENT, vip == VIP6), vip, 10).expect("an answer").0;
        let server = ask();
        assert!((0..3).all(|_| ask() == server), "{vip}");
    }
    // Once a client has no connection, its time passes, and the next turn is the other's.
    let moved = || site.open_from("192.168.4.250") != first;
    let patient = || {
        std::thread::sleep(Duration::from_millis(2500));
        moved()
    };
    assert!(eventually(Duration::from_secs(30), patient));
}

#[test]
fn a_full_server_gets_no_more() {
    let Some(site) = Site::new() else { return };
    let _director = site.director("lb_algo rr", "weight 1\n uthreshold 2", "weight 1");
    let mut held: Vec<Connection> = (0..8).map(|_| site.open()).collect();
    assert_eq!((count(&held, 33), count(&held, 44)), (2, 6));
    // Below its lower threshold (three quarters of two) only when both have gone for good: a
    // closing connection still counts, as with IPVS.
    held.retain(|c| c.server == 44);
    assert!(eventually(Duration::from_secs(5), || site.held(33, "inactive") == 2.0));
    assert_eq!(site.held(33, "active"), 0.0);
    assert_eq!(site.open().server, 44);
}

#[test]
fn when_all_are_full_a_connection_is_refused() {
    let Some(site) = Site::new() else { return };
    let full = "weight 1\n uthreshold 1";
    let _director = site.director("lb_algo wlc", full, full);
    let held = [site.open(), site.open()];
    assert_ne!(held[0].server, held[1].server);
    let refused = Connection::open(&site.lab, CLIENT, VIP, None).err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// A server whose check fails: with `inhibit_on_failure` it keeps what it has and gets nothing new;
/// without, its connections are reset at once, so that the clients come back elsewhere.
#[test]
fn a_server_is_drained_or_dies() {
    let Some(site) = Site::new() else { return };
    for (inhibit, survives) in [("inhibit_on_failure", true), ("", false)] {
        let health = Server::health(&site.lab, 33);
        let first = format!(
            "weight 1\n {inhibit}\n TCP_CHECK {{\n connect_ip 192.168.4.33\n connect_port 9\n\
             connect_timeout 1\n retry 0\n }}\n delay_loop 0.2"
        );
        let director = site.director("lb_algo rr", &first, "weight 1");
        let mut held: Vec<Connection> = (0..4).map(|_| site.open()).collect();
        assert_eq!((count(&held, 33), count(&held, 44)), (2, 2));
        drop(health);
        // For TCP and for UDP.
        let down = || director.log().matches("192.168.4.33:80 is down").count() == 2;
        assert!(eventually(Duration::from_secs(5), down), "{}", director.log());
        assert!((0..4).all(|_| site.open().server == 44));
        for connection in &mut held {
            let lives = connection.lives();
            let should = connection.server == 44 || survives;
            assert_eq!(lives.is_ok(), should, "{}: {lives:?}", connection.server);
            if let Err(error) = lives {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
        }
    }
}

#[test]
fn udp_flows_stay_and_single_packets_do_not() {
    let Some(site) = Site::new() else { return };
    for vip in [VIP, VIP6] {
        for (service, alternates) in [("lb_algo rr", false), ("lb_algo rr\n ops", true)] {
            let _director = site.director(service, "weight 1", "weight 1");
            let socket = udp(&site.lab, CLIENT, vip == VIP6);
            let answers: Vec<u8> =
                (0..4).map(|_| datagram(&socket, vip, 10).expect("an answer").0).collect();
            let expected =
                if alternates { answers[0] != answers[1] } else { answers[0] == answers[1] };
            assert!(expected && answers[0] == answers[2], "{service}: {answers:?}");
        }
    }
}

/// Datagrams larger than a packet arrive whole, in both families; also when the fragments come in
/// the wrong order, so that the first to come has no ports.
#[test]
fn fragments_meet_at_one_server() {
    let Some(site) = Site::new() else { return };
    let _director = site.director("lb_algo rr", "weight 1", "weight 1");
    for vip in [VIP, VIP6] {
        for _ in 0..3 {
            let socket = udp(&site.lab, CLIENT, vip == VIP6);
            let (_, length) = datagram(&socket, vip, 4000).expect("an answer");
            assert_eq!(length, 4000, "{vip}");
        }
    }
    // netem with reordering: each third fragment overtakes those before it.
    let netem = "tc qdisc add dev eth0 root netem delay 5ms reorder 100% gap 3";
    let parts: Vec<&str> = netem.split(' ').collect();
    site.lab.output(CLIENT, parts[0], &parts[1..]);
    for vip in [VIP, VIP6] {
        for _ in 0..4 {
            let socket = udp(&site.lab, CLIENT, vip == VIP6);
            let (_, length) = datagram(&socket, vip, 4000).expect("an answer");
            assert_eq!(length, 4000, "{vip}");
        }
    }
}

#[test]
fn what_went_where_is_counted() {
    let Some(site) = Site::new() else { return };
    let _director = site.director("lb_algo rr", "weight 1", "weight 1");
    let held: Vec<Connection> = (0..3).map(|_| site.open()).collect();
    let first = held[0].server;
    let real = format!("real_server=\"192.168.4.{first}:80\"");
    let count = |name: &str| site.lab.metric(88, &[name, &real]).unwrap_or(-1.0);
    let all = || {
        site.held(first, "active") == 2.0
            && count("virtual_server_connections_total") == 2.0
            && count("virtual_server_packets_total") >= 4.0
    };
    assert!(eventually(Duration::from_secs(5), all));
    assert!(count("virtual_server_bytes_total") >= 4.0 * 54.0);
    drop(held);
    let closed = || site.held(first, "active") == 0.0 && site.held(first, "inactive") == 2.0;
    assert!(eventually(Duration::from_secs(5), closed));
    assert_eq!(site.servers.len(), 2);
}

/// XDP does the same; in the driver of a veth pair only without checksum offload, which the native
/// mode loses.
#[test]
fn xdp_forwards_too() {
    let Some(site) = Site::new() else { return };
    for mode in ["tc", "xdp-generic", "xdp"] {
        if mode == "xdp" && !lab::has("ethtool") {
            println!("skipped: {mode}: ethtool is not installed");
            continue;
        }
        for host in [CLIENT, 88, 33, 44] {
            site.lab.output(host, "ethtool", &["-K", "eth0", "tx", "off"]);
            let port = format!("port{host}");
            let arguments = ["netns", "exec", &site.lab.namespace("sw"), "ethtool", "-K", &port];
            let arguments = [&arguments[..], &["gro", "on"]].concat();
            let _ = std::process::Command::new("ip").args(arguments).output();
        }
        let config =
            Site::config(&format!("data_plane {mode}"), "lb_algo rr", "weight 1", "weight 1");
        let director = site.run(&config, None);
        let shown = site.lab.output(88, "ip", &["link", "show", "dev", "eth0"]);
        assert_eq!(shown.contains("xdp"), mode != "tc", "{shown}");
        for vip in [VIP, VIP6] {
            let open = || Connection::open(&site.lab, CLIENT, vip, None);
            let mut held: Vec<Connection> = (0..4).map(|_| open().unwrap()).collect();
            assert_eq!((count(&held, 33), count(&held, 44)), (2, 2), "{mode} {vip}");
            // Once the MACs are known, packets no longer come as far as tc.
            let mut arrivals = Arrivals::watch(&site.lab, 88);
            let mut bypassed = || {
                arrivals.to(vip);
                for connection in &mut held {
                    for _ in 0..5 {
                        connection.lives().unwrap();
                    }
                }
                arrivals.to(vip) == 0
            };
            if mode == "tc" {
                assert!(!bypassed(), "{vip}");
            } else {
                let limit = Duration::from_secs(20);
                assert!(eventually(limit, bypassed), "{mode} {vip}: {}", director.log());
            }
            let socket = udp(&site.lab, CLIENT, vip == VIP6);
            assert!(datagram(&socket, vip, 4000).is_some(), "{mode} {vip}\n{}", director.log());
        }
    }
}

/// A director that is killed or stopped and started again finds the connections where they were,
/// whatever their scheduler.
#[test]
fn a_restart_keeps_connections() {
    let Some(site) = Site::new() else { return };
    let bpf = site.lab.dir.path().join("bpf");
    std::fs::create_dir(&bpf).unwrap();
    let mount = |arguments: &[&str]| {
        std::process::Command::new(arguments[0]).args(&arguments[1..]).output().unwrap()
    };
    let mounted = mount(&["mount", "-t", "bpf", "bpf", bpf.to_str().unwrap()]);
    if !mounted.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&mounted.stderr));
        return;
    }
    let config = Site::config("", "lb_algo rr", "weight 1", "weight 1");
    let mut director = site.run(&config, Some(&bpf));
    let mut held: Vec<Connection> = (0..4).map(|_| site.open()).collect();
    assert_eq!((count(&held, 33), count(&held, 44)), (2, 2));
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        director.signal(signal);
        director.wait();
        assert!(eventually(Duration::from_secs(5), || !site.lab.holds(88, VIP)));
        // Its guard keeps the program for two seconds: what is proved must not be its work.
        let attached = || site.lab.output(88, "bpftool", &["net"]).contains("direct_routing");
        if lab::has("bpftool") {
            assert!(eventually(Duration::from_secs(5), || !attached()));
        }
        director = site.run(&config, Some(&bpf));
        for connection in &mut held {
            connection.lives().unwrap();
        }
        let counted = || site.held(33, "active") == 2.0 && site.held(44, "active") == 2.0;
        assert!(eventually(Duration::from_secs(5), counted));
    }
    // Tables of another version are told and replaced.
    drop(director);
    let host = std::fs::read_dir(bpf.join("pointsman")).unwrap().next().unwrap().unwrap().path();
    std::fs::create_dir(host.join("layout-0")).unwrap();
    let director = site.run(&config, Some(&bpf));
    assert!(director.log().contains("of another version"), "{}", director.log());
    assert!(!host.join("layout-0").exists());
    drop(director);
    mount(&["umount", "-l", bpf.to_str().unwrap()]);
}
