//! Whether a replica can reach its source, when Pointsman can't.

use std::time::{Duration, Instant};

use mysql_async::Error as SqlError;
use tokio::time::sleep;

use super::Outcome;
use super::act::{Broken, Hands, PATIENCE, POLL};
use super::sql;
use crate::gtid::Flavour;
use crate::link::Fields;
use crate::probe::{IoThread, Report};
use crate::roles::version_number;

/// A replica that stops for so long has waited for a source that does not answer: see
/// [`Hands::stop_fetching`], where a second is set for that.
const STOP_TRIES: Duration = Duration::from_millis(900);

impl Hands {
    /// What its source last sent tells, if that sends heartbeats often enough. Else the replica has
    /// to connect anew, which is slow to be stopped in MySQL while the source hangs.
    pub(super) async fn reach(&mut self) -> Result<Outcome, Broken> {
        let (words, report) = self.channel().await?;
        if words.flavour == Flavour::MySql
            && let Some(heard) = self.heard().await?
        {
            return Ok(Outcome::Reached(heard));
        }
        let begun = Instant::now();
        self.stop_fetching(&words).await?;
        // A semi-synchronous replica of MariaDB connects to its source to stop: it tried in vain already.
        let patience = if begun.elapsed() < STOP_TRIES { PATIENCE } else { PATIENCE / 4 };
        let restore = self.shorten_connecting(&report).await?;
        self.run(&words.start_fetching()).await?;
        if let Some(restore) = restore {
            // It reads that when it begins.
            sleep(POLL).await;
            self.run(&restore).await?;
        }
        let begun = Instant::now();
        while begun.elapsed() < patience {
            sleep(POLL).await;
            let report = self.report().await?;
            if report.channels.iter().any(|channel| channel.io == IoThread::Running) {
                return Ok(Outcome::Reached(true));
            }
        }
        Ok(Outcome::Reached(false))
    }

    /// Whether its source has sent something lately. `None` if that can't be told.
    async fn heard(&mut self) -> Result<Option<bool>, SqlError> {
        let rows = match self.link().await?.rows(sql::LAST_HEARD).await {
            // Without the privilege.
            Err(SqlError::Server(_)) => return Ok(None),
            rows => rows?,
        };
        let [row] = rows.as_slice() else { return Ok(None) };
        let row = Fields(row);
        let beat: Option<f64> = row.number(&["beat"]);
        let silent: Option<f64> = row.number(&["silent"]);
        let busy = row.text(&["queueing"]).is_some_and(|gtid| !gtid.is_empty());
        let began: Option<f64> = row.number(&["began"]);
        let Some((beat, silent)) = beat.zip(silent).filter(|(beat, _)| *beat > 0.0 && *beat <= 1.0)
        else {
            return Ok(None);
        };
        if !busy {
            return Ok(Some(silent < beat * 1.5));
        }
        // It stopped in the middle of a transaction, or sends a long one: heartbeats pause meanwhile.
        if began.is_none_or(|began| began < beat * 1.5) {
            return Ok(Some(true));
        }
        let before = self.fetched().await?;
        sleep(PATIENCE).await;
        Ok(Some(self.fetched().await? != before))
    }

    /// How far in its source's binary log a replica has read.
    async fn fetched(&mut self) -> Result<Option<String>, SqlError> {
        let rows = self.link().await?.rows(sql::REPLICA_STATUS).await?;
        Ok(rows.first().and_then(|row| {
            let row = Fields(row);
            let file = row.text(&["Source_Log_File"])?;
            Some(format!("{file} {}", row.text(&["Read_Source_Log_Pos"])?))
        }))
    }

    /// A replica of newer MariaDB (seen with 11.8) can't be stopped while it connects: `STOP SLAVE`, and so all
    /// that a promotion needs, waits for `slave_net_timeout` where the source hangs, a minute by
    /// default. One second is the least. It counts for the connection as well: where no heartbeat comes
    /// within that, the replica soon makes another one.
    ///
    /// Returns what sets it back.
    async fn shorten_connecting(&mut self, report: &Report) -> Result<Option<String>, Broken> {
        if report.flavour != Flavour::MariaDb || version_number(&report.version) < 110_000 {
            return Ok(None);
        }
        let rows = self.link().await?.rows("SELECT @@global.slave_net_timeout AS seconds").await?;
        let seconds: Option<u64> = rows.first().and_then(|row| Fields(row).number(&["seconds"]));
        let Some(seconds) = seconds.filter(|seconds| *seconds > 1) else { return Ok(None) };
        self.run("SET GLOBAL slave_net_timeout = 1").await?;
        Ok(Some(format!("SET GLOBAL slave_net_timeout = {seconds}")))
    }
}
