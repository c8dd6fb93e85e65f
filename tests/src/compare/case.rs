//! The files under `tests/compare`: see `tests/compare/README.md` for how they are written.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use pointsman_sandbox::Flavour;
use pointsman_wire::Capabilities;
use regex::Regex;

/// One small story that must end alike on a direct connection and through the proxy.
#[derive(Debug, Clone)]
pub struct Case {
    /// `file: title`.
    pub name: String,
    /// Where it begins: `file:line`.
    pub place: String,
    /// Only this flavour has it.
    pub only: Option<Flavour>,
    /// What every connection asks for beside what the variant asks for, and does not ask for.
    pub caps: (Capabilities, Capabilities),
    /// Text of a reply that differs by nature, and what stands for it.
    pub replace: Vec<(Regex, String)>,
    /// Connection ids stand in replies: shown as the connection's name.
    pub ids: bool,
    /// SQL to be run by the administrator on the primary when all is over.
    pub cleanup: Vec<String>,
    /// SQL to be run by the administrator on every server before, and when all is over.
    pub everywhere: Vec<String>,
    pub restore: Vec<String>,
    pub steps: Vec<Step>,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Step {
    pub place: String,
    /// As written.
    pub text: String,
    pub connection: String,
    pub action: Action,
    pub allowed: Allowed,
}

/// What a reply may differ in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    Nothing,
    /// The values of its rows; not how many there are, nor anything else.
    Values(String),
    /// Everything, and it must.
    All(String),
    /// The order of its rows.
    Order(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// COM_QUERY; whether the reply is read at once.
    Query {
        sql: Vec<u8>,
        wait: bool,
    },
    /// Reads the reply to what was only sent.
    Read,
    Prepare {
        name: String,
        sql: Vec<u8>,
    },
    /// The last argument: open a cursor.
    Execute {
        name: String,
        params: Vec<Param>,
        cursor: bool,
    },
    /// MariaDB's COM_STMT_BULK_EXECUTE.
    Bulk {
        name: String,
        rows: Vec<Vec<Param>>,
    },
    Fetch {
        name: String,
        rows: u32,
    },
    LongData {
        name: String,
        param: u16,
        data: Vec<u8>,
    },
    ResetStatement(String),
    Close(String),
    /// A command's byte, its argument, and how its reply looks.
    Command(u8, Vec<u8>),
    ChangeUser {
        user: String,
        password: String,
        database: Option<String>,
        collation: u16,
    },
    Connect {
        user: String,
        password: String,
        database: Option<String>,
        caps: (Capabilities, Capabilities),
    },
    Disconnect,
    /// What to answer when the server asks for a file; `None`: there is none.
    File(Option<Vec<u8>>),
    /// Waits until this query answers 1 on one of the servers.
    Until(String),
    /// Waits until the connection ends, which it must.
    Closed,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    Null,
    Int(i64),
    Double(f64),
    Text(Vec<u8>),
    /// Sent by long data before.
    Long,
}

/// Reads all `*.case` files of a directory.
///
/// # Errors
/// With place, for what can't be read.
pub fn load(dir: &Path) -> Result<Vec<Case>> {
    let mut paths = fs::read_dir(dir)
        .with_context(|| format!("can't read {}", dir.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    let mut cases = Vec::new();
    for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "case")) {
        let text = fs::read_to_string(path)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        parse(&stem, &text, &mut cases)?;
    }
    ensure!(!cases.is_empty(), "no *.case in {}", dir.display());
    Ok(cases)
}

fn parse(file: &str, text: &str, cases: &mut Vec<Case>) -> Result<()> {
    let mut open: Option<Case> = None;
    let mut allowed = Allowed::Nothing;
    for (number, line) in text.lines().enumerate() {
        let place = format!("{file}.case:{}", number + 1);
        let line = line.trim_end();
        if line.is_empty() || line.starts_with("# ") || line == "#" {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            cases.extend(open.take());
            let name = format!("{file}: {title}");
            ensure!(cases.iter().all(|c| c.name != name), "{place}: a second {name:?}");
            open = Some(Case {
                name,
                place,
                only: None,
                caps: (Capabilities::empty(), Capabilities::empty()),
                replace: Vec::new(),
                ids: false,
                cleanup: Vec::new(),
                everywhere: Vec::new(),
                restore: Vec::new(),
                steps: Vec::new(),
            });
            continue;
        }
        let case =
            open.as_mut().with_context(|| format!("{place}: before the first `== title`"))?;
        let parsed = match line.strip_prefix('@') {
            Some(word) if !word.starts_with('@') => directive(case, word, &mut allowed),
            _ => step(&place, line).map(|mut step| {
                step.allowed = std::mem::replace(&mut allowed, Allowed::Nothing);
                case.steps.push(step);
            }),
        };
        parsed.with_context(|| format!("{place}: {line}"))?;
    }
    cases.extend(open);
    Ok(())
}

fn directive(case: &mut Case, word: &str, allowed: &mut Allowed) -> Result<()> {
    let (name, rest) = word.split_once(' ').unwrap_or((word, ""));
    let (name, rest) = (name.trim_end_matches(':'), rest.trim());
    let reason = || -> Result<String> {
        ensure!(!rest.is_empty(), "say why");
        Ok(rest.to_owned())
    };
    match name {
        "only" => {
            let (flavour, why) = rest.split_once(": ").context("@only mariadb: why")?;
            ensure!(!why.is_empty(), "say why");
            case.only = Some(match flavour {
                "mariadb" => Flavour::MariaDb,
                "mysql" => Flavour::MySql,
                other => bail!("no flavour {other}"),
            });
        }
        "caps" => case.caps = caps(rest)?,
        "ids" => case.ids = true,
        "cleanup" => case.cleanup.push(rest.to_owned()),
        "everywhere" => case.everywhere.push(rest.to_owned()),
        "restore" => case.restore.push(rest.to_owned()),
        "replace" => {
            let (what, why) = rest.rsplit_once(": ").context("@replace REGEX => TEXT: why")?;
            ensure!(!why.is_empty(), "say why");
            let (regex, with) = what.split_once(" => ").context("@replace REGEX => TEXT: why")?;
            case.replace.push((Regex::new(regex)?, with.to_owned()));
        }
        "values-differ" => *allowed = Allowed::Values(reason()?),
        "differs" => *allowed = Allowed::All(reason()?),
        "any-order" => *allowed = Allowed::Order(reason()?),
        other => bail!("no directive @{other}"),
    }
    Ok(())
}

/// `+found_rows -session_track`: to be added and taken away.
pub fn caps(text: &str) -> Result<(Capabilities, Capabilities)> {
    let (mut with, mut without) = (Capabilities::empty(), Capabilities::empty());
    for word in text.split_whitespace() {
        let name = word[1..].to_ascii_uppercase();
        let flag = Capabilities::from_name(&name).with_context(|| format!("no flag {name}"))?;
        match word.as_bytes()[0] {
            b'+' => with |= flag,
            b'-' => without |= flag,
            _ => bail!("{word}: + or - before a flag"),
        }
    }
    Ok((with, without))
}

fn step(place: &str, line: &str) -> Result<Step> {
    let (mut connection, mut rest, mut mark) = ("a", line, b'>');
    if let [name @ b'a'..=b'z', sign @ (b'>' | b'&' | b'<'), after @ ..] = line.as_bytes()
        && matches!(after.first(), None | Some(b' '))
    {
        connection = &line[..1];
        debug_assert_eq!(connection.as_bytes(), [*name]);
        (rest, mark) = (line[2..].strip_prefix(' ').unwrap_or_default(), *sign);
    }
    let action = match (mark, rest.strip_prefix('!')) {
        (b'<', _) if rest.is_empty() => Action::Read,
        (b'<', _) => bail!("nothing may stand after <"),
        (b'>', Some(command)) => self::command(command)?,
        (_, Some(_)) => bail!("only statements can be sent without waiting"),
        (mark, None) => Action::Query { sql: bytes(rest)?, wait: mark == b'>' },
    };
    Ok(Step {
        place: place.to_owned(),
        text: line.to_owned(),
        connection: connection.to_owned(),
        action,
        allowed: Allowed::Nothing,
    })
}

fn command(text: &str) -> Result<Action> {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (first, tail) = rest.split_once(' ').unwrap_or((rest, ""));
    let statement = || -> Result<String> {
        ensure!(!first.is_empty(), "which statement?");
        Ok(first.to_owned())
    };
    Ok(match name {
        "prepare" => Action::Prepare { name: statement()?, sql: bytes(tail)? },
        "execute" => Action::Execute { name: statement()?, params: params(tail)?, cursor: false },
        "cursor" => Action::Execute { name: statement()?, params: params(tail)?, cursor: true },
        "bulk" => Action::Bulk {
            name: statement()?,
            rows: tail.split(" / ").map(params).collect::<Result<_>>()?,
        },
        "fetch" => Action::Fetch { name: statement()?, rows: tail.trim().parse()? },
        "long-data" => {
            let (param, data) = tail.split_once(' ').context("!long-data STATEMENT PARAM DATA")?;
            Action::LongData { name: statement()?, param: param.parse()?, data: bytes(data)? }
        }
        "reset" => Action::ResetStatement(statement()?),
        "close" => Action::Close(statement()?),
        "init-db" => Action::Command(0x02, bytes(rest)?),
        "field-list" => Action::Command(0x04, [bytes(first)?, vec![0], bytes(tail)?].concat()),
        "statistics" => Action::Command(0x09, vec![]),
        "debug" => Action::Command(0x0d, vec![]),
        "ping" => Action::Command(0x0e, vec![]),
        "multi-statements" => Action::Command(0x1b, vec![u8::from(first != "on"), 0]),
        "reset-connection" => Action::Command(0x1f, vec![]),
        "command" => {
            let byte = u8::from_str_radix(first.trim_start_matches("0x"), 16)?;
            Action::Command(byte, bytes(tail)?)
        }
        "change-user" | "connect" => {
            let mut words = rest.split_whitespace();
            let user = words.next().context("as whom?")?.to_owned();
            let password = words.next().unwrap_or("-").to_owned();
            let password = if password == "-" { String::new() } else { password };
            let database = words.next().filter(|w| *w != "-").map(str::to_owned);
            if name == "change-user" {
                let collation = words.next().map_or(Ok(45), str::parse)?;
                return Ok(Action::ChangeUser { user, password, database, collation });
            }
            let caps = caps(&words.collect::<Vec<_>>().join(" "))?;
            Action::Connect { user, password, database, caps }
        }
        "disconnect" => Action::Disconnect,
        "closed" => Action::Closed,
        "file" => Action::File(if rest == "-" { None } else { Some(bytes(rest)?) }),
        "until" => Action::Until(rest.to_owned()),
        other => bail!("no command !{other}"),
    })
}

/// Text with `\xNN` for bytes that can't be written, and `\x{N}TEXT\x{}` for TEXT repeated N times.
pub fn bytes(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\x") {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 2..];
        if let Some(repeated) = rest.strip_prefix('{') {
            let (count, after) = repeated.split_once('}').context("\\x{N}")?;
            let (what, after) = after.split_once("\\x{}").context("\\x{N}TEXT\\x{}")?;
            out.extend(bytes(what)?.repeat(count.parse()?));
            rest = after;
            continue;
        }
        let hex = rest.get(..2).context("\\xNN")?;
        out.push(u8::from_str_radix(hex, 16).with_context(|| format!("\\x{hex}"))?);
        rest = &rest[2..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// `1 'text' NULL 1.5 LONG`.
fn params(text: &str) -> Result<Vec<Param>> {
    let mut params = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let (value, after) = quoted.split_once('\'').context("an open quote")?;
            params.push(Param::Text(bytes(value)?));
            rest = after.trim_start();
            continue;
        }
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        params.push(match word {
            "NULL" => Param::Null,
            "LONG" => Param::Long,
            number if number.contains('.') => Param::Double(number.parse()?),
            number => Param::Int(number.parse().with_context(|| format!("what is {number}?"))?),
        });
        rest = after.trim_start();
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_as_it_is_written() {
        let text = "# about\n== title\n@only mysql: no other has it\nSELECT 1\n\
                    @values-differ: by nature\nb> SELECT '\\x41'\nb& SELECT 2\nb<\n\
                    c> !execute s 1 'x y' NULL\nx: LOOP\n";
        let mut cases = Vec::new();
        parse("f", text, &mut cases).unwrap();
        let [case] = &cases[..] else { panic!("{cases:?}") };
        assert_eq!((case.name.as_str(), case.only), ("f: title", Some(Flavour::MySql)));
        let steps: Vec<_> = case.steps.iter().map(|s| (s.connection.as_str(), &s.action)).collect();
        let query = |sql: &str, wait| Action::Query { sql: sql.into(), wait };
        assert_eq!(
            steps,
            [
                ("a", &query("SELECT 1", true)),
                ("b", &query("SELECT 'A'", true)),
                ("b", &query("SELECT 2", false)),
                ("b", &Action::Read),
                (
                    "c",
                    &Action::Execute {
                        name: "s".into(),
                        params: vec![Param::Int(1), Param::Text(b"x y".to_vec()), Param::Null],
                        cursor: false,
                    }
                ),
                ("a", &query("x: LOOP", true)),
            ]
        );
        assert_eq!(case.steps[1].allowed, Allowed::Values("by nature".into()));
        assert_eq!(case.steps[2].allowed, Allowed::Nothing);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, want) in [
            ("SELECT 1", "f.case:1: before the first"),
            ("== a\n@values-differ", "f.case:2: @values-differ"),
            ("== a\n!frobnicate", "f.case:2: !frobnicate"),
            ("== a\n@caps +nosuch", "f.case:2: @caps"),
        ] {
            let error = parse("f", text, &mut Vec::new()).unwrap_err();
            assert!(format!("{error:#}").starts_with(want), "{error:#}");
        }
    }
}
