//! Whether a client has gone while a server is at work for it, when nobody reads from it.

use std::os::fd::RawFd;

/// Whether the peer has closed its side, and said nothing that was not read yet but TLS's goodbye.
pub fn has_gone(fd: RawFd) -> bool {
    let mut bytes = [0_u8; LONGEST_GOODBYE + 1];
    // SAFETY: the session is registered, so its socket is open and the descriptor is its own; there is
    // room for the bytes that are looked at.
    let n = unsafe {
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        libc::recv(fd, (&raw mut bytes).cast(), bytes.len(), flags)
    };
    match usize::try_from(n) {
        Ok(0) => true,
        Ok(n) => is_goodbye(&bytes[..n]) && sends_no_more(fd),
        Err(_) => std::io::Error::last_os_error().kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Most bytes of a TLS record with an alert in it: header, nonce, the alert, padding and tag of the
/// ciphers there are.
const LONGEST_GOODBYE: usize = 5 + 64;

/// Whether this is one TLS record, and that is (or in TLS 1.3, where its kind is encrypted, can but be)
/// an alert, of two bytes: "close_notify". Without TLS it would be a part of a packet.
fn is_goodbye(pending: &[u8]) -> bool {
    const ALERT: u8 = 0x15;
    const APPLICATION_DATA: u8 = 0x17;
    // Two bytes, the kind, a tag of 16.
    const ALERT_IN_TLS13: usize = 19;
    let Some((&[kind, 3, _, high, low], record)) = pending.split_first_chunk::<5>() else {
        return false;
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    record.len() == len && (kind == ALERT || kind == APPLICATION_DATA && len == ALERT_IN_TLS13)
}

/// Whether the peer's last byte has arrived, read or not.
fn sends_no_more(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one descriptor, which is the session's own as above; without waiting.
    let n = unsafe { libc::poll(&raw mut poll, 1, 0) };
    n > 0 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_goodbyes_are_known() {
        let record =
            |kind, len: u8| [&[kind, 3, 3, 0, len], &vec![7; usize::from(len)][..]].concat();
        assert!(is_goodbye(&record(0x17, 19)), "TLS 1.3");
        assert!(is_goodbye(&record(0x15, 26)), "TLS 1.2, AES-GCM");
        assert!(is_goodbye(&record(0x15, 18)), "TLS 1.2, ChaCha20");
        // COM_QUIT before it, or any command.
        assert!(!is_goodbye(&record(0x17, 22)));
        assert!(!is_goodbye(&[record(0x17, 22), record(0x17, 19)].concat()));
        assert!(!is_goodbye(&record(0x17, 19)[..20]), "not all of it");
        assert!(!is_goodbye(b"\x01\0\0\0\x01"));
        assert!(!is_goodbye(b"\x17"));
    }
}
