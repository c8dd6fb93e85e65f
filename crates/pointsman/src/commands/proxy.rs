//! `pointsman proxy`: runs the MySQL proxy.

use std::path::PathBuf;
use std::process::ExitCode;

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use pointsman_admin::console::Console;
use pointsman_admin::http::Http;
use pointsman_admin::{Action, Daemon};
use pointsman_cluster::Cluster;
use pointsman_config::ProxyConfig;
use pointsman_events::EventLog;
use pointsman_proxy::Proxy;
use tokio::signal::unix::{SignalKind, signal};

use crate::proxy_daemon::ProxyDaemon;
use crate::{USAGE, logging};

/// Run the MySQL proxy until SIGTERM (then it drains and exits); SIGHUP reloads
#[derive(Debug, clap::Args)]
pub struct Args {
    /// proxy.toml; `pointsman check` says whether it is right
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    logging: logging::Args,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let Some(config) = load(&args.config) else { return Ok(ExitCode::from(USAGE)) };
    logging::init(&args.logging)?;
    serve(config, args.config)
}

/// Reads the config; what is wrong or doubtful goes to stderr.
fn load(path: &std::path::Path) -> Option<ProxyConfig> {
    match ProxyConfig::load(path) {
        Ok((config, warnings)) => {
            for warning in warnings {
                eprint!("{}", warning.render(super::style()));
            }
            Some(config)
        }
        Err(report) => {
            eprint!("{}", report.render(super::style()));
            None
        }
    }
}

/// Runs the proxy until SIGTERM or SIGINT.
///
/// Everything that can fail at the start does so before the first client is let in.
pub fn serve(config: ProxyConfig, path: PathBuf) -> Result<ExitCode> {
    let tls = pointsman_proxy::Tls::load(&config)?;
    let bound = pointsman_proxy::bind(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let token = config.admin.token.as_ref().map(|t| t.expose().to_owned());
        let http = Http::bind(config.admin.address, token.clone()).await?;
        let console = match config.console.address {
            Some(address) => Some(Console::bind(address, token).await?),
            None => None,
        };
        let cluster = start_monitor(&config)?;
        cluster.ready().await;
        announce(&config, &cluster);
        let drain_timeout = config.limits.drain_timeout;
        let proxy = Arc::new(Proxy::start(config, tls, bound, cluster)?);
        let registry = prometheus::Registry::new();
        proxy.register_metrics(&registry)?;
        let daemon: Arc<dyn Daemon> = Arc::new(ProxyDaemon {
            proxy: Arc::clone(&proxy),
            config_path: path,
            registry,
            started: SystemTime::now(),
        });
        tokio::spawn(http.serve(Arc::clone(&daemon), std::future::pending()));
        if let Some(console) = console {
            tokio::spawn(console.serve(Arc::clone(&daemon), std::future::pending()));
        }
        until_told_to_stop(&*daemon).await?;
        tracing::info!(clients = proxy.session_count(), "stopping: letting transactions end");
        let left = proxy.drain(drain_timeout).await;
        if left > 0 {
            tracing::warn!(clients = left, "stopped with transactions still open");
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The monitor's own thread: nothing else may delay its looks at the servers.
fn start_monitor(config: &ProxyConfig) -> Result<Cluster> {
    let (started, cluster) = std::sync::mpsc::channel();
    let config = config.clone();
    std::thread::Builder::new().name("monitor".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "the monitor could not start"),
        };
        runtime.block_on(async {
            let cluster = Cluster::start(&config, Arc::new(EventLog::default()));
            let _ = started.send(cluster);
            std::future::pending::<()>().await;
        });
    })?;
    cluster.recv().context("the monitor could not start")
}

fn announce(config: &ProxyConfig, cluster: &Cluster) {
    for listener in &config.listeners {
        tracing::info!(address = %listener.address, "listening for clients");
    }
    for server in &cluster.snapshot().servers {
        tracing::info!(server = %server.name, role = server.role.as_str(), why = %server.why, "server");
    }
}

async fn until_told_to_stop(daemon: &dyn Daemon) -> Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => match daemon.act(Action::Reload).await {
                Ok(done) => tracing::info!("{done}"),
                Err(error) => tracing::error!(%error, "reload"),
            },
        }
    }
}
