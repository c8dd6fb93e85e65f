//! Hosts in network namespaces on one bridge, as the reference site has them: 192.168.4.0/24,
//! client .254, directors .88 and .99, web servers .33 and .44, virtual address .253.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod program;
pub mod traffic;

use program::director;

pub const VIP: &str = "192.168.4.253";

/// Why namespaces can't be used here; `None` if they can.
pub fn unable() -> Option<&'static str> {
    static ANSWER: OnceLock<Option<&str>> = OnceLock::new();
    *ANSWER.get_or_init(look)
}

/// Whether a test can run that needs these programs, too; if not, why is told.
pub fn able(programs: &[&str]) -> bool {
    let missing =
        || programs.iter().find(|name| !has(name)).map(|name| format!("{name} is not installed"));
    let why = unable().map(str::to_owned).or_else(missing);
    if let Some(why) = &why {
        println!("skipped: {why}");
    }
    why.is_none()
}

fn look() -> Option<&'static str> {
    // SAFETY: plain system call.
    if unsafe { libc::geteuid() } != 0 {
        return Some("needs root");
    }
    let probe = format!("pmd-probe-{}", std::process::id());
    if !run("ip", &["netns", "add", &probe]) {
        return Some("network namespaces can't be made here");
    }
    run("ip", &["netns", "del", &probe]);
    None
}

pub fn has(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

static LABS: AtomicU32 = AtomicU32::new(0);

pub struct Lab {
    prefix: String,
    hosts: Vec<u8>,
    pub dir: tempfile::TempDir,
}

impl Lab {
    pub fn new(hosts: &[u8]) -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("pmd-{}-{number}", std::process::id());
        let lab = Self { prefix, hosts: hosts.to_vec(), dir: tempfile::tempdir().unwrap() };
        let switch = lab.namespace("sw");
        lab.ip(&["netns", "add", &switch]);
        lab.ip(&[
            "-n",
            &switch,
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
            "forward_delay",
            "0",
            "stp_state",
            "0",
        ]);
        lab.ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for &host in hosts {
            let namespace = lab.namespace(host);
            lab.ip(&["netns", "add", &namespace]);
            let port = format!("port{host}");
            lab.ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
                "netns", &namespace,
            ]);
            lab.ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
            lab.ip(&["-n", &namespace, "link", "set", "lo", "up"]);
            let address = format!("192.168.4.{host}/24");
            lab.ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"]);
            let v6 = format!("fd00::{host}/64");
            lab.ip(&["-n", &namespace, "addr", "add", &v6, "dev", "eth0", "nodad"]);
            lab.ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        }
        // Link-local addresses are usable after duplicate address detection.
        for &host in hosts {
            let ready = || {
                let shown = lab.output(host, "ip", &["-6", "addr", "show", "dev", "eth0"]);
                shown.contains("fe80::") && !shown.contains("tentative")
            };
            assert!(eventually(Duration::from_secs(10), ready), "no link-local address");
        }
        lab
    }

    pub fn namespace(&self, host: impl std::fmt::Display) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn ip(&self, args: &[&str]) {
        let out = Command::new("ip").args(args).output().unwrap();
        assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Runs a command on a host and gives its output.
    pub fn output(&self, host: u8, program: &str, args: &[&str]) -> String {
        let out = self.command(host, program).args(args).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    pub fn command(&self, host: u8, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host), program]);
        command
    }

    pub fn holds(&self, host: u8, address: &str) -> bool {
        let shown = self.output(host, "ip", &["-br", "addr", "show", "dev", "eth0"]);
        shown.split_whitespace().any(|w| w.split('/').next() == Some(address))
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn director(&self, host: u8, config: &str) -> Daemon {
        self.director_by(&["env"], host, config)
    }

    /// As [`Lab::director`], started by a program that becomes it.
    pub fn director_by(&self, starter: &[&str], host: u8, config: &str) -> Daemon {
        let file = self.write(&format!("director-{host}.conf"), config);
        let mut command = self.command(host, starter[0]);
        command.args(&starter[1..]).arg(director()).arg(file).arg(self.metrics_file(host));
        Daemon::start(command, self.dir.path().join(format!("director-{host}.log")))
    }

    /// As [`Lab::director`], with tables that outlive it in `bpf`, a BPF file system.
    pub fn director_pinned(&self, host: u8, config: &str, bpf: &Path) -> Daemon {
        let file = self.write(&format!("director-{host}.conf"), config);
        let mut command = self.command(host, director().to_str().unwrap());
        command.arg(file).arg(self.metrics_file(host));
        command.env("POINTSMAN_BPF_DIR", bpf.join("pointsman"));
        Daemon::start(command, self.dir.path().join(format!("director-{host}.log")))
    }

    fn metrics_file(&self, host: u8) -> PathBuf {
        self.dir.path().join(format!("director-{host}.prom"))
    }

    /// A line of /metrics of a director, whose name and labels contain all of `words`.
    pub fn metric(&self, host: u8, words: &[&str]) -> Option<f64> {
        let text = std::fs::read_to_string(self.metrics_file(host)).ok()?;
        let line = text.lines().find(|l| {
            let name = l.split(' ').next().unwrap_or_default();
            !l.starts_with('#') && words.iter().all(|w| name.contains(w))
        })?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn keepalived(&self, host: u8, config: &str) -> Daemon {
        let file = self.write(&format!("keepalived-{host}.conf"), config);
        let mut command = self.command(host, "keepalived");
        let at = |name: &str| self.dir.path().join(format!("{name}-{host}.pid"));
        command.args(["-P", "-n", "-l", "-D", "-f"]).arg(file);
        command.arg("-p").arg(at("keepalived")).arg("-r").arg(at("vrrp"));
        Daemon::start(command, self.dir.path().join(format!("keepalived-{host}.log")))
    }

    /// Cuts a host off without its noticing, or joins it again.
    pub fn cut(&self, host: u8, cut: bool) {
        let switch = self.namespace("sw");
        let port = format!("port{host}");
        if cut {
            self.ip(&["-n", &switch, "link", "set", &port, "nomaster"]);
        } else {
            self.ip(&["-n", &switch, "link", "set", &port, "master", "br0"]);
        }
    }

    pub fn link(&self, host: u8, up: bool) {
        let switch = self.namespace("sw");
        let port = format!("port{host}");
        self.ip(&["-n", &switch, "link", "set", &port, if up { "up" } else { "down" }]);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for &host in &self.hosts {
            run("ip", &["netns", "del", &self.namespace(host)]);
        }
        run("ip", &["netns", "del", &self.namespace("sw")]);
    }
}

/// A program that is ended with the test.
pub struct Daemon {
    pub child: Child,
    pub log: PathBuf,
}

impl Daemon {
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let file = File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file).stdin(Stdio::null());
        Self { child: command.spawn().unwrap(), log }
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child was not waited for yet.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Kills it and what it started, as the kernel's OOM killer would all of keepalived.
    pub fn kill_tree(&self) {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        self.signal(libc::SIGKILL);
        for child in children.unwrap_or_default().split_whitespace() {
            // SAFETY: plain system call.
            unsafe { libc::kill(child.parse().unwrap(), libc::SIGKILL) };
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wait(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(libc::SIGCONT);
            self.signal(libc::SIGTERM);
            if !eventually(Duration::from_secs(6), || {
                matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
            }) {
                self.signal(libc::SIGKILL);
                let _ = self.child.wait();
            }
        }
    }
}

/// Waits for a condition.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A thread in a host's namespace.
pub fn in_namespace<T: Send + 'static>(
    namespace: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(move || {
        let file = File::open(Path::new("/run/netns").join(namespace)).unwrap();
        // SAFETY: only this thread changes its namespace.
        assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
        work()
    })
}

/// When an answer came, and its TTL: hosts can be told apart by it.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub at: Instant,
    pub ttl: u8,
}

/// Sends an ICMP echo every so often and keeps when answers came.
pub struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Answer>>,
}

impl Prober {
    pub fn start(lab: &Lab, host: u8, to: &str, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let to: Ipv4Addr = to.parse().unwrap();
        let thread = in_namespace(lab.namespace(host), {
            let stop = Arc::clone(&stop);
            move || probe(to, every, &stop)
        });
        Self { stop, thread }
    }

    /// The longest time without an answer.
    pub fn longest_gap(self) -> Duration {
        let end = Instant::now();
        let mut times: Vec<Instant> = self.answers().iter().map(|a| a.at).collect();
        assert!(!times.is_empty(), "no answer at all");
        times.push(end);
        times.windows(2).map(|w| w[1].saturating_duration_since(w[0])).max().unwrap()
    }

    pub fn answers(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn probe(to: Ipv4Addr, every: Duration, stop: &AtomicBool) -> Vec<Answer> {
    let socket = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::RAW,
        Some(socket2::Protocol::ICMPV4),
    )
    .unwrap();
    socket.set_nonblocking(true).unwrap();
    let target = std::net::SocketAddr::from((to, 0)).into();
    let mut answers = Vec::new();
    let mut next = Instant::now();
    let mut sequence = 0u16;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 256];
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            next += every;
            sequence = sequence.wrapping_add(1);
            let [s0, s1] = sequence.to_be_bytes();
            let mut packet = [8, 0, 0, 0, 0x70, 0x6d, s0, s1];
            let sum = 0x0800 + 0x706d + u32::from(sequence);
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
            let _ = socket.send_to(&packet, &target);
        }
        // Not a read timeout: the kernel rounds those up to ticks of 4 ms.
        let mut polled = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = libc::timespec { tv_sec: 0, tv_nsec: 200_000 };
        // SAFETY: one descriptor, and a limit that outlives the call.
        unsafe { libc::ppoll(&mut polled, 1, &limit, std::ptr::null()) };
        while let Ok((length, from)) = socket.recv_from(&mut buffer)
            && length >= 28
            && from.as_socket_ipv4().is_some_and(|a| *a.ip() == to)
        {
            // SAFETY: the kernel wrote `length` bytes.
            let (ttl, kind) = unsafe { (buffer[8].assume_init(), buffer[20].assume_init()) };
            if kind == 0 {
                answers.push(Answer { at: Instant::now(), ttl });
            }
        }
    }
    answers
}
