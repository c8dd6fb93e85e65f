//! VRRP versions 2 and 3: packets and state machine. Pure: no sockets, no clock.
//!
//! The virtual router is driven from outside, as in quinn-proto: feed it what happened
//! ([`Router::handle_advert`], [`Router::handle_timeout`], [`Router::handle_interface`], ...), then
//! drain [`Router::poll_action`] and come back at [`Router::poll_timeout`]. Time is a [`Time`]
//! since any fixed moment; the same inputs always give the same actions, so a run can be written
//! down and replayed.
//!
//! [`Node`] runs all virtual routers of one machine together and keeps sync groups in step.
//!
//! Sources: RFC 2338 and 3768 (version 2, PASS authentication), RFC 5798 and 9568 (version 3).
//! "Active" is RFC 9568's word for what older texts call master.

mod checksum;
mod counters;
mod error;
mod group;
mod machine;
mod packet;

pub use checksum::ChecksumForm;
pub use counters::Counters;
pub use error::{ConfigError, DropReason, ParseError};
pub use group::{Node, RouterId};
pub use machine::{Action, AnnounceConfig, Fault, Reason, Received, Router, RouterConfig, State};
pub use packet::{Advert, Auth, MULTICAST_V4, MULTICAST_V6, Outgoing, PROTOCOL, Version};

/// Time since a fixed moment of the caller's choosing, from a clock that also counts suspension
/// (`CLOCK_BOOTTIME`). A clock that jumps back is tolerated: timers keep the time they had left.
pub type Time = std::time::Duration;

/// The priority of the router that owns the addresses (RFC 9568 section 5.2.4).
pub const PRIORITY_OWNER: u8 = 255;
/// The priority that says: I stop being active, take over now.
pub const PRIORITY_STOP: u8 = 0;
