//! Any bytes as each packet of a login: no panic, and what parses survives being written and read
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_wire::auth::native_parse_hash;
use pointsman_wire::handshake::{ChangeUser, Greeting, Response, parse_auth_switch};
use pointsman_wire::{Capabilities, ErrPacket, OkPacket};

fuzz_target!(|data: &[u8]| {
    let Some((&how, payload)) = data.split_first() else { return };
    let caps = Capabilities::from_bits_retain(u64::from(how) << 17);
    match how % 4 {
        0 => {
            if let Ok(greeting) = Greeting::parse(payload)
                && let Ok(again) = Greeting::parse(&greeting.build())
            {
                assert_eq!(greeting.connection_id, again.connection_id);
                assert_eq!(greeting.salt, again.salt);
                assert_eq!(greeting.server_version, again.server_version);
                assert_eq!(greeting.plugin, again.plugin);
            }
        }
        1 => {
            if let Ok(response) = Response::parse(payload) {
                let mut response = response;
                // As clients write it today: other ways to say the same are read, not written.
                response.capabilities |=
                    Capabilities::PLUGIN_AUTH_LENENC_DATA | Capabilities::SECURE_CONNECTION;
                response.capabilities -= Capabilities::ZSTD_COMPRESSION;
                response.zstd_level = None;
                response
                    .capabilities
                    .set(Capabilities::CONNECT_WITH_DB, response.database.is_some());
                response.capabilities.set(Capabilities::PLUGIN_AUTH, response.plugin.is_some());
                response
                    .capabilities
                    .set(Capabilities::CONNECT_ATTRS, response.attributes.is_some());
                if response.capabilities.contains(Capabilities::LONG_PASSWORD) {
                    // MariaDB's capabilities are not read from those who claim to be MySQL.
                    response.capabilities &= Capabilities::from_bits_retain(0xffff_ffff);
                }
                let again = Response::parse(&response.build()).expect("what we wrote");
                assert_eq!(response, again);
            }
        }
        2 => {
            let _ = ChangeUser::parse(payload, caps);
            let _ = parse_auth_switch(payload);
        }
        _ => {
            if let Ok(ok) = OkPacket::parse(payload, caps) {
                assert!(ok.state_changes().count() <= payload.len());
            }
            let _ = ErrPacket::parse(payload);
            if let Ok(text) = std::str::from_utf8(payload) {
                let _ = native_parse_hash(text);
            }
        }
    }
});
