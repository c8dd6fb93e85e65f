//! Changing the primary: deciding (pure) and doing.
//!
//! [`Machine`] decides. It is given [`Facts`], what became of its steps, requests of operators and
//! the time, and asks for [`Effect`]s; it has no clock and no sockets, so that a simulation can drive
//! every ordering. `act` carries out a single [`Step`] on a server, `driver` ties the two together.
//!
//! # A failover
//!
//! | step | goes on if |
//! | --- | --- |
//! | the primary is dead: its port refuses and no replica is connected to it; or it was silent for the monitor's timeout, answers no new connection, and no replica can reconnect to it | |
//! | every replica stops fetching (`Freeze`) | what each has received is now final |
//! | the one with the most is chosen | it lacks nothing that another reachable one has |
//! | it applies all it received and stops replicating (`Settle`) | it has it all |
//! | the old primary is kept out; the new one is made writable (`Open`) | |
//! | the others, and the old one when it comes back with nothing of its own, are pointed at the new one (`Join`) | |
//!
//! Up to `Open` the old primary may come back: then all is undone. After it, it may not.
//!
//! # A switchover
//!
//! New writes are held back ([`Effect::Hold`]), open transactions may end, the old primary is made
//! read-only and says where it stands (`Close`), the new one gets there (`Settle`) and is opened, the
//! old one joins it. Whatever fails before `Open` is undone.

mod act;
mod candidates;
mod course;
mod driver;
mod events;
mod facts;
mod grants;
mod group;
mod lead;
mod machine;
mod prepare;
mod reach;
mod rebuild;
mod requests;
mod semi_sync;
mod settings;
mod sql;
mod status;
mod step;
mod tend;
#[cfg(test)]
mod tests;
mod verdict;

pub(crate) use driver::{Driver, Request, account, run};
pub(crate) use events::watch::run as watch_events;
pub use facts::{Fact, Facts, Link, State};
pub use lead::Lead;
pub use machine::{Effect, Machine};
pub use settings::Settings;
pub use step::{Failure, Outcome, Step, StepId};
