//! `pointsman sandbox`: real databases and a proxy before them, to try things out.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use pointsman_config::ProxyConfig;
use pointsman_sandbox::{APP_PASSWORD, APP_USER, Flavour, Options, Sandbox, free_port};

use crate::logging;

/// Start a real primary and replicas with a proxy before them, to try things out; Ctrl-C cleans up
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to put the databases; else a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Servers beside the primary: by default one, or two in a cluster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=15))]
    replicas: Option<u8>,
    /// MySQL servers, as unpacked by `cargo xtask setup`; else MariaDB
    #[arg(long)]
    mysql: bool,
    /// A Galera cluster (MariaDB) of three nodes, or as many as --replicas says and one more
    #[arg(long, conflicts_with_all = ["mysql", "group_replication"])]
    galera: bool,
    /// A Group Replication cluster (MySQL), likewise
    #[arg(long)]
    group_replication: bool,
    /// Port of the proxy; else a free one
    #[arg(long, value_name = "PORT")]
    listen: Option<u16>,
    #[command(flatten)]
    logging: logging::Args,
}

pub fn run(args: Args) -> Result<ExitCode> {
    logging::init(&args.logging)?;
    let group = args.galera || args.group_replication;
    let replicas = args.replicas.unwrap_or(if group { 2 } else { 1 });
    match group {
        true => eprintln!("starting a cluster of {} nodes ...", replicas + 1),
        false => eprintln!("starting 1 primary and {replicas} replicas ..."),
    }
    let mysql = args.mysql || args.group_replication;
    let sandbox = Sandbox::start(Options {
        flavour: if mysql { Flavour::MySql } else { Flavour::MariaDb },
        dir: args.dir,
        replicas: usize::from(replicas),
        failover: true,
        group,
        ..Options::default()
    })?;
    let listen = match args.listen {
        Some(port) => port,
        None => free_port()?,
    };
    let (admin, console) = (free_port()?, free_port()?);
    let text = pointsman_sandbox::proxy_config(sandbox.nodes(), listen, admin, "").replace(
        "[console]\naddress = \"\"",
        &format!("[console]\naddress = \"127.0.0.1:{console}\""),
    );
    let path = sandbox.dir().join("proxy.toml");
    std::fs::write(&path, &text).with_context(|| format!("can't write {}", path.display()))?;
    let (config, _) = ProxyConfig::load(&path)
        .map_err(|report| anyhow::anyhow!("the sandbox's own config is wrong:\n{report}"))?;

    println!("{}", how_to_connect(&sandbox, listen, admin, console));
    super::proxy::serve(config, path, false)
}

fn how_to_connect(sandbox: &Sandbox, listen: u16, admin: u16, console: u16) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "\nthrough the proxy:  mariadb -h 127.0.0.1 -P {listen} -u {APP_USER} -p{APP_PASSWORD} app\n"
    );
    for node in sandbox.nodes() {
        let _ = writeln!(
            text,
            "{} itself:         mariadb -h 127.0.0.1 -P {} -u {APP_USER} -p{APP_PASSWORD} app",
            node.name(),
            node.port()
        );
    }
    let _ = write!(
        text,
        "SQL console:        mariadb -h 127.0.0.1 -P {console}\n\
         dashboard:          http://127.0.0.1:{admin}/\n\
         command line:       pointsman servers --admin http://127.0.0.1:{admin}\n\
         files:              {}\n\n\
         Ctrl-C stops and removes all of it.",
        sandbox.dir().display()
    );
    text
}
