//! Typed configuration of both daemons, with errors that say where and what to do.
//!
//! ```
//! let (config, warnings) = pointsman_config::proxy::ProxyConfig::parse("proxy.toml", r#"
//! [[listener]]
//! address = "0.0.0.0:3306"
//! [[server]]
//! name = "db1"
//! address = "192.168.4.11:3306"
//! [monitor]
//! user = "pointsman"
//! password = "secret"
//! "#)?;
//! assert_eq!(config.servers[0].name, "db1");
//! assert_eq!(warnings.len(), 1, "no replica");
//! # Ok::<(), pointsman_config::Report>(())
//! ```

pub mod import;
mod kind;
mod listing;
mod load;
mod mask;
mod nearest;
pub mod proxy;
pub mod read;
mod report;
pub mod rule;
mod secret;
pub mod tls;
pub mod units;

pub use kind::{Kind, kind};
pub use listing::listing;
pub use load::read_text;
pub use proxy::ProxyConfig;
pub use report::{Problem, Report, Style, Warning};
pub use secret::Secret;
