//! Asking the primary how far it is, where its replies can't say.
//!
//! Servers report a commit's position in OK packets only: not in the EOF that ends a result set
//! (`INSERT ... RETURNING`, for clients without CLIENT_DEPRECATE_EOF), and not in ERR, which may
//! follow writes that stay. A connection of the worker's own asks; asking over the session's would
//! change what `SHOW WARNINGS` and `ROW_COUNT()` say.

use std::io;
use std::sync::Arc;

use pointsman_cluster::gtid::{Flavour, Position};
use pointsman_wire::{Capabilities, HEADER, Header, Reader, write_packet};

use crate::backend::{Backend, Login};
use crate::buffers::Buffer;
use crate::credentials::Credentials;
use crate::worker::Worker;

impl Worker {
    /// A position that covers everything the primary has committed so far, noted for all sessions;
    /// `None` if it could not be had.
    pub async fn note_present_position(&self) -> Option<Arc<Position>> {
        let (primary, flavour) = self.snapshot(|s| (s.primary().cloned(), s.greeting.flavour()));
        let primary = primary?;
        let kept = self.asking.borrow_mut().take();
        let mut backend = match kept.filter(|b| b.server == primary.id && !b.socket.is_stale()) {
            Some(backend) => backend,
            None => {
                let monitor = &self.shared.config.monitor;
                let password = monitor.password.expose().as_bytes();
                let login = Login {
                    credentials: Credentials::from_password(monitor.user.as_bytes(), password),
                    caps: Capabilities::OFFERED - Capabilities::CONNECT_ATTRS,
                    collation: 45,
                    database: None,
                    attributes: None,
                };
                let within = self.shared.config.limits.connect_timeout;
                Box::new(Backend::connect(&primary, &login, within).await.ok()?)
            }
        };
        let sql: &[u8] = match flavour {
            Flavour::MariaDb => b"\x03SELECT @@global.gtid_binlog_pos",
            Flavour::MySql => b"\x03SELECT @@global.gtid_executed",
        };
        let within = self.shared.config.monitor.timeout;
        let answer = tokio::time::timeout(within, ask(&mut backend, sql)).await.ok()?.ok()?;
        *self.asking.borrow_mut() = Some(backend);
        let position = Position::parse(flavour, &answer).ok()?;
        self.shared.cluster.note_write(&position);
        Some(Arc::new(position))
    }
}

/// The one value that a statement answers.
async fn ask(backend: &mut Backend, command: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    write_packet(&mut out, 0, command);
    backend.socket.write_all(&out).await?;
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut buf = Buffer::borrow();
    let mut value = None;
    // One column: count, definition, row, end (EOF is deprecated on this connection).
    for packet in 0..4 {
        let header = loop {
            match Header::parse(buf.filled()) {
                Some(header) if buf.filled().len() >= HEADER + header.len => break header,
                Some(header) => buf.reserve(HEADER + header.len),
                None => {}
            }
            if backend.socket.read(&mut buf).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let payload = &buf.filled()[HEADER..HEADER + header.len];
        match packet {
            0 if payload != [1] => return Err(bad()),
            2 => value = Some(Reader::new(payload).lenenc_bytes().map_err(|_| bad())?.to_vec()),
            _ => {}
        }
        buf.consume(HEADER + header.len);
    }
    value.ok_or_else(bad)
}
