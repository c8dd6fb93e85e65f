//! Binding the listeners.

use std::io;
use std::net::{SocketAddr, TcpListener};

use pointsman_config::proxy::ProxyConfig;
use pointsman_session::Level;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::shared::level;
use crate::socket::set_options;

/// Connections the kernel holds until a worker accepts them.
const BACKLOG: i32 = 4096;

/// Which `[[listener]]` a client came in by.
#[derive(Debug, Clone, Copy)]
pub struct Entrance {
    /// Its place in the config.
    pub listener: usize,
    pub level: Level,
}

/// One `[[listener]]`: at least a socket per worker, among which the kernel spreads new connections.
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

/// Binds every listener, or none. Sockets at an address that stands in `inherited` are taken from
/// there: a process before this one has them, too, and clients may wait in their queues.
pub fn bind(
    config: &ProxyConfig,
    workers: usize,
    inherited: &mut Vec<TcpListener>,
) -> Result<Vec<Listening>, ListenError> {
    let mut all = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let failed = |source| ListenError { address: listener.address, source };
        let ours = |socket: &mut TcpListener| {
            socket.local_addr().is_ok_and(|address| address == listener.address)
        };
        let mut sockets: Vec<_> = inherited.extract_if(.., ours).collect();
        if sockets.is_empty() {
            sockets = bind_one(listener.address, workers).map_err(failed)?;
        }
        for socket in &sockets {
            // Those of a process before this one may not have them.
            set_options(&SockRef::from(socket)).map_err(failed)?;
        }
        for i in sockets.len()..workers {
            sockets.push(sockets[i % sockets.len()].try_clone().map_err(failed)?);
        }
        let level = level(listener.consistency.unwrap_or(config.routing.consistency));
        all.push(Listening { entrance: Entrance { listener: index, level }, sockets });
    }
    Ok(all)
}

fn bind_one(mut address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // With SO_REUSEPORT a second daemon would get its share of the clients instead of an error.
    // Without it the kernel says so.
    drop(socket(address, false)?);
    let mut sockets = Vec::new();
    for _ in 0..workers {
        let socket = socket(address, true)?;
        if address.port() == 0 {
            address = socket.local_addr()?.as_socket().unwrap_or(address);
        }
        sockets.push(TcpListener::from(socket));
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_has_its_options_from_the_listener() {
        let config = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[server]]\nname = \"a\"\n\
                      address = \"127.0.0.1:1\"\n[monitor]\nuser = \"m\"\npassword = \"m\"\n";
        let (config, _) = ProxyConfig::parse("test", config).unwrap();
        let listening = bind(&config, 1, &mut Vec::new()).unwrap();
        let socket = &listening[0].sockets[0];
        let _client = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        let stream = loop {
            match socket.accept() {
                Ok((stream, _)) => break stream,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        };
        let accepted = SockRef::from(&stream);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap().as_secs(), 60);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 3);
    }
}
