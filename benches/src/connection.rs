//! A client that does as little as can be beside waiting for its answers, with TLS or without.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use pointsman_tests::{APP_PASSWORD, APP_USER, caps};
use pointsman_wire::auth::{self, native_stage1, native_token};
use pointsman_wire::handshake::{Greeting, Response, parse_auth_switch, ssl_request};
use pointsman_wire::{Capabilities, HEADER, Header, MAX_PAYLOAD, Reader, write_packet};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// For clients that believe only what this CA has signed.
pub fn tls(ca: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Most that one read takes.
const BUFFER: usize = 64 << 10;

/// Logged in.
pub struct Connection {
    stream: Stream,
    request: Vec<u8>,
    /// What was read and not looked at yet is `buffer[at..have]`.
    buffer: Box<[u8]>,
    at: usize,
    have: usize,
}

impl Connection {
    /// As the application's user.
    pub fn open(to: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut me = Self {
            stream: Stream::Plain(stream),
            request: Vec::new(),
            // Most replies are short; the buffer grows when one is not.
            buffer: vec![0; 4 << 10].into(),
            at: 0,
            have: 0,
        };
        let (mut seq, payload) = me.packet()?;
        let greeting = Greeting::parse(&payload).context("no greeting")?;
        let mut caps = caps() & (greeting.capabilities | Capabilities::LONG_PASSWORD);
        if let Some(config) = tls {
            caps |= Capabilities::SSL;
            seq =
                write_packet(&mut me.request, seq.wrapping_add(1), &ssl_request(caps, 1 << 30, 45))
                    .wrapping_sub(1);
            me.send()?;
            let Stream::Plain(plain) = me.stream else { bail!("TLS twice") };
            let name = ServerName::from(to.ip());
            let client = ClientConnection::new(Arc::clone(config), name)?;
            me.stream = Stream::Tls(Box::new(StreamOwned::new(client, plain)));
        }
        let token = |salt: &[u8; auth::SALT]| {
            native_token(&native_stage1(APP_PASSWORD.as_bytes()), salt).to_vec()
        };
        let response = Response {
            capabilities: caps,
            max_packet: 1 << 30,
            collation: 45,
            user: APP_USER.as_bytes().to_vec(),
            token: token(&greeting.salt),
            database: Some(b"app".to_vec()),
            plugin: Some(b"mysql_native_password".to_vec()),
            ..Response::default()
        };
        write_packet(&mut me.request, seq.wrapping_add(1), &response.build());
        me.send()?;
        loop {
            let (seq, payload) = me.packet()?;
            match payload.first() {
                Some(0) => return Ok(me),
                Some(0xfe) => {
                    let (_, salt) = parse_auth_switch(&payload)?;
                    write_packet(&mut me.request, seq.wrapping_add(1), &token(&salt));
                    me.send()?;
                }
                _ => bail!("{}", String::from_utf8_lossy(payload.get(9..).unwrap_or_default())),
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        self.stream.write_all(&self.request)?;
        self.stream.flush()?;
        self.request.clear();
        Ok(())
    }

    /// Reads until `least` bytes are there.
    fn need(&mut self, least: usize) -> Result<()> {
        while self.have - self.at < least {
            if self.at == self.have {
                (self.at, self.have) = (0, 0);
            } else if self.at > 0 && self.at + least > self.buffer.len() {
                self.buffer.copy_within(self.at..self.have, 0);
                (self.at, self.have) = (0, self.have - self.at);
            }
            if self.have == self.buffer.len() || self.buffer.len() < least {
                let mut larger = vec![0; BUFFER.max(least)];
                larger[..self.have].copy_from_slice(&self.buffer[..self.have]);
                self.buffer = larger.into();
            }
            let n = self.stream.read(&mut self.buffer[self.have..])?;
            ensure!(n > 0, "the connection ended");
            self.have += n;
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Header> {
        self.need(HEADER)?;
        Header::parse(&self.buffer[self.at..self.have]).context("no header")
    }

    /// A packet that fits into memory.
    fn packet(&mut self) -> Result<(u8, Vec<u8>)> {
        let header = self.header()?;
        ensure!(header.len < BUFFER, "a short packet is expected");
        self.need(HEADER + header.len)?;
        let payload = self.buffer[self.at + HEADER..self.at + HEADER + header.len].to_vec();
        self.at += HEADER + header.len;
        Ok((header.seq, payload))
    }

    /// Reads on and forgets what it reads.
    fn skip(&mut self, mut n: usize) -> Result<()> {
        loop {
            let here = n.min(self.have - self.at);
            self.at += here;
            n -= here;
            if n == 0 {
                return Ok(());
            }
            self.need(n.min(BUFFER))?;
        }
    }

    /// COM_QUERY; gives the bytes of the reply.
    pub fn query(&mut self, sql: &str) -> Result<u64> {
        self.begin(3, sql.len());
        self.request.extend_from_slice(sql.as_bytes());
        self.exchange().with_context(|| sql.to_owned())
    }

    /// COM_STMT_PREPARE; gives the id.
    pub fn prepare(&mut self, sql: &str) -> Result<u32> {
        self.begin(0x16, sql.len());
        self.request.extend_from_slice(sql.as_bytes());
        self.send()?;
        let (_, payload) = self.packet()?;
        ensure!(payload.first() == Some(&0), "{sql} was not prepared");
        let mut reader = Reader::new(&payload[1..]);
        let id = reader.u32()?;
        let sections = [reader.u16()?, reader.u16()?];
        for packets in sections.into_iter().filter(|n| *n > 0) {
            for _ in 0..=packets {
                self.packet()?;
            }
        }
        Ok(id)
    }

    /// COM_STMT_EXECUTE with one parameter of type INT.
    pub fn execute(&mut self, statement: u32, parameter: u32) -> Result<u64> {
        self.begin(0x17, 4 + 1 + 4 + 1 + 1 + 2 + 4);
        self.request.extend_from_slice(&statement.to_le_bytes());
        self.request.extend_from_slice(&[0, 1, 0, 0, 0, 0, 1, 3, 0]);
        self.request.extend_from_slice(&parameter.to_le_bytes());
        self.exchange().context("COM_STMT_EXECUTE")
    }

    /// COM_QUIT.
    pub fn quit(mut self) -> Result<()> {
        self.begin(1, 0);
        self.send()
    }

    fn begin(&mut self, command: u8, rest: usize) {
        let [a, b, c, _] = (rest as u32 + 1).to_le_bytes();
        self.request.extend_from_slice(&[a, b, c, 0, command]);
    }

    /// Sends the request and reads until an OK, or the second EOF of a result set.
    fn exchange(&mut self) -> Result<u64> {
        self.send()?;
        let (mut bytes, mut first, mut eofs, mut goes_on) = (0, true, 0, false);
        loop {
            let header = self.header()?;
            bytes += (HEADER + header.len) as u64;
            let kind = match header.len {
                0 => None,
                _ => {
                    self.need(HEADER + 1)?;
                    Some(self.buffer[self.at + HEADER])
                }
            };
            match kind {
                _ if goes_on => {}
                Some(0xff) => {
                    let (_, payload) = self.packet()?;
                    bail!("{}", String::from_utf8_lossy(payload.get(9..).unwrap_or_default()));
                }
                Some(0xfe) if header.len < 9 => eofs += 1,
                _ => {}
            }
            let ok = first && kind == Some(0);
            goes_on = header.len == MAX_PAYLOAD;
            first = false;
            self.skip(HEADER + header.len)?;
            if ok || eofs == 2 {
                return Ok(bytes);
            }
        }
    }
}
