//! Talks HTTP to a daemon.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;
use ureq::http::Response;

use super::{Failure, Reported};
use crate::{AdminError, Code};

/// Longest time an answer may take; a drain or a switchover may take its time.
const TIMEOUT: Duration = Duration::from_secs(90);
/// Largest answer that is read.
const MAX_BODY: u64 = 256 << 20;

pub(super) struct Client {
    agent: Agent,
    base: String,
    token: Option<String>,
}

/// A good answer.
pub(super) struct Answer {
    pub text: String,
    /// Which run of the daemon answered.
    pub run: String,
}

/// The body of an error.
#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    #[serde(default)]
    name: String,
    message: String,
    #[serde(default)]
    help: String,
}

impl Client {
    /// A client of the daemon at `url`: `http://HOST:PORT`, or `HOST:PORT` for short.
    pub(super) fn new(url: &str, token: Option<String>) -> Result<Self, AdminError> {
        let url = url.trim_end_matches('/');
        let base = match url.split_once("://") {
            None => format!("http://{url}"),
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => url.to_owned(),
            Some((scheme, _)) => {
                return Err(AdminError::new(
                    Code::BadArgument,
                    format!("--admin {url}: {scheme} is not spoken, only http"),
                ));
            }
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // An http_proxy in the environment is for the world, not for the daemon next door.
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("pointsman/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self { agent, base, token })
    }

    pub(super) fn get(&self, path: &str, params: &[(String, String)]) -> Result<Answer, Failure> {
        let mut request = self.agent.get(self.url(path, params));
        if let Some(bearer) = self.bearer() {
            request = request.header("authorization", bearer);
        }
        self.read(request.call())
    }

    pub(super) fn post(&self, path: &str, params: &[(String, String)]) -> Result<String, Failure> {
        let mut request = self.agent.post(self.url(path, params));
        if let Some(bearer) = self.bearer() {
            request = request.header("authorization", bearer);
        }
        self.read(request.send_empty()).map(|answer| answer.text)
    }

    fn bearer(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    fn url(&self, path: &str, params: &[(String, String)]) -> String {
        let mut url = format!("{}{path}", self.base);
        for (i, (name, value)) in params.iter().enumerate() {
            let _ = write!(url, "{}{name}={}", if i == 0 { '?' } else { '&' }, encode(value));
        }
        url
    }

    fn read(&self, answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, Failure> {
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        let run =
            answer.headers().get("pointsman-run").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let status = answer.status();
        let text = answer
            .body_mut()
            .with_config()
            .limit(MAX_BODY)
            .read_to_string()
            .map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            return Err(match serde_json::from_str::<ErrorBody>(&text) {
                Ok(e) => Failure::Remote(Reported {
                    code: e.code,
                    name: e.name,
                    message: e.message,
                    help: e.help,
                }),
                Err(_) => self.stranger(&format!("HTTP {status}")).into(),
            });
        }
        match run {
            Some(run) => Ok(Answer { text, run }),
            None => Err(self.stranger("an answer without Pointsman's mark").into()),
        }
    }

    fn stranger(&self, what: &str) -> AdminError {
        AdminError::new(Code::BadReply, format!("{} gave {what}", self.base))
    }

    fn unreachable(&self, error: &ureq::Error) -> AdminError {
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => AdminError::new(
                Code::BadArgument,
                format!("--admin {}: not a URL like http://127.0.0.1:8989", self.base),
            ),
            ureq::Error::Protocol(_) => self.stranger("no HTTP"),
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                AdminError::new(Code::Unreachable, format!("nobody listens at {}", self.base))
            }
            other => AdminError::new(Code::Unreachable, format!("{}: {other}", self.base)),
        }
    }
}

/// Percent-encodes one piece of a path or a query.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

impl Failure {
    /// Whether the daemon may be back in a moment.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Remote(e) if e.code == Code::Unreachable.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awkward_names_are_encoded() {
        assert_eq!(encode("db-1_a.b"), "db-1_a.b");
        assert_eq!(encode("a/b?c=ä"), "a%2Fb%3Fc%3D%C3%A4");
    }

    #[test]
    fn short_addresses_are_completed() {
        assert_eq!(Client::new("127.0.0.1:1/", None).ok().unwrap().base, "http://127.0.0.1:1");
        assert!(Client::new("https://x", None).is_err());
    }
}
