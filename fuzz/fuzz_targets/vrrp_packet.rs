//! Any bytes as a VRRP advert, to the parser and to a running virtual router: neither may panic,
//! and what parses must survive being written and read again.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pointsman_vrrp::{Advert, MULTICAST_V4, MULTICAST_V6, Received, Router, RouterConfig, Version};

fuzz_target!(|data: &[u8]| {
    let v4 = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), IpAddr::V4(MULTICAST_V4));
    let v6 = (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)), IpAddr::V6(MULTICAST_V6));
    for (src, dst) in [v4, v6] {
        if let Ok(advert) = Advert::parse(data, src, dst) {
            assert_eq!(advert.addresses().count(), usize::from(data[3]));
        }
        for version in [Version::V2, Version::V3] {
            let mut config = RouterConfig::new(51, version, 100);
            config.ipv6 = dst.is_ipv6();
            let Ok(mut router) = Router::new(config, Duration::ZERO) else { continue };
            router.handle_interface(true, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), Duration::ZERO);
            let mut now = Duration::ZERO;
            for chunk in data.chunks(20) {
                now += Duration::from_millis(700);
                let _ = router.handle_advert(chunk, Received { src, dst, ttl: 255 }, now);
                router.handle_timeout(now);
                while router.poll_action().is_some() {}
            }
        }
    }
});
