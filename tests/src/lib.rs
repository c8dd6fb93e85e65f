//! What the end-to-end tests share: a site with real servers and the real binary before them, real
//! clients, and a witness that sees every write that lands on a replica.

#![allow(clippy::missing_panics_doc, clippy::missing_errors_doc, clippy::unwrap_used)]

mod binary;
pub mod checker;
mod clients;
pub mod compare;
mod disk;
pub mod freshness;
mod http;
pub mod instructions;
pub mod machine;
mod oracle;
mod pki;
mod proxy;
mod raw;
pub mod reference;
mod site;
pub mod suites;
pub mod times;

pub use binary::pointsman;
pub use clients::{Load, Output, connect, php_script};
pub use disk::SmallDisk;
pub use http::{http, http_get};
pub use oracle::Oracle;
pub use pki::{Pem, Pki};
pub use proxy::Proxy;
pub use raw::{Raw, ServerError, caps, lenenc_row};
pub use site::{Setup, Site};

pub use pointsman_sandbox::{APP_PASSWORD, APP_USER, Node, free_port, wait_until};

use std::time::Duration;

/// Longer than anything may take on a busy machine.
pub const LONG: Duration = Duration::from_secs(30);
