//! Reads the accounts from the databases: every so often, when somebody asks, and when they were
//! changed.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mysql_async::Row;
use serde_json::Value as Json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Account, Accounts, Method, Retained, TlsDemand};
use crate::gtid::Flavour;
use crate::link::{Fields, Link};
use crate::monitor::Shared;
use crate::snapshot::Role;

/// Failed logins ask for a new read, and wait for it; what the databases have to bear of that is bounded
/// by the time from one read's beginning to the next: see [`gap`].
const GAPS: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// How long after the beginning of a read that `took` so long the next one may begin: they keep a
/// server busy for a tenth of the time at most, or, if there are very many accounts, one per second.
fn gap(took: Duration) -> Duration {
    (took * 10).clamp(GAPS[0], GAPS[1])
}

pub(crate) async fn run(shared: Arc<Shared>, interval: Duration) {
    let interval = interval.max(GAPS[1]);
    // The first read as soon as it is known whom to ask.
    shared.all_looked_at().await;
    let mut news = shared.subscribe();
    let mut failed = false;
    let hasher = RandomState::new();
    // What was read last, and after how many changes.
    let mut last = None;
    loop {
        let round = shared.account_rounds.begin();
        let begun = Instant::now();
        let changes = shared.changes.count();
        let loaded = load(&shared, changes, &hasher).await;
        let took = begun.elapsed();
        shared.account_rounds.end(round, ());
        if let Ok(digest) = loaded {
            // There is more to an account than who may log in.
            let differs = last.is_some_and(|(before, of)| before != digest && of == changes);
            if !differs || shared.changed_elsewhere().await {
                last = Some((digest, changes));
            }
        }
        let loaded = loaded.map(|_| ());
        // Not if it was a replica that has not applied them.
        let complete = loaded.is_ok() && shared.changes.read() >= changes;
        shared.announce_ready();
        match &loaded {
            Err(why) if !failed && !why.is_empty() => {
                shared.tell("accounts_unreadable", format!("can't read the accounts: {why}"));
            }
            Ok(()) if failed => {
                shared.tell("accounts_read", "the accounts can be read again".to_owned());
            }
            _ => {}
        }
        failed = loaded.as_ref().is_err_and(|why| failed || !why.is_empty());
        tokio::select! {
            () = shared.account_rounds.asked() => {}
            () = shared.changes.unread(), if complete => {}
            () = sleep_until(begun + interval) => {}
            // Without accounts nobody can log in: try whenever there is hope.
            _ = news.changed(), if loaded.is_err() => {}
        }
        // Where there is no answer, nothing is gained by haste.
        let gap = if loaded.is_ok() { gap(took) } else { GAPS[1] };
        tokio::select! {
            () = sleep_until(begun + gap) => {}
            // Logins wait for this, and whoever changes accounts pays for it; with pauses, though.
            () = async {
                shared.changes.unread().await;
                sleep(took).await;
            }, if complete => {}
        }
    }
}

/// Asks the primary or, lacking one, a replica. Any other server that is up is asked only if nothing
/// is known yet: it may be a new and empty one. `changes`: how many there were before this.
///
/// Gives a digest of all that was read.
async fn load(shared: &Shared, changes: u64, hasher: &RandomState) -> Result<u64, String> {
    // Before asking: what a replica must have, to have them all.
    let needed = shared.changes.needed(&shared.writes);
    let snapshot = shared.snapshot();
    let mut servers: Vec<_> = snapshot
        .servers
        .iter()
        .filter_map(|server| match server.role {
            Role::Primary => Some((0, server)),
            Role::Replica => Some((1, server)),
            Role::Standalone if !shared.has_accounts() => Some((2, server)),
            _ => None,
        })
        .collect();
    servers.sort_by_key(|(rank, _)| *rank);
    let mut why = String::new();
    for (_, server) in servers {
        let target = &shared.watched[usize::from(server.id.0)].target;
        let read = async {
            let mut link = target.connect().await?;
            accounts(&mut link, hasher).await
        };
        let has_all = server.role == Role::Primary
            || needed.as_ref().is_ok_and(|needed| {
                needed.as_deref().is_none_or(|needed| server.live.has_applied(needed))
            });
        match timeout(shared.timeout(), read).await {
            Ok(Ok((accounts, digest))) => {
                shared.publish_accounts(accounts);
                if has_all {
                    shared.changes.were_read(changes);
                }
                return Ok(digest);
            }
            Ok(Err(error)) => why = format!("{}: {error}", server.name),
            Err(_) => why = format!("{}: no answer in time", server.name),
        }
    }
    Err(why)
}

async fn accounts(
    link: &mut Link,
    hasher: &RandomState,
) -> Result<(Accounts, u64), mysql_async::Error> {
    let names = link.rows("SELECT @@global.skip_name_resolve AS off").await?;
    let skip = names.first().and_then(|row| Fields(row).number::<u8>(&["off"])) == Some(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    if link.flavour() == Flavour::MariaDb {
        let lifetime = link.rows("SELECT @@global.default_password_lifetime AS days").await;
        let lifetime = lifetime
            .ok()
            .and_then(|rows| rows.first().and_then(|row| Fields(row).number(&["days"])))
            .unwrap_or(0);
        // Before 10.4 there is no such table.
        if let Ok(rows) = link.rows("SELECT User, Host, Priv FROM mysql.global_priv").await {
            let accounts = Accounts::new(rows.iter().filter_map(|row| {
                let row = Fields(row);
                let text = |name: &str| row.text(&[name]).unwrap_or_default();
                from_global_priv(text("User"), text("Host"), &text("Priv"), lifetime, now)
            }));
            return Ok((accounts.skip_name_resolve(skip), digest(&rows, hasher)));
        }
    }
    let rows = link.rows("SELECT * FROM mysql.user").await?;
    let accounts = Accounts::new(rows.iter().filter_map(|row| from_user_table(&Fields(row))));
    Ok((accounts.skip_name_resolve(skip), digest(&rows, hasher)))
}

/// Of all their columns, in whatever order the rows come.
fn digest(rows: &[Row], hasher: &RandomState) -> u64 {
    rows.iter().map(|row| hasher.hash_one(Fields(row).all())).fold(0, u64::wrapping_add)
}

/// One line of MariaDB's `mysql.global_priv`; `None` for roles.
///
/// Source: <https://mariadb.com/kb/en/mysqlglobal_priv-table/>.
#[must_use]
pub fn from_global_priv(
    user: String,
    host: String,
    json: &str,
    default_lifetime_days: u64,
    now: u64,
) -> Option<Account> {
    let json: Json = serde_json::from_str(json).unwrap_or_default();
    if json["is_role"].as_bool() == Some(true) {
        return None;
    }
    let method = |json: &Json| Method {
        plugin: json["plugin"]
            .as_str()
            .filter(|plugin| !plugin.is_empty())
            .unwrap_or("mysql_native_password")
            .to_owned(),
        auth_string: json["authentication_string"].as_str().unwrap_or("").into(),
    };
    // An empty object among the alternatives stands for the outer one.
    let methods = match json["auth_or"].as_array() {
        Some(alternatives) if !alternatives.is_empty() => alternatives
            .iter()
            .map(|a| {
                let outer = a.as_object().is_some_and(serde_json::Map::is_empty);
                method(if outer { &json } else { a })
            })
            .collect(),
        _ => vec![method(&json)],
    };
    let changed = json["password_last_changed"].as_u64();
    let lifetime = match json["password_lifetime"].as_i64() {
        Some(days) if days >= 0 => days.unsigned_abs(),
        _ => default_lifetime_days,
    };
    let age_days = changed.map_or(0, |changed| now.saturating_sub(changed) / 86_400);
    Some(Account {
        user,
        host,
        methods,
        locked: json["account_locked"].as_bool() == Some(true),
        counts_failures: false,
        retained: Retained::default(),
        expired: changed == Some(0) || lifetime > 0 && age_days >= lifetime,
        tls: match json["ssl_type"].as_u64() {
            None | Some(0) => TlsDemand::None,
            Some(1) => TlsDemand::Tls,
            Some(2) => TlsDemand::Certificate,
            Some(_) => {
                let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
                TlsDemand::Specified {
                    cipher: text("ssl_cipher"),
                    issuer: text("x509_issuer"),
                    subject: text("x509_subject"),
                }
            }
        },
    })
}

/// One line of `mysql.user`, as MySQL and old MariaDB have it.
fn from_user_table(row: &Fields<'_>) -> Option<Account> {
    let text = |name: &str| row.text(&[name]).unwrap_or_default();
    if text("is_role") == "Y" {
        return None;
    }
    let plugin = Some(text("plugin")).filter(|plugin| !plugin.is_empty());
    let secret = Some(row.bytes("authentication_string").unwrap_or_default())
        .filter(|secret| !secret.is_empty())
        .or_else(|| row.bytes("Password"));
    let attributes: Json = serde_json::from_str(&text("User_attributes")).unwrap_or_default();
    Some(Account {
        user: text("User"),
        host: text("Host"),
        methods: vec![Method {
            plugin: plugin.unwrap_or_else(|| "mysql_native_password".to_owned()),
            auth_string: secret.unwrap_or_default(),
        }],
        locked: text("account_locked") == "Y",
        expired: text("password_expired") == "Y",
        counts_failures: attributes["Password_locking"].is_object(),
        retained: Retained(attributes["additional_password"].as_str().unwrap_or("").into()),
        tls: match &*text("ssl_type") {
            "" => TlsDemand::None,
            "ANY" => TlsDemand::Tls,
            "X509" => TlsDemand::Certificate,
            _ => TlsDemand::Specified {
                cipher: text("ssl_cipher"),
                issuer: text("x509_issuer"),
                subject: text("x509_subject"),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_logins_cost_the_servers_little() {
        let gap = |ms| gap(Duration::from_millis(ms)).as_millis();
        assert_eq!([gap(1), gap(5), gap(30), gap(100), gap(700)], [50, 50, 300, 1000, 1000]);
    }
}
