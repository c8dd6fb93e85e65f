//! Logs go to stderr: journald, Docker and people all read it there.

use std::io::{self, IsTerminal};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line an event, for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value = "text", env = "POINTSMAN_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace; also per module (info,pointsman_proxy=debug)
    #[arg(long, value_name = "FILTER", default_value = "info", env = "POINTSMAN_LOG")]
    pub log: String,
}

/// Starts logging.
///
/// # Errors
/// The filter can't be read, or logging was started before.
pub fn init(args: &Args) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log \"{}\" is no filter (try: info)", args.log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // journald stamps each line itself.
    let journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let started = match (args.log_format, journald) {
        (LogFormat::Json, _) => builder.json().flatten_event(true).try_init(),
        (LogFormat::Text, true) => builder.without_time().with_ansi(false).try_init(),
        (LogFormat::Text, false) => builder.with_ansi(io::stderr().is_terminal()).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("can't start logging: {e}"))
}
