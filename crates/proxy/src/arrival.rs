//! What comes before a client's login: the greeting, a load balancer's word on who the client is,
//! TLS, and what the client wants.

use std::net::SocketAddr;

use pointsman_wire::compressed::{Algorithm, ZstdLevel};
use pointsman_wire::handshake::{Greeting, Response, is_ssl_request};
use pointsman_wire::proxy_protocol::{Beginning, ProxyHeader};
use pointsman_wire::{Capabilities, Status, auth, write_packet};

use crate::backend::{Origin, read_packet};
use crate::buffers::Buffer;
use crate::listen::Entrance;
use crate::login::{Denied, default_plugin, salt};
use crate::seldom::warn_seldom;
use crate::socket::Socket;
use crate::worker::{SessionInfo, Worker};

/// A client that has said who it wants to be.
pub struct Arrival {
    pub response: Response,
    /// Sequence id of its newest packet.
    pub seq: u8,
    /// What both sides agreed on.
    pub caps: Capabilities,
    pub salt: [u8; auth::SALT],
    pub origin: Origin,
    /// The SHA-256 of the certificate that was shown.
    pub certificate: Option<[u8; 32]>,
    pub compression: Option<Algorithm>,
}

/// Greets and listens. `buf`: what was read and not used.
pub async fn arrive(
    worker: &Worker,
    socket: &mut Socket,
    buf: &mut Buffer,
    info: &SessionInfo,
    entrance: Entrance,
) -> Result<Arrival, Denied> {
    let tls = worker.shared.tls.load().listener(entrance.listener).cloned();
    let salt = salt();
    let greeting = worker.snapshot(|snapshot| {
        let known = &snapshot.greeting;
        let mut offered =
            Capabilities::OFFERED | Capabilities::COMPRESS | Capabilities::ZSTD_COMPRESSION;
        if known.mariadb {
            offered -= Capabilities::LONG_PASSWORD; // "extended capabilities follow"
            offered -= Capabilities::QUERY_ATTRIBUTES | Capabilities::OPTIONAL_RESULTSET_METADATA;
        } else {
            offered &= Capabilities::from_bits_retain(u64::from(u32::MAX));
            // MySQL 8.0.23 was the first to have them.
            offered.set(Capabilities::QUERY_ATTRIBUTES, known.version >= 80_023);
        }
        offered.set(Capabilities::SSL, tls.is_some());
        Greeting {
            server_version: known.server_version.as_bytes().to_vec(),
            connection_id: info.id,
            salt,
            capabilities: offered,
            collation: known.collation as u8,
            status: if known.autocommit { Status::AUTOCOMMIT } else { Status::empty() },
            plugin: default_plugin(known.mariadb).as_bytes().to_vec(),
        }
    });
    let mut out = Vec::new();
    write_packet(&mut out, 0, &greeting.build());
    socket.write_all(&out).await?;

    let listeners = &worker.shared.config.listeners;
    let mut destination = match listeners.get(entrance.listener) {
        Some(listener) if !worker.shared.tells_destination => listener.address,
        _ => socket.local_address()?,
    };
    if let Some((source, to)) = forwarded(worker, socket, buf, info.peer.get(), entrance).await? {
        info.peer.set(source);
        destination = to;
    }
    let peer = info.peer.get();
    worker.shared.blocked.admit(peer.ip()).map_err(|_| Denied::blocked(2, peer.ip()))?;

    let (mut seq, mut payload) = read_packet(socket, buf).await?;
    let mut certificate = None;
    match tls {
        Some(tls) if is_ssl_request(&payload) => {
            certificate = Some(tls.fingerprint);
            let session = tls.session().map_err(|_| Denied::Gone)?;
            if let Err(error) = socket.secure(session, buf).await {
                warn_seldom!(%peer, %error, "a client's TLS handshake failed");
                return Err(Denied::Gone);
            }
            (seq, payload) = read_packet(socket, buf).await?;
        }
        Some(tls) if tls.required => {
            return Err(Denied::Error {
                seq: seq.wrapping_add(1),
                code: 3159,
                state: "HY000",
                message: "Connections using insecure transport are prohibited while \
                          --require_secure_transport=ON."
                    .to_owned(),
            });
        }
        _ => {}
    }
    let next = seq.wrapping_add(1);
    let response = Response::parse(&payload).map_err(|e| Denied::malformed(next, e))?;
    // MariaDB clients leave LONG_PASSWORD out to speak of extended capabilities; old flags stay.
    let caps = response.capabilities & (greeting.capabilities | Capabilities::LONG_PASSWORD);
    // In the servers' order of preference.
    let compression = if caps.contains(Capabilities::COMPRESS) {
        Some(Algorithm::Zlib)
    } else if caps.contains(Capabilities::ZSTD_COMPRESSION) {
        let level = ZstdLevel::new(response.zstd_level.unwrap_or(3));
        Some(Algorithm::Zstd(level.map_err(|e| Denied::malformed(next, e))?))
    } else {
        None
    };
    let origin = Origin { source: peer, destination, secure: socket.is_secure() };
    Ok(Arrival { response, seq, caps, salt, origin, certificate, compression })
}

/// Source and destination by a PROXY protocol header, where one is sent and believed.
///
/// As with the servers themselves, those whose headers are believed need not send one: a health
/// check, someone who logs in from the load balancer.
async fn forwarded(
    worker: &Worker,
    socket: &mut Socket,
    buf: &mut Buffer,
    peer: SocketAddr,
    entrance: Entrance,
) -> Result<Option<(SocketAddr, SocketAddr)>, Denied> {
    // The packet it stands in the place of would have been the second.
    const SEQ: u8 = 2;
    let (header, len) = loop {
        match Beginning::of(buf.filled()) {
            Ok(Beginning::Header(header, len)) => break (header, len),
            Ok(Beginning::Other) => return Ok(None),
            Ok(Beginning::Incomplete) => {}
            Err(e) => {
                warn_seldom!(%peer, error = %e, "a broken PROXY protocol header");
                return Err(Denied::malformed(SEQ, e));
            }
        }
        if socket.read(buf).await? == 0 {
            return Err(Denied::Gone);
        }
    };
    let listener = worker.shared.config.listeners.get(entrance.listener);
    if !listener.is_some_and(|l| l.proxy_protocol.iter().any(|n| n.contains(peer.ip()))) {
        let ip = peer.ip().to_canonical();
        let message = format!(
            "[PM3004] a PROXY protocol header from {ip}, whose headers are not believed: \
             proxy_protocol in [[listener]] does not name it"
        );
        warn_seldom!(%peer, "{message}");
        return Err(Denied::Error { seq: SEQ, code: 1043, state: "08S01", message });
    }
    buf.consume(len);
    Ok(match header {
        ProxyHeader::Proxied { source, destination } => Some((source, destination)),
        ProxyHeader::Local => None,
    })
}
