//! `pointsman director`: runs the front tier.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use pointsman_admin::Daemon;
use pointsman_admin::http::Http;
use pointsman_director::{Director, Metrics, Shared, config};
use pointsman_events::EventLog;

use crate::director_daemon::DirectorDaemon;
use crate::{USAGE, logging};

/// Run the front tier (VRRP and virtual servers) until SIGTERM
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TOML, or a keepalived.conf; told apart by content
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Where the admin API listens; loopback
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8989")]
    admin_address: SocketAddr,
    #[command(flatten)]
    logging: logging::Args,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let config = match config::load(&args.config) {
        Ok((config, warnings)) => {
            for warning in warnings {
                eprint!("{}", warning.render(super::style()));
            }
            config
        }
        Err(errors) => {
            for warning in errors.warnings() {
                eprint!("{}", warning.render(super::style()));
            }
            for report in errors.reports() {
                eprint!("{}", report.render(super::style()));
            }
            return Ok(ExitCode::from(USAGE));
        }
    };
    logging::init(&args.logging)?;
    anyhow::ensure!(
        !(1..1024).contains(&args.admin_address.port()),
        "the admin API can't listen on {}: the director gives up the right to ports below 1024",
        args.admin_address
    );
    // The director must start before there are other threads; find out about the port before that.
    drop(std::net::TcpListener::bind(args.admin_address).with_context(|| {
        format!(
            "can't listen on {} for the admin API; --admin-address chooses another",
            args.admin_address
        )
    })?);
    let shared = Shared::new(Arc::new(EventLog::default()));
    let (file, events) = (args.config.clone(), Arc::clone(&shared.events));
    let source = Box::new(move || reread(&file, &events));
    let director = Director::start(&config, source, Arc::clone(&shared))?;
    let control = director.control();
    let registry = prometheus::Registry::new();
    registry.register(Box::new(Metrics::new(Arc::clone(&shared))))?;
    let daemon: Arc<dyn Daemon> =
        Arc::new(DirectorDaemon { shared, control, registry, started: SystemTime::now() });
    let address = args.admin_address;
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        if let Err(error) = serve_admin(address, daemon) {
            tracing::error!(%error, "admin API");
        }
    })?;
    director.run()?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration as it is now; what is wrong with it goes to the log as well.
fn reread(file: &Path, events: &EventLog) -> Result<config::DirectorConfig, String> {
    match config::load(file) {
        Ok((config, warnings)) => {
            for warning in warnings {
                tracing::warn!("{}", warning.line());
            }
            Ok(config)
        }
        Err(errors) => {
            let text = errors.lines().join("; ");
            tracing::error!("not reloaded, nothing was changed: {text}");
            events.push("reload_failed", "", &text);
            Err(text)
        }
    }
}

fn serve_admin(address: SocketAddr, daemon: Arc<dyn Daemon>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let http = Http::bind(address, None).await?;
        http.serve(daemon, std::future::pending()).await;
        Ok(())
    })
}
