//! What stands between client and server.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use pointsman_sandbox::{Sandbox, free_port, wait_until};
use pointsman_tests::{Raw, http_get};

use crate::cpu;

/// A way to the servers. Its process, if it has one, ends on drop.
pub struct Forwarder {
    pub name: &'static str,
    child: Option<Child>,
    /// Where reads go.
    pub reads: u16,
    /// Where all else goes.
    pub writes: u16,
}

const START: Duration = Duration::from_secs(20);

impl Forwarder {
    pub fn direct(sandbox: &Sandbox) -> Self {
        Self {
            name: "direct",
            child: None,
            reads: sandbox.replicas()[0].port(),
            writes: sandbox.primary().port(),
        }
    }

    /// HAProxy reads nothing, so it is told by the port what is a read: the least a proxy can do.
    pub fn haproxy(sandbox: &Sandbox) -> Result<Self> {
        let (reads, writes) = (free_port()?, free_port()?);
        let config = sandbox.dir().join("haproxy.cfg");
        std::fs::write(
            &config,
            format!(
                "global\n  nbthread 2\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
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
        let forwarder = Self { name: "haproxy", child: Some(child), reads, writes };
        wait_until("haproxy forwards", START, || Ok(Raw::connect(reads).is_ok()))?;
        Ok(forwarder)
    }

    pub fn pointsman(sandbox: &Sandbox, binary: &Path) -> Result<Self> {
        let (port, admin) = (free_port()?, free_port()?);
        let config = sandbox.dir().join("bench.toml");
        sandbox.write_proxy_config(&config, port, admin, "workers = 2\n")?;
        let child = Command::new(binary)
            .args(["proxy", "--log", "error", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("can't run {}", binary.display()))?;
        let forwarder = Self { name: "pointsman", child: Some(child), reads: port, writes: port };
        wait_until("pointsman reads from the replica", START, || {
            if http_get(admin, "/readyz")?.0 != 200 {
                return Ok(false);
            }
            Ok(Raw::connect(port)?.one("SELECT @@server_id")? == "2")
        })?;
        Ok(forwarder)
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
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
