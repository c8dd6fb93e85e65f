//! While a client says nothing: what wakes its session, and when that ends it.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use pointsman_cluster::{AdminState, ServerId};
use pointsman_wire::Status;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::{Client, End};

/// Why a session woke.
pub enum Woken {
    /// The client said something, or left.
    Said,
    /// See [`crate::worker::SessionInfo::recalled`].
    Recalled,
    /// The server with the open transaction did, and nobody had asked it. Empty: it has closed the
    /// connection. In a box, since all that wait have room for it.
    Server(Box<io::Result<Vec<u8>>>),
}

/// How long a server takes at most to close a connection after it said that it would.
const CLOSES_WITHIN: Duration = Duration::from_secs(1);

impl Client {
    /// Waits for a command. `listens`: or for the server with the open transaction to end that.
    pub(crate) fn woken(
        &mut self,
        listens: bool,
    ) -> impl Future<Output = io::Result<Woken>> + use<'_> {
        poll_fn(move |cx| {
            if let Poll::Ready(ready) = self.socket.poll_readable(cx) {
                return Poll::Ready(ready.map(|()| Woken::Said));
            }
            if self.info.recalled.replace(false) {
                return Poll::Ready(Ok(Woken::Recalled));
            }
            if let Some(at) = self.session.transaction().filter(|_| listens)
                && let Some(holder) = self.backends.iter_mut().find(|b| b.server.0 == at)
                && let Poll::Ready(said) = holder.socket.poll_unasked(cx)
            {
                return Poll::Ready(Ok(Woken::Server(Box::new(said))));
            }
            self.info.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
    }

    /// How long the client may say nothing, if the session has set that. What it has not set, a day
    /// or so by default, ends the connections to the servers only, unless a transaction is open.
    pub(crate) fn idle_limit(&self) -> Option<Duration> {
        let seconds = self.session.variables().often().wait_timeout?;
        Some(Duration::from_secs(seconds.get().into()))
    }

    /// Ends a session that was idle too long, with what its servers would say.
    pub(crate) async fn say_idle_too_long(&mut self) -> Result<(), End> {
        // MySQL 8.0.24 was the first to say anything.
        if self.worker.snapshot(|s| !s.greeting.mariadb && s.greeting.version >= 80_024) {
            let message = "The client was disconnected by the server because of inactivity. See \
                           wait_timeout and interactive_timeout for configuring this behavior.";
            self.error(0, 4031, "HY000", message).await?;
        }
        Err(End::Broken)
    }

    /// The connection with the open transaction came to its end. If the server ended it alone, for a
    /// timeout (`idle_transaction_timeout`, `wait_timeout`) or for somebody's `KILL`, the session ends,
    /// as on a direct connection: whoever waits for the transaction's locks is to get them. If the
    /// server itself is lost, what to do about that is seen with the next statement.
    pub(crate) async fn heard(&mut self, said: io::Result<Vec<u8>>) -> Result<(), End> {
        let mut said = match said {
            Ok(said) => said,
            // MariaDB's way to close.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Vec::new(),
            Err(_) => return Ok(()),
        };
        let Some(server) = self.session.transaction().map(ServerId) else { return Ok(()) };
        let Some(backend) = self.backends.iter_mut().find(|b| b.server == server) else {
            return Ok(());
        };
        let thread = backend.thread_id;
        if !said.is_empty() {
            let closed = timeout(CLOSES_WITHIN, read_to_end(backend, &mut said)).await;
            if !matches!(closed, Ok(Ok(()))) {
                // What it said is used up: nothing may follow on this connection.
                // SAFETY: the descriptor belongs to this connection, which is here.
                unsafe { libc::shutdown(backend.socket.raw_fd(), libc::SHUT_RDWR) };
                return Ok(());
            }
        }
        if self.info.killed.get() || !self.lives_on(server, thread).await {
            return Ok(());
        }
        tracing::debug!(
            session = self.info.id,
            "its server ended the connection with its transaction"
        );
        self.socket.write_all(&said).await?;
        Err(End::Broken)
    }

    /// Whether `server` is what it was when it knew a connection as `thread`.
    async fn lives_on(&self, server: ServerId, thread: u32) -> bool {
        let writes = !self.session.status().contains(Status::IN_READ_ONLY_TRANSACTION);
        let in_place = || {
            self.worker.snapshot(|s| {
                let running = s.server(server).is_some_and(|s| s.admin == AdminState::Running);
                running && s.switching.is_none() && (!writes || s.primary == Some(server))
            })
        };
        if !in_place() {
            return false;
        }
        let Some(target) = self.worker.snapshot(|s| s.server(server).cloned()) else {
            return false;
        };
        let tls = self.worker.shared.tls_to(server);
        let within = self.config().limits.connect_timeout;
        let Ok(mut backend) = Backend::connect(&target, tls.as_deref(), &self.login, within).await
        else {
            return false;
        };
        // One that was restarted counts its connections anew.
        if backend.thread_id <= thread || !writes {
            return backend.thread_id > thread && in_place();
        }
        // Whoever makes another the primary ends connections, too.
        let asked = timeout(within, backend.row(b"\x03SELECT @@global.read_only")).await;
        let Ok(Ok(row)) = asked else { return false };
        matches!(row.first(), Some(Some(v)) if matches!(&v[..], b"0" | b"OFF")) && in_place()
    }
}

async fn read_to_end(backend: &mut Backend, said: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let more = poll_fn(|cx| backend.socket.poll_unasked(cx)).await?;
        if more.is_empty() {
            return Ok(());
        }
        said.extend_from_slice(&more);
    }
}
