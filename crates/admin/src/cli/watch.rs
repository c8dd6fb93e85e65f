//! `--watch`: again and again, or as it happens.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use serde::Deserialize;

use super::client::Client;
use super::{Failure, form, print};
use crate::{AdminError, Code};

/// How long one request waits for news.
const WAIT_SECONDS: u64 = 25;
/// How long to leave a daemon alone that isn't there.
const RETRY: Duration = Duration::from_secs(1);

type Params = Vec<(String, String)>;

/// Shows a list every `seconds`.
pub(super) fn again(
    client: &Client,
    path: &str,
    params: &Params,
    json: bool,
    seconds: u64,
) -> Result<(), Failure> {
    let clear = io::stdout().is_terminal() && !json;
    loop {
        let text = match client.get(path, &form(params.clone(), json)) {
            Ok(answer) => answer.text,
            // A daemon that restarts is a thing one watches for.
            Err(Failure::Remote(error)) if !json => error.render(),
            Err(error) => return Err(error),
        };
        if clear {
            // Cursor home, clear to the end of the screen.
            print(&format!("\x1b[H\x1b[2J{text}"))?;
        } else {
            print(&text)?;
        }
        sleep(Duration::from_secs(seconds));
    }
}

/// What the printer needs to know of an event.
#[derive(Deserialize)]
struct Event {
    seq: u64,
    time: String,
    code: String,
    subject: String,
    text: String,
}

/// Prints events as they happen, one a line: text, or a JSON object.
pub(super) fn events(
    client: &Client,
    path: &str,
    params: Params,
    json: bool,
) -> Result<(), Failure> {
    let number = |name: &str| {
        params.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.parse::<u64>().ok())
    };
    let mut after = number("after");
    let mut limit = number("limit");
    let mut run: Option<String> = None;
    let mut told = false;
    loop {
        let mut params: Params = Vec::new();
        if let Some(after) = after {
            params.push(("after".to_owned(), after.to_string()));
        }
        if let Some(limit) = limit {
            params.push(("limit".to_owned(), limit.to_string()));
        }
        if let Some(run) = &run {
            // Should it have restarted, everything is news, and at once.
            params.push(("run".to_owned(), run.clone()));
        }
        params.push(("wait".to_owned(), WAIT_SECONDS.to_string()));
        let answer = match client.get(path, &params) {
            Ok(answer) => answer,
            Err(Failure::Remote(error)) if run.is_some() => {
                let error = Failure::Remote(error);
                if !error.is_unreachable() {
                    return Err(error);
                }
                if !told && let Failure::Remote(error) = &error {
                    let _ = writeln!(io::stderr(), "{}\nwaiting for it", error.render());
                    told = true;
                }
                sleep(RETRY);
                continue;
            }
            Err(error) => return Err(error),
        };
        told = false;
        if run.as_ref().is_some_and(|run| *run != answer.run) {
            after = None;
        }
        run = Some(answer.run);
        let bad = |e| AdminError::new(Code::BadReply, format!("unreadable events: {e}"));
        let lines: Vec<&serde_json::value::RawValue> =
            serde_json::from_str(&answer.text).map_err(bad)?;
        let mut out = io::stdout().lock();
        for line in lines {
            let event: Event = serde_json::from_str(line.get()).map_err(bad)?;
            if json {
                writeln!(out, "{}", line.get())?;
            } else if event.subject.is_empty() {
                writeln!(out, "{} {}: {}", event.time, event.code, event.text)?;
            } else {
                writeln!(out, "{} {} {}: {}", event.time, event.code, event.subject, event.text)?;
            }
            after = after.max(Some(event.seq));
        }
        out.flush()?;
        // An empty log: from now on everything is news.
        after = after.or(Some(0));
        limit = None;
    }
}
