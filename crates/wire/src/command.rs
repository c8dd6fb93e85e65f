//! Commands ("Command Phase", "Text Protocol", "Prepared Statements") and what answers them.

/// The first byte of a command's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    Quit,
    InitDb,
    Query,
    FieldList,
    CreateDb,
    DropDb,
    Refresh,
    Shutdown,
    Statistics,
    ProcessInfo,
    ProcessKill,
    Debug,
    Ping,
    ChangeUser,
    BinlogDump,
    RegisterReplica,
    StmtPrepare,
    StmtExecute,
    StmtSendLongData,
    StmtClose,
    StmtReset,
    SetOption,
    StmtFetch,
    BinlogDumpGtid,
    ResetConnection,
    /// MariaDB COM_STMT_BULK_EXECUTE.
    StmtBulkExecute,
    /// Not one that may be sent to a server by a client.
    Unknown(u8),
}

/// How the server answers a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// OK, ERR, result sets, or a request for a local file.
    Results,
    /// As [`Expect::Results`], or column definitions alone where a cursor was opened.
    Executed,
    /// OK or ERR (or EOF, for COM_SET_OPTION and COM_DEBUG).
    Ok,
    /// COM_STMT_PREPARE_OK with definitions, or ERR.
    Prepare,
    /// Column definitions up to EOF, or ERR.
    Fields,
    /// Rows up to EOF, or ERR.
    Rows,
    /// One packet of text.
    Text,
    /// Nothing at all.
    Nothing,
}

impl Command {
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0x01 => Self::Quit,
            0x02 => Self::InitDb,
            0x03 => Self::Query,
            0x04 => Self::FieldList,
            0x05 => Self::CreateDb,
            0x06 => Self::DropDb,
            0x07 => Self::Refresh,
            0x08 => Self::Shutdown,
            0x09 => Self::Statistics,
            0x0a => Self::ProcessInfo,
            0x0c => Self::ProcessKill,
            0x0d => Self::Debug,
            0x0e => Self::Ping,
            0x11 => Self::ChangeUser,
            0x12 => Self::BinlogDump,
            0x15 => Self::RegisterReplica,
            0x16 => Self::StmtPrepare,
            0x17 => Self::StmtExecute,
            0x18 => Self::StmtSendLongData,
            0x19 => Self::StmtClose,
            0x1a => Self::StmtReset,
            0x1b => Self::SetOption,
            0x1c => Self::StmtFetch,
            0x1e => Self::BinlogDumpGtid,
            0x1f => Self::ResetConnection,
            0xfa => Self::StmtBulkExecute,
            other => Self::Unknown(other),
        }
    }

    #[must_use]
    pub fn expect(self) -> Expect {
        match self {
            Self::Query | Self::StmtBulkExecute | Self::ProcessInfo => Expect::Results,
            Self::StmtExecute => Expect::Executed,
            Self::StmtPrepare => Expect::Prepare,
            Self::FieldList => Expect::Fields,
            Self::StmtFetch => Expect::Rows,
            Self::Statistics => Expect::Text,
            Self::Quit | Self::StmtSendLongData | Self::StmtClose => Expect::Nothing,
            _ => Expect::Ok,
        }
    }
}
