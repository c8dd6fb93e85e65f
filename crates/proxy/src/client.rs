//! One client's session: its commands, one after the other.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use pointsman_cluster::gtid::Position;
use pointsman_cluster::{Astray, ServerId, Touched};
use pointsman_config::proxy::ProxyConfig;
use pointsman_session::{Level, Session, Transcript};
use pointsman_sql::{Class, Effects};
use pointsman_wire::{
    BoundTypes, Command, HEADER, Header, MAX_PAYLOAD, err_packet, ok_packet, write_packet,
};
use tokio::time::timeout_at;

use crate::backend::{Backend, Login};
use crate::buffers::Buffer;
use crate::classify::is_process_list;
use crate::idle::Woken;
use crate::job::{Job, Kind};
use crate::listen::Entrance;
use crate::login::Owed;
use crate::prepared::{LongData, Prepared};
use crate::problem::Problem;
use crate::repeat::Past;
use crate::reporting::Reporting;
use crate::rules::OfAccount;
use crate::socket::Socket;
use crate::worker::{Registered, SessionInfo, Worker};

pub struct Client {
    // First, so that it goes before the socket it names.
    pub _registered: Registered,
    pub worker: Rc<Worker>,
    pub socket: Socket,
    pub info: Rc<SessionInfo>,
    pub login: Login,
    pub session: Session,
    // Boxed: they are taken out for a statement and put back, and are large.
    #[allow(clippy::vec_box)]
    pub backends: Vec<Box<Backend>>,
    pub prepared: Prepared,
    /// Position of the session's newest write, and the snapshot's generation it belongs to.
    pub wrote: Option<(u64, Position)>,
    /// It wrote, and where could not be learnt: its reads stay on the primary until it is known.
    pub unsure: Option<Astray>,
    /// Number of its newest write that it was told no GTID of.
    pub untold: Option<u64>,
    /// What it has written since its last commit.
    pub touched: Touched,
    /// What its reads may miss.
    pub level: Level,
    /// Which rules may be for its statements.
    pub rules: OfAccount,
    pub entrance: Entrance,
    /// What the open transaction has done so far.
    pub transcript: Transcript<Past>,
    /// What came of an idle transaction: told with the next statement.
    pub owed: Option<Box<Problem>>,
    /// Its transaction is being repeated.
    pub repeating: bool,
    /// Since when the present statement has had trouble with the primary.
    pub trouble: Cell<Option<Instant>>,
    /// Which changes of the session the client is told.
    pub reporting: Reporting,
    /// The statement that sets the collation named by COM_CHANGE_USER, where a login can't name it.
    pub login_names: Option<Box<[u8]>>,
}

/// The session is over.
pub enum End {
    /// The client quit or vanished.
    Client,
    /// Something that can't be put right; the client has been told if it could be.
    Broken,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Client
    }
}

impl Client {
    pub fn config(&self) -> &ProxyConfig {
        &self.worker.shared.config
    }

    /// Serves a client that was welcomed until it goes.
    pub async fn serve_and_leave(&mut self) {
        // A client that just vanishes is no news.
        let _ = self.serve().await;
        self.give_back();
    }

    /// Tells the client that it is in, with the first server's word on it.
    pub async fn welcome(&mut self, owed: Owed) -> Result<(), End> {
        let mut out = Vec::new();
        match self.first_backend().await {
            Ok(welcome) => {
                write_packet(&mut out, owed.seq, &self.welcomed(&welcome, &owed));
                self.socket.write_all(&out).await?;
                if let Some(algorithm) = self.login.compression {
                    self.socket.compress(algorithm);
                }
                Ok(())
            }
            Err(error) => {
                error.packet(&mut out, owed.seq);
                self.socket.write_all(&out).await?;
                Err(End::Broken)
            }
        }
    }

    async fn serve(&mut self) -> Result<(), End> {
        // Since when the client has said nothing; kept only if that matters.
        let mut idle_since = None;
        // Whether the server with the open transaction is listened to.
        let mut listens = true;
        loop {
            let woken = match self.idle_limit() {
                None => self.woken(listens).await?,
                Some(limit) => {
                    let end = *idle_since.get_or_insert_with(Instant::now) + limit;
                    // In a box: most have set no limit, and a timer takes room.
                    match Box::pin(timeout_at(end.into(), self.woken(listens))).await {
                        Ok(woken) => woken?,
                        Err(_) => return Box::pin(self.say_idle_too_long()).await,
                    }
                }
            };
            match woken {
                Woken::Said => {
                    idle_since = None;
                    listens = true;
                    Box::pin(self.turn()).await?;
                }
                Woken::Recalled => Box::pin(self.recalled()).await,
                Woken::Server(said) => {
                    listens = false;
                    Box::pin(self.heard(*said)).await?;
                }
            }
        }
    }

    /// Others want the session's connections, or its primary is none any more.
    async fn recalled(&mut self) {
        self.yield_connections().await;
        if let Some(deposed) = self.deposed() {
            self.trouble.set(None);
            self.owed = self.follow_primary(deposed).await.err().map(Box::new);
            self.show();
        }
    }

    /// The client has said something: does it. Clients may send several commands at once.
    async fn turn(&mut self) -> Result<(), End> {
        let mut request = Buffer::borrow();
        if self.socket.read(&mut request).await? == 0 || self.info.ended.get() {
            return Err(End::Client);
        }
        while !request.is_empty() {
            self.command(&mut request).await?;
        }
        if self.backends.iter().any(|backend| self.worker.pool.is_starved(backend.server)) {
            self.yield_connections().await;
        }
        if self.worker.draining.get() && self.session.transaction().is_none() {
            return Err(End::Client);
        }
        Ok(())
    }

    async fn command(&mut self, request: &mut Buffer) -> Result<(), End> {
        let header = loop {
            if let Some(header) = Header::parse(request.filled()) {
                break header;
            }
            self.fill(request).await?;
        };
        if header.seq != 0 {
            if self.login.compression.is_none() {
                self.error(0, 1156, "08S01", "Got packets out of order").await?;
                return Err(End::Broken);
            }
            // Compressed packets are numbered outside, those within as the client likes. The server
            // gets them as they are, and not compressed.
            request.filled_mut()[HEADER - 1] = 0;
        }
        if header.len == 0 {
            self.error(header.seq.wrapping_add(1), 1047, "08S01", "Unknown command").await?;
            request.consume(HEADER);
            return Ok(());
        }
        let end = HEADER + header.len;
        let whole = header.len <= self.config().limits.max_statement && header.len < MAX_PAYLOAD;
        if whole {
            request.reserve(end);
            while request.filled().len() < end {
                self.fill(request).await?;
            }
        } else {
            // Enough to see what it is; the rest goes through in pieces.
            while request.filled().len() < HEADER + 4096.min(header.len) {
                self.fill(request).await?;
            }
        }
        self.info.statements.set(self.info.statements.get() + 1);
        let command = Command::from_byte(request.filled()[HEADER]);
        if whole {
            self.dispatch(command, request, end).await?;
            request.consume(end);
        } else {
            self.dispatch(command, request, 0).await?;
        }
        Ok(())
    }

    async fn fill(&mut self, request: &mut Buffer) -> Result<(), End> {
        match self.socket.read(request).await? {
            0 => Err(End::Client),
            _ => Ok(()),
        }
    }

    /// `end`: length of the whole packet; 0 if it is to be streamed.
    async fn dispatch(
        &mut self,
        command: Command,
        request: &mut Buffer,
        end: usize,
    ) -> Result<(), End> {
        let streamed = end == 0;
        match command {
            Command::Quit => Err(End::Client),
            Command::Query => {
                let text_end = if streamed { request.filled().len() } else { end };
                let text_at = match self.text_at(&request.filled()[HEADER..text_end]) {
                    Ok(at) => HEADER + at,
                    // The attributes alone are longer than what is looked at.
                    Err(_) if streamed => text_end,
                    Err(_) => {
                        let message = "Malformed communication packet.";
                        return self.error(1, 1835, "HY000", message).await;
                    }
                };
                let statement = self.classify(&request.filled()[text_at..text_end], streamed);
                let effects = statement.verdict.effects;
                let mut job = Job::new(Kind::Query, statement);
                job.text_at = text_at;
                if effects.contains(Effects::KILL) {
                    let dialect = self.dialect();
                    return Box::pin(self.kill_by_statement(job, &dialect, request, end)).await;
                }
                job.process_list = is_process_list(&job);
                if !streamed {
                    self.rewrite(&mut job, &request.filled()[HEADER..end], text_at - HEADER);
                }
                self.run(job, request, end).await
            }
            Command::StmtPrepare if !streamed => {
                self.prepared.begin();
                let statement = self.classify(&request.filled()[HEADER + 1..end], false);
                if statement.verdict.effects.contains(Effects::KILL) {
                    let message =
                        "This command is not supported in the prepared statement protocol yet";
                    return self.error(1, 1295, "HY000", message).await;
                }
                let mut job = Job::new(Kind::Prepare, statement);
                self.rewrite(&mut job, &request.filled()[HEADER..end], 1);
                self.run(job, request, end).await
            }
            Command::StmtExecute | Command::StmtBulkExecute => {
                let least = if command == Command::StmtExecute { 10 } else { 7 };
                let Some((id, statement)) = self.statement_of(request, end, least) else {
                    return self.unknown_statement(request, end, "mysqld_stmt_execute").await;
                };
                if command == Command::StmtExecute && !streamed {
                    let layout = self.layout(statement.params);
                    if let Some(types) =
                        BoundTypes::in_place(&request.filled()[HEADER..end], layout)
                        && statement.types.as_ref().is_none_or(|known| *known.0 != *types)
                        && let Some(statement) = self.prepared.get_mut(id)
                    {
                        statement.types = Some(BoundTypes(types.into()));
                    }
                }
                let Some(statement) = self.prepared.get(id) else { return Ok(()) };
                if statement.long_data.too_long {
                    let most = crate::prepared::MOST_LONG_DATA;
                    self.skip(request, end).await?;
                    if let Some(statement) = self.prepared.get_mut(id) {
                        statement.long_data = LongData::default();
                    }
                    let message =
                        format!("[PM2008] more than {most} bytes of long data for one execution");
                    return self.error(1, 1153, "08S01", &message).await;
                }
                let mut job = Job::new(Kind::Execute(id), Arc::clone(&statement.statement));
                self.leave_untold(&mut job);
                job.bulk = command == Command::StmtBulkExecute;
                // Gone with the execution, as on a server, whatever comes of it.
                if let Some(statement) = self.prepared.get_mut(id) {
                    job.long_data = std::mem::take(&mut statement.long_data);
                }
                self.run(job, request, end).await
            }
            Command::StmtSendLongData => self.keep_long_data(request, end).await,
            Command::StmtFetch if !streamed => {
                let Some((id, statement)) = self.statement_of(request, end, 9) else {
                    return self.unknown_statement(request, end, "mysqld_stmt_fetch").await;
                };
                let Some(server) = statement.cursor_at else {
                    let dot = if self.worker.snapshot(|s| s.greeting.mariadb) { "" } else { "." };
                    let message = format!("The statement ({id}) has no open cursor{dot}");
                    return self.error(1, 1421, "HY000", &message).await;
                };
                let mut job = Job::new(Kind::Fetch(id), Arc::clone(&statement.statement));
                job.only = Some(server);
                self.run(job, request, end).await
            }
            Command::StmtReset if !streamed => {
                let Some((id, statement)) = self.statement_of(request, end, 5) else {
                    return self.unknown_statement(request, end, "mysqld_stmt_reset").await;
                };
                let (cursor_at, text) = (statement.cursor_at, Arc::clone(&statement.statement));
                if let Some(statement) = self.prepared.get_mut(id) {
                    statement.cursor_at = None;
                    statement.long_data = LongData::default();
                }
                match cursor_at {
                    Some(server) => {
                        let mut job = Job::new(Kind::Reset(id), text);
                        job.only = Some(server);
                        self.run(job, request, end).await
                    }
                    None => self.ok(1).await,
                }
            }
            Command::StmtClose if !streamed => {
                if let Some((id, _)) = self.statement_of(request, end, 5) {
                    self.close_statement(id);
                }
                Ok(())
            }
            Command::InitDb if !streamed => {
                let job = Job::new(Kind::InitDb, Self::plain(Class::Session, true));
                self.run(job, request, end).await
            }
            Command::Ping if !streamed => {
                self.run(Job::new(Kind::LastUsed, Self::plain(Class::Other, true)), request, end)
                    .await
            }
            Command::SetOption if !streamed => {
                let option = request.filled().get(HEADER + 1).copied();
                let job =
                    Job::new(Kind::SetOption(option == Some(0)), Self::plain(Class::Session, true));
                self.run(job, request, end).await
            }
            Command::Statistics
            | Command::Debug
            | Command::FieldList
            | Command::CreateDb
            | Command::DropDb
            | Command::Refresh
            | Command::ProcessInfo
                if !streamed =>
            {
                let mut job = Job::new(Kind::Other, Self::plain(Class::Other, false));
                job.process_list = command == Command::ProcessInfo;
                self.run(job, request, end).await
            }
            Command::ProcessKill if end >= HEADER + 5 => {
                let job = Job::new(Kind::Other, Self::plain(Class::Other, false));
                Box::pin(self.kill_by_command(job, request, end)).await
            }
            Command::RegisterReplica if !streamed => {
                Box::pin(self.register_replica(request, end)).await
            }
            Command::BinlogDump | Command::BinlogDumpGtid if !streamed => {
                Box::pin(self.dump(request, end)).await
            }
            Command::ResetConnection if !streamed => {
                self.reset();
                self.ok(1).await
            }
            Command::ChangeUser if !streamed => {
                let payload = request.filled()[HEADER..end].to_vec();
                Box::pin(self.change_user(&payload)).await
            }
            Command::StmtPrepare => {
                self.prepared.begin();
                self.skip(request, end).await?;
                let most = self.config().limits.max_statement;
                let message = format!(
                    "[PM2007] a statement to prepare may be {most} bytes long; `max_statement` in [limits] sets that"
                );
                self.error(1, 1153, "08S01", &message).await
            }
            _ => {
                self.skip(request, end).await?;
                self.error(1, 1047, "08S01", "Unknown command").await
            }
        }
    }

    /// Reads past a command that is streamed; one that is not stays for the caller to consume.
    pub(crate) async fn skip(&mut self, request: &mut Buffer, end: usize) -> Result<(), End> {
        match end {
            0 => self.read_through(request, |_| ()).await,
            _ => Ok(()),
        }
    }

    /// Reads a command that is streamed to its end, handing out its pieces.
    pub(crate) async fn read_through(
        &mut self,
        request: &mut Buffer,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), End> {
        loop {
            while Header::parse(request.filled()).is_none() {
                self.fill(request).await?;
            }
            let len = Header::parse(request.filled()).map_or(0, |h| h.len);
            let mut left = HEADER + len;
            while left > 0 {
                if request.is_empty() {
                    self.fill(request).await?;
                }
                let n = left.min(request.filled().len());
                each(&request.filled()[..n]);
                request.consume(n);
                left -= n;
            }
            if len < MAX_PAYLOAD {
                return Ok(());
            }
        }
    }

    /// By who it is, and where it came in.
    pub(crate) fn settle_level(&mut self) {
        let peer = self.info.peer.get().ip();
        let own = crate::accounts::level(&self.worker.shared, &self.login.credentials.user, peer);
        self.level = own.unwrap_or(self.entrance.level);
    }

    pub async fn ok(&mut self, seq: u8) -> Result<(), End> {
        let mut out = Vec::new();
        ok_packet(&mut out, seq, self.session.status());
        Ok(self.socket.write_all(&out).await?)
    }

    /// An OK that says how many were affected; fewer than 251.
    pub async fn ok_with(&mut self, seq: u8, affected: u8) -> Result<(), End> {
        let mut out = Vec::new();
        let [low, high] = self.session.status().bits().to_le_bytes();
        write_packet(&mut out, seq, &[0, affected.min(250), 0, low, high, 0, 0]);
        Ok(self.socket.write_all(&out).await?)
    }

    pub async fn error(
        &mut self,
        seq: u8,
        code: u16,
        state: &str,
        message: &str,
    ) -> Result<(), End> {
        let mut out = Vec::new();
        err_packet(&mut out, seq, code, state, message);
        Ok(self.socket.write_all(&out).await?)
    }

    /// Notes what a command's time and result were.
    pub fn account(
        &self,
        job: &Job,
        primary: bool,
        server: ServerId,
        began: Instant,
        error: Option<u16>,
    ) {
        let took = began.elapsed();
        let stats = &self.worker.stats;
        let statement = &job.statement;
        let class = if job.executes() { statement.verdict.class } else { Class::Other };
        if let Some(by_class) = stats.statements.get(usize::from(server.0)) {
            by_class[class as usize].record(took);
        }
        if job.executes() {
            statement.stats.latency.record(took);
            if primary {
                statement.stats.on_primary.add(1);
            }
        }
        if let Some(code) = error {
            statement.stats.errors.add(1);
            let mut rare = stats.rare.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *rare.errors.entry((server.0, code)).or_default() += 1;
        }
    }
}
