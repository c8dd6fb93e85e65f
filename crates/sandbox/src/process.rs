//! Child processes that can't outlive their parent, and ports for them.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::{Mutex, OnceLock, mpsc};

use anyhow::{Context as _, Result};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts `command` so that the kernel kills it when this process dies, however it dies.
///
/// `PR_SET_PDEATHSIG` watches the *thread* that forked, and tests start sandboxes from threads that
/// end early: so one thread that lives as long as the process does all the forking.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn(mut command: Command) -> io::Result<Child> {
    static FORKER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let forker = FORKER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("sandbox-forker".to_owned())
            .spawn(move || {
                for (mut command, answer) in jobs {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("the process can start a thread");
        Mutex::new(sender)
    });

    let parent = Pid::this();
    let die_with_parent = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above took effect.
        if getppid() != parent {
            return Err(io::Error::other("the parent is gone"));
        }
        Ok(())
    };
    // A group of its own: Ctrl-C in the terminal is for the parent alone, which ends its children.
    command.process_group(0);
    // SAFETY: the closure makes two system calls and allocates nothing unless it fails.
    unsafe { command.pre_exec(die_with_parent) };

    let (sender, answer) = mpsc::channel();
    forker
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .send((command, sender))
        .map_err(|_| io::Error::other("the forking thread is gone"))?;
    answer.recv().map_err(|_| io::Error::other("the forking thread is gone"))?
}

/// A TCP port on 127.0.0.1 that nobody listens on, from 10000 to 31999: below the range that
/// outgoing connections take their ports from, which could otherwise hold it when it is needed.
///
/// It stays this process's until it ends: others that ask here get other ports, even while nobody
/// listens on this one, as between a server's death and its restart.
///
/// # Errors
/// No free port among many tried.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 10_000;
    const COUNT: u64 = 22_000;
    let random = RandomState::new();
    (0..1000_u64)
        .find_map(|i| {
            let port = FIRST + u16::try_from(random.hash_one(i) % COUNT).ok()?;
            let claim = claim(port)?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
            std::mem::forget(claim);
            Some(port)
        })
        .context("no free port on 127.0.0.1 between 10000 and 31999")
}

/// An abstract socket of the port's name: only one can have it, it leaves no file behind, the kernel
/// closes it with the process, and it reaches as far as the port does, the network namespace.
fn claim(port: u16) -> Option<UnixDatagram> {
    let name = format!("pointsman-port-{port}");
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_out_once() {
        let mut ports: Vec<_> = (0..300).map(|_| free_port().expect("there are many")).collect();
        assert!(ports.iter().all(|port| claim(*port).is_none()));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 300);
    }
}
