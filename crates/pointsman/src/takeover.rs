//! Handing the listening sockets to a new process, so that no client is turned away in between.
//!
//! A running proxy offers its sockets at an address in the abstract namespace that is named after its
//! first listener, to processes of its own user. The new process gets the very same sockets (not
//! others on the same port, whose queues would be lost with them), starts, accepts beside the old
//! one, and then says [`GO`]. Until then it may vanish, and nothing has happened.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg, sockopt,
};
use pointsman_config::ProxyConfig;
use pointsman_proxy::Proxy;
use tokio::sync::mpsc::UnboundedSender;

/// "I serve; go."
const GO: u8 = b'g';
/// "I accept no more, and offer no more."
const GONE: u8 = b'b';
/// How far the connection ids of two processes are apart, so that none is given twice.
const IDS_APART: u32 = 1 << 20;
/// Most descriptors in one message; the kernel takes 253.
const BATCH: usize = 128;
/// For an answer of a process that is alive.
const PATIENCE: Duration = Duration::from_secs(10);

fn address(config: &ProxyConfig) -> Result<UnixAddr> {
    let first = config.listeners.first().context("there is no listener")?.address;
    Ok(UnixAddr::from_abstract_name(format!("pointsman-takeover-{first}"))?)
}

/// Only processes of the same user may have the sockets, or give them.
fn check_peer(stream: &UnixStream) -> Result<()> {
    let peer = getsockopt(stream, sockopt::PeerCredentials)?;
    let own = nix::unistd::geteuid().as_raw();
    ensure!(peer.uid() == own, "process {} belongs to another user", peer.pid());
    Ok(())
}

/// What a running proxy handed over.
pub struct Inherited {
    stream: UnixStream,
    /// Taken out of here one by one.
    pub sockets: Vec<TcpListener>,
    /// Where the count of connection ids goes on.
    pub first_id: u32,
}

impl Inherited {
    /// Asks the proxy that listens where this config says.
    pub fn ask(config: &ProxyConfig) -> Result<Self> {
        let stream = UnixStream::connect_addr(&address(config)?).with_context(|| {
            let first = config.listeners.first().map(|l| l.address.to_string());
            format!("no proxy of this version runs on {}", first.unwrap_or_default())
        })?;
        check_peer(&stream)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut sockets, mut first_id) = (Vec::new(), 0);
        loop {
            let mut head = [0; 8];
            let mut space = nix::cmsg_space!([RawFd; BATCH]);
            let mut slices = [IoSliceMut::new(&mut head)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let fd = stream.as_raw_fd();
            let message = recvmsg::<()>(fd, &mut slices, Some(&mut space), flags)?;
            let whole = message.bytes == 8;
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    for fd in fds {
                        // SAFETY: the kernel has just made it for us, and nobody else knows it.
                        sockets.push(unsafe { TcpListener::from_raw_fd(fd) });
                    }
                }
            }
            ensure!(whole, "the running proxy did not hand over its sockets: see its log");
            let [a, b, c, d, id @ ..] = head;
            first_id = u32::from_le_bytes(id).max(first_id);
            if sockets.len() >= u32::from_le_bytes([a, b, c, d]) as usize {
                break;
            }
        }
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        Ok(Self { stream, sockets, first_id })
    }

    /// The socket at this address, if it was among them.
    pub fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.sockets.iter().position(|s| s.local_addr().is_ok_and(|a| a == address))?;
        Some(self.sockets.swap_remove(at))
    }

    /// The new process serves: the old one is to go. Gives what ends when it has gone.
    pub fn go(self) -> Result<UnixStream> {
        let mut stream = self.stream;
        stream.write_all(&[GO])?;
        let mut answer = [0];
        stream.read_exact(&mut answer).context("the old process did not answer")?;
        ensure!(answer[0] == GONE, "the old process did not understand");
        stream.set_read_timeout(None)?;
        Ok(stream)
    }
}

/// What became of an offer.
pub enum Offer {
    /// Another process serves. It is told by the end of this that the old one has gone.
    Taken(UnixStream),
    /// It had the sockets, and has gone without saying so.
    Abandoned,
}

/// The sockets on offer; empty once this process stops, so that nobody waits in their queues in vain.
#[derive(Clone, Default)]
pub struct Sockets(Arc<Mutex<Vec<TcpListener>>>);

impl Sockets {
    pub fn add(&self, sockets: impl IntoIterator<Item = TcpListener>) {
        self.lock().extend(sockets);
    }

    /// Closes them: clients are turned away from here on, unless another process has them.
    pub fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<TcpListener>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Offers these sockets to whoever asks, on a thread of its own.
pub fn offer(
    config: &ProxyConfig,
    sockets: Sockets,
    proxy: Arc<Proxy>,
    events: UnboundedSender<Offer>,
) -> Result<()> {
    let listener = UnixListener::bind_addr(&address(config)?)?;
    let body = move || {
        for stream in listener.incoming().flatten() {
            match hand_over(&stream, &sockets, &proxy) {
                Ok(true) => {
                    // Before the other hears of it, so that it may offer them in its turn.
                    sockets.close();
                    drop(listener);
                    let mut stream = stream;
                    let _ = stream.write_all(&[GONE]);
                    let _ = events.send(Offer::Taken(stream));
                    return;
                }
                Ok(false) => {
                    tracing::warn!("a process that asked for the listening sockets did not start");
                    let _ = events.send(Offer::Abandoned);
                }
                Err(error) => tracing::warn!(%error, "the listening sockets were not handed over"),
            }
        }
    };
    std::thread::Builder::new().name("takeover".to_owned()).spawn(body)?;
    Ok(())
}

/// Whether the other process serves now.
fn hand_over(stream: &UnixStream, sockets: &Sockets, proxy: &Proxy) -> Result<bool> {
    check_peer(stream)?;
    if !send(stream, &sockets.lock(), proxy)? {
        return Ok(false);
    }
    let mut said = [0];
    let mut reader = stream;
    match reader.read_exact(&mut said) {
        Ok(()) => Ok(said[0] == GO),
        Err(error) => {
            tracing::debug!(%error, "takeover");
            Ok(false)
        }
    }
}

/// Whether they have arrived.
fn send(stream: &UnixStream, sockets: &[TcpListener], proxy: &Proxy) -> Result<bool> {
    ensure!(!sockets.is_empty(), "this process is about to stop");
    if proxy.cluster().snapshot().primary.is_none() {
        bail!("there is no primary at present: not a time to change the proxy as well");
    }
    // From the moment when the other may accept clients.
    proxy.set_beside(true);
    let mut head = [0; 8];
    head[..4].copy_from_slice(&(sockets.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&proxy.next_id().wrapping_add(IDS_APART).to_le_bytes());
    for batch in sockets.chunks(BATCH) {
        let fds: Vec<RawFd> = batch.iter().map(|s| s.as_raw_fd()).collect();
        let control = [ControlMessage::ScmRights(&fds)];
        let sent = sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(&head)],
            &control,
            MsgFlags::empty(),
            None,
        );
        if sent.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}
