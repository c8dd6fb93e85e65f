//! The connection table shared with the peer, so that a director that takes over knows which real
//! server a connection began with. Maglev needs none of this; the schedulers that count do.
//!
//! Whoever forwards a connection tells of it when it is established, when it ends, and every minute
//! in between, in datagrams to a link-local multicast group, or to the VRRP unicast peers. A director
//! that starts asks for all there is. Nothing is acknowledged: what is lost is told again within the
//! minute.

mod message;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::config::DirectorConfig;
use crate::sys::link::Links;
use message::{Envelope, Seen};
pub(crate) use message::{MOST_RECORDS, Message, Record};

/// IPVS's sync daemon has the port before this one.
const PORT: u16 = 8849;
/// As IPVS's: routers forward none of 224.0.0.0/24.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 81);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0, 0x8849);
/// Datagrams in a row before others get a turn.
const BURST: usize = 64;

/// One way to the peers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Channel {
    interface: String,
    ipv6: bool,
    /// Empty: multicast.
    peers: Vec<IpAddr>,
    source: Option<IpAddr>,
}

/// What of the configuration matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncConfig {
    channels: Vec<Channel>,
    secret: Vec<u8>,
}

impl SyncConfig {
    /// `None`: nothing is shared.
    pub fn of(config: &DirectorConfig) -> Option<Self> {
        if config.global.flow_sync == Some(false) {
            return None;
        }
        let channel = |v: &crate::config::VrrpInstance| Channel {
            interface: v.interface.clone(),
            ipv6: v.is_ipv6(),
            peers: v.unicast_peer.clone(),
            source: v.source,
        };
        let mut channels: Vec<Channel> = config.vrrp.iter().map(channel).collect();
        channels.sort();
        channels.dedup();
        let password = config.vrrp.iter().find_map(|v| v.auth_pass.as_ref());
        let secret = config.global.flow_sync_secret.as_ref().or(password);
        let secret = secret.map_or(Vec::new(), |s| s.expose().as_bytes().to_vec());
        Some(Self { channels, secret })
    }
}

struct Open {
    send: UdpSocket,
    receive: UdpSocket,
    to: Vec<SocketAddr>,
    /// Who may send; empty: whoever reaches the group.
    from: Vec<IpAddr>,
}

/// Open sockets towards the peers.
pub(crate) struct Peers {
    channels: Vec<Open>,
    envelope: Envelope,
    seen: Seen,
}

impl Peers {
    /// Opens what can be opened; what can't is told in sentences.
    pub fn open(config: &SyncConfig, links: &Links) -> io::Result<(Self, Vec<String>)> {
        let mut troubles = Vec::new();
        let mut channels = Vec::new();
        for channel in &config.channels {
            match open(channel, links) {
                Ok(open) => channels.push(open),
                Err(error) => troubles.push(format!(
                    "connections are not shared with the peer over {}: {error}",
                    channel.interface
                )),
            }
        }
        let envelope = Envelope::new(&config.secret)?;
        Ok((Self { channels, envelope, seen: Seen::default() }, troubles))
    }

    /// To be polled.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.channels.iter().map(|c| c.receive.as_fd())
    }

    /// Sends it to all peers. Failures are nobody's business: a peer may not be there.
    pub fn send(&mut self, message: &Message) {
        let bytes = self.envelope.seal(message);
        for channel in &self.channels {
            for to in &channel.to {
                if let Err(error) = channel.send.send_to(&bytes, to) {
                    tracing::trace!("telling {to} of connections: {error}");
                }
            }
        }
    }

    /// In as many messages as it takes, with pauses.
    pub fn send_all(&mut self, records: &[Record]) {
        for (i, chunk) in records.chunks(MOST_RECORDS).enumerate() {
            self.send(&Message::Flows(chunk.to_vec()));
            if i % BURST == BURST - 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// What has come and can be believed, without waiting; a bounded number.
    pub fn receive(&mut self) -> Vec<Message> {
        let mut buffer = [0; 2048];
        let mut messages = Vec::new();
        for channel in &self.channels {
            for _ in 0..4 * BURST {
                let Ok((length, from)) = channel.receive.recv_from(&mut buffer) else { break };
                if !channel.from.is_empty() && !channel.from.contains(&from.ip()) {
                    continue;
                }
                match self.envelope.open(&buffer[..length]) {
                    Ok((stamp, message)) if self.seen.is_new(stamp) => messages.push(message),
                    Ok(_) => {}
                    Err(why) => tracing::debug!("{from}: {why}"),
                }
            }
        }
        messages
    }
}

fn open(channel: &Channel, links: &Links) -> io::Result<Open> {
    let (index, _) = links
        .by_name(&channel.interface)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such interface"))?;
    let (domain, any): (_, IpAddr) = if channel.ipv6 {
        (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into())
    } else {
        (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())
    };
    let group: SocketAddr = if channel.ipv6 {
        std::net::SocketAddrV6::new(GROUP_V6, PORT, 0, index).into()
    } else {
        (GROUP_V4, PORT).into()
    };
    let socket = || -> io::Result<Socket> {
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(channel.interface.as_bytes()))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let send = socket()?;
    let receive = socket()?;
    receive.set_reuse_address(true)?;
    // Bursts must not be lost; more than the limit is asked for in vain, which is fine.
    let _ = receive.set_recv_buffer_size(4 << 20);
    let mut to = Vec::new();
    if channel.peers.is_empty() {
        if channel.ipv6 {
            receive.join_multicast_v6(&GROUP_V6, index)?;
            send.set_multicast_if_v6(index)?;
            send.set_multicast_loop_v6(false)?;
        } else {
            receive.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))?;
            send.set_multicast_loop_v4(false)?;
        }
        // To the group's address alone: nothing that a router passed on comes in.
        receive.bind(&group.into())?;
        to.push(group);
    } else {
        let source = SocketAddr::from((channel.source.unwrap_or(any), 0));
        send.bind(&source.into())?;
        receive.bind(&SocketAddr::from((source.ip(), PORT)).into())?;
        to.extend(channel.peers.iter().map(|ip| SocketAddr::from((*ip, PORT))));
    }
    Ok(Open { send: send.into(), receive: receive.into(), to, from: channel.peers.clone() })
}
