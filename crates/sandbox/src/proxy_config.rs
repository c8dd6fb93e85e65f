//! A `proxy.toml` for a sandbox.

use std::fmt::Write as _;

use crate::{MONITOR_PASSWORD, MONITOR_USER, Node};

/// The text of a `proxy.toml` with these servers, one listener, an admin address (ports on
/// 127.0.0.1) and no SQL console. `more` is put in between and may start with top-level keys; it
/// must not repeat the tables written here.
#[must_use]
pub fn proxy_config(nodes: &[Node], listener_port: u16, admin_port: u16, more: &str) -> String {
    let mut text = format!(
        "{more}\n\
         [[listener]]\n\
         address = \"127.0.0.1:{listener_port}\"\n\
         \n\
         [monitor]\n\
         user = \"{MONITOR_USER}\"\n\
         password = \"{MONITOR_PASSWORD}\"\n\
         \n\
         [admin]\n\
         address = \"127.0.0.1:{admin_port}\"\n\
         \n\
         [console]\n\
         address = \"\"\n"
    );
    for node in nodes {
        let _ = write!(
            text,
            "\n[[server]]\nname = \"{}\"\naddress = \"{}\"\n",
            node.name(),
            node.address()
        );
    }
    text
}
