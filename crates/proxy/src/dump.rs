//! COM_BINLOG_DUMP and COM_BINLOG_DUMP_GTID: the primary's binary log goes to the client, a replica
//! or `mariadb-binlog`, through a pipe that nobody looks into. Semi-synchronous acknowledgements go
//! the other way.
//!
//! The pipe ends with either side, and when another server becomes the primary or this one is put in
//! maintenance: replicas connect again, and get to the one that is the primary then.

use std::io;

use pointsman_cluster::AdminState;
use pointsman_sql::Class;
use pointsman_wire::{HEADER, Header};

use crate::backend::{Backend, Broken};
use crate::buffers::Buffer;
use crate::client::{Client, End};
use crate::connect::Unusable;
use crate::job::{Job, Kind};
use crate::problem::Problem;
use crate::worker::Waiting;

/// What `pointsman sessions` says of such a session.
const HELD: &str = "binlog_dump";

impl Client {
    /// COM_REGISTER_SLAVE: what it says of the client stays with the connection, and so the session
    /// keeps that.
    pub(crate) async fn register_replica(
        &mut self,
        request: &mut Buffer,
        end: usize,
    ) -> Result<(), End> {
        if let Some(primary) = self.worker.snapshot(|s| s.primary) {
            self.session.register_replica(primary.0);
        }
        self.run(Job::new(Kind::Other, Self::plain(Class::Other, false)), request, end).await
    }

    /// COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID.
    pub(crate) async fn dump(&mut self, request: &mut Buffer, end: usize) -> Result<(), End> {
        let job = Job::new(Kind::Other, Self::plain(Class::Other, false));
        let choice = match self.primary(None).await {
            Ok(choice) => choice,
            Err(problem) => return self.report(problem, 1).await,
        };
        let mut backend = match self.ready(choice.server, &job).await {
            Ok(backend) => backend,
            Err(Unusable::Refused(payload)) => {
                return self.report(Problem::Server(payload), 1).await;
            }
            Err(unusable) => {
                // Replicas try again by themselves.
                let message = match unusable {
                    Unusable::Unreachable(why) => {
                        format!("[PM2002] can't reach the primary: {why}")
                    }
                    _ => "[PM2004] the connection to the primary was lost".to_owned(),
                };
                self.report(Problem::own(2013, "HY000", message), 1).await?;
                return Err(End::Broken);
            }
        };
        backend.in_step = false;
        backend.send(&request.filled()[..end]).await?;
        let mut reply = Buffer::borrow();
        let refused = {
            let server = backend.server;
            let _waiting = Waiting::begin(&self.info, server, backend.socket.raw_fd(), None);
            refusal(&mut backend, &mut reply).await
        };
        match refused {
            Ok(Some(len)) => {
                self.socket.write_all(&reply.filled()[..len]).await?;
                backend.in_step = true;
                self.backends.push(backend);
                return Ok(());
            }
            Ok(None) => {}
            Err(_) => return Err(End::Broken),
        }
        self.info.held.set(Some(HELD));
        let ahead = &request.filled()[end..];
        if !ahead.is_empty() {
            backend.socket.write_all(ahead).await?;
        }
        let _ = self.pipe(&mut backend, reply).await;
        Err(End::Client)
    }

    /// Until either side ends, or `backend` is out of work or not the primary any more.
    async fn pipe(&mut self, backend: &mut Backend, mut down: Buffer) -> io::Result<()> {
        let mut up = Buffer::borrow();
        let mut changes = self.worker.shared.cluster.subscribe();
        loop {
            if !down.is_empty() {
                self.socket.write_all(down.filled()).await?;
                down.consume(down.filled().len());
            }
            if !up.is_empty() {
                backend.socket.write_all(up.filled()).await?;
                up.consume(up.filled().len());
            }
            let full = down.is_full();
            tokio::select! {
                read = backend.socket.read(&mut down) => if read? == 0 { return Ok(()) },
                read = self.socket.read(&mut up) => if read? == 0 { return Ok(()) },
                changed = changes.changed() => {
                    let over = self.worker.snapshot(|s| {
                        s.primary.is_some_and(|p| p != backend.server)
                            || s.server(backend.server)
                                .is_none_or(|s| s.admin == AdminState::Maintenance)
                    });
                    if changed.is_err() || over {
                        return Ok(());
                    }
                }
            }
            if full {
                down.widen();
            }
        }
    }
}

/// Waits for the first packet: its length if it is an error, after which the session goes on.
async fn refusal(backend: &mut Backend, reply: &mut Buffer) -> Result<Option<usize>, Broken> {
    backend.settle(reply).await?;
    loop {
        let filled = reply.filled();
        if let (Some(header), Some(first)) = (Header::parse(filled), filled.get(HEADER)) {
            if *first != 0xff {
                return Ok(None);
            }
            if filled.len() >= HEADER + header.len {
                return Ok(Some(HEADER + header.len));
            }
        }
        if backend.socket.read(reply).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}
