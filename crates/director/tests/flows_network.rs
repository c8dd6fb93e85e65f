//! Connections that outlive the director they began on, by each way its peer can be told of them; and
//! ICMPv6 errors, which must reach the server whose packet they tell of.
//!
//! Skips, saying so, where it is not root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use lab::traffic::{Connection, Server, VIP6};
use lab::{Daemon, Lab, VIP, able, eventually, in_namespace};

const CLIENT: u8 = 254;

fn site(hosts: &[u8]) -> Option<(Lab, Vec<Server>)> {
    if !able(&[]) {
        return None;
    }
    let lab = Lab::new(hosts);
    let servers = [33, 44].map(|host| Server::start(&lab, host)).into();
    Some((lab, servers))
}

/// Of the director `own` whose peer is `other`.
fn config(own: u8, other: u8, v6: bool, unicast: bool, sync: &str) -> String {
    let (net, vip) = if v6 { ("fd00::", VIP6) } else { ("192.168.4.", VIP) };
    let priority = if own == 88 { 150 } else { 100 };
    let peers = if unicast {
        format!("unicast_src_ip {net}{own}\n unicast_peer {{\n {net}{other}\n }}")
    } else {
        String::new()
    };
    // The first address of IPv6 is a link-local one.
    let first = if v6 { "fe80::253\n fd00::253/128" } else { vip };
    format!(
        "global_defs {{\n vrrp_version 3\n flow_sync {sync}\n flow_sync_secret between-us\n}}\n\
         vrrp_instance V {{\n interface eth0\n virtual_router_id 9\n priority {priority}\n\
         advert_int 0.1\n {peers}\n virtual_ipaddress {{\n {first}\n }}\n}}\n\
         virtual_server {vip} 80 {{\n lb_algo rr\n lb_kind DR\n\
         real_server {net}33 80 {{\n weight 1\n }}\n real_server {net}44 80 {{\n weight 1\n }}\n}}\n"
    )
}

fn established(lab: &Lab, director: u8) -> f64 {
    let of = |server| lab.metric(director, &["current_connections", server, "\"active\""]);
    ["33]:80", "44]:80", ".33:80", ".44:80"].into_iter().filter_map(of).sum()
}

#[test]
fn the_peer_is_told_by_every_way() {
    let Some((lab, _servers)) = site(&[CLIENT, 88, 99, 33, 44]) else { return };
    for (v6, unicast, sync, late) in [
        (false, true, "on", false),
        (true, false, "on", false),
        (true, true, "on", false),
        // A director that starts asks for what there is.
        (false, false, "on", true),
        (true, true, "on", true),
        // The control: by turns, a director that was told nothing can't know.
        (true, true, "off", false),
    ] {
        let vip = if v6 { VIP6 } else { VIP };
        let open_one = || Connection::open(&lab, CLIENT, vip, None);
        let open_six = || -> Vec<Connection> { (0..6).map(|_| open_one().unwrap()).collect() };
        let a = lab.director(88, &config(88, 99, v6, unicast, sync));
        // Alone, so that nobody has the address from one that stood down again.
        let alone = || lab.holds(88, vip) && open_one().is_ok();
        assert!(eventually(Duration::from_secs(10), alone), "{}", a.log());
        let before = if late { open_six() } else { Vec::new() };
        let b = lab.director(99, &config(99, 88, v6, unicast, sync));
        let logs = |a: &Daemon, b: &Daemon| format!("{}\n{}", a.log(), b.log());
        let ready =
            || b.log().contains("INIT -> BACKUP") && lab.holds(88, vip) && !lab.holds(99, vip);
        assert!(eventually(Duration::from_secs(15), ready), "{}", logs(&a, &b));
        let mut open = if late { before } else { open_six() };
        assert!(open.iter().any(|c| c.server == 33) && open.iter().any(|c| c.server == 44));
        if sync == "on" {
            let told = || established(&lab, 99) >= 6.0;
            assert!(eventually(Duration::from_secs(10), told), "{}", logs(&a, &b));
        }
        a.signal(libc::SIGKILL);
        assert!(eventually(Duration::from_secs(10), || lab.holds(99, vip)), "{}", logs(&a, &b));
        let alive = open.iter_mut().filter_map(|c| c.lives().ok()).count();
        let way = if unicast { "unicast" } else { "multicast" };
        let when = if late { ", begun before the peer" } else { "" };
        println!("{vip}, {way}, flow_sync {sync}{when}: {alive} of 6 connections go on");
        assert_eq!(alive, if sync == "on" { 6 } else { 0 }, "{}", logs(&a, &b));
    }
}

/// "Packet too big", without which IPv6 connections through a narrower link hang.
#[test]
fn icmpv6_errors_follow_their_connection() {
    const TOO_BIG: u8 = 2;
    let Some((lab, _servers)) = site(&[CLIENT, 88, 33, 44]) else { return };
    let a = lab.director(88, &config(88, 99, true, false, "off"));
    let open = || Connection::open(&lab, CLIENT, VIP6, None);
    assert!(eventually(Duration::from_secs(10), || open().is_ok()), "{}", a.log());
    let vip: Ipv6Addr = VIP6.parse().unwrap();
    let raw = || {
        let protocol = Some(socket2::Protocol::ICMPV6);
        socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::RAW, protocol).unwrap()
    };
    // Each server counts the errors it gets, until none comes for a while.
    let watch = |host: u8, ready: Arc<Barrier>| {
        in_namespace(lab.namespace(host), move || {
            use std::io::Read;
            let socket = raw();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            ready.wait();
            let mut socket = std::fs::File::from(std::os::fd::OwnedFd::from(socket));
            let end = std::time::Instant::now() + Duration::from_secs(2);
            let mut buffer = [0; 1500];
            let mut count = 0;
            while std::time::Instant::now() < end {
                let length = socket.read(&mut buffer).unwrap_or(0);
                count += usize::from(length >= 8 && buffer[0] == TOO_BIG);
            }
            count
        })
    };
    let mut seen = Vec::new();
    for _ in 0..4 {
        let connection = open().unwrap();
        let ready = Arc::new(Barrier::new(3));
        let watchers = [33, 44].map(|host| watch(host, Arc::clone(&ready)));
        let client = connection.client();
        let IpAddr::V6(client_ip) = client.ip() else { panic!("{client}") };
        let sender = in_namespace(lab.namespace(CLIENT), move || {
            // MTU 1280, then the packet that the server sent: IPv6 header, ports of TCP.
            let mut message = vec![TOO_BIG, 0, 0, 0, 0, 0, 0x05, 0x00];
            message.extend_from_slice(&[0x60, 0, 0, 0, 0x05, 0x8c, 6, 63]);
            message.extend_from_slice(&vip.octets());
            message.extend_from_slice(&client_ip.octets());
            message.extend_from_slice(&80u16.to_be_bytes());
            message.extend_from_slice(&client.port().to_be_bytes());
            message.extend_from_slice(&[0; 16]);
            ready.wait();
            // The kernel fills in the checksum.
            raw().send_to(&message, &SocketAddr::from((vip, 0)).into()).unwrap();
        });
        sender.join().unwrap();
        let counts = watchers.map(|w| w.join().unwrap());
        let expected = if connection.server == 33 { [1, 0] } else { [0, 1] };
        assert_eq!(counts, expected, "the connection is with {}", connection.server);
        seen.push(connection.server);
    }
    assert!(seen.contains(&33) && seen.contains(&44), "{seen:?}");
}
