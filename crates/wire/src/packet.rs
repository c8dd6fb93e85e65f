//! Packet framing ("Protocol::Packet"): 3 bytes of payload length, 1 byte of sequence id, payload.

/// Bytes before a payload.
pub const HEADER: usize = 4;
/// Longest payload of one packet; one exactly this long is continued by the next packet.
pub const MAX_PAYLOAD: usize = 0xff_ffff;

/// A packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Payload length in bytes, 0 to [`MAX_PAYLOAD`].
    pub len: usize,
    pub seq: u8,
}

impl Header {
    /// `None` until four bytes are there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, seq] = *bytes.first_chunk::<HEADER>()?;
        Some(Self { len: u32::from_le_bytes([a, b, c, 0]) as usize, seq })
    }
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let [a, b, c, _] = (self.len as u32).to_le_bytes();
        [a, b, c, self.seq]
    }
}

/// Appends `payload` as one packet, or several if it is long; returns the next sequence id.
pub fn write_packet(out: &mut Vec<u8>, mut seq: u8, mut payload: &[u8]) -> u8 {
    loop {
        let len = payload.len().min(MAX_PAYLOAD);
        let (now, later) = payload.split_at(len);
        out.extend_from_slice(&Header { len, seq }.to_bytes());
        out.extend_from_slice(now);
        seq = seq.wrapping_add(1);
        if len < MAX_PAYLOAD {
            return seq;
        }
        payload = later;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_packet_is_followed_by_an_empty_one() {
        let mut out = Vec::new();
        let next = write_packet(&mut out, 0, &vec![7; MAX_PAYLOAD]);
        assert_eq!(next, 2);
        assert_eq!(Header::parse(&out), Some(Header { len: MAX_PAYLOAD, seq: 0 }));
        assert_eq!(Header::parse(&out[HEADER + MAX_PAYLOAD..]), Some(Header { len: 0, seq: 1 }));
        assert_eq!(out.len(), 2 * HEADER + MAX_PAYLOAD);
    }
}
