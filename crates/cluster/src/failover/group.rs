//! What operators may ask of a cluster that elects for itself: another writer. It replaces lost
//! members without being asked, and takes them back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_config::proxy::Failover;
use tokio::time::{sleep, timeout, timeout_at};

use super::Request;
use super::sql::{Words, quote};
use crate::gtid::Flavour;
use crate::link::{Target, failure};
use crate::member::Kind;
use crate::monitor::Shared;
use crate::probe::Look;
use crate::snapshot::ServerId;

/// How often it is looked whether transactions have ended.
const TRX_POLL: Duration = Duration::from_millis(10);

/// Does what is asked; one sentence about it, or why it was not done.
pub(super) async fn perform(
    shared: Arc<Shared>,
    config: Failover,
    kind: Kind,
    request: Request,
) -> Result<String, String> {
    let (to, rehearse) = match request {
        Request::Switchover { to, rehearse } => (to, rehearse),
        Request::Failover { .. } => {
            return Err(format!(
                "{} replaces a lost member by itself, and Pointsman follows; `pointsman \
                 switchover` chooses another writer, `pointsman servers` says why there is none",
                kind.as_str()
            ));
        }
        Request::RebuildEnds { .. } => return Ok(String::new()),
        Request::Rejoin { server, .. } => {
            let how = match kind {
                Kind::Galera => "start its server, or look into its error log",
                Kind::GroupReplication => "START GROUP_REPLICATION there",
            };
            return Err(format!(
                "a member joins {} by itself and is used again once it is in; for {server}: {how}",
                kind.as_str()
            ));
        }
    };
    let snapshot = shared.snapshot();
    let find = |name: &str| {
        let known: Vec<_> = snapshot.servers.iter().map(|s| s.name.to_string()).collect();
        let found = snapshot.find(name).map(|server| server.id);
        found.ok_or_else(|| format!("no server is named {name:?}; there are {}", known.join(", ")))
    };
    let to = to.as_deref().map(find).transpose()?;
    let old = snapshot.primary.ok_or("there is no writer to take over from")?;
    let to = shared.topology().next_writer(to, Instant::now())?;
    let name = |id: ServerId| snapshot.server(id).map_or("?", |s| &s.name).to_owned();
    let (old_name, to_name) = (name(old), name(to));
    let single = shared.topology().is_single_primary();
    if rehearse {
        let wait = config.transaction_wait.as_millis();
        return Ok(match single {
            true => format!(
                "1. SELECT group_replication_set_as_primary(...) for {to_name}\n\
                 2. let the writes through to it once it is the primary"
            ),
            false => format!(
                "1. hold new writes back\n\
                 2. let open transactions on {old_name} end, for at most {wait} ms\n\
                 3. wait until {to_name} has applied all that the cluster has ordered\n\
                 4. let the writes through to it; what is still open is repeated there"
            ),
        });
    }
    shared.tell_of("switchover_begun", to, format!("{to_name} is to take over from {old_name}"));
    let began = Instant::now();
    let outcome = match single {
        true => elect(&shared, &config, old, to).await,
        false => hand_over(&shared, &config, old, to).await,
    };
    if let Err(why) = outcome {
        let text = format!("{to_name} did not take over from {old_name}: {why}");
        shared.tell_of("switchover_failed", to, text.clone());
        return Err(text);
    }
    shared.failover.count_switchover();
    let text = format!(
        "{to_name} takes the writes now, no longer {old_name}; they waited for {} ms",
        began.elapsed().as_millis()
    );
    shared.tell_of("switchover_done", to, text.clone());
    Ok(text)
}

/// Has the group elect `to`.
async fn elect(
    shared: &Shared,
    config: &Failover,
    old: ServerId,
    to: ServerId,
) -> Result<(), String> {
    let member = shared.topology().member_id(to).map(str::to_owned).unwrap_or_default();
    let sql = format!("SELECT group_replication_set_as_primary({})", quote(&member));
    let target = &shared.watched[usize::from(old.0)].actor;
    let run = async {
        let mut link = target.connect().await?;
        link.rows(&sql).await.map(drop)
    };
    match timeout(config.switchover_timeout, run).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(words(&error)),
        Err(_) => return Err("the group has not elected it in time".to_owned()),
    }
    shared.look_everywhere();
    if arrives(shared, to, config.switchover_timeout).await {
        Ok(())
    } else {
        Err("it was elected, but has still to apply what the group has ordered".to_owned())
    }
}

/// Writes to another member, where all take writes.
async fn hand_over(
    shared: &Shared,
    config: &Failover,
    old: ServerId,
    to: ServerId,
) -> Result<(), String> {
    let why = "another writer is being chosen";
    shared.update(|topology| topology.hold(old, why));
    let server = &shared.watched[usize::from(old.0)];
    let _ = timeout(config.transaction_wait, until_idle(&server.target)).await;
    shared.update(|topology| topology.prefer(Some(to), Instant::now()));
    if arrives(shared, to, config.switchover_timeout).await {
        return Ok(());
    }
    shared.update(|topology| {
        topology.prefer(None, Instant::now());
        topology.release();
    });
    Err("it has not caught up in time".to_owned())
}

/// Returns when nobody on this server has changed anything that is not committed; for ever if the
/// account may not ask.
async fn until_idle(target: &Target) {
    let words = Words { flavour: Flavour::MariaDb, channel: String::new() };
    if let Ok(mut link) = target.connect().await {
        // Statements on their way when writes were held back.
        sleep(TRX_POLL).await;
        while link.rows(words.writers()).await.map_or(true, |rows| !rows.is_empty()) {
            sleep(TRX_POLL).await;
        }
    }
}

/// Whether `to` becomes the primary in time.
async fn arrives(shared: &Shared, to: ServerId, within: Duration) -> bool {
    let mut changes = shared.subscribe();
    let until = tokio::time::Instant::now() + within;
    loop {
        if shared.snapshot().primary == Some(to) {
            return true;
        }
        if timeout_at(until, changes.changed()).await.is_err() {
            return false;
        }
    }
}

fn words(error: &mysql_async::Error) -> String {
    match failure(error) {
        Look::Refused(text) | Look::Failed(text) => text,
        Look::Answer(_) => String::new(),
    }
}
