//! One client of the console, on the MySQL protocol.

use std::io;
use std::sync::Arc;

use pointsman_wire::handshake::{Greeting, Response, auth_switch};
use pointsman_wire::{
    Capabilities, ColumnKind, Command, HEADER, Header, Status, auth, err_packet, ok_packet,
    text_result, write_packet,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Rows;
use super::sql::{self, Answer};
use crate::{Cell, Code, ColumnType, Daemon, Table};

/// Longest packet a console believes, in bytes.
const LONGEST: usize = 64 << 10;

pub struct Client {
    pub daemon: Arc<dyn Daemon>,
    pub token: Option<String>,
    pub id: u32,
    pub stream: TcpStream,
}

impl Client {
    /// Serves until the client leaves.
    pub async fn run(mut self) -> io::Result<()> {
        if !self.log_in().await? {
            return Ok(());
        }
        while let Some((_, payload)) = self.read().await? {
            let mut out = Vec::new();
            match payload.first().map(|byte| Command::from_byte(*byte)) {
                Some(Command::Quit) | None => return Ok(()),
                Some(Command::Query) => self.query(&payload[1..], &mut out).await,
                Some(Command::InitDb | Command::Ping | Command::ResetConnection) => {
                    ok_packet(&mut out, 1, Status::AUTOCOMMIT);
                }
                Some(Command::StmtClose) => continue,
                Some(Command::StmtPrepare) => {
                    let text = "the console takes plain statements only";
                    err_packet(&mut out, 1, 1295, "HY000", text);
                }
                Some(_) => {
                    err_packet(&mut out, 1, 1047, "08S01", "Unknown command");
                }
            }
            self.stream.write_all(&out).await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let mut header = [0; HEADER];
        match self.stream.read_exact(&mut header).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        };
        let Some(header) = Header::parse(&header).filter(|h| h.len <= LONGEST) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "packet too long"));
        };
        let mut payload = vec![0; header.len];
        self.stream.read_exact(&mut payload).await?;
        Ok(Some((header.seq, payload)))
    }

    async fn send(&mut self, seq: u8, payload: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        write_packet(&mut out, seq, payload);
        self.stream.write_all(&out).await
    }

    async fn log_in(&mut self) -> io::Result<bool> {
        let salt = super::salt();
        let greeting = Greeting {
            server_version: format!("8.0.0-pointsman-{}", env!("CARGO_PKG_VERSION")).into_bytes(),
            connection_id: self.id,
            salt,
            capabilities: Capabilities::PROTOCOL_41
                | Capabilities::LONG_PASSWORD
                | Capabilities::LONG_FLAG
                | Capabilities::SECURE_CONNECTION
                | Capabilities::PLUGIN_AUTH
                | Capabilities::PLUGIN_AUTH_LENENC_DATA
                | Capabilities::CONNECT_WITH_DB
                | Capabilities::CONNECT_ATTRS
                | Capabilities::TRANSACTIONS,
            collation: 45,
            status: Status::AUTOCOMMIT,
            plugin: auth::NATIVE.as_bytes().to_vec(),
        };
        self.send(0, &greeting.build()).await?;
        let Some((mut seq, payload)) = self.read().await? else { return Ok(false) };
        let mut out = Vec::new();
        let Ok(response) = Response::parse(&payload) else {
            err_packet(&mut out, seq.wrapping_add(1), 1043, "08S01", "Bad handshake");
            self.stream.write_all(&out).await?;
            return Ok(false);
        };
        let mut answer = response.token;
        if self.token.is_some()
            && response.plugin.as_deref().is_some_and(|p| p != auth::NATIVE.as_bytes())
        {
            self.send(seq.wrapping_add(1), &auth_switch(auth::NATIVE, &salt)).await?;
            let Some((next, payload)) = self.read().await? else { return Ok(false) };
            (seq, answer) = (next, payload);
        }
        let allowed = self.token.as_ref().is_none_or(|token| {
            let stored = auth::native_stage2(&auth::native_stage1(token.as_bytes()));
            auth::native_verify(&answer, &salt, &stored).is_some()
        });
        if allowed {
            ok_packet(&mut out, seq.wrapping_add(1), Status::AUTOCOMMIT);
        } else {
            let text = "Access denied: the console's password is the token of [admin]";
            err_packet(&mut out, seq.wrapping_add(1), 1045, "28000", text);
        }
        self.stream.write_all(&out).await?;
        Ok(allowed)
    }

    async fn query(&self, text: &[u8], out: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(text);
        match sql::answer(&*self.daemon, &text).await {
            Ok(Answer::Ok(info)) => {
                let mut payload = vec![0, 0, 0];
                payload.extend_from_slice(&Status::AUTOCOMMIT.bits().to_le_bytes());
                payload.extend_from_slice(&[0, 0]);
                pointsman_wire::put_lenenc_bytes(&mut payload, info.as_bytes());
                write_packet(out, 1, &payload);
            }
            Ok(Answer::Rows(columns, rows)) => write_rows(out, &columns, &rows),
            Ok(Answer::Table(table)) => {
                let (columns, rows) = plain(table);
                write_rows(out, &columns, &rows);
            }
            Err(error) => {
                let (code, state) = match error.code {
                    Code::UnknownCommand | Code::BadArgument => (1064, "42000"),
                    Code::NotAvailable => (1235, "42000"),
                    _ => (1105, "HY000"),
                };
                err_packet(out, 1, code, state, &format!("{error} ({})", error.code.remedy()));
            }
        }
    }
}

fn plain(table: Table) -> (Vec<(String, ColumnKind)>, Rows) {
    let columns = table.columns.iter().map(|c| (c.name.to_owned(), kind(c.kind))).collect();
    let rows = table.rows.iter().map(|row| row.iter().map(Cell::to_sql).collect()).collect();
    (columns, rows)
}

fn kind(kind: ColumnType) -> ColumnKind {
    match kind {
        ColumnType::Text => ColumnKind::VarString,
        ColumnType::Bool => ColumnKind::Tiny,
        ColumnType::Integer => ColumnKind::LongLong,
        ColumnType::Float | ColumnType::Millis => ColumnKind::Double,
        ColumnType::Time => ColumnKind::DateTime,
    }
}

fn write_rows(out: &mut Vec<u8>, columns: &[(String, ColumnKind)], rows: &Rows) {
    let columns: Vec<_> = columns.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
    text_result(out, 1, &columns, rows.iter().map(Vec::as_slice), Status::AUTOCOMMIT);
}
