//! What a client proved, in the forms other servers accept as proof.

use std::ops::Deref;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pointsman_wire::auth;
use zeroize::Zeroizing;

/// A user and as much of the password as is known. Never printed; copies share it.
#[derive(Clone)]
pub struct Credentials(Arc<Known>);

pub struct Known {
    pub user: Vec<u8>,
    /// `SHA1(password)`.
    native: Option<Zeroizing<[u8; 20]>>,
    /// `SHA256(password)`.
    sha2: Option<Zeroizing<[u8; 32]>>,
    password: Option<Zeroizing<Vec<u8>>>,
}

impl Deref for Credentials {
    type Target = Known;

    fn deref(&self) -> &Known {
        &self.0
    }
}

impl Credentials {
    #[must_use]
    pub fn from_password(user: &[u8], password: &[u8]) -> Self {
        Self(Arc::new(Known {
            user: user.to_vec(),
            native: Some(Zeroizing::new(auth::native_stage1(password))),
            sha2: Some(Zeroizing::new(auth::sha2_stage1(password))),
            password: Some(Zeroizing::new(password.to_vec())),
        }))
    }

    #[must_use]
    pub fn from_native(user: &[u8], stage1: [u8; 20]) -> Self {
        Self(Arc::new(Known {
            user: user.to_vec(),
            native: Some(Zeroizing::new(stage1)),
            sha2: None,
            password: None,
        }))
    }

    /// Hands out all that tells these credentials from others.
    pub fn identify(&self, each: &mut dyn FnMut(&[u8])) {
        each(&self.user);
        each(self.native.as_ref().map_or(&[], |s| &s[..]));
        each(self.sha2.as_ref().map_or(&[], |s| &s[..]));
        each(self.password.as_ref().map_or(&[], |s| &s[..]));
        each(&[u8::from(self.has_empty_password())]);
    }

    #[must_use]
    pub fn has_empty_password(&self) -> bool {
        self.password.as_ref().is_some_and(|p| p.is_empty())
    }

    /// The first answer to a server's salt; `None` if this plugin needs more than is known.
    #[must_use]
    pub fn token(&self, plugin: &[u8], salt: &[u8; auth::SALT]) -> Option<Vec<u8>> {
        if self.has_empty_password() {
            return Some(if plugin == auth::SHA256.as_bytes() { vec![0] } else { Vec::new() });
        }
        match plugin {
            b"mysql_native_password" => {
                self.native.as_ref().map(|s| auth::native_token(s, salt).to_vec())
            }
            b"caching_sha2_password" => {
                self.sha2.as_ref().map(|s| auth::sha2_token(s, salt).to_vec())
            }
            b"mysql_clear_password" => None,
            _ => None,
        }
    }

    /// See [`auth::vouch`].
    #[must_use]
    pub fn vouch(&self, salt: &[u8; auth::SALT], certificate: &[u8]) -> Option<Vec<u8>> {
        self.native.as_ref().map(|stage1| auth::vouch(stage1, salt, certificate))
    }

    /// The answer to ed25519's salt.
    #[must_use]
    pub fn ed25519(&self, salt: &[u8]) -> Option<Vec<u8>> {
        Some(auth::ed25519_token(self.password.as_ref()?, salt).to_vec())
    }

    /// The answer to parsec's two salts.
    #[must_use]
    pub fn parsec(&self, salt: &auth::ParsecSalt, theirs: &[u8; 32]) -> Option<Vec<u8>> {
        Some(salt.token(self.password.as_ref()?, theirs, &rand::random()).to_vec())
    }

    /// The password as it is sent where nobody listens: NUL-terminated.
    #[must_use]
    pub fn clear(&self) -> Option<Vec<u8>> {
        let mut password = self.password.as_ref()?.to_vec();
        password.push(0);
        Some(password)
    }

    /// The password encrypted for a server's RSA key, for caching_sha2_password's full path.
    #[must_use]
    pub fn encrypted(&self, pem: &[u8], salt: &[u8; auth::SALT]) -> Option<Vec<u8>> {
        let mut masked = Zeroizing::new(self.password.as_ref()?.to_vec());
        masked.push(0);
        auth::sha2_mask(&mut masked, salt);
        let text = std::str::from_utf8(pem).ok()?;
        let body: String =
            text.lines().filter(|l| !l.starts_with("-----")).map(str::trim).collect();
        let key = PublicEncryptingKey::from_der(&STANDARD.decode(body).ok()?).ok()?;
        let key = OaepPublicEncryptingKey::new(key).ok()?;
        let mut out = vec![0; key.ciphertext_size()];
        let n = key.encrypt(&OAEP_SHA1_MGF1SHA1, &masked, &mut out, None).ok()?.len();
        out.truncate(n);
        Some(out)
    }
}

/// The daemon's own RSA key, with which clients send their password on the full path.
pub struct RsaKey {
    key: OaepPrivateDecryptingKey,
    pem: String,
}

impl RsaKey {
    /// Takes some tenths of a second.
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048)?;
        let der: PublicKeyX509Der<'_> = private.public_key().as_der()?;
        let text = STANDARD.encode(der.as_ref());
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
            pem.push('\n');
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        let key = OaepPrivateDecryptingKey::new(private)?;
        Ok(Self { key, pem })
    }

    #[must_use]
    pub fn pem(&self) -> &[u8] {
        self.pem.as_bytes()
    }

    /// Length of what clients encrypt for this key, in bytes.
    #[must_use]
    pub fn ciphertext_size(&self) -> usize {
        self.key.min_output_size()
    }

    /// The password a client encrypted.
    #[must_use]
    pub fn password(
        &self,
        ciphertext: &[u8],
        salt: &[u8; auth::SALT],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let mut plain = Zeroizing::new(vec![0; self.key.min_output_size()]);
        let n = self.key.decrypt(&OAEP_SHA1_MGF1SHA1, ciphertext, &mut plain, None).ok()?.len();
        plain.truncate(n);
        auth::unmask_whole(&mut plain, salt).then_some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_travels_encrypted_to_whoever_has_the_key() {
        let key = RsaKey::generate().unwrap();
        let salt = std::array::from_fn(|i| i as u8 + 1);
        let sent =
            Credentials::from_password(b"app", b"s3cret").encrypted(key.pem(), &salt).unwrap();
        assert_eq!(&key.password(&sent, &salt).unwrap()[..], b"s3cret");
        assert!(key.password(&sent[1..], &salt).is_none());
        assert!(key.password(&sent, &[9; 20]).is_none_or(|p| &p[..] != b"s3cret"));
    }
}
