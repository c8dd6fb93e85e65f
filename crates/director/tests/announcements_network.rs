//! Gratuitous ARP and unsolicited neighbour advertisements, byte by byte and burst by burst those of
//! keepalived.
//!
//! Skips, saying so, where it is not root or keepalived is not installed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};

use lab::{Daemon, Lab, VIP, able, eventually, in_namespace};

const CLIENT: u8 = 254;
/// A burst is over by then, and the next one comes after five seconds.
const BURST: Duration = Duration::from_millis(2500);
const ALL: Duration = Duration::from_secs(7);

const CONFIG: &str = "vrrp_instance VI_1 {\n state BACKUP\n interface eth0\n version 3\n\
    virtual_router_id 51\n advert_int 0.1\n virtual_ipaddress {\n 192.168.4.253\n }\n}\n\
    vrrp_instance VI_6 {\n state BACKUP\n interface eth0\n version 3\n virtual_router_id 61\n\
    advert_int 0.1\n virtual_ipaddress {\n fe80::253\n fd00::253\n }\n}\n";

/// Each frame, with the sender's MAC blotted out, and how often it came in the first and in the
/// second burst.
type Frames = BTreeMap<Vec<u8>, (usize, usize)>;

/// What the client hears from the first announcement on.
fn listen(lab: &Lab) -> std::thread::JoinHandle<Frames> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = in_namespace(lab.namespace(CLIENT), move || {
        // SAFETY: plain system call, whose descriptor nobody else has.
        let mut socket = unsafe {
            let all = i32::from((libc::ETH_P_ALL as u16).to_be());
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all);
            assert!(fd >= 0);
            std::fs::File::from_raw_fd(fd)
        };
        ready.send(()).unwrap();
        let (mut frames, mut first) = (Frames::new(), None::<Instant>);
        let mut buffer = [0; 1500];
        // Adverts keep coming, so that this ends.
        while first.is_none_or(|first| first.elapsed() < ALL) {
            let length = socket.read(&mut buffer).unwrap();
            let mut frame = buffer[..length].to_vec();
            if !announces(&frame) {
                continue;
            }
            let first = *first.get_or_insert_with(Instant::now);
            let mac = frame[6..12].to_vec();
            for at in 0..=frame.len() - 6 {
                if frame[at..at + 6] == mac[..] {
                    frame[at..at + 6].fill(0);
                }
            }
            // Of it the checksum, too, depends on the MAC.
            if frame[12..14] == [0x86, 0xdd] {
                frame[56..58].fill(0);
            }
            let counts = frames.entry(frame).or_default();
            if first.elapsed() < BURST { counts.0 += 1 } else { counts.1 += 1 }
        }
        frames
    });
    is_ready.recv().unwrap();
    thread
}

/// ARP of the virtual address for itself, or an advertisement of one to all nodes.
fn announces(frame: &[u8]) -> bool {
    let vip: std::net::Ipv4Addr = VIP.parse().unwrap();
    let arp = frame.len() >= 42 && frame[12..14] == [8, 6] && frame[28..32] == vip.octets();
    let v6 = frame.len() >= 78 && frame[12..14] == [0x86, 0xdd] && frame[20] == 58;
    arp || (v6 && frame[54] == 136 && frame[77] == 0x53)
}

fn heard(lab: &Lab, daemon: impl Fn() -> Daemon) -> Frames {
    let listening = listen(lab);
    let running = daemon();
    let all = eventually(Duration::from_secs(15), || listening.is_finished());
    assert!(all, "nothing was announced: {}", running.log());
    listening.join().unwrap()
}

#[test]
fn announcements_are_keepaliveds() {
    if !able(&["keepalived"]) {
        return;
    }
    let labs = [(); 2].map(|()| Lab::new(&[CLIENT, 88]));
    for routes in ["0", "1"] {
        let setting = format!("net.ipv6.conf.all.forwarding={routes}");
        for lab in &labs {
            lab.output(88, "sysctl", &["-q", "-w", &setting]);
        }
        // At the same time: most of it is waiting.
        let [theirs, ours] = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| heard(&labs[0], || labs[0].keepalived(88, CONFIG)));
            let ours = scope.spawn(|| heard(&labs[1], || labs[1].director(88, CONFIG)));
            [theirs, ours].map(|frames| frames.join().unwrap())
        });
        for (who, frames) in [("keepalived", &theirs), ("Pointsman", &ours)] {
            println!("{setting}, {who}:");
            for (frame, (first, second)) in frames {
                let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
                println!("  {first} and {second} of {hex}");
            }
        }
        assert_eq!(ours, theirs);
    }
}
