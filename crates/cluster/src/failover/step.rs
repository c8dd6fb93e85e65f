//! What can be done to one server, and what comes of it. Plain data.

use std::time::Duration;

use crate::gtid::Position;

/// Numbers the steps of one run.
pub type StepId = u64;

/// Something to do at one server. Each may be done twice without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Does it answer over a new connection? Done, or failed.
    Ping { server: usize },
    /// A replica connects to its source anew. [`Outcome::Reached`].
    Reach { server: usize },
    /// A replica stops fetching and says what it has. [`Outcome::At`] all it received.
    Freeze { server: usize },
    /// It fetches and applies again.
    Thaw { server: usize },
    /// Applies `wanted`, then stops replicating. [`Outcome::At`] what it has applied, at least
    /// `wanted`; fails if that takes longer than `wait`.
    Settle { server: usize, wanted: Position, wait: Duration },
    /// Forgets its source and becomes writable. `confirmed`: others are about to follow it; where
    /// replication is semi-synchronous it commits nothing without them.
    Open { server: usize, confirmed: bool },
    /// Lets open transactions end for at most `wait`, becomes read-only, cuts off what still writes.
    /// [`Outcome::At`] what it has committed.
    Close { server: usize, wait: Duration },
    /// The opposite of `Close`.
    Reopen { server: usize },
    /// Becomes read-only at once, and its clients are cut off.
    Fence { server: usize },
    /// Its scheduled events run no more, so that they can run at another one. [`Outcome::Rested`].
    Rest { server: usize },
    /// Runs the scheduled events that the last primary ran. [`Outcome::Woken`].
    Wake { server: usize },
    /// Replicates from `to`, and becomes read-only, if it has nothing that `to` lacks; fails if
    /// replication does not run then. [`Outcome::Diverged`] if it has.
    Join { server: usize, to: usize },
    /// `replica`: it applies without waiting for confirmations; `note`: statements are noted in the
    /// binary log from now on, if that can be and is not. [`Outcome::Prepared`].
    Prepare { server: usize, replica: bool, note: bool },
}

/// What a step brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    At(Position),
    /// Whether the source answered.
    Reached(bool),
    /// It has these transactions of its own, in the server's notation. Nothing was changed.
    Diverged(String),
    /// What had to be changed.
    Prepared {
        released: bool,
        noted: bool,
    },
    /// So many events were disabled; of those that were not, why.
    Rested {
        events: usize,
        failed: Vec<String>,
    },
    /// So many events were enabled; of those that were not, why; those of which nobody knows whether
    /// they should; whether the event scheduler does not run.
    Woken {
        events: usize,
        failed: Vec<String>,
        unknown: Vec<String>,
        idle: bool,
    },
}

/// Why a step was not done, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Completes "db2 could not ...: ".
    pub text: String,
    /// The time was up; it may have been done all the same.
    pub late: bool,
}

impl Step {
    /// Where it is done.
    #[must_use]
    pub fn server(&self) -> usize {
        match *self {
            Self::Ping { server }
            | Self::Reach { server }
            | Self::Freeze { server }
            | Self::Thaw { server }
            | Self::Settle { server, .. }
            | Self::Open { server, .. }
            | Self::Close { server, .. }
            | Self::Reopen { server }
            | Self::Fence { server }
            | Self::Rest { server }
            | Self::Wake { server }
            | Self::Join { server, .. }
            | Self::Prepare { server, .. } => server,
        }
    }

    /// It fails if it takes longer.
    #[must_use]
    pub fn limit(&self) -> Duration {
        match self {
            Self::Ping { .. } => Duration::from_millis(400),
            // A semi-synchronous replica takes a second to stop fetching from a source that hangs.
            Self::Reach { .. } => Duration::from_millis(1500),
            Self::Freeze { .. } | Self::Thaw { .. } | Self::Prepare { .. } => {
                Duration::from_secs(2)
            }
            Self::Settle { wait, .. } | Self::Close { wait, .. } => *wait + Duration::from_secs(2),
            Self::Open { .. } | Self::Reopen { .. } | Self::Fence { .. } => Duration::from_secs(2),
            Self::Rest { .. } => Duration::from_secs(2),
            Self::Wake { .. } => Duration::from_secs(10),
            Self::Join { .. } => Duration::from_secs(8),
        }
    }

    /// Completes "db2 could not ".
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::Ping { .. } => "answer",
            Self::Reach { .. } => "connect to its source anew",
            Self::Freeze { .. } => "stop fetching",
            Self::Thaw { .. } => "fetch again",
            Self::Settle { .. } => "apply all it has received and stop replicating",
            Self::Open { .. } => "be made writable",
            Self::Close { .. } | Self::Fence { .. } => "be made read-only",
            Self::Reopen { .. } => "be made writable again",
            Self::Rest { .. } => "disable its scheduled events",
            Self::Wake { .. } => "enable the scheduled events that the last primary ran",
            Self::Join { .. } => "be made a replica",
            Self::Prepare { .. } => "be prepared for a change of the primary",
        }
    }
}
