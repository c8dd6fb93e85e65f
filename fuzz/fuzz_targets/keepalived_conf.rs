//! Any text as a keepalived.conf and as the director's TOML: taken or refused, never a panic, and
//! what is wrong can be shown. What was taken is the same once it has been TOML.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_director::config;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::parse_alone("fuzz.conf", text) {
        Ok((config, warnings)) => {
            let toml = config::to_toml(&config);
            match config::parse_toml_alone("fuzz.toml", &toml) {
                Ok((again, _)) => assert_eq!(again, config, "{toml}"),
                Err(errors) => panic!("{errors}\n{toml}"),
            }
            for warning in warnings.iter().take(10) {
                let _ = warning.line();
            }
        }
        Err(errors) => drop(errors.to_string()),
    }
    let toml = format!("[[vrrp]]\n{text}");
    let _ = config::parse("fuzz.toml", &toml);
});
