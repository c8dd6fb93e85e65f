//! One attempt of each kind of check.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::http;
use crate::config::{Check, CheckKind, Script};
use crate::sys::process;

/// Good (with a weight, if the check sets one), or why not.
pub(crate) fn probe(check: &Check) -> Result<Option<u32>, String> {
    let limit = check.connect_timeout;
    match &check.kind {
        CheckKind::Tcp => connect(check).map(|_| None),
        CheckKind::Http { tls: false, http_1_1, virtualhost, urls, .. } => {
            for url in urls {
                let stream = connect(check)?;
                http::get(stream, check.target, url, virtualhost.as_deref(), *http_1_1, limit)?;
            }
            Ok(None)
        }
        CheckKind::Smtp { helo_name } => smtp(connect(check)?, helo_name, limit).map(|()| None),
        CheckKind::Udp { payload, require_reply } => {
            udp(check.target, payload, *require_reply, limit).map(|()| None)
        }
        CheckKind::Misc { script, timeout, dynamic } => {
            misc(script, timeout.unwrap_or(check.delay_loop), *dynamic)
        }
        CheckKind::Mysql { .. } => mysql_greeting(connect(check)?, limit).map(|()| None),
        // Told as unsupported at the start; never taken for a failure of the server.
        CheckKind::Http { tls: true, .. }
        | CheckKind::Dns { .. }
        | CheckKind::Ping
        | CheckKind::File { .. } => Ok(None),
    }
}

/// What [`probe`] leaves out of this kind of check, for the operator to know.
pub(crate) fn left_out(kind: &CheckKind) -> Option<&'static str> {
    match kind {
        CheckKind::Http { tls: true, .. } => Some("SSL_GET is not done yet: it counts as good"),
        CheckKind::Dns { .. } => Some("DNS_CHECK is not done yet: it counts as good"),
        CheckKind::Ping => Some("PING_CHECK is not done yet: it counts as good"),
        CheckKind::File { .. } => Some("FILE_CHECK is not done yet: it counts as good"),
        CheckKind::Http { urls, .. }
            if urls.iter().any(|u| u.digest.is_some() || u.regex.is_some()) =>
        {
            Some("digest and regex are not looked at yet: only the status is")
        }
        CheckKind::Mysql { user: Some(_), .. } => {
            Some("MYSQL_CHECK reads the greeting only: no login, role or lag yet")
        }
        _ => None,
    }
}

fn connect(check: &Check) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&check.target, check.connect_timeout)
        .map_err(|e| format!("connecting to {}: {}", check.target, short(&e)))?;
    let _ = stream.set_read_timeout(Some(check.connect_timeout));
    let _ = stream.set_write_timeout(Some(check.connect_timeout));
    Ok(stream)
}

pub(crate) fn short(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => "no answer in time".into(),
        std::io::ErrorKind::ConnectionRefused => "refused".into(),
        _ => error.to_string(),
    }
}

/// RFC 5321: greeting, HELO, QUIT.
fn smtp(mut stream: TcpStream, helo: &str, limit: Duration) -> Result<(), String> {
    let end = Instant::now() + limit;
    let expect = |stream: &mut TcpStream, what: &str| -> Result<(), String> {
        let mut line = Vec::new();
        let mut byte = [0];
        // To the end of the last line: "250 text", not "250-text".
        loop {
            if Instant::now() >= end {
                return Err(format!("no answer to {what} in time"));
            }
            if stream.read(&mut byte).map_err(|e| short(&e))? == 0 {
                return Err(format!("closed at {what}"));
            }
            line.push(byte[0]);
            if byte[0] == b'\n' {
                if line.get(3) != Some(&b'-') {
                    break;
                }
                line.clear();
            }
            if line.len() > 1000 {
                return Err("endless line".to_owned());
            }
        }
        if line.first() == Some(&b'2') { Ok(()) } else { Err(format!("{what} was refused")) }
    };
    expect(&mut stream, "greeting")?;
    stream.write_all(format!("HELO {helo}\r\n").as_bytes()).map_err(|e| short(&e))?;
    expect(&mut stream, "HELO")?;
    stream.write_all(b"QUIT\r\n").map_err(|e| short(&e))
}

/// Good if no ICMP error comes back in time, or, if asked for, an answer.
fn udp(target: SocketAddr, payload: &[u8], reply: bool, limit: Duration) -> Result<(), String> {
    let any = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).map_err(|e| short(&e))?;
    socket.connect(target).map_err(|e| short(&e))?;
    socket.set_read_timeout(Some(limit)).map_err(|e| short(&e))?;
    socket.send(if payload.is_empty() { b"pointsman" } else { payload }).map_err(|e| short(&e))?;
    match socket.recv(&mut [0; 2048]) {
        Ok(_) => Ok(()),
        Err(e)
            if !reply
                && matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
        {
            Ok(())
        }
        Err(e) => Err(short(&e)),
    }
}

/// keepalived: 0 good, 1 bad, from 2 on the weight is the code less 2, if dynamic.
fn misc(script: &Script, limit: Duration, dynamic: bool) -> Result<Option<u32>, String> {
    let mut child =
        process::start(script, &[]).map_err(|e| format!("{}: {e}", script.command[0]))?;
    let end = Instant::now() + limit;
    let status = loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                process::kill_group(&child);
                let _ = child.wait();
                return Err("the script ran into its timeout".to_owned());
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    match status.code() {
        Some(0) => Ok(None),
        Some(code @ 2..) if dynamic => Ok(Some(code as u32 - 2)),
        Some(code) => Err(format!("the script ended with {code}")),
        None => Err("the script was killed".to_owned()),
    }
}

/// The server's first packet: version 10, not an error (MySQL protocol, HandshakeV10).
fn mysql_greeting(mut stream: TcpStream, limit: Duration) -> Result<(), String> {
    let end = Instant::now() + limit;
    let mut greeting = [0; 5];
    let mut have = 0;
    while have < greeting.len() {
        if Instant::now() >= end {
            return Err("no greeting in time".to_owned());
        }
        match stream.read(&mut greeting[have..]).map_err(|e| short(&e))? {
            0 => return Err("closed before its greeting".to_owned()),
            n => have += n,
        }
    }
    match greeting[4] {
        10 => Ok(()),
        0xff => Err("refuses connections".to_owned()),
        other => Err(format!("speaks protocol {other}, not MySQL's 10")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answering(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let _ = stream.write_all(answer);
                let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
                let _ = stream.read(&mut [0; 1000]);
            }
        });
        address
    }

    fn check(kind: CheckKind, target: SocketAddr) -> Check {
        Check {
            kind,
            target,
            bind: None,
            delay_loop: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(300),
            retry: 0,
            delay_before_retry: Duration::ZERO,
            warmup: None,
            alpha: false,
        }
    }

    fn script(command: &[&str]) -> CheckKind {
        let command = command.iter().map(|c| (*c).to_owned()).collect();
        CheckKind::Misc { script: Script { command, user: None }, timeout: None, dynamic: true }
    }

    fn mysql() -> CheckKind {
        CheckKind::Mysql {
            user: None,
            password: None,
            role: crate::config::MysqlRole::Any,
            max_lag: None,
        }
    }

    #[test]
    fn tcp_and_refused() {
        let open = answering(b"");
        assert_eq!(probe(&check(CheckKind::Tcp, open)), Ok(None));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let why = probe(&check(CheckKind::Tcp, closed)).unwrap_err();
        assert!(why.ends_with("refused"), "{why}");
    }

    #[test]
    fn a_database_that_greets_with_an_error_or_not_at_all_is_down() {
        assert_eq!(probe(&check(mysql(), answering(b"\x4a\0\0\0\x0a8.0"))), Ok(None));
        assert!(probe(&check(mysql(), answering(b"\x4a\0\0\0\xff\x10"))).is_err());
        assert!(probe(&check(mysql(), answering(b""))).is_err());
    }

    #[test]
    fn scripts_are_good_bad_a_weight_or_too_slow() {
        let any = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(probe(&check(script(&["true"]), any)), Ok(None));
        assert!(probe(&check(script(&["false"]), any)).is_err());
        assert_eq!(probe(&check(script(&["sh", "-c", "exit 12"]), any)), Ok(Some(10)));
        let mut slow = check(script(&["sleep", "100"]), any);
        slow.delay_loop = Duration::from_millis(50);
        assert!(probe(&slow).unwrap_err().contains("timeout"));
    }
}
