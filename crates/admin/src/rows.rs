//! The rows of the standard lists. Their names are the API: keys in JSON, columns in SQL, headings
//! for people. Durations are in milliseconds there and carry `_ms`.

use std::time::Duration;

use crate::table::CellType;
use crate::{Cell, Column, Table};

macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident $column:literal: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $name {
            /// The columns, in order.
            pub const COLUMNS: &'static [Column] = &[
                $(Column { name: $column, kind: <$type as CellType>::KIND },)*
            ];
        }

        impl From<$name> for Vec<Cell> {
            fn from(row: $name) -> Self { vec![$(row.$field.into(),)*] }
        }

        impl FromIterator<$name> for Table {
            fn from_iter<I: IntoIterator<Item = $name>>(rows: I) -> Self {
                Self {
                    columns: $name::COLUMNS.to_vec(),
                    rows: rows.into_iter().map(Into::into).collect(),
                }
            }
        }
    )*};
}

rows! {
    /// A database server, or a real server.
    ServerRow {
        name "name": String,
        /// `host:port`.
        address "address": String,
        /// `primary`, `replica`, `standalone`, `down`, `unknown`.
        role "role": String,
        /// `up`, `down`, `draining`, `maintenance`.
        state "state": String,
        /// Whether reads may go there now.
        reads "reads": bool,
        /// Behind the primary; `None`: unknown, or it is the primary.
        lag "lag_ms": Option<Duration>,
        /// Statements sent and not yet answered.
        running "running": u64,
        /// Open connections from here.
        connections "connections": u64,
        /// Statements ever answered.
        statements "statements": u64,
        /// `@@version`.
        version "version": Option<String>,
        /// `@@server_id`.
        server_id "server_id": Option<u64>,
        /// Why it is what it is, one sentence.
        why "why": String,
    }

    /// A client.
    SessionRow {
        /// `CONNECTION_ID()`.
        id "id": u64,
        user "user": String,
        /// `host:port` of the client.
        client "client": String,
        database "database": Option<String>,
        /// Servers it holds connections to, separated by spaces.
        servers "servers": String,
        /// `idle`, `running`, `waiting`, `login`, ...
        state "state": String,
        /// `None`: no transaction open; else `read_write` or `read_only`.
        transaction "transaction": Option<String>,
        /// The server it is bound to, if any.
        pin "pin": Option<String>,
        /// What binds it: `transaction`, `temporary_table`, `table_lock`, ...
        pin_reason "pin_reason": Option<String>,
        statements "statements": u64,
        /// Since its last statement ended.
        idle "idle_ms": Option<Duration>,
    }

    /// All statements with one fingerprint.
    StatementRow {
        /// 16 hex digits.
        fingerprint "fingerprint": String,
        /// `read`, `write`, `session`, `other`.
        class "class": String,
        /// Where such a statement may run: `any_replica`, `primary`, ...
        route "route": String,
        /// Why, as a code: `plain_read`, `locking_read`, ...
        reason "reason": String,
        count "count": u64,
        errors "errors": u64,
        total "total_ms": Duration,
        mean "mean_ms": Duration,
        p95 "p95_ms": Option<Duration>,
        max "max_ms": Duration,
        /// With its literals taken out.
        text "text": String,
    }

    /// One key of the configuration in force.
    ConfigRow {
        /// `routing.max_lag`, `server.db1.weight`.
        key "key": String,
        /// As the file would write it; `***` for a secret.
        value "value": String,
    }
}
