//! A second process that outlives the first by a moment: it takes the virtual addresses away when
//! the daemon dies without doing so itself, and tells the backups at once.
//!
//! The daemon tells the guard what it holds, and with every advert until when that is safe. If the
//! daemon's end of the socket closes (kill -9, a crash, the OOM killer), the guard removes the
//! addresses and sends the priority 0 adverts prepared for it, so that a backup takes over within
//! its skew time. If the daemon is there but silent for longer than a backup waits (SIGSTOP), the
//! guard removes the addresses alone: the backup has taken over, and two must not answer.
//!
//! A daemon that is restarted says so before it ends; what the guard does then stands in
//! [`super::succession`].

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::descriptors::{self, MAX_FDS};
use super::link::{Placed, delete_address};
use super::netlink::Socket;
use super::route::PlacedRoute;
use super::succession::{PATIENCE, READY, listen, succeed};
use super::vrrp_socket::VrrpSocket;
use super::{check, check_size, now, own, privileges, wait_readable};

/// How long the guard stays after the daemon. It has inherited the data plane's descriptors, so that
/// packets still sent here, by those who have not learned yet who holds the addresses now, find
/// their real servers rather than a host that resets their connections.
const LINGER: Duration = Duration::from_secs(2);

const MAX_MESSAGE: usize = 1 << 17;

/// What one virtual router holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hold {
    pub router: usize,
    pub addresses: Vec<Placed>,
    pub routes: Vec<PlacedRoute>,
    pub interface: String,
    pub index: u32,
    pub vrid: u8,
    pub unicast_ttl: u8,
    /// Adverts of priority 0: source, destination, payload.
    pub farewell: Vec<(IpAddr, IpAddr, Vec<u8>)>,
    /// To advertise in the daemon's place, while it is restarted.
    pub stand_in: StandIn,
    /// Past this time, as [`now`] tells it, others must be assumed to hold the addresses.
    pub until: Duration,
}

/// How a virtual router advertises.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StandIn {
    pub priority: u8,
    /// Adverts of it, as those of [`Hold::farewell`].
    pub adverts: Vec<(IpAddr, IpAddr, Vec<u8>)>,
    pub interval: Duration,
    /// How long its peers wait for one.
    pub peers_wait: Duration,
    pub multicast: bool,
    /// Adverts with a lower TTL or hop limit are not believed.
    pub min_ttl: u8,
    /// Of the sync group it is in: its members go together.
    pub group: Option<String>,
    /// What adverts of version 2 must carry to be believed.
    pub auth: Option<[u8; 8]>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Hold(Hold),
    Alive {
        router: usize,
        until: Duration,
    },
    Release {
        router: usize,
    },
    /// The daemon ends, for another to begin.
    Restart,
    /// The descriptors with it are to stay open, instead of those sent before.
    Keep,
}

/// The daemon's end.
pub(crate) struct Guard {
    fd: OwnedFd,
}

impl Guard {
    /// Forks. Call it before the process has other threads, and after the data plane is loaded: the
    /// guard keeps what is open now.
    pub fn start() -> io::Result<Self> {
        let mut ends = [-1; 2];
        // SAFETY: `ends` has room for two.
        check(unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
                0,
                ends.as_mut_ptr(),
            )
        })?;
        let (ours, theirs) = (own(ends[0])?, own(ends[1])?);
        // SAFETY: there is one thread, so the child may use all of the library.
        match check(unsafe { libc::fork() })? {
            0 => {
                drop(ours);
                let mut kept = Vec::new();
                watch(theirs, &mut kept);
                std::thread::sleep(LINGER);
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(0) }
            }
            _ => Ok(Self { fd: ours }),
        }
    }

    pub fn hold(&self, hold: Hold) -> io::Result<()> {
        self.send(&Message::Hold(hold))
    }

    pub fn alive(&self, router: usize, until: Duration) -> io::Result<()> {
        self.send(&Message::Alive { router, until })
    }

    pub fn release(&self, router: usize) -> io::Result<()> {
        self.send(&Message::Release { router })
    }

    /// Says that another daemon is to take the addresses, and waits until the guard is ready for it.
    ///
    /// # Errors
    /// It is not: the addresses must not be left to it.
    pub fn restart(&self) -> io::Result<()> {
        self.send(&Message::Restart)?;
        match wait_readable(&[self.fd.as_fd()], Some(PATIENCE))?.as_slice() {
            [true] => {}
            _ => return Err(io::ErrorKind::TimedOut.into()),
        }
        let mut answer = [0u8; 1];
        // SAFETY: the buffer is valid for its length.
        let length = check_size(unsafe {
            libc::recv(self.fd.as_raw_fd(), answer.as_mut_ptr().cast(), 1, libc::MSG_DONTWAIT)
        })?;
        if length == 1 && answer == [READY] {
            return Ok(());
        }
        Err(io::Error::other("it can't be reached by another daemon"))
    }

    /// Has the guard keep `fds` open, too: what it is to find open when the daemon is gone, and was
    /// not when the guard was started. They replace those of the call before.
    pub fn keep(&self, fds: &[RawFd]) -> io::Result<()> {
        let fds = &fds[..fds.len().min(MAX_FDS)];
        self.send_with(&Message::Keep, fds)
    }

    fn send(&self, message: &Message) -> io::Result<()> {
        self.send_with(message, &[])
    }

    fn send_with(&self, message: &Message, fds: &[RawFd]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
        // Never wait for the guard: it may be stopped, and we must go on.
        descriptors::send(self.fd.as_fd(), &bytes, fds)
    }
}

/// The guard's life. `kept` is what it was sent to keep open.
fn watch(fd: OwnedFd, kept: &mut Vec<OwnedFd>) {
    outlive_the_daemon();
    privileges::without_loading();
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut holds: Vec<(Hold, bool)> = Vec::new();
    let mut successors = None;
    loop {
        let time = now();
        for (hold, removed) in &mut holds {
            if !*removed && hold.until <= time {
                remove(hold);
                *removed = true;
            }
        }
        let next = holds.iter().filter(|(_, removed)| !removed).map(|(h, _)| h.until).min();
        let timeout = next.map(|at| at.saturating_sub(now()));
        match wait_readable(&[fd.as_fd()], timeout).as_deref() {
            Ok([true]) => {}
            Ok(_) => continue,
            Err(_) => break,
        }
        // All that waits, before any deadline is looked at again.
        loop {
            match descriptors::receive(fd.as_fd(), &mut buffer) {
                Ok((0, _)) => {
                    let live = holds.into_iter().filter(|(_, removed)| !removed);
                    succeed(successors.as_ref(), live.map(|(hold, _)| hold).collect());
                    return;
                }
                Ok((length, fds)) => match serde_json::from_slice(&buffer[..length]) {
                    Ok(Message::Keep) => *kept = fds,
                    Ok(Message::Restart) => {
                        successors = successors.or_else(|| listen().ok());
                        let answer = [if successors.is_some() { READY } else { b'n' }];
                        // SAFETY: the buffer is valid for its length.
                        unsafe {
                            libc::send(
                                fd.as_raw_fd(),
                                answer.as_ptr().cast(),
                                1,
                                libc::MSG_NOSIGNAL,
                            )
                        };
                    }
                    Ok(message) => note(&mut holds, message),
                    Err(_) => {}
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    let live = holds.iter().filter(|(_, removed)| !removed);
                    live.for_each(|(hold, _)| part(hold));
                    return;
                }
            }
        }
    }
}

fn note(holds: &mut Vec<(Hold, bool)>, message: Message) {
    match message {
        Message::Hold(hold) => {
            holds.retain(|(h, _)| h.router != hold.router);
            holds.push((hold, false));
        }
        Message::Alive { router, until } => {
            if let Some((hold, _)) = holds.iter_mut().find(|(h, _)| h.router == router) {
                hold.until = until;
            }
        }
        Message::Release { router } => holds.retain(|(h, _)| h.router != router),
        Message::Restart | Message::Keep => {}
    }
}

pub(super) fn remove(hold: &Hold) {
    if let Ok(mut socket) = Socket::route() {
        for route in &hold.routes {
            let _ = route.delete(&mut socket);
        }
        for address in &hold.addresses {
            let _ = delete_address(&mut socket, address);
        }
    }
}

/// The daemon is gone, and nobody goes on in its place.
pub(super) fn part(hold: &Hold) {
    remove(hold);
    let Some((src, ..)) = hold.farewell.first() else { return };
    let socket =
        VrrpSocket::open(&hold.interface, hold.index, src.is_ipv6(), false, hold.unicast_ttl);
    if let Ok(socket) = socket {
        for (src, dst, payload) in &hold.farewell {
            let _ = socket.send(payload, *src, *dst);
        }
    }
}

/// Signals meant for the daemon must not end the guard before it.
fn outlive_the_daemon() {
    // SAFETY: plain calls.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, c"pointsman-guard".as_ptr());
    }
}
