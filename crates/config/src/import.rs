//! Other proxies' configurations as ours.

mod draft;
mod libconfig;
mod maxscale;
mod proxysql;

pub use maxscale::{is_maxscale, maxscale};
pub use proxysql::{is_proxysql, proxysql};
