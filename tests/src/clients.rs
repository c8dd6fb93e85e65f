//! Real clients.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};
use mysql_async::{Conn, OptsBuilder};
use serde_json::Value;

use crate::{APP_PASSWORD, APP_USER, Site};

/// The application's account at a port of this host, as a driver for async Rust logs in.
///
/// # Errors
/// The driver's own: nobody listens there, or the login is refused.
pub async fn connect(port: u16) -> Result<Conn, mysql_async::Error> {
    let opts = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some(APP_USER))
        .pass(Some(APP_PASSWORD))
        .db_name(Some("app"))
        .prefer_socket(false);
    Conn::new(opts).await
}

/// `tests/php/NAME`.
pub fn php_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("php").join(name)
}

/// What a program said.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn of(command: &mut Command) -> Self {
        let output = command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("can't run {command:?}: {error}"));
        Self {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its standard output; a failure is the test's failure.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.status.success(),
            "{}\n--- stdout\n{}--- stderr\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }
}

impl Site {
    /// `tests/php/SCRIPT` with the proxy's port before `args`.
    pub fn php(&self, script: &str, args: &[&str]) -> Output {
        let mut command = Command::new("php");
        command.arg(php_script(script)).arg(self.port().to_string()).args(args);
        Output::of(&mut command)
    }

    /// The `mariadb` client at `port`, in batch mode, columns divided by tabs.
    pub fn mariadb_at(port: u16, args: &[&str], sql: &str) -> Output {
        let mut command = Command::new("mariadb");
        command
            .args(["--no-defaults", "-h127.0.0.1", "--batch", "--skip-column-names"])
            .args([format!("-P{port}"), format!("-u{APP_USER}"), format!("-p{APP_PASSWORD}")])
            .arg("--default-character-set=utf8mb4")
            .args(args)
            .arg(format!("--execute={sql}"))
            .arg("app");
        Output::of(&mut command)
    }

    /// The `mariadb` client through the proxy; all statements on one connection.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        Self::mariadb_at(self.port(), &[], sql).ok()
    }

    /// A sysbench test for some seconds; `prepare` fills its table first. Returns what it printed.
    #[track_caller]
    pub fn sysbench(&self, test: &str, ps_mode: &str, seconds: u32, threads: u32) -> String {
        self.sysbench_command(test, ps_mode, seconds, threads, "run").ok()
    }

    #[track_caller]
    pub fn sysbench_prepare(&self) {
        self.sysbench_command("oltp_read_write", "auto", 0, 1, "prepare").ok();
    }

    fn sysbench_command(
        &self,
        test: &str,
        ps_mode: &str,
        seconds: u32,
        threads: u32,
        what: &str,
    ) -> Output {
        let mut command = Command::new("sysbench");
        command
            .arg(test)
            .arg("--mysql-host=127.0.0.1")
            .arg(format!("--mysql-port={}", self.port()))
            .arg(format!("--mysql-user={APP_USER}"))
            .arg(format!("--mysql-password={APP_PASSWORD}"))
            .args(["--mysql-db=app", "--tables=1", "--table-size=2000"])
            .args([format!("--threads={threads}"), format!("--time={seconds}")])
            .arg(format!("--db-ps-mode={ps_mode}"))
            .arg(what);
        Output::of(&mut command)
    }
}

/// `tests/php/load.php`, running.
pub struct Load {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    pub fn start(site: &Site) -> Result<Self> {
        let mut child = Command::new("php")
            .arg(php_script("load.php"))
            .args([site.port().to_string(), "120".to_owned()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("can't run php")?;
        let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the load did not start: {line}");
        Ok(Self { child, stdout })
    }

    /// Ends it and returns its counts.
    pub fn stop(mut self) -> Result<Value> {
        self.child.stdin.take().context("once only")?.write_all(b"stop\n")?;
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        ensure!(self.child.wait()?.success(), "the load failed: {text}");
        serde_json::from_str(&text).with_context(|| text.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
