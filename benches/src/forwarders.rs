//! What stands between client and server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use pointsman_sandbox::{Sandbox, free_port, wait_until};
use pointsman_tests::{Pem, Raw, http_get};

use crate::connection::Connection;

use crate::cpu;

/// A way to the servers. Its process, if it has one, ends on drop.
pub struct Forwarder {
    pub name: String,
    child: Option<Child>,
    pid: Option<u32>,
    /// Where reads go.
    pub reads: SocketAddr,
    /// Where all else goes.
    pub writes: SocketAddr,
    /// It can be reached with TLS, by a certificate of our CA.
    pub tls: bool,
}

/// Another proxy before the same servers, started by whoever wants to compare:
/// `NAME=HOST:PORT:PID`.
#[derive(Debug, Clone)]
pub struct Other {
    name: String,
    address: SocketAddr,
    pid: u32,
}

impl FromStr for Other {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (name, rest) = text.split_once('=')?;
            let (address, pid) = rest.rsplit_once(':')?;
            Some(Self {
                name: name.to_owned(),
                address: address.parse().ok()?,
                pid: pid.parse().ok()?,
            })
        };
        match parse() {
            Some(other) => Ok(other),
            None => bail!("NAME=ADDRESS:PORT:PID is wanted, as in maxscale=127.0.0.1:4006:1234"),
        }
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

const START: Duration = Duration::from_secs(20);

impl Forwarder {
    pub fn direct(sandbox: &Sandbox) -> Self {
        Self {
            name: "direct".to_owned(),
            child: None,
            pid: None,
            reads: local(sandbox.replicas()[0].port()),
            writes: local(sandbox.primary().port()),
            tls: true,
        }
    }

    /// Waits until it answers.
    pub fn other(other: Other) -> Result<Self> {
        wait_until("the other proxy answers", START, || {
            Ok(Connection::open(other.address, None).is_ok())
        })
        .with_context(|| format!("{} at {}", other.name, other.address))?;
        Ok(Self {
            name: other.name,
            child: None,
            pid: Some(other.pid),
            reads: other.address,
            writes: other.address,
            tls: false,
        })
    }

    /// HAProxy reads nothing, so it is told by the port what is a read: the least a proxy can do.
    pub fn haproxy(sandbox: &Sandbox) -> Result<Self> {
        let (reads, writes) = (free_port()?, free_port()?);
        let config = sandbox.dir().join("haproxy.cfg");
        std::fs::write(
            &config,
            format!(
                "global\n  nbthread 2\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
                 timeout client 1h\n  timeout server 1h\n\
                 listen reads\n  bind 127.0.0.1:{reads}\n  server db2 127.0.0.1:{}\n\
                 listen writes\n  bind 127.0.0.1:{writes}\n  server db1 127.0.0.1:{}\n",
                sandbox.replicas()[0].port(),
                sandbox.primary().port()
            ),
        )?;
        let program = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"];
        let program = program.iter().find(|p| Path::new(p).exists()).unwrap_or(&"haproxy");
        let child = Command::new(program)
            .args(["-db", "-q", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()
            .context("can't run haproxy")?;
        let forwarder = Self::started("haproxy", child, reads, writes);
        wait_until("haproxy forwards", START, || Ok(Raw::connect(reads).is_ok()))?;
        Ok(forwarder)
    }

    fn started(name: &str, child: Child, reads: u16, writes: u16) -> Self {
        let (name, pid) = (name.to_owned(), Some(child.id()));
        Self {
            name,
            child: Some(child),
            pid,
            reads: local(reads),
            writes: local(writes),
            tls: true,
        }
    }

    /// `certificate`: for clients that want TLS.
    pub fn pointsman(
        name: &str,
        sandbox: &Sandbox,
        binary: &Path,
        certificate: &Pem,
    ) -> Result<Self> {
        let (port, admin) = (free_port()?, free_port()?);
        let config = sandbox.dir().join(format!("{name}.toml"));
        sandbox.write_proxy_config(&config, port, admin, "workers = 2\n")?;
        let tls = format!("[[listener]]\ntls = {{ {} }}\n", certificate.toml());
        let text = std::fs::read_to_string(&config)?.replacen("[[listener]]\n", &tls, 1);
        std::fs::write(&config, text)?;
        let child = Command::new(binary)
            .args(["proxy", "--log", "error", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("can't run {}", binary.display()))?;
        let forwarder = Self::started(name, child, port, port);
        wait_until("pointsman reads from the replica", START, || {
            if http_get(admin, "/readyz")?.0 != 200 {
                return Ok(false);
            }
            Ok(Raw::connect(port)?.one("SELECT @@server_id")? == "2")
        })?;
        Ok(forwarder)
    }

    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// CPU time so far; 0 for none.
    pub fn cpu_ns(&self) -> Result<u64> {
        self.pid().map_or(Ok(0), cpu::process_ns)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
