//! The site's client: fetches pages through the virtual address.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::LONG;
use super::daemon::await_that;
use super::network::Network;

/// What a request came to: the body of a 200, or what went wrong.
pub type Answer = std::result::Result<String, String>;

/// One request, from wherever this thread is.
fn request(to: SocketAddr, path: &str, connect: Duration, read: Duration) -> Answer {
    let told = |what: &str, error: &std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("{what} timed out"),
        ErrorKind::HostUnreachable => "no route to host".to_owned(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => {
            "connection refused".to_owned()
        }
        _ => format!("{what}: {error}"),
    };
    let mut stream =
        TcpStream::connect_timeout(&to, connect).map_err(|error| told("connecting", &error))?;
    let mut exchange = || {
        stream.set_read_timeout(Some(read))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", to.ip())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| told("the answer", &error))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let body = body.trim().to_owned();
    if head.split(' ').nth(1) == Some("200") { Ok(body) } else { Err(body) }
}

/// `count` requests of the host, one after the other.
///
/// # Errors
/// The host can't be entered.
pub fn fetch(
    network: &Network,
    host: u8,
    to: SocketAddr,
    path: &str,
    count: usize,
) -> Result<Vec<Answer>> {
    let path = path.to_owned();
    let limit = Duration::from_secs(8);
    let thread = network
        .thread(host, move || (0..count).map(|_| request(to, &path, limit, limit)).collect())?;
    thread.join().map_err(|_| anyhow!("the client panicked"))?
}

/// Requests without pause, until it is asked what became of them.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Tally>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicUsize,
}

/// What became of the requests of a [`Load`].
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: usize,
    pub failed: usize,
    pub first_failure: Option<String>,
    /// The longest time between two answers.
    pub gap: Duration,
}

impl Load {
    /// # Errors
    /// The host can't be entered.
    pub fn start(network: &Network, host: u8, to: SocketAddr, path: &str) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (path, theirs) = (path.to_owned(), Arc::clone(&shared));
        let thread = network.thread(host, move || run(to, &path, &theirs))?;
        Ok(Self { shared, thread })
    }

    /// Until `count` more requests are answered.
    ///
    /// # Errors
    /// They are not.
    pub fn await_answers(&self, count: usize) -> Result<()> {
        let answered = || self.shared.answered.load(Ordering::Relaxed);
        let wanted = answered() + count;
        await_that("requests are answered", LONG, || Ok(answered() >= wanted)).map(drop)
    }

    /// # Errors
    /// It came to nothing.
    pub fn stop(self) -> Result<Tally> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client panicked"))?.context("the load")
    }
}

fn run(to: SocketAddr, path: &str, shared: &Shared) -> Tally {
    let mut tally = Tally::default();
    let mut last = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        // A SYN that is lost would be repeated after a second: so as to see when the way is open
        // again, ask again earlier.
        match request(to, path, Duration::from_millis(100), Duration::from_secs(4)) {
            Ok(_) => {
                tally.answered += 1;
                shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => {
                tally.failed += 1;
                tally.first_failure.get_or_insert(why);
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
        }
        tally.gap = tally.gap.max(last.elapsed());
        last = Instant::now();
        std::thread::sleep(Duration::from_millis(5));
    }
    tally.gap = tally.gap.max(last.elapsed());
    tally
}
