//! One attempt of each kind of check.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::stream::Timed;
use super::{dns, http, mysql, ping};
use crate::config::{Check, CheckKind, Script, Weight};
use crate::sys::process;

/// Good (with a weight, if the check sets one), or why not.
pub(crate) fn probe(check: &Check) -> Result<Option<u32>, String> {
    let Check { target, bind, connect_timeout: limit, .. } = *check;
    match &check.kind {
        CheckKind::Tcp => connect(check).map(|_| None),
        CheckKind::Http { tls, sni, http_1_1, virtualhost, urls } => {
            let host = virtualhost.as_deref();
            for url in urls {
                let stream = connect(check)?;
                if *tls {
                    let name = url.virtualhost.as_deref().or(host).filter(|_| *sni);
                    let stream = super::tls::wrap(stream, target, name)?;
                    http::get(stream, target, url, host, *http_1_1)?;
                } else {
                    http::get(stream, target, url, host, *http_1_1)?;
                }
            }
            Ok(None)
        }
        CheckKind::Smtp { helo_name } => smtp(connect(check)?, helo_name).map(|()| None),
        CheckKind::Udp { payload, require_reply } => {
            udp(target, bind, payload, *require_reply, limit).map(|()| None)
        }
        CheckKind::Dns { record, name } => {
            dns::ask(target, bind, record, name, limit).map(|()| None)
        }
        CheckKind::Ping => ping::ping(target, bind, limit).map(|()| None),
        CheckKind::Misc { script, timeout, dynamic } => {
            misc(script, timeout.unwrap_or(check.delay_loop), *dynamic)
        }
        CheckKind::File { path, weight, base, .. } => {
            file(number_in(path), weight.unwrap_or_default(), *base)
        }
        CheckKind::Mysql { user, password, role, max_lag } => {
            let account = user.as_deref().map(|user| mysql::Account {
                user,
                password: password.as_ref().map_or("", |p| p.expose()),
            });
            mysql::check(connect(check)?, account, *role, *max_lag).map(|()| None)
        }
    }
}

fn connect(check: &Check) -> Result<Timed, String> {
    Timed::connect(check.target, check.bind, check.connect_timeout)
        .map_err(|e| format!("connecting to {}: {}", check.target, short(&e)))
}

/// keepalived.conf(5), FILE_CHECK: without a weight any number but 0 is bad; with one the number
/// times it is added to the real server's weight, and -254 and below is bad.
fn file(number: i32, weight: Weight, base: u32) -> Result<Option<u32>, String> {
    if weight.value == 0 {
        let bad = (number != 0) != weight.reverse;
        return if bad { Err(format!("its file says {number}")) } else { Ok(None) };
    }
    let sign = if weight.reverse { -1 } else { 1 };
    let change = i64::from(number) * i64::from(weight.value) * sign;
    if change <= -254 {
        return Err(format!("its file says {number}"));
    }
    let sum = (i64::from(base) + change).clamp(0, 65_535);
    Ok(Some(u32::try_from(sum).unwrap_or_default()))
}

/// A file that is missing or holds no number counts as 0, as with `track_file`.
fn number_in(path: &str) -> i32 {
    std::fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

pub(crate) fn short(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => "no answer in time".into(),
        std::io::ErrorKind::ConnectionRefused => "refused".into(),
        _ => error.to_string(),
    }
}

/// RFC 5321: greeting, HELO, QUIT.
fn smtp(mut stream: Timed, helo: &str) -> Result<(), String> {
    let expect = |stream: &mut Timed, what: &str| -> Result<(), String> {
        let mut line = Vec::new();
        let mut byte = [0];
        // To the end of the last line: "250 text", not "250-text".
        loop {
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
fn udp(
    target: SocketAddr,
    bind: Option<SocketAddr>,
    payload: &[u8],
    reply: bool,
    limit: Duration,
) -> Result<(), String> {
    let any = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = match bind {
        Some(bind) => UdpSocket::bind(bind),
        None => UdpSocket::bind(any),
    };
    let socket = socket.map_err(|e| short(&e))?;
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
            rise: 1,
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
        assert_eq!(probe(&check(mysql(), answering(b"\x04\0\0\0\x0a8.0"))), Ok(None));
        assert!(probe(&check(mysql(), answering(b"\x04\0\0\0\xff\x10\x04x"))).is_err());
        assert!(probe(&check(mysql(), answering(b""))).is_err());
    }

    #[test]
    fn a_file_is_good_bad_or_a_weight() {
        let weight = |value, reverse| Weight { value, reverse };
        assert_eq!(file(0, weight(0, false), 5), Ok(None));
        assert!(file(1, weight(0, false), 5).is_err());
        assert!(file(0, weight(0, true), 5).is_err());
        assert_eq!(file(3, weight(2, false), 5), Ok(Some(11)));
        assert_eq!(file(3, weight(2, true), 5), Ok(Some(0)));
        assert!(file(-127, weight(2, false), 5).is_err());
    }

    #[test]
    fn a_check_binds_where_it_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut bound = check(CheckKind::Tcp, listener.local_addr().unwrap());
        bound.bind = Some("127.0.0.9:0".parse().unwrap());
        assert_eq!(probe(&bound), Ok(None));
        assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.0.0.9");
        bound.bind = Some("192.0.2.1:0".parse().unwrap());
        assert!(probe(&bound).is_err());
    }

    #[test]
    fn a_server_that_drips_runs_out_of_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let begun = Instant::now();
        let smtp = CheckKind::Smtp { helo_name: "x".into() };
        assert_eq!(probe(&check(smtp, address)), Err("no answer in time".into()));
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_mail_server_says_hello() {
        let mail = |answers: &'static [&'static [u8]]| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                for answer in answers {
                    let _ = stream.write_all(answer);
                    let _ = stream.read(&mut [0; 100]);
                }
            });
            probe(&check(CheckKind::Smtp { helo_name: "me".into() }, address))
        };
        assert_eq!(mail(&[b"220-a\r\n220 b\r\n", b"250 ok\r\n"]), Ok(None));
        assert!(mail(&[b"554 no\r\n"]).is_err());
        assert!(mail(&[b"220 b\r\n", b"421 busy\r\n"]).unwrap_err().contains("HELO"));
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
