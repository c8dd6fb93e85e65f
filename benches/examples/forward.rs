//! The least a forwarder can do, in two ways: what would io_uring be worth?
//!
//! ```text
//! forward tokio|ring LISTEN TARGET [THREADS]
//! ```
//!
//! Both copy bytes and read none of them. Beside HAProxy and Pointsman, in one fair run:
//!
//! ```text
//! target/release/examples/forward ring 127.0.0.1:4100 127.0.0.1:13001 &
//! cargo xtask bench --base-port 13000 --other ring=127.0.0.1:4100:$! --only "point selects, text, 16"
//! ```
//!
//! `ring` has a ring per thread, receives by multishot into buffers provided to the kernel, and makes
//! one system call per turn, which submits all sends and waits. An experiment: it ends with an error
//! where Pointsman would go on.

#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [how, listen, target, rest @ ..] = &args[..] else {
        eprintln!("forward tokio|ring LISTEN TARGET [THREADS]");
        std::process::exit(2);
    };
    let listen: SocketAddr = listen.parse().expect("LISTEN is an address and a port");
    let target: SocketAddr = target.parse().expect("TARGET is an address and a port");
    let threads = rest.first().map_or(2, |n| n.parse().expect("THREADS is a number"));
    let listeners: Vec<_> = (0..threads).map(|_| listener(listen)).collect::<Result<_, _>>()?;
    let body = match how.as_str() {
        "tokio" => with_tokio,
        "ring" => ring::run,
        _ => panic!("tokio or ring"),
    };
    std::thread::scope(|scope| {
        for listener in listeners {
            scope.spawn(move || body(listener, target).unwrap());
        }
    });
    Ok(())
}

fn listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn with_tokio(listener: TcpListener, target: SocketAddr) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::task::spawn_local(async move {
                let server = tokio::net::TcpStream::connect(target).await.unwrap();
                server.set_nodelay(true).unwrap();
                let (mut client_in, mut client_out) = client.into_split();
                let (mut server_in, mut server_out) = server.into_split();
                let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
                loop {
                    tokio::select! {
                        read = client_in.read(&mut up) => match read {
                            Ok(n) if n > 0 => if server_out.write_all(&up[..n]).await.is_err() { break },
                            _ => break,
                        },
                        read = server_in.read(&mut down) => match read {
                            Ok(n) if n > 0 => if client_out.write_all(&down[..n]).await.is_err() { break },
                            _ => break,
                        },
                    }
                }
            });
        }
    })
}

/// The kernel's interface by hand: <https://man7.org/linux/man-pages/man7/io_uring.7.html>.
mod ring {
    use super::*;
    use std::collections::VecDeque;
    use std::io;
    use std::os::fd::{AsRawFd as _, IntoRawFd as _};
    use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

    const ENTRIES: u32 = 512;
    const BUFFERS: u16 = 1024;
    const BUFFER: usize = 16 << 10;

    const SETUP_SINGLE_ISSUER: u32 = 1 << 12;
    const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
    const ENTER_GETEVENTS: u32 = 1;
    const REGISTER_PBUF_RING: u32 = 22;
    const OP_ACCEPT: u8 = 13;
    const OP_SEND: u8 = 26;
    const OP_RECV: u8 = 27;
    const ACCEPT_MULTISHOT: u16 = 1;
    const RECV_POLL_FIRST: u16 = 1;
    const RECV_MULTISHOT: u16 = 2;
    const SQE_BUFFER_SELECT: u8 = 1 << 5;
    const CQE_BUFFER: u32 = 1;
    const CQE_MORE: u32 = 2;

    #[repr(C)]
    #[derive(Default, Clone, Copy)]
    struct Sqe {
        opcode: u8,
        flags: u8,
        ioprio: u16,
        fd: i32,
        off: u64,
        addr: u64,
        len: u32,
        op_flags: u32,
        user_data: u64,
        buf: u16,
        personality: u16,
        splice: i32,
        pad: [u64; 2],
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Cqe {
        user_data: u64,
        res: i32,
        flags: u32,
    }

    #[repr(C)]
    #[derive(Default)]
    struct SqOffsets {
        head: u32,
        tail: u32,
        mask: u32,
        entries: u32,
        flags: u32,
        dropped: u32,
        array: u32,
        resv: u32,
        user: u64,
    }

    #[repr(C)]
    #[derive(Default)]
    struct CqOffsets {
        head: u32,
        tail: u32,
        mask: u32,
        entries: u32,
        overflow: u32,
        cqes: u32,
        flags: u32,
        resv: u32,
        user: u64,
    }

    #[repr(C)]
    #[derive(Default)]
    struct Params {
        sq_entries: u32,
        cq_entries: u32,
        flags: u32,
        cpu: u32,
        idle: u32,
        features: u32,
        wq: u32,
        resv: [u32; 3],
        sq: SqOffsets,
        cq: CqOffsets,
    }

    #[repr(C)]
    struct BufEntry {
        addr: u64,
        len: u32,
        bid: u16,
        tail_or_pad: u16,
    }

    #[repr(C)]
    struct BufRegister {
        addr: u64,
        entries: u32,
        group: u16,
        flags: u16,
        resv: [u64; 3],
    }

    fn check(result: i64) -> io::Result<i64> {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    fn map(fd: i32, len: usize, offset: i64) -> io::Result<*mut u8> {
        let flags = match fd {
            -1 => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            _ => libc::MAP_SHARED | libc::MAP_POPULATE,
        };
        // SAFETY: a new mapping, which stays for as long as the process lives.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                offset,
            )
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at.cast()) }
    }

    struct Ring {
        fd: i32,
        sq: *mut u8,
        params: Params,
        sqes: *mut Sqe,
        tail: u32,
        unsubmitted: u32,
        entries: *mut BufEntry,
        data: *mut u8,
        free_tail: u16,
    }

    impl Ring {
        fn new() -> io::Result<Self> {
            let mut params =
                Params { flags: SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN, ..Params::default() };
            // SAFETY: the kernel fills `params`, which is what it expects.
            let fd = check(unsafe {
                libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut params)
            })? as i32;
            let len = (params.sq.array + params.sq_entries * 4)
                .max(params.cq.cqes + params.cq_entries * 16) as usize;
            let sq = map(fd, len, 0)?;
            let sqes = map(fd, params.sq_entries as usize * size_of::<Sqe>(), 0x1000_0000)?.cast();
            let entries: *mut BufEntry =
                map(-1, usize::from(BUFFERS) * size_of::<BufEntry>(), 0)?.cast();
            let data = map(-1, usize::from(BUFFERS) * BUFFER, 0)?;
            let register = BufRegister {
                addr: entries as u64,
                entries: BUFFERS.into(),
                group: 0,
                flags: 0,
                resv: [0; 3],
            };
            // SAFETY: both mappings stay.
            check(unsafe {
                libc::syscall(
                    libc::SYS_io_uring_register,
                    fd,
                    REGISTER_PBUF_RING,
                    &raw const register,
                    1,
                )
            })?;
            let mut ring =
                Self { fd, sq, params, sqes, tail: 0, unsubmitted: 0, entries, data, free_tail: 0 };
            (0..BUFFERS).for_each(|id| ring.give_buffer(id));
            Ok(ring)
        }

        fn at(&self, offset: u32) -> &AtomicU32 {
            // SAFETY: the kernel's offsets lie in the mapping, and are those of aligned words.
            unsafe { &*self.sq.add(offset as usize).cast() }
        }

        fn push(&mut self, sqe: Sqe) -> io::Result<()> {
            if self.unsubmitted == self.params.sq_entries {
                self.enter(0)?;
            }
            let mask = self.params.sq_entries - 1;
            let at = self.tail & mask;
            // SAFETY: within the mappings; the kernel has read what was there.
            unsafe {
                self.sqes.add(at as usize).write(sqe);
                let array: *mut u32 = self.sq.add(self.params.sq.array as usize).cast();
                array.add(at as usize).write(at);
            }
            self.tail = self.tail.wrapping_add(1);
            self.unsubmitted += 1;
            self.at(self.params.sq.tail).store(self.tail, Ordering::Release);
            Ok(())
        }

        /// The one system call.
        fn enter(&mut self, wait_for: u32) -> io::Result<()> {
            loop {
                // SAFETY: no pointers.
                let done = check(unsafe {
                    libc::syscall(
                        libc::SYS_io_uring_enter,
                        self.fd,
                        self.unsubmitted,
                        wait_for,
                        ENTER_GETEVENTS,
                        0,
                        0,
                    )
                });
                match done {
                    Ok(n) => {
                        self.unsubmitted -= n as u32;
                        return Ok(());
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }

        fn next(&mut self) -> Option<Cqe> {
            let head = self.at(self.params.cq.head);
            let at = head.load(Ordering::Relaxed);
            if at == self.at(self.params.cq.tail).load(Ordering::Acquire) {
                return None;
            }
            let index = at & (self.params.cq_entries - 1);
            // SAFETY: the kernel has filled it, and does not touch it until head moves.
            let cqe = unsafe {
                let all: *const Cqe = self.sq.add(self.params.cq.cqes as usize).cast();
                *all.add(index as usize)
            };
            head.store(at.wrapping_add(1), Ordering::Release);
            Some(cqe)
        }

        fn give_buffer(&mut self, id: u16) {
            let at = usize::from(self.free_tail % BUFFERS);
            // SAFETY: the ring's entry is ours until the tail moves past it. The tail lies in the
            // first entry's last field.
            unsafe {
                let entry = self.entries.add(at);
                (*entry).addr = self.data.add(usize::from(id) * BUFFER) as u64;
                (*entry).len = BUFFER as u32;
                (*entry).bid = id;
                self.free_tail = self.free_tail.wrapping_add(1);
                let tail: *const AtomicU16 = (&raw const (*self.entries).tail_or_pad).cast();
                (*tail).store(self.free_tail, Ordering::Release);
            }
        }

        fn receive(&mut self, fd: i32, token: u64) -> io::Result<()> {
            self.push(Sqe {
                opcode: OP_RECV,
                flags: SQE_BUFFER_SELECT,
                ioprio: RECV_MULTISHOT | RECV_POLL_FIRST,
                fd,
                user_data: token,
                ..Sqe::default()
            })
        }

        fn send(&mut self, fd: i32, id: u16, len: u32, token: u64) -> io::Result<()> {
            self.push(Sqe {
                opcode: OP_SEND,
                fd,
                addr: unsafe { self.data.add(usize::from(id) * BUFFER) } as u64,
                len,
                op_flags: (libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32,
                user_data: token,
                ..Sqe::default()
            })
        }
    }

    /// One side of a pair.
    #[derive(Default)]
    struct Side {
        fd: i32,
        /// What is to go out on it: buffer and length; the first is on its way.
        out: VecDeque<(u16, u32)>,
        ended: bool,
    }

    const ACCEPT: u64 = u64::MAX;
    const SENDING: u64 = 1 << 32;

    pub fn run(listener: TcpListener, target: SocketAddr) -> io::Result<()> {
        let mut ring = Ring::new()?;
        // Two neighbours are a pair.
        let mut sides: Vec<Side> = Vec::new();
        let mut free: Vec<usize> = Vec::new();
        let accept = Sqe {
            opcode: OP_ACCEPT,
            ioprio: ACCEPT_MULTISHOT,
            fd: listener.as_raw_fd(),
            user_data: ACCEPT,
            ..Sqe::default()
        };
        ring.push(accept)?;
        loop {
            ring.enter(1)?;
            while let Some(cqe) = ring.next() {
                if cqe.user_data == ACCEPT {
                    if cqe.res >= 0 {
                        let server = TcpStream::connect(target)?;
                        server.set_nodelay(true)?;
                        let first = free.pop().unwrap_or_else(|| {
                            sides.extend([Side::default(), Side::default()]);
                            sides.len() - 2
                        });
                        for (at, fd) in [(first, cqe.res), (first + 1, server.into_raw_fd())] {
                            sides[at] = Side { fd, ..Side::default() };
                            ring.receive(fd, at as u64)?;
                        }
                    }
                    if cqe.flags & CQE_MORE == 0 {
                        ring.push(accept)?;
                    }
                    continue;
                }
                let at = (cqe.user_data & !SENDING) as usize;
                if cqe.user_data & SENDING != 0 {
                    let (id, _) = sides[at].out.pop_front().unwrap();
                    ring.give_buffer(id);
                    if let Some(&(id, len)) = sides[at].out.front() {
                        ring.send(sides[at].fd, id, len, at as u64 | SENDING)?;
                    }
                    continue;
                }
                let peer = at ^ 1;
                if cqe.res > 0 && cqe.flags & CQE_BUFFER != 0 {
                    let (id, len) = ((cqe.flags >> 16) as u16, cqe.res as u32);
                    sides[peer].out.push_back((id, len));
                    if sides[peer].out.len() == 1 {
                        ring.send(sides[peer].fd, id, len, peer as u64 | SENDING)?;
                    }
                }
                if cqe.flags & CQE_MORE == 0 {
                    if cqe.res > 0 || cqe.res == -libc::ENOBUFS {
                        ring.receive(sides[at].fd, at as u64)?;
                        continue;
                    }
                    sides[at].ended = true;
                    // SAFETY: descriptors of this pair, closed once both have ended.
                    unsafe {
                        libc::shutdown(sides[peer].fd, libc::SHUT_RDWR);
                        if sides[peer].ended {
                            libc::close(sides[at].fd);
                            libc::close(sides[peer].fd);
                            free.push(at & !1);
                        }
                    }
                }
            }
        }
    }
}
