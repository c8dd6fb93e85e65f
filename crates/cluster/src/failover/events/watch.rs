//! Remembers which events run at the primary, and notices if the account may not carry them over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::Error as SqlError;
use tokio::time::{sleep, timeout};

use super::Status;
use crate::failover::grants;
use crate::gtid::Flavour;
use crate::link::{Fields, Link};
use crate::monitor::Shared;
use crate::snapshot::ServerId;

/// How often events are looked at: what is created, enabled or disabled in less than that before the
/// primary dies counts as it was before.
const TICK: Duration = Duration::from_secs(1);
/// How often it is asked what the account may do: while that is not enough, and else.
const GRANTS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

const EVENTS: &str =
    "SELECT event_schema AS s, event_name AS n, status AS st FROM information_schema.events";
/// An account sees no events where it may not change them, but it sees the scheduler, which waits for
/// the time of the next event or because there is none.
const BUSY: &str = "SELECT 1 FROM information_schema.processlist WHERE user = 'event_scheduler' \
     AND state <> 'Waiting on empty queue'";

/// In MySQL: whether some event is an administrator's, or of an account that there is not.
const DEFINERS: &str = "SELECT MAX(u.super_priv = 'Y') AS admin, MAX(u.user IS NULL) AS nobody \
     FROM information_schema.events e LEFT JOIN mysql.user u \
     ON CONVERT(CONCAT(u.user, '@', u.host) USING utf8mb4) COLLATE utf8mb4_bin \
     = CONVERT(e.definer USING utf8mb4) COLLATE utf8mb4_bin";

struct Seen {
    server: ServerId,
    link: Link,
    /// What the account lacks, and when that was asked.
    lacks: Vec<String>,
    asked: Instant,
}

pub(crate) async fn run(shared: Arc<Shared>, user: String) {
    shared.all_looked_at().await;
    let mut seen: Option<Seen> = None;
    loop {
        let look = timeout(shared.timeout(), look(&shared, seen.take(), &user)).await;
        seen = look.ok().and_then(Result::ok).flatten();
        sleep(TICK).await;
    }
}

async fn look(shared: &Shared, seen: Option<Seen>, user: &str) -> Result<Option<Seen>, SqlError> {
    let snapshot = shared.snapshot();
    // Clusters that elect for themselves are left to themselves.
    let Some(primary) = snapshot.primary.filter(|_| snapshot.group.is_none()) else {
        return Ok(None);
    };
    let mut seen = match seen.filter(|seen| seen.server == primary) {
        Some(seen) => seen,
        None => {
            let mut link = shared.watched[usize::from(primary.0)].actor.connect().await?;
            let lacks = lacks(&mut link).await?;
            Seen { server: primary, link, lacks, asked: Instant::now() }
        }
    };
    let rows = seen.link.rows(EVENTS).await?;
    let all = rows.iter().map(|row| {
        let row = Fields(row);
        let text = |name: &str| row.text(&[name]).unwrap_or_default();
        ((text("s"), text("n")), Status::parse(&text("st")))
    });
    let events = &shared.failover.events;
    let any = events.memory(|memory| {
        memory.see(all);
        memory.any_runs()
    });
    if seen.asked.elapsed() > GRANTS[usize::from(seen.lacks.is_empty())] {
        seen.lacks = lacks(&mut seen.link).await?;
        seen.asked = Instant::now();
    }
    let missed = !seen.lacks.is_empty() && (any || !seen.link.rows(BUSY).await?.is_empty());
    let unable = missed.then(|| {
        let name = snapshot.server(primary).map_or("the primary", |server| &server.name);
        let lacks: Vec<_> = seen.lacks.iter().map(String::as_str).collect();
        format!(
            "scheduled events that run on {name} will not run on the next primary: the account that \
             changes it lacks privileges: {} ([failover] handle_events = false if that is as it \
             should be)",
            grants::grant(&lacks, user)
        )
    });
    tell(shared, primary, unable);
    Ok(Some(seen))
}

fn tell(shared: &Shared, primary: ServerId, unable: Option<String>) {
    let events = &shared.failover.events;
    let before = events.unable.load_full();
    match (before.as_deref(), unable) {
        (None, Some(why)) => {
            shared.tell_of("events_unable", primary, why.clone());
            events.unable.store(Some(Arc::new(why)));
        }
        (Some(_), None) => {
            let text = "scheduled events can be carried over to the next primary".to_owned();
            shared.tell_of("events_able", primary, text);
            events.unable.store(None);
        }
        (Some(before), Some(why)) if *before != why => events.unable.store(Some(Arc::new(why))),
        _ => {}
    }
}

async fn lacks(link: &mut Link) -> Result<Vec<String>, SqlError> {
    let rows = link.rows("SHOW GRANTS").await?;
    let lines: Vec<_> = rows.iter().filter_map(|row| Fields(row).first()).collect();
    let held = || lines.iter().map(String::as_str);
    let mut missing = grants::missing_for_events(link.flavour(), held());
    if link.flavour() == Flavour::MySql && missing.is_empty() {
        // Without SELECT on mysql.user that is not known; then an event that can't be altered is told of.
        let rows = link.rows(DEFINERS).await.unwrap_or_default();
        let is = |name: &str| {
            rows.first().is_some_and(|row| Fields(row).text(&[name]).as_deref() == Some("1"))
        };
        let wanted = [(is("admin"), "SYSTEM_USER"), (is("nobody"), "ALLOW_NONEXISTENT_DEFINER")];
        let wanted = wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name);
        missing.extend(wanted.filter(|name| !grants::has(held(), name)));
    }
    Ok(missing.into_iter().map(str::to_owned).collect())
}
