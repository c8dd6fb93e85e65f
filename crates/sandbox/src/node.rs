//! One database server of a sandbox.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::flavour::{Flavour, Programs};
use crate::group::{self, Plan};
use crate::host::{Host, MYSQL_PORT};
use crate::process::{free_port, spawn};
use crate::{check_socket_path, template, wait_until};

/// On a machine with more to do than it can, starting takes its time.
const START_TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A database server and its directory. Killed when dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    host: Host,
    port: u16,
    server_id: u32,
    dir: PathBuf,
    socket: PathBuf,
    programs: Programs,
    template: PathBuf,
    args: Vec<String>,
    /// Besides, when it starts for the first time.
    first_args: Mutex<Vec<String>>,
    /// Besides, at each start from now on.
    later_args: Mutex<Vec<String>>,
    /// It is one of a cluster that elects for itself.
    in_group: bool,
    child: Mutex<Option<Child>>,
}

impl Node {
    /// Makes and starts node number `i`, counted from 0, in `room`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn create(
        programs: Programs,
        template: PathBuf,
        room: &Path,
        i: usize,
        host: Option<&Host>,
        port: Option<u16>,
        extra_args: &[String],
        plan: Option<&Plan>,
    ) -> Result<Self> {
        let server_id = u32::try_from(i).context("too many nodes")? + 1;
        let name = format!("db{server_id}");
        let dir = room.join(&name);
        let socket = dir.join("sock");
        check_socket_path(&socket)?;
        fs::create_dir(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        fs::create_dir(dir.join("tmp"))?;
        template::copy(&template, &dir.join("data"))?;

        let mut args = vec![format!("--datadir={}", dir.join("data").display())];
        args.push(format!("--tmpdir={}", dir.join("tmp").display()));
        args.push(format!("--socket={}", socket.display()));
        args.push(format!("--pid-file={}", dir.join("pid").display()));
        args.push(format!("--general-log-file={}", dir.join("general.log").display()));
        args.push(format!("--server-id={server_id}"));
        if i > 0 && plan.is_none() {
            args.extend(programs.replica_args().iter().map(ToString::to_string));
        }
        let port = port.or(host.map(|_| MYSQL_PORT));
        let host = host.cloned().unwrap_or_default();
        args.push(format!("--bind-address={}", host.address));
        args.push(format!("--report-host={}", host.address));
        let before_plan = args.len();

        let mut node = Self {
            name,
            host,
            port: 0,
            server_id,
            dir,
            socket,
            programs,
            template,
            args,
            first_args: Mutex::default(),
            later_args: Mutex::default(),
            in_group: plan.is_some(),
            child: Mutex::new(None),
        };
        // Programs that do not ask for ports as we do may take one a moment later.
        let mut attempts = if port.is_some() { 1 } else { 5 };
        loop {
            node.port = port.map_or_else(free_port, Ok)?;
            attempts -= 1;
            node.args.truncate(before_plan);
            if let Some(plan) = plan {
                node.args.extend(plan.args(i, node.port));
                node.first_args = Mutex::new(plan.first_args(i));
            }
            node.args.extend_from_slice(extra_args);
            match node.start() {
                Ok(()) => return Ok(node),
                Err(_) if attempts > 0 && node.stderr_tail().contains("Bind on TCP/IP port") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// `db1` and so on.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.host.address, self.port))
    }

    /// The unix socket; `root` has no password there.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `@@server_id`.
    #[must_use]
    pub fn server_id(&self) -> u32 {
        self.server_id
    }

    /// Of the server process, if it was started and not ended by us.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Whether the process lives; one that is paused does.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the server with the data it has; returns once it answers and, if it is one of a
    /// cluster, has joined it. Nothing if it runs already.
    ///
    /// # Errors
    /// It does not come up within 90 s; shows the end of its stderr.
    pub fn start(&self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let first_args =
            std::mem::take(&mut *self.first_args.lock().unwrap_or_else(PoisonError::into_inner));
        let again = self.in_group && first_args.is_empty();
        let mut more = first_args;
        more.extend_from_slice(&self.later_args.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(position) = self.recover()? {
            more.push(format!("--wsrep-start-position={position}"));
        }
        // A Galera node gives up if the others still know one at its address, until they have put
        // that out.
        let mut attempts = if again && self.flavour() == Flavour::MariaDb { 3 } else { 1 };
        while let Err(error) = self.launch(&more) {
            attempts -= 1;
            if attempts == 0 {
                return Err(error);
            }
        }
        if again { self.wait_member() } else { Ok(()) }
    }

    /// What its configuration says besides, from its next start on.
    pub fn configure(&self, args: &[&str]) {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        *self.later_args.lock().unwrap_or_else(PoisonError::into_inner) = args;
    }

    /// Waits until it takes part in its cluster.
    pub(crate) fn wait_member(&self) -> Result<()> {
        let joined =
            wait_until("it joins its cluster", group::JOIN_TIMEOUT, || group::is_member(self));
        joined.with_context(|| format!("{}:\n{}", self.name, self.stderr_tail()))
    }

    /// What `mysqld_safe` does before it starts a Galera node that was killed.
    fn recover(&self) -> Result<Option<String>> {
        let data = self.dir.join("data");
        if !self.in_group || self.flavour() != Flavour::MariaDb || !group::is_unclean(&data) {
            return Ok(None);
        }
        let mut command = self.host.enter(self.programs.server());
        command.args(&self.args).arg("--wsrep-recover").stdin(Stdio::null());
        let output = command.output().context("can't find out where it stood")?;
        Ok(group::recovered_position(&String::from_utf8_lossy(&output.stderr)))
    }

    fn launch(&self, more: &[String]) -> Result<()> {
        let stderr_path = self.dir.join("stderr.log");
        let stderr = File::create(&stderr_path)
            .with_context(|| format!("can't write {}", stderr_path.display()))?;
        // A killed server leaves its socket; connecting to it would be refused, not answered.
        let _ = fs::remove_file(&self.socket);
        let mut command = self.host.enter(self.programs.server());
        let program = command.get_program().to_owned();
        command
            .args(&self.args)
            .args(more)
            .arg(format!("--port={}", self.port))
            .stdin(Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr);
        *self.child() = Some(
            spawn(command)
                .with_context(|| format!("can't run {}", Path::new(&program).display()))?,
        );
        let limit = if self.in_group { group::JOIN_TIMEOUT } else { START_TIMEOUT };
        let deadline = Instant::now() + limit;
        while !self.greets() {
            let exited = match self.child().as_mut() {
                Some(child) => child.try_wait()?,
                None => bail!("{} was stopped while it started", self.name),
            };
            if let Some(status) = exited {
                *self.child() = None;
                bail!("{} ended with {status}:\n{}", self.name, self.stderr_tail());
            }
            if Instant::now() > deadline {
                let _ = self.kill9();
                bail!("{} is not up within {limit:?}:\n{}", self.name, self.stderr_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether the server sends a handshake (not an error packet) to who connects.
    fn greets(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(&self.socket) else { return false };
        let mut head = [0; 5];
        stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
            && stream.read_exact(&mut head).is_ok()
            && head[4] == 10
    }

    /// The last lines the server wrote to stderr.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        let text = fs::read(self.dir.join("stderr.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// `kill -9`, as a crash: returns once the process is gone. Nothing if it does not run.
    ///
    /// # Errors
    /// The process can't be waited for.
    pub fn kill9(&self) -> Result<()> {
        if let Some(mut child) = self.child().take() {
            child.kill().with_context(|| format!("can't kill {}", self.name))?;
            child.wait().with_context(|| format!("can't wait for {}", self.name))?;
        }
        Ok(())
    }

    /// A clean shutdown; returns once the process is gone. Nothing if it does not run.
    ///
    /// # Errors
    /// It takes more than 30 s (it is killed then) or ends with a failure.
    pub fn stop(&self) -> Result<()> {
        let Some(mut child) = self.child().take() else { return Ok(()) };
        signal(&child, Signal::SIGCONT)?;
        signal(&child, Signal::SIGTERM)?;
        let mut status = None;
        let stopped = wait_until("clean shutdown", STOP_TIMEOUT, || {
            status = child.try_wait()?;
            Ok(status.is_some())
        });
        if let Err(error) = stopped {
            child.kill()?;
            child.wait()?;
            return Err(error.context(format!(
                "{} was killed:\n{}",
                self.name,
                self.stderr_tail()
            )));
        }
        ensure!(
            status.is_some_and(|s| s.success() || s.signal() == Some(15)),
            "{} ended with a failure:\n{}",
            self.name,
            self.stderr_tail()
        );
        Ok(())
    }

    /// `SIGSTOP`: the server hangs; the kernel still accepts connections for it.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// `SIGCONT`.
    ///
    /// # Errors
    /// It does not run.
    pub fn unpause(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, what: Signal) -> Result<()> {
        let child = self.child();
        signal(child.as_ref().with_context(|| format!("{} does not run", self.name))?, what)
    }

    /// Cuts a Galera member off from the others, or lets it back: clients reach it all the while.
    ///
    /// # Errors
    /// It is none, or does not answer.
    pub fn isolate(&self, cut_off: bool) -> Result<()> {
        let isolate = u8::from(cut_off);
        self.client_sql(&format!("SET GLOBAL wsrep_provider_options = 'gmcast.isolate={isolate}'"))
            .map(drop)
    }

    /// Kills the server and starts it with an empty data directory: no accounts but `root`, no
    /// database `app`, no replication, the same address and `@@server_id`. A member of a Galera
    /// cluster gets a full copy of another one's data then.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn reinstall(&self) -> Result<()> {
        self.kill9()?;
        let data = self.dir.join("data");
        fs::remove_dir_all(&data).with_context(|| format!("can't remove {}", data.display()))?;
        template::copy(&self.template, &data)?;
        // What it copied is no state that it could go on from.
        let _ = fs::remove_file(data.join("grastate.dat"));
        self.start()
    }

    /// Runs statements as `root` on the unix socket with the server's own client (`mariadb`,
    /// `mysql`), and returns the rows as it prints them: columns divided by tabs, no header.
    ///
    /// # Errors
    /// What the client or the server complains of.
    pub fn client_sql(&self, sql: &str) -> Result<String> {
        let output = self
            .client()
            .args(["--user=root", "--batch", "--skip-column-names", "--comments"])
            .args(["--default-character-set=utf8mb4", "--connect-timeout=5"])
            .arg(format!("--socket={}", self.socket.display()))
            .arg(format!("--execute={sql}"))
            .stdin(Stdio::null())
            .output()
            .context("can't run the client")?;
        ensure!(
            output.status.success(),
            "{}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The client program that comes with the server, with `--no-defaults` and nothing else: for
    /// running it against other addresses.
    #[must_use]
    pub fn client(&self) -> Command {
        self.programs.client()
    }

    /// Which server it is.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.programs.flavour()
    }

    /// What the server has committed, in its flavour's own notation of GTIDs.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn position(&self) -> Result<String> {
        Ok(self.client_sql(self.programs.position_sql())?.trim().to_owned())
    }

    /// A global status counter, e.g. `Com_insert`.
    ///
    /// # Errors
    /// There is no such counter.
    pub fn status(&self, name: &str) -> Result<u64> {
        let row = self.client_sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
        let value = row.trim().rsplit('\t').next().unwrap_or_default();
        value.parse().with_context(|| format!("{}: status {name} is {value:?}", self.name))
    }

    /// Turns the general log, which holds every statement the server is sent, on or off.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn set_general_log(&self, on: bool) -> Result<()> {
        self.client_sql(&format!("SET GLOBAL general_log = {}", u8::from(on))).map(drop)
    }

    /// What is in the general log; empty if it was never on. Statements keep their line breaks.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn general_log(&self) -> Result<String> {
        let path = self.dir.join("general.log");
        match fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }

    /// Empties the general log.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn clear_general_log(&self) -> Result<()> {
        let path = self.dir.join("general.log");
        if path.exists() {
            // The server appends, so it goes on at the new end.
            File::create(&path).with_context(|| format!("can't empty {}", path.display()))?;
        }
        Ok(())
    }

    /// Makes this server follow `source` from where it stands. Leaves `read_only` alone.
    ///
    /// # Errors
    /// The server refuses.
    pub fn replicate_from(&self, source: &Node) -> Result<()> {
        self.client_sql(&self.programs.replicate_sql(source.address())).map(drop)
    }

    /// Waits until this server has applied `position` (as in [`Node::position`]).
    ///
    /// # Errors
    /// Not within `timeout`; shows what replication says.
    pub fn wait_applied(&self, position: &str, timeout: Duration) -> Result<()> {
        let seconds = timeout.as_secs_f64();
        let waited = self.client_sql(&self.programs.wait_sql(position, seconds))?;
        if waited.trim() != "0" {
            bail!(
                "{} has not applied {position} within {timeout:?}:\n{}",
                self.name,
                self.client_sql(self.programs.replication_status_sql())?
            );
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id()).context("process id out of range")?;
    kill(Pid::from_raw(pid), signal).with_context(|| format!("can't send {signal} to {pid}"))
}
