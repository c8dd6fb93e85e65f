//! The database servers: roles, lag, GTID positions (pure), and the monitor that watches them.

pub mod gtid;
mod snapshot;

pub use snapshot::{AdminState, Greeting, Live, Role, Server, ServerId, Snapshot};
