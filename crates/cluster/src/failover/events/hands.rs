//! Enabling events and having them rest, over a connection of its own: its session writes no binary log
//! and speaks each event's character set.

use mysql_async::Error as SqlError;

use super::alter::{self, Event};
use super::{Status, few};
use crate::failover::Outcome;
use crate::failover::act::{Broken, Hands};
use crate::failover::driver::id_of;
use crate::gtid::Flavour;
use crate::link::{Fields, Link};

const ALL: &str = "SELECT event_schema AS s, event_name AS n, definer AS d, status AS st, \
     character_set_client AS cs, collation_connection AS cc FROM information_schema.events";
const QUIET: &str = "SET SESSION sql_log_bin = 0";
/// There is no such event any more.
const UNKNOWN_EVENT: u16 = 1539;
const SYNTAX: u16 = 1064;

/// MySQL with `super_read_only` lets nobody change an event. While that is off, and `read_only` on,
/// events of administrators could write: none begins then. Sent in one go with what is between the two.
const OPENING: &str = "SET GLOBAL event_scheduler = OFF; SET GLOBAL super_read_only = 0; ";
const CLOSING: &str = "SET GLOBAL super_read_only = 1";

/// What became of some events.
#[derive(Debug, Default)]
pub(in crate::failover) struct Altered {
    pub(in crate::failover) done: usize,
    /// "app.clean_up: error 1227: ..."
    pub(in crate::failover) failed: Vec<String>,
}

async fn all(link: &mut Link) -> Result<Vec<(Event, Status)>, SqlError> {
    let rows = link.rows(ALL).await?;
    let event = |row: &mysql_async::Row| {
        let row = Fields(row);
        let text = |name: &str| row.text(&[name]).unwrap_or_default();
        let event = Event {
            schema: text("s"),
            name: text("n"),
            definer: text("d"),
            character_set: text("cs"),
            collation: text("cc"),
        };
        (event, Status::parse(&text("st")))
    };
    Ok(rows.iter().map(event).collect())
}

async fn global(link: &mut Link, variable: &str) -> Result<String, SqlError> {
    let rows = link.rows(&format!("SELECT @@global.{variable}")).await?;
    Ok(rows.first().and_then(|row| Fields(row).first()).unwrap_or_default())
}

/// Does the same to `events`; `opening` and `closing` stand around it.
async fn alter(
    link: &mut Link,
    events: &[Event],
    to: &str,
    (opening, closing): (&str, &str),
) -> Result<Altered, SqlError> {
    link.run(QUIET).await?;
    let mut altered = Altered::default();
    // All at once, if all goes well; that it is done twice does no harm.
    let plain = events.iter().all(Event::is_plain);
    let each = events.iter().map(|event| format!("{}; {}; ", event.settings(), event.alter(to)));
    let text = format!("{opening}{}{closing}", each.collect::<String>());
    if plain && link.run(text.trim_end_matches([';', ' '])).await.is_ok() {
        altered.done = events.len();
        return Ok(altered);
    }
    for event in events {
        let done = match one(link, event, to, (opening, closing)).await {
            Err(SqlError::Server(e)) if e.code == SYNTAX && to == "DISABLE ON REPLICA" => {
                let to = alter::rest(Flavour::MySql, true);
                one(link, event, to, (opening, closing)).await
            }
            done => done,
        };
        match done {
            Ok(()) => altered.done += 1,
            Err(SqlError::Server(e)) if e.code == UNKNOWN_EVENT => {}
            Err(SqlError::Server(e)) => {
                altered.failed.push(format!("{}: error {}: {}", event.title(), e.code, e.message));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(altered)
}

async fn one(
    link: &mut Link,
    event: &Event,
    to: &str,
    (opening, closing): (&str, &str),
) -> Result<(), SqlError> {
    let alter = event.alter(to);
    // The server reads names in the event's character set.
    let alter =
        if event.is_plain() { alter.into_bytes() } else { encoded(link, event, &alter).await? };
    if !opening.is_empty() {
        link.run(opening.trim_end_matches([';', ' '])).await?;
    }
    let done = match link.run(&event.settings()).await {
        Ok(()) => link.run_bytes(alter).await,
        Err(error) => Err(error),
    };
    if !closing.is_empty() {
        link.run(closing).await?;
    }
    done
}

/// `text` in the character set of `event`.
async fn encoded(link: &mut Link, event: &Event, text: &str) -> Result<Vec<u8>, SqlError> {
    link.run("SET NAMES utf8mb4").await?;
    let hex: String = text.bytes().map(|byte| format!("{byte:02X}")).collect();
    let sql = format!(
        "SELECT CAST(CONVERT(CONVERT(x'{hex}' USING utf8mb4) USING {}) AS BINARY) AS t",
        event.character_set
    );
    let rows = link.rows(&sql).await?;
    let bytes = rows.first().and_then(|row| Fields(row).bytes("t"));
    bytes.ok_or_else(|| SqlError::Other("a statement could not be converted".into()))
}

/// No event runs at this server from here on, as if all had been replicated.
pub(in crate::failover) async fn rest_all(link: &mut Link) -> Result<Altered, SqlError> {
    let events: Vec<_> = all(link).await?;
    let running = events.into_iter().filter(|(_, status)| *status == Status::Runs);
    let running: Vec<_> = running.map(|(event, _)| event).collect();
    if running.is_empty() {
        return Ok(Altered::default());
    }
    let to = alter::rest(link.flavour(), false);
    let locked = link.flavour() == Flavour::MySql && global(link, "super_read_only").await? == "1";
    if !locked {
        return alter(link, &running, to, ("", "")).await;
    }
    let scheduler = global(link, "event_scheduler").await?;
    let opening =
        if scheduler == "DISABLED" { "SET GLOBAL super_read_only = 0; " } else { OPENING };
    let closing = match scheduler.as_str() {
        "ON" => format!("{CLOSING}; SET GLOBAL event_scheduler = ON"),
        _ => CLOSING.to_owned(),
    };
    let altered = alter(link, &running, to, (opening, &closing)).await;
    if !matches!(&altered, Ok(altered) if altered.failed.is_empty()) {
        // Whatever went wrong half-way.
        link.run(&closing).await?;
    }
    altered
}

impl Hands {
    /// Before a planned change.
    pub(in crate::failover) async fn rest(&mut self) -> Result<Outcome, Broken> {
        let mut link = self.tools.target(self.server).connect().await?;
        let altered = rest_all(&mut link).await?;
        Ok(Outcome::Rested { events: altered.done, failed: altered.failed })
    }

    /// A server that is to follow, or is kept from being the primary. Nothing depends on it that may
    /// not wait.
    pub(in crate::failover) async fn rest_or_tell(&mut self) {
        if !self.tools.handle_events {
            return;
        }
        let id = id_of(self.server);
        let shared = self.tools.shared.clone();
        let name = shared.snapshot().server(id).map_or_else(String::new, |s| s.name.to_string());
        let rested = match self.tools.target(self.server).connect().await {
            Ok(mut link) => rest_all(&mut link).await,
            Err(error) => Err(error),
        };
        let failed = match rested {
            Ok(altered) => {
                if altered.done > 0 {
                    let text = format!(
                        "{name} is not the primary: its {} were disabled there",
                        counted(altered.done)
                    );
                    shared.tell_of("events_rest", id, text);
                }
                altered.failed
            }
            Err(error) => vec![crate::failover::Failure::from(error).text],
        };
        if !failed.is_empty() {
            let text = format!(
                "{name} is not the primary, and scheduled events could not be disabled there: {}; \
                 those that are enabled may write to it (ALTER EVENT ... DISABLE ON SLAVE, after SET \
                 sql_log_bin = 0)",
                few(&failed)
            );
            shared.tell_of("events_not_at_rest", id, text);
        }
    }

    /// The primary runs what the last one ran.
    pub(in crate::failover) async fn wake(&mut self) -> Result<Outcome, Broken> {
        let mut link = self.tools.target(self.server).connect().await?;
        let mut resting = Vec::new();
        let mut unknown = Vec::new();
        for (event, status) in all(&mut link).await? {
            if status != Status::Rests {
                continue;
            }
            let name = (event.schema.clone(), event.name.clone());
            match self.tools.shared.failover.events.memory(|memory| memory.ran(&name)) {
                Some(true) => resting.push(event),
                Some(false) => {}
                None => unknown.push(event.title()),
            }
        }
        let none = resting.is_empty() || global(&mut link, "read_only").await? != "0";
        let altered = match none {
            true => Altered::default(),
            false => alter(&mut link, &resting, "ENABLE", ("", "")).await?,
        };
        let idle = altered.done > 0 && global(&mut link, "event_scheduler").await? != "ON";
        let failed = altered.failed;
        Ok(Outcome::Woken { events: altered.done, failed, unknown, idle })
    }
}

/// "3 scheduled events"
pub(in crate::failover) fn counted(events: usize) -> String {
    format!("{events} scheduled event{}", if events == 1 { "" } else { "s" })
}
