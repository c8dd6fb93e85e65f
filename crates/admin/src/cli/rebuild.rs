//! `rejoin --rebuild`: shows how far it is until it has ended.

use std::io::{self, IsTerminal as _, Write as _};
use std::thread::sleep;
use std::time::Duration;

use serde::Deserialize;

use super::client::Client;
use super::{Failure, print};
use crate::{AdminError, Code};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
struct Event {
    code: String,
    subject: String,
    text: String,
}

/// Until `server` is no longer being rebuilt; then how it ended.
pub(super) fn follow(client: &Client, server: &str) -> Result<(), Failure> {
    let form = [("format".to_owned(), "text".to_owned())];
    let begins = format!("{server} is being rebuilt");
    let terminal = io::stderr().is_terminal();
    let mut shown = String::new();
    loop {
        let status = client.get("/api/v1/status", &form)?.text;
        let Some(line) = status.lines().find(|line| line.starts_with(&begins)) else { break };
        if line != shown {
            // On a terminal, in place.
            let (before, after) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
            write!(io::stderr(), "{before}{line}{after}")?;
            line.clone_into(&mut shown);
        }
        sleep(LOOK);
    }
    if terminal && !shown.is_empty() {
        writeln!(io::stderr())?;
    }
    let events = client.get("/api/v1/events", &[])?.text;
    let events: Vec<Event> = serde_json::from_str(&events)
        .map_err(|e| AdminError::new(Code::BadReply, format!("events that can't be read: {e}")))?;
    let ended = events
        .iter()
        .rfind(|e| e.subject == server && matches!(&*e.code, "rebuild_done" | "rebuild_failed"));
    match ended {
        Some(event) if event.code == "rebuild_done" => print(&event.text),
        Some(event) => Err(AdminError::new(Code::Conflict, event.text.clone()).into()),
        None => {
            let text =
                format!("{server} is not being rebuilt any more; `pointsman events` has why");
            Err(AdminError::new(Code::Conflict, text).into())
        }
    }
}
