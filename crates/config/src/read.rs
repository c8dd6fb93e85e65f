//! Reads TOML into typed values without stopping at the first mistake.
//!
//! A `serde` derive would stop at the first one and would know nothing of places. Here each key is
//! asked for by name; what was never asked for is unknown; every problem carries its place.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::nearest::nearest;
use crate::report::Problem;
use crate::{Secret, units};

/// What was found wrong so far, and where secrets come from.
#[derive(Debug, Default)]
pub struct Findings {
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// A secret stands in the file itself: the first one's place.
    pub secret_in_file: Option<Range<usize>>,
}

impl Findings {
    /// Notes an error.
    pub fn error(&mut self, problem: Problem) {
        self.errors.push(problem);
    }
    /// Notes a doubt.
    pub fn warn(&mut self, problem: Problem) {
        self.warnings.push(problem);
    }
}

/// A value and the bytes of the file it was read from.
#[derive(Debug, Clone)]
pub struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// One table of a TOML file while its keys are being asked for.
#[derive(Debug)]
pub struct Section<'t> {
    /// As the file writes it: `[routing]`, `[[server]]`; `the file` for the root.
    title: String,
    span: Range<usize>,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    /// The whole file.
    #[must_use]
    pub fn root(table: &'t Spanned<DeTable<'t>>) -> Self {
        Self { title: "the file".to_owned(), span: 0..0, table: table.get_ref(), known: Vec::new() }
    }

    /// Where the section begins in the file.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    fn find(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, v)| v)
    }

    /// Whether `key` stands in it, right or wrong.
    #[must_use]
    pub fn is_written(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    fn ask(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.find(key)
    }

    /// The value of `key` with its place; `None` if it is missing or wrong (then noted).
    pub fn at<T: Read>(&mut self, found: &mut Findings, key: &'static str) -> Option<At<T>> {
        let value = self.ask(key)?;
        T::read(found, value, key).map(|v| At { value: v, span: value.span() })
    }

    /// The value of `key`, or `default` if it is missing or wrong (then noted).
    pub fn or<T: Read>(&mut self, found: &mut Findings, key: &'static str, default: T) -> T {
        self.at(found, key).map_or(default, |v| v.value)
    }

    /// As [`Section::or`], and notes an error if the value does not pass `check`.
    pub fn checked<T: Read>(
        &mut self,
        found: &mut Findings,
        key: &'static str,
        default: T,
        check: impl FnOnce(&T) -> Result<(), Problem>,
    ) -> T {
        let Some(v) = self.at(found, key) else { return default };
        if let Err(problem) = check(&v.value) {
            found.error(problem.at(v.span));
        }
        v.value
    }

    /// The value of a `key` that must be there.
    pub fn required<T: Read>(
        &mut self,
        found: &mut Findings,
        key: &'static str,
        example: &str,
    ) -> Option<At<T>> {
        if self.find(key).is_none() {
            self.known.push(key);
            found.error(
                Problem::new(format!("{} needs `{key}`", self.title))
                    .at(self.span())
                    .label(format!("no `{key}` in here"))
                    .help(format!("add {key} = {example}")),
            );
            return None;
        }
        self.at(found, key)
    }

    /// The table `[key]`, if there is one.
    pub fn section(&mut self, found: &mut Findings, key: &'static str) -> Option<Section<'t>> {
        let value = self.ask(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section {
                title: format!("[{key}]"),
                span: value.span(),
                table,
                known: Vec::new(),
            }),
            DeValue::Array(_) => {
                found.error(
                    Problem::new(format!("there can be only one [{key}]"))
                        .at(value.span())
                        .help(format!("write [{key}] with single brackets, once")),
                );
                None
            }
            other => {
                found.error(
                    wrong_type(value, other, "a table").help(format!("write it as [{key}]")),
                );
                None
            }
        }
    }

    /// All tables `[[key]]`.
    pub fn sections(&mut self, found: &mut Findings, key: &'static str) -> Vec<Section<'t>> {
        let Some(value) = self.ask(key) else { return Vec::new() };
        let items: Vec<&'t Spanned<DeValue<'t>>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            DeValue::Table(_) => {
                found.error(
                    Problem::new(format!(
                        "[{key}] can stand several times, so it has two brackets"
                    ))
                    .at(value.span())
                    .help(format!("write [[{key}]]")),
                );
                vec![value]
            }
            other => {
                found.error(
                    wrong_type(value, other, "a list of tables")
                        .help(format!("write each as [[{key}]]")),
                );
                Vec::new()
            }
        };
        let mut sections = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Section {
                    title: format!("[[{key}]]"),
                    span: item.span(),
                    table,
                    known: Vec::new(),
                }),
                other => found.error(
                    wrong_type(item, other, "a table").help(format!("write each as [[{key}]]")),
                ),
            }
        }
        sections
    }

    /// Notes every key that was never asked for.
    pub fn finish(self, found: &mut Findings) {
        let mut unknown: Vec<_> = self
            .table
            .iter()
            .filter(|(k, _)| !self.known.contains(&k.get_ref().as_ref()))
            .collect();
        unknown.sort_by_key(|(k, _)| k.span().start);
        for (key, _) in unknown {
            let mut problem =
                Problem::new(format!("unknown key `{}` in {}", key.get_ref(), self.title))
                    .at(key.span())
                    .help(format!("known here: {}", self.known.join(", ")));
            if let Some(meant) = nearest(key.get_ref(), &self.known) {
                problem = problem.label(format!("did you mean `{meant}`?"));
            } else {
                problem = problem.label("nothing has this name here");
            }
            found.error(problem);
        }
    }
}

/// A type that can be read from a TOML value.
pub trait Read: Sized {
    /// Reads it, or notes what is wrong and returns `None`.
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self>;
}

fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn wrong_type(value: &Spanned<DeValue<'_>>, is: &DeValue<'_>, want: &str) -> Problem {
    Problem::new(format!("expected {want}, found {}", describe(is))).at(value.span())
}

pub(crate) fn wrong_value(value: &Spanned<DeValue<'_>>, key: &str, want: &str) -> Problem {
    Problem::new(format!("`{key}` must be {want}, not {}", describe(value.get_ref())))
        .at(value.span())
}

impl Read for String {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(s) => Some(s.clone().into_owned()),
            _ => {
                found.error(wrong_value(value, key, "a string").help("put it in quotes"));
                None
            }
        }
    }
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl Read for Words {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let DeValue::Array(items) = value.get_ref() else {
            found.error(
                Problem::new(format!("`{key}` is a program and its arguments"))
                    .at(value.span())
                    .help("a list of words: [\"/usr/local/bin/rebuild\", \"--quick\"]"),
            );
            return None;
        };
        items.iter().map(|item| String::read(found, item, key)).collect::<Option<_>>().map(Self)
    }
}

impl Read for bool {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(b) => Some(*b),
            _ => {
                found.error(
                    wrong_value(value, key, "true or false").help("without quotes: true or false"),
                );
                None
            }
        }
    }
}

impl Read for u64 {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        if let DeValue::Integer(n) = value.get_ref() {
            if let Ok(n) = u64::from_str_radix(n.as_str(), n.radix()) {
                return Some(n);
            }
            found.error(
                Problem::new(format!("`{key}` must be a whole number from 0 up")).at(value.span()),
            );
        } else {
            found.error(
                wrong_value(value, key, "a whole number")
                    .help("without quotes and without a point"),
            );
        }
        None
    }
}

macro_rules! read_narrower {
    ($($t:ty)*) => {$(
        impl Read for $t {
            fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
                let n = u64::read(found, value, key)?;
                let narrow = <$t>::try_from(n).ok();
                if narrow.is_none() {
                    found.error(
                        Problem::new(format!("`{key}` can be {} at most", <$t>::MAX)).at(value.span()),
                    );
                }
                narrow
            }
        }
    )*};
}
read_narrower! { u8 u16 u32 usize }

impl Read for Duration {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let read = match value.get_ref() {
            DeValue::String(s) => units::parse_duration(s),
            _ => None,
        };
        if read.is_none() {
            let mut problem = Problem::new(format!("`{key}` is no duration")).at(value.span());
            if let DeValue::Integer(n) = value.get_ref() {
                problem = problem.label(format!("{n} of what? \"{n}s\"? \"{n}ms\"?"));
            }
            found.error(problem.help(units::DURATION_HELP));
        }
        read
    }
}

/// A number of bytes, written `"16MiB"` or as a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

impl Read for Size {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let read = match value.get_ref() {
            DeValue::String(s) => units::parse_size(s),
            DeValue::Integer(n) => usize::from_str_radix(n.as_str(), n.radix()).ok(),
            _ => None,
        };
        if read.is_none() {
            found.error(
                Problem::new(format!("`{key}` is no size")).at(value.span()).help(units::SIZE_HELP),
            );
        }
        read.map(Size)
    }
}

impl Read for SocketAddr {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let text = String::read(found, value, key)?;
        let read: Option<Self> = text.parse().ok();
        if read.is_none() {
            let problem = Problem::new(format!("`{key}` is no address to listen on"))
                .at(value.span())
                .help("an address to listen on is IP:PORT: \"0.0.0.0:3306\", \"[::]:3306\"");
            found.error(if text.parse::<std::net::IpAddr>().is_ok() {
                problem.label("the port is missing")
            } else if text.starts_with(':') {
                problem.label("the IP is missing; 0.0.0.0 is every IPv4 address of this host")
            } else if text
                .rsplit_once(':')
                .is_some_and(|(host, _)| host.contains(char::is_alphabetic))
                && !text.contains("::")
            {
                problem.label("a name can't be listened on")
            } else {
                problem.label("not IP:PORT")
            });
        }
        read
    }
}

/// `host:port`, the host a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort(pub String);

impl Read for HostPort {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let text = String::read(found, value, key)?;
        match host_port_fault(&text) {
            None => Some(Self(text)),
            Some(fault) => {
                found.error(
                    Problem::new(format!("`{key}` is no host and port"))
                        .at(value.span())
                        .label(fault)
                        .help("write \"db1.example.net:3306\", \"192.168.4.11:3306\" or \"[fd00::11]:3306\""),
                );
                None
            }
        }
    }
}

fn host_port_fault(text: &str) -> Option<&'static str> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Some("the port is missing");
    }
    if text.starts_with('/') {
        return Some("Unix sockets can't be watched from another host; give the TCP address");
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => match v6.split_once("]:") {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port),
            Some(_) => return Some("what is in brackets is no IPv6 address"),
            None => return Some("the port is missing"),
        },
        None => match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Some("an IPv6 address needs brackets");
            }
            Some((host, port)) => {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                if host.is_empty() {
                    return Some("the host is missing");
                }
                if !host.chars().all(legal) {
                    return Some("no host has this name");
                }
                (host, port)
            }
            None => return Some("the port is missing"),
        },
    };
    let _ = host;
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Some("the port must be a number from 1 to 65535"),
        Ok(_) => None,
    }
}

impl Read for Secret {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(s) => {
                found.secret_in_file.get_or_insert(value.span());
                Some(Secret::new(s.clone().into_owned()))
            }
            DeValue::Table(table) => {
                let mut section = Section {
                    title: format!("`{key}`"),
                    span: value.span(),
                    table,
                    known: Vec::new(),
                };
                let env = section.at::<String>(found, "env");
                let file = section.at::<String>(found, "file");
                section.finish(found);
                match (env, file) {
                    (Some(env), None) => from_env(found, &env),
                    (None, Some(file)) => from_file(found, &file),
                    _ => {
                        found.error(
                            Problem::new(format!("`{key}` needs either env or file"))
                                .at(value.span())
                                .help(SECRET_HELP),
                        );
                        None
                    }
                }
            }
            _ => {
                found.error(wrong_value(value, key, "a secret").help(SECRET_HELP));
                None
            }
        }
    }
}

const SECRET_HELP: &str =
    "a secret is \"text\", { env = \"NAME\" } or { file = \"/path/to/a/file\" }";

fn from_env(found: &mut Findings, name: &At<String>) -> Option<Secret> {
    match std::env::var(&name.value) {
        Ok(value) => Some(Secret::new(value)),
        Err(error) => {
            let why = match error {
                std::env::VarError::NotPresent => "is not set",
                std::env::VarError::NotUnicode(_) => "is not valid UTF-8",
            };
            found.error(
                Problem::new(format!("the environment variable {} {why}", name.value))
                    .at(name.span.clone())
                    .help("set it for the daemon (systemd: Environment= or EnvironmentFile=)"),
            );
            None
        }
    }
}

/// A secret's file holds the secret and, as editors leave it, perhaps a newline.
fn from_file(found: &mut Findings, path: &At<String>) -> Option<Secret> {
    match std::fs::read_to_string(&path.value) {
        Ok(text) => {
            let secret = text.strip_suffix('\n').unwrap_or(&text);
            let secret = secret.strip_suffix('\r').unwrap_or(secret);
            if secret.is_empty() {
                found.error(
                    Problem::new(format!("{} is empty", path.value))
                        .at(path.span.clone())
                        .help("put the secret in it, on one line"),
                );
                return None;
            }
            if readable_by_all(std::path::Path::new(&path.value)) {
                found.warn(
                    Problem::new(format!("every user of this host can read {}", path.value))
                        .at(path.span.clone())
                        .help(format!("chmod o-r {}", path.value)),
                );
            }
            Some(Secret::new(secret))
        }
        Err(error) => {
            found.error(
                Problem::new(format!("can't read {}: {error}", path.value))
                    .at(path.span.clone())
                    .help("the daemon's user must be able to read it"),
            );
            None
        }
    }
}

/// Whether "others" have the read permission.
pub(crate) fn readable_by_all(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o004 != 0)
}

/// Reads one of a few words.
pub(crate) fn word<T: Copy>(
    found: &mut Findings,
    value: &Spanned<DeValue<'_>>,
    key: &str,
    words: &[(&'static str, T)],
) -> Option<T> {
    let names: Vec<&'static str> = words.iter().map(|(name, _)| *name).collect();
    if let DeValue::String(s) = value.get_ref() {
        if let Some((_, t)) = words.iter().find(|(name, _)| name == s) {
            return Some(*t);
        }
        let mut problem = Problem::new(format!("`{key}` can't be \"{s}\""))
            .at(value.span())
            .help(format!("one of {}", names.join(", ")));
        if let Some(meant) = nearest(s, &names) {
            problem = problem.label(format!("did you mean \"{meant}\"?"));
        }
        found.error(problem);
    } else {
        found.error(
            wrong_value(value, key, "a string").help(format!("one of {}", names.join(", "))),
        );
    }
    None
}
