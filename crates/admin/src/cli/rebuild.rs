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

/// The code of an event that says what is done now.
const STAGE: &str = "rebuild_copying";

/// What was told of the newest rebuild of `server`, the oldest first.
fn events(client: &Client, server: &str) -> Result<Vec<Event>, Failure> {
    let events = client.get("/api/v1/events", &[])?.text;
    let mut events: Vec<Event> = serde_json::from_str(&events)
        .map_err(|e| AdminError::new(Code::BadReply, format!("events that can't be read: {e}")))?;
    events.retain(|e| e.subject == server);
    let begun = events.iter().rposition(|e| e.code == "rebuild_begun").unwrap_or(0);
    events.drain(..begun);
    Ok(events)
}

/// Until `server` is no longer being rebuilt; then how it ended.
pub(super) fn follow(client: &Client, server: &str) -> Result<(), Failure> {
    let form = [("format".to_owned(), "text".to_owned())];
    let begins = format!("{server} is being rebuilt");
    let terminal = io::stderr().is_terminal();
    // On a terminal, how far it is is shown in place.
    let (before, after) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
    let mut shown = String::new();
    let mut stages = 0;
    let ended = loop {
        // In this order: whoever is not being rebuilt any more has told everything.
        let status = client.get("/api/v1/status", &form)?.text;
        let line = status.lines().find(|line| line.starts_with(&begins));
        let events = events(client, server)?;
        // However short it was: each stage, once.
        for stage in events.iter().filter(|e| e.code == STAGE).skip(stages) {
            writeln!(io::stderr(), "{before}{}", stage.text)?;
            stages += 1;
            shown.clear();
        }
        let Some(line) = line else {
            break events
                .into_iter()
                .rfind(|e| matches!(&*e.code, "rebuild_done" | "rebuild_failed"));
        };
        if line != shown {
            write!(io::stderr(), "{before}{line}{after}")?;
            line.clone_into(&mut shown);
        }
        sleep(LOOK);
    };
    if terminal && !shown.is_empty() {
        writeln!(io::stderr())?;
    }
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
