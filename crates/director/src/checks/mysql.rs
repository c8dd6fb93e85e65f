//! MYSQL_CHECK: greeting, login, role and lag (MySQL client/server protocol, Connection Phase and
//! COM_QUERY).

use std::io::{Read, Write};
use std::time::Duration;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use pointsman_wire::{Capabilities, ErrPacket, HEADER, Header, Reader, auth, handshake};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;

use super::probe::short;
use crate::config::MysqlRole;

/// Nothing a check asks for is longer.
const MAX_PACKET: usize = 1 << 20;
const MAX_ROWS: usize = 1000;

pub(crate) struct Account<'a> {
    pub user: &'a str,
    pub password: &'a str,
}

pub(crate) fn check(
    stream: impl Read + Write,
    account: Option<Account<'_>>,
    role: MysqlRole,
    max_lag: Option<Duration>,
) -> Result<(), String> {
    let mut server = Server { stream, sequence: 0 };
    let greeting = server.packet()?;
    match greeting.first() {
        Some(10) => {}
        Some(0xff) => return Err(format!("refuses connections: {}", said(&greeting))),
        other => {
            return Err(format!("speaks protocol {}, not MySQL's 10", other.copied().unwrap_or(0)));
        }
    }
    let Some(account) = account else { return Ok(()) };
    let greeting = handshake::Greeting::parse(&greeting).map_err(|e| e.to_string())?;
    server.login(&greeting, &account)?;
    if role != MysqlRole::Any {
        let rows = server.query("SELECT @@global.read_only")?.map_err(|e| e.text)?;
        let value = rows.first().and_then(|row| row.values.first().cloned().flatten());
        let writable = matches!(value.as_deref(), Some("0" | "OFF"));
        match (role, writable) {
            (MysqlRole::Primary, false) => return Err("is read-only, not a primary".to_owned()),
            (MysqlRole::Replica, true) => return Err("is writable, not a replica".to_owned()),
            _ => {}
        }
    }
    if let Some(limit) = max_lag.filter(|_| role != MysqlRole::Primary) {
        let status = match server.query("SHOW REPLICA STATUS")? {
            // Servers before MariaDB 10.5 and MySQL 8.0.22.
            Err(e) if e.code == SYNTAX => server.query("SHOW SLAVE STATUS")?,
            other => other,
        };
        let rows = status.map_err(|e| e.text)?;
        if rows.is_empty() && role == MysqlRole::Replica {
            return Err("does not replicate".to_owned());
        }
        for row in &rows {
            lag(row, limit)?;
        }
    }
    server.send_command(COM_QUIT, b"")
}

const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;
/// ER_PARSE_ERROR
const SYNTAX: u16 = 1064;

fn lag(row: &Row, limit: Duration) -> Result<(), String> {
    let names = ["Seconds_Behind_Source", "Seconds_Behind_Master"];
    let at = row
        .names
        .iter()
        .position(|n| names.contains(&n.as_str()))
        .ok_or("tells nothing about its lag")?;
    match row.values.get(at).and_then(Option::as_deref).and_then(|v| v.parse::<u64>().ok()) {
        None => Err("replication is stopped: its lag is unknown".to_owned()),
        Some(seconds) if Duration::from_secs(seconds) > limit => {
            Err(format!("lags {seconds} s behind"))
        }
        Some(_) => Ok(()),
    }
}

/// What the server says in an ERR packet.
fn said(payload: &[u8]) -> String {
    refusal(payload).text
}

struct Refusal {
    code: u16,
    text: String,
}

fn refusal(payload: &[u8]) -> Refusal {
    match ErrPacket::parse(payload) {
        Ok(e) => Refusal {
            code: e.code,
            text: format!("{} {}", e.code, String::from_utf8_lossy(e.message)),
        },
        Err(e) => Refusal { code: 0, text: e.to_string() },
    }
}

struct Row {
    names: std::rc::Rc<Vec<String>>,
    values: Vec<Option<String>>,
}

struct Server<S> {
    stream: S,
    /// Of the packet to send next.
    sequence: u8,
}

impl<S: Read + Write> Server<S> {
    fn packet(&mut self) -> Result<Vec<u8>, String> {
        let told = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => "closed the connection".to_owned(),
            _ => short(&e),
        };
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).map_err(told)?;
        let header = Header::parse(&header).ok_or("no header")?;
        if header.len > MAX_PACKET {
            return Err("sent a packet too long to be an answer".to_owned());
        }
        let mut payload = vec![0; header.len];
        self.stream.read_exact(&mut payload).map_err(told)?;
        self.sequence = header.seq.wrapping_add(1);
        Ok(payload)
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut out = Vec::with_capacity(HEADER + payload.len());
        self.sequence = pointsman_wire::write_packet(&mut out, self.sequence, payload);
        self.stream.write_all(&out).map_err(|e| short(&e))
    }

    fn send_command(&mut self, command: u8, argument: &[u8]) -> Result<(), String> {
        self.sequence = 0;
        self.send(&[&[command], argument].concat())
    }

    fn login(&mut self, greeting: &handshake::Greeting, who: &Account<'_>) -> Result<(), String> {
        let known = |plugin: &[u8]| {
            [auth::NATIVE, auth::CACHING_SHA2].into_iter().find(|p| p.as_bytes() == plugin)
        };
        let plugin = known(&greeting.plugin).unwrap_or(auth::NATIVE);
        let capabilities = Capabilities::LONG_PASSWORD
            | Capabilities::PROTOCOL_41
            | Capabilities::SECURE_CONNECTION
            | Capabilities::TRANSACTIONS
            | Capabilities::PLUGIN_AUTH;
        let response = handshake::Response {
            capabilities,
            max_packet: MAX_PACKET as u32,
            collation: 45,
            user: who.user.as_bytes().to_vec(),
            token: token(plugin, who.password, &greeting.salt),
            plugin: Some(plugin.as_bytes().to_vec()),
            ..handshake::Response::default()
        };
        self.send(&response.build())?;
        let mut salt = greeting.salt;
        // A server that keeps asking does not let us in.
        for _ in 0..5 {
            let payload = self.packet()?;
            match *payload.as_slice() {
                [0, ..] => return Ok(()),
                [0xff, ..] => return Err(format!("login: {}", said(&payload))),
                [0xfe, _, ..] => {
                    let (plugin, new) =
                        handshake::parse_auth_switch(&payload).map_err(|e| e.to_string())?;
                    salt = new;
                    let plugin = known(&plugin).ok_or_else(|| {
                        format!("login: {} is not spoken here", String::from_utf8_lossy(&plugin))
                    })?;
                    self.send(&token(plugin, who.password, &salt))?;
                }
                [1, auth::SHA2_FAST_OK] => {}
                // The server has not seen the account since it started.
                [1, auth::SHA2_FULL] => {
                    self.send(&[auth::SHA2_REQUEST_KEY])?;
                    let key = self.packet()?;
                    let pem = key.strip_prefix(&[1]).unwrap_or_default();
                    let sealed = seal(who.password, &salt, pem)
                        .ok_or("login: the server's RSA key is not understood")?;
                    self.send(&sealed)?;
                }
                _ => return Err("login: an answer that is not understood".to_owned()),
            }
        }
        Err("login: no end to it".to_owned())
    }

    /// The rows, or the server's refusal; `Err` if the connection is of no more use.
    fn query(&mut self, sql: &str) -> Result<Result<Vec<Row>, Refusal>, String> {
        self.send_command(COM_QUERY, sql.as_bytes())?;
        let first = self.packet()?;
        let columns = match first.first() {
            Some(0xff) => return Ok(Err(refusal(&first))),
            Some(0) => return Ok(Ok(Vec::new())),
            _ => Reader::new(&first).lenenc().map_err(|e| e.to_string())?,
        };
        let mut names = Vec::new();
        for _ in 0..columns.min(4096) {
            names.push(column_name(&self.packet()?)?);
        }
        let names = std::rc::Rc::new(names);
        if !is_eof(&self.packet()?) {
            return Err("columns without an end".to_owned());
        }
        let mut rows = Vec::new();
        loop {
            let payload = self.packet()?;
            if is_eof(&payload) {
                return Ok(Ok(rows));
            }
            if payload.first() == Some(&0xff) {
                return Ok(Err(refusal(&payload)));
            }
            if rows.len() >= MAX_ROWS {
                return Err("rows without an end".to_owned());
            }
            rows.push(Row { names: names.clone(), values: values(&payload, names.len())? });
        }
    }
}

fn token(plugin: &str, password: &str, salt: &[u8; auth::SALT]) -> Vec<u8> {
    let password = password.as_bytes();
    if password.is_empty() {
        return Vec::new();
    }
    match plugin {
        auth::CACHING_SHA2 => auth::sha2_token(&auth::sha2_stage1(password), salt).to_vec(),
        _ => auth::native_token(&auth::native_stage1(password), salt).to_vec(),
    }
}

/// The password for a server's RSA key, given in PEM: caching_sha2_password's full path without TLS.
fn seal(password: &str, salt: &[u8; auth::SALT], pem: &[u8]) -> Option<Vec<u8>> {
    let mut masked = [password.as_bytes(), &[0]].concat();
    auth::sha2_mask(&mut masked, salt);
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&key).ok()?).ok()?;
    let mut out = vec![0; key.ciphertext_size()];
    let length = key.encrypt(&OAEP_SHA1_MGF1SHA1, &masked, &mut out, None).ok()?.len();
    out.truncate(length);
    Some(out)
}

fn is_eof(payload: &[u8]) -> bool {
    payload.first() == Some(&0xfe) && payload.len() < 9
}

/// Protocol::ColumnDefinition41: catalog, schema, table, org_table, name.
fn column_name(payload: &[u8]) -> Result<String, String> {
    let mut r = Reader::new(payload);
    let mut name = || -> Result<&[u8], pointsman_wire::Malformed> {
        for _ in 0..4 {
            r.lenenc_bytes()?;
        }
        r.lenenc_bytes()
    };
    name().map(|n| String::from_utf8_lossy(n).into_owned()).map_err(|e| e.to_string())
}

fn values(payload: &[u8], columns: usize) -> Result<Vec<Option<String>>, String> {
    let mut r = Reader::new(payload);
    let mut out = Vec::with_capacity(columns);
    for _ in 0..columns {
        if r.rest().first() == Some(&0xfb) {
            r.u8().map_err(|e| e.to_string())?;
            out.push(None);
        } else {
            let bytes = r.lenenc_bytes().map_err(|e| e.to_string())?;
            out.push(Some(String::from_utf8_lossy(bytes).into_owned()));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
