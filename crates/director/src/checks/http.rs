//! HTTP checks: one GET, its status, its body (RFC 9112).

use std::io::{Read, Write};
use std::net::SocketAddr;

use md5::{Digest, Md5};

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
) -> Result<(), String> {
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
    stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).map_err(|e| short(&e))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    let mut whole = false;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => {
                whole = true;
                break;
            }
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            // Many servers end TLS without saying so (RFC 8446, 6.1): with no length to compare
            // with, that is an end like any other.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                whole = !answer.is_empty();
                break;
            }
            // What matters may be there already.
            Err(_) if status(&answer).is_some() => break,
            Err(e) => return Err(short(&e)),
        }
        if missing(&answer) == Some(0) {
            break;
        }
        if answer.len() > MAX_ANSWER {
            break;
        }
    }
    let whole = missing(&answer).map_or(whole, |n| n == 0);
    judge(&answer, whole, url)
}

/// The head and the body, once the empty line between them has come.
fn parts(answer: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    Some((&answer[..at], &answer[at + 4..]))
}

/// Bytes of the body that Content-Length promises and that are not there.
fn missing(answer: &[u8]) -> Option<usize> {
    let (head, body) = parts(answer)?;
    let head = std::str::from_utf8(head).ok()?;
    let length = head.lines().skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    Some(length.saturating_sub(body.len()))
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("HTTP/1.")?;
    let code = rest.split_whitespace().nth(1)?;
    code.parse().ok().filter(|c| (100..1000).contains(c))
}

fn judge(answer: &[u8], whole: bool, url: &CheckUrl) -> Result<(), String> {
    let code = status(answer).ok_or("the answer is not HTTP")?;
    let wanted = |low: u16, high: u16| (low..=high).contains(&code);
    let by_body = url.digest.is_some() || url.regex.is_some();
    let good = match url.status_code.as_slice() {
        [] => by_body || wanted(200, 299),
        ranges => ranges.iter().any(|&(low, high)| wanted(low, high)),
    };
    if !good {
        return Err(format!("{} answered {code}", url.path));
    }
    if !by_body {
        return Ok(());
    }
    let body = match parts(answer) {
        Some((_, body)) if whole => body,
        _ => return Err(format!("{} came not whole, or is longer than 4 MB", url.path)),
    };
    if let Some(wanted) = &url.digest {
        let digest = hex(&Md5::digest(body));
        if digest != *wanted {
            return Err(format!("{} has digest {digest}", url.path));
        }
    }
    if let Some(pattern) = &url.regex {
        let pattern = regex::bytes::Regex::new(pattern).map_err(|e| e.to_string())?;
        if pattern.is_match(body) == url.regex_no_match {
            let how = if url.regex_no_match { "matches" } else { "does not match" };
            return Err(format!("{} {how} the regex", url.path));
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_judged() {
        let judge = |answer: &[u8], url: &CheckUrl| super::judge(answer, true, url);
        let url = CheckUrl { path: "/".into(), ..CheckUrl::default() };
        assert_eq!(judge(b"HTTP/1.1 200 OK\r\n\r\nx", &url), Ok(()));
        assert_eq!(judge(b"HTTP/1.1 204\r\n\r\n", &url), Ok(()));
        assert_eq!(judge(b"HTTP/1.0 503 no\r\n\r\n", &url), Err("/ answered 503".into()));
        assert!(judge(b"SSH-2.0-x\r\n", &url).is_err() && judge(b"", &url).is_err());
        let url = CheckUrl { status_code: vec![(404, 404)], ..url };
        assert_eq!(judge(b"HTTP/1.1 404 x\r\n", &url), Ok(()));
        assert!(judge(b"HTTP/1.1 200 x\r\n", &url).is_err());
    }

    #[test]
    fn bodies_are_judged_and_only_whole_ones() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let digest = Some("5d41402abc4b2a76b9719d911017c592".to_owned());
        let url = CheckUrl { path: "/".into(), digest, ..CheckUrl::default() };
        assert_eq!(judge(answer, true, &url), Ok(()));
        assert!(judge(answer, false, &url).is_err(), "cut off");
        assert!(judge(b"HTTP/1.1 200 OK\r\n\r\nhellO", true, &url).is_err());
        let regex = |pattern: &str, no_match| CheckUrl {
            path: "/".into(),
            regex: Some(pattern.to_owned()),
            regex_no_match: no_match,
            ..CheckUrl::default()
        };
        assert_eq!(judge(answer, true, &regex("^h.l+o$", false)), Ok(()));
        assert!(judge(answer, true, &regex("bye", false)).is_err());
        assert_eq!(judge(answer, true, &regex("bye", true)), Ok(()));
        assert!(judge(answer, true, &regex("hell", true)).is_err());
        assert_eq!(missing(&answer[..answer.len() - 2]), Some(2));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged(bytes: Vec<u8>) {
            let _ = missing(&bytes);
            let _ = judge(&bytes, true, &CheckUrl::default());
        }
    }
}
