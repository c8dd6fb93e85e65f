//! What a statement does: class, tables, session effects, and why. Pure: no sockets, no clock.
//!
//! Two readers must agree that a statement is a read, or it goes to the primary: a byte lexer that
//! knows what MySQL and MariaDB would execute (statements are bytes, not UTF-8), and `sqlparser`.

mod cache;
mod verdict;

pub use cache::{Cache, Entry};
pub use verdict::{Class, Effects, Reason, Route, Table, Tables, Verdict};

/// Which server family will run the statement. Versions are `major * 10000 + minor * 100 + patch`,
/// as in executable comments: MariaDB 10.11.6 is 101106.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    MariaDb { version: u32 },
    MySql { version: u32 },
}

/// What changes how a statement's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dialect {
    pub flavour: Flavour,
    /// `sql_mode` has `ANSI_QUOTES`: `"x"` is an identifier.
    pub ansi_quotes: bool,
    /// `sql_mode` has `NO_BACKSLASH_ESCAPES`: `\` in a string is an ordinary byte.
    pub no_backslash_escapes: bool,
}

/// Classifies one statement (or several, separated by `;`) without a cache.
#[must_use]
pub fn classify(_sql: &[u8], _dialect: &Dialect) -> Verdict {
    Verdict::primary(Class::Write, Reason::Unknown)
}
