//! The answer to a write that was done, and whose server was lost before it could give it.
//!
//! Where rows are logged, the log tells how many were changed. Where statements are, only of those that
//! insert what they name. What can't be told for certain is not answered with a guess.

use std::sync::Arc;

use pointsman_sql::{Insert, plain_insert};
use pointsman_wire::{Capabilities, put_lenenc, put_lenenc_bytes, write_packet};

use crate::client::{Client, End};
use crate::fate::Done;
use crate::job::{Job, Kind};

/// What an OK says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub affected: u64,
    pub insert_id: u64,
    pub info: String,
}

/// What must be known of a table: its AUTO_INCREMENT column.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    name: Vec<u8>,
    /// Which column it is, from 0.
    at: usize,
}

/// What was sent.
struct Sent<'a> {
    /// The first word, in capitals.
    verb: &'a str,
    insert: Option<Insert>,
    /// The client wants to know how many rows were found, not how many were changed.
    counts_found: bool,
}

/// Whether the answer depends on the table's AUTO_INCREMENT column.
fn depends_on_key(sent: &Sent<'_>, done: &Done) -> bool {
    sent.insert.is_some() && done.insert_id.is_none()
}

/// `key`: of the table; to be looked up if [`depends_on_key`]. `None`: it can't be told.
fn answer(sent: &Sent<'_>, done: &Done, key: Option<&Key>) -> Option<Answer> {
    if !done.is_clear() || !done.whole {
        return None;
    }
    let logged_rows = done.inserted + done.updated + done.deleted;
    if let Some(insert) = &sent.insert {
        let as_rows = done.statements == 0 && done.inserted == insert.rows;
        let as_statement = done.statements == 1 && logged_rows == 0;
        if !(as_rows && logged_rows == insert.rows || as_statement) {
            return None;
        }
        let insert_id = match (done.insert_id, key) {
            (Some(id), _) => id,
            (None, None) => 0,
            // It is the first one that was given only if none was brought along.
            (None, Some(key)) if as_rows && !insert.names(&key.name) => {
                done.first.get(key.at).copied().flatten()?
            }
            (None, Some(_)) => return None,
        };
        let info = match insert.rows {
            0 | 1 => String::new(),
            n => format!("Records: {n}  Duplicates: 0  Warnings: 0"),
        };
        return Some(Answer { affected: insert.rows, insert_id, info });
    }
    let affected = match sent.verb {
        "DELETE" if logged_rows == done.deleted => done.deleted,
        // How many rows were found as they should be is not logged.
        "UPDATE" if logged_rows == done.updated && !sent.counts_found => done.updated,
        _ => return None,
    };
    (done.statements == 0 && affected > 0).then_some(Answer { affected, ..Answer::default() })
}

impl Client {
    /// What the server would have answered to a write outside of transactions. `None`: that can't be
    /// told.
    pub(crate) async fn answer(&mut self, job: &Job, packet: &[u8], done: &Done) -> Option<Answer> {
        if job.bulk || job.statement.verdict.effects.bits() != 0 {
            return None;
        }
        let text = match job.kind {
            Kind::Query if job.packet.is_none() => packet.get(job.text_at..)?,
            Kind::Execute(id) => self.prepared.kept(id)?.command.get(1..)?,
            _ => return None,
        };
        let text: Arc<[u8]> = text.into();
        let normal = job.bare_text();
        if normal.to_ascii_uppercase().contains("RETURNING") {
            return None;
        }
        let verb = normal.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let sent = Sent {
            verb: &verb,
            insert: plain_insert(&text, &self.dialect()),
            counts_found: self.login.caps.contains(Capabilities::FOUND_ROWS),
        };
        let key = if depends_on_key(&sent, done) { self.key_of(job, done).await? } else { None };
        let answer = answer(&sent, done, key.as_ref())?;
        self.session.answered_elsewhere();
        if answer.insert_id != 0 {
            self.session.keep_insert_id(answer.insert_id);
            self.tell_insert_id(answer.insert_id).await?;
        }
        Some(answer)
    }

    /// The AUTO_INCREMENT column of the table that was written, as the primary says; within it `None`
    /// if there is no such column.
    async fn key_of(&mut self, job: &Job, done: &Done) -> Option<Option<Key>> {
        let (schema, table) = match (done.target(), &job.statement.verdict.tables) {
            (Some(target), _) => (target.schema.to_vec(), target.name.to_vec()),
            (None, pointsman_sql::Tables::Known(tables)) => {
                let [table] = &**tables else { return None };
                let schema = table.schema.as_deref().map(str::as_bytes);
                let schema = schema.or_else(|| self.schema_of(job))?;
                (schema.to_vec(), table.name.as_bytes().to_vec())
            }
            _ => return None,
        };
        let plain =
            |name: &[u8]| name.iter().all(|b| b.is_ascii_alphanumeric() || b" _-$".contains(b));
        if !plain(&schema) || !plain(&table) {
            return None;
        }
        let (schema, table) = (String::from_utf8(schema).ok()?, String::from_utf8(table).ok()?);
        // With a row in any case, for accounts that see the table.
        let ask = format!(
            "\x03SELECT MAX(CASE WHEN EXTRA LIKE '%auto_increment%' THEN COLUMN_NAME END), \
             MAX(CASE WHEN EXTRA LIKE '%auto_increment%' THEN ORDINAL_POSITION END), COUNT(*) \
             FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{schema}' AND TABLE_NAME = '{table}'"
        );
        let choice = self.primary(None).await.ok()?;
        let nothing = Job::new(Kind::Other, Self::plain(pointsman_sql::Class::Other, false));
        let mut backend = self.ready(choice.server, &nothing).await.ok()?;
        let row = backend.row(ask.as_bytes()).await;
        self.backends.push(backend);
        let row = row.ok()?;
        let [name, at, columns] = &row[..] else { return None };
        let number = |field: &Option<Vec<u8>>| -> Option<usize> {
            std::str::from_utf8(field.as_deref()?).ok()?.parse().ok()
        };
        if number(columns)? == 0 {
            // Nothing that this account may see.
            return None;
        }
        Some(match name {
            Some(name) => Some(Key { name: name.clone(), at: number(at)?.checked_sub(1)? }),
            None => None,
        })
    }

    /// Has `LAST_INSERT_ID()` be this on the session's connection to the primary, if there is one; a
    /// later one is told when it is made.
    async fn tell_insert_id(&mut self, id: u64) -> Option<()> {
        let primary = self.worker.snapshot(|s| s.primary)?;
        let Some(at) = self.backends.iter().position(|b| b.server == primary) else {
            return Some(());
        };
        let mut backend = self.backends.swap_remove(at);
        let command = format!("\x03DO LAST_INSERT_ID({id})");
        if let Ok(Ok(_)) = self.own_command(&mut backend, command.as_bytes()).await {
            self.backends.push(backend);
        } else {
            drop(backend);
            self.forget_backend(primary);
        }
        Some(())
    }

    pub(crate) async fn say_done(&mut self, answer: &Answer) -> Result<(), End> {
        let [low, high] = self.session.status().bits().to_le_bytes();
        let mut payload = vec![0];
        put_lenenc(&mut payload, answer.affected);
        put_lenenc(&mut payload, answer.insert_id);
        payload.extend_from_slice(&[low, high, 0, 0]);
        if !answer.info.is_empty() {
            put_lenenc_bytes(&mut payload, answer.info.as_bytes());
        }
        let mut out = Vec::new();
        write_packet(&mut out, 1, &payload);
        Ok(self.socket.write_all(&out).await?)
    }
}

#[cfg(test)]
mod tests {
    use pointsman_sql::{Dialect, Flavour};
    use pointsman_wire::binlog::{Event, query_event};

    use super::*;

    fn sent<'a>(verb: &'a str, sql: &str) -> Sent<'a> {
        let dialect = Dialect::new(Flavour::MySql { version: 90_000 });
        Sent { verb, insert: plain_insert(sql.as_bytes(), &dialect), counts_found: false }
    }

    fn key() -> Key {
        Key { name: b"id".to_vec(), at: 1 }
    }

    fn rows(inserted: u64, updated: u64, deleted: u64) -> Done {
        let first = vec![Some(7), Some(70)];
        Done { whole: true, inserted, updated, deleted, first, ..Done::default() }
    }

    fn statement(insert_id: Option<u64>) -> Done {
        Done { whole: true, statements: 1, insert_id, ..Done::default() }
    }

    fn said(affected: u64, insert_id: u64, info: &str) -> Option<Answer> {
        Some(Answer { affected, insert_id, info: info.into() })
    }

    #[test]
    fn logged_rows_tell_what_an_insert_was_answered() {
        let one = sent("INSERT", "INSERT INTO t (a) VALUES (1)");
        assert!(depends_on_key(&one, &rows(1, 0, 0)));
        assert_eq!(answer(&one, &rows(1, 0, 0), Some(&key())), said(1, 70, ""));
        assert_eq!(answer(&one, &rows(1, 0, 0), None), said(1, 0, ""));
        // Another number of rows than it has, or another change.
        assert_eq!(answer(&one, &rows(2, 0, 0), None), None);
        assert_eq!(answer(&one, &rows(1, 1, 0), None), None);
        let two = sent("INSERT", "INSERT INTO t (a) VALUES (1), (2)");
        let info = "Records: 2  Duplicates: 0  Warnings: 0";
        assert_eq!(answer(&two, &rows(2, 0, 0), Some(&key())), said(2, 70, info));
        // It may have brought the key along.
        let all = sent("INSERT", "INSERT INTO t VALUES (1, 70)");
        assert_eq!(answer(&all, &rows(1, 0, 0), Some(&key())), None);
    }

    #[test]
    fn a_logged_statement_tells_of_an_insert_that_was_given_a_key() {
        let one = sent("INSERT", "INSERT INTO t (a) VALUES (1)");
        assert!(!depends_on_key(&one, &statement(Some(70))));
        assert_eq!(answer(&one, &statement(Some(70)), None), said(1, 70, ""));
        assert_eq!(answer(&one, &statement(None), None), said(1, 0, ""));
        assert_eq!(answer(&one, &statement(None), Some(&key())), None);
        let update = sent("UPDATE", "UPDATE t SET a = 1");
        assert_eq!(answer(&update, &statement(None), None), None, "nobody knows how many");
    }

    #[test]
    fn what_was_changed_is_counted_and_what_was_found_is_not_known() {
        let mut update = sent("UPDATE", "UPDATE t SET a = 1");
        assert_eq!(answer(&update, &rows(0, 3, 0), None), said(3, 0, ""));
        update.counts_found = true;
        assert_eq!(answer(&update, &rows(0, 3, 0), None), None);
        let delete = sent("DELETE", "DELETE FROM t");
        assert_eq!(answer(&delete, &rows(0, 0, 2), None), said(2, 0, ""));
        assert_eq!(answer(&delete, &rows(1, 0, 2), None), None);
        assert_eq!(
            answer(&sent("REPLACE", "REPLACE INTO t VALUES (1)"), &rows(1, 0, 1), None),
            None
        );
    }

    #[test]
    fn what_may_have_stopped_half_way_is_not_answered() {
        let delete = sent("DELETE", "DELETE FROM t");
        assert_eq!(answer(&delete, &Done { whole: false, ..rows(0, 0, 2) }, None), None);
        let mut unclear = rows(0, 0, 2);
        let mut failed = query_event(1, 1, b"INSERT");
        failed[19 + 9] = 1;
        unclear.event(&Event::parse(&failed).unwrap().1, true);
        assert_eq!(answer(&delete, &unclear, None), None);
    }
}
