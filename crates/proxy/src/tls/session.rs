//! TLS between a socket and the protocol.

use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{Connection, ProtocolVersion};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use super::names::PeerNames;

/// One connection's TLS.
pub struct Session {
    connection: Connection,
}

/// What was agreed, and with whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As OpenSSL names it: `TLSv1.3`.
    pub version: &'static str,
    /// As OpenSSL names it: `TLS_AES_256_GCM_SHA384`, `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher: String,
    /// Of the peer's certificate, if it has shown one that was found good.
    pub peer: Option<PeerNames>,
}

impl Session {
    pub fn new(connection: impl Into<Connection>) -> Self {
        Self { connection: connection.into() }
    }

    /// Takes in what was read from the socket before TLS began.
    pub fn feed(&mut self, mut ahead: &[u8]) -> io::Result<()> {
        while !ahead.is_empty() {
            if self.connection.read_tls(&mut ahead)? == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.connection.process_new_packets().map_err(invalid)?;
        }
        Ok(())
    }

    /// Done when both sides know what they agreed on.
    pub fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        loop {
            let done = !self.connection.is_handshaking();
            // What is left to say in TLS 1.3 can go along with what is written next.
            if done && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_flush(cx, stream))?;
            if done {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_take_in(cx, stream))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads what was sent; 0 is the end.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        space: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.connection.reader().read(space) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // Without goodbye. The protocol's own packets tell whether anything is missing.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                other => return Poll::Ready(other),
            }
            ready!(self.poll_take_in(cx, stream))?;
            // A change of keys may want an answer. It can wait for the next write if it must.
            let _ = self.poll_flush(cx, stream)?;
        }
    }

    /// Sends all of `bytes`, which shrinks as they go.
    pub fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        bytes: &mut &[u8],
    ) -> Poll<io::Result<()>> {
        loop {
            // Takes as much as its buffer may hold.
            let n = self.connection.writer().write(bytes)?;
            *bytes = &bytes[n..];
            ready!(self.poll_flush(cx, stream))?;
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether a read would not have to wait for the socket.
    pub fn has_more(&self) -> bool {
        !self.connection.wants_read()
    }

    /// Sends if that is possible at once; nobody waits for it.
    pub fn try_write(&mut self, stream: &TcpStream, bytes: &[u8]) {
        let _ = self.connection.writer().write(bytes);
        self.try_flush(stream);
    }

    /// Says goodbye, if that is possible at once.
    pub fn close(&mut self, stream: &TcpStream) {
        self.connection.send_close_notify();
        self.try_flush(stream);
    }

    fn try_flush(&mut self, stream: &TcpStream) {
        while self.connection.wants_write() {
            if !self.connection.write_tls(&mut AtOnce(stream)).is_ok_and(|n| n > 0) {
                return;
            }
        }
    }

    /// What was agreed; `None` before the handshake is done.
    pub fn facts(&self) -> Option<Facts> {
        let version = match self.connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => return None,
        };
        let suite = self.connection.negotiated_cipher_suite()?.suite();
        let certificate = self.connection.peer_certificates().and_then(<[_]>::first);
        Some(Facts {
            version,
            cipher: openssl_name(suite.as_str().unwrap_or("?")),
            peer: certificate.and_then(|c| PeerNames::of(c)),
        })
    }

    fn poll_take_in(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
    ) -> Poll<io::Result<usize>> {
        let n = match self.connection.read_tls(&mut Waiting { stream, cx }) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            other => other?,
        };
        if let Err(error) = self.connection.process_new_packets() {
            // The alert says why; the connection is over.
            self.try_flush(stream);
            return Poll::Ready(Err(invalid(error)));
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Waiting { stream, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A socket as rustls wants it; "would block" has the task woken when it does no more.
struct Waiting<'a, 'b> {
    stream: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

fn blocking<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl io::Read for Waiting<'_, '_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut space = ReadBuf::new(space);
        blocking(Pin::new(&mut *self.stream).poll_read(self.cx, &mut space))?;
        Ok(space.filled().len())
    }
}

impl io::Write for Waiting<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.stream).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.stream).poll_write_vectored(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket that nobody waits for.
struct AtOnce<'a>(&'a TcpStream);

impl io::Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `TLS13_AES_256_GCM_SHA384`, `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256` as OpenSSL, and with it
/// `Ssl_cipher` and `REQUIRE CIPHER`, have it.
fn openssl_name(suite: &str) -> String {
    if let Some(rest) = suite.strip_prefix("TLS13_") {
        return format!("TLS_{rest}");
    }
    let Some((exchange, cipher)) =
        suite.strip_prefix("TLS_").and_then(|rest| rest.split_once("_WITH_"))
    else {
        return suite.to_owned();
    };
    let cipher = match cipher {
        "CHACHA20_POLY1305_SHA256" => "CHACHA20-POLY1305".to_owned(),
        other => other.replace("AES_", "AES").replace('_', "-"),
    };
    format!("{}-{cipher}", exchange.replace('_', "-"))
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::openssl_name;

    #[test]
    fn ciphers_are_called_as_openssl_calls_them() {
        for (ours, openssl) in [
            ("TLS13_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
            ("TLS13_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
            ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
            ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
        ] {
            assert_eq!(openssl_name(ours), openssl);
        }
    }
}
