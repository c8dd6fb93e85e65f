//! One client's session: transaction, session state, pins, and where the next statement goes.
//! Pure: no sockets, no clock.
//!
//! The server's own word (status flags and session state in its OK packets) is the truth about
//! transactions, autocommit, schema and system variables; the statement's text is the truth only
//! about what servers don't report: locks, temporary tables, user variables.

mod decide;
mod state;
pub mod transcript;
mod variables;

pub use decide::{Decision, Refusal, Target, Why};
pub use state::{Level, Lost, Pin, Server, Session};
pub use transcript::{Digest, Spoilt, Transcript};
pub use variables::{Often, Restore, Variables};
