//! A client that sends what it is told to, packet by packet.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pointsman_wire::auth::{self, native_stage1, native_token, sha2_stage1, sha2_token};
use pointsman_wire::handshake::{Greeting, Response, parse_auth_switch};
use pointsman_wire::{
    Capabilities, HEADER, Header, MAX_PAYLOAD, Reader, Status, text_row, write_packet,
};

use crate::{APP_PASSWORD, APP_USER};

/// What most clients ask for, without session tracking and with EOF packets as of old.
pub fn caps() -> Capabilities {
    Capabilities::LONG_PASSWORD
        | Capabilities::LONG_FLAG
        | Capabilities::PROTOCOL_41
        | Capabilities::TRANSACTIONS
        | Capabilities::SECURE_CONNECTION
        | Capabilities::PLUGIN_AUTH
        | Capabilities::CONNECT_WITH_DB
        | Capabilities::MULTI_STATEMENTS
        | Capabilities::MULTI_RESULTS
        | Capabilities::PS_MULTI_RESULTS
        | Capabilities::LOCAL_FILES
}

/// An error of the server, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    pub code: u16,
    pub sqlstate: String,
    pub message: String,
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.code, self.sqlstate, self.message)
    }
}

impl std::error::Error for ServerError {}

/// A connection.
pub struct Raw {
    stream: TcpStream,
    seq: u8,
    caps: Capabilities,
    pub greeting: Greeting,
    login_ok: Vec<u8>,
}

/// What proves the password, at first.
fn token(plugin: &[u8], password: &str, salt: &[u8; auth::SALT]) -> Result<Vec<u8>> {
    let password = password.as_bytes();
    Ok(match plugin {
        b"sha256_password" if password.is_empty() => vec![0],
        _ if password.is_empty() => Vec::new(),
        b"mysql_native_password" => native_token(&native_stage1(password), salt).to_vec(),
        // What MySQL asks unknown users for, too, so that nobody can tell them. The key comes next.
        b"sha256_password" => vec![1],
        b"caching_sha2_password" => sha2_token(&sha2_stage1(password), salt).to_vec(),
        other => bail!("{} is asked for", String::from_utf8_lossy(other)),
    })
}

/// The password for the owner of an RSA key.
fn encrypted(password: &str, pem: &[u8], salt: &[u8; auth::SALT]) -> Result<Vec<u8>> {
    let mut masked = password.as_bytes().to_vec();
    masked.push(0);
    auth::sha2_mask(&mut masked, salt);
    let text = std::str::from_utf8(pem)?;
    let body: String = text.lines().filter(|l| !l.starts_with("-----")).map(str::trim).collect();
    let key = PublicEncryptingKey::from_der(&STANDARD.decode(body)?)?;
    let key = OaepPublicEncryptingKey::new(key)?;
    let mut out = vec![0; key.ciphertext_size()];
    let len = key.encrypt(&OAEP_SHA1_MGF1SHA1, &masked, &mut out, None)?.len();
    out.truncate(len);
    Ok(out)
}

impl Raw {
    /// As the application's user, with [`caps`].
    pub fn connect(port: u16) -> Result<Self> {
        Self::login(port, APP_USER, APP_PASSWORD, Some("app"), caps())
    }

    /// Not logged in yet.
    ///
    /// # Errors
    /// A [`ServerError`] if the server refuses to greet.
    pub fn greeted(port: u16, caps: Capabilities) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let greeting = Greeting {
            server_version: Vec::new(),
            connection_id: 0,
            salt: [0; 20],
            capabilities: Capabilities::empty(),
            collation: 0,
            status: Status::empty(),
            plugin: Vec::new(),
        };
        let mut raw = Self { stream, seq: 0, caps, greeting, login_ok: Vec::new() };
        let first = raw.packet()?;
        fail(&first)?;
        raw.greeting = Greeting::parse(&first)?;
        Ok(raw)
    }

    /// # Errors
    /// A [`ServerError`] if the server refuses.
    pub fn login(
        port: u16,
        user: &str,
        password: &str,
        database: Option<&str>,
        caps: Capabilities,
    ) -> Result<Self> {
        let mut raw = Self::greeted(port, caps)?;
        if database.is_none() {
            raw.caps -= Capabilities::CONNECT_WITH_DB;
        }
        // Only what the server has can be agreed on. (MariaDB's servers leave LONG_PASSWORD out.)
        raw.caps &= raw.greeting.capabilities | Capabilities::LONG_PASSWORD;
        let plugin = raw.greeting.plugin.clone();
        let response = Response {
            capabilities: raw.caps,
            max_packet: 1 << 30,
            collation: 45,
            user: user.as_bytes().to_vec(),
            token: token(&plugin, password, &raw.greeting.salt)?,
            database: database.map(|d| d.as_bytes().to_vec()),
            plugin: Some(plugin),
            ..Response::default()
        };
        raw.send(&response.build())?;
        let answer = raw.proved(password)?;
        fail(&answer)?;
        ensure!(answer.first() == Some(&0), "neither OK nor ERR: {answer:?}");
        raw.login_ok = answer;
        Ok(raw)
    }

    /// Answers what the server asks for until it says OK or ERR.
    fn proved(&mut self, password: &str) -> Result<Vec<u8>> {
        let mut newest = self.greeting.salt;
        loop {
            let answer = self.packet()?;
            match answer[..] {
                [0xfe, ..] => {
                    let (plugin, salt) = parse_auth_switch(&answer)?;
                    self.send(&token(&plugin, password, &salt)?)?;
                    newest = salt;
                }
                [1, auth::SHA2_FAST_OK] => {}
                // The long way of caching_sha2_password, without TLS.
                [1, auth::SHA2_FULL] => self.send(&[auth::SHA2_REQUEST_KEY])?,
                [1, ref key @ ..] => {
                    let encrypted = encrypted(password, key, &newest)?;
                    self.send(&encrypted)?;
                }
                _ => return Ok(answer),
            }
        }
    }

    /// COM_CHANGE_USER: the OK or ERR that answers it.
    pub fn change_user(
        &mut self,
        user: &str,
        password: &str,
        database: Option<&str>,
    ) -> Result<Vec<u8>> {
        self.change_user_in(user, password, database, 45)
    }

    /// As [`Raw::change_user`], with a collation named by its id.
    pub fn change_user_in(
        &mut self,
        user: &str,
        password: &str,
        database: Option<&str>,
        collation: u16,
    ) -> Result<Vec<u8>> {
        let plugin = self.greeting.plugin.clone();
        let token = token(&plugin, password, &self.greeting.salt)?;
        let mut argument = user.as_bytes().to_vec();
        argument.push(0);
        argument.push(u8::try_from(token.len())?);
        argument.extend_from_slice(&token);
        argument.extend_from_slice(database.unwrap_or_default().as_bytes());
        argument.push(0);
        argument.extend_from_slice(&collation.to_le_bytes());
        argument.extend_from_slice(&plugin);
        argument.push(0);
        self.command(0x11, &argument)?;
        self.proved(password)
    }

    /// What client and server agreed on.
    pub fn caps(&self) -> Capabilities {
        self.caps
    }

    /// The OK that ended the login.
    pub fn login_ok(&self) -> &[u8] {
        &self.login_ok
    }

    /// Sends a command: sequence ids start again.
    pub fn command(&mut self, byte: u8, argument: &[u8]) -> Result<()> {
        self.seq = 0;
        let mut payload = Vec::with_capacity(argument.len() + 1);
        payload.push(byte);
        payload.extend_from_slice(argument);
        self.send(&payload)
    }

    /// Sends a packet that goes on with the present exchange.
    pub fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut bytes = Vec::with_capacity(payload.len() + HEADER);
        self.seq = write_packet(&mut bytes, self.seq, payload);
        self.stream.write_all(&bytes)?;
        Ok(())
    }

    /// The next packet begins a reply, to a command that was sent before others were answered.
    pub fn next_reply(&mut self) {
        self.seq = 1;
    }

    /// Bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next payload, put together if it came in several packets. Sequence ids must count on.
    pub fn packet(&mut self) -> Result<Vec<u8>> {
        let mut payload = Vec::new();
        loop {
            let mut head = [0; HEADER];
            self.stream.read_exact(&mut head).context("the connection ended")?;
            let header = Header::parse(&head).expect("four bytes");
            ensure!(header.seq == self.seq, "sequence id {}, not {}", header.seq, self.seq);
            self.seq = self.seq.wrapping_add(1);
            let from = payload.len();
            payload.resize(from + header.len, 0);
            self.stream.read_exact(&mut payload[from..])?;
            if header.len < MAX_PAYLOAD {
                return Ok(payload);
            }
        }
    }

    /// The answer to a command that is answered with OK, EOF or ERR.
    pub fn ok(&mut self) -> Result<Vec<u8>> {
        let packet = self.packet()?;
        fail(&packet)?;
        ensure!(matches!(packet.first(), Some(0 | 0xfe)), "neither OK nor ERR: {packet:?}");
        Ok(packet)
    }

    /// The next packet that is no progress report.
    fn news(&mut self) -> Result<Vec<u8>> {
        loop {
            let packet = self.packet()?;
            if !is_progress(&packet, self.caps) {
                return Ok(packet);
            }
        }
    }

    /// A result set's rows as they came, or none for an OK; and whether more results follow.
    /// Understands EOF packets and `CLIENT_DEPRECATE_EOF`, definitions that are left out and progress
    /// reports.
    pub fn result(&mut self) -> Result<(Vec<Vec<u8>>, bool)> {
        let first = self.news()?;
        fail(&first)?;
        if first.first() == Some(&0) {
            let mut r = Reader::new(&first[1..]);
            r.lenenc()?;
            r.lenenc()?;
            return Ok((Vec::new(), r.u16()? & 8 != 0));
        }
        for _ in 0..definitions(&first, self.caps)?.0 {
            self.packet()?;
        }
        let deprecate = self.caps.contains(Capabilities::DEPRECATE_EOF);
        if !deprecate {
            let eof = self.packet()?;
            ensure!(eof.first() == Some(&0xfe) && eof.len() == 5, "no EOF: {eof:?}");
        }
        let mut rows = Vec::new();
        loop {
            let packet = self.news()?;
            fail(&packet)?;
            if packet.first() == Some(&0xfe)
                && packet.len() < MAX_PAYLOAD
                && (deprecate || packet.len() == 5)
            {
                let status = if deprecate {
                    let mut r = Reader::new(&packet[1..]);
                    r.lenenc()?;
                    r.lenenc()?;
                    r.u16()?
                } else {
                    u16::from_le_bytes([packet[3], packet[4]])
                };
                return Ok((rows, status & 8 != 0));
            }
            rows.push(packet);
        }
    }

    /// COM_QUERY with one result of text.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.command(3, sql.as_bytes())?;
        let (rows, more) = self.result()?;
        ensure!(!more, "more results follow");
        rows.iter().map(|row| lenenc_row(row)).collect()
    }

    /// The first column of the first row.
    pub fn one(&mut self, sql: &str) -> Result<String> {
        let rows = self.query(sql)?;
        rows.first().and_then(|r| r.first()).cloned().flatten().context("no row, or NULL")
    }

    /// COM_STMT_PREPARE: the statement's id, its columns and its parameters.
    pub fn prepare(&mut self, sql: &str) -> Result<(u32, u16, u16)> {
        self.command(0x16, sql.as_bytes())?;
        let packet = self.packet()?;
        fail(&packet)?;
        let mut r = Reader::new(&packet[1..]);
        let (id, columns, params) = (r.u32()?, r.u16()?, r.u16()?);
        let deprecate = self.caps.contains(Capabilities::DEPRECATE_EOF);
        let left_out = self.caps.contains(Capabilities::OPTIONAL_RESULTSET_METADATA)
            && packet.get(12) == Some(&0);
        for n in [params, columns] {
            for _ in 0..if left_out { 0 } else { n } {
                self.packet()?;
            }
            if n > 0 && !deprecate {
                self.packet()?;
            }
        }
        Ok((id, columns, params))
    }

    /// Closed by the other side, now or within `wait`.
    pub fn is_closed(&mut self, wait: Duration) -> bool {
        let before = self.stream.read_timeout().ok().flatten();
        let _ = self.stream.set_read_timeout(Some(wait));
        let mut byte = [0];
        let closed = match self.stream.read(&mut byte) {
            Ok(n) => n == 0,
            Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        let _ = self.stream.set_read_timeout(before);
        closed
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// How far the server has got: no error, though it looks like one.
pub fn is_progress(packet: &[u8], caps: Capabilities) -> bool {
    packet.starts_with(&[0xff; 3]) && caps.contains(Capabilities::MARIADB_PROGRESS)
}

/// How many definitions follow the first packet of a result, and of how many columns it is.
pub fn definitions(first: &[u8], caps: Capabilities) -> Result<(u64, u64)> {
    let mut r = Reader::new(first);
    let columns = r.lenenc()?;
    let left_out = caps.contains(Capabilities::OPTIONAL_RESULTSET_METADATA) && r.u8()? == 0;
    ensure!(r.is_empty(), "more than a number of columns: {first:?}");
    Ok((if left_out { 0 } else { columns }, columns))
}

fn fail(packet: &[u8]) -> Result<()> {
    if packet.first() != Some(&0xff) {
        return Ok(());
    }
    let Some(([_, low, high], rest)) = packet.split_first_chunk::<3>() else { bail!("short ERR") };
    let (sqlstate, message) = match rest.split_first_chunk::<6>() {
        Some(([b'#', state @ ..], message)) => {
            (String::from_utf8_lossy(state).into_owned(), message)
        }
        _ => (String::new(), rest),
    };
    bail!(ServerError {
        code: u16::from_le_bytes([*low, *high]),
        sqlstate,
        message: String::from_utf8_lossy(message).into_owned(),
    })
}

/// A row of the text protocol.
pub fn lenenc_row(row: &[u8]) -> Result<Vec<Option<String>>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(text_row(row)?.into_iter().map(|value| value.map(text)).collect())
}
