//! Any bytes as the beginning of a stream: no panic, a decision that more bytes never change, and
//! no header longer than what was given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_wire::proxy_protocol::{Beginning, ProxyHeader, line};

fuzz_target!(|data: &[u8]| {
    let whole = Beginning::of(data);
    for end in 0..data.len().min(300) {
        match Beginning::of(&data[..end]) {
            Ok(Beginning::Incomplete) => {}
            decided => assert_eq!(decided, whole, "at {end}"),
        }
    }
    if let Ok(Beginning::Header(header, len)) = whole {
        assert!(len <= data.len());
        if let ProxyHeader::Proxied { source, destination } = header {
            let written = line(source, destination);
            assert!(matches!(Beginning::of(&written), Ok(Beginning::Header(_, n)) if n == written.len()));
        }
    }
});
