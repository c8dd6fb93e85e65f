//! Whether a server's disk is full. One where binary logs can't be written goes on answering: those who
//! commit wait until somebody makes room. In MariaDB one of them is in a state of that name; MySQL says
//! so in its error log, once in ten minutes.

use std::time::{Duration, Instant};

use mysql_async::Error as SqlError;

use super::{Fields, Link};
use crate::gtid::{Flavour, Position};
use crate::probe::Report;

/// The list of processes is long on a busy server. Of a replica nobody's writes depend on that.
const PAUSE: Duration = Duration::from_millis(500);
const REPLICA_PAUSE: Duration = Duration::from_secs(2);

/// `ER_DISK_FULL`.
const NO_ROOM: u16 = 1021;

/// What was last seen of it.
#[derive(Debug, Default)]
pub(super) struct Space {
    at: Option<Position>,
    read_only: bool,
    /// When that was first seen to have moved.
    moved: Option<Instant>,
    asked: Option<Instant>,
    full: bool,
    /// The account may not know.
    denied: bool,
}

impl Link {
    /// Somebody waits for space, be it what a replica fetches and applies with. Asked only while nothing is
    /// committed, which says that nobody does.
    /// Needs `PROCESS` in MariaDB, `SELECT` on `performance_schema` in MySQL.
    pub(super) async fn waits_for_space(&mut self, report: &Report) -> Result<bool, SqlError> {
        let space = &mut self.space;
        let at = report.standing();
        let moves = space.at.as_ref() != Some(&at) || space.read_only != report.read_only;
        if moves || space.denied || report.membership.is_some() {
            space.moved = space.at.as_ref().map(|_| Instant::now());
            (space.at, space.read_only) = (Some(at), report.read_only);
            space.full = false;
            return Ok(false);
        }
        let pause = if report.read_only { REPLICA_PAUSE } else { PAUSE };
        // Those who waited may have been cut off; it is as full as before.
        if !space.full && space.asked.is_none_or(|asked| asked.elapsed() >= pause) {
            space.asked = Some(Instant::now());
            self.space.full = match self.is_waited_for(report.read_only).await {
                Err(SqlError::Server(e)) if e.code != NO_ROOM => {
                    self.space.denied = true;
                    false
                }
                full => full?,
            };
        }
        Ok(self.space.full)
    }

    async fn is_waited_for(&mut self, replica: bool) -> Result<bool, SqlError> {
        let sql = match self.flavour {
            Flavour::MariaDb => "SELECT COUNT(*) AS n FROM information_schema.processlist \
                 WHERE state = 'Waiting for someone to free space'"
                .to_owned(),
            Flavour::MySql if replica => {
                // What it had fetched before is applied after that was said.
                let since = self.space.moved.map_or(600, |moved| moved.elapsed().as_secs() + 60);
                format!(
                    "SELECT COUNT(*) AS n FROM performance_schema.threads t \
                     WHERE t.processlist_state IN ('waiting for handler commit', \
                     'Queueing source event to the relay log') AND t.processlist_time >= 1 \
                     AND EXISTS (SELECT 1 FROM performance_schema.error_log \
                     WHERE error_code = 'MY-000035' AND logged > NOW(6) - INTERVAL {since} SECOND)"
                )
            }
            Flavour::MySql => {
                // MY-000035: "Disk is full writing ...". Since then nothing was committed. Where that
                // is not known, since it waits: the first one that did has said so, and waits on.
                let since = match self.space.moved {
                    Some(moved) => (moved.elapsed().as_secs() + 1).to_string(),
                    None => "(t.processlist_time + 1)".to_owned(),
                };
                format!(
                    "SELECT COUNT(*) AS n FROM performance_schema.threads t \
                     WHERE t.processlist_state = 'waiting for handler commit' \
                     AND t.processlist_time >= 1 AND EXISTS (SELECT 1 \
                     FROM performance_schema.error_log WHERE error_code = 'MY-000035' \
                     AND logged > NOW(6) - INTERVAL {since} SECOND)"
                )
            }
        };
        match self.rows(&sql).await {
            Ok(rows) => {
                let waiting = rows.first().and_then(|row| Fields(row).number::<u64>(&["n"]));
                Ok(waiting.is_some_and(|n| n > 0))
            }
            // Nor is there for the answer. This one takes none, and is long.
            Err(SqlError::Server(e)) if e.code == NO_ROOM => {
                let rows = self.rows("SHOW PROCESSLIST").await?;
                let state = |row| Fields(row).text(&["State"]).unwrap_or_default();
                Ok(rows.iter().any(|row| state(row) == "Waiting for someone to free space"))
            }
            Err(error) => Err(error),
        }
    }
}
