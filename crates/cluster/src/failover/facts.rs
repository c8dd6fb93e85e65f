//! What is known of the servers, as far as changing the primary is concerned. Plain data.

use std::sync::Arc;

use crate::gtid::Position;
use crate::snapshot::AdminState;

/// All servers at one moment.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The primary now or, while there is none, the last one.
    pub primary: Option<usize>,
    /// It is the primary right now, be it in maintenance or held back.
    pub reigns: bool,
    /// There never was one: this server, which is read-only, is it by rights.
    pub rightful: Option<usize>,
    /// Its newest transactions have no GTIDs, or may have none: who has them can't be told.
    pub anonymous: bool,
    /// As configured; an index here is a [`crate::ServerId`].
    pub servers: Vec<Fact>,
}

/// One server.
#[derive(Debug, Clone)]
pub struct Fact {
    pub name: Arc<str>,
    pub admin: AdminState,
    pub weight: u32,
    /// Whether the config lets it be the primary.
    pub promote: bool,
    pub state: State,
    pub read_only: bool,
    /// Writes have waited for space on its disk for as long as it may take to answer.
    pub disk_full: bool,
    /// Counts the monitor's connections to it: after a restart it is another.
    pub connection: u64,
    /// All transactions it is known to have applied.
    pub standing: Position,
    /// These, and those it has fetched.
    pub received: Position,
    /// It was a primary, or might be taken for one, and is to be none.
    pub kept_out: bool,
    /// It was being given another server's data, and has not got all.
    pub half_rebuilt: bool,
    /// Its position does not tell what it has: why, after its name.
    pub distrusted: Option<&'static str>,
    /// As the primary it could be followed by GTID: MySQL lets nobody do so unless `gtid_mode = ON`.
    pub gtids: bool,
    /// How it follows the primary, or the last one.
    pub link: Link,
    /// It replicates from nobody.
    pub alone: bool,
    /// It replicates from some other server of the config, which does not lead to the primary.
    pub astray: bool,
}

/// Whether a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Up,
    /// Nobody listens at its address.
    Refused,
    /// Asked in vain for the whole of the timeout.
    Silent,
    /// Not asked yet, or for less than the timeout.
    Unknown,
}

/// How a server replicates from the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Not at all, or over another server.
    None,
    /// It fetches what the primary commits.
    Connected,
    /// It tries to reach the primary.
    Connecting,
    /// It was told to stop fetching or applying.
    Stopped,
    /// It can't go on; [`crate::Server::why`] has the error.
    Broken,
    /// It has several sources.
    Several,
}

impl Facts {
    /// "db2".
    #[must_use]
    pub fn name(&self, i: usize) -> &str {
        self.servers.get(i).map_or("?", |fact| &fact.name)
    }

    /// The server called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.servers.iter().position(|fact| &*fact.name == name)
    }
}
