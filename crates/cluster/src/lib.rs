//! The database servers: roles, lag, GTID positions (pure), and the monitor that watches them.

pub mod accounts;
pub mod failover;
pub mod gtid;
pub mod lag;
mod link;
pub mod member;
mod monitor;
pub mod probe;
pub mod quorum;
pub mod roles;
mod snapshot;
pub mod writes;

pub use accounts::changes::Changes;
pub use accounts::{Account, Accounts, TlsDemand};
pub use gtid::Position;
pub use monitor::{Cluster, NeedsRestart, UnknownServer};
pub use snapshot::{
    AdminState, Greeting, Live, Permit, Role, Server, ServerId, Snapshot, Succession,
};
pub use writes::{Astray, LastWrites, SchemaChange, TableKey, Touched};
