//! Gratuitous ARP (RFC 826, RFC 5944 section 4.6) and unsolicited neighbour advertisements
//! (RFC 4861 section 4.4), sent as frames.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use super::{check_size, own};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sends frames on any interface.
pub(crate) struct FrameSocket {
    fd: OwnedFd,
}

impl FrameSocket {
    /// Receives nothing: protocol 0.
    pub fn open() -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = own(unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            )
        })?;
        Ok(Self { fd })
    }

    /// Tells everyone on the link that `ip` is at `mac` now, the MAC of the interface `index`, whose
    /// name is `interface`.
    pub fn announce(
        &self,
        (index, interface): (u32, &str),
        mac: [u8; 6],
        ip: IpAddr,
    ) -> io::Result<()> {
        match ip {
            IpAddr::V4(ip) => self.send(index, libc::ETH_P_ARP, &gratuitous_arp(mac, ip)),
            IpAddr::V6(ip) => {
                let advert = neighbour_advert(mac, ip, is_router(interface));
                self.send(index, libc::ETH_P_IPV6, &advert)
            }
        }
    }

    fn send(&self, index: u32, protocol: libc::c_int, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = (protocol as u16).to_be();
        to.sll_ifindex = index as libc::c_int;
        // SAFETY: frame and address are valid for their lengths.
        check_size(unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })
        .map(drop)
    }
}

fn gratuitous_arp(mac: [u8; 6], ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0x08, 0x06]);
    // Ethernet, IPv4, 6 and 4 bytes, request.
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ip.octets());
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&ip.octets());
    frame
}

/// Whether the kernel says so, too, when it is asked for an address there. RFC 9568 has the router
/// flag always set, for its routers route; a host that said so here and not there would be taken for
/// one that is no router any more, by whom it is the default router. keepalived does the same.
fn is_router(interface: &str) -> bool {
    let setting = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    std::fs::read(setting).is_ok_and(|value| value.first() == Some(&b'1'))
}

fn neighbour_advert(mac: [u8; 6], ip: Ipv6Addr, router: bool) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0];
    // Override, and whether it is a router; not solicited.
    message.extend_from_slice(&[if router { 0xa0 } else { 0x20 }, 0, 0, 0]);
    message.extend_from_slice(&ip.octets());
    // Target link-layer address, in units of 8 bytes.
    message.extend_from_slice(&[2, 1]);
    message.extend_from_slice(&mac);
    let sum = icmpv6_checksum(ip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0x86, 0xdd]);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&(message.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[58, 255]);
    frame.extend_from_slice(&ip.octets());
    frame.extend_from_slice(&ALL_NODES.octets());
    frame.extend_from_slice(&message);
    frame
}

fn icmpv6_checksum(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = words(&src.octets()) + words(&dst.octets()) + words(message);
    sum += message.len() as u32 + 58;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_right_shape() {
        let mac = [2, 0, 0, 0, 0, 1];
        let arp = gratuitous_arp(mac, Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(arp.len(), 42);
        assert_eq!(arp[28..32], arp[38..42], "sender and target are the same address");
        let na = neighbour_advert(mac, "fd00::9".parse().unwrap(), true);
        assert_eq!(na.len(), 14 + 40 + 32);
        assert_eq!(icmpv6_checksum("fd00::9".parse().unwrap(), ALL_NODES, &na[54..]), 0);
    }
}
