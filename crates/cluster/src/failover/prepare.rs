//! What a server needs once after each start, so that Pointsman can do without its primary or with it.

use super::Outcome;
use super::act::{Broken, Hands};
use crate::gtid::Flavour;

const IS_OFF: &str = "SELECT 1 FROM DUAL WHERE NOT @@global.binlog_rows_query_log_events";
const SWITCH_ON: &str = "SET GLOBAL binlog_rows_query_log_events = 1";

impl Hands {
    /// `replica`: not the primary, which may replicate too, as in a ring, and whose commits are to be
    /// confirmed; `note`: statements are to be noted.
    pub(super) async fn prepare(&mut self, replica: bool, note: bool) -> Result<Outcome, Broken> {
        let released = replica && self.let_apply().await?;
        let noted = note && self.note().await?;
        Ok(Outcome::Prepared { released, noted })
    }

    /// Has a MySQL server note statements in its binary log, so that it can be told whose a transaction
    /// with rows is; whether it did not. MariaDB does by default. New connections note theirs. A
    /// replica passes on what was noted at its source if that was so when its applier began, which
    /// therefore begins anew.
    async fn note(&mut self) -> Result<bool, Broken> {
        let (words, report) = self.channel().await?;
        if words.flavour == Flavour::MariaDb || self.link().await?.rows(IS_OFF).await?.is_empty() {
            return Ok(false);
        }
        self.run(SWITCH_ON).await?;
        if report.channels.first().is_some_and(|channel| channel.sql_running) {
            // Sent at once: whatever becomes of this connection, the server does both.
            let (stop, start) = (words.stop_applying(), words.start_applying());
            self.run(&format!("{stop}; {start}")).await?;
        }
        Ok(true)
    }
}
