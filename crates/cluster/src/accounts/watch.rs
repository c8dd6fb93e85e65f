//! Notices changes of accounts and privileges that did not go through this proxy, or that it could not
//! see in a statement's text (stored code, `EXECUTE`), by the primary's own counters of statements.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::Error as SqlError;
use tokio::time::{sleep, timeout};

use crate::link::{Fields, Link};
use crate::monitor::Shared;
use crate::snapshot::ServerId;

/// How often the counters are looked at.
const TICK: Duration = Duration::from_secs(1);

/// As they are called in either flavour. MariaDB counts `SET PASSWORD` and `SET DEFAULT ROLE` with every
/// other `SET`: those are seen when the accounts are read, by what is different then.
const COUNTERS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_alter_user', \
     'Com_alter_user_default_role', 'Com_create_role', 'Com_create_user', 'Com_drop_role', \
     'Com_drop_user', 'Com_flush', 'Com_grant', 'Com_grant_role', 'Com_grant_roles', \
     'Com_rename_user', 'Com_revoke', 'Com_revoke_all', 'Com_revoke_role', 'Com_revoke_roles', \
     'Com_set_password')";

struct Seen {
    server: ServerId,
    generation: u64,
    link: Link,
    counters: Vec<u64>,
    /// They had changed when they were looked at last. What was under way then is over by now.
    fresh: bool,
}

pub(crate) async fn run(shared: Arc<Shared>) {
    shared.all_looked_at().await;
    let mut seen: Option<Seen> = None;
    // Whoever has read nothing yet has missed nothing.
    let mut missed = false;
    loop {
        let look = timeout(shared.timeout(), look(&shared, seen.take(), missed)).await;
        seen = look.ok().and_then(Result::ok).flatten();
        missed = true;
        sleep(TICK).await;
    }
}

/// `missed`: without anything that was `seen` before, there may have been changes.
async fn look(shared: &Shared, seen: Option<Seen>, missed: bool) -> Result<Option<Seen>, SqlError> {
    let snapshot = shared.snapshot();
    let Some(primary) = snapshot.primary else { return Ok(None) };
    let generation = snapshot.generation;
    let mut link = None;
    let mut before = None;
    if let Some(seen) = seen.filter(|s| s.server == primary && s.generation == generation) {
        link = Some(seen.link);
        before = Some((seen.counters, seen.fresh));
    }
    let mut link = match link {
        Some(link) => link,
        None => shared.watched[usize::from(primary.0)].target.connect().await?,
    };
    let rows = link.rows(COUNTERS).await?;
    let counters: Vec<_> =
        rows.iter().map(|row| Fields(row).number(&["Value"]).unwrap_or(0)).collect();
    let (changed, fresh) = match before {
        Some((before, fresh)) => (before != counters, fresh),
        None => (missed, false),
    };
    if (changed || fresh) && !shared.changed_elsewhere().await {
        return Ok(None);
    }
    Ok(Some(Seen { server: primary, generation, link, counters, fresh: changed }))
}

impl Shared {
    /// Accounts were changed, some time ago and somewhere before where the primary stands now. False:
    /// it does not say where that is, and nothing was noted.
    pub(crate) async fn changed_elsewhere(&self) -> bool {
        match self.oracle.ask().await {
            Some(position) => self.changes.note_at(&position),
            // No position of it will say where that is.
            None if self.writes.is_anonymous() => {
                self.changes.note_astray(self.writes.note_astray())
            }
            None => return false,
        }
        true
    }
}
