//! A client's way in: greeting, proof of password, first backend.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use pointsman_cluster::Touched;
use pointsman_session::{Session, Transcript};
use pointsman_wire::handshake::ChangeUser;
use pointsman_wire::{Malformed, auth, err_packet, write_packet};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::arrival::arrive;
use crate::backend::Login;
use crate::buffers::Buffer;
use crate::client::Client;
use crate::listen::Entrance;
use crate::prepared::Prepared;
use crate::proving::Proving;
use crate::reporting::Reporting;
use crate::seldom::warn_seldom;
use crate::socket::Socket;
use crate::worker::{SessionInfo, Worker};

/// Why a login ended.
pub enum Denied {
    /// Tell the client this.
    Error {
        seq: u8,
        code: u16,
        state: &'static str,
        message: String,
    },
    /// Tell the client what a server said: an ERR payload.
    Server {
        seq: u8,
        payload: Vec<u8>,
    },
    Gone,
}

impl From<std::io::Error> for Denied {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl Denied {
    pub fn malformed(seq: u8, _: Malformed) -> Self {
        Self::Error { seq, code: 1043, state: "08S01", message: "Bad handshake".to_owned() }
    }

    pub fn blocked(seq: u8, ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        let message = format!(
            "[PM3005] Host '{ip}' is blocked because of many connection errors; it may try again \
             after `login_block`"
        );
        Self::Error { seq, code: 1129, state: "HY000", message }
    }

    /// Whether it was the client's fault, as wrong passwords and broken packets are.
    fn is_clients_fault(&self) -> bool {
        matches!(self, Self::Error { code: 1043 | 1045, .. })
    }

    /// What to send the client, if it is still there.
    fn packet(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::Error { seq, code, state, message } => {
                err_packet(&mut out, *seq, *code, state, message);
            }
            Self::Server { seq, payload } => {
                write_packet(&mut out, *seq, payload);
            }
            Self::Gone => return None,
        }
        Some(out)
    }
}

/// Serves one client from greeting to goodbye.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, entrance: Entrance) {
    // In boxes, as whatever is over soon: while the client says nothing it is to take little room.
    let Some((mut client, owed)) = Box::pin(let_in(worker, stream, peer, entrance)).await else {
        return;
    };
    if Box::pin(client.welcome(owed)).await.is_ok() {
        client.serve_and_leave().await;
    }
}

/// How a login is to be answered.
pub struct Owed {
    /// The OK's sequence id.
    pub seq: u8,
    /// The salt to which mysql_native_password was the answer.
    pub native_salt: Option<[u8; auth::SALT]>,
    /// The SHA-256 of the certificate that was shown.
    pub certificate: Option<[u8; 32]>,
}

/// A client that has proved who it is, and the OK that is still owed.
async fn let_in(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    entrance: Entrance,
) -> Option<(Box<Client>, Owed)> {
    let mut socket = Socket::accepted(stream);
    let limits = &worker.shared.config.limits;
    if worker.shared.sessions() > limits.max_connections as u64 {
        let _ = refuse(&mut socket, 0, 1040, "08004", "Too many connections").await;
        return None;
    }
    if worker.shared.blocked.admit(peer.ip()).is_err() {
        if let Some(packet) = Denied::blocked(0, peer.ip()).packet() {
            let _ = socket.write_all(&packet).await;
        }
        return None;
    }
    let id = worker.shared.next_id();
    let info = Rc::new(SessionInfo {
        id,
        peer: Cell::new(peer),
        fd: socket.raw_fd(),
        since: Instant::now(),
        user: RefCell::default(),
        credentials: RefCell::default(),
        database: RefCell::default(),
        statements: Cell::new(0),
        changed: Cell::new(Instant::now()),
        executing: Cell::new(false),
        gone: Cell::new(false),
        busy: Cell::new(None),
        killed: Cell::new(false),
        ended: Cell::new(false),
        failed_changes: Cell::new(0),
        held: Cell::new(None),
        recalled: Cell::new(false),
        waker: Cell::new(None),
        transaction: Cell::new(None),
        backends: RefCell::default(),
        last_statement: RefCell::default(),
    });
    // Declared after the socket, so that it goes first.
    let registered = worker.enter(&info);
    let logged_in = log_in(&worker, &mut socket, &info, entrance);
    let (login, owed) = match timeout(limits.login_timeout, logged_in).await {
        Ok(Ok(logged_in)) => {
            worker.shared.blocked.succeeded(info.peer.get().ip());
            logged_in
        }
        Ok(Err(denied)) => {
            let peer = info.peer.get();
            if denied.is_clients_fault() && worker.shared.blocked.failed(peer.ip()) {
                warn_seldom!(
                    %peer,
                    "[PM3005] too many failed logins in a row: the host is turned away for a while"
                );
            }
            if let Some(packet) = denied.packet() {
                worker.stats.logins_failed.add(1);
                let _ = socket.write_all(&packet).await;
            }
            return None;
        }
        Err(_) => return None,
    };
    let autocommit = worker.snapshot(|s| s.greeting.autocommit);
    let mut session = Session::new(autocommit);
    if let Some(database) = &login.database {
        session.set_schema(database);
        *info.database.borrow_mut() = String::from_utf8_lossy(database).into_owned();
    }
    info.is_now(&login.credentials);
    let mut client = Box::new(Client {
        _registered: registered,
        worker,
        socket,
        info,
        login,
        session,
        backends: Vec::new(),
        prepared: Prepared::default(),
        wrote: None,
        unsure: None,
        untold: None,
        touched: Touched::default(),
        level: entrance.level,
        rules: Default::default(),
        entrance,
        transcript: Transcript::default(),
        owed: None,
        repeating: false,
        trouble: Cell::new(None),
        reporting: Reporting::default(),
        login_names: None,
    });
    client.settle_level();
    client.settle_rules();
    Some((client, owed))
}

async fn refuse(
    socket: &mut Socket,
    seq: u8,
    code: u16,
    state: &str,
    message: &str,
) -> std::io::Result<()> {
    let mut out = Vec::new();
    err_packet(&mut out, seq, code, state, message);
    socket.write_all(&out).await
}

/// The servers' own default.
pub fn default_plugin(mariadb: bool) -> &'static str {
    if mariadb { auth::NATIVE } else { auth::CACHING_SHA2 }
}

/// 20 random bytes; no NUL, which ends strings, and no `$`, which servers avoid too.
pub fn salt() -> [u8; auth::SALT] {
    std::array::from_fn(|_| {
        loop {
            let byte = rand::random::<u8>() & 0x7f;
            if byte != 0 && byte != b'$' {
                break byte;
            }
        }
    })
}

/// Greets and checks the password; gives how to log in to servers in the client's name, and the
/// sequence id of the OK that is still owed.
async fn log_in(
    worker: &Worker,
    socket: &mut Socket,
    info: &SessionInfo,
    entrance: Entrance,
) -> Result<(Login, Owed), Denied> {
    let mut buf = Buffer::borrow();
    let arrival = arrive(worker, socket, &mut buf, info, entrance).await?;
    let (response, origin) = (arrival.response, arrival.origin);
    let mut proving = Proving::new(worker, socket, &mut buf, origin, arrival.seq);
    let plugin = response.plugin.clone().unwrap_or_else(|| auth::NATIVE.as_bytes().to_vec());
    let credentials = proving.prove(&response.user, response.token, &plugin, arrival.salt).await?;
    let (native_salt, certificate) = (proving.native_salt, arrival.certificate);
    let owed = Owed { seq: proving.seq.wrapping_add(1), native_salt, certificate };
    let login = Login {
        credentials,
        caps: arrival.caps,
        collation: response.collation,
        database: response.database,
        attributes: response.attributes,
        origin: Some(origin),
        compression: arrival.compression,
    };
    Ok((login, owed))
}

/// COM_CHANGE_USER: the new login, and the sequence id of the OK owed; or the ERR to send.
pub async fn change_user(
    worker: &Worker,
    socket: &mut Socket,
    old: &Login,
    payload: &[u8],
) -> std::io::Result<Result<(Login, u8), Vec<u8>>> {
    let mut buf = Buffer::borrow();
    let Some(origin) = old.origin else { return Err(std::io::ErrorKind::NotConnected.into()) };
    let mut proving = Proving::new(worker, socket, &mut buf, origin, 0);
    let result = match ChangeUser::parse(payload, old.caps) {
        Err(e) => Err(Denied::malformed(1, e)),
        Ok(change) => {
            // The token was made for the salt of the first greeting, which is not kept: ask anew.
            let credentials = proving.prove(&change.user, Vec::new(), b"", [0; auth::SALT]).await;
            credentials.map(|credentials| Login {
                credentials,
                caps: old.caps,
                collation: change.collation.map_or(old.collation, |c| c as u8),
                database: change.database,
                attributes: change.attributes,
                origin: old.origin,
                compression: old.compression,
            })
        }
    };
    match result {
        Ok(login) => Ok(Ok((login, proving.seq.wrapping_add(1)))),
        Err(denied) => match denied.packet() {
            Some(packet) => Ok(Err(packet)),
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client that says nothing takes, beside what it has said and what the kernel keeps.
    #[test]
    fn an_idle_client_takes_little_room() {
        fn of<F, A>(_: impl Fn(A) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        let task = of(|(worker, stream, peer, entrance)| serve(worker, stream, peer, entrance));
        assert!(task <= 256, "{task}");
        let client = std::mem::size_of::<Client>();
        assert!(client <= 800, "{client}");
    }
}
