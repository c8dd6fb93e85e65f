//! Telling the stories, and comparing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pointsman_sandbox::Flavour;
use pointsman_wire::Capabilities;

use super::actor::Actor;
use super::case::{Action, Allowed, Case};
use crate::{APP_PASSWORD, APP_USER, Output, Raw, Setup, Site, caps, wait_until};

/// May do everything.
pub const BOSS: &str = "boss";
const BOSS_PASSWORD: &str = "boss-secret";

/// The tables every story finds.
const FIXTURE: &[&str] = &[
    "DROP DATABASE IF EXISTS app",
    "CREATE DATABASE app",
    "CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, n INT, v VARCHAR(100))",
    "INSERT INTO app.t (n, v) VALUES (10, 'ten'), (20, 'twenty'), (30, NULL)",
    "CREATE TABLE app.u (id INT PRIMARY KEY, t_id BIGINT, b BLOB)",
    "INSERT INTO app.u VALUES (1, 1, 'one'), (2, 3, x'00ff')",
];

/// What kind of client tells the stories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// EOF packets, no session tracking.
    Old,
    /// `CLIENT_DEPRECATE_EOF`, `CLIENT_SESSION_TRACK` and the flavour's own.
    New,
}

impl Variant {
    fn caps(self, flavour: Flavour) -> Capabilities {
        match (self, flavour) {
            (Self::Old, _) => caps(),
            (Self::New, Flavour::MariaDb) => {
                (caps() - Capabilities::LONG_PASSWORD)
                    | Capabilities::DEPRECATE_EOF
                    | Capabilities::SESSION_TRACK
                    | Capabilities::MARIADB_PROGRESS
                    | Capabilities::MARIADB_STMT_BULK_OPERATIONS
                    | Capabilities::MARIADB_EXTENDED_METADATA
            }
            (Self::New, _) => {
                caps()
                    | Capabilities::DEPRECATE_EOF
                    | Capabilities::SESSION_TRACK
                    | Capabilities::OPTIONAL_RESULTSET_METADATA
                    | Capabilities::QUERY_ATTRIBUTES
            }
        }
    }
}

/// Something that is not as it is on a direct connection.
#[derive(Debug, Clone)]
pub struct Difference {
    pub case: String,
    pub place: String,
    /// The line of the story, or what else was compared.
    pub what: String,
    pub direct: Vec<String>,
    pub proxied: Vec<String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    pub cases: usize,
    pub steps: usize,
    pub differences: Vec<Difference>,
    /// Differences that the stories foresee: place, line, reason.
    pub explained: Vec<(String, String, String)>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut last = "";
        for d in &self.differences {
            if last != d.case {
                writeln!(f, "\n{}", d.case)?;
                last = &d.case;
            }
            writeln!(f, "  {}: {}", d.place, d.what)?;
            // Only what lies between the lines that are alike at both ends.
            let alike = |a: &[String], b: &[String]| {
                let start = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                let (a, b) = (&a[start..], &b[start..]);
                (start, a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count())
            };
            let (start, end) = alike(&d.direct, &d.proxied);
            for (label, lines) in [("direct ", &d.direct), ("proxied", &d.proxied)] {
                let lines = &lines[start..lines.len() - end];
                if lines.is_empty() && !(d.direct.is_empty() && d.proxied.is_empty()) {
                    writeln!(f, "    {label} (nothing)")?;
                }
                for line in lines.iter().take(12) {
                    writeln!(f, "    {label} {line}")?;
                }
            }
        }
        writeln!(
            f,
            "{} cases, {} steps: {} differences, {} more that are explained",
            self.cases,
            self.steps,
            self.differences.len(),
            self.explained.len()
        )
    }
}

/// Servers with the proxy before them, ready to compare.
pub struct Comparison {
    site: Site,
    flavour: Flavour,
    variant: Variant,
}

/// One telling.
struct Telling {
    /// For each step its lines.
    lines: Vec<Vec<String>>,
    data: Vec<String>,
}

impl Comparison {
    /// `None` if there is no such server here. `mariadb`: see
    /// [`pointsman_sandbox::Options::mariadb`].
    ///
    /// # Errors
    /// Servers or proxy don't come up.
    pub fn start(
        flavour: Flavour,
        mariadb: Option<PathBuf>,
        variant: Variant,
    ) -> Result<Option<Self>> {
        if let Err(error) = flavour.check() {
            println!("skipped: {error:#}");
            return Ok(None);
        }
        let mut server_args =
            vec!["--log-bin-trust-function-creators=1".to_owned(), "--local-infile=1".to_owned()];
        if flavour == Flavour::MySql {
            // The stories are told in this one.
            server_args.push("--default-time-zone=+00:00".to_owned());
        }
        let setup = Setup { flavour, mariadb, server_args, ..Setup::default() };
        let site = Site::try_with(setup)?;
        site.primary().client_sql(&format!(
            "CREATE USER '{BOSS}'@'%' IDENTIFIED BY '{BOSS_PASSWORD}'; \
             GRANT ALL ON *.* TO '{BOSS}'@'%' WITH GRANT OPTION"
        ))?;
        site.sandbox.wait_caught_up()?;
        let comparison = Self { site, flavour, variant };
        if flavour == Flavour::MySql {
            // Once logged in, the servers and the proxy know these passwords: afterwards the short
            // way of caching_sha2_password will do.
            for port in [comparison.site.primary().port(), comparison.site.port()] {
                for (user, password) in [(APP_USER, APP_PASSWORD), (BOSS, BOSS_PASSWORD)] {
                    comparison.know(port, user, password)?;
                }
            }
        }
        Ok(Some(comparison))
    }

    fn know(&self, port: u16, user: &str, password: &str) -> Result<()> {
        let mut command = self.site.primary().client();
        command.args(["--host=127.0.0.1", "--get-server-public-key", "--execute=SELECT 1"]);
        command.args([format!("--port={port}"), format!("--user={user}")]);
        command.arg(format!("--password={password}"));
        let output = Output::of(&mut command);
        anyhow::ensure!(output.status.success(), "{}", output.stderr);
        Ok(())
    }

    /// A new server's first connections have ids that could be any number of a story.
    fn use_up_small_ids(&self) -> Result<()> {
        while Raw::greeted(self.site.primary().port(), caps())?.greeting.connection_id < 1000 {}
        Ok(())
    }

    fn boss(&self, port: u16) -> Result<Raw> {
        Raw::login(port, BOSS, BOSS_PASSWORD, None, caps())
    }

    /// Tells all of them, twice each.
    ///
    /// # Errors
    /// Whatever keeps the stories from being told.
    pub fn run(&self, cases: &[Case]) -> Result<Report> {
        let mut report = Report::default();
        let oracle = self.site.oracle();
        if cases.iter().any(|case| case.ids) {
            self.use_up_small_ids()?;
        }
        for case in cases.iter().filter(|c| c.only.is_none_or(|only| only == self.flavour)) {
            let mut told = || -> Result<()> {
                let direct = self.tell(case, self.site.primary().port()).context("direct")?;
                let proxied = self.tell(case, self.site.port()).context("proxied")?;
                compare(case, &direct, &proxied, &mut report);
                let findings = oracle.findings()?;
                if !findings.is_empty() {
                    report.differences.push(Difference {
                        case: case.name.clone(),
                        place: case.place.clone(),
                        what: "the replica".to_owned(),
                        direct: vec![],
                        proxied: findings,
                    });
                }
                Ok(())
            };
            told().with_context(|| format!("{} ({})", case.name, case.place))?;
            report.cases += 1;
            report.steps += case.steps.len();
            oracle.forget()?;
        }
        Ok(report)
    }

    fn tell(&self, case: &Case, port: u16) -> Result<Telling> {
        let mut boss = self.boss(self.site.primary().port())?;
        for sql in FIXTURE {
            boss.query(sql).with_context(|| (*sql).to_owned())?;
        }
        self.everywhere(&case.everywhere)?;
        self.site.sandbox.wait_caught_up()?;
        let caps = (self.variant.caps(self.flavour) | case.caps.0) - case.caps.1;
        let mut actors: BTreeMap<String, Actor> = BTreeMap::new();
        let mut ids: Vec<(u32, String)> = Vec::new();
        let mut lines = Vec::new();
        for step in &case.steps {
            let name = &step.connection;
            let mut said = Vec::new();
            if let Action::Connect { user, password, database, caps: more } = &step.action {
                let password = match password.as_str() {
                    "" if user == APP_USER => APP_PASSWORD,
                    "" if user == BOSS => BOSS_PASSWORD,
                    other => other,
                };
                let caps = (caps | more.0) - more.1;
                let (actor, login) =
                    Actor::connect(port, user, password, database.as_deref(), caps)?;
                said.extend(login);
                ids.extend(actor.id().map(|id| (id, name.clone())));
                actors.insert(name.clone(), actor);
            } else if let Action::Until(_) = &step.action {
                if let Action::Until(sql) = filled_in(&step.action, &ids) {
                    self.until(&sql)?;
                }
            } else {
                if !actors.contains_key(name) {
                    let (actor, login) =
                        Actor::connect(port, APP_USER, APP_PASSWORD, Some("app"), caps)?;
                    said.extend(login);
                    ids.extend(actor.id().map(|id| (id, name.clone())));
                    actors.insert(name.clone(), actor);
                }
                let actor = actors.get_mut(name).context("just connected")?;
                said.extend(actor.act(&filled_in(&step.action, &ids)));
            }
            lines.push(said.into_iter().map(|line| masked(case, line, &ids)).collect());
        }
        drop(actors);
        let data = self.data(&mut boss)?;
        for sql in &case.cleanup {
            boss.query(sql).with_context(|| sql.clone())?;
        }
        if !case.restore.is_empty() {
            // A replica may still be about to apply what goes with the setting.
            self.site.sandbox.wait_caught_up()?;
        }
        self.everywhere(&case.restore)?;
        Ok(Telling { lines, data })
    }

    fn everywhere(&self, sql: &[String]) -> Result<()> {
        self.site
            .sandbox
            .nodes()
            .iter()
            .try_for_each(|node| sql.iter().try_for_each(|sql| node.client_sql(sql).map(drop)))
    }

    fn until(&self, sql: &str) -> Result<()> {
        let mut bosses = [self.site.primary(), self.site.replica()].map(|n| self.boss(n.port()));
        wait_until(sql, Duration::from_secs(15), || {
            // Servers renew the tables of InnoDB only if they were not read for a tenth of a second.
            std::thread::sleep(Duration::from_millis(120));
            for boss in &mut bosses {
                let Ok(boss) = boss else { continue };
                if boss.one(sql)? == "1" {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// All tables of the application, with their checksums.
    fn data(&self, boss: &mut Raw) -> Result<Vec<String>> {
        let tables = boss.query(
            "SELECT table_name FROM information_schema.tables \
             WHERE table_schema = 'app' AND table_type = 'BASE TABLE' ORDER BY table_name",
        )?;
        let mut data = Vec::new();
        for table in tables.into_iter().filter_map(|mut row| row.pop().flatten()) {
            let rows = boss.query(&format!("CHECKSUM TABLE app.`{table}`"))?;
            let sum = rows.first().and_then(|r| r.last()).cloned().flatten();
            data.push(format!("TABLE {table} {}", sum.as_deref().unwrap_or("NULL")));
        }
        Ok(data)
    }
}

/// `{id:b}` in a statement is the id that `b` was told at login.
fn filled_in(action: &Action, ids: &[(u32, String)]) -> Action {
    let fill = |bytes: &[u8]| -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(bytes) else { return bytes.to_vec() };
        let mut text = text.to_owned();
        for (id, name) in ids.iter().rev() {
            text = text.replace(&format!("{{id:{name}}}"), &id.to_string());
            // COM_PROCESS_KILL wants it in four bytes.
            if let Some(at) = text.find(&format!("{{raw-id:{name}}}")) {
                let mut bytes = text.as_bytes()[..at].to_vec();
                bytes.extend_from_slice(&id.to_le_bytes());
                return bytes;
            }
        }
        text.into_bytes()
    };
    match action {
        Action::Query { sql, wait } => Action::Query { sql: fill(sql), wait: *wait },
        Action::Prepare { name, sql } => Action::Prepare { name: name.clone(), sql: fill(sql) },
        Action::Command(byte, argument) => Action::Command(*byte, fill(argument)),
        Action::Until(sql) => {
            Action::Until(String::from_utf8_lossy(&fill(sql.as_bytes())).into_owned())
        }
        other => other.clone(),
    }
}

fn masked(case: &Case, mut line: String, ids: &[(u32, String)]) -> String {
    for (regex, with) in &case.replace {
        line = regex.replace_all(&line, with.as_str()).into_owned();
    }
    if !case.ids {
        return line;
    }
    let (start, end) = where_ids_may_be(&line);
    let mut out = line[..start].to_owned();
    let mut rest = &line[start..end];
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, digits) = rest.split_at(at);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let name = digits[..end].parse().ok().and_then(|n: u32| ids.iter().find(|i| i.0 == n));
        out.push_str(before);
        let _ = match name {
            Some((_, name)) => write!(out, "<id of {name}>"),
            None => write!(out, "{}", &digits[..end]),
        };
        rest = &digits[end..];
    }
    out.push_str(rest);
    out.push_str(&line[end..]);
    out
}

/// The values of rows, the names of columns, the texts of errors. Numbers elsewhere are no ids: not
/// character set 63, nor error 1094.
fn where_ids_may_be(line: &str) -> (usize, usize) {
    if line.starts_with("ROW ") {
        (0, line.len())
    } else if line.starts_with("ERROR ") {
        // `ERROR NUMBER SQLSTATE TEXT`
        let text = line.match_indices(' ').nth(2).map_or(line.len(), |(at, _)| at);
        (text, line.len())
    } else {
        (0, line.rfind(" type=0x").unwrap_or(0))
    }
}

fn compare(case: &Case, direct: &Telling, proxied: &Telling, report: &mut Report) {
    for (i, step) in case.steps.iter().enumerate() {
        let (mut a, mut b) = (direct.lines[i].clone(), proxied.lines[i].clone());
        let mut differs = a != b;
        let explained = match &step.allowed {
            Allowed::Nothing => None,
            Allowed::All(reason) => {
                if differs {
                    report.explained.push((step.place.clone(), step.text.clone(), reason.clone()));
                    continue;
                }
                report.differences.push(Difference {
                    case: case.name.clone(),
                    place: step.place.clone(),
                    what: format!("{} (@differs, but does not: take that away)", step.text),
                    direct: vec![],
                    proxied: vec![],
                });
                continue;
            }
            Allowed::Values(reason) => {
                for line in a.iter_mut().chain(&mut b).filter(|l| l.starts_with("ROW")) {
                    "ROW (not compared)".clone_into(line);
                }
                Some(reason)
            }
            Allowed::Order(reason) => {
                a.sort();
                b.sort();
                Some(reason)
            }
        };
        if let Some(reason) = explained
            && differs
            && a == b
        {
            report.explained.push((step.place.clone(), step.text.clone(), reason.clone()));
        }
        differs = a != b;
        if differs {
            report.differences.push(Difference {
                case: case.name.clone(),
                place: step.place.clone(),
                what: step.text.clone(),
                direct: a,
                proxied: b,
            });
        }
    }
    if direct.data != proxied.data {
        report.differences.push(Difference {
            case: case.name.clone(),
            place: case.place.clone(),
            what: "the data at the end".to_owned(),
            direct: direct.data.clone(),
            proxied: proxied.data.clone(),
        });
    }
}
