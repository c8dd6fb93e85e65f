//! A connection that ends in time, whatever the peer does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Reads and writes until a moment; a peer that drips a byte now and then gains nothing by it.
pub(crate) struct Timed {
    stream: TcpStream,
    end: Instant,
}

impl Timed {
    /// Connects within `limit`, from `bind` if given; there is as much time again for what follows.
    pub fn connect(
        target: SocketAddr,
        bind: Option<SocketAddr>,
        limit: Duration,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(bind) = bind {
            socket.set_reuse_address(true)?;
            socket.bind(&bind.into())?;
        }
        socket.connect_timeout(&target.into(), limit)?;
        Ok(Self { stream: socket.into(), end: Instant::now() + limit })
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
