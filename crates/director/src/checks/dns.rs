//! DNS_CHECK: one query over UDP (RFC 1035, 4.1); good if the answer's code is NOERROR.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::probe::short;

/// Record types by name and number.
pub(crate) const TYPES: [(&str, u16); 9] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("ANY", 255),
];

/// The number of a record type.
pub(crate) fn number(record: &str) -> Option<u16> {
    TYPES.iter().find(|(name, _)| *name == record).map(|(_, n)| *n)
}

/// A name as labels; `None` if it can't be one.
pub(crate) fn encode(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let bare = name.strip_suffix('.').unwrap_or(name);
    if !bare.is_empty() {
        for label in bare.split('.') {
            let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
            out.push(length);
            out.extend_from_slice(label.as_bytes());
        }
    }
    out.push(0);
    (out.len() <= 255).then_some(out)
}

pub(crate) fn ask(
    target: SocketAddr,
    bind: Option<SocketAddr>,
    record: &str,
    name: &str,
    limit: Duration,
) -> Result<(), String> {
    let kind = number(record).ok_or_else(|| format!("unknown record type {record}"))?;
    let labels = encode(name).ok_or_else(|| format!("`{name}` is no name"))?;
    let end = Instant::now() + limit;
    let any = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = match bind {
        Some(bind) => UdpSocket::bind(bind),
        None => UdpSocket::bind(any),
    };
    let socket = socket.map_err(|e| short(&e))?;
    socket.connect(target).map_err(|e| short(&e))?;
    // Random enough: the socket is connected, and a forged answer could only make a check good.
    let id = socket.local_addr().map_or(1, |a| a.port()) ^ std::process::id() as u16;
    let mut query = id.to_be_bytes().to_vec();
    // Recursion desired, one question.
    query.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.extend_from_slice(&labels);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    socket.send(&query).map_err(|e| short(&e))?;
    let mut answer = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no answer in time".to_owned());
        }
        socket.set_read_timeout(Some(left)).map_err(|e| short(&e))?;
        let n = socket.recv(&mut answer).map_err(|e| short(&e))?;
        if let Some(code) = code(&answer[..n], id) {
            return match code {
                0 => Ok(()),
                2 => Err("SERVFAIL".to_owned()),
                3 => Err("NXDOMAIN".to_owned()),
                5 => Err("REFUSED".to_owned()),
                other => Err(format!("answered with code {other}")),
            };
        }
    }
}

/// The code of an answer to query `id`; `None` if it is none.
fn code(answer: &[u8], id: u16) -> Option<u8> {
    let head: &[u8; 12] = answer.first_chunk()?;
    (head[..2] == id.to_be_bytes() && head[2] & 0x80 != 0).then_some(head[3] & 0xf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels() {
        assert_eq!(encode(".").unwrap(), [0]);
        assert_eq!(encode("a.bc.").unwrap(), b"\x01a\x02bc\0");
        assert_eq!(encode("a..b"), None);
        assert_eq!(encode(&"a".repeat(64)), None);
        assert_eq!(encode(&"a.".repeat(200)), None);
    }

    #[test]
    fn a_name_server_is_asked() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = peer.local_addr().unwrap();
        std::thread::spawn(move || {
            for code in [0, 3] {
                let mut query = [0; 512];
                let (n, from) = peer.recv_from(&mut query).unwrap();
                assert_eq!(&query[12..n], b"\x01x\x04test\0\0\x1c\0\x01");
                // First one that is not meant for us.
                let mut stray = query;
                stray[0] ^= 1;
                stray[2] |= 0x80;
                stray[3] = 5;
                peer.send_to(&stray[..n], from).unwrap();
                query[2] |= 0x80;
                query[3] = code;
                peer.send_to(&query[..n], from).unwrap();
            }
        });
        let ask = || ask(address, None, "AAAA", "x.test", Duration::from_secs(5));
        assert_eq!(ask(), Ok(()));
        assert_eq!(ask(), Err("NXDOMAIN".to_owned()));
    }
}
