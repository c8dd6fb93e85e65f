//! Packets a second through a director: eBPF, IPVS and plain forwarding one after the other, several
//! times over. `cargo xtask ipvs-vm --rate` runs it under virtual time, where it repeats within a few
//! per cent whatever else the machine does; elsewhere it shows what it shows.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use lab::traffic::Server;
use lab::{Daemon, Lab, VIP, able, eventually, in_namespace};

const CLIENT: u8 = 254;
const DIRECTOR: u8 = 88;
const SERVER: u8 = 33;
/// Routed through the director, without a virtual server.
const ROUTED: &str = "10.50.0.1";
const PACKETS: u32 = 5_000;
const ROUNDS: usize = 5;

fn received(lab: &Lab) -> u64 {
    let path = "/sys/class/net/eth0/statistics/rx_packets";
    lab.output(SERVER, "cat", &[path]).trim().parse().unwrap()
}

/// Sends them and waits until they are there.
fn rate(lab: &Lab, target: &'static str) -> f64 {
    let before = received(lab);
    let took = in_namespace(lab.namespace(CLIENT), move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((target, 9)).unwrap();
        // The first one makes the connection, and finds the neighbours.
        let _ = socket.send(&[0; 18]);
        std::thread::sleep(Duration::from_millis(50));
        let begin = Instant::now();
        for _ in 0..PACKETS {
            socket.send(&[0; 18]).unwrap();
        }
        begin.elapsed()
    })
    .join()
    .unwrap();
    let all = || received(lab) - before >= u64::from(PACKETS);
    assert!(eventually(Duration::from_secs(5), all), "{} came", received(lab) - before);
    f64::from(PACKETS) / took.as_secs_f64()
}

fn director(lab: &Lab, plane: &str) -> Daemon {
    let config = format!(
        "global_defs {{\n vrrp_version 3\n data_plane {plane}\n}}\n\
         vrrp_instance V {{\n interface eth0\n virtual_router_id 9\n advert_int 1\n\
         virtual_ipaddress {{\n {VIP}\n }}\n}}\n\
         virtual_server {VIP} 9 {{\n protocol UDP\n lb_algo rr\n lb_kind DR\n\
         real_server 192.168.4.{SERVER} 9 {{\n weight 1\n }}\n}}\n"
    );
    let director = lab.director(DIRECTOR, &config);
    let ready = || lab.holds(DIRECTOR, VIP) && lab.metric(DIRECTOR, &["packets"]).is_some();
    assert!(eventually(Duration::from_secs(30), ready), "{}", director.log());
    director
}

#[test]
#[ignore = "a measurement"]
fn packets_a_second() {
    if !able(&[]) {
        return;
    }
    let lab = Lab::new(&[CLIENT, DIRECTOR, SERVER]);
    let run = |host: u8, line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        lab.output(host, words[0], &words[1..])
    };
    Server::prepare(&lab, SERVER);
    for line in ["ip_forward=1", "conf.all.send_redirects=0", "conf.eth0.send_redirects=0"] {
        run(DIRECTOR, &format!("sysctl -qw net.ipv4.{line}"));
    }
    run(CLIENT, &format!("ip route add {ROUTED} via 192.168.4.{DIRECTOR}"));
    run(DIRECTOR, &format!("ip route add {ROUTED} via 192.168.4.{SERVER}"));
    run(SERVER, &format!("ip addr add {ROUTED}/32 dev lo"));
    // Never read: what arrives is dropped, and not answered, which would be measured too.
    let sink = in_namespace(lab.namespace(SERVER), || UdpSocket::bind("0.0.0.0:9").unwrap());
    let _sink = sink.join().unwrap();
    let has_ipvs = std::path::Path::new("/proc/net/ip_vs").exists();

    let mut rows = vec![("plain forwarding", Vec::new()), ("eBPF on tc", Vec::new())];
    if has_ipvs {
        rows.push(("IPVS", Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (name, rates) in &mut rows {
            let (plane, target) = match *name {
                "eBPF on tc" => (Some("tc"), VIP),
                "IPVS" => (Some("ipvs"), VIP),
                _ => (None, ROUTED),
            };
            let running = plane.map(|plane| director(&lab, plane));
            rates.push(rate(&lab, target));
            drop(running);
        }
    }
    println!("{:<20} {:>10} {:>10} {:>10}  packets/s", "", "min", "median", "max");
    for (name, rates) in &mut rows {
        rates.sort_by(f64::total_cmp);
        let (min, median, max) = (rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
        println!("{name:<20} {min:>10.0} {median:>10.0} {max:>10.0}");
    }
}
