//! The one place that touches sockets on the data path.
//!
//! Every call tries first and parks only when the kernel says so. A different transport (TLS,
//! io_uring) goes in here.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::buffers::Buffer;

/// A stream of bytes to a client or a server.
pub struct Socket {
    stream: TcpStream,
}

impl Socket {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(std::time::Duration::from_secs(60))
            .with_interval(std::time::Duration::from_secs(10))
            .with_retries(3);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Self { stream })
    }

    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(address).await?)
    }

    pub fn raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.stream)
    }

    /// Waits until there is something to read (or the end).
    pub async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
    }

    /// Appends what has arrived; waits if that is nothing. 0 is the end of the stream.
    ///
    /// `poll_read` rather than `try_read`: after a short read it remembers that there is no more, so
    /// that the next wait costs no call that only says so.
    pub async fn read(&mut self, buf: &mut Buffer) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut space = ReadBuf::new(buf.space());
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
            let n = space.filled().len();
            buf.advance(n);
            Poll::Ready(Ok(n))
        })
        .await
    }

    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            while !bytes.is_empty() {
                let n = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                bytes = &bytes[n..];
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends if that is possible at once; nobody waits for it.
    pub fn try_write(&self, bytes: &[u8]) {
        let _ = self.stream.try_write(bytes);
    }

    /// Whether the other side has closed, or said something unasked, while nobody was listening.
    /// Costs no system call unless something did arrive.
    pub fn is_stale(&self) -> bool {
        !matches!(self.stream.try_read(&mut [0; 1]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}
