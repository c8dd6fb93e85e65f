//! The PROXY protocol, versions 1 and 2: a load balancer tells whom it forwards
//! (<https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Malformed;

/// Whom a connection comes from, in the sender's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// From `source`, which had connected to `destination`.
    Proxied { source: SocketAddr, destination: SocketAddr },
    /// The sender itself (its health check), or something without an address.
    Local,
}

/// What a stream begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// A header of this many bytes.
    Header(ProxyHeader, usize),
    /// Not told yet.
    Incomplete,
    /// Something else. A client's first packet never looks like a header: the third byte of its
    /// length would mean megabytes.
    Other,
}

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, with its end.
const LONGEST_V1: usize = 107;
/// Longest header of version 2 that is believed. Addresses take 216 bytes at most, the rest is for
/// extensions, none of which matters here.
const LONGEST_V2: usize = 4096;

impl Beginning {
    /// Of the first bytes of a stream.
    ///
    /// # Errors
    /// It begins like a header and is none.
    pub fn of(bytes: &[u8]) -> Result<Self, Malformed> {
        if starts_alike(bytes, V2) {
            return if bytes.len() < V2.len() { Ok(Self::Incomplete) } else { version_2(bytes) };
        }
        if starts_alike(bytes, V1) {
            return if bytes.len() < V1.len() { Ok(Self::Incomplete) } else { version_1(bytes) };
        }
        Ok(Self::Other)
    }
}

fn starts_alike(bytes: &[u8], signature: &[u8]) -> bool {
    let n = bytes.len().min(signature.len());
    bytes[..n] == signature[..n]
}

fn version_1(bytes: &[u8]) -> Result<Beginning, Malformed> {
    let line = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = line.windows(2).position(|w| w == b"\r\n") else {
        return match line.len() {
            LONGEST_V1 => Err(Malformed("PROXY line without an end")),
            _ => Ok(Beginning::Incomplete),
        };
    };
    let text = std::str::from_utf8(&line[V1.len()..end]).map_err(|_| Malformed("PROXY line"))?;
    let mut words = text.split(' ');
    let family = words.next();
    let header = match family {
        Some("UNKNOWN") => ProxyHeader::Local,
        Some("TCP4" | "TCP6") => {
            let mut ip = || -> Option<IpAddr> {
                let ip: IpAddr = words.next()?.parse().ok()?;
                (ip.is_ipv4() == (family == Some("TCP4"))).then_some(ip)
            };
            let (source, destination) = (ip(), ip());
            let mut port = || -> Option<u16> {
                let word = words.next()?;
                word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok())?
            };
            let ports = (port(), port());
            match (source, destination, ports, words.next()) {
                (Some(source), Some(destination), (Some(from), Some(to)), None) => {
                    ProxyHeader::Proxied {
                        source: SocketAddr::new(source, from),
                        destination: SocketAddr::new(destination, to),
                    }
                }
                _ => return Err(Malformed("addresses of a PROXY line")),
            }
        }
        _ => return Err(Malformed("family of a PROXY line")),
    };
    Ok(Beginning::Header(header, end + 2))
}

fn version_2(bytes: &[u8]) -> Result<Beginning, Malformed> {
    let Some(&[command, family, high, low]) = bytes[V2.len()..].first_chunk() else {
        return Ok(Beginning::Incomplete);
    };
    let start = V2.len() + 4;
    let len = usize::from(u16::from_be_bytes([high, low]));
    if start + len > LONGEST_V2 {
        return Err(Malformed("PROXY header too long"));
    }
    let Some(body) = bytes[start..].get(..len) else { return Ok(Beginning::Incomplete) };
    let header = match (command, family) {
        (0x20, _) => ProxyHeader::Local,
        (0x21, 0x11) => {
            let Some(&[a, b, c, d, e, f, g, h, p, q, r, s]) = body.first_chunk() else {
                return Err(Malformed("PROXY header too short for IPv4"));
            };
            ProxyHeader::Proxied {
                source: (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p, q])).into(),
                destination: (Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([r, s])).into(),
            }
        }
        (0x21, 0x21) => {
            let (Some(ips), Some(&[p, q, r, s])) =
                (body.first_chunk::<32>(), body.get(32..).and_then(|b| b.first_chunk()))
            else {
                return Err(Malformed("PROXY header too short for IPv6"));
            };
            let ip = |at: usize| {
                Ipv6Addr::from(<[u8; 16]>::try_from(&ips[at..at + 16]).unwrap_or_default())
            };
            ProxyHeader::Proxied {
                source: (ip(0), u16::from_be_bytes([p, q])).into(),
                destination: (ip(16), u16::from_be_bytes([r, s])).into(),
            }
        }
        // Unspecified, datagrams, Unix sockets.
        (0x21, _) => ProxyHeader::Local,
        _ => return Err(Malformed("version or command of a PROXY header")),
    };
    Ok(Beginning::Header(header, start + len))
}

/// A header of version 1, which every server with the PROXY protocol reads.
#[must_use]
pub fn line(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let (family, from, to) = match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => ("TCP4", from, to),
        _ => ("TCP6", six(from), six(to)),
    };
    let ports = (source.port(), destination.port());
    format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
}

fn six(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn proxied(source: &str, destination: &str) -> ProxyHeader {
        ProxyHeader::Proxied {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// Headers as HAProxy sends them, and what they say.
    fn samples() -> Vec<(Vec<u8>, ProxyHeader)> {
        let v2 = |rest: &[u8]| [V2, rest].concat();
        let six = [
            &b"\x21\x21\x00\x24"[..],
            &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            b"\x30\x39\x0c\xea",
        ]
        .concat();
        vec![
            (
                b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 3306\r\n".to_vec(),
                proxied("10.0.0.1:12345", "10.0.0.2:3306"),
            ),
            (
                b"PROXY TCP6 fd00::1 fd00::2 12345 3306\r\n".to_vec(),
                proxied("[fd00::1]:12345", "[fd00::2]:3306"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), ProxyHeader::Local),
            (b"PROXY UNKNOWN a b c d e\r\n".to_vec(), ProxyHeader::Local),
            (
                v2(b"\x21\x11\x00\x0c\x0a\0\0\x01\x0a\0\0\x02\x30\x39\x0c\xea"),
                proxied("10.0.0.1:12345", "10.0.0.2:3306"),
            ),
            // With an extension behind the addresses.
            (
                v2(b"\x21\x11\x00\x0f\x0a\0\0\x01\x0a\0\0\x02\x30\x39\x0c\xea\x04\0\0"),
                proxied("10.0.0.1:12345", "10.0.0.2:3306"),
            ),
            (v2(&six), proxied("[fd00::1]:12345", "[fd00::2]:3306")),
            (v2(b"\x20\x00\x00\x00"), ProxyHeader::Local),
            (v2(b"\x21\x00\x00\x00"), ProxyHeader::Local),
        ]
    }

    #[test]
    fn every_split_of_every_header_is_read_alike() {
        for (bytes, header) in samples() {
            for end in 0..bytes.len() {
                assert_eq!(Beginning::of(&bytes[..end]), Ok(Beginning::Incomplete), "{end}");
            }
            let len = bytes.len();
            let more = [&bytes[..], b"\x20\0\0\x01more"].concat();
            assert_eq!(Beginning::of(&bytes), Ok(Beginning::Header(header, len)));
            assert_eq!(Beginning::of(&more), Ok(Beginning::Header(header, len)));
        }
    }

    #[test]
    fn what_is_none_is_turned_away() {
        for wrong in [
            &b"PROXY TCP4 10.0.0.1 10.0.0.2 12345\r\n"[..],
            b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 3306 7\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 +3306\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 65536\r\n",
            b"PROXY TCP4 fd00::1 fd00::2 12345 3306\r\n",
            b"PROXY TCP6 10.0.0.1 10.0.0.2 12345 3306\r\n",
            b"PROXY UDP4 10.0.0.1 10.0.0.2 12345 3306\r\n",
            b"PROXY \r\n",
            &[b'P', b'R', b'O', b'X', b'Y', b' ', 0xff, b'\r', b'\n'],
        ] {
            assert!(Beginning::of(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        let endless = [V1, &[b'x'; LONGEST_V1]].concat();
        assert!(Beginning::of(&endless).is_err());
        for wrong in [
            &b"\x11\x11\x00\x0c"[..],        // version 1
            b"\x22\x11\x00\x0c",             // no such command
            b"\x21\x11\xff\xff",             // longer than is believed
            b"\x21\x11\x00\x04\x0a\0\0\x01", // too short for its family
            b"\x21\x21\x00\x04\x0a\0\0\x01",
        ] {
            let bytes = [V2, wrong, &[0; 12]].concat();
            assert!(Beginning::of(&bytes).is_err(), "{wrong:?}");
        }
        // First packets of clients.
        assert_eq!(Beginning::of(b"\x20\0\0\x01\x85"), Ok(Beginning::Other));
        assert_eq!(Beginning::of(b"\x50\0\0\x01\x85"), Ok(Beginning::Other));
        assert_eq!(Beginning::of(b"\x0d\x0a\0\x01\x85"), Ok(Beginning::Other));
    }

    proptest! {
        #[test]
        fn lines_are_read_as_written(a: IpAddr, b: IpAddr, p: u16, q: u16) {
            let written = line(SocketAddr::new(a, p), SocketAddr::new(b, q));
            let Ok(Beginning::Header(ProxyHeader::Proxied { source, destination }, len)) =
                Beginning::of(&written) else { panic!("{written:?}") };
            prop_assert_eq!(len, written.len());
            prop_assert_eq!((source.ip().to_canonical(), source.port()), (a.to_canonical(), p));
            prop_assert_eq!((destination.ip().to_canonical(), destination.port()), (b.to_canonical(), q));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, v2: bool) {
            let _ = Beginning::of(&bytes);
            let _ = Beginning::of(&[if v2 { V2 } else { V1 }, &bytes].concat());
        }
    }
}
