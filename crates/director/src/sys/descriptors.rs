//! Messages over a Unix socket, with open descriptors among them (unix(7), SCM_RIGHTS).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check_size;

/// The kernel takes no more with one message (SCM_MAX_FD).
pub(super) const MAX_FDS: usize = 253;

/// Room for [`MAX_FDS`] of them and their header, aligned as the header must be.
type Control = [u64; 160];

/// Sends without waiting.
pub(super) fn send(to: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let mut control: Control = [0; 160];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let size = size_of_val(fds) as libc::c_uint;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: computes.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as _;
        // SAFETY: `control` is aligned and has room for a header and MAX_FDS descriptors.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            std::ptr::copy_nonoverlapping(
                fds.as_ptr().cast(),
                libc::CMSG_DATA(header),
                size_of_val(fds),
            );
        }
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: `message` points to what lives over the call.
    check_size(unsafe { libc::sendmsg(to.as_raw_fd(), &message, flags) }).map(drop)
}

/// Receives without waiting: how many bytes of `buffer` were written, none at the end, and what came
/// with them.
pub(super) fn receive(
    from: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control: Control = [0; 160];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to what lives over the call.
    let length = check_size(unsafe { libc::recvmsg(from.as_raw_fd(), &mut message, flags) })?;
    let mut fds = Vec::new();
    // SAFETY: the kernel wrote the headers, and what follows each, for as long as it says.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            let at = libc::CMSG_DATA(header);
            let size = (*header).cmsg_len as usize - (at as usize - header as usize);
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let each = at.cast::<RawFd>();
                let count = size / size_of::<RawFd>();
                fds.extend((0..count).map(|i| OwnedFd::from_raw_fd(each.add(i).read_unaligned())));
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok((length, fds))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn what_is_open_here_is_open_there() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let (mut left, right) = UnixStream::pair().unwrap();
        let many = vec![right.as_raw_fd(); MAX_FDS];
        send(ours.as_fd(), b"two", &many).unwrap();
        drop(right);
        let mut buffer = [0; 16];
        let (length, fds) = receive(theirs.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fds.len()), (&b"two"[..], MAX_FDS));
        left.set_nonblocking(true).unwrap();
        assert!(left.read(&mut [0]).is_err(), "the other end is still open");
        drop(fds);
        assert_eq!(left.read(&mut [0]).unwrap(), 0);
        send(ours.as_fd(), b"none", &[]).unwrap();
        assert_eq!(receive(theirs.as_fd(), &mut buffer).unwrap().1.len(), 0);
    }
}
