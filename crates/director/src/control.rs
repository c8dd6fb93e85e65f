//! Asking a running director for something from another thread: it reads its configuration anew.
//!
//! Reading and checking is done by who asks; only a configuration that can be run reaches the
//! threads that run it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::config::DirectorConfig;
use crate::sys::process::Waker;
use crate::virtuals::Loaded;

/// Longer than the director needs, unless it hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// Where the configuration comes from, and what is wrong with it if it can't be run.
pub type Source = Box<dyn Fn() -> Result<DirectorConfig, String> + Send + Sync>;

pub(crate) struct Request {
    pub config: Box<DirectorConfig>,
    /// The data plane, where it is the first configuration that needs one; or why there is none.
    pub loaded: Option<Result<Loaded, String>>,
    /// What was done, in a sentence; or why nothing was.
    pub answer: Sender<Result<String, String>>,
}

/// The asking end; shared by all who may ask.
pub struct Control {
    source: Source,
    requests: Mutex<Sender<Request>>,
    waiting: Mutex<Option<Receiver<Request>>>,
    waker: Waker,
}

impl Control {
    /// # Errors
    /// No descriptor to be had.
    pub(crate) fn new(source: Source) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        Ok(Self {
            source,
            requests: Mutex::new(sender),
            waiting: Mutex::new(Some(receiver)),
            waker: Waker::new()?,
        })
    }

    /// Reads the configuration and has the director run it. Returns once that is so, with what
    /// changed.
    ///
    /// # Errors
    /// Nothing was changed, and why.
    pub fn reload(&self) -> Result<String, String> {
        let config = Box::new((self.source)()?);
        let (answer, answered) = channel();
        let gone = "the director is stopping".to_owned();
        if !self.send(Request { config, loaded: None, answer }) {
            return Err(gone);
        }
        match answered.recv_timeout(LIMIT) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err("the director does not answer".to_owned()),
            Err(RecvTimeoutError::Disconnected) => Err(gone),
        }
    }

    /// Whether somebody is there to answer it.
    pub(crate) fn send(&self, request: Request) -> bool {
        let sent = self.requests.lock().unwrap_or_else(PoisonError::into_inner).send(request);
        self.waker.wake();
        sent.is_ok()
    }

    /// Whether the configuration could be run as it stands now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self) -> Result<(), String> {
        (self.source)().map(drop)
    }

    /// The answering end; there is one.
    pub(crate) fn take_requests(&self) -> Option<Receiver<Request>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn clear(&self) {
        self.waker.clear();
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}
