//! Semi-synchronous replication: the primary has the role of the source, everybody else that of the
//! replica. Pointsman gives a server its role where semi-synchronous replication is in use, and leaves
//! it alone where it is not.

use super::act::{Broken, Hands};
use super::sql::Words;
use crate::gtid::Flavour;
use crate::link::Fields;

/// One of both roles: the variable that switches it (`rpl_semi_sync_master_enabled`), and whether it is on.
#[derive(Debug, Default)]
pub(super) struct Role {
    variable: String,
    on: bool,
}

#[derive(Debug, Default)]
pub(super) struct Roles {
    pub(super) source: Role,
    pub(super) replica: Role,
}

impl Hands {
    /// The roles of this server, if it has one of them.
    pub(super) async fn semi_sync(&mut self) -> Result<Option<Roles>, Broken> {
        let sql = "SHOW GLOBAL VARIABLES LIKE 'rpl_semi_sync_%_enabled'";
        let rows = self.link().await?.rows(sql).await?;
        let mut roles = Roles::default();
        for row in &rows {
            let row = Fields(row);
            let Some(variable) = row.text(&["Variable_name"]) else { continue };
            let on = row.text(&["Value"]).is_some_and(|value| matches!(value.as_str(), "ON" | "1"));
            let is_source = variable.contains("master") || variable.contains("source");
            let role = if is_source { &mut roles.source } else { &mut roles.replica };
            *role = Role { variable, on };
        }
        Ok((roles.source.on || roles.replica.on).then_some(roles))
    }

    /// Switches a role on or off; of one that the server does not know nothing is switched.
    pub(super) async fn switch(&mut self, role: &Role, on: bool) -> Result<(), Broken> {
        if role.variable.is_empty() {
            return Ok(());
        }
        Ok(self.run(&format!("SET GLOBAL {} = {}", role.variable, u8::from(on))).await?)
    }

    /// Where both roles are on at every server, as configurations have it, a replica that was just
    /// started waits before each commit until *its* replicas have confirmed what it applies. It has
    /// none: it stands still for the timeout, 10 s by default and without end where nothing may be
    /// lost, and so does every `STOP`. Its clients' own commits are not concerned: it is read-only.
    /// Whether anything had to be changed.
    pub(super) async fn let_apply(&mut self) -> Result<bool, Broken> {
        let Some(Roles { source, .. }) = self.semi_sync().await?.filter(|roles| roles.source.on)
        else {
            return Ok(false);
        };
        let sql = "SHOW GLOBAL STATUS LIKE 'rpl_semi_sync_%_clients'";
        let rows = self.link().await?.rows(sql).await?;
        let confirming =
            rows.iter().any(|row| Fields(row).number(&["Value"]).is_some_and(|n: u64| n > 0));
        if !confirming {
            self.switch(&source, false).await?;
        }
        Ok(!confirming)
    }

    /// A semi-synchronous replica of MariaDB connects to its source first, to have itself taken off
    /// there, and waits for it by default longer than this step may take. One second is the least.
    pub(super) async fn stop_fetching(&mut self, words: &Words) -> Result<(), Broken> {
        const WAITS: &str = "SELECT 1 FROM DUAL WHERE @@rpl_semi_sync_slave_kill_conn_timeout <> 1";
        if words.flavour == Flavour::MariaDb
            && self.semi_sync().await?.is_some()
            && !self.link().await?.rows(WAITS).await?.is_empty()
        {
            self.run("SET GLOBAL rpl_semi_sync_slave_kill_conn_timeout = 1").await?;
        }
        Ok(self.run(&words.stop_fetching()).await?)
    }
}
