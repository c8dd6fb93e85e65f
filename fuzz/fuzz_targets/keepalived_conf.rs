//! Any text as a keepalived.conf and as the director's TOML: taken or refused, never a panic, and
//! what is wrong can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_director::config;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::parse_alone("fuzz.conf", text) {
        Ok((_, warnings)) => {
            for warning in warnings.iter().take(10) {
                let _ = warning.line();
            }
        }
        Err(errors) => drop(errors.to_string()),
    }
    let toml = format!("[[vrrp]]\n{text}");
    let _ = config::parse("fuzz.toml", &toml);
});
