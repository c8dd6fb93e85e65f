//! Binding the listeners.

use std::io;
use std::net::{SocketAddr, TcpListener};

use pointsman_config::proxy::ProxyConfig;
use pointsman_session::Level;
use socket2::{Domain, Protocol, Socket, Type};

use crate::shared::level;

/// Connections the kernel holds until a worker accepts them.
const BACKLOG: i32 = 4096;

/// Which `[[listener]]` a client came in by.
#[derive(Debug, Clone, Copy)]
pub struct Entrance {
    /// Its place in the config.
    pub listener: usize,
    pub level: Level,
}

/// One `[[listener]]`: a socket per worker, among which the kernel spreads new connections.
pub struct Listening {
    pub entrance: Entrance,
    pub sockets: Vec<TcpListener>,
}

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}: {}", why(.source))]
pub struct ListenError {
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

fn why(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use by another program; stop that one, or choose another address in [[listener]]".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; correct `address` in [[listener]]".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => e.to_string(),
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Binds every listener, or none.
pub fn bind(config: &ProxyConfig, workers: usize) -> Result<Vec<Listening>, ListenError> {
    let mut all = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let failed = |source| ListenError { address: listener.address, source };
        // With SO_REUSEPORT a second daemon would get its share of the clients instead of an
        // error. Without it the kernel says so.
        drop(socket(listener.address, false).map_err(failed)?);
        let mut address = listener.address;
        let mut sockets = Vec::new();
        for _ in 0..workers {
            let socket = socket(address, true).map_err(failed)?;
            if address.port() == 0 {
                address = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(address);
            }
            sockets.push(TcpListener::from(socket));
        }
        let level = level(listener.consistency.unwrap_or(config.routing.consistency));
        all.push(Listening { entrance: Entrance { listener: index, level }, sockets });
    }
    Ok(all)
}
