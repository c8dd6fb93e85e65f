//! Signals as a descriptor, and scripts as children.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::{check, check_size, own};
use crate::config::Script;

/// Signals of this thread, read instead of caught.
pub(crate) struct Signals {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Signals {
    /// Blocks `signals` in this thread, and in those it starts, and queues them here.
    pub fn take(signals: &[libc::c_int]) -> io::Result<Self> {
        // SAFETY: the sets are initialised by sigemptyset and sigprocmask before they are read.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, *signal);
            }
            check(-libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before))?;
            let fd = own(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            Ok(Self { fd, before })
        }
    }

    /// The next signal waiting.
    pub fn next(&self) -> Option<libc::c_int> {
        // SAFETY: all-zero is valid, and the size given is the buffer's.
        unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            let read = libc::read(self.fd.as_raw_fd(), std::ptr::from_mut(&mut info).cast(), size);
            check_size(read).is_ok_and(|n| n == size).then_some(info.ssi_signo as libc::c_int)
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: `before` was filled in by take.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// A descriptor other threads make readable to wake the one that waits on it.
pub(crate) struct Waker {
    fd: OwnedFd,
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Waker {
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Self { fd })
    }

    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes, as an eventfd wants them. A full counter is awake already.
        unsafe { libc::write(self.fd.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    }

    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes.
        unsafe { libc::read(self.fd.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8) };
    }
}

/// Starts a script in the background, with `extra` arguments after its own.
pub(crate) fn start(script: &Script, extra: &[&str]) -> io::Result<Child> {
    let Some((program, arguments)) = script.command.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut command = Command::new(program);
    command.args(arguments).args(extra).stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(user) = &script.user {
        let (uid, gid) = lookup(&user.name, user.group.as_deref())?;
        command.uid(uid).gid(gid);
    }
    // SAFETY: only calls that are safe after fork. The child must not inherit our blocked signals,
    // and a group of its own lets a timeout end all of it.
    unsafe {
        command.pre_exec(|| {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            libc::setpgid(0, 0);
            Ok(())
        });
    }
    command.spawn()
}

/// Ends a script and what it started.
pub(crate) fn kill_group(child: &Child) {
    // SAFETY: the child is the leader of a group of its own and was not reaped yet.
    unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
}

/// Numbers of a user and its group, from /etc/passwd and /etc/group or plain numbers.
pub(crate) fn lookup(user: &str, group: Option<&str>) -> io::Result<(u32, u32)> {
    let missing = |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("no {what}"));
    let field = |file: &str, name: &str| -> Option<Vec<String>> {
        std::fs::read_to_string(file).ok()?.lines().find_map(|line| {
            let fields: Vec<String> = line.split(':').map(str::to_owned).collect();
            (fields.first()? == name).then_some(fields)
        })
    };
    let (uid, own_gid) = match user.parse() {
        Ok(uid) => (uid, None),
        Err(_) => {
            let entry =
                field("/etc/passwd", user).ok_or_else(|| missing(&format!("user {user}")))?;
            let number = |i: usize| entry.get(i).and_then(|f| f.parse::<u32>().ok());
            (number(2).ok_or_else(|| missing("uid"))?, number(3))
        }
    };
    let gid = match group {
        Some(group) => group
            .parse()
            .ok()
            .or_else(|| field("/etc/group", group)?.get(2)?.parse().ok())
            .ok_or_else(|| missing(&format!("group {group}")))?,
        None => own_gid.unwrap_or(uid),
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_looked_up() {
        assert_eq!(lookup("root", None).unwrap(), (0, 0));
        assert_eq!(lookup("12", Some("34")).unwrap(), (12, 34));
        assert!(lookup("nobody-of-this-name", None).is_err());
    }

    #[test]
    fn a_waker_wakes_until_cleared() {
        let waker = Waker::new().unwrap();
        let readable = |w: &Waker| {
            super::super::wait_readable(&[w.as_fd()], Some(std::time::Duration::ZERO)).unwrap()[0]
        };
        assert!(!readable(&waker));
        waker.wake();
        waker.wake();
        assert!(readable(&waker));
        waker.clear();
        assert!(!readable(&waker));
    }
}
