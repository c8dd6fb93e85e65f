//! What one virtual router has seen, in the terms of RFC 6527's MIB.

/// All count up from the start of the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub adverts_sent: u64,
    pub adverts_received: u64,
    pub priority_zero_sent: u64,
    pub priority_zero_received: u64,
    pub became_active: u64,
    pub became_backup: u64,
    pub became_fault: u64,
    pub announcements: u64,
    pub malformed: u64,
    pub checksum_errors: u64,
    /// Version 3 over IPv4: correct, but in the other checksum form than the one we send.
    pub checksum_form_mismatches: u64,
    pub ttl_errors: u64,
    pub vrid_errors: u64,
    pub version_errors: u64,
    pub auth_type_errors: u64,
    pub auth_mismatches: u64,
    pub interval_mismatches: u64,
    pub address_list_mismatches: u64,
    pub own_packets: u64,
    pub dropped_as_owner: u64,
    pub unknown_peers: u64,
    pub not_listening: u64,
    /// Bytes after the advertisement: padding, or a newer keepalived's HMAC trailer (ignored).
    pub trailing_bytes: u64,
    /// Timers that fired so late that others must be assumed to have acted meanwhile.
    pub late_timers: u64,
}
