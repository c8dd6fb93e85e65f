//! `pointsman explain`: says how a statement is classified, why, and where it would go.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use pointsman_config::ProxyConfig;
use pointsman_config::proxy::{Consistency, Routing};
use pointsman_config::rule::{Action, Rule};
use pointsman_config::units::show_duration;
use pointsman_sql::{Cache, Class, Dialect, Flavour, Hint, Route, Tables, Verdict};
use serde_json::json;

use crate::USAGE;

/// Say how a statement is classified, why, and where it would go
#[derive(Debug, clap::Args)]
pub struct Args {
    /// proxy.toml, for its consistency and limits; else their defaults
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For programs, not people
    #[arg(long)]
    json: bool,
    /// The account, for `[[rule]]`s that name one
    #[arg(long, value_name = "NAME", default_value = "")]
    user: String,
    /// Which server would run it
    #[arg(long, value_enum, default_value = "mariadb")]
    flavour: FlavourArg,
    /// Version of that server, as in 10.11.6: decides which executable comments run
    #[arg(long, value_name = "VERSION")]
    server_version: Option<String>,
    /// The session's sql_mode, as far as it changes how text is read (ANSI_QUOTES, NO_BACKSLASH_ESCAPES)
    #[arg(long, value_name = "MODES", default_value = "")]
    sql_mode: String,
    /// The statement; `-` reads it from stdin, byte for byte
    #[arg(value_name = "SQL")]
    sql: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FlavourArg {
    #[value(name = "mariadb")]
    MariaDb,
    #[value(name = "mysql")]
    MySql,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let (routing, max_statement, rules) = match &args.config {
        Some(path) => match ProxyConfig::load(path) {
            Ok((config, _)) => (config.routing, config.limits.max_statement, config.rules),
            Err(report) => {
                eprint!("{}", report.render(super::style()));
                return Ok(ExitCode::from(USAGE));
            }
        },
        None => {
            let limits = pointsman_config::proxy::Limits::default();
            (Routing::default(), limits.max_statement, Vec::new())
        }
    };
    let sql = if args.sql == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).context("reading stdin")?;
        bytes
    } else {
        args.sql.clone().into_bytes()
    };
    let dialect = match dialect(&args) {
        Ok(dialect) => dialect,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let (verdict, normal) = if sql.len() > max_statement {
        let verdict = Verdict::primary(Class::Write, pointsman_sql::Reason::TooLong);
        (verdict, "(too long to be looked at)".into())
    } else {
        let mut cache = Cache::<()>::new(1, 0);
        let (entry, _) = cache.lookup(&sql, &dialect);
        (entry.verdict.clone(), entry.text.clone())
    };
    let falls_under = |rule: &&Rule| rule.is_for(args.user.as_bytes()) && rule.covers(&normal);
    let explained =
        Explained { verdict, rule: rules.into_iter().find(|rule| falls_under(&rule)), routing };
    let text = if args.json { explained.as_json().to_string() + "\n" } else { explained.as_text() };
    // A closed pipe is nobody's fault.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn dialect(args: &Args) -> Result<Dialect> {
    let version = match &args.server_version {
        Some(text) => parse_version(text)
            .with_context(|| format!("--server-version \"{text}\": write it as 10.11.6"))?,
        None => match args.flavour {
            FlavourArg::MariaDb => 101_100,
            FlavourArg::MySql => 80_400,
        },
    };
    let mut dialect = Dialect::new(match args.flavour {
        FlavourArg::MariaDb => Flavour::MariaDb { version },
        FlavourArg::MySql => Flavour::MySql { version },
    });
    for mode in args.sql_mode.split(',').map(str::trim).filter(|m| !m.is_empty()) {
        match mode.to_ascii_uppercase().as_str() {
            "ANSI_QUOTES" | "ANSI" => dialect.ansi_quotes = true,
            "NO_BACKSLASH_ESCAPES" => dialect.no_backslash_escapes = true,
            _ => {}
        }
    }
    Ok(dialect)
}

/// `10.11.6` as 101106.
fn parse_version(text: &str) -> Result<u32> {
    let number = text.split('-').next().unwrap_or(text);
    let parts: Vec<u32> = number.split('.').map(str::parse).collect::<Result<_, _>>()?;
    match parts[..] {
        [major @ 0..100, minor @ 0..100] => Ok(major * 10_000 + minor * 100),
        [major @ 0..100, minor @ 0..100, patch @ 0..100] => {
            Ok(major * 10_000 + minor * 100 + patch)
        }
        _ => bail!("not two or three numbers"),
    }
}

fn class_code(class: Class) -> &'static str {
    match class {
        Class::Read => "read",
        Class::Write => "write",
        Class::Session => "session",
        Class::Other => "other",
    }
}

fn route_code(route: Route) -> &'static str {
    match route {
        Route::AnyReplica => "any_replica",
        Route::AnySession => "any_session",
        Route::LastUsed => "last_used",
        Route::Primary => "primary",
        Route::Proxy => "proxy",
    }
}

/// What is said of a statement.
struct Explained {
    verdict: Verdict,
    rule: Option<Rule>,
    routing: Routing,
}

impl Explained {
    /// Where it would go, in one sentence.
    fn destination(&self) -> String {
        match (self.action(), self.verdict.route) {
            (Some(Action::Refuse(text)), _) => {
                format!("no server: it is refused with error 1148, \"{text}\"")
            }
            (Some(Action::Primary), Route::AnyReplica) => "the primary".to_owned(),
            (action, Route::AnyReplica) => replica(&self.verdict, action, &self.routing),
            (_, Route::AnySession) => {
                "any one server; its effect is carried to each server this session uses later"
                    .to_owned()
            }
            (_, Route::LastUsed) => "the server that ran this session's last statement".to_owned(),
            (_, Route::Primary) => "the primary".to_owned(),
            (_, Route::Proxy) => "no server: Pointsman answers it".to_owned(),
        }
    }

    fn action(&self) -> Option<&Action> {
        self.rule.as_ref().map(|rule| &rule.action)
    }

    fn as_json(&self) -> serde_json::Value {
        let verdict = &self.verdict;
        json!({
            "class": class_code(verdict.class),
            "route": route_code(verdict.route),
            "destination": self.destination(),
            "reason": verdict.reason.code(),
            "reason_text": verdict.reason.text(),
            "detail": verdict.detail,
            "effects": effects(verdict),
            "tables": tables(verdict),
            "rule": self.rule.as_ref().map(|rule| &rule.name),
        })
    }

    fn as_text(&self) -> String {
        let verdict = &self.verdict;
        let detail = verdict.detail.as_ref().map_or(String::new(), |d| format!(" ({d})"));
        let reason = format!("{}{detail} [{}]", verdict.reason.text(), verdict.reason.code());
        let mut lines = vec![
            ("class", class_code(verdict.class).to_owned()),
            ("goes to", self.destination()),
            ("because it", reason),
        ];
        if let Some(rule) = &self.rule {
            lines.push(("by rule", rule.name.clone()));
        }
        lines.push(match tables(verdict) {
            Some(list) if list.is_empty() => ("tables", "none".to_owned()),
            Some(list) => ("tables", list.join(", ")),
            None => ("tables", "can't be told, so all".to_owned()),
        });
        let effects = effects(verdict);
        if !effects.is_empty() {
            lines.push(("session", effects.join(", ")));
        }
        lines.iter().map(|(name, value)| format!("{name:<11}{value}\n")).collect()
    }
}

fn replica(verdict: &Verdict, action: Option<&Action>, routing: &Routing) -> String {
    let lag = show_duration(routing.max_lag);
    let wait = match show_duration(routing.causal_timeout) {
        none if routing.causal_timeout.is_zero() => {
            let _ = none;
            "if none has, the primary".to_owned()
        }
        some => format!("waits up to {some} for one, then the primary"),
    };
    let asked = match verdict.hint {
        Some(Hint::Eventual) => Some(Consistency::Eventual),
        Some(Hint::Session) => Some(Consistency::Session),
        Some(Hint::Causal) => Some(Consistency::Causal),
        Some(Hint::Strong) => Some(Consistency::Strong),
        Some(Hint::Primary | Hint::Unknown) | None => match action {
            Some(Action::Consistency(level)) => Some(*level),
            _ => None,
        },
    };
    let wanted = match asked.unwrap_or(routing.consistency) {
        Consistency::Eventual => {
            return format!("a replica at most {lag} behind, else the primary");
        }
        Consistency::Session => "this session's last write".to_owned(),
        Consistency::Causal if !routing.by_table => "the last acknowledged write".to_owned(),
        Consistency::Causal => match &verdict.tables {
            Tables::Known(tables) if tables.is_empty() => {
                "the last acknowledged write of which Pointsman can't tell the tables".to_owned()
            }
            Tables::Known(_) => "the last acknowledged write that may have changed the tables it \
                                 reads (if one of them is no table but a view, say: the last one)"
                .to_owned(),
            Tables::Unknown => "the last acknowledged write".to_owned(),
        },
        Consistency::Strong => {
            "all that the primary has committed when the read arrives".to_owned()
        }
    };
    format!("a replica at most {lag} behind that has applied {wanted}; {wait}")
}

fn effects(verdict: &Verdict) -> Vec<String> {
    verdict.effects.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect()
}

fn tables(verdict: &Verdict) -> Option<Vec<String>> {
    match &verdict.tables {
        Tables::Known(tables) => Some(
            tables
                .iter()
                .map(|t| match &t.schema {
                    Some(schema) => format!("{schema}.{}", t.name),
                    None => t.name.to_string(),
                })
                .collect(),
        ),
        Tables::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(sql: &str) -> String {
        by_rule(sql, None)
    }

    fn by_rule(sql: &str, action: Option<Action>) -> String {
        let dialect = Dialect::new(Flavour::MariaDb { version: 101_100 });
        let verdict = pointsman_sql::classify(sql.as_bytes(), &dialect);
        let rule = |action| Rule { name: "mine".into(), users: vec![], pattern: None, action };
        Explained { verdict, rule: action.map(rule), routing: Routing::default() }.as_text()
    }

    #[test]
    fn a_rule_is_named() {
        let text = by_rule("SELECT * FROM t", Some(Action::Primary));
        assert!(text.contains("goes to    the primary\n"), "{text}");
        assert!(text.contains("by rule    mine"), "{text}");
        let text = by_rule("UPDATE t SET a = 1", Some(Action::Consistency(Consistency::Eventual)));
        assert!(text.contains("goes to    the primary\n"), "{text}");
        let text = by_rule("SELECT * FROM t", Some(Action::Consistency(Consistency::Eventual)));
        assert!(text.contains("at most 10s behind, else"), "{text}");
        let text = by_rule("DROP TABLE t", Some(Action::Refuse("no".into())));
        assert!(text.contains("refused with error 1148, \"no\""), "{text}");
    }

    #[test]
    fn a_comment_says_what_it_waits_for() {
        let text = explain("SELECT /* pointsman consistency=strong */ * FROM t");
        assert!(text.contains("all that the primary has committed"), "{text}");
        let text = explain("SELECT /* pointsman now */ * FROM t");
        assert!(text.contains("goes to    the primary"), "{text}");
        assert!(text.contains("not understood"), "{text}");
    }

    #[test]
    fn a_read_says_what_it_waits_for() {
        let text = explain("SELECT * FROM shop.orders WHERE id = 1");
        assert!(text.contains("class      read"), "{text}");
        let waits = "the last acknowledged write that may have changed the tables it reads";
        assert!(text.contains(waits), "{text}");
        assert!(text.contains("[plain_read]"), "{text}");
        assert!(text.contains("tables     shop.orders"), "{text}");
    }

    #[test]
    fn a_write_goes_to_the_primary() {
        let text = explain("UPDATE t SET a = 1");
        assert!(text.contains("goes to    the primary\n"), "{text}");
    }

    #[test]
    fn versions() {
        assert_eq!(parse_version("10.11.6").unwrap(), 101_106);
        assert_eq!(parse_version("10.11.6-MariaDB-log").unwrap(), 101_106);
        assert_eq!(parse_version("8.4").unwrap(), 80_400);
        assert!(parse_version("8").is_err());
        assert!(parse_version("x.y").is_err());
        assert!(parse_version("999999.0.0").is_err());
    }
}
