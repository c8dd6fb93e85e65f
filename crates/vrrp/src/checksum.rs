//! The Internet checksum (RFC 1071) as VRRP uses it.
//!
//! Version 2 sums the message alone. Version 3 over IPv6 adds the pseudo-header. Version 3 over
//! IPv4 is where implementations differ: RFC 5798 was read both ways, RFC 9568 and most routers
//! leave the pseudo-header out, keepalived puts it in unless told otherwise.

use std::net::IpAddr;

use crate::packet::PROTOCOL;

/// Which bytes a version 3 checksum over IPv4 covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumForm {
    /// Pseudo-header and message: keepalived's default.
    PseudoHeader,
    /// Message only: RFC 9568, most hardware routers, keepalived's `v3_checksum_as_v2`.
    MessageOnly,
}

/// One's complement sum, not yet folded. An odd last byte counts as the high byte of a word.
fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut total: u32 = words.iter().map(|w| u32::from(u16::from_be_bytes(*w))).sum();
    if let [last] = rest {
        total += u32::from(*last) << 8;
    }
    total
}

fn fold(mut total: u32) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn pseudo_header(src: IpAddr, dst: IpAddr, length: usize) -> u32 {
    let octets = |a: IpAddr| match a {
        IpAddr::V4(a) => sum(&a.octets()),
        IpAddr::V6(a) => sum(&a.octets()),
    };
    octets(src) + octets(dst) + u32::from(PROTOCOL) + length as u32
}

/// The checksum of `message`, whose checksum field must be zero.
pub(crate) fn message_only(message: &[u8]) -> u16 {
    !fold(sum(message))
}

/// The same with the IPv4 or IPv6 pseudo-header (RFC 9293, RFC 8200) before it.
pub(crate) fn with_pseudo_header(message: &[u8], src: IpAddr, dst: IpAddr) -> u16 {
    !fold(sum(message) + pseudo_header(src, dst, message.len()))
}

/// Whether `message`, checksum field included, sums up. All ones and all zeros are both zero.
pub(crate) fn verify_message_only(message: &[u8]) -> bool {
    fold(sum(message)) == 0xffff
}

pub(crate) fn verify_with_pseudo_header(message: &[u8], src: IpAddr, dst: IpAddr) -> bool {
    fold(sum(message) + pseudo_header(src, dst, message.len())) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_example() {
        // RFC 1071 section 3: these eight bytes sum to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(message_only(&bytes), !0xddf2);
    }

    #[test]
    fn odd_length_is_padded_with_zero() {
        assert_eq!(sum(&[0xab]), 0xab00);
    }
}
