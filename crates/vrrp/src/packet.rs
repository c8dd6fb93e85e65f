//! The advertisement on the wire: RFC 3768 section 5.1 (version 2), RFC 9568 section 5.1
//! (version 3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::checksum::{self, ChecksumForm};
use crate::error::ParseError;

/// The IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// Where adverts go over IPv4.
pub const MULTICAST_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where adverts go over IPv6 (link scope).
pub const MULTICAST_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

const TYPE_ADVERTISEMENT: u8 = 1;
const HEADER: usize = 8;
const AUTH_DATA: usize = 8;
const AUTH_NONE: u8 = 0;
const AUTH_PASS: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    V2,
    V3,
}

/// Version 2's simple password (RFC 2338 section 5.3.6.2): eight bytes, zero padded, sent in the
/// clear. It guards against mistakes, not against people.
#[derive(Clone, Copy)]
pub struct Auth([u8; AUTH_DATA]);

impl Auth {
    /// The first eight bytes of `password`, as keepalived takes them.
    #[must_use]
    pub fn pass(password: &[u8]) -> Self {
        let mut data = [0; AUTH_DATA];
        for (d, s) in data.iter_mut().zip(password) {
            *d = *s;
        }
        Self(data)
    }

    /// As it stands in adverts, in clear.
    #[must_use]
    pub fn data(&self) -> [u8; AUTH_DATA] {
        self.0
    }

    /// Compares without telling by its time where the difference is.
    #[must_use]
    pub fn matches(&self, data: &[u8; AUTH_DATA]) -> bool {
        let difference = self.0.iter().zip(data).fold(0u8, |acc, (a, b)| acc | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl PartialEq for Auth {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Auth {}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(***)")
    }
}

/// A received advertisement whose length and checksum are in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advert<'a> {
    pub version: Version,
    pub vrid: u8,
    pub priority: u8,
    /// Whole seconds in version 2, centiseconds in version 3; never zero.
    pub interval: Duration,
    /// Version 2 only, else 0: 0 none, 1 PASS, 2 AH.
    pub auth_type: u8,
    /// Version 2 only, else zeros.
    pub auth_data: [u8; AUTH_DATA],
    /// Which form the checksum had, where there is a choice (version 3 over IPv4).
    pub checksum_form: Option<ChecksumForm>,
    /// Bytes after the advertisement.
    pub trailing: usize,
    ipv6: bool,
    addresses: &'a [u8],
}

impl<'a> Advert<'a> {
    /// Reads the payload of an IP packet of protocol 112 from `src` to `dst`. Bytes after the
    /// advertisement are tolerated and counted in `trailing`.
    ///
    /// # Errors
    /// [`ParseError`] if it isn't an advertisement or its checksum is wrong.
    pub fn parse(bytes: &'a [u8], src: IpAddr, dst: IpAddr) -> Result<Self, ParseError> {
        let ipv6 = match (src, dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => false,
            (IpAddr::V6(_), IpAddr::V6(_)) => true,
            _ => return Err(ParseError::MixedFamilies),
        };
        let have = bytes.len();
        let Some((&header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(ParseError::TooShort { have, need: HEADER });
        };
        let [version_type, vrid, priority, count, byte4, byte5, ..] = header;
        let version = match version_type >> 4 {
            2 if !ipv6 => Version::V2,
            3 => Version::V3,
            other => return Err(ParseError::Version(other)),
        };
        if version_type & 0x0f != TYPE_ADVERTISEMENT {
            return Err(ParseError::Type(version_type & 0x0f));
        }
        let address_bytes = usize::from(count) * if ipv6 { 16 } else { 4 };
        let auth_bytes = if version == Version::V2 { AUTH_DATA } else { 0 };
        let need = HEADER + address_bytes + auth_bytes;
        let Some(message) = bytes.get(..need) else {
            return Err(ParseError::TooShort { have, need });
        };
        let checksum_form = match version {
            Version::V2 => checksum::verify_message_only(message).then_some(None),
            Version::V3 if ipv6 => {
                checksum::verify_with_pseudo_header(message, src, dst).then_some(None)
            }
            Version::V3 if checksum::verify_with_pseudo_header(message, src, dst) => {
                Some(Some(ChecksumForm::PseudoHeader))
            }
            Version::V3 => {
                checksum::verify_message_only(message).then_some(Some(ChecksumForm::MessageOnly))
            }
        }
        .ok_or(ParseError::Checksum)?;

        let (auth_type, interval) = match version {
            Version::V2 => (byte4, Duration::from_secs(u64::from(byte5))),
            Version::V3 => {
                // The four high bits are reserved and ignored.
                let centiseconds = u16::from_be_bytes([byte4 & 0x0f, byte5]);
                (AUTH_NONE, Duration::from_millis(10 * u64::from(centiseconds)))
            }
        };
        if interval.is_zero() {
            return Err(ParseError::ZeroInterval);
        }
        let (addresses, after) = rest.split_at(address_bytes);
        let auth_data = match version {
            Version::V2 => *after.first_chunk().expect("length was checked above"),
            Version::V3 => [0; AUTH_DATA],
        };
        Ok(Self {
            version,
            vrid,
            priority,
            interval,
            auth_type,
            auth_data,
            checksum_form,
            trailing: have - need,
            ipv6,
            addresses,
        })
    }

    /// The VRID of what may be an advertisement, without checking anything else: to find the
    /// virtual router it is for.
    #[must_use]
    pub fn peek_vrid(bytes: &[u8]) -> Option<u8> {
        bytes.get(1).copied()
    }

    /// The addresses, in the order sent.
    pub fn addresses(&self) -> impl ExactSizeIterator<Item = IpAddr> + 'a {
        let ipv6 = self.ipv6;
        self.addresses.chunks_exact(if ipv6 { 16 } else { 4 }).map(move |chunk| {
            if ipv6 {
                let octets: [u8; 16] = chunk.try_into().expect("chunks of 16");
                IpAddr::from(octets)
            } else {
                let octets: [u8; 4] = chunk.try_into().expect("chunks of 4");
                IpAddr::from(octets)
            }
        })
    }

    /// Whether the authentication is what `expected` asks for.
    #[must_use]
    pub fn auth_type_matches(&self, expected: Option<&Auth>) -> bool {
        self.auth_type == if expected.is_some() { AUTH_PASS } else { AUTH_NONE }
    }
}

/// An advertisement to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    pub version: Version,
    pub vrid: u8,
    pub priority: u8,
    /// Rounded down to whole seconds (version 2) or centiseconds (version 3).
    pub interval: Duration,
    pub auth: Option<&'a Auth>,
    /// All of the family of the destination; at most 255.
    pub addresses: &'a [IpAddr],
    /// Matters for version 3 over IPv4 only.
    pub checksum_form: ChecksumForm,
}

impl Outgoing<'_> {
    /// Appends the payload of the IP packet from `src` to `dst`.
    pub fn encode(&self, src: IpAddr, dst: IpAddr, out: &mut Vec<u8>) {
        let start = out.len();
        let (version, byte4, byte5) = match self.version {
            Version::V2 => {
                let auth_type = if self.auth.is_some() { AUTH_PASS } else { AUTH_NONE };
                (2, auth_type, self.interval.as_secs().clamp(1, 255) as u8)
            }
            Version::V3 => {
                let centiseconds = (self.interval.as_millis() / 10).clamp(1, 0x0fff) as u16;
                let [high, low] = centiseconds.to_be_bytes();
                (3, high, low)
            }
        };
        let addresses = &self.addresses[..self.addresses.len().min(255)];
        out.extend_from_slice(&[
            version << 4 | TYPE_ADVERTISEMENT,
            self.vrid,
            self.priority,
            addresses.len() as u8,
            byte4,
            byte5,
            0,
            0,
        ]);
        for address in addresses {
            match address {
                IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
                IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
            }
        }
        if self.version == Version::V2 {
            out.extend_from_slice(self.auth.map_or(&[0; AUTH_DATA], |a| &a.0));
        }
        let message = &mut out[start..];
        let pseudo_header = self.version == Version::V3
            && (dst.is_ipv6() || self.checksum_form == ChecksumForm::PseudoHeader);
        let sum = if pseudo_header {
            checksum::with_pseudo_header(message, src, dst)
        } else {
            checksum::message_only(message)
        };
        message[6..8].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SRC: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 4, 88));
    const DST: IpAddr = IpAddr::V4(MULTICAST_V4);

    /// Captured from keepalived 2.2.7 with the reference site's file.
    #[test]
    fn reads_and_writes_the_reference_sites_advert() {
        let wire = [
            0x21, 0x33, 0x96, 0x01, 0x01, 0x01, 0x1f, 0xc2, 192, 168, 4, 253, b'1', b'1', b'1',
            b'1', 0, 0, 0, 0,
        ];
        let auth = Auth::pass(b"1111");
        let mut out = Vec::new();
        let outgoing = Outgoing {
            version: Version::V2,
            vrid: 51,
            priority: 150,
            interval: Duration::from_secs(1),
            auth: Some(&auth),
            addresses: &[IpAddr::from([192, 168, 4, 253])],
            checksum_form: ChecksumForm::PseudoHeader,
        };
        outgoing.encode(SRC, DST, &mut out);
        assert_eq!(out, wire);
        let advert = Advert::parse(&wire, SRC, DST).unwrap();
        assert!(advert.auth_type_matches(Some(&auth)) && auth.matches(&advert.auth_data));
        assert_eq!(advert.addresses().collect::<Vec<_>>(), [IpAddr::from([192, 168, 4, 253])]);
    }

    #[test]
    fn reserved_bits_are_ignored_and_sent_as_zero() {
        let outgoing = Outgoing {
            version: Version::V3,
            vrid: 1,
            priority: 100,
            interval: Duration::from_millis(40_950),
            auth: None,
            addresses: &[],
            checksum_form: ChecksumForm::MessageOnly,
        };
        let mut out = Vec::new();
        outgoing.encode(SRC, DST, &mut out);
        assert_eq!(out[4..6], [0x0f, 0xff]);
        out[4] |= 0xf0;
        out[6..8].copy_from_slice(&[0, 0]);
        let sum = checksum::message_only(&out);
        out[6..8].copy_from_slice(&sum.to_be_bytes());
        let advert = Advert::parse(&out, SRC, DST).unwrap();
        assert_eq!(advert.interval, Duration::from_millis(40_950));
    }

    #[test]
    fn a_wrong_byte_is_a_wrong_checksum() {
        let mut out = Vec::new();
        sample(Version::V3, &[IpAddr::from([10, 0, 0, 1])]).encode(SRC, DST, &mut out);
        out[2] ^= 1;
        assert_eq!(Advert::parse(&out, SRC, DST), Err(ParseError::Checksum));
    }

    #[test]
    fn version_2_is_ipv4_only() {
        let mut out = Vec::new();
        let v6 = IpAddr::V6(MULTICAST_V6);
        sample(Version::V2, &[]).encode(SRC, DST, &mut out);
        assert_eq!(Advert::parse(&out, v6, v6), Err(ParseError::Version(2)));
    }

    fn sample(version: Version, addresses: &[IpAddr]) -> Outgoing<'_> {
        Outgoing {
            version,
            vrid: 7,
            priority: 100,
            interval: Duration::from_secs(1),
            auth: None,
            addresses,
            checksum_form: ChecksumForm::PseudoHeader,
        }
    }

    fn ipv4() -> impl Strategy<Value = IpAddr> {
        any::<[u8; 4]>().prop_map(IpAddr::from)
    }

    fn ipv6() -> impl Strategy<Value = IpAddr> {
        any::<[u8; 16]>().prop_map(IpAddr::from)
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            let dst = if v6 { IpAddr::V6(MULTICAST_V6) } else { DST };
            let src = if v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { SRC };
            if let Ok(advert) = Advert::parse(&bytes, src, dst) {
                let _ = advert.addresses().count();
            }
        }

        #[test]
        fn round_trip_v4(
            addresses in proptest::collection::vec(ipv4(), 0..255),
            v3: bool, vrid: u8, priority: u8, units in 1u16..=255, password: Option<[u8; 8]>,
            pseudo: bool, src in ipv4(), dst in ipv4(), padding in 0usize..46,
        ) {
            let version = if v3 { Version::V3 } else { Version::V2 };
            let auth = password.filter(|_| !v3).map(|p| Auth::pass(&p));
            let interval = if v3 { Duration::from_millis(u64::from(units) * 10) }
                else { Duration::from_secs(u64::from(units)) };
            let form = if pseudo { ChecksumForm::PseudoHeader } else { ChecksumForm::MessageOnly };
            let outgoing = Outgoing { version, vrid, priority, interval, auth: auth.as_ref(),
                addresses: &addresses, checksum_form: form };
            let mut wire = Vec::new();
            outgoing.encode(src, dst, &mut wire);
            wire.resize(wire.len() + padding, 0);
            let advert = Advert::parse(&wire, src, dst).unwrap();
            prop_assert_eq!(advert.version, version);
            prop_assert_eq!((advert.vrid, advert.priority, advert.interval), (vrid, priority, interval));
            prop_assert_eq!(advert.trailing, padding);
            prop_assert!(advert.auth_type_matches(auth.as_ref()));
            prop_assert!(auth.is_none_or(|a| a.matches(&advert.auth_data)));
            prop_assert_eq!(advert.addresses().collect::<Vec<_>>(), addresses);
            // Both forms coincide when the pseudo-header happens to sum to zero.
            prop_assert!(!v3 || pseudo || advert.checksum_form == Some(form)
                || advert.checksum_form == Some(ChecksumForm::PseudoHeader));
        }

        #[test]
        fn round_trip_v6(addresses in proptest::collection::vec(ipv6(), 0..100), src in ipv6(), dst in ipv6()) {
            let mut wire = Vec::new();
            sample(Version::V3, &addresses).encode(src, dst, &mut wire);
            let advert = Advert::parse(&wire, src, dst).unwrap();
            prop_assert_eq!(advert.addresses().collect::<Vec<_>>(), addresses);
        }

        #[test]
        fn cutting_any_byte_off_is_noticed(count in 0usize..5, v3: bool) {
            let addresses = vec![SRC; count];
            let version = if v3 { Version::V3 } else { Version::V2 };
            let mut wire = Vec::new();
            sample(version, &addresses).encode(SRC, DST, &mut wire);
            for cut in 0..wire.len() {
                let is_too_short =
                    matches!(Advert::parse(&wire[..cut], SRC, DST), Err(ParseError::TooShort { .. }));
                prop_assert!(is_too_short);
            }
        }
    }
}
