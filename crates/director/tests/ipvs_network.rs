//! IPVS as the data plane: real connections through the real kernel, in network namespaces.
//!
//! Skips, saying so, where it is not root or the kernel has no IPVS: `cargo xtask ipvs-vm` runs it in
//! a virtual machine whose kernel does.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::time::Duration;

use lab::traffic::{Connection, Server, VIP6, datagram, udp};
use lab::{Daemon, Lab, VIP, eventually, unable};

const CLIENT: u8 = 254;
const DIRECTOR: u8 = 88;
/// Not on the servers' network: with NAT the way back must lead through the director.
const FAR: &str = "10.9.8.7";
const FAR6: &str = "fd09::7";

struct Site {
    lab: Lab,
    _servers: Vec<Server>,
}

impl Site {
    fn new() -> Option<Self> {
        let has_ipvs = || {
            let out = std::process::Command::new("modprobe").args(["-q", "ip_vs"]).status();
            out.is_ok_and(|s| s.success()) || std::path::Path::new("/proc/net/ip_vs").exists()
        };
        let why = match unable() {
            Some(why) => Some(why),
            None if !lab::has("ipvsadm") => Some("needs ipvsadm"),
            None if !has_ipvs() => Some("this kernel has no IPVS"),
            None => None,
        };
        if let Some(why) = why {
            println!("skipped: {why}");
            return None;
        }
        let lab = Lab::new(&[CLIENT, DIRECTOR, 33, 44]);
        let servers = [33, 44].map(|host| Server::start(&lab, host)).into();
        let ip = |host: u8, line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            lab.output(host, "ip", &words);
        };
        let set = |host: u8, setting: &str| lab.output(host, "sysctl", &["-q", "-w", setting]);
        for host in [DIRECTOR, 33, 44] {
            for name in ["all", "eth0", "default"] {
                set(host, &format!("net.ipv4.conf.{name}.rp_filter=0"));
                set(host, &format!("net.ipv4.conf.{name}.send_redirects=0"));
            }
        }
        set(DIRECTOR, "net.ipv4.ip_forward=1");
        set(DIRECTOR, "net.ipv6.conf.all.forwarding=1");
        ip(CLIENT, &format!("addr add {FAR6}/128 dev eth0 nodad"));
        ip(DIRECTOR, &format!("-6 route add {FAR6} via fd00::{CLIENT}"));
        for host in [33, 44] {
            ip(host, &format!("-6 route add {FAR6} via fd00::{DIRECTOR}"));
        }
        ip(CLIENT, &format!("addr add {FAR}/32 dev eth0"));
        ip(DIRECTOR, &format!("route add {FAR} via 192.168.4.{CLIENT}"));
        for host in [33, 44] {
            ip(host, &format!("route add {FAR} via 192.168.4.{DIRECTOR}"));
            // The ends of tunnels.
            ip(host, "link add ipip9 type ipip local any remote any");
            ip(host, "link set tunl0 up");
            set(host, "net.ipv4.conf.tunl0.rp_filter=0");
            ip(host, "link add ip6tnl9 type ip6tnl local any remote any");
            ip(host, "link set ip6tnl0 up");
        }
        Some(Self { lab, _servers: servers })
    }

    fn config(global: &str, services: &[String]) -> String {
        let vrrp = |name: &str, id: u8, vip: &str| {
            format!(
                "vrrp_instance {name} {{\n interface eth0\n virtual_router_id {id}\n\
                 advert_int 0.1\n virtual_ipaddress {{\n {vip}\n }}\n}}\n"
            )
        };
        format!(
            "global_defs {{\n vrrp_version 3\n {global}\n}}\n{}{}{}",
            vrrp("V4", 9, VIP),
            vrrp("V6", 10, "fe80::253\n fd00::253/128"),
            services.concat()
        )
    }

    fn director(&self, config: &str) -> Daemon {
        let director = self.lab.director(DIRECTOR, config);
        let ready = || {
            self.lab.holds(DIRECTOR, VIP)
                && self.lab.holds(DIRECTOR, VIP6)
                && director.log().contains("V4")
                && !self.table().is_empty()
        };
        assert!(eventually(Duration::from_secs(30), ready), "{}", director.log());
        director
    }

    /// Another configuration for a running director.
    fn reload(&self, director: &Daemon, config: &str) {
        self.lab.write(&format!("director-{DIRECTOR}.conf"), config);
        director.signal(libc::SIGHUP);
    }

    /// What ipvsadm sees, in the words of its own commands.
    fn table(&self) -> String {
        self.lab.output(DIRECTOR, "ipvsadm", &["-Sn"]).replace(" --tun-type ipip", "")
    }

    fn ipvsadm(&self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let out = self.lab.command(DIRECTOR, "ipvsadm").args(&words).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    }

    #[track_caller]
    fn wait_for(&self, lines: &[&str], director: &Daemon) {
        let there = || {
            let table = self.table();
            lines.iter().all(|line| table.lines().any(|l| l.trim_end() == *line))
        };
        let fine = eventually(Duration::from_secs(20), there);
        assert!(fine, "{lines:?} not in:\n{}\n{}", self.table(), director.log());
    }

    fn open(&self, vip: &str) -> Connection {
        Connection::open(&self.lab, CLIENT, vip, None).unwrap()
    }

    /// For NAT.
    fn open_from_afar(&self, vip: &str) -> Connection {
        let from = if vip.contains(':') { FAR6 } else { FAR };
        Connection::open(&self.lab, CLIENT, vip, Some(from)).unwrap()
    }

    /// Who answers so many connections that are open at the same time.
    fn servers(&self, vip: &str, n: usize) -> Vec<u8> {
        let held: Vec<Connection> = (0..n).map(|_| self.open(vip)).collect();
        held.iter().map(|c| c.server).collect()
    }
}

fn service(id: &str, net: &str, body: &str, first: &str, second: &str) -> String {
    format!(
        "virtual_server {id} {{\n {body}\n real_server {net}33 80 {{\n {first}\n }}\n\
         real_server {net}44 80 {{\n {second}\n }}\n}}\n"
    )
}

fn v4(body: &str, first: &str, second: &str) -> String {
    service(&format!("{VIP} 80"), "192.168.4.", body, first, second)
}

fn both(body: &str) -> [String; 2] {
    let v6 = service(&format!("{VIP6} 80"), "fd00::", body, "weight 1", "weight 1");
    [v4(body, "weight 1", "weight 1"), v6]
}

#[test]
fn each_way_of_forwarding() {
    let Some(site) = Site::new() else { return };
    let config = |kind: &str| {
        let global = if kind == "DR" { "data_plane ipvs" } else { "" };
        Site::config(global, &both(&format!("lb_algo rr\n lb_kind {kind}")))
    };
    for (kind, flag) in [("DR", "-g"), ("TUN", "-i"), ("NAT", "-m")] {
        let mut director = site.director(&config(kind));
        site.wait_for(
            &[
                "-A -t 192.168.4.253:80 -s rr",
                &format!("-a -t 192.168.4.253:80 -r 192.168.4.33:80 {flag} -w 1"),
                &format!("-a -t 192.168.4.253:80 -r 192.168.4.44:80 {flag} -w 1"),
                "-A -t [fd00::253]:80 -s rr",
                &format!("-a -t [fd00::253]:80 -r [fd00::33]:80 {flag} -w 1"),
            ],
            &director,
        );
        for vip in [VIP, VIP6] {
            let open = |_| if kind == "NAT" { site.open_from_afar(vip) } else { site.open(vip) };
            let mut held = [0, 1, 2, 3].map(open);
            let four = held.each_ref().map(|c| c.server);
            println!("{kind} {vip}: {four:?}");
            assert!(four[0] != four[1] && four[0] == four[2] && four[1] == four[3], "{four:?}");
            held.iter_mut().for_each(|c| c.lives().unwrap());
            let active = |server: &str| {
                site.lab.metric(DIRECTOR, &["current_connections", server, "\"active\""])
            };
            let counted = || {
                let net = if vip.contains(':') { "[fd00::" } else { "192.168.4." };
                [33, 44].iter().all(|h| active(&format!("{net}{h}")).is_some_and(|n| n >= 2.0))
            };
            assert!(eventually(Duration::from_secs(10), counted), "{kind} {vip}");
        }
        // In good order it takes its services with it.
        director.signal(libc::SIGTERM);
        director.wait();
        assert_eq!(site.table(), "", "{kind}");
    }
}

#[test]
fn sctp_by_direct_routing_and_by_nat() {
    let Some(site) = Site::new() else { return };
    for host in [33, 44] {
        for ip in [VIP.to_owned(), format!("192.168.4.{host}")] {
            if !lab::traffic::serve_sctp(&site.lab, host, &ip) {
                println!("skipped: this kernel has no SCTP");
                return;
            }
        }
    }
    for (kind, flag) in [("DR", "-g"), ("NAT", "-m")] {
        let body = format!("protocol SCTP\n lb_algo rr\n lb_kind {kind}");
        let director = site.director(&Site::config("", &[v4(&body, "weight 1", "weight 1")]));
        let second = format!("-a --sctp-service 192.168.4.253:80 -r 192.168.4.44:80 {flag} -w 1");
        site.wait_for(&["-A --sctp-service 192.168.4.253:80 -s rr", &second], &director);
        // By NAT the answers come through the director, else straight from the servers.
        let from = if kind == "NAT" { FAR } else { "192.168.4.254" };
        let open = |_| Connection::open_sctp(&site.lab, CLIENT, VIP, from).unwrap();
        let mut held = [0, 1, 2, 3].map(open);
        let four = held.each_ref().map(|c| c.server);
        println!("SCTP, {kind}: {four:?}");
        assert!(four[0] != four[1] && four[0] == four[2] && four[1] == four[3], "{four:?}");
        held.iter_mut().for_each(|c| c.lives().unwrap());
    }
}

/// One director, one connection that lasts: every scheduler the kernel has, each by a reload.
#[test]
fn each_scheduler() {
    let Some(site) = Site::new() else { return };
    let config = |algo: &str, first: u32, second: u32| {
        let body = format!("lb_algo {algo}\n lb_kind DR");
        let service = v4(&body, &format!("weight {first}"), &format!("weight {second}"));
        Site::config("data_plane ipvs", &[service])
    };
    let director = site.director(&config("rr", 1, 1));
    let mut lasting = site.open(VIP);
    for (algo, weights, shares) in [
        ("rr", (1, 1), (4, 4)),
        ("wrr", (3, 1), (6, 2)),
        ("lc", (1, 1), (4, 4)),
        ("wlc", (3, 1), (6, 2)),
        ("lblc", (1, 1), (8, 0)),
        ("lblcr", (1, 1), (8, 0)),
        ("dh", (1, 1), (8, 0)),
        ("sh", (1, 1), (8, 0)),
        ("mh", (1, 1), (8, 0)),
        ("sed", (3, 1), (6, 2)),
        ("nq", (3, 1), (6, 2)),
        ("fo", (3, 1), (8, 0)),
        ("ovf", (99, 1), (8, 0)),
        ("twos", (1, 1), (4, 4)),
    ] {
        site.reload(&director, &config(algo, weights.0, weights.1));
        let module = format!("ip_vs_{algo}");
        let known = site.lab.command(DIRECTOR, "modprobe").args(["-q", &module]).status().unwrap();
        let served = if known.success() { algo } else { "wlc" };
        let second = format!("-a -t 192.168.4.253:80 -r 192.168.4.44:80 -g -w {}", weights.1);
        let scheduler = format!("-A -t 192.168.4.253:80 -s {served}");
        site.wait_for(&[&scheduler, &second], &director);
        if served != algo {
            let text = format!("this kernel has no {algo}: served as wlc");
            let told = || director.log().contains(&text);
            assert!(eventually(Duration::from_secs(5), told), "{}", director.log());
        }
        let got = site.servers(VIP, 8);
        let of = |host| got.iter().filter(|h| **h == host).count();
        let counts = (of(33), of(44));
        println!("{algo} as {served}, weights {weights:?}: {counts:?}");
        // By turns it is exact; by load, the lasting connection and those that are just ending
        // count too.
        let slack: usize = if algo.ends_with("rr") && algo != "lblcr" { 0 } else { 1 };
        let all_to_one = shares == (8, 0);
        assert!(
            counts.0.abs_diff(shares.0) <= if all_to_one { 0 } else { slack }
                // Whichever it is by its hash; by weight it is the first.
                || all_to_one && weights == (1, 1) && counts == (0, 8),
            "{algo}: {counts:?}"
        );
        lasting.lives().unwrap();
    }
}

/// What is there already is taken over with its connections, from whomever; what is foreign stays.
#[test]
fn what_is_there_is_taken_over() {
    let Some(site) = Site::new() else { return };
    let address = format!("{VIP}/24");
    site.lab.output(DIRECTOR, "ip", &["addr", "add", &address, "dev", "eth0"]);
    site.ipvsadm("-A -t 192.168.4.253:80 -s wlc -p 100");
    site.ipvsadm("-a -t 192.168.4.253:80 -r 192.168.4.33:80 -m -w 7");
    site.ipvsadm("-A -t 192.168.4.200:81 -s rr");
    site.ipvsadm("-a -t 192.168.4.200:81 -r 192.168.4.201:81 -m -w 1");
    let mut before = site.open_from_afar(VIP);
    let config = |global: &str| Site::config(global, &[v4("lb_algo rr", "weight 2", "weight 1")]);
    let mut director = site.director(&config(""));
    let ours = [
        "-A -t 192.168.4.253:80 -s rr",
        "-a -t 192.168.4.253:80 -r 192.168.4.33:80 -m -w 2",
        "-a -t 192.168.4.253:80 -r 192.168.4.44:80 -m -w 1",
    ];
    let foreign =
        ["-A -t 192.168.4.200:81 -s rr", "-a -t 192.168.4.200:81 -r 192.168.4.201:81 -m -w 1"];
    site.wait_for(&[&ours[..], &foreign[..]].concat(), &director);
    let told = "the kernel also serves 192.168.4.200:81";
    assert!(director.log().contains(told), "{}", director.log());
    assert!(eventually(Duration::from_secs(10), || before.lives().is_ok()));
    let mut during = site.open_from_afar(VIP);

    director.signal(libc::SIGKILL);
    director.wait();
    assert!(ours.iter().all(|line| site.table().contains(line)), "{}", site.table());
    let mut director = site.director(&config("lvs_on_stop keep"));
    site.wait_for(&ours, &director);
    before.lives().unwrap();
    during.lives().unwrap();
    director.signal(libc::SIGTERM);
    director.wait();
    assert!(ours.iter().all(|line| site.table().contains(line)), "{}", site.table());

    let mut director = site.director(&config(""));
    site.wait_for(&ours, &director);
    before.lives().unwrap();
    director.signal(libc::SIGTERM);
    director.wait();
    assert_eq!(site.table().lines().map(str::trim_end).collect::<Vec<_>>(), foreign);
    let mut director = site.director(&config("lvs_flush\n lvs_flush_on_stop"));
    site.wait_for(&ours, &director);
    assert!(!site.table().contains(foreign[0]), "{}", site.table());
    director.signal(libc::SIGTERM);
    director.wait();
    assert_eq!(site.table(), "");
}

/// Persistence, limits, draining, one-packet scheduling, hash options and firewall marks.
#[test]
fn what_a_service_can_be_asked_for() {
    let Some(site) = Site::new() else { return };
    let body = "lb_algo mh\n mh-port\n mh-fallback\n lb_kind DR\n persistence_timeout 50\n\
                persistence_granularity 255.255.255.0";
    let config = |weight: u32| {
        let udp = format!(
            "virtual_server {VIP} 80 {{\n protocol UDP\n ops\n lb_algo rr\n lb_kind DR\n\
             real_server 192.168.4.33 80 {{\n weight 1\n }}\n\
             real_server 192.168.4.44 80 {{\n weight 1\n }}\n}}\n"
        );
        let mark = service("fwmark 5", "192.168.4.", "lb_kind TUN", "weight 1", "weight 1");
        let limits = "uthreshold 90\n lthreshold 60";
        let first = format!("weight {weight}\n {limits}");
        Site::config("data_plane ipvs", &[v4(body, &first, limits), udp, mark])
    };
    for host in [33, 44] {
        site.lab.output(host, "ip", &["addr", "add", "192.168.4.252/32", "dev", "lo"]);
    }
    site.lab.output(DIRECTOR, "ip", &["addr", "add", "192.168.4.252/24", "dev", "eth0"]);
    let mark = "-t mangle -A PREROUTING -d 192.168.4.252 -p tcp -j MARK --set-mark 5";
    let mark: Vec<&str> = mark.split(' ').collect();
    let marked = site.lab.command(DIRECTOR, "iptables").args(&mark).output().unwrap();
    assert!(marked.status.success(), "{}", String::from_utf8_lossy(&marked.stderr));
    let director = site.director(&config(3));
    site.wait_for(
        &[
            "-A -t 192.168.4.253:80 -s mh -p 50 -M 255.255.255.0 -b mh-fallback,mh-port",
            "-a -t 192.168.4.253:80 -r 192.168.4.33:80 -g -w 3",
            "-A -u 192.168.4.253:80 -s rr -o",
            "-A -f 5 -s wlc",
            "-a -f 5 -r 192.168.4.33:80 -i -w 1",
        ],
        &director,
    );
    let limits = site.lab.output(DIRECTOR, "ipvsadm", &["-Ln", "--thresholds"]);
    let of_33 = |l: &&str| l.contains("192.168.4.33:80") && l.contains("90");
    assert!(limits.lines().filter(of_33).any(|l| l.contains("60")), "{limits}");
    let first = site.open(VIP).server;
    assert!(site.servers(VIP, 5).iter().all(|s| *s == first), "a client stays");
    // Each packet of one socket by itself.
    let socket = udp(&site.lab, CLIENT, false);
    let four: Vec<u8> = (0..4).map(|_| datagram(&socket, VIP, 9).unwrap().0).collect();
    assert!(four[0] != four[1] && four[0] == four[2] && four[1] == four[3], "{four:?}");
    // What the firewall marked, whatever its address.
    let two = site.servers("192.168.4.252", 2);
    assert_ne!(two[0], two[1], "by wlc, to one each");
    // Drained: weight 0, and what it has stays.
    site.reload(&director, &config(0));
    site.wait_for(&["-a -t 192.168.4.253:80 -r 192.168.4.33:80 -g -w 0"], &director);
}
