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
use tokio::sync::mpsc::UnboundedReceiver;

use crate::proxy_daemon::ProxyDaemon;
use crate::takeover::{self, Inherited, Offer, Sockets};
use crate::{USAGE, logging};

/// Run the MySQL proxy until SIGTERM (then it drains and exits); SIGHUP reloads
#[derive(Debug, clap::Args)]
pub struct Args {
    /// proxy.toml; `pointsman check` says whether it is right
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Take the listening sockets over from the proxy that runs with this config, which then serves
    /// the clients it has until they go (at most `drain_timeout`), and ends
    #[arg(long)]
    takeover: bool,
    #[command(flatten)]
    logging: logging::Args,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let Some(config) = load(&args.config) else { return Ok(ExitCode::from(USAGE)) };
    logging::init(&args.logging)?;
    serve(config, args.config, args.takeover)
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
pub fn serve(config: ProxyConfig, path: PathBuf, takeover: bool) -> Result<ExitCode> {
    let tls = pointsman_proxy::Tls::load(&config)?;
    let mut inherited = if takeover { Some(Inherited::ask(&config)?) } else { None };
    let mut none = Vec::new();
    let sockets = inherited.as_mut().map_or(&mut none, |inherited| &mut inherited.sockets);
    let bound = pointsman_proxy::bind(&config, sockets)?;
    let offered = Sockets::default();
    offered.add(bound.try_clone()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let token = config.admin.token.as_ref().map(|t| t.expose().to_owned());
        let mut inherit =
            |address| inherited.as_mut().and_then(|inherited| inherited.take(address));
        let address = config.admin.address;
        let http = match inherit(address) {
            Some(socket) => Http::inherit(socket, address, token.clone())?,
            None => Http::bind(address, token.clone()).await?,
        };
        offered.add([http.try_clone()?]);
        let console = match config.console.address {
            Some(address) => {
                let console = match inherit(address) {
                    Some(socket) => Console::inherit(socket, address, token)?,
                    None => Console::bind(address, token).await?,
                };
                offered.add([console.try_clone()?]);
                Some(console)
            }
            None => None,
        };
        let cluster = start_monitor(&config, takeover)?;
        cluster.ready().await;
        announce(&config, &cluster);
        let drain_timeout = config.limits.drain_timeout;
        let first_id = inherited.as_ref().map(|inherited| inherited.first_id);
        let proxy = Arc::new(Proxy::start(config, tls, bound, cluster, first_id)?);
        let registry = prometheus::Registry::new();
        proxy.register_metrics(&registry)?;
        let daemon: Arc<dyn Daemon> = Arc::new(ProxyDaemon {
            proxy: Arc::clone(&proxy),
            config_path: path,
            registry,
            started: SystemTime::now(),
        });
        let http = tokio::spawn(http.serve(Arc::clone(&daemon), std::future::pending()));
        let console =
            console.map(|c| tokio::spawn(c.serve(Arc::clone(&daemon), std::future::pending())));
        if let Some(inherited) = inherited {
            let old = inherited.go().context("taking over from the running proxy")?;
            tracing::info!("took over; the old process serves the clients it has until they go");
            tokio::spawn(until_alone(old, Arc::clone(&proxy)));
        }
        let (events, mut offers) = tokio::sync::mpsc::unbounded_channel();
        let offer = takeover::offer(proxy.config(), offered.clone(), Arc::clone(&proxy), events);
        if let Err(error) = offer {
            offered.close();
            tracing::warn!(%error, "no other process will be able to take over from this one");
        }
        match until_told_to_stop(&*daemon, &proxy, &mut offers).await? {
            None => {
                offered.close();
                tracing::info!(
                    clients = proxy.session_count(),
                    "stopping: letting transactions end"
                );
                let left = proxy.drain(drain_timeout).await;
                if left > 0 {
                    tracing::warn!(clients = left, "stopped with transactions still open");
                }
            }
            Some(new) => {
                proxy.cluster().leave_failover();
                http.abort();
                if let Some(console) = console {
                    console.abort();
                }
                tracing::info!(clients = proxy.session_count(), "another process has taken over");
                let left = proxy.retire(drain_timeout).await;
                if left > 0 {
                    tracing::warn!(clients = left, "stopped with transactions still open");
                }
                // Its end tells the other that it is alone.
                drop(new);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Until the process that handed over has ended: what it acknowledges must be seen here, too.
async fn until_alone(old: std::os::unix::net::UnixStream, proxy: Arc<Proxy>) {
    let ended = old.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(old));
    if let Ok(mut old) = ended {
        let _ = tokio::io::AsyncReadExt::read(&mut old, &mut [0]).await;
    }
    proxy.set_beside(false);
    tracing::info!("the old process has ended");
}

/// The monitor's own thread: nothing else may delay its looks at the servers.
fn start_monitor(config: &ProxyConfig, takes_over: bool) -> Result<Cluster> {
    let (started, cluster) = std::sync::mpsc::channel();
    let config = config.clone();
    std::thread::Builder::new().name("monitor".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "the monitor could not start"),
        };
        runtime.block_on(async {
            let cluster = Cluster::start(&config, Arc::new(EventLog::default()));
            if takes_over {
                cluster.take_over();
            }
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

/// What ends when this process does, if another has taken over; `None`: it was told to stop.
async fn until_told_to_stop(
    daemon: &dyn Daemon,
    proxy: &Proxy,
    offers: &mut UnboundedReceiver<Offer>,
) -> Result<Option<std::os::unix::net::UnixStream>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(None),
            _ = int.recv() => return Ok(None),
            _ = hup.recv() => match daemon.act(Action::Reload).await {
                Ok(done) => tracing::info!("{done}"),
                Err(error) => tracing::error!(%error, "reload"),
            },
            Some(offer) = offers.recv() => match offer {
                Offer::Taken(new) => return Ok(Some(new)),
                Offer::Abandoned => proxy.set_beside(false),
            },
        }
    }
}
