//! Logging in ("Connection Phase Packets": Protocol::HandshakeV10, Protocol::HandshakeResponse41,
//! Protocol::AuthSwitchRequest, COM_CHANGE_USER).

use crate::auth::SALT;
use crate::{Capabilities, Malformed, Reader, Status, put_lenenc, put_lenenc_bytes};

/// The server's first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    pub server_version: Vec<u8>,
    pub connection_id: u32,
    pub salt: [u8; SALT],
    pub capabilities: Capabilities,
    /// Low byte of the server's default collation.
    pub collation: u8,
    pub status: Status,
    pub plugin: Vec<u8>,
}

impl Greeting {
    /// `payload` of a packet that is not ERR.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        if r.u8()? != 10 {
            return Err(Malformed("not protocol version 10"));
        }
        let server_version = r.nul_bytes().to_vec();
        let connection_id = r.u32()?;
        let mut salt = [0; SALT];
        salt[..8].copy_from_slice(r.take(8)?);
        r.u8()?;
        let low = r.u16()?;
        let collation = r.u8()?;
        let status = Status::from_bits_retain(r.u16()?);
        let high = r.u16()?;
        let salt_len = r.u8()?;
        r.take(6)?;
        let extended = r.u32()?;
        let mut bits = u64::from(low) | u64::from(high) << 16;
        if bits & Capabilities::LONG_PASSWORD.bits() == 0 {
            bits |= u64::from(extended) << 32; // MariaDB
        }
        let capabilities = Capabilities::from_bits_retain(bits);
        if !capabilities.contains(Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION) {
            return Err(Malformed("a server older than MySQL 4.1"));
        }
        salt[8..].copy_from_slice(r.take(SALT - 8)?);
        let pad = usize::from(salt_len).max(SALT + 1) - SALT;
        r.take(pad.min(r.rest().len()))?;
        let plugin = r.nul_bytes().to_vec();
        Ok(Self { server_version, connection_id, salt, capabilities, collation, status, plugin })
    }

    /// The payload.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let bits = self.capabilities.bits();
        let mut out = vec![10];
        out.extend_from_slice(&self.server_version);
        out.push(0);
        out.extend_from_slice(&self.connection_id.to_le_bytes());
        out.extend_from_slice(&self.salt[..8]);
        out.push(0);
        out.extend_from_slice(&(bits as u16).to_le_bytes());
        out.push(self.collation);
        out.extend_from_slice(&self.status.bits().to_le_bytes());
        out.extend_from_slice(&((bits >> 16) as u16).to_le_bytes());
        out.push(SALT as u8 + 1);
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&((bits >> 32) as u32).to_le_bytes());
        out.extend_from_slice(&self.salt[8..]);
        out.push(0);
        out.extend_from_slice(&self.plugin);
        out.push(0);
        out
    }
}

/// The client's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    pub capabilities: Capabilities,
    pub max_packet: u32,
    /// Low byte of the collation id, as clients send it.
    pub collation: u8,
    pub user: Vec<u8>,
    pub token: Vec<u8>,
    pub database: Option<Vec<u8>>,
    pub plugin: Option<Vec<u8>>,
    /// Connection attributes, still encoded.
    pub attributes: Option<Vec<u8>>,
    pub zstd_level: Option<u8>,
}

impl Response {
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        let low = r.u32()?;
        let mut bits = u64::from(low);
        let max_packet = r.u32()?;
        let collation = r.u8()?;
        r.take(19)?;
        let extended = r.u32()?;
        if bits & Capabilities::LONG_PASSWORD.bits() == 0 {
            bits |= u64::from(extended) << 32;
        }
        let capabilities = Capabilities::from_bits_retain(bits);
        if !capabilities.contains(Capabilities::PROTOCOL_41) {
            return Err(Malformed("a client older than MySQL 4.1"));
        }
        let user = r.nul_bytes().to_vec();
        let token = if capabilities.contains(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            r.lenenc_bytes()?.to_vec()
        } else if capabilities.contains(Capabilities::SECURE_CONNECTION) {
            let n = r.u8()?;
            r.take(usize::from(n))?.to_vec()
        } else {
            r.nul_bytes().to_vec()
        };
        let has = |flag| capabilities.contains(flag);
        let database = (has(Capabilities::CONNECT_WITH_DB) && !r.is_empty())
            .then(|| r.nul_bytes().to_vec())
            .filter(|db| !db.is_empty());
        let plugin =
            (has(Capabilities::PLUGIN_AUTH) && !r.is_empty()).then(|| r.nul_bytes().to_vec());
        let attributes = if has(Capabilities::CONNECT_ATTRS) && !r.is_empty() {
            Some(r.lenenc_bytes()?.to_vec())
        } else {
            None
        };
        let zstd_level = has(Capabilities::ZSTD_COMPRESSION).then(|| r.u8().ok()).flatten();
        Ok(Self {
            capabilities,
            max_packet,
            collation,
            user,
            token,
            database,
            plugin,
            attributes,
            zstd_level,
        })
    }

    /// The payload. `capabilities` must say which of the optional fields are set.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let bits = self.capabilities.bits();
        let has = |flag| self.capabilities.contains(flag);
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&(bits as u32).to_le_bytes());
        out.extend_from_slice(&self.max_packet.to_le_bytes());
        out.push(self.collation);
        out.extend_from_slice(&[0; 19]);
        out.extend_from_slice(&((bits >> 32) as u32).to_le_bytes());
        out.extend_from_slice(&self.user);
        out.push(0);
        if has(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            put_lenenc_bytes(&mut out, &self.token);
        } else {
            out.push(self.token.len() as u8);
            out.extend_from_slice(&self.token);
        }
        if has(Capabilities::CONNECT_WITH_DB) {
            out.extend_from_slice(self.database.as_deref().unwrap_or_default());
            out.push(0);
        }
        if has(Capabilities::PLUGIN_AUTH) {
            out.extend_from_slice(self.plugin.as_deref().unwrap_or_default());
            out.push(0);
        }
        if has(Capabilities::CONNECT_ATTRS) {
            put_lenenc_bytes(&mut out, self.attributes.as_deref().unwrap_or_default());
        }
        out
    }
}

/// Length of an SSLRequest: what a Response begins with.
const SSL_REQUEST: usize = 32;

/// Whether a client's first packet asks for TLS (Protocol::SSLRequest), after which the handshake
/// and a full [`Response`] follow.
#[must_use]
pub fn is_ssl_request(payload: &[u8]) -> bool {
    let Some(flags) = payload.first_chunk().map(|b| u32::from_le_bytes(*b)) else { return false };
    payload.len() == SSL_REQUEST && u64::from(flags) & Capabilities::SSL.bits() != 0
}

/// An SSLRequest's payload.
#[must_use]
pub fn ssl_request(capabilities: Capabilities, max_packet: u32, collation: u8) -> Vec<u8> {
    let mut out = Response { capabilities, max_packet, collation, ..Response::default() }.build();
    out.truncate(SSL_REQUEST);
    out
}

/// COM_CHANGE_USER's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeUser {
    pub user: Vec<u8>,
    pub token: Vec<u8>,
    pub database: Option<Vec<u8>>,
    pub collation: Option<u16>,
    pub plugin: Option<Vec<u8>>,
    pub attributes: Option<Vec<u8>>,
}

impl ChangeUser {
    /// `payload` with the command byte.
    pub fn parse(payload: &[u8], caps: Capabilities) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        r.u8()?;
        let user = r.nul_bytes().to_vec();
        let n = r.u8()?;
        let token = r.take(usize::from(n))?.to_vec();
        let database = Some(r.nul_bytes().to_vec()).filter(|db| !db.is_empty());
        let collation = if r.is_empty() { None } else { Some(r.u16()?) };
        let plugin = (caps.contains(Capabilities::PLUGIN_AUTH) && !r.is_empty())
            .then(|| r.nul_bytes().to_vec());
        let attributes = if caps.contains(Capabilities::CONNECT_ATTRS) && !r.is_empty() {
            Some(r.lenenc_bytes()?.to_vec())
        } else {
            None
        };
        Ok(Self { user, token, database, collation, plugin, attributes })
    }
}

/// "Prove it by this method instead", with a fresh salt.
#[must_use]
pub fn auth_switch(plugin: &str, salt: &[u8; SALT]) -> Vec<u8> {
    let mut out = vec![0xfe];
    out.extend_from_slice(plugin.as_bytes());
    out.push(0);
    out.extend_from_slice(salt);
    out.push(0);
    out
}

/// Plugin of an AuthSwitchRequest, and what it is sent with, for plugins with another salt.
pub fn parse_auth_switch_data(payload: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut r = Reader::new(payload);
    r.u8()?;
    let plugin = r.nul_bytes();
    Ok((plugin, r.rest()))
}

/// Plugin and salt of an AuthSwitchRequest.
pub fn parse_auth_switch(payload: &[u8]) -> Result<(Vec<u8>, [u8; SALT]), Malformed> {
    let mut r = Reader::new(payload);
    r.u8()?;
    let plugin = r.nul_bytes().to_vec();
    let salt = r.take(SALT)?.try_into().map_err(|_| Malformed("salt"))?;
    Ok((plugin, salt))
}

/// The connection attributes clients of ours send when they have none to pass on.
#[must_use]
pub fn attributes(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in pairs {
        put_lenenc(&mut out, key.len() as u64);
        out.extend_from_slice(key.as_bytes());
        put_lenenc_bytes(&mut out, value.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn greeting_round_trips() {
        let greeting = Greeting {
            server_version: b"5.5.5-10.11.6-MariaDB".to_vec(),
            connection_id: 77,
            salt: std::array::from_fn(|i| i as u8 + 1),
            capabilities: Capabilities::OFFERED - Capabilities::LONG_PASSWORD,
            collation: 45,
            status: Status::AUTOCOMMIT,
            plugin: b"mysql_native_password".to_vec(),
        };
        assert_eq!(Greeting::parse(&greeting.build()), Ok(greeting));
    }

    #[test]
    fn response_round_trips() {
        let response = Response {
            capabilities: Capabilities::OFFERED - Capabilities::LONG_PASSWORD,
            max_packet: 1 << 24,
            collation: 45,
            user: b"app".to_vec(),
            token: vec![9; 20],
            database: Some(b"shop".to_vec()),
            plugin: Some(b"mysql_native_password".to_vec()),
            attributes: Some(attributes(&[("program_name", "php")])),
            zstd_level: None,
        };
        assert_eq!(Response::parse(&response.build()), Ok(response));
    }

    #[test]
    fn an_ssl_request_is_told_from_a_response() {
        let caps = Capabilities::OFFERED | Capabilities::SSL;
        let request = ssl_request(caps, 1 << 24, 45);
        assert!(is_ssl_request(&request));
        assert!(!is_ssl_request(&request[..31]));
        assert!(!is_ssl_request(&ssl_request(Capabilities::OFFERED, 1 << 24, 45)));
        let response = Response { capabilities: caps, ..Response::default() };
        assert!(!is_ssl_request(&response.build()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = is_ssl_request(&bytes);
            let _ = Greeting::parse(&bytes);
            let _ = Response::parse(&bytes);
            let _ = ChangeUser::parse(&bytes, Capabilities::all());
            let _ = parse_auth_switch(&bytes);
        }
    }
}
