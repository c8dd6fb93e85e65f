//! One virtual router as configured.

use std::net::IpAddr;
use std::time::Duration;

use crate::PRIORITY_STOP;
use crate::checksum::ChecksumForm;
use crate::error::ConfigError;
use crate::packet::{Auth, Version};

/// When and how often the addresses are announced by gratuitous ARP or unsolicited neighbour
/// advertisements. Defaults are keepalived's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceConfig {
    /// Announcements in one burst on becoming active (`garp_master_repeat`).
    pub repeat: u8,
    /// After this long a second burst (`garp_master_delay`); zero: none.
    pub delay: Duration,
    /// Then again every so often (`garp_master_refresh`); zero: never.
    pub refresh: Duration,
    /// Announcements in each refresh (`garp_master_refresh_repeat`).
    pub refresh_repeat: u8,
    /// Announcements after a router of lower priority was heard advertising, for it may have drawn
    /// the traffic to itself (`garp_lower_prio_repeat`).
    pub lower_repeat: u8,
}

impl Default for AnnounceConfig {
    fn default() -> Self {
        Self {
            repeat: 5,
            delay: Duration::from_secs(5),
            refresh: Duration::ZERO,
            refresh_repeat: 1,
            lower_repeat: 5,
        }
    }
}

/// One virtual router as configured. [`RouterConfig::new`] gives defaults for the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig {
    /// 1 to 255.
    pub vrid: u8,
    pub version: Version,
    /// Adverts go over IPv6.
    pub ipv6: bool,
    /// 1 to 254, or 255 for the owner of the addresses.
    pub priority: u8,
    /// Version 2: whole seconds up to 255; version 3: centiseconds up to 40.95 s.
    pub advert_interval: Duration,
    /// Version 2 only.
    pub auth: Option<Auth>,
    /// The addresses adverts carry, all of the family of `ipv6`.
    pub addresses: Vec<IpAddr>,
    /// Take over from an active router of lower priority.
    pub preempt: bool,
    /// How long a lower-priority router is left active before it is preempted.
    pub preempt_delay: Duration,
    /// If not empty, adverts go to and are taken from these only.
    pub unicast_peers: Vec<IpAddr>,
    /// Adverts with a lower TTL or hop limit are dropped: 255 unless peers are off the link.
    pub min_ttl: u8,
    /// Version 3 over IPv4: the form we send. `None`: the pseudo-header form until a peer is
    /// heard, then the peer's.
    pub checksum_form: Option<ChecksumForm>,
    /// Missed adverts after which the active router is taken for dead: 3 in the RFCs.
    pub down_timer_adverts: u8,
    pub announce: AnnounceConfig,
    /// How long a planned stop keeps the addresses if nobody takes over. `None`: three adverts.
    /// Zero: drop them with the priority 0 advert, as RFC routers do.
    pub stop_hold: Option<Duration>,
}

impl RouterConfig {
    #[must_use]
    pub fn new(vrid: u8, version: Version, priority: u8) -> Self {
        Self {
            vrid,
            version,
            ipv6: false,
            priority,
            advert_interval: Duration::from_secs(1),
            auth: None,
            addresses: Vec::new(),
            preempt: true,
            preempt_delay: Duration::ZERO,
            unicast_peers: Vec::new(),
            min_ttl: 255,
            checksum_form: None,
            down_timer_adverts: 3,
            announce: AnnounceConfig::default(),
            stop_hold: None,
        }
    }

    /// How long its backups wait for an advert at least: the skew of one may be nearly zero.
    #[must_use]
    pub fn peers_wait(&self) -> Duration {
        self.advert_interval * u32::from(self.down_timer_adverts)
    }

    /// # Errors
    /// The first [`ConfigError`] found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let whole = |unit_ms: u128, max: u128| {
            let ms = self.advert_interval.as_millis();
            ms.is_multiple_of(unit_ms) && (1..=max).contains(&(ms / unit_ms))
        };
        if self.vrid == 0 {
            return Err(ConfigError::Vrid);
        }
        if self.priority == PRIORITY_STOP {
            return Err(ConfigError::Priority);
        }
        match self.version {
            Version::V2 if self.ipv6 => return Err(ConfigError::V2OverIpv6),
            Version::V2 if !whole(1000, 255) => return Err(ConfigError::Interval),
            Version::V3 if !whole(10, 0x0fff) => return Err(ConfigError::Interval),
            Version::V3 if self.auth.is_some() => return Err(ConfigError::AuthInV3),
            _ => {}
        }
        if self.addresses.iter().any(|a| a.is_ipv6() != self.ipv6) {
            return Err(ConfigError::MixedFamilies);
        }
        if self.addresses.len() > 255 {
            return Err(ConfigError::TooManyAddresses);
        }
        Ok(())
    }
}
