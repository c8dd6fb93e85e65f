//! The reference site in network namespaces with real web servers: a client, two directors with
//! the site's own files, two nginx that hold the virtual address on lo. The classic proofs.
//!
//! Skips, saying so, where it is not root or nginx is not installed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::time::Duration;

use lab::{Daemon, Lab, VIP, eventually, has, unable};

const SITE_88: &str = include_str!("../../../config/site/keepalived-88.conf");
const SITE_99: &str = include_str!("../../../config/site/keepalived-99.conf");
const CLIENT: u8 = 254;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

macro_rules! lab_or_skip {
    () => {{
        if let Some(why) = unable() {
            println!("skipped: {why}");
            return;
        }
        for program in ["nginx", "curl"] {
            if !has(program) {
                println!("skipped: {program} is not installed");
                return;
            }
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
    let config = format!(
        "daemon off;\nmaster_process off;\npid {d}/pid;\nerror_log {d}/error.log;\n\
         events {{}}\nhttp {{\n access_log off;\n client_body_temp_path {d}/a;\n proxy_temp_path {d}/b;\n\
         fastcgi_temp_path {d}/c;\n uwsgi_temp_path {d}/d;\n scgi_temp_path {d}/e;\n\
         server {{ listen 80; listen [::]:80; root {d}; }}\n}}\n"
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

/// Downloads too large to hide in buffers go on when the active director dies: because Maglev gives
/// both directors the same table, or because they share what each connection began with. The
/// controls: tables that differ, and counting without sharing.
#[test]
fn downloads_survive_the_death_of_the_director() {
    let lab = lab_or_skip!();
    let _web = [web(&lab, 33), web(&lab, 44)];
    for host in [33, 44] {
        let file = std::fs::File::create(lab.dir.path().join(format!("web{host}/big"))).unwrap();
        file.set_len(40 << 20).unwrap();
    }
    // The servers of one director in the other's place: round robin by tables that differ.
    let config = |priority: u8, algo: &str, sync: &str, servers: [u8; 2]| {
        let server = |host| format!("real_server 192.168.4.{host} 80 {{\n weight 1\n }}\n");
        format!(
            "global_defs {{\n vrrp_version 3\n flow_sync {sync}\n}}\n\
             vrrp_instance V {{\n interface eth0\n\
             virtual_router_id 9\n priority {priority}\n advert_int 0.1\n\
             virtual_ipaddress {{\n {VIP}\n }}\n}}\n\
             virtual_server {VIP} 80 {{\n lb_algo {algo}\n lb_kind DR\n{}{}}}\n",
            server(servers[0]),
            server(servers[1])
        )
    };
    let both = [33, 44];
    for (algo, sync, second, expected) in [
        ("mh", "off", both, 6..=6),
        ("wlc", "on", both, 6..=6),
        ("rr", "on", both, 6..=6),
        ("rr", "off", both, 0..=0),
        // Of the director that takes over, each connection's server is another one or none.
        ("mh", "off", [45, 46], 0..=0),
    ] {
        let a = lab.director(88, &config(150, algo, sync, both));
        // Alone, so that nobody has the address from one that stood down again.
        assert!(eventually(seconds(10), || lab.holds(88, VIP)), "{}", a.log());
        let b = lab.director(99, &config(100, algo, sync, second));
        let is_backup = || b.log().contains("INIT -> BACKUP");
        assert!(
            eventually(seconds(10), || is_backup() && lab.holds(88, VIP) && answers(&lab)),
            "{}{}",
            a.log(),
            b.log()
        );
        let body = |i: usize| lab.dir.path().join(format!("{algo}-{sync}-{i}.body"));
        let mut downloads: Vec<Daemon> = (0..6)
            .map(|i| {
                let mut command = lab.command(CLIENT, "curl");
                let url = format!("http://{VIP}/big");
                command.args(["-sS", "--limit-rate", "8M", "--max-time", "20", &url, "-o"]);
                command.arg(body(i));
                Daemon::start(command, lab.dir.path().join(format!("download-{i}.log")))
            })
            .collect();
        let begun = |i| std::fs::metadata(body(i)).is_ok_and(|m| m.len() > 1 << 20);
        assert!(eventually(seconds(10), || (0..6).all(begun)), "{}", a.log());
        a.signal(libc::SIGKILL);
        let intact = downloads
            .iter_mut()
            .map(|d| d.child.wait().unwrap().success())
            .filter(|success| *success)
            .count();
        println!("{algo}, flow_sync {sync}: {intact} of 6 downloads intact after kill -9");
        assert!(expected.contains(&intact), "{algo} {sync}: {intact}\n{}\n{}", a.log(), b.log());
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
