//! PING_CHECK: one ICMP echo (RFC 792, RFC 4443).

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::probe::short;

const PAYLOAD: &[u8] = b"pointsman";

pub(crate) fn ping(
    target: SocketAddr,
    bind: Option<SocketAddr>,
    limit: Duration,
) -> Result<(), String> {
    let end = Instant::now() + limit;
    let socket = open(target, bind).map_err(|e| short(&e))?;
    static SEQUENCE: AtomicU16 = AtomicU16::new(1);
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let id = std::process::id() as u16;
    let v6 = target.is_ipv6();
    let mut request = vec![if v6 { 128 } else { 8 }, 0, 0, 0];
    request.extend_from_slice(&id.to_be_bytes());
    request.extend_from_slice(&sequence.to_be_bytes());
    request.extend_from_slice(PAYLOAD);
    if !v6 {
        // The kernel fills in ICMPv6's, which needs the addresses.
        let sum = checksum(&request).to_be_bytes();
        request[2..4].copy_from_slice(&sum);
    }
    socket.send(&request).map_err(|e| short(&e))?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no answer in time".to_owned());
        }
        socket.set_read_timeout(Some(left)).map_err(|e| short(&e))?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
        let n = socket.recv(&mut buffer).map_err(|e| short(&e))?;
        let packet: Vec<u8> = buffer[..n]
            .iter()
            // SAFETY: the kernel has written the first `n` bytes.
            .map(|b| unsafe { b.assume_init() })
            .collect();
        if is_reply(&packet, v6, id, sequence) {
            return Ok(());
        }
    }
}

/// A raw socket that hears only `target`.
fn open(target: SocketAddr, bind: Option<SocketAddr>) -> io::Result<Socket> {
    let protocol = if target.is_ipv6() { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
    let socket = Socket::new(Domain::for_address(target), Type::RAW, Some(protocol))?;
    if let Some(bind) = bind {
        socket.bind(&SocketAddr::new(bind.ip(), 0).into())?;
    }
    socket.connect(&SocketAddr::new(target.ip(), 0).into())?;
    Ok(socket)
}

/// Whether it is the reply to our request. Raw IPv4 sockets show the IP header too.
fn is_reply(packet: &[u8], v6: bool, id: u16, sequence: u16) -> bool {
    let start = match packet.first() {
        Some(first) if !v6 => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    let kind = if v6 { 129 } else { 0 };
    packet.get(start..).and_then(<[u8]>::first_chunk::<8>).is_some_and(|h| {
        h[0] == kind
            && h[1] == 0
            && h[4..6] == id.to_be_bytes()
            && h[6..8] == sequence.to_be_bytes()
    })
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_answers_and_nobody_does_not() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            match ping(local.parse().unwrap(), None, Duration::from_secs(2)) {
                Err(why) if why.contains("permitted") || why.contains("assign") => {
                    println!("skipped: {local}: {why}");
                }
                other => assert_eq!(other, Ok(()), "{local}"),
            }
        }
    }

    #[test]
    fn only_the_own_reply_counts() {
        let reply = [0x45; 20].iter().copied().chain([0, 0, 9, 9, 0, 7, 0, 8]).collect::<Vec<u8>>();
        assert!(is_reply(&reply, false, 7, 8));
        assert!(!is_reply(&reply, false, 7, 9) && !is_reply(&reply, false, 6, 8));
        assert!(!is_reply(&reply[..27], false, 7, 8) && !is_reply(&[], false, 7, 8));
        assert!(is_reply(&[129, 0, 0, 0, 0, 7, 0, 8], true, 7, 8));
    }
}
