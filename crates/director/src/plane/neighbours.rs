//! MACs of real servers, which XDP has to know by itself.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sys::netlink::{Message, Socket, attributes};

// linux/neighbour.h
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 1;
const NUD_REACHABLE: u16 = 2;
/// The MAC can be used: REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT.
const NUD_VALID: u16 = 0xde;
/// Nothing has to be asked: REACHABLE, DELAY, PROBE, NOARP, PERMANENT.
const NUD_FRESH: u16 = NUD_REACHABLE | 0x08 | 0x10 | 0x40 | 0x80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// `None`: not known, or no longer.
    pub mac: Option<[u8; 6]>,
    fresh: bool,
}

/// What the kernel knows, by interface and address.
pub(crate) fn read(socket: &mut Socket) -> io::Result<HashMap<(u32, IpAddr), Neighbour>> {
    let mut all = HashMap::new();
    // struct ndmsg: family, padding, interface, state (u16), flags, type.
    socket.dump(Message::new(libc::RTM_GETNEIGH, 0).body(&[0; 12]), |message| {
        let Some(&[_, _, _, _, i0, i1, i2, i3, s0, s1, ..]) = message.body.first_chunk::<12>()
        else {
            return;
        };
        let index = u32::from_ne_bytes([i0, i1, i2, i3]);
        let state = u16::from_ne_bytes([s0, s1]);
        let (mut ip, mut mac) = (None, None);
        for (kind, value) in attributes(message.body, 12) {
            match kind {
                NDA_DST => ip = address(value),
                NDA_LLADDR => mac = value.try_into().ok(),
                _ => {}
            }
        }
        if let Some(ip) = ip {
            let mac = mac.filter(|_| state & NUD_VALID != 0);
            all.insert((index, ip), Neighbour { mac, fresh: state & NUD_FRESH != 0 });
        }
    })?;
    Ok(all)
}

/// Has the kernel ask who has the address, as if a packet were to be sent, unless it knows.
pub(crate) fn refresh(
    socket: &mut Socket,
    known: &HashMap<(u32, IpAddr), Neighbour>,
    index: u32,
    ip: IpAddr,
) -> io::Result<()> {
    if known.get(&(index, ip)).is_some_and(|n| n.fresh) {
        return Ok(());
    }
    let family = if ip.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET } as u8;
    let [i0, i1, i2, i3] = index.to_ne_bytes();
    let body = [family, 0, 0, 0, i0, i1, i2, i3, 0, 0, NTF_USE, 0];
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let message = Message::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE);
    socket.request(message.body(&body).attribute(NDA_DST, &octets))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into())
}
