//! Values of one string that keepalived.conf writes as a line of words.

use std::net::IpAddr;

use pointsman_config::Problem;
use pointsman_config::read::{Findings, Read, Section};
use toml::Spanned;
use toml::de::DeValue;

use super::super::keepalived::{as_address, as_scope};
use super::super::model::{Script, Track, User, VirtualAddress, VirtualRoute, Weight};
use super::super::reader::split_command;

/// A list of strings, or one string.
#[derive(Default)]
pub(super) struct List(pub Vec<String>);

impl Read for List {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().map(|v| String::read(found, v, key)).collect::<Option<_>>().map(List)
            }
            _ => String::read(found, value, key).map(|s| List(vec![s])),
        }
    }
}

/// A weight: -253 to 253.
pub(super) struct Signed(pub i32);

impl Read for Signed {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let number = match value.get_ref() {
            DeValue::Integer(n) => i32::from_str_radix(n.as_str(), n.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|n| (-253..=253).contains(n));
        if number.is_none() {
            let message = format!("`{key}` must be a whole number from -253 to 253");
            found.error(Problem::new(message).at(value.span()));
        }
        number.map(Signed)
    }
}

/// `weight` and `reverse` of a section.
pub(super) fn weight(found: &mut Findings, section: &mut Section<'_>) -> Option<Weight> {
    let value = section.at(found, "weight").map(|w| w.value);
    let reverse = section.or(found, "reverse", false);
    value.map(|Signed(value)| Weight { value, reverse })
}

/// `"/bin/notify now"`, or `{ command = "/bin/notify now", user = "joe" }` (`"joe:group"`).
pub(super) struct Command(pub Script);

impl Read for Command {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let (text, user) = match value.get_ref() {
            DeValue::Table(table) => {
                let mut text = None;
                let mut user = None;
                for (name, value) in table {
                    match name.get_ref().as_ref() {
                        "command" => text = String::read(found, value, "command"),
                        "user" => user = String::read(found, value, "user"),
                        other => found.error(
                            Problem::new(format!("unknown key `{other}` in `{key}`"))
                                .at(name.span())
                                .help("known here: command, user"),
                        ),
                    }
                }
                if text.is_none() {
                    found.error(Problem::new(format!("`{key}` needs `command`")).at(value.span()));
                }
                (text?, user)
            }
            _ => (String::read(found, value, key)?, None),
        };
        match split_command(&text).filter(|c| !c.is_empty()) {
            Some(command) => Some(Self(Script { command, user: user.as_deref().map(as_user) })),
            None => {
                let problem = Problem::new(format!("`{key}` is no command"));
                found.error(problem.at(value.span()).help("a program and its arguments"));
                None
            }
        }
    }
}

pub(super) fn command(
    found: &mut Findings,
    section: &mut Section<'_>,
    key: &'static str,
) -> Option<Script> {
    section.at::<Command>(found, key).map(|c| c.value.0)
}

/// `"joe"` or `"joe:group"`.
pub(super) fn as_user(text: &str) -> User {
    match text.split_once(':') {
        Some((name, group)) => User { name: name.to_owned(), group: Some(group.to_owned()) },
        None => User { name: text.to_owned(), group: None },
    }
}

/// `"eth1"`, `"eth1 weight -10"`, `"eth1 weight 10 reverse"`.
fn as_track(text: &str) -> Option<Track> {
    let words = split_command(text)?;
    let (name, rest) = words.split_first()?;
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let weight = match rest.as_slice() {
        [] => None,
        ["weight", value, reverse @ ..] if matches!(reverse, [] | ["reverse"]) => {
            let value = value.parse().ok().filter(|v| (-253..=253).contains(v))?;
            Some(Weight { value, reverse: !reverse.is_empty() })
        }
        _ => return None,
    };
    Some(Track { name: name.clone(), weight })
}

/// What is tracked; each must be one of `known`, if there is such a list.
pub(super) fn tracks(
    found: &mut Findings,
    section: &mut Section<'_>,
    key: &'static str,
    known: Option<&[String]>,
) -> Vec<Track> {
    let Some(list) = section.at::<List>(found, key) else { return Vec::new() };
    let mut out = Vec::new();
    for text in &list.value.0 {
        let Some(track) = as_track(text) else {
            found.error(
                Problem::new(format!("`{text}` can't be tracked"))
                    .at(list.span.clone())
                    .help("write \"NAME\", \"NAME weight -10\" or \"NAME weight 10 reverse\""),
            );
            continue;
        };
        if known.is_some_and(|known| !known.contains(&track.name)) {
            let table = if key == "track_script" {
                "vrrp_script".to_owned()
            } else {
                format!("vrrp_{key}")
            };
            let message = format!("no [[{table}]] is called `{}`", track.name);
            found.error(Problem::new(message).at(list.span.clone()));
        }
        out.push(track);
    }
    out
}

/// `"10.0.0.1/24 dev eth1 label eth1:1 brd 10.0.0.255 scope link"`.
fn as_virtual_address(text: &str) -> Option<VirtualAddress> {
    let mut words = split_command(text)?.into_iter();
    let mut address = as_address(&words.next()?)?;
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "dev" => address.dev = Some(value),
            "label" => address.label = Some(value),
            "brd" => address.broadcast = Some(value.parse().ok()?),
            "scope" => address.scope = as_scope(&value)?,
            _ => return None,
        }
    }
    Some(address)
}

pub(super) fn addresses(
    found: &mut Findings,
    section: &mut Section<'_>,
    key: &'static str,
) -> Vec<VirtualAddress> {
    let want = "write \"192.168.4.253\", \"10.0.0.1/24\" or \"10.0.0.1/24 dev eth1\" (also: label, \
                brd, scope)";
    each(found, section, key, "is no virtual address", want, as_virtual_address)
}

pub(super) fn routes(
    found: &mut Findings,
    section: &mut Section<'_>,
    key: &'static str,
) -> Vec<VirtualRoute> {
    let want = "write \"10.1.0.0/16 via 10.0.0.1\", \"default via 10.0.0.1 dev eth1\" or \
                \"blackhole 10.2.0.0/16\" (also: src, metric, table)";
    each(found, section, key, "is no virtual route", want, |text| {
        crate::config::routes::parse(&text.split_whitespace().collect::<Vec<_>>()).ok()
    })
}

pub(super) fn ips(
    found: &mut Findings,
    section: &mut Section<'_>,
    key: &'static str,
) -> Vec<IpAddr> {
    each(found, section, key, "is no IP address", "", |text| text.parse().ok())
}

/// Each string of a list, read by `parse`.
pub(super) fn each<T>(
    found: &mut Findings,
    section: &mut Section<'_>,
    key: &'static str,
    wrong: &str,
    want: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let Some(list) = section.at::<List>(found, key) else { return Vec::new() };
    let mut out = Vec::new();
    for text in &list.value.0 {
        match parse(text) {
            Some(value) => out.push(value),
            None => {
                let problem = Problem::new(format!("`{text}` {wrong}")).at(list.span.clone());
                found.error(if want.is_empty() { problem } else { problem.help(want) });
            }
        }
    }
    out
}

/// One of a few words.
pub(super) fn word<T: Copy>(
    found: &mut Findings,
    section: &mut Section<'_>,
    key: &'static str,
    default: T,
    words: &[(&str, T)],
) -> T {
    let Some(written) = section.at::<String>(found, key) else { return default };
    match words.iter().find(|(word, _)| *word == written.value) {
        Some((_, value)) => *value,
        None => {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            found.error(
                Problem::new(format!("`{key}` can't be \"{}\"", written.value))
                    .at(written.span)
                    .help(format!("one of: {}", known.join(", "))),
            );
            default
        }
    }
}
