//! One file per command.

pub mod check;
pub mod completions;
pub mod director;
pub mod explain;
pub mod import;
pub mod proxy;
pub mod realserver;
pub mod sandbox;

use std::io::{self, IsTerminal};

use pointsman_config::Style;

/// How reports are drawn on stderr.
fn style() -> Style {
    let terminal = io::stderr().is_terminal();
    Style { colour: terminal && std::env::var_os("NO_COLOR").is_none(), ..Style::default() }
}
