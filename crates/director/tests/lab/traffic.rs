//! Servers that say their name, and clients that keep their connections, in namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Lab, VIP, in_namespace};

pub const VIP6: &str = "fd00::253";

/// Answers on TCP and UDP of one port at the virtual addresses: with the host's number, then with
/// whatever it gets (TCP), or with the number and the length (UDP).
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// What direct routing asks of a web server: the virtual addresses on lo, no ARP for them.
    pub fn prepare(lab: &Lab, host: u8) {
        lab.output(host, "ip", &["addr", "add", &format!("{VIP}/32"), "dev", "lo"]);
        lab.output(host, "ip", &["addr", "add", &format!("{VIP6}/128"), "dev", "lo", "nodad"]);
        for setting in
            ["lo.arp_ignore=1", "all.arp_ignore=1", "lo.arp_announce=2", "all.arp_announce=2"]
        {
            lab.output(host, "sysctl", &["-q", "-w", &format!("net.ipv4.conf.{setting}")]);
        }
    }

    /// On port 80 and, for health checks, 9.
    pub fn start(lab: &Lab, host: u8) -> Self {
        Self::prepare(lab, host);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for ip in [VIP, VIP6].map(|ip| ip.parse::<IpAddr>().unwrap()) {
            let flag = Arc::clone(&stop);
            threads.push(in_namespace(lab.namespace(host), move || {
                let socket = UdpSocket::bind((ip, 80)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                let mut buffer = [0; 65536];
                while !flag.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(format!("{host} {length}").as_bytes(), from);
                    }
                }
            }));
        }
        threads.push(listen(lab, host, 80, &stop));
        Self { stop, threads }
    }

    /// What a health check looks at, to be stopped without stopping the service.
    pub fn health(lab: &Lab, host: u8) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = vec![listen(lab, host, 9, &stop)];
        Self { stop, threads }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listen(lab: &Lab, host: u8, port: u16, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    in_namespace(lab.namespace(host), move || {
        let listener = TcpListener::bind(("::", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    std::thread::spawn(move || echo(host, stream));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    })
}

/// SCTP at one address and port 80, until the test ends. One address, or the client would be told of
/// others too. Whether the kernel has SCTP.
pub fn serve_sctp(lab: &Lab, host: u8, ip: &str) -> bool {
    let at = SocketAddr::from((ip.parse::<IpAddr>().unwrap(), 80));
    let listener = in_namespace(lab.namespace(host), move || {
        let socket = sctp(at)?;
        socket.bind(&at.into())?;
        socket.listen(16)?;
        std::io::Result::Ok(socket)
    });
    let Ok(listener) = listener.join().unwrap() else { return false };
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || echo(host, stream.into()));
        }
    });
    true
}

fn sctp(to: SocketAddr) -> std::io::Result<socket2::Socket> {
    let protocol = socket2::Protocol::from(libc::IPPROTO_SCTP);
    socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, Some(protocol))
}

fn echo(host: u8, mut stream: TcpStream) {
    stream.set_nonblocking(false).unwrap();
    let mut buffer = [0; 4096];
    let mut answer = vec![host];
    while stream.write_all(&answer).is_ok() {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => answer = buffer[..length].to_vec(),
        }
    }
}

/// A connection that stays, and who answered it.
pub struct Connection {
    stream: TcpStream,
    pub server: u8,
}

impl Connection {
    /// From `host`, or from another address of it.
    pub fn open(lab: &Lab, host: u8, vip: &str, from: Option<&str>) -> std::io::Result<Self> {
        let tcp = |to| {
            let domain = socket2::Domain::for_address(to);
            socket2::Socket::new(domain, socket2::Type::STREAM, None)
        };
        Self::open_by(tcp, lab, host, vip, from, Duration::from_secs(5))
    }

    /// As [`Connection::open`], by SCTP.
    pub fn open_sctp(lab: &Lab, host: u8, vip: &str, from: &str) -> std::io::Result<Self> {
        // It sends its first packet again after three seconds only, and then after six.
        Self::open_by(sctp, lab, host, vip, Some(from), Duration::from_secs(30))
    }

    fn open_by(
        socket: fn(SocketAddr) -> std::io::Result<socket2::Socket>,
        lab: &Lab,
        host: u8,
        vip: &str,
        from: Option<&str>,
        limit: Duration,
    ) -> std::io::Result<Self> {
        let target = SocketAddr::from((vip.parse::<IpAddr>().unwrap(), 80));
        let from = from.map(|ip| SocketAddr::from((ip.parse::<IpAddr>().unwrap(), 0)));
        in_namespace(lab.namespace(host), move || {
            let socket = socket(target)?;
            if let Some(from) = from {
                socket.bind(&from.into())?;
            }
            socket.connect_timeout(&target.into(), limit)?;
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut server = [0];
            stream.read_exact(&mut server)?;
            Ok(Self { stream, server: server[0] })
        })
        .join()
        .unwrap()
    }

    /// Where the client's end is.
    pub fn client(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Whether the same server still answers.
    pub fn lives(&mut self) -> std::io::Result<()> {
        self.stream.write_all(b"ping")?;
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer)
    }
}

/// Sends `length` bytes and gives who answered, and how many bytes it got.
pub fn datagram(socket: &UdpSocket, vip: &str, length: usize) -> Option<(u8, usize)> {
    let target = (vip.parse::<IpAddr>().unwrap(), 80);
    socket.send_to(&vec![b'x'; length], target).unwrap();
    let mut buffer = [0; 64];
    let (n, _) = socket.recv_from(&mut buffer).ok()?;
    let answer = String::from_utf8_lossy(&buffer[..n]).into_owned();
    let (host, length) = answer.split_once(' ')?;
    Some((host.parse().ok()?, length.parse().ok()?))
}

/// A UDP socket of a host.
pub fn udp(lab: &Lab, host: u8, v6: bool) -> UdpSocket {
    in_namespace(lab.namespace(host), move || {
        let any: IpAddr = if v6 { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    })
    .join()
    .unwrap()
}

/// TCP packets that come as far as a host's network stack (packet(7)). What XDP sends on does not.
pub struct Arrivals(socket2::Socket);

impl Arrivals {
    pub fn watch(lab: &Lab, host: u8) -> Self {
        let open = || {
            let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
            let (domain, kind) = (socket2::Domain::from(libc::AF_PACKET), socket2::Type::DGRAM);
            socket2::Socket::new(domain, kind, Some(everything.into())).unwrap()
        };
        let socket = in_namespace(lab.namespace(host), open).join().unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// Those to `ip`, since it was asked last.
    pub fn to(&mut self, ip: &str) -> usize {
        let wanted: Vec<u8> = match ip.parse().unwrap() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let mut buffer = [0; 2048];
        let mut count = 0;
        while let Ok(length) = self.0.read(&mut buffer) {
            // Where IPv4 and IPv6 have the protocol and the destination.
            let (protocol, destination) = if wanted.len() == 4 { (9, 16) } else { (6, 24) };
            let end = destination + wanted.len();
            let is_tcp = length >= end && i32::from(buffer[protocol]) == libc::IPPROTO_TCP;
            count += usize::from(is_tcp && buffer[destination..end] == wanted[..]);
        }
        count
    }
}
