//! MySQL/MariaDB client-server protocol: framing, handshake, authentication, result tracking. Pure:
//! no sockets, no clock.
//!
//! Nothing here copies or decodes a row. [`Tracker`] looks at packet headers in the buffer they
//! arrived in and says which bytes may be passed on; only OK, EOF and ERR packets are looked into.
//!
//! Sources: MySQL "Client/Server Protocol" (dev.mysql.com, Protocol Basics, Connection Phase, Command
//! Phase) and MariaDB "Client/Server Protocol" (mariadb.com/kb). Section names are given where used.

pub mod attributes;
pub mod auth;
pub mod binlog;
mod bytes;
mod capabilities;
mod command;
pub mod compressed;
mod execute;
pub mod handshake;
mod packet;
pub mod proxy_protocol;
mod reply;
mod result;
mod track;

pub use bytes::{Reader, put_lenenc, put_lenenc_bytes};
pub use capabilities::Capabilities;
pub use command::{Command, Expect};
pub use execute::{BoundTypes, Layout, with_types};
pub use packet::{HEADER, Header, MAX_PAYLOAD, write_packet};
pub use reply::{
    ErrPacket, OkPacket, StateChange, StateChanges, Status, err_packet, ok_packet, ok_payload,
    retain_state,
};
pub use result::{ColumnKind, text_result, text_row};
pub use track::{Control, Step, Tracker};

/// The peer sent something that is not the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed packet: {}", self.0)
    }
}

impl std::error::Error for Malformed {}
