//! Netlink messages (RFC 3549, netlink(7)): building, sending, reading. Blocking and small, so that
//! it also serves after fork in the guard.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{check, check_size, own, set_option};

const HEADER: usize = 16;
/// How long an answer of the kernel may take.
const ANSWER_SECONDS: i64 = 2;

/// A message being built.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `kind` as RTM_NEWADDR; `flags` besides NLM_F_REQUEST.
    pub fn new(kind: u16, flags: libc::c_int) -> Self {
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { bytes }
    }

    /// The fixed part after the header.
    pub fn body(mut self, body: &[u8]) -> Self {
        self.bytes.extend_from_slice(body);
        self.align();
        self
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        put_attribute(&mut self.bytes, kind, value);
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Attributes as the value of another one.
pub(crate) fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    attributes.iter().for_each(|(kind, value)| put_attribute(&mut bytes, *kind, value));
    bytes
}

/// Appends an attribute: for those that stand within another.
pub(crate) fn put_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub kind: u16,
    pub body: &'a [u8],
}

/// Attributes after a fixed part of `skip` bytes; stops at the first that does not fit.
pub(crate) fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(skip..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let (&[l0, l1, k0, k1], _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        // The two high bits are flags (nested, byte order).
        Some((u16::from_ne_bytes([k0, k1]) & 0x3fff, value))
    })
}

pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// For requests.
    pub fn route() -> io::Result<Self> {
        Self::open(libc::NETLINK_ROUTE, 0, 0)
    }

    /// For requests to the families of generic netlink.
    pub fn generic() -> io::Result<Self> {
        Self::open(libc::NETLINK_GENERIC, 0, 0)
    }

    /// For news of the multicast groups whose bits are set; never blocks.
    pub fn route_monitor(groups: u32) -> io::Result<Self> {
        let socket = Self::open(libc::NETLINK_ROUTE, libc::SOCK_NONBLOCK, groups)?;
        // Bursts of news must not be lost; more than the limit needs CAP_NET_ADMIN.
        let size: libc::c_int = 4 << 20;
        if set_option(&socket.fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size).is_err() {
            let _ = set_option(&socket.fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &size);
        }
        Ok(socket)
    }

    fn open(protocol: libc::c_int, flags: libc::c_int, groups: u32) -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = own(unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags, protocol)
        })?;
        // SAFETY: all-zero is a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = groups;
        // SAFETY: `address` is a sockaddr_nl and its size is given.
        check(unsafe {
            libc::bind(
                fd.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        })?;
        let limit = libc::timeval { tv_sec: ANSWER_SECONDS, tv_usec: 0 };
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &limit)?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; 64 << 10] })
    }

    /// Sends a request and waits for its acknowledgement.
    pub fn request(&mut self, message: Message) -> io::Result<()> {
        self.send(message, libc::NLM_F_ACK)?;
        self.answers(|_| ())
    }

    /// As [`Socket::request`], for requests that are answered before they are acknowledged.
    pub fn query(&mut self, message: Message, each: impl FnMut(Received<'_>)) -> io::Result<()> {
        self.send(message, libc::NLM_F_ACK)?;
        self.answers(each)
    }

    /// Sends a dump request and hands each answer to `each`.
    pub fn dump(&mut self, message: Message, each: impl FnMut(Received<'_>)) -> io::Result<()> {
        self.send(message, libc::NLM_F_DUMP)?;
        self.answers(each)
    }

    fn send(&mut self, message: Message, flags: libc::c_int) -> io::Result<()> {
        let mut bytes = message.bytes;
        self.sequence = self.sequence.wrapping_add(1);
        let length = bytes.len() as u32;
        let flags = u16::from_ne_bytes([bytes[6], bytes[7]]) | flags as u16;
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        // SAFETY: the buffer is valid for its length.
        let sent = check_size(unsafe {
            libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0)
        })?;
        debug_assert_eq!(sent, bytes.len(), "netlink takes messages whole");
        Ok(())
    }

    fn answers(&mut self, mut each: impl FnMut(Received<'_>)) -> io::Result<()> {
        loop {
            let length = self.receive()?;
            let mut rest = &self.buffer[..length];
            while let Some((kind, sequence, body, after)) = split(rest) {
                rest = after;
                if sequence != self.sequence {
                    continue;
                }
                match libc::c_int::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code = body.first_chunk().map_or(0, |c| i32::from_ne_bytes(*c));
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(-code))
                        };
                    }
                    libc::NLMSG_NOOP => {}
                    _ => each(Received { kind, body }),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            // SAFETY: the buffer is valid for its length.
            let result = check_size(unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    0,
                )
            });
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Hands all waiting news to `each`.
    ///
    /// # Errors
    /// `ENOBUFS`: news were lost; read the state anew.
    pub fn news(&mut self, mut each: impl FnMut(Received<'_>)) -> io::Result<()> {
        loop {
            let length = match self.receive() {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            let mut rest = &self.buffer[..length];
            while let Some((kind, _, body, after)) = split(rest) {
                rest = after;
                each(Received { kind, body });
            }
        }
    }
}

/// Kind, sequence number, body and what comes after the first message.
fn split(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let header = bytes.first_chunk::<HEADER>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((kind, sequence, body, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_lie_about_their_length_end_the_list() {
        let message = Message::new(1, 0).attribute(3, b"abc").attribute(4, b"");
        let body = &message.bytes[HEADER..];
        let seen: Vec<_> = attributes(body, 0).collect();
        assert_eq!(seen, [(3, b"abc".as_slice()), (4, b"".as_slice())]);
        assert_eq!(attributes(&body[..6], 0).count(), 0);
        assert_eq!(attributes(&[0; 8], 0).count(), 0, "length below the header's own");
        assert_eq!(attributes(body, 100).count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(0u8..=255, 0..200)) {
            let mut rest = bytes.as_slice();
            while let Some((_, _, body, after)) = split(rest) {
                let _ = attributes(body, 4).count();
                rest = after;
            }
        }
    }
}
