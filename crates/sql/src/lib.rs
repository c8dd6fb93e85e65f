//! What a statement does: class, tables, session effects, and why. Pure: no sockets, no clock.
//!
//! Two readers must agree that a statement is a read, or it goes to the primary: a byte lexer that
//! knows what MySQL and MariaDB would execute (statements are bytes, not UTF-8), and `sqlparser`.

mod bare;
mod cache;
mod facts;
#[doc(hidden)]
pub mod functions;
mod hint;
mod insert;
mod judge;
mod keyword;
mod kill;
pub mod lexer;
mod normal;
mod parse;
mod rewrite;
mod session;
mod show;
mod verdict;

pub use bare::{Scoped, scope_assignments};
pub use cache::{Cache, Entry};
pub use hint::Hint;
pub use insert::{Insert, plain_insert};
pub use kill::{Kill, KillTarget, kill};
pub use rewrite::rewrite_connection_id;
pub use verdict::{Class, Effects, Reason, Route, Table, Tables, Verdict};

/// Which server family will run the statement. Versions are `major * 10000 + minor * 100 + patch`,
/// as in executable comments: MariaDB 10.11.6 is 101106.
///
/// Executable comments for later versions are skipped, and functions of later versions aren't
/// known: where servers differ in version, the highest decides what is code, so give that one.
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
    /// The client's character set has characters whose second byte may be a backslash or a
    /// backtick: `gbk`, `big5`, `sjis`, `cp932`, `gb18030`. Statements in which that may matter go
    /// to the primary.
    pub multibyte_trap: bool,
}

impl Dialect {
    /// The dialect of a session with the default `sql_mode` and an ordinary character set.
    #[must_use]
    pub const fn new(flavour: Flavour) -> Self {
        Self { flavour, ansi_quotes: false, no_backslash_escapes: false, multibyte_trap: false }
    }
}

/// Classifies one statement (or several, separated by `;`) without a cache.
#[must_use]
pub fn classify(sql: &[u8], dialect: &Dialect) -> Verdict {
    let mut toks = Vec::new();
    let scan = normal::scan(sql, dialect, &mut toks);
    judge::judge(&toks, &scan, dialect)
}
