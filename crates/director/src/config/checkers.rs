//! keepalived.conf: health checks and when they are done.

use std::net::SocketAddr;
use std::time::Duration;

use pointsman_config::Secret;

use super::keepalived::{as_count, as_number, place_of};
use super::keywords as kw;
use super::model::{Check, CheckKind, CheckUrl, MysqlRole, Script, User};
use super::reader::{Findings, Item, as_ip, as_seconds, flag};
use super::tree::Word;
use crate::checks::dns;

/// Timing of checks: set for a virtual server, a real server or one checker.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timing {
    delay_loop: Option<Duration>,
    connect_timeout: Option<Duration>,
    retry: Option<u32>,
    rise: Option<u32>,
    delay_before_retry: Option<Duration>,
    warmup: Option<Duration>,
    alpha: Option<bool>,
}

impl Timing {
    /// Takes a keyword if it is one of timing.
    pub(super) fn read(&mut self, found: &mut Findings, item: &Item<'_>) -> bool {
        let want = "a time in seconds";
        match item.keyword {
            "delay_loop" => {
                self.delay_loop = found.value(item, "a time above 0 in seconds", |t| {
                    as_seconds(t).filter(|d| !d.is_zero())
                });
            }
            "connect_timeout" => {
                self.connect_timeout = found.value(item, "a time above 0 in seconds", |t| {
                    as_seconds(t).filter(|d| !d.is_zero())
                });
            }
            "retry" | "nb_get_retry" => self.retry = found.value(item, "a number", as_number),
            "rise" => self.rise = found.value(item, "a number from 1", as_count),
            "delay_before_retry" => self.delay_before_retry = found.value(item, want, as_seconds),
            "warmup" => self.warmup = found.value(item, want, as_seconds),
            "alpha" => self.alpha = Some(flag(item)),
            _ => return false,
        }
        true
    }

    /// What is not set here is taken from `outer`.
    pub(super) fn within(self, outer: Self) -> Self {
        Self {
            delay_loop: self.delay_loop.or(outer.delay_loop),
            connect_timeout: self.connect_timeout.or(outer.connect_timeout),
            retry: self.retry.or(outer.retry),
            rise: self.rise.or(outer.rise),
            delay_before_retry: self.delay_before_retry.or(outer.delay_before_retry),
            warmup: self.warmup.or(outer.warmup),
            alpha: self.alpha.or(outer.alpha),
        }
    }
}

pub(super) fn check(
    found: &mut Findings,
    item: &Item<'_>,
    address: SocketAddr,
    outer: Timing,
    virtualhost: Option<String>,
    weight: u32,
) -> Option<Check> {
    let table = kw::checker(item.keyword);
    let mut timing = Timing::default();
    let mut target = address;
    let mut bind_ip = None;
    let mut bind_port = 0;
    let mut host = virtualhost;
    let (mut urls, mut sni, mut http_1_1) = (Vec::new(), false, false);
    let mut helo_name = None;
    let (mut record, mut name) = ("SOA".to_owned(), ".".to_owned());
    let (mut misc, mut misc_user, mut misc_timeout, mut dynamic) =
        (None::<Script>, None, None, false);
    let (mut payload, mut require_reply) = (Vec::new(), false);
    let (mut track_file, mut file_weight) = (None, None);
    let (mut user, mut password, mut role, mut max_lag) = (None, None, MysqlRole::Any, None);
    found.each(item.block, item.keyword, &table, |found, item| {
        if timing.read(found, &item) {
            return;
        }
        match item.keyword {
            "connect_ip" => {
                if let Some(ip) = found.value(&item, "an IP address", as_ip) {
                    target.set_ip(ip);
                }
            }
            "connect_port" => {
                if let Some(port) = found.value(&item, "1 to 65535", as_number) {
                    target.set_port(port);
                }
            }
            "bindto" => bind_ip = found.value(&item, "an IP address", as_ip),
            "bind_port" => found.set(&mut bind_port, &item, "1 to 65535", as_number),
            "virtualhost" => host = item.args.first().map(|w| w.text.clone()),
            "url" => urls.push(url(found, &item)),
            "enable_sni" => sni = flag(&item),
            "http_protocol" => http_1_1 = item.args[0].text.starts_with("1.1"),
            "helo_name" => helo_name = item.args.first().map(|w| w.text.clone()),
            "host" => {
                for line in item.block {
                    if let [keyword, value, ..] = line.words.as_slice() {
                        match keyword.text.as_str() {
                            "connect_ip" => {
                                if let Some(ip) = found.word(value, "connect_ip", "an IP", as_ip) {
                                    target.set_ip(ip);
                                }
                            }
                            "connect_port" => {
                                let port = found.word(value, "connect_port", "a port", as_number);
                                target.set_port(port.unwrap_or(target.port()));
                            }
                            _ => {}
                        }
                    }
                }
            }
            "type" => {
                found.set(
                    &mut record,
                    &item,
                    "A, NS, CNAME, SOA, PTR, MX, TXT, AAAA or ANY",
                    |t| dns::number(t).map(|_| t.to_owned()),
                );
            }
            "name" => {
                found.set(&mut name, &item, "a domain name", |t| {
                    dns::encode(t).map(|_| t.to_owned())
                });
            }
            "misc_path" => misc = found.whole_line_script(&item),
            "misc_timeout" => misc_timeout = found.value(&item, "a time in seconds", as_seconds),
            "misc_dynamic" => dynamic = flag(&item),
            "payload" => payload = hex(item.args),
            "require_reply" => {
                require_reply = true;
                if let Some(word) = item.args.first() {
                    let message =
                        "a pattern of `require_reply` is not looked at: any reply will do";
                    found.warn(&word.place, message, "");
                }
            }
            "track_file" => track_file = item.args.first().map(|w| w.text.clone()),
            "weight" => file_weight = found.weight("weight", item.args),
            "user" => {
                user = item.args.first().map(|w| w.text.clone());
                misc_user = user
                    .clone()
                    .map(|name| User { name, group: item.args.get(1).map(|w| w.text.clone()) });
            }
            "password" => password = item.args.first().map(|w| Secret::new(w.text.clone())),
            "role" => {
                found.set(&mut role, &item, "primary, replica or any", |t| match t {
                    "primary" => Some(MysqlRole::Primary),
                    "replica" => Some(MysqlRole::Replica),
                    "any" => Some(MysqlRole::Any),
                    _ => None,
                });
            }
            "max_lag" => max_lag = found.value(&item, "a time in seconds", as_seconds),
            _ => {}
        }
    });
    let mut default_retry = 1;
    let mut port = None;
    let kind = match item.keyword {
        "TCP_CHECK" => CheckKind::Tcp,
        "HTTP_GET" | "SSL_GET" => {
            let tls = item.keyword == "SSL_GET";
            if urls.is_empty() {
                urls.push(CheckUrl { path: "/".to_owned(), ..CheckUrl::default() });
            }
            CheckKind::Http { tls, sni, http_1_1, virtualhost: host, urls }
        }
        "SMTP_CHECK" => {
            port = Some(25);
            CheckKind::Smtp {
                helo_name: helo_name.unwrap_or_else(|| "smtpchecker.localhost".into()),
            }
        }
        "DNS_CHECK" => {
            default_retry = 3;
            port = Some(53);
            CheckKind::Dns { record, name }
        }
        "UDP_CHECK" => CheckKind::Udp { payload, require_reply },
        "PING_CHECK" => CheckKind::Ping,
        "MISC_CHECK" => {
            default_retry = 0;
            let Some(mut script) = misc else {
                found.warn(&item.word.place, "MISC_CHECK has no misc_path: ignored", "");
                return None;
            };
            script.user = misc_user;
            let script = found.settle(script, place_of(item))?;
            CheckKind::Misc { script, timeout: misc_timeout, dynamic }
        }
        "FILE_CHECK" => {
            let Some(track_file) = track_file else {
                found.warn(&item.word.place, "FILE_CHECK has no track_file: ignored", "");
                return None;
            };
            CheckKind::File { track_file, path: String::new(), weight: file_weight, base: weight }
        }
        "MYSQL_CHECK" => {
            port = Some(3306);
            if user.is_none() && (role != MysqlRole::Any || max_lag.is_some()) {
                found.warn(
                    &item.word.place,
                    "role and max_lag need a `user` to ask with: only the greeting is read",
                    "add `user NAME` and `password WORD`",
                );
                (role, max_lag) = (MysqlRole::Any, None);
            }
            CheckKind::Mysql { user, password, role, max_lag }
        }
        _ => return None,
    };
    if target.port() == 0 {
        target.set_port(port.unwrap_or(0));
    }
    let timing = timing.within(outer);
    Some(Check {
        kind,
        target,
        bind: bind_ip.map(|ip| SocketAddr::new(ip, bind_port)),
        delay_loop: timing.delay_loop.unwrap_or(Duration::from_secs(60)),
        connect_timeout: timing.connect_timeout.unwrap_or(Duration::from_secs(5)),
        retry: timing.retry.unwrap_or(default_retry),
        rise: timing.rise.unwrap_or(1),
        delay_before_retry: timing.delay_before_retry.unwrap_or(Duration::from_secs(1)),
        warmup: timing.warmup,
        alpha: timing.alpha.unwrap_or(false),
    })
}

fn url(found: &mut Findings, item: &Item<'_>) -> CheckUrl {
    let mut url = CheckUrl { path: "/".to_owned(), ..CheckUrl::default() };
    found.each(item.block, "url", kw::URL, |found, item| match item.keyword {
        "path" => url.path.clone_from(&item.args[0].text),
        "digest" => {
            url.digest = found.value(&item, "32 hexadecimal digits", |t| {
                let fine = t.len() == 32 && t.bytes().all(|b| b.is_ascii_hexdigit());
                fine.then(|| t.to_ascii_lowercase())
            });
        }
        "status_code" => {
            for word in item.args {
                url.status_code.extend(found.word(word, "status_code", "200 or 200-299", |t| {
                    let (low, high) = t.split_once('-').unwrap_or((t, t));
                    let range = (low.parse().ok()?, high.parse().ok()?);
                    (range.0 >= 100 && range.0 <= range.1 && range.1 <= 999).then_some(range)
                }));
            }
        }
        "virtualhost" => url.virtualhost = item.args.first().map(|w| w.text.clone()),
        "regex" => {
            let words: Vec<_> = item.args.iter().map(|w| w.text.as_str()).collect();
            let pattern = words.join(" ");
            // Without it the check would ask less than the file says.
            match regex::bytes::Regex::new(&pattern) {
                Ok(_) => url.regex = Some(pattern),
                Err(_) => found.error(
                    place_of(&item),
                    "`regex` can't be used",
                    "no look-around or back-references; syntax: docs of Rust's regex crate",
                ),
            }
        }
        _ => url.regex_no_match = flag(&item),
    });
    url
}

/// keepalived's free format: "Ab12f 3" is AB 12 0F 03.
fn hex(words: &[Word]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in words {
        let digits: Vec<u8> =
            word.text.chars().filter_map(|c| c.to_digit(16).map(|d| d as u8)).collect();
        for pair in digits.chunks(2) {
            out.push(match pair {
                [high, low] => high << 4 | low,
                [low] => *low,
                _ => 0,
            });
        }
    }
    out
}
