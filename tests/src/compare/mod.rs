//! The same story told twice: on a direct connection to the primary, and through the proxy with the
//! replica writable. Whatever a client can see must be alike.
//!
//! The stories stand in `tests/compare/*.case`; how to write them in `tests/compare/README.md`.

mod actor;
pub mod case;
mod render;
mod run;

pub use case::{Allowed, Case, load};
pub use run::{Comparison, Difference, Report, Variant};

use std::path::{Path, PathBuf};

/// `tests/compare`.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compare")
}
