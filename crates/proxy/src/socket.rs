//! The one place that touches sockets on the data path.
//!
//! Every call tries first and parks only when the kernel says so. What lies between the socket and
//! the protocol (TLS, compression) goes in here; where nothing does, all it costs is to see that.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use pointsman_wire::compressed::Algorithm;

use crate::buffers::Buffer;
use crate::compression::Compression;
use crate::tls;

/// A stream of bytes to a client or a server.
pub struct Socket {
    stream: TcpStream,
    layers: Option<Box<Layers>>,
}

/// What the bytes go through on their way to the protocol.
#[derive(Debug, Default)]
struct Layers {
    tls: Option<tls::Session>,
    compression: Option<Compression>,
}

impl Layers {
    fn has_more(&self) -> bool {
        self.tls.as_ref().is_some_and(tls::Session::has_more)
            || self.compression.as_ref().is_some_and(Compression::has_more)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        space: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { tls, compression } = self;
        let mut read = |space: &mut [u8]| match tls {
            Some(tls) => tls.poll_read(cx, stream, space),
            None => poll_read(cx, stream, space),
        };
        match compression {
            Some(compression) => compression.poll_read(space, read),
            None => read(space),
        }
    }

    fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        bytes: &mut &[u8],
    ) -> Poll<io::Result<()>> {
        match &mut self.tls {
            Some(tls) => tls.poll_write_all(cx, stream, bytes),
            None => poll_write_all(cx, stream, bytes),
        }
    }
}

fn poll_read(
    cx: &mut Context<'_>,
    stream: &mut TcpStream,
    space: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut space = ReadBuf::new(space);
    ready!(Pin::new(stream).poll_read(cx, &mut space))?;
    Poll::Ready(Ok(space.filled().len()))
}

/// `bytes` shrinks as they go.
fn poll_write_all(
    cx: &mut Context<'_>,
    stream: &mut TcpStream,
    bytes: &mut &[u8],
) -> Poll<io::Result<()>> {
    while !bytes.is_empty() {
        let n = ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *bytes = &bytes[n..];
    }
    Poll::Ready(Ok(()))
}

/// The options of every connection: packets go at once, and a peer that has vanished is noticed.
/// Linux hands those of a listening socket on to what it accepts.
pub fn set_options(socket: &socket2::Socket) -> io::Result<()> {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(std::time::Duration::from_secs(60))
        .with_interval(std::time::Duration::from_secs(10))
        .with_retries(3);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)
}

impl Socket {
    /// What a listener accepted, which has its options from there: see [`set_options`].
    pub fn accepted(stream: TcpStream) -> Self {
        Self { stream, layers: None }
    }

    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        set_options(&socket2::SockRef::from(&stream))?;
        Ok(Self { stream, layers: None })
    }

    /// Everything from here on is encrypted. `ahead`: what was read of it already, and is used up.
    ///
    /// # Errors
    /// The handshake failed; nothing more can be sent, the peer has been told why.
    pub async fn secure(&mut self, mut tls: tls::Session, ahead: &mut Buffer) -> io::Result<()> {
        let fed = tls.feed(ahead.filled());
        let n = ahead.filled().len();
        ahead.consume(n);
        if fed.is_err() {
            tls.close(&self.stream);
            return fed;
        }
        poll_fn(|cx| tls.poll_handshake(cx, &mut self.stream)).await?;
        self.layers.get_or_insert_default().tls = Some(tls);
        Ok(())
    }

    /// What TLS was agreed, if there is any.
    pub fn tls(&self) -> Option<tls::Facts> {
        self.layers.as_ref()?.tls.as_ref()?.facts()
    }

    pub fn is_secure(&self) -> bool {
        self.layers.as_ref().is_some_and(|l| l.tls.is_some())
    }

    /// Everything from here on is compressed, both ways.
    pub fn compress(&mut self, algorithm: Algorithm) {
        self.layers.get_or_insert_default().compression = Some(Compression::new(algorithm));
    }

    pub fn is_compressed(&self) -> bool {
        self.layers.as_ref().is_some_and(|l| l.compression.is_some())
    }

    /// Of our side.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    pub fn raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.stream)
    }

    /// Waits until there is something to read (or the end).
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// The same for one task at a time, which needs no place in a queue of those that wait.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.layers.as_ref().is_some_and(|l| l.has_more()) {
            return Poll::Ready(Ok(()));
        }
        self.stream.poll_read_ready(cx)
    }

    /// Appends what has arrived; waits if that is nothing. 0 is the end of the stream.
    ///
    /// `poll_read` rather than `try_read`: after a short read it remembers that there is no more, so
    /// that the next wait costs no call that only says so.
    pub async fn read(&mut self, buf: &mut Buffer) -> io::Result<usize> {
        poll_fn(|cx| {
            let n = ready!(self.poll_read(cx, buf.space()))?;
            buf.advance(n);
            Poll::Ready(Ok(n))
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.layers {
            None => poll_read(cx, &mut self.stream, space),
            Some(layers) => layers.poll_read(cx, &mut self.stream, space),
        }
    }

    /// What has arrived unasked; empty: the end of the stream.
    pub fn poll_unasked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        ready!(self.poll_readable(cx))?;
        let mut space = [0; 512];
        let n = ready!(self.poll_read(cx, &mut space))?;
        Poll::Ready(Ok(space[..n].to_vec()))
    }

    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(layers) = &mut self.layers else {
            return poll_fn(|cx| poll_write_all(cx, &mut self.stream, &mut bytes)).await;
        };
        while !bytes.is_empty() {
            let packed = layers.compression.as_mut().map(|c| c.pack(&mut bytes));
            let mut now = packed.as_deref().unwrap_or_else(|| std::mem::take(&mut bytes));
            poll_fn(|cx| layers.poll_write_all(cx, &mut self.stream, &mut now)).await?;
        }
        Ok(())
    }

    /// Sends if that is possible at once; nobody waits for it. Not for compressed connections.
    pub fn try_write(&mut self, bytes: &[u8]) {
        match self.layers.as_mut().and_then(|l| l.tls.as_mut()) {
            Some(tls) => tls.try_write(&self.stream, bytes),
            None => {
                let _ = self.stream.try_write(bytes);
            }
        }
    }

    /// Whether the other side has closed, or said something unasked, while nobody was listening.
    /// Costs no system call unless something did arrive.
    pub fn is_stale(&mut self) -> bool {
        if self.layers.is_some() {
            // TLS may have had something to say to itself: tickets, keys.
            let mut cx = Context::from_waker(Waker::noop());
            return self.poll_read(&mut cx, &mut [0; 1]).is_ready();
        }
        !matches!(self.stream.try_read(&mut [0; 1]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(tls) = self.layers.as_mut().and_then(|l| l.tls.as_mut()) {
            tls.close(&self.stream);
        }
    }
}
