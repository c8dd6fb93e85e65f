//! How changes of the primary are to be made.

use std::time::Duration;

use pointsman_config::proxy;

/// As configured in `[failover]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether a dead primary is replaced without being told to, if the account may.
    pub auto: bool,
    pub auto_rejoin: bool,
    pub apply_timeout: Duration,
    pub switchover_timeout: Duration,
    pub transaction_wait: Duration,
    /// Whether scheduled events are enabled at the primary and disabled elsewhere.
    pub handle_events: bool,
    /// Whether MySQL servers are made to note statements in their binary logs.
    pub note_statements: bool,
}

impl From<&proxy::Failover> for Settings {
    fn from(config: &proxy::Failover) -> Self {
        Self {
            auto: config.auto != Some(false),
            auto_rejoin: config.auto_rejoin,
            apply_timeout: config.apply_timeout,
            switchover_timeout: config.switchover_timeout,
            transaction_wait: config.transaction_wait,
            handle_events: config.handle_events,
            note_statements: config.note_statements,
        }
    }
}
