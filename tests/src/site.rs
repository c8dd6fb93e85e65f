//! Servers with the proxy before them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use pointsman_sandbox::{Flavour, Host, Node, Options, Sandbox, free_port};
use serde_json::Value;

use crate::clients::Output;
use crate::{Oracle, Proxy, http_get, pointsman};

/// What site to start.
#[derive(Debug, Clone)]
pub struct Setup {
    pub replicas: usize,
    /// Put before the tables of `proxy.toml`; see [`pointsman_sandbox::proxy_config`].
    pub config: String,
    /// More lines for `[[listener]]` and for each `[[server]]`.
    pub listener: String,
    pub server: String,
    /// More arguments for every server.
    pub server_args: Vec<String>,
    /// With the SQL console.
    pub console: bool,
    /// The proxy's account may change the primary.
    pub failover: bool,
    pub flavour: Flavour,
    /// See [`pointsman_sandbox::Options::mariadb`].
    pub mariadb: Option<PathBuf>,
    /// The servers are a cluster that elects for itself.
    pub group: bool,
    /// Where the servers are; empty: all at 127.0.0.1.
    pub hosts: Vec<Host>,
    /// How loud the proxy's log is.
    pub log: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        // Two workers even on larger machines, so that sessions of several workers meet.
        Self {
            replicas: 1,
            config: "workers = 2\n".into(),
            listener: String::new(),
            server: String::new(),
            server_args: vec![],
            console: false,
            failover: false,
            flavour: Flavour::MariaDb,
            mariadb: None,
            group: false,
            hosts: vec![],
            log: "info",
        }
    }
}

/// A primary, replicas, and the proxy, which is ready.
pub struct Site {
    // Before the servers: the proxy goes first.
    pub proxy: Proxy,
    pub sandbox: Sandbox,
    port: u16,
    admin: u16,
    console: u16,
    log: &'static str,
}

impl Site {
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    #[track_caller]
    pub fn with_replicas(replicas: usize) -> Self {
        Self::with(Setup { replicas, ..Setup::default() })
    }

    #[track_caller]
    pub fn with(setup: Setup) -> Self {
        Self::try_with(setup).unwrap_or_else(|error| panic!("no site: {error:#}"))
    }

    /// # Errors
    /// Servers or proxy don't come up.
    pub fn try_with(setup: Setup) -> Result<Self> {
        pointsman();
        let sandbox = Sandbox::start(Options {
            replicas: setup.replicas,
            extra_args: setup.server_args,
            failover: setup.failover,
            flavour: setup.flavour,
            mariadb: setup.mariadb,
            group: setup.group,
            hosts: setup.hosts,
            ..Options::default()
        })?;
        // A port found free may be taken a moment later by another test.
        let mut attempts = 5;
        loop {
            attempts -= 1;
            let (port, admin, console) = (free_port()?, free_port()?, free_port()?);
            let config = sandbox.dir().join("proxy.toml");
            sandbox.write_proxy_config(&config, port, admin, &setup.config)?;
            let text = std::fs::read_to_string(&config)?;
            let text = text
                .replacen("[[listener]]", &format!("[[listener]]\n{}", setup.listener), 1)
                .replace("[[server]]", &format!("[[server]]\n{}", setup.server));
            std::fs::write(&config, text)?;
            if setup.console {
                let text = std::fs::read_to_string(&config)?;
                let with = format!("[console]\naddress = \"127.0.0.1:{console}\"");
                std::fs::write(&config, text.replace("[console]\naddress = \"\"", &with))?;
            }
            let mut proxy =
                Proxy::spawn_telling(&config, admin, &sandbox.dir().join("proxy.log"), setup.log)?;
            match proxy.wait_ready() {
                Ok(()) => {
                    let log = setup.log;
                    let site = Self { proxy, sandbox, port, admin, console, log };
                    site.wait_replicas()?;
                    return Ok(site);
                }
                Err(_) if attempts > 0 && proxy.log().contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// `kill -9` to the proxy, then a new one at the same address, which need not be ready yet.
    ///
    /// # Errors
    /// It can't be started.
    pub fn restart_proxy(&mut self) -> Result<()> {
        self.proxy.kill9()?;
        let dir = self.sandbox.dir();
        let (config, log) = (dir.join("proxy.toml"), dir.join("proxy.log"));
        self.proxy = Proxy::spawn_telling(&config, self.admin, &log, self.log)?;
        Ok(())
    }

    /// Until every running replica takes reads.
    pub fn wait_replicas(&self) -> Result<()> {
        let wanted = self.sandbox.replicas().iter().filter(|r| r.is_running()).count();
        crate::wait_until("all replicas take reads", crate::LONG, || {
            let rows = self.admin_json("servers")?;
            let ready = rows.as_array().into_iter().flatten();
            Ok(ready.filter(|row| row["reads"] == true && row["role"] == "replica").count()
                == wanted)
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn admin(&self) -> u16 {
        self.admin
    }

    pub fn console(&self) -> u16 {
        self.console
    }

    pub fn primary(&self) -> &Node {
        self.sandbox.primary()
    }

    pub fn replica(&self) -> &Node {
        &self.sandbox.replicas()[0]
    }

    /// Makes the replicas writable and watches what they are sent.
    #[track_caller]
    pub fn oracle(&self) -> Oracle<'_> {
        Oracle::new(&self.sandbox)
    }

    /// `GET /api/v1/VIEW`.
    pub fn admin_json(&self, view: &str) -> Result<Value> {
        let (_, body) = http_get(self.admin, &format!("/api/v1/{view}"))?;
        Ok(serde_json::from_str(&body)?)
    }

    /// The row of `name` in `pointsman servers`.
    #[track_caller]
    pub fn server(&self, name: &str) -> Value {
        let rows = self.admin_json("servers").unwrap();
        let found = rows.as_array().into_iter().flatten().find(|row| row["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {rows}")).clone()
    }

    /// Until the row of `name` is as `wanted` says.
    #[track_caller]
    pub fn wait_server(&self, what: &str, name: &str, wanted: impl Fn(&Value) -> bool) {
        let waited = crate::wait_until(what, crate::LONG, || Ok(wanted(&self.server(name))));
        if let Err(error) = waited {
            panic!("{error:#}; {name} is {}", self.server(name));
        }
    }

    /// `pointsman ARGS` for this proxy.
    pub fn cli(&self, args: &[&str]) -> Output {
        Output::of(&mut self.command(args))
    }

    /// The same, not run yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(pointsman());
        command.args(args).env("POINTSMAN_ADMIN", format!("http://127.0.0.1:{}", self.admin));
        command
    }

    #[track_caller]
    pub fn metrics(&self) -> String {
        let (status, body) = http_get(self.admin, "/metrics").unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The sum of all series of `name` that carry `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.metrics();
        let matches = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|(k, v)| line.contains(&format!("{k}=\"{v}\"")))
        };
        let values = text.lines().filter(matches).filter_map(|l| l.rsplit(' ').next());
        values.map(|v| v.parse::<f64>().unwrap()).sum()
    }

    /// Reads answered by `server` so far.
    #[track_caller]
    pub fn reads(&self, server: &str) -> f64 {
        self.metric("pointsman_statements_total", &[("server", server), ("class", "read")])
    }
}
