//! Questions about clusters that elect for themselves.

use std::collections::HashMap;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error as SqlError, Row};

use super::{Fields, Link, odd};
use crate::gtid::{Flavour, Position};
use crate::member::{GroupLine, Kind, Membership};
use crate::probe::Report;

/// What is asked first of each server.
pub(super) struct About {
    pub(super) mariadb: bool,
    pub(super) group: Option<Kind>,
}

/// `SHOW`, since a Galera node that is cut off refuses `SELECT`.
pub(super) async fn ask(conn: &mut Conn) -> Result<About, SqlError> {
    let rows: Vec<(String, String)> = conn
        .query(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
             ('version', 'wsrep_on', 'wsrep_provider', 'group_replication_group_name')",
        )
        .await?;
    let value = |name: &str| {
        let row = rows.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        row.map_or("", |(_, value)| value.as_str())
    };
    let provider = !matches!(value("wsrep_provider"), "" | "none");
    let galera = provider && matches!(value("wsrep_on"), "ON" | "1");
    if galera {
        // Whatever its state is, it shall say so.
        conn.query_drop("SET SESSION wsrep_dirty_reads = 1").await?;
    }
    let group = match value("group_replication_group_name") {
        _ if galera => Some(Kind::Galera),
        "" => None,
        _ => Some(Kind::GroupReplication),
    };
    Ok(About { mariadb: value("version").contains("MariaDB"), group })
}

const MEMBERS: &str = "SELECT m.MEMBER_ID AS id, m.MEMBER_STATE AS state, m.MEMBER_ROLE AS role, \
     s.VIEW_ID AS view, @@server_uuid AS own, @@group_replication_group_name AS name, \
     @@group_replication_single_primary_mode AS single, \
     COALESCE(s.COUNT_TRANSACTIONS_IN_QUEUE, 0) \
     + COALESCE(s.COUNT_TRANSACTIONS_REMOTE_IN_APPLIER_QUEUE, 0) AS queue, \
     (SELECT RECEIVED_TRANSACTION_SET FROM performance_schema.replication_connection_status \
     WHERE CHANNEL_NAME = 'group_replication_applier') AS received \
     FROM performance_schema.replication_group_members m \
     LEFT JOIN performance_schema.replication_group_member_stats s ON s.MEMBER_ID = m.MEMBER_ID";

impl Link {
    pub(super) async fn learn_membership(
        &mut self,
        kind: Kind,
        report: &mut Report,
    ) -> Result<(), SqlError> {
        match kind {
            Kind::Galera => {
                let mut values = HashMap::new();
                for sql in [
                    "SHOW GLOBAL STATUS LIKE 'wsrep%'",
                    "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                     ('wsrep_reject_queries', 'wsrep_sst_donor_rejects_queries')",
                ] {
                    let rows: Vec<(String, String)> = self.conn()?.query(sql).await?;
                    values.extend(rows.into_iter().map(|(k, v)| (k.to_ascii_lowercase(), v)));
                }
                let committed = values.get("wsrep_last_committed").and_then(|v| v.parse().ok());
                report.committed = Position::Number(committed.unwrap_or(0));
                report.applied = report.committed.clone();
                report.membership = Some(Membership::galera(|name| values.get(name).cloned()));
            }
            Kind::GroupReplication => {
                let rows: Vec<Row> = self.conn()?.query(MEMBERS).await?;
                let first = rows.first().ok_or_else(|| odd("no members of the group"))?;
                let text = |row: &Row, name: &str| Fields(row).text(&[name]).unwrap_or_default();
                let lines: Vec<_> = rows
                    .iter()
                    .map(|row| GroupLine {
                        id: text(row, "id"),
                        state: text(row, "state"),
                        role: text(row, "role"),
                        view: text(row, "view"),
                        queue: Fields(row).number(&["queue"]).unwrap_or(0),
                    })
                    .collect();
                let single = matches!(text(first, "single").as_str(), "1" | "ON");
                let mut membership =
                    Membership::group(&text(first, "own"), &text(first, "name"), single, &lines);
                let received = text(first, "received");
                membership.received = Position::parse(Flavour::MySql, received.as_bytes()).ok();
                report.membership = Some(membership);
            }
        }
        Ok(())
    }

    /// Returns once this Galera node has applied all that its cluster had ordered when this was
    /// called. A node that is cut off, or far behind, does not answer for long.
    pub(crate) async fn catch_up(&mut self) -> Result<(), SqlError> {
        if !self.waits {
            let wait = "SET SESSION wsrep_dirty_reads = 0, wsrep_sync_wait = 1";
            self.conn()?.query_drop(wait).await?;
            self.waits = true;
        }
        self.conn()?.query_drop("SELECT 1").await
    }
}
