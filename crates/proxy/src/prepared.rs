//! Binary prepared statements: prepared once for the client, executed on any server.

use std::collections::HashMap;
use std::sync::Arc;

use pointsman_cluster::ServerId;
use pointsman_wire::BoundTypes;

use crate::worker::Statement;

/// One statement as the client knows it.
pub struct PreparedStatement {
    /// The whole COM_STMT_PREPARE payload, to prepare it on further servers.
    pub command: Box<[u8]>,
    pub statement: Arc<Statement>,
    pub params: u16,
    /// Types of its parameters as last sent.
    pub types: Option<BoundTypes>,
    /// Where its cursor or its long data is.
    pub held_by: Option<ServerId>,
}

/// The client's prepared statements.
#[derive(Default)]
pub struct Prepared {
    newest: u32,
    statements: HashMap<u32, PreparedStatement>,
}

/// MariaDB: "the statement prepared last", so that a client need not wait for its id.
const NEWEST: u32 = u32::MAX;

impl Prepared {
    /// Adds a statement; gives the id to tell the client.
    pub fn insert(&mut self, statement: PreparedStatement) -> u32 {
        loop {
            self.newest = self.newest.wrapping_add(1);
            if self.newest != 0
                && self.newest != NEWEST
                && !self.statements.contains_key(&self.newest)
            {
                break;
            }
        }
        self.statements.insert(self.newest, statement);
        self.newest
    }

    /// The id the client means.
    #[must_use]
    pub fn resolve(&self, id: u32) -> u32 {
        if id == NEWEST { self.newest } else { id }
    }

    pub fn get(&self, id: u32) -> Option<&PreparedStatement> {
        self.statements.get(&id)
    }

    pub fn get_mut(&mut self, id: u32) -> Option<&mut PreparedStatement> {
        self.statements.get_mut(&id)
    }

    pub fn remove(&mut self, id: u32) {
        self.statements.remove(&id);
    }
}
