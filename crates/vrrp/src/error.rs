//! Why a packet or a configuration was refused.

use std::fmt;

/// Why bytes are not a VRRP advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Shorter than its own header says (bytes it has, bytes it needs).
    TooShort { have: usize, need: usize },
    /// The version nibble is neither 2 nor 3, or is 2 over IPv6.
    Version(u8),
    /// The only type there is is 1, advertisement.
    Type(u8),
    /// None of the checksums this version allows fits.
    Checksum,
    /// An advertisement interval of zero.
    ZeroInterval,
    /// Source and destination are not of one address family.
    MixedFamilies,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { have, need } => write!(f, "{have} bytes where {need} are needed"),
            Self::Version(v) => write!(f, "version {v} is not spoken here"),
            Self::Type(t) => write!(f, "packet type {t} is not an advertisement"),
            Self::Checksum => f.write_str("wrong checksum"),
            Self::ZeroInterval => f.write_str("advertisement interval of zero"),
            Self::MixedFamilies => f.write_str("source and destination of different families"),
        }
    }
}

impl std::error::Error for ParseError {}

/// Why a well-formed or malformed packet did not reach the state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    Parse(ParseError),
    /// TTL or hop limit below what is accepted: the packet came from off the link.
    Ttl(u8),
    /// Another virtual router's.
    Vrid(u8),
    /// The version this router is not configured for.
    WrongVersion,
    /// Version 2: not the authentication type configured here.
    AuthType(u8),
    /// Version 2: the password differs.
    AuthMismatch,
    /// Version 2: the peer advertises at another interval than ours (its interval).
    Interval(std::time::Duration),
    /// Our own packet, looped back.
    Own,
    /// We own the addresses and listen to nobody.
    Owner,
    /// Unicast: the sender is not one of the configured peers.
    UnknownPeer,
    /// The router is in no state to care (stopped, faulty).
    NotListening,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Parse(e) => e.fmt(f),
            Self::Ttl(t) => write!(f, "TTL {t} instead of 255: not from this link"),
            Self::Vrid(v) => write!(f, "virtual router {v} is not configured here"),
            Self::WrongVersion => f.write_str("the other VRRP version than the one configured"),
            Self::AuthType(t) => write!(f, "authentication type {t} is not the one configured"),
            Self::AuthMismatch => f.write_str("wrong password"),
            Self::Interval(d) => {
                write!(f, "peer advertises every {d:?}, which is not our interval")
            }
            Self::Own => f.write_str("our own packet"),
            Self::Owner => f.write_str("we own the addresses"),
            Self::UnknownPeer => f.write_str("sender is not a configured unicast peer"),
            Self::NotListening => f.write_str("virtual router is not running"),
        }
    }
}

impl std::error::Error for DropReason {}

/// What is wrong with a [`crate::RouterConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// 1 to 255.
    Vrid,
    /// 1 to 255; 0 is the protocol's word for stopping.
    Priority,
    /// Version 2: whole seconds, 1 to 255; version 3: whole centiseconds, 1 to 4095.
    Interval,
    /// Version 2 knows IPv4 only.
    V2OverIpv6,
    /// Version 3 has no authentication (RFC 5798 section 9).
    AuthInV3,
    /// Addresses of one virtual router must be of one family.
    MixedFamilies,
    /// An advertisement holds at most 255 addresses.
    TooManyAddresses,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vrid => "virtual_router_id must be 1 to 255",
            Self::Priority => "priority must be 1 to 255",
            Self::Interval => {
                "advert_int must be 1 to 255 whole seconds in version 2, 0.01 to 40.95 seconds in \
                 version 3"
            }
            Self::V2OverIpv6 => "VRRP version 2 knows IPv4 only: set version 3",
            Self::AuthInV3 => "VRRP version 3 has no authentication: remove it or set version 2",
            Self::MixedFamilies => {
                "IPv4 and IPv6 addresses can't share one advertisement: move the others to \
                 virtual_ipaddress_excluded or to an instance of their own"
            }
            Self::TooManyAddresses => "at most 255 addresses fit one advertisement",
        })
    }
}

impl std::error::Error for ConfigError {}
