//! What proxies say to servers of their agreement, and hear. Plain data.

use std::time::Instant;

/// Who has a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Holder {
    #[default]
    Nobody,
    Me,
    Other,
}

/// What one server says of its locks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ballot {
    /// Counts the sessions; in another one all locks are new.
    pub session: u64,
    pub lead: Holder,
    pub change: Holder,
    pub switch: Holder,
    /// Whether this proxy is registered as a member, and as one that has stopped.
    pub member: bool,
    pub cut: bool,
    /// Somebody wants to lead instead of one that has reason to give way.
    pub want: Holder,
    /// The `@@server_id` that the proxy which has `lead` takes for the primary, if that is another one
    /// and has said so.
    pub names: Option<u32>,
    /// Other members, and how many of them have stopped.
    pub others: u8,
    pub others_cut: u8,
    /// Which session has `lead`, if another proxy's.
    pub leads: u64,
    /// Where the leader is, if another proxy: the host it connected from.
    pub leader: Option<String>,
}

/// What came of asking a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    Answer(Ballot),
    /// Nobody listens there.
    Refused,
    /// The session is gone.
    Lost,
}

/// Which locks to hold at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    pub lead: bool,
    pub change: bool,
    pub switch: bool,
    pub member: bool,
    pub cut: bool,
    pub want: bool,
    /// To be named as the primary if it leads.
    pub names: bool,
    /// The primary's `@@server_id`; 0 if none is known.
    pub primary: u32,
}

/// What the leader is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plan {
    #[default]
    Nothing,
    /// The primary is lost.
    Replace,
    /// In good order.
    Switch,
}

/// What this proxy may do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// It leads: only it changes servers.
    pub leads: bool,
    /// No other proxy writes to the old primary.
    pub cleared: bool,
    /// Another proxy is changing the primary.
    pub changing: bool,
    /// Another proxy changes it in good order: nothing new is begun.
    pub switching: bool,
    /// Until when it may write; the error says why it may not.
    pub writes: Result<Instant, String>,
    /// The leading proxy, if another one.
    pub leader: Option<String>,
    /// The `@@server_id` that the leading proxy, if another one, takes for the primary.
    pub names: Option<u32>,
    /// Other proxies at these servers.
    pub others: u8,
}
