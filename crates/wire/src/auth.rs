//! Proving a password ("Authentication Methods": mysql_native_password, caching_sha2_password).

use sha1::{Digest, Sha1};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroize as _;

/// Random bytes of a handshake; both methods use 20.
pub const SALT: usize = 20;

pub const NATIVE: &str = "mysql_native_password";
/// MariaDB's ed25519, as its clients call it.
pub const ED25519: &str = "client_ed25519";
/// MariaDB's, from 11.6 on.
pub const PARSEC: &str = "parsec";
pub const CACHING_SHA2: &str = "caching_sha2_password";
/// As the full path of the one above, and nothing else.
pub const SHA256: &str = "sha256_password";

/// Server to client in caching_sha2_password: what comes next.
pub const SHA2_FAST_OK: u8 = 3;
pub const SHA2_FULL: u8 = 4;
/// Client to server: "send me your RSA key".
pub const SHA2_REQUEST_KEY: u8 = 2;
/// The same in sha256_password.
pub const SHA256_REQUEST_KEY: u8 = 1;

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut h = Sha1::new();
    parts.iter().for_each(|p| h.update(p));
    h.finalize().into()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut h = Sha256::new();
    parts.iter().for_each(|p| h.update(p));
    h.finalize().into()
}

fn xor<const N: usize>(a: [u8; N], b: [u8; N]) -> [u8; N] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// `SHA1(password)`: all a client or proxy needs to log in by mysql_native_password.
#[must_use]
pub fn native_stage1(password: &[u8]) -> [u8; 20] {
    sha1(&[password])
}

/// `SHA1(SHA1(password))`: what the server stores.
#[must_use]
pub fn native_stage2(stage1: &[u8; 20]) -> [u8; 20] {
    sha1(&[stage1])
}

/// The client's answer to `salt`.
#[must_use]
pub fn native_token(stage1: &[u8; 20], salt: &[u8; SALT]) -> [u8; 20] {
    xor(*stage1, sha1(&[salt, &native_stage2(stage1)]))
}

/// Checks a client's answer against the stored hash in constant time; a right one reveals
/// `SHA1(password)`, with which one can log in to other servers in the client's name.
#[must_use]
pub fn native_verify(token: &[u8], salt: &[u8; SALT], stage2: &[u8; 20]) -> Option<[u8; 20]> {
    let token: [u8; 20] = token.try_into().ok()?;
    let stage1 = xor(token, sha1(&[salt, stage2]));
    bool::from(native_stage2(&stage1).ct_eq(stage2)).then_some(stage1)
}

/// Parses `*HEX` as stored in `mysql.user`.
#[must_use]
pub fn native_parse_hash(text: &str) -> Option<[u8; 20]> {
    let hex = text.strip_prefix('*')?.as_bytes();
    if hex.len() != 40 {
        return None;
    }
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let mut out = [0; 20];
    for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// `SHA256(password)`: all that the fast path of caching_sha2_password needs.
#[must_use]
pub fn sha2_stage1(password: &[u8]) -> [u8; 32] {
    sha256(&[password])
}

/// `SHA256(SHA256(password))`: what a verifier of the fast path keeps.
#[must_use]
pub fn sha2_stage2(stage1: &[u8; 32]) -> [u8; 32] {
    sha256(&[stage1])
}

/// The client's answer to `salt` on the fast path.
#[must_use]
pub fn sha2_token(stage1: &[u8; 32], salt: &[u8; SALT]) -> [u8; 32] {
    xor(*stage1, sha256(&[&sha2_stage2(stage1), salt]))
}

/// Checks a fast-path answer in constant time; a right one reveals `SHA256(password)`.
#[must_use]
pub fn sha2_verify(token: &[u8], salt: &[u8; SALT], stage2: &[u8; 32]) -> Option<[u8; 32]> {
    let token: [u8; 32] = token.try_into().ok()?;
    let stage1 = xor(token, sha256(&[stage2, salt]));
    bool::from(sha2_stage2(&stage1).ct_eq(stage2)).then_some(stage1)
}

/// The client's answer to ed25519's `salt` of 32 bytes: a signature by a key that is
/// `SHA512(password)`. Nothing can be made of it but the proof that it is.
#[must_use]
pub fn ed25519_token(password: &[u8], salt: &[u8]) -> [u8; 64] {
    use ed25519_dalek::VerifyingKey;
    use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
    use sha2::Sha512;
    let hash: [u8; 64] = Sha512::digest(password).into();
    let key = ExpandedSecretKey::from_bytes(&hash);
    raw_sign::<Sha512>(&key, salt, &VerifyingKey::from(&key)).to_bytes()
}

/// What an account's parsec key is derived with (MariaDB "Authentication Plugin - PARSEC").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParsecSalt {
    /// The rounds of PBKDF2.
    iterations: u32,
    salt: [u8; 18],
}

impl ParsecSalt {
    /// The costliest of them that is answered takes a second: the server chooses it.
    const MAX_FACTOR: u8 = 10;

    /// The server's answer to the empty packet with which a client begins; the first servers left
    /// out the 0x01 that marks it as part of a login.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let payload = payload.strip_prefix(&[0x01]).unwrap_or(payload);
        let [b'P', factor @ 0..=Self::MAX_FACTOR, salt @ ..] = payload else { return None };
        Some(Self { iterations: 1024 << factor, salt: salt.try_into().ok()? })
    }

    /// The client's answer to the server's first salt of 32 bytes: 32 random ones of its own and a
    /// signature over both. Nothing can be made of it but the proof that it is.
    #[must_use]
    pub fn token(&self, password: &[u8], theirs: &[u8; 32], ours: &[u8; 32]) -> [u8; 96] {
        use ed25519_dalek::{Signer as _, SigningKey};
        let mut seed = [0; 32];
        pbkdf2::pbkdf2_hmac::<sha2::Sha512>(password, &self.salt, self.iterations, &mut seed);
        let key = SigningKey::from_bytes(&seed);
        seed.zeroize();
        let mut signed = [0; 64];
        signed[..32].copy_from_slice(theirs);
        signed[32..].copy_from_slice(ours);
        let mut token = [0; 96];
        token[..32].copy_from_slice(ours);
        token[32..].copy_from_slice(&key.sign(&signed).to_bytes());
        token
    }
}

/// What vouches for a certificate that nobody has signed, in the OK that ends a login: only who knows
/// the account's password can have made it. `fingerprint`: the certificate's SHA-256; nothing without
/// TLS. `salt`: the last one of the login. As the OK's info, to MariaDB's clients from 3.4 on
/// (MariaDB "Secure Connections Overview": zero-configuration TLS).
#[must_use]
pub fn vouch(stage1: &[u8; 20], salt: &[u8; SALT], fingerprint: &[u8]) -> Vec<u8> {
    let digest = sha256(&[&native_stage2(stage1), salt, fingerprint]);
    let hex = |b: u8| b"0123456789ABCDEF"[usize::from(b)];
    let digits = digest.iter().flat_map(|b| [hex(b >> 4), hex(b & 15)]);
    std::iter::once(VOUCHED).chain(digits).collect()
}

/// How such an info begins.
pub const VOUCHED: u8 = 1;

/// The password, NUL-terminated and masked with the salt, as it is RSA-encrypted on the full path
/// without TLS. Its own inverse.
pub fn sha2_mask(password_nul: &mut [u8], salt: &[u8; SALT]) {
    for (byte, mask) in password_nul.iter_mut().zip(salt.iter().cycle()) {
        *byte ^= mask;
    }
}

/// How a client gives its whole password: where caching_sha2_password's fast path does not do, and
/// always in sha256_password. Secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whole<'a> {
    /// It wants the RSA key first.
    WantsKey,
    /// As it is, which TLS protects.
    Clear(&'a [u8]),
    /// RSA-encrypted, under [`sha2_mask`].
    Sealed(&'a [u8]),
    /// As it is, or something else, where nothing protects it.
    Exposed,
    /// Not terminated.
    Malformed,
}

/// What a client's answer is when asked for its whole password. `sealed`: the length of what it
/// encrypts, in bytes.
#[must_use]
pub fn whole_password<'a>(
    answer: &'a [u8],
    plugin: &str,
    secure: bool,
    sealed: usize,
) -> Whole<'a> {
    let request = if plugin == SHA256 { SHA256_REQUEST_KEY } else { SHA2_REQUEST_KEY };
    match answer {
        [byte] if *byte == request => Whole::WantsKey,
        [password @ .., 0] if secure => Whole::Clear(password),
        _ if secure => Whole::Malformed,
        _ if answer.len() == sealed => Whole::Sealed(answer),
        _ => Whole::Exposed,
    }
}

/// What a client encrypted, decrypted: takes the mask and the NUL at the end away. False: there is no
/// such password in it.
#[must_use]
pub fn unmask_whole(plain: &mut Vec<u8>, salt: &[u8; SALT]) -> bool {
    sha2_mask(plain, salt);
    plain.pop() == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_stored_form_is_the_servers() {
        // SELECT PASSWORD('secret')
        let hash = native_parse_hash("*14E65567ABDB5135D0CFD9A70B3032C179A49EE7").unwrap();
        assert_eq!(native_stage2(&native_stage1(b"secret")), hash);
        assert_eq!(native_parse_hash("*14E65567ABDB5135D0CFD9A70B3032C179A49EE"), None);
        assert_eq!(native_parse_hash("invalid"), None);
    }

    fn base64(text: &str) -> Vec<u8> {
        let digit = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let text = text.trim_end_matches('=');
        let bits = text.bytes().flat_map(|c| (0..6).rev().map(move |i| digit(c) >> i & 1));
        let bits: Vec<u8> = bits.collect();
        bits.chunks_exact(8).map(|b| b.iter().fold(0, |n, bit| n << 1 | bit)).collect()
    }

    #[test]
    fn an_ed25519_answer_is_signed_by_the_key_in_the_account() {
        // SELECT ed25519_password('secret')
        let stored = "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY";
        let key = base64(stored).try_into().unwrap();
        let key = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
        let signature = ed25519_dalek::Signature::from_bytes(&ed25519_token(b"secret", &[7; 32]));
        assert!(key.verify_strict(&[7; 32], &signature).is_ok());
        assert!(key.verify_strict(&[8; 32], &signature).is_err());
    }

    #[test]
    fn a_parsec_answer_is_signed_by_the_key_in_the_account() {
        // SELECT JSON_VALUE(Priv, '$.authentication_string') FROM mysql.global_priv, of an account
        // IDENTIFIED VIA parsec USING PASSWORD('secret'): P0:salt:key
        let salt = "kpI/RU7ty1m2w8PMHN9GrbnZ";
        let stored = "TLRTT6jTYFu5nEoZKLIKlEA6prIJzp9B8a+SmzGUCgs";
        let mut answer = b"\x01P\0".to_vec();
        answer.extend(base64(salt));
        let salt = ParsecSalt::parse(&answer).unwrap();
        assert_eq!(ParsecSalt::parse(&answer[1..]), Some(salt));
        assert_eq!(ParsecSalt::parse(&answer[..20]), None);
        let token = salt.token(b"secret", &[7; 32], &[8; 32]);
        assert_eq!(token[..32], [8; 32]);
        let key = ed25519_dalek::VerifyingKey::from_bytes(&base64(stored).try_into().unwrap());
        let signature = ed25519_dalek::Signature::from_slice(&token[32..]).unwrap();
        let signed = [[7; 32], [8; 32]].concat();
        assert!(key.unwrap().verify_strict(&signed, &signature).is_ok());
        answer[2] = 99; // rounds without end
        assert_eq!(ParsecSalt::parse(&answer), None);
    }

    #[test]
    fn a_whole_password_is_taken_as_it_is_over_tls_only() {
        let of = |answer, secure| whole_password(answer, CACHING_SHA2, secure, 256);
        assert!(of(b"secret\0", true) == Whole::Clear(b"secret"));
        assert!(of(b"secret\0", false) == Whole::Exposed);
        assert!(of(b"secret", true) == Whole::Malformed);
        assert!(of(b"", true) == Whole::Malformed && of(b"", false) == Whole::Exposed);
        assert!(of(b"\x02", true) == Whole::WantsKey && of(b"\x02", false) == Whole::WantsKey);
        assert!(of(&[7; 256], false) == Whole::Sealed(&[7; 256]));
        // sha256_password has another byte for that.
        assert!(whole_password(b"\x01", SHA256, false, 256) == Whole::WantsKey);
        assert!(whole_password(b"\x02", SHA256, false, 256) == Whole::Exposed);
    }

    proptest! {
        #[test]
        fn a_masked_password_is_itself_again(password: Vec<u8>, salt: [u8; SALT]) {
            let mut sent = [&password[..], b"\0"].concat();
            sha2_mask(&mut sent, &salt);
            prop_assert!(unmask_whole(&mut sent, &salt));
            prop_assert_eq!(sent, password);
        }

        #[test]
        fn right_passwords_pass_and_reveal_stage1(password: Vec<u8>, salt: [u8; SALT]) {
            let s1 = native_stage1(&password);
            let token = native_token(&s1, &salt);
            prop_assert_eq!(native_verify(&token, &salt, &native_stage2(&s1)), Some(s1));
            let s1 = sha2_stage1(&password);
            let token = sha2_token(&s1, &salt);
            prop_assert_eq!(sha2_verify(&token, &salt, &sha2_stage2(&s1)), Some(s1));
        }

        #[test]
        fn wrong_ones_fail(a: Vec<u8>, b: Vec<u8>, salt: [u8; SALT]) {
            prop_assume!(a != b);
            let stored = native_stage2(&native_stage1(&a));
            let token = native_token(&native_stage1(&b), &salt);
            prop_assert_eq!(native_verify(&token, &salt, &stored), None);
            prop_assert_eq!(native_verify(&a, &salt, &stored), None);
            let token = sha2_token(&sha2_stage1(&b), &salt);
            prop_assert_eq!(sha2_verify(&token, &salt, &sha2_stage2(&sha2_stage1(&a))), None);
        }
    }
}
