//! What Pointsman knows of one session.

use pointsman_sql::{Effects, Table, Tables, Verdict};
use pointsman_wire::{StateChange, Status};

use crate::Variables;

/// A server, as the rest of the program numbers them.
pub type Server = u16;

/// What a read may miss; see the config's `consistency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Eventual,
    Session,
    Causal,
    Strong,
}

/// Why a session's reads stay on the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    /// Between LOCK TABLES (or FTWRL, backup locks) and UNLOCK.
    TableLock,
    /// GET_LOCK(): what it protects may have been changed by others a moment ago.
    NamedLock,
    /// HANDLER ... OPEN.
    Handler,
    /// Stored code ran; it may have left temporary tables, locks or variables.
    HiddenCode,
    /// XA transaction between START and its end.
    Xa,
    /// A variable that stays on its server (`timestamp`, ...) was set.
    LocalVariable,
    /// SERIALIZABLE: reads take locks, or must not miss anything.
    Serializable,
    /// SET TRANSACTION: belongs to whatever transaction comes next, on the server that was told.
    NextTransaction,
    /// `sql_auto_is_null`: `WHERE id IS NULL` finds the row inserted last, on the primary only.
    AutoIsNull,
    /// COM_REGISTER_SLAVE: the server knows a replica by this connection.
    Replica,
}

impl Pin {
    pub const ALL: [Self; 10] = [
        Self::TableLock,
        Self::NamedLock,
        Self::Handler,
        Self::HiddenCode,
        Self::Xa,
        Self::LocalVariable,
        Self::Serializable,
        Self::NextTransaction,
        Self::AutoIsNull,
        Self::Replica,
    ];

    /// Stable short form for metrics and tables.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::TableLock => "table_lock",
            Self::NamedLock => "named_lock",
            Self::Handler => "handler",
            Self::HiddenCode => "stored_code",
            Self::Xa => "xa",
            Self::LocalVariable => "local_variable",
            Self::Serializable => "serializable",
            Self::NextTransaction => "next_transaction",
            Self::AutoIsNull => "auto_is_null",
            Self::Replica => "replica",
        }
    }
}

/// What went with a server connection that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nothing a new connection could not be given.
    Nothing,
    /// An open transaction.
    Transaction,
    /// State that lives on the server only: locks, temporary tables, user variables, ...
    State(&'static str),
}

/// One client's session.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) pins: u16,
    pub(crate) temporary: Vec<Table>,
    pub(crate) user_variables: bool,
    pub(crate) text_prepared: bool,
    pub(crate) transaction: Option<Server>,
    pub(crate) status: Status,
    pub(crate) last_used: Option<Server>,
    pub(crate) primary: Option<Server>,
    pub(crate) variables: Variables,
    /// As they were when the open transaction began, if they have changed since.
    begun_with: Option<Box<Variables>>,
    answers_gone: bool,
    /// The connection to the primary may know a `LAST_INSERT_ID()` that is not kept here.
    inserted: bool,
    /// `LAST_INSERT_ID()` as it was when the last connection to the primary was given up.
    insert_id: u64,
    /// What it is by the answers that the client got since; 0 if they do not tell.
    told_id: u64,
    /// The same before the open transaction.
    told_before: u64,
}

impl Session {
    /// `autocommit`: as the server greets with.
    #[must_use]
    pub fn new(autocommit: bool) -> Self {
        Self {
            pins: 0,
            temporary: Vec::new(),
            user_variables: false,
            text_prepared: false,
            transaction: None,
            status: if autocommit { Status::AUTOCOMMIT } else { Status::empty() },
            last_used: None,
            primary: None,
            variables: Variables::default(),
            begun_with: None,
            answers_gone: false,
            inserted: false,
            insert_id: 0,
            told_id: 0,
            told_before: 0,
        }
    }

    /// COM_RESET_CONNECTION: all gone but the schema.
    pub fn reset(&mut self, autocommit: bool) {
        let mut fresh = Self::new(autocommit);
        if let Some(schema) = self.variables.schema() {
            fresh.variables.set_schema(schema);
        }
        *self = fresh;
    }

    #[must_use]
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// A `SET NAMES` or `SET CHARACTER SET` succeeded.
    pub fn set_names(&mut self, sql: &[u8]) {
        self.keep_variables();
        self.variables.set_names(sql);
    }

    /// COM_REGISTER_SLAVE goes to this primary, where the session stays.
    pub fn register_replica(&mut self, primary: Server) {
        self.primary = Some(primary);
        self.pin(Pin::Replica);
    }

    /// COM_SET_OPTION succeeded.
    pub fn set_multi_statements(&mut self, on: bool) {
        self.keep_variables();
        self.variables.set_multi_statements(on);
    }

    /// COM_INIT_DB or a login with a schema succeeded.
    pub fn set_schema(&mut self, name: &[u8]) {
        self.keep_variables();
        self.variables.set_schema(name);
    }

    /// Status flags of the server's newest word; transaction flags cleared when none is open.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// The server an open transaction runs on.
    #[must_use]
    pub fn transaction(&self) -> Option<Server> {
        self.transaction
    }

    #[must_use]
    pub fn last_used(&self) -> Option<Server> {
        self.last_used
    }

    /// The pins that hold reads on the primary.
    pub fn pins(&self) -> impl Iterator<Item = Pin> {
        let pins = self.pins;
        Pin::ALL.into_iter().filter(move |p| pins & bit(*p) != 0)
    }

    pub(crate) fn pin(&mut self, pin: Pin) {
        self.pins |= bit(pin);
    }

    fn unpin(&mut self, pin: Pin) {
        self.pins &= !bit(pin);
    }

    /// A statement is on its way to `server`. What it may do to the session counts from here: the
    /// reply may be lost and the effect still be there.
    pub fn sent(&mut self, server: Server, primary: bool, verdict: &Verdict) {
        self.last_used = Some(server);
        self.answers_gone = false;
        if primary {
            self.primary = Some(server);
        }
        let effects = verdict.effects;
        if effects.is_empty() {
            return;
        }
        for (effect, pin) in [
            (Effects::LOCK, Pin::TableLock),
            (Effects::NAMED_LOCK, Pin::NamedLock),
            (Effects::HANDLER, Pin::Handler),
            (Effects::HIDDEN_CODE, Pin::HiddenCode),
            (Effects::XA, Pin::Xa),
            (Effects::SET_NEXT_TRANSACTION, Pin::NextTransaction),
            // A role, most of all: no other server would have it active.
            (Effects::SET_OTHER, Pin::LocalVariable),
        ] {
            if effects.contains(effect) {
                self.pin(pin);
            }
        }
        if effects.contains(Effects::UNLOCK) && !effects.contains(Effects::MULTI) {
            self.unpin(Pin::TableLock);
        }
        if !self.temporary.is_empty()
            && matches!(verdict.detail.as_deref(), Some("ALTER" | "RENAME"))
        {
            // A temporary table may have another name from here on.
            self.pin(Pin::HiddenCode);
        }
        self.user_variables |= effects.contains(Effects::USER_VAR);
        self.text_prepared |= effects.contains(Effects::TEXT_PREPARE);
        if effects.contains(Effects::CREATE_TEMPORARY) {
            match &verdict.tables {
                Tables::Known(tables) => {
                    for table in tables {
                        if !self.temporary.contains(table) {
                            self.temporary.push(table.clone());
                        }
                    }
                }
                Tables::Unknown => self.pin(Pin::HiddenCode),
            }
        }
    }

    /// The server's status flags, from an OK or EOF of its reply.
    pub fn replied(&mut self, server: Server, status: Status) {
        let was_open = self.transaction.is_some();
        // A reply from elsewhere says nothing about a transaction that is open here.
        if !status.contains(Status::IN_TRANSACTION)
            && self.transaction.is_some_and(|at| at != server)
        {
            let open = Status::IN_TRANSACTION | Status::IN_READ_ONLY_TRANSACTION;
            self.status = status | (self.status & open);
            return;
        }
        self.status = status;
        self.transaction = status.contains(Status::IN_TRANSACTION).then_some(server);
        if was_open != self.transaction.is_some() {
            self.begun_with = None;
            self.told_before = self.told_id;
            // What SET TRANSACTION said was for this one.
            self.unpin(Pin::NextTransaction);
            if was_open {
                self.unpin(Pin::Xa);
            }
        }
    }

    /// A state change the server reported while running this session's own statement.
    pub fn changed(&mut self, change: StateChange<'_>) {
        self.keep_variables();
        match change {
            StateChange::Variable { name, value } => {
                match name {
                    b"tx_isolation" | b"transaction_isolation" => {
                        if value.eq_ignore_ascii_case(b"SERIALIZABLE") {
                            self.pin(Pin::Serializable);
                        } else {
                            self.unpin(Pin::Serializable);
                        }
                    }
                    b"sql_auto_is_null" => {
                        if matches!(value, b"ON" | b"1") {
                            self.pin(Pin::AutoIsNull);
                        } else {
                            self.unpin(Pin::AutoIsNull);
                        }
                    }
                    b"timestamp" | b"rand_seed1" | b"rand_seed2" | b"pseudo_thread_id" => {
                        self.pin(Pin::LocalVariable);
                    }
                    _ => {}
                }
                self.variables.set(name, value);
            }
            StateChange::Schema(name) => self.variables.set_schema(name),
            _ => {}
        }
    }

    /// What the session has on the primary that no other server could be given, if anything.
    #[must_use]
    pub fn lives_on_primary(&self) -> Option<&'static str> {
        let held = [Pin::TableLock, Pin::NamedLock, Pin::Handler, Pin::Xa, Pin::Replica];
        if let Some(pin) = held.into_iter().find(|p| self.pins & bit(*p) != 0) {
            Some(pin.code())
        } else if !self.temporary.is_empty() {
            Some("temporary_table")
        } else if self.user_variables {
            Some("user_variable")
        } else if self.text_prepared {
            Some("text_prepare")
        } else if self.pins & (bit(Pin::HiddenCode) | bit(Pin::LocalVariable)) != 0 {
            Some("stored_code")
        } else {
            None
        }
    }

    /// A transaction is about to be repeated, from its beginning, on a server that is given
    /// [`Session::variables`] as they are after this call. Gives what they were before.
    #[must_use]
    pub fn rewind(&mut self) -> Variables {
        let present = self.variables.clone();
        if let Some(begun_with) = self.begun_with.take() {
            self.variables.rewind(*begun_with);
        }
        present
    }

    /// The repetition came to nothing: `present` is what [`Session::rewind`] gave.
    pub fn unwind(&mut self, present: Variables) {
        let begun_with = std::mem::replace(&mut self.variables, present);
        self.variables.rewind_version(&begun_with);
        self.begun_with = Some(Box::new(begun_with));
    }

    /// A statement committed the open transaction and began another.
    pub fn began_anew(&mut self) {
        self.begun_with = None;
        self.told_before = self.told_id;
    }

    fn keep_variables(&mut self) {
        if self.transaction.is_some() && self.begun_with.is_none() {
            self.begun_with = Some(Box::new(self.variables.clone()));
        }
    }

    /// The connection to `server` was given up, with nothing on it but the answers to questions about
    /// the last statement.
    pub fn yielded(&mut self, server: Server) {
        if self.last_used == Some(server) {
            self.last_used = None;
            self.answers_gone = true;
        }
    }

    /// The last statement was answered by nobody who could be asked about it.
    pub fn answered_elsewhere(&mut self) {
        self.last_used = None;
        self.answers_gone = true;
    }

    /// A statement ran on the primary that may have changed what `LAST_INSERT_ID()` is there. `told`:
    /// the id that its OK named, 0 if none; `None` if there is more to it than the OK says.
    pub fn note_insert(&mut self, told: Option<u64>) {
        self.inserted = true;
        match told {
            Some(0) => {}
            told => self.told_id = told.unwrap_or(0),
        }
        if self.transaction.is_none() {
            self.told_before = self.told_id;
        }
    }

    /// Whether answers have told the client what `LAST_INSERT_ID()` is.
    #[must_use]
    pub fn was_told_insert_id(&self) -> bool {
        self.told_id != 0
    }

    /// Whether `LAST_INSERT_ID()` must be asked for before the connection to `server` is given up:
    /// see [`Session::keep_insert_id`].
    #[must_use]
    pub fn may_know_insert_id(&self, server: Server) -> bool {
        self.inserted && self.primary == Some(server)
    }

    /// `LAST_INSERT_ID()` on the connection to the primary, which is given up.
    pub fn keep_insert_id(&mut self, id: u64) {
        self.inserted = false;
        self.insert_id = id;
        self.told_id = id;
        self.told_before = id;
    }

    /// What `LAST_INSERT_ID()` must be on a new connection to the primary; 0 if nothing was inserted.
    #[must_use]
    pub fn insert_id(&self) -> u64 {
        self.insert_id
    }

    /// Whether the session has something on its connection to `server` that can't be carried to
    /// another. (A transaction aside.)
    #[must_use]
    pub fn needs(&self, server: Server) -> bool {
        // There, the row inserted last is found once only.
        let auto_is_null = self.inserted && self.pins & bit(Pin::AutoIsNull) != 0;
        let state = auto_is_null || self.lives_on_primary().is_some();
        self.primary == Some(server) && state
    }

    /// Whether all that the session has on its servers is variables, which nobody else would feel.
    #[must_use]
    pub fn leaves_nothing(&self) -> bool {
        self.pins == 0
            && self.temporary.is_empty()
            && !self.user_variables
            && !self.text_prepared
            && self.transaction.is_none()
            && self.status.contains(Status::AUTOCOMMIT)
            // It would end the connection.
            && self.variables.often().wait_timeout.is_none()
    }

    /// Whether what the last statement left behind (warnings, FOUND_ROWS(), ...) went with a
    /// connection.
    #[must_use]
    pub fn answers_gone(&self) -> bool {
        self.answers_gone
    }

    /// The connection to `server` is gone.
    pub fn lost(&mut self, server: Server) -> Lost {
        if self.transaction == Some(server) {
            // What it inserted is gone, or will be inserted again.
            self.told_id = self.told_before;
        }
        let lost = if self.transaction == Some(server) {
            Lost::Transaction
        } else if self.primary == Some(server) {
            self.lives_on_primary().map_or(Lost::Nothing, Lost::State)
        } else {
            Lost::Nothing
        };
        if self.transaction == Some(server) {
            self.transaction = None;
            self.status -= Status::IN_TRANSACTION | Status::IN_READ_ONLY_TRANSACTION;
        }
        if self.last_used == Some(server) {
            self.last_used = None;
        }
        if self.may_know_insert_id(server) {
            // It went with the connection, and made void what was kept.
            self.insert_id = self.told_id;
            self.inserted = false;
        }
        lost
    }
}

pub(crate) fn bit(pin: Pin) -> u16 {
    1 << pin as u16
}
