//! Has MySQL servers note statements in their binary logs, so that it can be told whose a transaction
//! with rows is. MariaDB does by default.

use super::Outcome;
use super::act::{Broken, Hands};
use crate::gtid::Flavour;

const IS_OFF: &str = "SELECT 1 FROM DUAL WHERE NOT @@global.binlog_rows_query_log_events";
const SWITCH_ON: &str = "SET GLOBAL binlog_rows_query_log_events = 1";

impl Hands {
    /// New connections note theirs. A replica passes on what was noted at its source if that was so when
    /// its applier began, which therefore begins anew.
    pub(super) async fn note(&mut self) -> Result<Outcome, Broken> {
        let (words, report) = self.channel().await?;
        if words.flavour == Flavour::MariaDb || self.link().await?.rows(IS_OFF).await?.is_empty() {
            return Ok(Outcome::Noted(false));
        }
        self.run(SWITCH_ON).await?;
        if report.channels.first().is_some_and(|channel| channel.sql_running) {
            // Sent at once: whatever becomes of this connection, the server does both.
            let (stop, start) = (words.stop_applying(), words.start_applying());
            self.run(&format!("{stop}; {start}")).await?;
        }
        Ok(Outcome::Noted(true))
    }
}
