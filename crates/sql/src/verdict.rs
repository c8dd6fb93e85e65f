//! The answer to "what does this statement do?": see [`Verdict`].

use bitflags::bitflags;

use crate::Hint;

/// What kind of work a statement is; the `class` label of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Known to change nothing and to take no locks.
    Read,
    /// Changes data, takes locks, or isn't known not to.
    Write,
    /// Changes only this session: `SET`, `USE`, `BEGIN`, `COMMIT`, `PREPARE`, ...
    Session,
    /// Administration and the rest: `SHOW`, `KILL`, `FLUSH`, ...
    Other,
}

/// Where the text alone allows the statement to run. The session may narrow it, never widen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Any server that is fresh enough.
    AnyReplica,
    /// Any one server; its effect on the session is carried to the others
    /// (`SET NAMES`, `USE`, `SET sql_mode = '...'`: literal values only).
    AnySession,
    /// The server that ran this session's last statement (`SHOW WARNINGS`, `FOUND_ROWS()`).
    LastUsed,
    Primary,
    /// Pointsman answers or acts by itself (`KILL`).
    Proxy,
}

bitflags! {
    /// What the text says the statement does to its session. A hint only where the server reports
    /// the truth (transaction, autocommit, system variables, schema); the truth where it doesn't
    /// (locks, temporary tables, user variables).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Effects: u32 {
        /// `BEGIN`, `START TRANSACTION` (read-write).
        const BEGIN = 1 << 0;
        /// `START TRANSACTION READ ONLY` (with or without `WITH CONSISTENT SNAPSHOT`).
        const BEGIN_READ_ONLY = 1 << 1;
        /// `COMMIT` or `ROLLBACK` without `TO SAVEPOINT`.
        const END = 1 << 2;
        /// Assigns system variables of the session.
        const SET_SYSVAR = 1 << 3;
        /// Names `autocommit` on the left of an assignment.
        const SET_AUTOCOMMIT = 1 << 4;
        /// `SET TRANSACTION ...` without SESSION or GLOBAL: characteristics of the next one only.
        const SET_NEXT_TRANSACTION = 1 << 5;
        /// Reads or assigns a user variable (`@a`). They live on the primary.
        const USER_VAR = 1 << 6;
        /// Changes the default schema.
        const USE = 1 << 7;
        /// `LOCK TABLES`, `FLUSH TABLES WITH READ LOCK`; with [`Self::NAMED_LOCK`]: a backup's.
        const LOCK = 1 << 8;
        /// `UNLOCK TABLES`.
        const UNLOCK = 1 << 9;
        /// `GET_LOCK()`, and what only backups take; held until the session ends or releases it.
        const NAMED_LOCK = 1 << 10;
        /// Creates a temporary table or sequence; its name is in [`Verdict::tables`].
        const CREATE_TEMPORARY = 1 << 11;
        /// `HANDLER ... OPEN`.
        const HANDLER = 1 << 12;
        /// Runs code the text does not show: `CALL`, an unknown function, `EXECUTE`,
        /// `EXECUTE IMMEDIATE`: may leave anything behind in the session.
        const HIDDEN_CODE = 1 << 13;
        /// Text-protocol `PREPARE`, `EXECUTE`, `DEALLOCATE`: the statement's name lives on one server.
        const TEXT_PREPARE = 1 << 14;
        /// More than one statement.
        const MULTI = 1 << 15;
        /// Calls `CONNECTION_ID()`, which must answer what the client was told at login.
        const CONNECTION_ID = 1 << 16;
        /// `KILL ...`: see [`crate::kill`].
        const KILL = 1 << 17;
        /// `XA ...`.
        const XA = 1 << 18;
        /// `LOAD DATA LOCAL INFILE`: the server will ask the client for a file.
        const LOCAL_INFILE = 1 << 19;
        /// Schema change or account change (DDL): prepared metadata and accounts may be stale after.
        const DDL = 1 << 20;
        /// `SHOW PROCESSLIST` and `information_schema.processlist`.
        const PROCESSLIST = 1 << 21;
        /// `SHOW WARNINGS`, `ROW_COUNT()`, ...: asks about the statement before it.
        const DIAGNOSTICS = 1 << 22;
        /// `SET PASSWORD`, `SET GLOBAL`, `SET PERSIST`, `SET ROLE`, `SET DEFAULT ROLE`:
        /// a `SET` that is more than this session's variables.
        const SET_OTHER = 1 << 23;
        /// Changes global variables, accounts or privileges: connections made before it are not
        /// like those made after it.
        const SERVER_WIDE = 1 << 24;
        /// Assigns a variable as `@@x`, without a scope: MariaDB does not report that.
        const SET_BARE = 1 << 25;
        /// Reads or lists `session_track_...`, which Pointsman sets for itself.
        const TRACKING = 1 << 26;
    }
}

impl Effects {
    /// What commits the transaction that is open, or ends it, whatever it begins.
    pub const ENDS: Self = Self::DDL
        .union(Self::BEGIN)
        .union(Self::BEGIN_READ_ONLY)
        .union(Self::END)
        .union(Self::LOCK)
        .union(Self::UNLOCK)
        .union(Self::SET_AUTOCOMMIT)
        .union(Self::XA);
}

/// A table as written in the statement; names are kept as written, without quotes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    pub schema: Option<Box<str>>,
    pub name: Box<str>,
}

/// Which tables a statement touches.
///
/// As far as its text tells: a read's tables may be views, a write's triggers and foreign keys may
/// write others than those it names. Who promises more by table must know the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tables {
    /// Exactly these (possibly none: `SELECT 1`). Of a write: those it names as its target.
    Known(Box<[Table]>),
    /// Can't be told from the text; counts as all tables.
    Unknown,
}

/// Everything the text of a statement says about where it may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub class: Class,
    pub route: Route,
    /// Why, in a stable short form: `locking_read`, `unknown_function`, `plain_read`, ...
    pub reason: Reason,
    /// What the reason is about, where that helps a person: the function's name, the keyword.
    pub detail: Option<Box<str>>,
    pub effects: Effects,
    pub tables: Tables,
    /// What its comments ask for.
    pub hint: Option<Hint>,
}

macro_rules! reasons {
    ($($variant:ident $code:literal $text:literal,)*) => {
        /// Why a statement got its [`Route`]. `code()` is stable and a metric label; `text()` is a sentence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($variant,)* }
        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];
            #[must_use]
            pub fn code(self) -> &'static str { match self { $(Reason::$variant => $code,)* } }
            #[must_use]
            pub fn text(self) -> &'static str { match self { $(Reason::$variant => $text,)* } }
        }
    };
}

reasons! {
    PlainRead "plain_read" "reads tables, changes nothing, takes no locks",
    SessionState "session_state" "changes only this session; carried to whichever server runs the next statement",
    Empty "empty" "there is no statement in it",
    Diagnostics "diagnostics" "asks about the statement before it, so it goes where that one ran",
    WriteKeyword "write_keyword" "changes data or schema",
    Transaction "transaction" "begins or ends a transaction",
    ReadOnlyTransaction "read_only_transaction" "begins a read-only transaction, which may run whole on one replica",
    LockingRead "locking_read" "reads with row locks",
    SelectInto "select_into" "SELECT ... INTO writes a file or a variable",
    UserVariable "user_variable" "user variables live on the primary",
    PrimaryFunction "primary_function" "calls a function whose answer belongs to the primary",
    UnknownFunction "unknown_function" "calls a function that isn't known to be free of side effects",
    NamedLock "named_lock" "takes or asks for a named lock",
    TableLock "table_lock" "takes or releases table locks",
    PrimaryVariable "primary_variable" "reads a variable whose answer belongs to the primary",
    SetStatement "set_statement" "SET with more than literal session variables",
    MultiStatement "multi_statement" "one of several statements must run on the primary",
    TextPrepare "text_prepare" "named prepared statements live on the primary",
    Procedure "procedure" "runs stored code",
    Handler "handler" "HANDLER cursors live on one server",
    Administration "administration" "administers the server",
    ServerStatus "server_status" "shows the state of one server; that is the primary",
    Kill "kill" "Pointsman knows which server runs that connection",
    Unknown "unknown" "not known to be a read",
    TooLong "too_long" "longer than is looked at",
    Hint "hint" "asks for the primary in a comment",
    UnknownHint "unknown_hint" "has a hint in a comment that is not understood (known are primary and consistency=eventual, session, causal or strong)",
}

impl Verdict {
    /// A verdict that sends the statement to the primary.
    #[must_use]
    pub fn primary(class: Class, reason: Reason) -> Self {
        Self {
            class,
            route: Route::Primary,
            reason,
            detail: None,
            effects: Effects::empty(),
            tables: Tables::Unknown,
            hint: None,
        }
    }
}
