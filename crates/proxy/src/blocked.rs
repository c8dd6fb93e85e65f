//! Hosts whose logins fail over and over: turned away for a while before anything is done for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Hosts remembered at most.
const MOST: usize = 100_000;

/// Failures by host, for all workers.
pub struct Blocked {
    /// Failures in a row until a host is turned away; 0: never.
    limit: u32,
    /// For how long it is.
    time: Duration,
    hosts: Mutex<HashMap<IpAddr, Host>>,
}

struct Host {
    failures: u32,
    last: Instant,
}

/// The host is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnedAway;

impl Blocked {
    #[must_use]
    pub fn new(limit: u32, time: Duration) -> Self {
        Self { limit, time, hosts: Mutex::default() }
    }

    /// Whether a host may try.
    ///
    /// # Errors
    /// Not now.
    pub fn admit(&self, ip: IpAddr) -> Result<(), TurnedAway> {
        self.admit_at(ip, Instant::now())
    }

    fn admit_at(&self, ip: IpAddr, now: Instant) -> Result<(), TurnedAway> {
        if self.limit == 0 {
            return Ok(());
        }
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let ip = ip.to_canonical();
        match hosts.get(&ip) {
            Some(host) if host.failures >= self.limit => {
                if now.duration_since(host.last) < self.time {
                    return Err(TurnedAway);
                }
                hosts.remove(&ip);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A login from there failed. True: that was one too many.
    pub fn failed(&self, ip: IpAddr) -> bool {
        self.failed_at(ip, Instant::now())
    }

    fn failed_at(&self, ip: IpAddr, now: Instant) -> bool {
        if self.limit == 0 {
            return false;
        }
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MOST {
            hosts.retain(|_, h| now.duration_since(h.last) < self.time);
            if hosts.len() >= MOST {
                hosts.clear();
            }
        }
        let host = hosts.entry(ip.to_canonical()).or_insert(Host { failures: 0, last: now });
        host.failures = host.failures.saturating_add(1);
        host.last = now;
        host.failures == self.limit
    }

    /// A login from there succeeded: what failed before is forgotten.
    pub fn succeeded(&self, ip: IpAddr) {
        if self.limit != 0 {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            hosts.remove(&ip.to_canonical());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_block_for_a_while() {
        let (ip, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let blocked = Blocked::new(3, Duration::from_secs(60));
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        assert!(!blocked.failed_at(ip, at(0)) && !blocked.failed_at(ip, at(1)));
        blocked.succeeded(ip);
        assert!(!blocked.failed_at(ip, at(2)) && !blocked.failed_at(ip, at(3)));
        assert_eq!(blocked.admit_at(ip, at(3)), Ok(()));
        assert!(blocked.failed_at(ip, at(4)));
        let mapped = IpAddr::V6(std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        assert_eq!(blocked.admit_at(mapped, at(5)), Err(TurnedAway));
        assert_eq!(blocked.admit_at(other, at(5)), Ok(()));
        assert_eq!(blocked.admit_at(ip, at(63)), Err(TurnedAway));
        assert_eq!(blocked.admit_at(ip, at(64)), Ok(()));
        assert!(!blocked.failed_at(ip, at(65)), "counting begins anew");
        let never = Blocked::new(0, Duration::from_secs(60));
        assert!((0..1000).all(|_| !never.failed(ip)) && never.admit(ip).is_ok());
    }
}
