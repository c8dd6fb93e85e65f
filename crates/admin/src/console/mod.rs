//! The SQL console: the command table for every MySQL client. Loopback only.

mod client;
mod sql;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use client::Client;

use crate::{AdminError, Code, Daemon};

/// Rows as text; `None` is NULL.
type Rows = Vec<Vec<Option<String>>>;

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
        Self::allowed(address)?;
        let listener = TcpListener::bind(address).await.map_err(|e| Self::cant(address, &e))?;
        let address = listener.local_addr().map_err(|e| Self::cant(address, &e))?;
        Ok(Self { listener, address, token })
    }

    fn allowed(address: SocketAddr) -> Result<(), AdminError> {
        if address.ip().is_loopback() {
            return Ok(());
        }
        let message = format!("SQL console on {address}: it listens on loopback only");
        Err(AdminError::new(Code::CantListen, message))
    }

    fn cant(address: SocketAddr, e: &std::io::Error) -> AdminError {
        AdminError::new(Code::CantListen, format!("SQL console: can't listen on {address}: {e}"))
    }

    /// On a socket that another process bound to `address`.
    ///
    /// # Errors
    /// As [`Console::bind`].
    pub fn inherit(
        listener: std::net::TcpListener,
        address: SocketAddr,
        token: Option<String>,
    ) -> Result<Self, AdminError> {
        Self::allowed(address)?;
        let listener = TcpListener::from_std(listener).map_err(|e| Self::cant(address, &e))?;
        Ok(Self { listener, address, token })
    }

    /// The socket once more, for a process that takes over.
    ///
    /// # Errors
    /// No file descriptor is free.
    pub fn try_clone(&self) -> std::io::Result<std::net::TcpListener> {
        std::os::fd::AsFd::as_fd(&self.listener).try_clone_to_owned().map(Into::into)
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
            // Dropped with this future, and with it all clients.
            let mut clients = JoinSet::new();
            let mut next_id = 1u32;
            loop {
                while clients.try_join_next().is_some() {}
                if clients.len() >= MAX_CLIENTS {
                    clients.join_next().await;
                }
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
                    id: next_id,
                    stream,
                };
                next_id = next_id.wrapping_add(1);
                clients.spawn(async move {
                    if let Err(error) = client.run().await {
                        tracing::debug!(%error, "SQL console: client gone");
                    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn salts_differ_and_have_no_terminators() {
        let (a, b) = (salt(), salt());
        assert_ne!(a, b);
        assert!(a.iter().chain(&b).all(|c| *c != 0 && *c != b'$' && *c < 128));
    }
}
