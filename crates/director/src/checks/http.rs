//! HTTP checks: one GET, its status, its body (RFC 9112).

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::probe::short;
use crate::config::CheckUrl;

/// A check page is small; more is not read.
const MAX_ANSWER: usize = 4 << 20;

pub(crate) fn get(
    mut stream: impl Read + Write,
    target: SocketAddr,
    url: &CheckUrl,
    virtualhost: Option<&str>,
    http_1_1: bool,
    limit: Duration,
) -> Result<(), String> {
    let end = Instant::now() + limit;
    let host = url
        .virtualhost
        .as_deref()
        .or(virtualhost)
        .map_or_else(|| target.to_string(), str::to_owned);
    let version = if http_1_1 { "1.1" } else { "1.0" };
    let request = format!(
        "GET {} HTTP/{version}\r\nUser-Agent: pointsman\r\nHost: {host}\r\nConnection: close\r\n\r\n",
        url.path
    );
    stream.write_all(request.as_bytes()).map_err(|e| short(&e))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        // A server that drips a byte now and then must not hold the check for ever.
        if Instant::now() >= end {
            return Err("the answer did not end in time".to_owned());
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            // What matters may be there already.
            Err(_) if status(&answer).is_some() => break,
            Err(e) => return Err(short(&e)),
        }
        if answer.len() > MAX_ANSWER {
            break;
        }
    }
    judge(&answer, url)
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("HTTP/1.")?;
    let code = rest.split_whitespace().nth(1)?;
    code.parse().ok().filter(|c| (100..1000).contains(c))
}

fn judge(answer: &[u8], url: &CheckUrl) -> Result<(), String> {
    let code = status(answer).ok_or("the answer is not HTTP")?;
    let wanted = |low: u16, high: u16| (low..=high).contains(&code);
    let good = if url.status_code.is_empty() {
        wanted(200, 299)
    } else {
        url.status_code.iter().any(|&(low, high)| wanted(low, high))
    };
    if !good {
        return Err(format!("{} answered {code}", url.path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_judged() {
        let url = CheckUrl { path: "/".into(), ..CheckUrl::default() };
        assert_eq!(judge(b"HTTP/1.1 200 OK\r\n\r\nx", &url), Ok(()));
        assert_eq!(judge(b"HTTP/1.1 204\r\n\r\n", &url), Ok(()));
        assert_eq!(judge(b"HTTP/1.0 503 no\r\n\r\n", &url), Err("/ answered 503".into()));
        assert!(judge(b"SSH-2.0-x\r\n", &url).is_err() && judge(b"", &url).is_err());
        let url = CheckUrl { status_code: vec![(404, 404)], ..url };
        assert_eq!(judge(b"HTTP/1.1 404 x\r\n", &url), Ok(()));
        assert!(judge(b"HTTP/1.1 200 x\r\n", &url).is_err());
    }
}
