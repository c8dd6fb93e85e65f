//! The SQL console: the command table for every MySQL client. Loopback only.

mod sql;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use opensrv_mysql::{
    AsyncMysqlIntermediary, AsyncMysqlShim, Column as SqlColumn, ColumnFlags,
    ColumnType as SqlType, ErrorKind, InitWriter, OkResponse, ParamParser, QueryResultWriter,
    StatementMetaWriter,
};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncWrite, BufWriter};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::{AdminError, Cell, Code, ColumnType, Daemon, Table};

/// Clients at once; it is a console.
const MAX_CLIENTS: usize = 64;

/// A bound console that does not answer yet.
#[derive(Debug)]
pub struct Console {
    listener: TcpListener,
    address: SocketAddr,
    token: Option<String>,
}

impl Console {
    /// Binds `address`. `token`: the password clients must give, under any user name.
    ///
    /// # Errors
    /// [`Code::CantListen`] if the address is taken or is not loopback.
    pub async fn bind(address: SocketAddr, token: Option<String>) -> Result<Self, AdminError> {
        if !address.ip().is_loopback() {
            return Err(AdminError::new(
                Code::CantListen,
                format!("SQL console on {address}: it listens on loopback only"),
            ));
        }
        let cant = |e| {
            AdminError::new(
                Code::CantListen,
                format!("SQL console: can't listen on {address}: {e}"),
            )
        };
        let listener = TcpListener::bind(address).await.map_err(cant)?;
        let address = listener.local_addr().map_err(cant)?;
        Ok(Self { listener, address, token })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` resolves.
    pub async fn serve(
        self,
        daemon: Arc<dyn Daemon>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) {
        let accept = async {
            let places = Arc::new(Semaphore::new(MAX_CLIENTS));
            let ids = AtomicU32::new(1);
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let stream = match self.listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, mostly: others must end before it gets better.
                        tracing::warn!(%error, "SQL console: accept");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let _ = stream.set_nodelay(true);
                let client = Client {
                    daemon: daemon.clone(),
                    token: self.token.clone(),
                    id: ids.fetch_add(1, Ordering::Relaxed),
                    salt: salt(),
                };
                tokio::spawn(async move {
                    let (read, write) = stream.into_split();
                    let done = AsyncMysqlIntermediary::run_on(client, read, BufWriter::new(write));
                    if let Err(error) = done.await {
                        tracing::debug!(%error, "SQL console: client gone");
                    }
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop => {}
        }
    }
}

/// Twenty bytes nobody can foresee; neither NUL nor `$`, at which clients would cut it off.
fn salt() -> [u8; 20] {
    let mut salt = [0; 20];
    for byte in &mut salt {
        *byte = loop {
            let b = rand::random::<u8>() & 0x7f;
            if b != 0 && b != b'$' {
                break b;
            }
        };
    }
    salt
}

struct Client {
    daemon: Arc<dyn Daemon>,
    token: Option<String>,
    id: u32,
    salt: [u8; 20],
}

/// What a `mysql_native_password` client answers: `SHA1(p) XOR SHA1(salt + SHA1(SHA1(p)))`.
fn native_password(password: &[u8], salt: &[u8]) -> [u8; 20] {
    let once = Sha1::digest(password);
    let twice = Sha1::digest(once);
    let mut mask = Sha1::new();
    mask.update(salt);
    mask.update(twice);
    let mut answer: [u8; 20] = mask.finalize().into();
    for (a, b) in answer.iter_mut().zip(once) {
        *a ^= b;
    }
    answer
}

#[async_trait]
impl<W: AsyncWrite + Send + Unpin> AsyncMysqlShim<W> for Client {
    type Error = io::Error;

    fn version(&self) -> String {
        format!("8.0.0-pointsman-{}", env!("CARGO_PKG_VERSION"))
    }

    fn connect_id(&self) -> u32 {
        self.id
    }

    fn salt(&self) -> [u8; 20] {
        self.salt
    }

    async fn authenticate(&self, _: &str, _: &[u8], salt: &[u8], answer: &[u8]) -> bool {
        let Some(token) = &self.token else { return true };
        native_password(token.as_bytes(), salt).ct_eq(answer).into()
    }

    async fn on_init<'a>(&'a mut self, _: &'a str, w: InitWriter<'a, W>) -> io::Result<()> {
        w.ok().await
    }

    async fn on_prepare<'a>(
        &'a mut self,
        _: &'a str,
        w: StatementMetaWriter<'a, W>,
    ) -> io::Result<()> {
        w.error(ErrorKind::ER_UNSUPPORTED_PS, b"the console takes plain statements only".as_slice())
            .await
    }

    async fn on_execute<'a>(
        &'a mut self,
        _: u32,
        _: ParamParser<'a>,
        w: QueryResultWriter<'a, W>,
    ) -> io::Result<()> {
        w.error(ErrorKind::ER_UNKNOWN_STMT_HANDLER, b"there are no prepared statements".as_slice())
            .await
    }

    async fn on_close<'a>(&'a mut self, _: u32)
    where
        W: 'async_trait,
    {
    }

    async fn on_query<'a>(
        &'a mut self,
        text: &'a str,
        w: QueryResultWriter<'a, W>,
    ) -> io::Result<()> {
        match sql::answer(&*self.daemon, text).await {
            Ok(sql::Answer::Ok(info)) => {
                w.completed(OkResponse { info, ..OkResponse::default() }).await
            }
            Ok(sql::Answer::Rows(columns, rows)) => write_rows(w, &columns, &rows).await,
            Ok(sql::Answer::Table(table)) => {
                let (columns, rows) = plain(table);
                write_rows(w, &columns, &rows).await
            }
            Err(error) => {
                let kind = match error.code {
                    Code::UnknownCommand | Code::BadArgument => ErrorKind::ER_PARSE_ERROR,
                    Code::NotAvailable => ErrorKind::ER_NOT_SUPPORTED_YET,
                    _ => ErrorKind::ER_UNKNOWN_ERROR,
                };
                let text = format!("{error} ({})", error.code.remedy());
                w.error(kind, text.as_bytes()).await
            }
        }
    }
}

type Rows = Vec<Vec<Option<String>>>;

fn plain(table: Table) -> (Vec<(String, SqlType)>, Rows) {
    let columns = table.columns.iter().map(|c| (c.name.to_owned(), sql_type(c.kind))).collect();
    let rows = table.rows.iter().map(|row| row.iter().map(Cell::to_sql).collect()).collect();
    (columns, rows)
}

fn sql_type(kind: ColumnType) -> SqlType {
    match kind {
        ColumnType::Text => SqlType::MYSQL_TYPE_VAR_STRING,
        ColumnType::Bool => SqlType::MYSQL_TYPE_TINY,
        ColumnType::Integer => SqlType::MYSQL_TYPE_LONGLONG,
        ColumnType::Float | ColumnType::Millis => SqlType::MYSQL_TYPE_DOUBLE,
        ColumnType::Time => SqlType::MYSQL_TYPE_DATETIME,
    }
}

async fn write_rows<W: AsyncWrite + Send + Unpin>(
    w: QueryResultWriter<'_, W>,
    columns: &[(String, SqlType)],
    rows: &Rows,
) -> io::Result<()> {
    let columns: Vec<SqlColumn> = columns
        .iter()
        .map(|(name, coltype)| SqlColumn {
            table: String::new(),
            column: name.clone(),
            coltype: *coltype,
            colflags: ColumnFlags::empty(),
        })
        .collect();
    let mut out = w.start(&columns).await?;
    for row in rows {
        out.write_row(row.iter().map(Option::as_deref)).await?;
    }
    out.finish().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_proved_as_clients_prove_it() {
        // Computed by the definition in the protocol's documentation.
        let answer = native_password(b"secret", b"01234567890123456789");
        let once = Sha1::digest(b"secret");
        let mask = Sha1::digest([b"01234567890123456789".as_slice(), &Sha1::digest(once)].concat());
        for i in 0..20 {
            assert_eq!(answer[i] ^ mask[i], once[i]);
        }
    }

    #[test]
    fn salts_differ_and_have_no_terminators() {
        let (a, b) = (salt(), salt());
        assert_ne!(a, b);
        assert!(a.iter().chain(&b).all(|c| *c != 0 && *c != b'$' && *c < 128));
    }
}
