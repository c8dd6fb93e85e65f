//! The whole reference site on one machine: every host a network namespace, every program real.
//!
//! | host | runs |
//! | --- | --- |
//! | .254 | the client |
//! | .88, .99 | `pointsman director` with the site's keepalived.conf; virtual address .253 |
//! | .33, .44 | nginx and php-fpm; `pointsman realserver up`; `pointsman proxy` at 127.0.0.1:3306 |
//! | .11, .22 | MariaDB: db1, the primary, and db2, its replica |

mod client;
mod daemon;
mod network;
mod walk;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use pointsman_sandbox::{Host, MONITOR_PASSWORD, MONITOR_USER, Options, Sandbox};

pub use client::{Answer, Tally};
use client::{Load, fetch};
pub use daemon::interrupt;
use daemon::{Daemon, await_that};
pub use network::{Network, address, unable};
pub use walk::walk;

const CLIENT: u8 = 254;
const DIRECTORS: [u8; 2] = [88, 99];
const WEB: [u8; 2] = [33, 44];
const DATABASES: [u8; 2] = [11, 22];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 4, 253);
/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// The running site. Dropping it leaves nothing behind.
pub struct ReferenceSite {
    // Fields go in this order.
    directors: [Option<Daemon>; 2],
    web: Vec<WebServer>,
    databases: Sandbox,
    network: Network,
    dir: tempfile::TempDir,
    pointsman: PathBuf,
}

struct WebServer {
    host: u8,
    nginx: Daemon,
    _php: Daemon,
    _proxy: Daemon,
}

impl ReferenceSite {
    /// Starts all but the directors.
    ///
    /// # Errors
    /// Something is missing on this machine, or does not start.
    pub fn start(pointsman: &Path) -> Result<Self> {
        let hosts: Vec<u8> = [&[CLIENT], &DIRECTORS[..], &WEB, &DATABASES].concat();
        let network = Network::new(&hosts)?;
        let dir = network::directory()?;
        let host =
            |&host: &u8| Host { address: address(host), namespace: Some(network.namespace(host)) };
        let databases = Sandbox::start(Options {
            replicas: DATABASES.len() - 1,
            hosts: DATABASES.iter().map(host).collect(),
            failover: true,
            ..Options::default()
        })?;
        databases.primary().client_sql(
            "CREATE TABLE app.note (id INT AUTO_INCREMENT PRIMARY KEY, txt VARCHAR(32) NOT NULL, \
             written_by INT NOT NULL)",
        )?;
        databases.wait_caught_up()?;
        let mut site = Self {
            directors: [None, None],
            web: Vec::new(),
            databases,
            network,
            dir,
            pointsman: pointsman.to_owned(),
        };
        for host in WEB {
            let server = site.start_web(host)?;
            site.web.push(server);
        }
        for host in WEB {
            let to = SocketAddr::from((address(host), 80));
            let mut last = String::new();
            let ready = await_that("pages that read from the replica", LONG, || {
                let answer = fetch(&site.network, CLIENT, to, "/note.php", 1)?.remove(0);
                last = format!("{answer:?}");
                Ok(answer.is_ok_and(|page| page.ends_with("read from db2")))
            });
            ready.with_context(|| format!("web{host} said {last}"))?;
        }
        Ok(site)
    }

    fn start_web(&self, host: u8) -> Result<WebServer> {
        let dir = self.dir.path().join(format!("web{host}"));
        let htdocs = dir.join("htdocs");
        std::fs::create_dir_all(&htdocs)?;
        std::fs::write(htdocs.join("test.html"), format!("web{host}\n"))?;
        std::fs::write(htdocs.join("note.php"), include_str!("../../php/note.php"))?;

        // A root of its own: its notes on how the settings were would mix with the other's.
        let mut command = self.network.command(host, &self.pointsman);
        command.args(["realserver", "up", "--no-persist", "--vip", &VIP.to_string(), "--root"]);
        let output = command.arg(dir.join("root")).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pointsman realserver up: {said}");

        let config = dir.join("proxy.toml");
        std::fs::write(&config, proxy_config())?;
        let mut command = self.network.command(host, &self.pointsman);
        command.args(["proxy", "--config"]).arg(&config);
        let proxy = Daemon::start("proxy", command, &dir)?;

        let config = dir.join("php-fpm.conf");
        std::fs::write(&config, php_config(&dir))?;
        let mut command = self.network.command(host, &find("php-fpm", "php-fpm")?);
        command.args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"]).arg(&config);
        let php = Daemon::start("php-fpm", command, &dir)?;

        let nginx = self.start_nginx(host)?;
        Ok(WebServer { host, nginx, _php: php, _proxy: proxy })
    }

    fn start_nginx(&self, host: u8) -> Result<Daemon> {
        let dir = self.dir.path().join(format!("web{host}"));
        let config = dir.join("nginx.conf");
        std::fs::write(&config, nginx_config(host, &dir))?;
        let mut command = self.network.command(host, &find("nginx", "nginx-light")?);
        command.arg("-c").arg(&config).arg("-e").arg(dir.join("early.log"));
        Daemon::start("nginx", command, &dir)
    }

    /// Starts both directors and waits until the first has the virtual address. How long that took.
    fn start_directors(&mut self) -> Result<Duration> {
        for i in 0..2 {
            self.start_director(i)?;
        }
        self.await_holder(DIRECTORS[0])
    }

    /// With the site's own file, unless [`ReferenceSite::configure`] gave it another.
    fn start_director(&mut self, i: usize) -> Result<()> {
        let config = self.director_config(i)?;
        if !config.exists() {
            self.configure(i, "")?;
        }
        let mut command = self.network.command(DIRECTORS[i], &self.pointsman);
        command.args(["director", "--config"]).arg(&config);
        let dir = config.parent().context("it lies in a directory")?;
        self.directors[i] = Some(Daemon::start("director", command, dir)?);
        Ok(())
    }

    /// Gives a director its file of `config/site/KIND`.
    fn configure(&self, i: usize, kind: &str) -> Result<()> {
        let config = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../config/site")
            .join(kind)
            .join(format!("keepalived-{}.conf", DIRECTORS[i]));
        std::fs::copy(&config, self.director_config(i)?)
            .with_context(|| format!("copying {}", config.display()))?;
        Ok(())
    }

    fn director_config(&self, i: usize) -> Result<PathBuf> {
        let dir = self.dir.path().join(format!("director{}", DIRECTORS[i]));
        std::fs::create_dir_all(&dir)?;
        Ok(dir.join("keepalived.conf"))
    }

    fn director(&mut self, i: usize) -> Result<&mut Daemon> {
        self.directors[i].as_mut().with_context(|| format!("director .{} is off", DIRECTORS[i]))
    }

    /// Until one director holds the virtual address, and the other does not.
    fn await_holder(&mut self, holder: u8) -> Result<Duration> {
        let Self { network, directors, .. } = self;
        let taken = await_that(&format!(".{holder} holds {VIP}"), LONG, || {
            for director in directors.iter_mut().flatten() {
                director.check()?;
            }
            let mut holders = Vec::new();
            for host in DIRECTORS {
                if network.holds(host, VIP)? {
                    holders.push(host);
                }
            }
            Ok(holders == [holder])
        });
        taken.with_context(|| self.logs())
    }

    fn logs(&self) -> String {
        self.directors.iter().flatten().map(Daemon::log).collect::<Vec<_>>().join("\n")
    }

    /// Requests of the client to the virtual address.
    fn get(&self, path: &str, count: usize) -> Result<Vec<Answer>> {
        fetch(&self.network, CLIENT, SocketAddr::from((VIP, 80)), path, count)
    }

    fn load(&self, path: &str) -> Result<Load> {
        Load::start(&self.network, CLIENT, SocketAddr::from((VIP, 80)), path)
    }

    /// What `pointsman ARGS` says on a host.
    fn pointsman(&self, host: u8, args: &[&str]) -> Result<String> {
        let output = self.network.command(host, &self.pointsman).args(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pointsman {}: {said}", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for ReferenceSite {
    fn drop(&mut self) {
        // A stop in good order would wait for somebody to take over.
        for director in self.directors.iter_mut().flatten() {
            let _ = director.kill();
        }
    }
}

/// Smallest useful file, but for the ports. Several proxies agree on who changes the primary.
fn proxy_config() -> String {
    let mut text = format!(
        "[failover]\nagree = true\n\n[[listener]]\naddress = \"127.0.0.1:3306\"\n\n\
         [monitor]\nuser = \"{MONITOR_USER}\"\npassword = \"{MONITOR_PASSWORD}\"\n"
    );
    for (i, host) in DATABASES.into_iter().enumerate() {
        let (name, address) = (i + 1, address(host));
        text += &format!("\n[[server]]\nname = \"db{name}\"\naddress = \"{address}:3306\"\n");
    }
    text
}

fn php_config(dir: &Path) -> String {
    let d = dir.display();
    format!(
        "[global]\nerror_log = {d}/php-fpm-errors.log\n[www]\nuser = root\ngroup = root\n\
         listen = {d}/php.sock\npm = static\npm.max_children = 3\n"
    )
}

fn nginx_config(host: u8, dir: &Path) -> String {
    let d = dir.display();
    // One process: kill -9 is the end of all of it.
    format!(
        "daemon off;\nmaster_process off;\npid {d}/nginx.pid;\nerror_log {d}/error.log;\n\
         events {{}}\n\
         http {{\n access_log off;\n client_body_temp_path {d}/a;\n proxy_temp_path {d}/b;\n \
         fastcgi_temp_path {d}/c;\n uwsgi_temp_path {d}/d;\n scgi_temp_path {d}/e;\n \
         server {{\n  listen 80;\n  server_name web{host};\n  root {d}/htdocs;\n  \
         location ~ \\.php$ {{\n   fastcgi_pass unix:{d}/php.sock;\n   \
         fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;\n   \
         fastcgi_param SERVER_NAME $server_name;\n   \
         fastcgi_param REQUEST_METHOD $request_method;\n   \
         fastcgi_param QUERY_STRING $query_string;\n  }}\n }}\n}}\n"
    )
}

/// A program whose name begins like this (Debian's php-fpm has its version in it).
fn find(prefix: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    for place in places {
        let Ok(entries) = std::fs::read_dir(&place) else { continue };
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let version = |rest: &str| rest.chars().all(|c| c.is_ascii_digit() || c == '.');
        let fits = |name: &std::ffi::OsString| name.to_str()?.strip_prefix(prefix).map(version);
        if let Some(name) = names.iter().rev().find(|name| fits(name) == Some(true)) {
            return Ok(place.join(name));
        }
    }
    bail!("{prefix} is not installed: apt-get install {package}, or cargo xtask setup")
}
