//! From one daemon to the next, when one is restarted in place.
//!
//! Before it ends, it says so to its guard. The guard then keeps the addresses for the daemon that comes
//! next, and advertises in the place of the one that is gone, for [`STAND_IN`] at most: loading a
//! program into the kernel takes seconds on a busy machine, and peers wait for three adverts. The next
//! daemon asks for the addresses ([`Predecessor::ask`]), puts its own guard over them and says so
//! ([`Predecessor::taken`]). What it does not take, or does not take in time, ends as after a crash;
//! and a router that is above it and advertises meanwhile has it. So at no time is an address held that
//! is not watched over, nor one that a peer may have taken.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::time::Duration;

use pointsman_vrrp::{Advert, Auth, PRIORITY_OWNER, PRIORITY_STOP, Received, Version};

use super::guard::{Hold, StandIn, part, remove};
use super::vrrp_socket::VrrpSocket;
use super::{now, wait_readable};

/// Where a guard waits for the next daemon: in the abstract namespace, and so one for each network
/// namespace.
const SUCCESSION: &str = "pointsman-director-succession";

/// For answers of a process that runs.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long a guard advertises for a daemon that is gone. Nobody looks after the real servers
/// meanwhile.
const STAND_IN: Duration = Duration::from_secs(10);

/// "The next daemon may come."
pub(super) const READY: u8 = b'r';

pub(super) fn listen() -> io::Result<UnixListener> {
    UnixListener::bind_addr(&UnixAddr::from_abstract_name(SUCCESSION)?)
}

/// Only processes of the same user may have the addresses, or give them.
fn is_ours(stream: &UnixStream) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` is as large as `size` says; geteuid can't fail.
    unsafe {
        let asked = libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut peer).cast(),
            &mut size,
        );
        asked == 0 && peer.uid == libc::geteuid()
    }
}

/// One virtual router between two daemons.
struct Waiting {
    hold: Hold,
    /// `None`: it can't be opened, and the router goes on in silence while that is safe.
    socket: Option<VrrpSocket>,
    advert_at: Duration,
}

impl Waiting {
    fn new(hold: Hold) -> Self {
        let ipv6 = hold.addresses.first().is_some_and(|a| a.ip.is_ipv6());
        let ipv6 = hold.farewell.first().map_or(ipv6, |(src, ..)| src.is_ipv6());
        let multicast = hold.stand_in.multicast;
        let socket =
            VrrpSocket::open(&hold.interface, hold.index, ipv6, multicast, hold.unicast_ttl);
        let advert_at =
            hold.until.saturating_sub(hold.stand_in.peers_wait) + hold.stand_in.interval;
        Self { hold, socket: socket.ok(), advert_at }
    }

    /// Advertises if it is time. One that is too late for that is not to.
    fn advertise(&mut self) {
        let time = now();
        let Some(socket) = &self.socket else { return };
        if time < self.advert_at || self.hold.until <= time {
            return;
        }
        let mut sent = false;
        for (src, dst, payload) in &self.hold.stand_in.adverts {
            sent |= socket.send(payload, *src, *dst).is_ok();
        }
        self.advert_at = time + self.hold.stand_in.interval;
        if sent {
            self.hold.until = time + self.hold.stand_in.peers_wait;
        }
    }

    fn group(&self) -> Option<&str> {
        self.hold.stand_in.group.as_deref()
    }

    /// Whether a router that is above this one advertises.
    fn is_superseded(&mut self) -> bool {
        let Self { hold, socket: Some(socket), .. } = self else { return false };
        while let Ok(Some((from, payload))) = socket.receive() {
            if is_above(hold, payload, from) {
                return true;
            }
        }
        false
    }
}

/// What the daemon would have stood down for.
fn is_above(hold: &Hold, payload: &[u8], from: Received) -> bool {
    let Some((own, _, ours)) = hold.stand_in.adverts.first() else { return false };
    let Ok(advert) = Advert::parse(payload, from.src, from.dst) else { return false };
    let auth = hold.stand_in.auth.map(|password| Auth::pass(&password));
    let believed = auth.as_ref().is_none_or(|auth| auth.matches(&advert.auth_data))
        && advert.auth_type_matches(auth.as_ref());
    let StandIn { adverts, multicast, min_ttl, priority, interval, .. } = &hold.stand_in;
    let is_peer = || adverts.iter().any(|(_, dst, _)| *dst == from.src);
    // The first byte has version and type.
    believed
        && from.ttl >= *min_ttl
        && (*multicast || is_peer())
        && payload.first() == ours.first()
        && (advert.version == Version::V3 || advert.interval == *interval)
        && advert.vrid == hold.vrid
        && advert.priority != PRIORITY_STOP
        && *priority != PRIORITY_OWNER
        && from.src != *own
        && (advert.priority, from.src) > (*priority, *own)
}

/// Takes those out of `waiting` that `lost` says have to go, and then those of their sync groups, who
/// go with them.
fn go_together<T>(
    waiting: &mut Vec<T>,
    mut lost: impl FnMut(&mut T) -> bool,
    group: impl Fn(&T) -> Option<&str>,
) -> (Vec<T>, Vec<T>) {
    let gone: Vec<T> = waiting.extract_if(.., |w| lost(w)).collect();
    let is_of_one = |w: &mut T| {
        group(w).is_some_and(|name| gone.iter().any(|other| group(other) == Some(name)))
    };
    let others = waiting.extract_if(.., is_of_one).collect();
    (gone, others)
}

/// The daemon is gone. If it is to be followed by another, `holds` are that one's, as far as it takes
/// them in time.
pub(super) fn succeed(successors: Option<&UnixListener>, holds: Vec<Hold>) {
    let Some(listener) = successors else {
        holds.iter().for_each(part);
        return;
    };
    let end = now() + STAND_IN;
    let mut follower: Option<UnixStream> = None;
    let mut waiting: Vec<Waiting> = holds.into_iter().map(Waiting::new).collect();
    while !waiting.is_empty() {
        if now() < end {
            waiting.iter_mut().for_each(Waiting::advertise);
        }
        let time = now();
        let wakes = waiting.iter().flat_map(|w| {
            let advert = (w.advert_at < end && w.socket.is_some()).then_some(w.advert_at);
            [Some(w.hold.until), advert].into_iter().flatten()
        });
        let timeout = wakes.min().map(|at| at.saturating_sub(time));
        let mut fds: Vec<BorrowedFd<'_>> =
            vec![follower.as_ref().map_or(listener.as_fd(), AsFd::as_fd)];
        fds.extend(waiting.iter().filter_map(|w| w.socket.as_ref()).map(AsFd::as_fd));
        let ready = wait_readable(&fds, timeout);
        // What others sent comes first: it may say that we need not go on.
        let (superseded, others) =
            go_together(&mut waiting, Waiting::is_superseded, Waiting::group);
        superseded.iter().for_each(|w| remove(&w.hold));
        others.iter().for_each(|w| part(&w.hold));
        let is_late = |w: &mut Waiting| w.hold.until <= now();
        let (late, others) = go_together(&mut waiting, is_late, Waiting::group);
        late.iter().chain(&others).for_each(|w| part(&w.hold));
        match (ready.map(|ready| ready[0]), &mut follower) {
            (Ok(false), _) => {}
            (Ok(true), None) => {
                let stream = listener.accept().map(|(stream, _)| stream);
                let holds: Vec<&Hold> = waiting.iter().map(|w| &w.hold).collect();
                follower = stream.ok().filter(|s| is_ours(s) && offer(s, &holds).is_ok());
            }
            (Ok(true), Some(stream)) => {
                // Nothing, if it has ended meanwhile.
                let taken: Vec<usize> = read_line(stream)
                    .and_then(|line| serde_json::from_str(&line).map_err(io::Error::other))
                    .unwrap_or_default();
                waiting.retain(|w| !taken.contains(&w.hold.router));
                break;
            }
            (Err(_), _) => break,
        }
    }
    waiting.iter().for_each(|w| part(&w.hold));
}

fn offer(mut stream: &UnixStream, holds: &[&Hold]) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(holds).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn read_line(stream: &UnixStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(1 << 24)).read_line(&mut line)?;
    Ok(line)
}

/// What a daemon left that has just ended to be restarted.
pub(crate) struct Predecessor {
    stream: UnixStream,
    pub holds: Vec<Hold>,
}

impl Predecessor {
    /// `None` if there was none, or it did not answer.
    pub fn ask() -> Option<Self> {
        let address = UnixAddr::from_abstract_name(SUCCESSION).ok()?;
        let stream = UnixStream::connect_addr(&address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let holds = is_ours(&stream).then(|| read_line(&stream).ok())??;
        Some(Self { holds: serde_json::from_str(&holds).ok()?, stream })
    }

    /// `routers` of its holds are held now, and watched over. It parts with the others.
    pub fn taken(mut self, routers: &[usize]) -> io::Result<()> {
        let mut line = serde_json::to_vec(routers).map_err(io::Error::other)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use pointsman_vrrp::{ChecksumForm, MULTICAST_V4, Outgoing};

    use super::*;

    const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 4, 88));

    fn advert(vrid: u8, priority: u8, password: &[u8], src: IpAddr) -> (IpAddr, IpAddr, Vec<u8>) {
        let (dst, mut payload) = (IpAddr::V4(MULTICAST_V4), Vec::new());
        Outgoing {
            version: Version::V2,
            vrid,
            priority,
            interval: Duration::from_secs(1),
            auth: Some(&Auth::pass(password)),
            addresses: &[IpAddr::from([192, 168, 4, 253])],
            checksum_form: ChecksumForm::MessageOnly,
        }
        .encode(src, dst, &mut payload);
        (src, dst, payload)
    }

    fn hold() -> Hold {
        Hold {
            router: 0,
            addresses: Vec::new(),
            routes: Vec::new(),
            interface: "eth0".to_owned(),
            index: 1,
            vrid: 51,
            unicast_ttl: 255,
            farewell: vec![advert(51, 0, b"1111", OURS)],
            stand_in: StandIn {
                priority: 100,
                adverts: vec![advert(51, 100, b"1111", OURS)],
                interval: Duration::from_secs(1),
                peers_wait: Duration::from_secs(3),
                multicast: true,
                min_ttl: 255,
                group: None,
                auth: Some(Auth::pass(b"1111").data()),
            },
            until: Duration::from_secs(1000),
        }
    }

    #[test]
    fn the_guard_gives_way_to_whom_the_daemon_would_have() {
        let above = |last: u8, vrid, priority, password: &[u8], ttl| {
            let (src, dst, payload) =
                advert(vrid, priority, password, IpAddr::from([192, 168, 4, last]));
            is_above(&hold(), &payload, Received { src, dst, ttl })
        };
        assert!(above(99, 51, 101, b"1111", 255));
        assert!(above(99, 51, 100, b"1111", 255), "the higher address");
        assert!(!above(77, 51, 100, b"1111", 255), "the lower address");
        assert!(!above(99, 51, 99, b"1111", 255));
        assert!(!above(99, 51, 0, b"1111", 255), "it stops");
        assert!(!above(99, 52, 200, b"1111", 255), "another virtual router");
        assert!(!above(99, 51, 200, b"2222", 255), "another password");
        assert!(!above(99, 51, 200, b"1111", 254), "from another network");
        assert!(!above(88, 51, 200, b"1111", 255), "ourselves");
    }

    #[test]
    fn to_a_peer_alone_and_from_no_farther_than_it_may_be() {
        let peer = IpAddr::from([192, 168, 4, 99]);
        let mut hold = hold();
        hold.stand_in.multicast = false;
        hold.stand_in.min_ttl = 254;
        hold.stand_in.adverts[0].1 = peer;
        let above = |hold: &Hold, src: IpAddr, ttl| {
            let (_, dst, payload) = advert(51, 200, b"1111", src);
            is_above(hold, &payload, Received { src, dst, ttl })
        };
        assert!(above(&hold, peer, 254));
        assert!(!above(&hold, peer, 253));
        assert!(!above(&hold, IpAddr::from([192, 168, 4, 77]), 255), "nobody it knows");
        // Nor for what the daemon would not have heard either.
        hold.stand_in.interval = Duration::from_secs(2);
        assert!(!above(&hold, peer, 255), "another interval");
        hold.stand_in.interval = Duration::from_secs(1);
        hold.stand_in.priority = PRIORITY_OWNER;
        assert!(!above(&hold, peer, 255), "the addresses are its own");
    }

    #[test]
    fn a_group_goes_together() {
        let go = |lost: usize| {
            let mut waiting = vec![(1, Some("G")), (2, None), (3, Some("G")), (4, Some("H"))];
            let (gone, others) = go_together(&mut waiting, |w| w.0 == lost, |w| w.1);
            let numbers = |of: Vec<(usize, _)>| of.into_iter().map(|w| w.0).collect::<Vec<_>>();
            (numbers(gone), numbers(others), numbers(waiting))
        };
        assert_eq!(go(1), (vec![1], vec![3], vec![2, 4]));
        assert_eq!(go(2), (vec![2], vec![], vec![1, 3, 4]));
        assert_eq!(go(4), (vec![4], vec![], vec![1, 2, 3]));
    }

    #[test]
    fn it_speaks_an_interval_after_the_daemon_did_and_never_too_late() {
        let mut waiting = Waiting::new(hold());
        assert_eq!(waiting.advert_at, Duration::from_secs(998));
        // Without a socket nothing can be said.
        waiting.socket = None;
        waiting.advertise();
        assert_eq!(waiting.hold.until, Duration::from_secs(1000));
    }
}
