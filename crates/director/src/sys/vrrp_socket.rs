//! Raw sockets for VRRP: one for an interface and family, to send from any source and to receive
//! with source, destination and TTL.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use pointsman_vrrp::{MULTICAST_V4, MULTICAST_V6, PROTOCOL, Received};

use super::{check_size, own, set_option};

const BUFFER: usize = 8192;
/// Ample for IP_PKTINFO or IPV6_PKTINFO and a hop limit.
const CONTROL: usize = 128;
/// TC_PRIO_CONTROL and DSCP CS6: adverts go before everything else.
const PRIORITY: libc::c_int = 7;
const CS6: libc::c_int = 0xc0;

pub(crate) struct VrrpSocket {
    fd: OwnedFd,
    index: u32,
    ipv6: bool,
    buffer: Box<[u8; BUFFER]>,
}

impl AsFd for VrrpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Aligned as control messages must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl VrrpSocket {
    /// A socket bound to the interface, that has joined VRRP's multicast group if `multicast`.
    pub fn open(
        interface: &str,
        index: u32,
        ipv6: bool,
        multicast: bool,
        unicast_ttl: u8,
    ) -> io::Result<Self> {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        // SAFETY: plain system call.
        let fd = own(unsafe {
            libc::socket(
                family,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                libc::c_int::from(PROTOCOL),
            )
        })?;
        let mut name = [0u8; libc::IFNAMSIZ];
        for (to, from) in name.iter_mut().zip(interface.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from;
        }
        set_option(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_PRIORITY, &PRIORITY)?;
        let hops: libc::c_int = unicast_ttl.into();
        let (on, off, full): (libc::c_int, libc::c_int, libc::c_int) = (1, 0, 255);
        if ipv6 {
            let level = libc::IPPROTO_IPV6;
            set_option(&fd, level, libc::IPV6_MULTICAST_HOPS, &full)?;
            set_option(&fd, level, libc::IPV6_UNICAST_HOPS, &hops)?;
            set_option(&fd, level, libc::IPV6_MULTICAST_LOOP, &off)?;
            set_option(&fd, level, libc::IPV6_RECVPKTINFO, &on)?;
            set_option(&fd, level, libc::IPV6_RECVHOPLIMIT, &on)?;
            set_option(&fd, level, libc::IPV6_TCLASS, &CS6)?;
            set_option(&fd, level, libc::IPV6_MULTICAST_IF, &(index as libc::c_int))?;
            if multicast {
                let request = libc::ipv6_mreq {
                    ipv6mr_multiaddr: libc::in6_addr { s6_addr: MULTICAST_V6.octets() },
                    ipv6mr_interface: index,
                };
                set_option(&fd, level, libc::IPV6_ADD_MEMBERSHIP, &request)?;
            }
        } else {
            let level = libc::IPPROTO_IP;
            set_option(&fd, level, libc::IP_MULTICAST_TTL, &full)?;
            set_option(&fd, level, libc::IP_TTL, &hops)?;
            set_option(&fd, level, libc::IP_MULTICAST_LOOP, &off)?;
            set_option(&fd, level, libc::IP_TOS, &CS6)?;
            let request = libc::ip_mreqn {
                imr_multiaddr: in_addr(MULTICAST_V4),
                imr_address: in_addr(Ipv4Addr::UNSPECIFIED),
                imr_ifindex: index as libc::c_int,
            };
            set_option(&fd, level, libc::IP_MULTICAST_IF, &request)?;
            if multicast {
                set_option(&fd, level, libc::IP_ADD_MEMBERSHIP, &request)?;
            }
        }
        Ok(Self { fd, index, ipv6, buffer: Box::new([0; BUFFER]) })
    }

    /// The index of the interface it is bound to.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Where adverts go if they go to everyone.
    pub fn group(ipv6: bool) -> IpAddr {
        if ipv6 { MULTICAST_V6.into() } else { MULTICAST_V4.into() }
    }

    /// Sends a VRRP payload from `src`, which must be an address of this host.
    pub fn send(&self, payload: &[u8], src: IpAddr, dst: IpAddr) -> io::Result<()> {
        let mut control = Control([0; CONTROL]);
        let mut iov =
            libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        // SAFETY: all-zero is valid for sockaddr_storage and msghdr.
        let mut to: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_name = std::ptr::from_mut(&mut to).cast();
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: self.index as libc::c_int,
                    ipi_spec_dst: in_addr(src),
                    ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
                };
                put_control(&mut message, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
                // SAFETY: sockaddr_storage is large and aligned enough for sockaddr_in.
                let to = unsafe { &mut *std::ptr::from_mut(&mut to).cast::<libc::sockaddr_in>() };
                to.sin_family = libc::AF_INET as libc::sa_family_t;
                to.sin_addr = in_addr(dst);
                message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: src.octets() },
                    ipi6_ifindex: self.index,
                };
                put_control(&mut message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
                // SAFETY: sockaddr_storage is large and aligned enough for sockaddr_in6.
                let to = unsafe { &mut *std::ptr::from_mut(&mut to).cast::<libc::sockaddr_in6>() };
                to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                to.sin6_addr.s6_addr = dst.octets();
                to.sin6_scope_id = self.index;
                message.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        // SAFETY: all that `message` points to lives over the call.
        check_size(unsafe { libc::sendmsg(self.fd.as_raw_fd(), &message, 0) }).map(drop)
    }

    /// The next waiting packet: where from, and its VRRP payload. `None`: no more.
    pub fn receive(&mut self) -> io::Result<Option<(Received, &[u8])>> {
        loop {
            let mut control = Control([0; CONTROL]);
            let mut iov = libc::iovec {
                iov_base: self.buffer.as_mut_ptr().cast(),
                iov_len: self.buffer.len(),
            };
            // SAFETY: all-zero is valid for both.
            let mut from: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_name = std::ptr::from_mut(&mut from).cast();
            message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            message.msg_iov = &mut iov;
            message.msg_iovlen = 1;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = CONTROL as _;
            // SAFETY: all that `message` points to lives over the call.
            let result = check_size(unsafe { libc::recvmsg(self.fd.as_raw_fd(), &mut message, 0) });
            let length = match result {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let packet = &self.buffer[..length];
            let parsed = if self.ipv6 {
                ipv6_origin(&from, &message).map(|origin| (origin, 0))
            } else {
                ipv4_header(packet)
            };
            if let Some((origin, skip)) = parsed {
                return Ok(Some((origin, &self.buffer[skip..length])));
            }
        }
    }
}

fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }
}

/// Appends the one control message we send.
fn put_control<T>(message: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, value: T) {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: the control buffer has CONTROL bytes, aligned, which is more than CMSG_SPACE of
    // either pktinfo; the header and data are written within it.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
    }
}

/// A raw IPv4 socket gives the IP header too.
fn ipv4_header(packet: &[u8]) -> Option<(Received, usize)> {
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < 20 || packet.len() < length {
        return None;
    }
    let ip = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Some((Received { src: ip(12), dst: ip(16), ttl: header[8] }, length))
}

/// A raw IPv6 socket gives the payload; the rest stands in control messages.
fn ipv6_origin(from: &libc::sockaddr_storage, message: &libc::msghdr) -> Option<Received> {
    if libc::c_int::from(from.ss_family) != libc::AF_INET6 {
        return None;
    }
    // SAFETY: the family says that it is a sockaddr_in6.
    let from = unsafe { &*std::ptr::from_ref(from).cast::<libc::sockaddr_in6>() };
    let src = IpAddr::V6(Ipv6Addr::from(from.sin6_addr.s6_addr));
    let (mut dst, mut ttl) = (None, None);
    // SAFETY: the kernel wrote the control messages; the macros keep within msg_controllen.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    dst = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    ttl = Some(data.cast::<libc::c_int>().read_unaligned() as u8);
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    Some(Received { src, dst: dst?, ttl: ttl? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_header_with_options_is_skipped_and_a_cut_one_refused() {
        let mut packet = vec![0u8; 44];
        packet[0] = 0x46;
        packet[8] = 255;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[224, 0, 0, 18]);
        let (origin, skip) = ipv4_header(&packet).unwrap();
        assert_eq!((origin.src.to_string().as_str(), origin.ttl, skip), ("10.0.0.1", 255, 24));
        assert!(ipv4_header(&packet[..22]).is_none());
        assert!(ipv4_header(&[0x44; 30]).is_none());
    }
}
