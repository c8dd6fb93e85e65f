//! Any bytes as what a client says of its password: no panic, and nothing is taken for a password that
//! was not protected.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_wire::auth::{
    CACHING_SHA2, ParsecSalt, SALT, SHA256, Whole, native_verify, sha2_mask, sha2_verify,
    unmask_whole, whole_password,
};

fuzz_target!(|data: &[u8]| {
    let Some((head, answer)) = data.split_first_chunk::<{ SALT + 2 }>() else { return };
    let [how, sealed, salt @ ..] = head;
    let (secure, sealed) = (how & 1 == 1, usize::from(*sealed) + 1);
    let plugin = if how & 2 == 2 { SHA256 } else { CACHING_SHA2 };
    match whole_password(answer, plugin, secure, sealed) {
        Whole::Clear(password) => {
            assert!(secure && answer.len() == password.len() + 1 && answer.ends_with(&[0]));
        }
        Whole::Sealed(bytes) => assert!(!secure && bytes.len() == sealed),
        Whole::WantsKey => assert_eq!(answer.len(), 1),
        Whole::Malformed => assert!(secure && !answer.ends_with(&[0])),
        Whole::Exposed => assert!(!secure),
    }
    let mut plain = answer.to_vec();
    if unmask_whole(&mut plain, salt) {
        plain.push(0);
        sha2_mask(&mut plain, salt);
        assert_eq!(plain, answer);
    }
    let (mut native, mut sha2) = ([0; 20], [0; 32]);
    for (at, byte) in answer.iter().enumerate() {
        native[at % 20] ^= byte;
        sha2[at % 32] ^= byte;
    }
    let _ = native_verify(answer, salt, &native);
    let _ = sha2_verify(answer, salt, &sha2);
    if let Some(salt) = ParsecSalt::parse(answer) {
        assert!(answer.len() == 20 || answer.len() == 21 && answer[0] == 1, "{salt:?}");
    }
});
