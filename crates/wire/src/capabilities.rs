//! Capability flags ("Capabilities Flags"); the upper 32 bits are MariaDB's own
//! (MariaDB "Connecting", extended capabilities).

use bitflags::bitflags;

bitflags! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Capabilities: u64 {
        /// MySQL: CLIENT_LONG_PASSWORD. MariaDB uses the bit the other way round: a server that
        /// leaves it out has extended capabilities.
        const LONG_PASSWORD = 1 << 0;
        const FOUND_ROWS = 1 << 1;
        const LONG_FLAG = 1 << 2;
        const CONNECT_WITH_DB = 1 << 3;
        const NO_SCHEMA = 1 << 4;
        const COMPRESS = 1 << 5;
        const ODBC = 1 << 6;
        const LOCAL_FILES = 1 << 7;
        const IGNORE_SPACE = 1 << 8;
        const PROTOCOL_41 = 1 << 9;
        const INTERACTIVE = 1 << 10;
        const SSL = 1 << 11;
        const IGNORE_SIGPIPE = 1 << 12;
        const TRANSACTIONS = 1 << 13;
        const RESERVED = 1 << 14;
        const SECURE_CONNECTION = 1 << 15;
        const MULTI_STATEMENTS = 1 << 16;
        const MULTI_RESULTS = 1 << 17;
        const PS_MULTI_RESULTS = 1 << 18;
        const PLUGIN_AUTH = 1 << 19;
        const CONNECT_ATTRS = 1 << 20;
        const PLUGIN_AUTH_LENENC_DATA = 1 << 21;
        const CAN_HANDLE_EXPIRED_PASSWORDS = 1 << 22;
        const SESSION_TRACK = 1 << 23;
        const DEPRECATE_EOF = 1 << 24;
        const OPTIONAL_RESULTSET_METADATA = 1 << 25;
        const ZSTD_COMPRESSION = 1 << 26;
        const QUERY_ATTRIBUTES = 1 << 27;
        const MULTI_FACTOR_AUTHENTICATION = 1 << 28;
        const SSL_VERIFY_SERVER_CERT = 1 << 30;
        const REMEMBER_OPTIONS = 1 << 31;
        const MARIADB_PROGRESS = 1 << 32;
        const MARIADB_STMT_BULK_OPERATIONS = 1 << 34;
        const MARIADB_EXTENDED_METADATA = 1 << 35;
        const MARIADB_CACHE_METADATA = 1 << 36;
        const _ = !0;
    }
}

impl Capabilities {
    /// What Pointsman offers to clients, as far as the servers behind it have it too.
    ///
    /// Not MARIADB_CACHE_METADATA: with it a server leaves out the definitions of a prepared
    /// statement's columns where they are what it said itself when the statement was prepared or last
    /// executed. The client may have them from another server, from before the table was altered.
    pub const OFFERED: Self = Self::LONG_PASSWORD
        .union(Self::FOUND_ROWS)
        .union(Self::LONG_FLAG)
        .union(Self::CONNECT_WITH_DB)
        .union(Self::NO_SCHEMA)
        .union(Self::ODBC)
        .union(Self::LOCAL_FILES)
        .union(Self::IGNORE_SPACE)
        .union(Self::PROTOCOL_41)
        .union(Self::INTERACTIVE)
        .union(Self::IGNORE_SIGPIPE)
        .union(Self::TRANSACTIONS)
        .union(Self::RESERVED)
        .union(Self::SECURE_CONNECTION)
        .union(Self::MULTI_STATEMENTS)
        .union(Self::MULTI_RESULTS)
        .union(Self::PS_MULTI_RESULTS)
        .union(Self::PLUGIN_AUTH)
        .union(Self::CONNECT_ATTRS)
        .union(Self::PLUGIN_AUTH_LENENC_DATA)
        .union(Self::CAN_HANDLE_EXPIRED_PASSWORDS)
        .union(Self::SESSION_TRACK)
        .union(Self::DEPRECATE_EOF)
        .union(Self::OPTIONAL_RESULTSET_METADATA)
        .union(Self::QUERY_ATTRIBUTES)
        .union(Self::MARIADB_PROGRESS)
        .union(Self::MARIADB_STMT_BULK_OPERATIONS)
        .union(Self::MARIADB_EXTENDED_METADATA);
}
