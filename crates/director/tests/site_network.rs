//! The reference site in network namespaces with real web servers: a client, two directors with
//! the site's own files, two nginx that hold the virtual address on lo. The classic proofs.
//!
//! Skips, saying so, where it is not root or nginx is not installed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::time::Duration;

use lab::{Daemon, Lab, VIP, able, eventually};

const SITE_88: &str = include_str!("../../../config/site/keepalived-88.conf");
const SITE_99: &str = include_str!("../../../config/site/keepalived-99.conf");
const CLIENT: u8 = 254;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

macro_rules! lab_or_skip {
    () => {{
        if !able(&["nginx", "curl"]) {
            return;
        }
        Lab::new(&[CLIENT, 88, 99, 33, 44])
    }};
}

/// nginx on a web server that answers its own name, and what direct routing asks of it.
fn web(lab: &Lab, host: u8) -> Daemon {
    lab.output(host, "ip", &["addr", "add", &format!("{VIP}/32"), "dev", "lo"]);
    lab.output(host, "ip", &["addr", "add", "fd00::253/128", "dev", "lo"]);
    for setting in
        ["lo.arp_ignore=1", "all.arp_ignore=1", "lo.arp_announce=2", "all.arp_announce=2"]
    {
        lab.output(host, "sysctl", &["-q", "-w", &format!("net.ipv4.conf.{setting}")]);
    }
    let dir = lab.dir.path().join(format!("web{host}"));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("test.html"), format!("web{host}\n")).unwrap();
    let d = dir.display();
    let ports: String = ALGORITHMS.iter().map(|(port, ..)| format!("listen {port}; ")).collect();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {d}/pid;\nerror_log {d}/error.log;\n\
         events {{}}\nhttp {{\n access_log off;\n client_body_temp_path {d}/a;\n proxy_temp_path {d}/b;\n\
         fastcgi_temp_path {d}/c;\n uwsgi_temp_path {d}/d;\n scgi_temp_path {d}/e;\n\
         server {{ listen 80; listen [::]:80; {ports} root {d}; }}\n}}\n"
    );
    let file = lab.write(&format!("nginx-{host}.conf"), &config);
    let mut command = lab.command(host, "nginx");
    command.arg("-c").arg(file).args(["-e", dir.join("early.log").to_str().unwrap()]);
    Daemon::start(command, dir.join("out.log"))
}

/// One request of the client; what it got, or curl's complaint.
fn get_from(lab: &Lab, address: &str) -> String {
    let url = format!("http://{address}/test.html");
    let out =
        lab.command(CLIENT, "curl").args(["-sS", "-g", "--max-time", "8", &url]).output().unwrap();
    let answer = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    if out.status.success() { answer } else { String::from_utf8_lossy(&out.stderr).into_owned() }
}

fn get(lab: &Lab) -> String {
    get_from(lab, VIP)
}

/// The site's file with its delays shortened: what is proved is the same.
fn hasty(config: &str) -> String {
    let check = "TCP_CHECK {\n connect_timeout 1\n retry 1\n delay_before_retry 0.1\n }\n";
    config
        .replace("delay_loop 6", "delay_loop 0.3")
        .replace("weight 1", &format!("weight 1\n{check}"))
}

fn answers(lab: &Lab) -> bool {
    get(lab).starts_with("web")
}

#[test]
fn the_classic_proofs() {
    let lab = lab_or_skip!();
    let mut web33 = web(&lab, 33);
    let _web44 = web(&lab, 44);
    let mut a = lab.director(88, &hasty(SITE_88));
    let mut b = lab.director(99, &hasty(SITE_99));
    let logs = |a: &Daemon, b: &Daemon| format!("{}\n{}", a.log(), b.log());
    assert!(eventually(seconds(8), || lab.holds(88, VIP) && answers(&lab)), "{}", logs(&a, &b));

    let four: Vec<String> = (0..4).map(|_| get(&lab)).collect();
    println!("four requests: {four:?}");
    assert!(four[0] != four[1] && four[0] == four[2] && four[1] == four[3], "{four:?}");
    assert!(four.iter().all(|a| a == "web33" || a == "web44"), "{four:?}");

    web33.signal(libc::SIGKILL);
    web33.kill_tree();
    web33.wait();
    assert!(eventually(seconds(5), || a.log().contains("192.168.4.33:80 is down")), "{}", a.log());
    let four: Vec<String> = (0..4).map(|_| get(&lab)).collect();
    println!("web33 killed: {four:?}");
    assert!(four.iter().all(|a| a == "web44"), "{four:?}");
    let _web33 = web(&lab, 33);
    assert!(eventually(seconds(5), || a.log().contains("192.168.4.33:80 is up")), "{}", a.log());
    assert!(eventually(seconds(5), || get(&lab) == "web33"), "{}", a.log());

    a.signal(libc::SIGTERM);
    a.wait();
    assert!(lab.holds(99, VIP), "{}", logs(&a, &b));
    let four: Vec<String> = (0..4).map(|_| get(&lab)).collect();
    println!("active director stopped: {four:?}");
    assert!(four[0] != four[1] && four.iter().all(|a| a.starts_with("web")), "{four:?}");

    b.signal(libc::SIGTERM);
    b.wait();
    lab.output(CLIENT, "ip", &["neigh", "flush", "all"]);
    let connect = format!("exec 3<>/dev/tcp/{VIP}/80");
    let out = lab.command(CLIENT, "bash").args(["-c", &connect]).env("LC_ALL", "C").output();
    let answer = String::from_utf8_lossy(&out.unwrap().stderr).into_owned();
    println!("both stopped: {answer}");
    assert!(answer.to_lowercase().contains("no route to host"), "{answer}");
}

/// The site's files without any change: no health checks, and still four requests alternate.
#[test]
fn the_sites_own_files_unchanged() {
    let lab = lab_or_skip!();
    let _web = [web(&lab, 33), web(&lab, 44)];
    let a = lab.director(88, SITE_88);
    let b = lab.director(99, SITE_99);
    assert!(
        eventually(seconds(8), || lab.holds(88, VIP) && answers(&lab)),
        "{}{}",
        a.log(),
        b.log()
    );
    let four: Vec<String> = (0..4).map(|_| get(&lab)).collect();
    assert!(four[0] != four[1] && four[0] == four[2] && four[1] == four[3], "{four:?}");
}

#[test]
fn ipv6_too() {
    let lab = lab_or_skip!();
    let _web = [web(&lab, 33), web(&lab, 44)];
    let config = "vrrp_instance V6 {\n interface eth0\n version 3\n virtual_router_id 6\n advert_int 0.1\n\
         virtual_ipaddress {\n fe80::253\n fd00::253/128\n }\n}\n\
         virtual_server fd00::253 80 {\n lb_algo rr\n lb_kind DR\n\
         real_server fd00::33 80 {\n weight 1\n }\n real_server fd00::44 80 {\n weight 1\n }\n}\n";
    let a = lab.director(88, config);
    let all = || (0..4).map(|_| get_from(&lab, "[fd00::253]")).collect::<Vec<_>>();
    assert!(
        eventually(seconds(6), || lab.holds(88, "fd00::253")
            && all().iter().all(|a| a.starts_with("web"))),
        "{:?}\n{}",
        all(),
        a.log()
    );
    let four = all();
    assert!(four[0] != four[1] && four[0] == four[2], "{four:?}");
}

/// Each scheduler that eBPF has, and the port that it serves below; of six connections of one client
/// those that the first of two servers of weights 2 and 1 gets, where that is certain.
const ALGORITHMS: [(u16, &str, Option<usize>); 9] = [
    (8001, "rr", Some(3)),
    (8002, "wrr", Some(4)),
    (8003, "lc", Some(3)),
    (8004, "wlc", Some(4)),
    (8005, "sed", Some(4)),
    (8006, "nq", Some(4)),
    (8007, "sh", None),
    (8008, "dh", None),
    (8009, "mh", None),
];

/// Six downloads at once of each port, from their first megabyte on.
fn downloads(lab: &Lab, ports: &[u16], name: &str, rate: &str) -> Vec<(u16, Daemon)> {
    let body = |port: u16, i: usize| lab.dir.path().join(format!("{name}-{port}-{i}.body"));
    let all: Vec<(u16, usize)> = ports.iter().flat_map(|p| (0..6).map(|i| (*p, i))).collect();
    let running = all
        .iter()
        .map(|&(port, i)| {
            let mut command = lab.command(CLIENT, "curl");
            let url = format!("http://{VIP}:{port}/big");
            // One that hangs has ended.
            let hung = ["--speed-time", "8", "--speed-limit", "1000"];
            command.args(["-sS", "--limit-rate", rate, &url]).args(hung).arg("-o");
            command.arg(body(port, i));
            (port, Daemon::start(command, lab.dir.path().join(format!("{name}-{port}-{i}.log"))))
        })
        .collect();
    let begun = |(port, i)| std::fs::metadata(body(port, i)).is_ok_and(|m| m.len() > 1 << 20);
    assert!(eventually(seconds(20), || all.iter().all(|d| begun(*d))), "downloads don't begin");
    running
}

/// How many of the downloads of `port` come to a good end.
fn intact(downloads: &mut [(u16, Daemon)], port: u16) -> usize {
    let of_it = downloads.iter_mut().filter(|(p, _)| *p == port);
    of_it.map(|(_, d)| d.child.wait().unwrap().success()).filter(|success| *success).count()
}

/// Two directors whose first one is active; `second` are the servers of the other one.
fn pair(lab: &Lab, services: &[(u16, &str)], sync: &str, second: [u8; 2]) -> (Daemon, Daemon) {
    let config = |priority: u8, servers: [u8; 2]| {
        let mut config = format!(
            "global_defs {{\n vrrp_version 3\n flow_sync {sync}\n}}\n\
             vrrp_instance V {{\n interface eth0\n\
             virtual_router_id 9\n priority {priority}\n advert_int 0.1\n\
             virtual_ipaddress {{\n {VIP}\n }}\n}}\n"
        );
        for (port, algo) in services {
            let weights = if ["rr", "lc"].contains(algo) { [1, 1] } else { [2, 1] };
            let server = |i: usize| {
                let (host, weight) = (servers[i], weights[i]);
                format!("real_server 192.168.4.{host} {port} {{\n weight {weight}\n }}\n")
            };
            config += &format!(
                "virtual_server {VIP} {port} {{\n lb_algo {algo}\n lb_kind DR\n{}{}}}\n",
                server(0),
                server(1)
            );
        }
        config
    };
    let a = lab.director(88, &config(150, [33, 44]));
    // Alone, so that nobody has the address from one that stood down again.
    assert!(eventually(seconds(10), || lab.holds(88, VIP)), "{}", a.log());
    let b = lab.director(99, &config(100, second));
    let ready = || {
        b.log().contains("INIT -> BACKUP")
            && lab.holds(88, VIP)
            && get_from(lab, &format!("{VIP}:{}", services[0].0)).starts_with("web")
    };
    assert!(eventually(seconds(10), ready), "{}{}", a.log(), b.log());
    (a, b)
}

fn big_files(lab: &Lab) {
    for host in [33, 44] {
        let file = std::fs::File::create(lab.dir.path().join(format!("web{host}/big"))).unwrap();
        file.set_len(40 << 20).unwrap();
    }
}

/// Downloads too large to hide in buffers go on when the active director dies, whatever the scheduler,
/// because directors share what each connection began with.
#[test]
fn downloads_survive_the_death_of_the_director_with_every_scheduler() {
    let lab = lab_or_skip!();
    let _web = [web(&lab, 33), web(&lab, 44)];
    big_files(&lab);
    let services = ALGORITHMS.map(|(port, algo, _)| (port, algo));
    let (a, b) = pair(&lab, &services, "on", [33, 44]);
    let ports = ALGORITHMS.map(|(port, ..)| port);
    let mut all = downloads(&lab, &ports, "every", "4M");
    let held = |director: u8, host: u8, port: u16| {
        let server = format!("192.168.4.{host}:{port}");
        lab.metric(director, &["current_connections", &server, "\"active\""]).unwrap_or(0.0)
    };
    let of = |director: u8, port: u16| held(director, 33, port) + held(director, 44, port);
    let told = || ports.iter().all(|port| of(99, *port) >= 6.0);
    assert!(eventually(seconds(10), told), "{}{}", a.log(), b.log());
    for (port, algo, first) in ALGORITHMS {
        let shares = (held(88, 33, port) as usize, held(88, 44, port) as usize);
        println!("{algo}: six connections: {shares:?}");
        if let Some(first) = first {
            assert_eq!(shares, (first, 6 - first), "{algo}");
        }
    }
    a.signal(libc::SIGKILL);
    for (port, algo, _) in ALGORITHMS {
        let intact = intact(&mut all, port);
        println!("{algo}, flow_sync on: {intact} of 6 downloads intact after kill -9");
        assert_eq!(intact, 6, "{algo}\n{}\n{}", a.log(), b.log());
    }
}

/// Without sharing it takes the same table on both directors, which Maglev gives. The controls: by
/// turns, and by tables that differ.
#[test]
fn downloads_survive_without_sharing_by_equal_tables_only() {
    let lab = lab_or_skip!();
    let _web = [web(&lab, 33), web(&lab, 44)];
    big_files(&lab);
    for (algo, second, expected) in [
        ("mh", [33, 44], 6),
        ("rr", [33, 44], 0),
        // Of the director that takes over, each connection's server is another one or none.
        ("mh", [45, 46], 0),
    ] {
        let (a, b) = pair(&lab, &[(80, algo)], "off", second);
        let mut all = downloads(&lab, &[80], algo, "8M");
        a.signal(libc::SIGKILL);
        let intact = intact(&mut all, 80);
        println!("{algo}, servers {second:?}, flow_sync off: {intact} of 6 downloads intact");
        assert_eq!(intact, expected, "{algo}\n{}\n{}", a.log(), b.log());
    }
}

/// "Fragmentation needed" for a packet that a web server sent must reach that web server.
#[test]
fn icmp_errors_follow_their_connection() {
    use std::io::Read;
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};
    use std::sync::{Arc, Barrier};

    let lab = lab_or_skip!();
    let _web = [web(&lab, 33), web(&lab, 44)];
    let a = lab.director(88, SITE_88);
    assert!(eventually(seconds(8), || lab.holds(88, VIP) && answers(&lab)), "{}", a.log());
    let vip: Ipv4Addr = VIP.parse().unwrap();
    let raw = || {
        socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::RAW,
            Some(socket2::Protocol::ICMPV4),
        )
        .unwrap()
    };
    // Each web server counts what it gets of ICMP type 3 code 4.
    let watch = |host: u8, ready: Arc<Barrier>| {
        lab::in_namespace(lab.namespace(host), move || {
            let socket = raw();
            ready.wait();
            socket.set_read_timeout(Some(seconds(2))).unwrap();
            let mut socket = std::fs::File::from(std::os::fd::OwnedFd::from(socket));
            let mut buffer = [0; 1500];
            let mut count = 0;
            while let Ok(length) = socket.read(&mut buffer) {
                count += usize::from(length >= 28 && buffer[20..22] == [3, 4]);
            }
            count
        })
    };
    for _ in 0..2 {
        let ready = Arc::new(Barrier::new(3));
        let watchers = [33, 44].map(|host| watch(host, Arc::clone(&ready)));
        let client = lab::in_namespace(lab.namespace(CLIENT), move || {
            use std::io::Write;
            ready.wait();
            let mut stream = TcpStream::connect((vip, 80)).unwrap();
            let SocketAddr::V4(own) = stream.local_addr().unwrap() else { panic!() };
            let mut message = vec![3, 4, 0, 0, 0, 0, 0x05, 0x78];
            // The packet the web server sent: IPv4 header and eight bytes of TCP.
            message.extend_from_slice(&[0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 63, 6, 0, 0]);
            message.extend_from_slice(&vip.octets());
            message.extend_from_slice(&own.ip().octets());
            message.extend_from_slice(&80u16.to_be_bytes());
            message.extend_from_slice(&own.port().to_be_bytes());
            message.extend_from_slice(&[0; 4]);
            let words = message.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
            let sum: u32 = words.sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum + (sum >> 16)) as u16);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            raw().send_to(&message, &SocketAddr::from((vip, 0)).into()).unwrap();
            stream.write_all(b"GET /test.html HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = client.join().unwrap();
        let counts = watchers.map(|w| w.join().unwrap());
        let expected = if answer.contains("web33") { [1, 0] } else { [0, 1] };
        assert_eq!(counts, expected, "{answer}");
    }
}
