//! Other proxies' configurations as ours.

mod maxscale;

pub use maxscale::{is_maxscale, maxscale};
