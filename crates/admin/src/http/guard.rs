//! Who may call: bearer token, and no foreign web site through somebody's browser.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};
use subtle::ConstantTimeEq;

use crate::{AdminError, Code};

pub(super) struct Guard {
    address: SocketAddr,
    token: Option<String>,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Option<String>) -> Self {
        Self { address, token }
    }

    /// Whether `request` may go on.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), AdminError> {
        let headers = request.headers();
        // HTTP/1.1 puts the name in Host; an absolute request target has it in the URI.
        let host = request
            .uri()
            .authority()
            .map(axum::http::uri::Authority::as_str)
            .or_else(|| headers.get(header::HOST).and_then(|h| h.to_str().ok()));
        match &self.token {
            Some(token) => {
                let open = matches!(request.uri().path(), "/" | "/healthz")
                    && matches!(*request.method(), Method::GET | Method::HEAD);
                if !open {
                    bearer(headers, token)?;
                }
            }
            // Without a token the only protection is that one must be on this host. A browser on
            // this host can be sent here by any site: through a name that resolves to loopback
            // (DNS rebinding), which shows in Host.
            None => self.own_host(host)?,
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            same_site(headers, host)?;
        }
        Ok(())
    }

    fn own_host(&self, host: Option<&str>) -> Result<(), AdminError> {
        let Some(host) = host else { return Ok(()) };
        let (name, port) = split_host(host);
        let ours = name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip == self.address.ip());
        // A port forwarded over SSH differs; the name is what rebinding can't fake.
        let _ = port;
        if ours {
            Ok(())
        } else {
            Err(AdminError::new(
                Code::ForeignOrigin,
                format!("the request was sent to \"{name}\", which is no name of this daemon's"),
            ))
        }
    }
}

/// `host[:port]`, with the brackets of an IPv6 address taken off.
fn split_host(host: &str) -> (&str, Option<&str>) {
    if let Some((v6, rest)) = host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        return (v6, rest.strip_prefix(':'));
    }
    match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    }
}

fn bearer(headers: &HeaderMap, token: &str) -> Result<(), AdminError> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, given)| given.trim());
    match given {
        None => Err(AdminError::new(Code::Unauthorized, "no bearer token was given")),
        // Equal time for equal lengths; the length of a token is no secret worth keeping.
        Some(given) if bool::from(given.as_bytes().ct_eq(token.as_bytes())) => Ok(()),
        Some(_) => Err(AdminError::new(Code::Unauthorized, "the bearer token is wrong")),
    }
}

/// A browser says where a POST comes from; other programs don't, and need not.
fn same_site(headers: &HeaderMap, host: Option<&str>) -> Result<(), AdminError> {
    let foreign = |from: &str| {
        Err(AdminError::new(Code::ForeignOrigin, format!("the request came from {from}")))
    };
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return foreign("another web site");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("an unreadable origin");
    let from = origin.split_once("://").map_or(origin, |(_, host)| host);
    if host.is_some_and(|host| host.eq_ignore_ascii_case(from)) { Ok(()) } else { foreign(origin) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(token: Option<&str>, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let guard = Guard::new(SocketAddr::from(([127, 0, 0, 1], 8989)), token.map(str::to_owned));
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.check(&request.body(()).unwrap()).map_or_else(|e| e.code.http(), |()| 200)
    }

    #[test]
    fn without_a_token_only_own_names_are_served() {
        for host in ["127.0.0.1:8989", "localhost:8989", "[::1]:8989", "127.0.0.1:9000"] {
            assert_eq!(ask(None, "GET", "/api/v1/servers", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example:8989", "localhost.evil.example", "192.168.1.1", "[::1", ""] {
            assert_eq!(ask(None, "GET", "/api/v1/servers", &[("host", host)]), 403, "{host}");
        }
    }

    #[test]
    fn other_web_sites_cant_post() {
        let host = ("host", "localhost:8989");
        let post = |more: (&str, &str)| ask(None, "POST", "/api/v1/reload", &[host, more]);
        assert_eq!(post(("accept", "*/*")), 200, "no browser");
        assert_eq!(post(("origin", "http://localhost:8989")), 200);
        assert_eq!(post(("origin", "http://evil.example")), 403);
        assert_eq!(post(("origin", "http://localhost:8990")), 403, "another port is another site");
        assert_eq!(post(("origin", "null")), 403);
        assert_eq!(post(("sec-fetch-site", "cross-site")), 403);
        assert_eq!(post(("sec-fetch-site", "same-origin")), 200);
    }

    #[test]
    fn a_token_is_demanded_everywhere_but_at_the_door() {
        let path = "/api/v1/servers";
        assert_eq!(ask(Some("t0k"), "GET", path, &[]), 401);
        assert_eq!(ask(Some("t0k"), "GET", path, &[("authorization", "Bearer t0k")]), 200);
        assert_eq!(ask(Some("t0k"), "GET", path, &[("authorization", "bearer t0k")]), 200);
        assert_eq!(ask(Some("t0k"), "GET", path, &[("authorization", "Bearer t0")]), 401);
        assert_eq!(ask(Some("t0k"), "GET", path, &[("authorization", "Basic t0k")]), 401);
        assert_eq!(ask(Some("t0k"), "GET", "/metrics", &[]), 401);
        assert_eq!(ask(Some("t0k"), "GET", "/readyz", &[]), 401);
        assert_eq!(ask(Some("t0k"), "GET", "/healthz", &[]), 200);
        assert_eq!(ask(Some("t0k"), "GET", "/", &[("host", "proxy.example")]), 200);
        assert_eq!(ask(Some("t0k"), "POST", "/", &[]), 401);
    }
}
