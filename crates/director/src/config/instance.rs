//! A virtual router's defaults, and what follows from its settings.

use std::time::Duration;

use pointsman_vrrp::{AnnounceConfig, Auth, ChecksumForm, RouterConfig, Version};

use super::model::{Notify, Tracking, VrrpInstance};

/// Well within the five minutes that switches remember a MAC.
const VMAC_REFRESH: Duration = Duration::from_secs(60);

impl VrrpInstance {
    /// With keepalived's defaults.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self {
            name,
            state_master: false,
            interface: String::new(),
            virtual_router_id: 0,
            priority: 100,
            advert_int: Duration::from_secs(1),
            version: Version::V2,
            auth_pass: None,
            virtual_ipaddress: Vec::new(),
            virtual_ipaddress_excluded: Vec::new(),
            virtual_routes: Vec::new(),
            source: None,
            unicast_peer: Vec::new(),
            unicast_ttl: 255,
            min_ttl: 255,
            preempt: true,
            preempt_delay: Duration::ZERO,
            down_timer_adverts: 3,
            use_vmac: None,
            checksum_without_pseudo_header: None,
            garp: AnnounceConfig::default(),
            dont_track_primary: false,
            tracking: Tracking::default(),
            notify: Notify::default(),
            stop_hold: None,
        }
    }

    /// Whether its adverts go over IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        let first = self.virtual_ipaddress.first().map(|a| a.address);
        first.or(self.source).or(self.unicast_peer.first().copied()).is_some_and(|a| a.is_ipv6())
    }

    /// The name of its interface with the virtual MAC, if it has one.
    #[must_use]
    pub fn vmac(&self) -> Option<String> {
        let six = if self.is_ipv6() { "6" } else { "" };
        let default = || format!("vrrp{six}.{}", self.virtual_router_id);
        self.use_vmac.as_ref().map(|vmac| vmac.name.clone().unwrap_or_else(default))
    }

    /// Where its addresses go, unless they say another one.
    #[must_use]
    pub fn device(&self) -> String {
        self.vmac().unwrap_or_else(|| self.interface.clone())
    }

    /// Where its adverts come from and go to: with a virtual MAC from it, so that switches learn
    /// where it is. Not over IPv6, whose adverts come from a link-local address, which the
    /// interface with the virtual MAC has none of; not to peers by name.
    #[must_use]
    pub fn speaks_on(&self) -> String {
        let from_vmac = self.use_vmac.as_ref().is_some_and(|v| !v.xmit_base);
        if from_vmac && !self.is_ipv6() && self.unicast_peer.is_empty() {
            self.device()
        } else {
            self.interface.clone()
        }
    }

    /// What the state machine needs to know.
    #[must_use]
    pub fn router_config(&self) -> RouterConfig {
        let mut config = RouterConfig::new(self.virtual_router_id, self.version, self.priority);
        config.ipv6 = self.is_ipv6();
        config.advert_interval = self.advert_int;
        config.auth = self.auth_pass.as_ref().map(|p| Auth::pass(p.expose().as_bytes()));
        config.addresses = self.virtual_ipaddress.iter().map(|a| a.address).collect();
        config.preempt = self.preempt;
        config.preempt_delay = self.preempt_delay;
        config.unicast_peers.clone_from(&self.unicast_peer);
        config.min_ttl = self.min_ttl;
        config.checksum_form = self.checksum_without_pseudo_header.map(|without| {
            if without { ChecksumForm::MessageOnly } else { ChecksumForm::PseudoHeader }
        });
        config.down_timer_adverts = self.down_timer_adverts;
        config.announce = self.garp;
        if self.use_vmac.is_some() && self.speaks_on() == self.interface {
            // Nothing else tells switches where the virtual MAC is, and they forget after minutes.
            let refresh = &mut config.announce.refresh;
            if refresh.is_zero() {
                *refresh = VMAC_REFRESH;
            }
        }
        config.stop_hold = self.stop_hold;
        config
    }
}
