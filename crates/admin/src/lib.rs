//! Operating a daemon: one command table behind CLI, HTTP API and SQL console; metrics.
//!
//! A daemon implements [`Daemon`]; [`http::Http`] and [`console::Console`] serve it; [`cli`] is the
//! other end of the wire. What can be asked and done stands once, in [`command::COMMANDS`].

pub mod cli;
pub mod command;
pub mod console;
mod daemon;
mod error;
pub mod http;
pub mod rows;
mod table;

pub use daemon::{Action, BoxFuture, Daemon, Query, Status, View};
pub use error::{AdminError, Code};
pub use table::{Cell, Column, ColumnType, Table};
