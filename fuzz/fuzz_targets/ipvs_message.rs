//! What the kernel's IPVS says by generic netlink.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_director::plane::ipvs::message::{Command, Destination, Service};

fuzz_target!(|bytes: &[u8]| {
    let Some(service) = Service::decode(bytes) else { return };
    // What could be read is said in the same words.
    let (_, said) = Command::SetService(service.clone()).encode();
    assert_eq!(Service::decode(&said), Some(service.clone()));
    let Some((destination, _)) = Destination::decode(bytes, service.takes.is_ipv6()) else { return };
    if destination.forwarding.is_some() {
        let (_, said) = Command::SetDestination(service.takes, destination).encode();
        let read = Destination::decode(&said, service.takes.is_ipv6());
        assert_eq!(read.map(|(d, _)| d), Some(destination));
    }
});
