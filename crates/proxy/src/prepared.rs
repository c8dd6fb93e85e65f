//! Binary prepared statements: prepared once for the client, executed on any server.

use std::collections::HashMap;
use std::sync::Arc;

use pointsman_cluster::ServerId;
use pointsman_wire::{BoundTypes, HEADER};

use crate::worker::Statement;

/// One statement as the client knows it.
pub struct PreparedStatement {
    /// The whole COM_STMT_PREPARE payload, to prepare it on further servers.
    pub command: Box<[u8]>,
    pub statement: Arc<Statement>,
    pub params: u16,
    /// Types of its parameters as last sent.
    pub types: Option<BoundTypes>,
    /// Where its cursor is open, for COM_STMT_FETCH.
    pub cursor_at: Option<ServerId>,
    /// COM_STMT_SEND_LONG_DATA packets since the last execution, to go before the next.
    pub long_data: LongData,
    /// Default schema and `sql_mode` under which its text was read.
    pub context: Context,
}

/// Packets kept for the next execution, which may happen on any server.
#[derive(Default, Clone)]
pub struct LongData {
    pub packets: Vec<u8>,
    /// Where in `packets` each command begins.
    commands: Vec<usize>,
    /// More came than is kept: the execution must be refused.
    pub too_long: bool,
}

impl LongData {
    /// A new command begins with what comes next.
    pub fn begin(&mut self) {
        self.commands.push(self.packets.len());
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if self.packets.len() + bytes.len() > MOST_LONG_DATA {
            self.too_long = true;
            self.packets = Vec::new();
            self.commands = Vec::new();
        }
        if !self.too_long {
            self.packets.extend_from_slice(bytes);
        }
    }

    /// The packets for a server that knows the statement as `id`.
    pub fn for_server(&self, id: u32) -> Vec<u8> {
        let mut packets = self.packets.clone();
        for at in &self.commands {
            if let Some(place) = packets.get_mut(at + HEADER + 1..at + HEADER + 5) {
                place.copy_from_slice(&id.to_le_bytes());
            }
        }
        packets
    }
}

/// What decides how a statement's text is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    pub schema: Option<Box<[u8]>>,
    /// `None`: the server's default.
    pub sql_mode: Option<Box<[u8]>>,
}

impl Context {
    pub fn of(variables: &pointsman_session::Variables) -> Self {
        Self {
            schema: variables.schema().map(Into::into),
            sql_mode: variables.get(b"sql_mode").map(Into::into),
        }
    }
}

/// Most long data kept for one execution, in bytes.
pub const MOST_LONG_DATA: usize = 64 << 20;

/// The client's prepared statements.
#[derive(Default)]
pub struct Prepared {
    newest: u32,
    /// The one that id -1 means: the last prepared, if that succeeded and it is still there.
    last: Option<u32>,
    statements: HashMap<u32, PreparedStatement>,
    /// Closed by the client, but executed in the transaction that is open, which may have to be
    /// repeated.
    // In a box: few sessions have any, and all would have the room.
    #[allow(clippy::box_collection)]
    closed: Option<Box<HashMap<u32, PreparedStatement>>>,
}

/// MariaDB: "the statement prepared last", so that a client need not wait for its id.
const NEWEST: u32 = u32::MAX;

impl Prepared {
    /// A statement is about to be prepared: until that has succeeded, id -1 means none.
    pub fn begin(&mut self) {
        self.last = None;
    }

    /// Adds a statement; gives the id to tell the client.
    pub fn insert(&mut self, statement: PreparedStatement) -> u32 {
        loop {
            self.newest = self.newest.wrapping_add(1);
            if self.newest != 0 && self.newest != NEWEST && self.kept(self.newest).is_none() {
                break;
            }
        }
        self.statements.insert(self.newest, statement);
        self.last = Some(self.newest);
        self.newest
    }

    /// The id the client means.
    #[must_use]
    pub fn resolve(&self, id: u32) -> u32 {
        if id == NEWEST { self.last.unwrap_or(NEWEST) } else { id }
    }

    pub fn get(&self, id: u32) -> Option<&PreparedStatement> {
        self.statements.get(&id)
    }

    pub fn get_mut(&mut self, id: u32) -> Option<&mut PreparedStatement> {
        self.statements.get_mut(&id)
    }

    /// The client has closed it. `keep`: a repetition may need it.
    pub fn close(&mut self, id: u32, keep: bool) {
        let statement = self.statements.remove(&id);
        if let Some(statement) = statement.filter(|_| keep) {
            self.closed.get_or_insert_default().insert(id, statement);
        }
        self.last = self.last.filter(|last| *last != id);
    }

    /// One that the client has, or had when it executed it.
    pub fn kept(&self, id: u32) -> Option<&PreparedStatement> {
        self.statements.get(&id).or_else(|| self.closed.as_ref()?.get(&id))
    }

    /// Whether a cursor is open on some server.
    pub fn has_cursor(&self) -> bool {
        self.statements.values().any(|s| s.cursor_at.is_some())
    }

    /// The transaction is over.
    pub fn forget_closed(&mut self) {
        self.closed = None;
    }
}
