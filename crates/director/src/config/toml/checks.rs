//! `[[virtual_server.real_server.check]]`.

use std::net::SocketAddr;
use std::time::Duration;

use pointsman_config::read::{Findings, Read, Section};
use pointsman_config::{Problem, Secret};

use super::super::model::{
    Check, CheckKind, CheckUrl, MysqlRole, RealServer, TrackFile, VirtualServer,
};
use super::services::Timing;
use super::words::{List, command, weight, word};
use crate::checks::dns;

#[derive(Clone, Copy)]
enum Type {
    Tcp,
    Http,
    Https,
    Smtp,
    Dns,
    Udp,
    Ping,
    Misc,
    File,
    Mysql,
}

const TYPES: [(&str, Type); 10] = [
    ("tcp", Type::Tcp),
    ("http", Type::Http),
    ("https", Type::Https),
    ("smtp", Type::Smtp),
    ("dns", Type::Dns),
    ("udp", Type::Udp),
    ("ping", Type::Ping),
    ("misc", Type::Misc),
    ("file", Type::File),
    ("mysql", Type::Mysql),
];

pub(super) fn check(
    found: &mut Findings,
    mut section: Section<'_>,
    server: &RealServer,
    outer: Timing,
    vs: &VirtualServer,
    files: &[TrackFile],
) -> Option<Check> {
    let timing = Timing::read(found, &mut section, outer);
    let kind = word(found, &mut section, "type", Type::Tcp, &TYPES);
    let kind = self::kind(found, &mut section, kind, server, vs, files);
    let target = section.at::<SocketAddr>(found, "connect").map(|a| a.value);
    let bind = section.at::<SocketAddr>(found, "bind").map(|a| a.value);
    let alpha = section.or(found, "alpha", vs.alpha);
    section.finish(found);
    Some(Check {
        kind: kind?,
        target: target.unwrap_or(server.address),
        bind,
        delay_loop: timing.delay_loop,
        connect_timeout: timing.connect_timeout,
        retry: timing.retry,
        rise: timing.rise,
        delay_before_retry: timing.delay_before_retry,
        warmup: timing.warmup,
        alpha,
    })
}

fn kind(
    found: &mut Findings,
    section: &mut Section<'_>,
    kind: Type,
    server: &RealServer,
    vs: &VirtualServer,
    files: &[TrackFile],
) -> Option<CheckKind> {
    Some(match kind {
        Type::Tcp => CheckKind::Tcp,
        Type::Http => http(found, section, false, vs),
        Type::Https => http(found, section, true, vs),
        Type::Smtp => CheckKind::Smtp {
            helo_name: section.or(found, "helo_name", "smtpchecker.localhost".to_owned()),
        },
        Type::Dns => {
            let known = |text: &String| {
                let help = "one of: A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, ANY";
                let wrong = || Problem::new(format!("no DNS record is a `{text}`")).help(help);
                dns::number(text).map(drop).ok_or_else(wrong)
            };
            let name = |text: &String| {
                let wrong = || Problem::new(format!("`{text}` is no domain name"));
                dns::encode(text).map(drop).ok_or_else(wrong)
            };
            CheckKind::Dns {
                record: section.checked(found, "record", "SOA".to_owned(), known),
                name: section.checked(found, "name", ".".to_owned(), name),
            }
        }
        Type::Udp => CheckKind::Udp {
            payload: payload(found, section),
            require_reply: section.or(found, "require_reply", false),
        },
        Type::Ping => CheckKind::Ping,
        Type::Misc => {
            let Some(script) = command(found, section, "misc_path") else {
                let problem = Problem::new("a check of type \"misc\" needs `misc_path`");
                found.error(problem.at(section.span()));
                return None;
            };
            CheckKind::Misc {
                script,
                timeout: section.at(found, "misc_timeout").map(|d| d.value),
                dynamic: section.or(found, "misc_dynamic", false),
            }
        }
        Type::File => {
            let name = section.required::<String>(found, "track_file", "\"drain\"");
            let own = weight(found, section);
            let name = name?;
            let Some(file) = files.iter().find(|f| f.name == name.value) else {
                let message = format!("no [[vrrp_track_file]] is called `{}`", name.value);
                found.error(Problem::new(message).at(name.span));
                return None;
            };
            CheckKind::File {
                track_file: name.value,
                path: file.file.clone(),
                weight: Some(own.unwrap_or(file.weight)),
                base: server.weight,
            }
        }
        Type::Mysql => mysql(found, section),
    })
}

fn mysql(found: &mut Findings, section: &mut Section<'_>) -> CheckKind {
    let roles =
        [("any", MysqlRole::Any), ("primary", MysqlRole::Primary), ("replica", MysqlRole::Replica)];
    let user = section.at::<String>(found, "user").map(|u| u.value);
    let password = section.at::<Secret>(found, "password").map(|p| p.value);
    let role = word(found, section, "role", MysqlRole::Any, &roles);
    let max_lag = section.at::<Duration>(found, "max_lag").map(|d| d.value);
    if user.is_none() && (role != MysqlRole::Any || max_lag.is_some()) {
        found.error(
            Problem::new("`role` and `max_lag` need a `user` to ask with")
                .at(section.span())
                .help("add user = \"NAME\" and password = \"WORD\""),
        );
    }
    CheckKind::Mysql { user, password, role, max_lag }
}

fn http(
    found: &mut Findings,
    section: &mut Section<'_>,
    tls: bool,
    vs: &VirtualServer,
) -> CheckKind {
    let sni = section.or(found, "enable_sni", false);
    let versions = [("1.1", true), ("1.0", false)];
    let http_1_1 = word(found, section, "http_protocol", true, &versions);
    let own = section.at::<String>(found, "virtualhost").map(|s| s.value);
    let mut urls = Vec::new();
    for mut section in section.sections(found, "url") {
        let virtualhost = section.at::<String>(found, "virtualhost").map(|s| s.value);
        urls.push(CheckUrl { virtualhost, ..url(found, &mut section) });
        section.finish(found);
    }
    // One URL needs no table of its own.
    let single = url(found, section);
    if urls.is_empty() {
        urls.push(single);
    } else if single != (CheckUrl { path: "/".to_owned(), ..CheckUrl::default() }) {
        let problem = Problem::new("a check has either one URL in itself, or [[...check.url]]");
        found.error(problem.at(section.span()));
    }
    let virtualhost = own.or_else(|| vs.virtualhost.clone());
    CheckKind::Http { tls, sni, http_1_1, virtualhost, urls }
}

/// A URL's keys, but for `virtualhost`.
fn url(found: &mut Findings, section: &mut Section<'_>) -> CheckUrl {
    let digest = section.at::<String>(found, "digest").and_then(|text| {
        let fine = text.value.len() == 32 && text.value.bytes().all(|b| b.is_ascii_hexdigit());
        if !fine {
            let problem = Problem::new("`digest` must be an MD5 digest: 32 hexadecimal digits");
            found.error(problem.at(text.span));
        }
        fine.then(|| text.value.to_ascii_lowercase())
    });
    let regex = section.at::<String>(found, "regex").and_then(|text| {
        if regex::bytes::Regex::new(&text.value).is_err() {
            found.error(
                Problem::new("`regex` can't be used")
                    .at(text.span)
                    .help("no look-around or back-references; syntax: docs of Rust's regex crate"),
            );
            return None;
        }
        Some(text.value)
    });
    let codes = section.at::<Codes>(found, "status_code").map(|c| c.value.0).unwrap_or_default();
    CheckUrl {
        path: section.or(found, "path", "/".to_owned()),
        digest,
        status_code: codes,
        virtualhost: None,
        regex,
        regex_no_match: section.or(found, "regex_no_match", false),
    }
}

/// `200`, `"200-299"`, or a list of such.
struct Codes(Vec<(u16, u16)>);

impl Read for Codes {
    fn read(
        found: &mut Findings,
        value: &toml::Spanned<toml::de::DeValue<'_>>,
        key: &str,
    ) -> Option<Self> {
        let texts = match value.get_ref() {
            toml::de::DeValue::Integer(n) => vec![n.as_str().to_owned()],
            toml::de::DeValue::Array(items) => {
                let text = |v: &toml::Spanned<toml::de::DeValue<'_>>| match v.get_ref() {
                    toml::de::DeValue::Integer(n) => Some(n.as_str().to_owned()),
                    _ => String::read(found, v, key),
                };
                items.iter().map(text).collect::<Option<Vec<_>>>()?
            }
            _ => List::read(found, value, key)?.0,
        };
        let mut out = Vec::new();
        for text in texts {
            let (low, high) = text.split_once('-').unwrap_or((&text, &text));
            match (low.parse(), high.parse()) {
                (Ok(low), Ok(high)) if 100 <= low && low <= high && high <= 999 => {
                    out.push((low, high));
                }
                _ => {
                    let problem = Problem::new(format!("`{text}` is no HTTP status code"));
                    found.error(problem.at(value.span()).help("write 200, or \"200-299\""));
                    return None;
                }
            }
        }
        Some(Self(out))
    }
}

/// Hexadecimal digits; white space between bytes.
fn payload(found: &mut Findings, section: &mut Section<'_>) -> Vec<u8> {
    let Some(text) = section.at::<String>(found, "payload") else { return Vec::new() };
    let digits: Vec<u8> = text.value.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| {
        let is_hex = pair.len() == 2 && pair.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(pair).ok().filter(|_| is_hex)?;
        u8::from_str_radix(digits, 16).ok()
    };
    match digits.chunks(2).map(pair).collect() {
        Some(bytes) => bytes,
        None => {
            let problem = Problem::new("`payload` must be bytes in hexadecimal digits");
            found.error(problem.at(text.span).help("write \"0a 1b 2c\""));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_sign_is_no_hexadecimal_digit() {
        let text = super::super::tests::SITE
            .replace("type = \"http\"\npath = \"/ok\"", "type = \"udp\"\npayload = \"+1\"");
        assert!(super::super::parse("d.toml", &text).is_err());
    }
}
