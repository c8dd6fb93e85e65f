//! MariaDB's own programs, which read a server's data and write them to another.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pointsman_config::proxy::Account;
use pointsman_config::tls::{ServerTls, ServerTlsMode};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

/// Where they are.
#[derive(Debug)]
pub(super) struct Programs {
    dump: PathBuf,
    client: PathBuf,
}

/// A server, as these programs log in to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) account: &'a Account,
    pub(super) tls: &'a ServerTls,
    /// Whether the server offers TLS.
    pub(super) secure: bool,
}

impl Programs {
    /// Looks for them in `PATH`. They must be MariaDB's, and no older than the servers' `version`.
    pub(super) async fn find(version: (u32, u32)) -> Result<Self, String> {
        let found = Self { dump: find("mariadb-dump")?, client: find("mariadb")? };
        let output = Command::new(&found.dump)
            .args(["--no-defaults", "--version"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| format!("{} can't be run: {e}", found.dump.display()))?;
        let line = String::from_utf8_lossy(&output.stdout);
        let own = self::version(&line)
            .ok_or_else(|| format!("{} is not MariaDB's: {line}", found.dump.display()))?;
        if own < version {
            return Err(format!(
                "{} is of MariaDB {}.{}, the servers are {}.{}: install mariadb-client of their \
                 version",
                found.dump.display(),
                own.0,
                own.1,
                version.0,
                version.1
            ));
        }
        Ok(found)
    }

    /// Reads from `place`; what it is to read is still to be added.
    pub(super) fn dump(&self, place: Place<'_>) -> Command {
        let mut command = command(&self.dump, place);
        command.args(["--hex-blob", "--max-allowed-packet=1G", "--skip-lock-tables"]);
        command.args(["--skip-dump-date", "--complete-insert"]);
        command.stdin(Stdio::null());
        command
    }

    /// Does at `place` what it reads from its input.
    pub(super) fn client(&self, place: Place<'_>) -> Command {
        let mut command = command(&self.client, place);
        // A new connection would not know what was set before.
        command.args(["--batch", "--binary-mode", "--skip-reconnect", "--max-allowed-packet=1G"]);
        command.stdin(Stdio::piped());
        command
    }
}

fn command(program: &Path, place: Place<'_>) -> Command {
    let mut command = Command::new(program);
    command
        .arg("--no-defaults")
        .arg("--protocol=tcp")
        .arg(format!("--host={}", place.host))
        .arg(format!("--port={}", place.port))
        .arg(format!("--user={}", place.account.user))
        .arg("--default-character-set=utf8mb4")
        // Only its owner and root can see a process's environment.
        .env("MYSQL_PWD", place.account.password.expose())
        .env_remove("MYSQL_HOST")
        .env("LC_ALL", "C")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for option in tls_options(place.tls, place.secure) {
        command.arg(option);
    }
    command
}

/// As `[server.tls]` says. These programs can't check the certificate without the name in it, so
/// `verify-ca` is as strict as `verify-identity` here.
fn tls_options(tls: &ServerTls, offered: bool) -> Vec<String> {
    let verify = match tls.mode {
        ServerTlsMode::Disabled => return vec!["--skip-ssl".to_owned()],
        ServerTlsMode::AsClient | ServerTlsMode::Preferred if !offered => {
            return vec!["--skip-ssl".to_owned()];
        }
        ServerTlsMode::AsClient | ServerTlsMode::Preferred | ServerTlsMode::Required => false,
        ServerTlsMode::VerifyCa | ServerTlsMode::VerifyIdentity => true,
    };
    let skip = if verify { "" } else { "skip-" };
    let mut options = vec!["--ssl".to_owned(), format!("--{skip}ssl-verify-server-cert")];
    let mut file = |name: &str, path: &Path| options.push(format!("--{name}={}", path.display()));
    if let Some(ca) = &tls.ca {
        file("ssl-ca", ca);
    }
    if let Some(identity) = &tls.identity {
        file("ssl-cert", &identity.certificate);
        file("ssl-key", &identity.key);
    }
    options
}

fn find(name: &str) -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        format!(
            "{name} is not installed on the machine that Pointsman runs on: install the package \
             mariadb-client, or set [failover] rebuild_command"
        )
    })
}

/// "mariadb-dump  Ver 10.19 Distrib 10.11.6-MariaDB", "mariadb-dump from 11.4.2-MariaDB, client ...":
/// major and minor.
pub(super) fn version(line: &str) -> Option<(u32, u32)> {
    let word = line.split_whitespace().find(|word| word.contains("-MariaDB"))?;
    let mut numbers = word.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A program under way, and what it complains of.
pub(super) struct Running {
    pub(super) child: Child,
    complaints: JoinHandle<String>,
    /// For errors: "mariadb-dump".
    name: &'static str,
}

impl Running {
    pub(super) fn start(mut command: Command, name: &'static str) -> Result<Self, String> {
        let mut child = command.spawn().map_err(|e| format!("{name} can't be run: {e}"))?;
        let complaints = tokio::spawn(last_words(child.stderr.take()));
        Ok(Self { child, complaints, name })
    }

    /// Waits for its end; an error if it did not end well.
    pub(super) async fn ended(mut self) -> Result<(), String> {
        let status = self.child.wait().await.map_err(|e| format!("{}: {e}", self.name))?;
        if status.success() {
            return Ok(());
        }
        let words = self.complaints.await.unwrap_or_default();
        Err(match words.trim() {
            "" => format!("{} ended with {status}", self.name),
            words => format!("{}: {words}", self.name),
        })
    }
}

/// The end of what a program writes there, in one line.
async fn last_words(from: Option<ChildStderr>) -> String {
    const KEPT: usize = 1000;
    let Some(mut from) = from else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..n]);
        let more = kept.len().saturating_sub(KEPT);
        kept.drain(..more);
    }
    String::from_utf8_lossy(&kept).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_both_generations_write_them() {
        let old = "mariadb-dump  Ver 10.19 Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)";
        assert_eq!(version(old), Some((10, 11)));
        let new = "mariadb-dump from 11.4.2-MariaDB, client 10.19 for Linux (x86_64)";
        assert_eq!(version(new), Some((11, 4)));
        assert_eq!(version("10.11.6-MariaDB-log"), Some((10, 11)));
        assert_eq!(version("mysqldump  Ver 8.0.36 for Linux on x86_64"), None);
    }
}
