//! `[[rule]]`: statements for which something else holds than for their session.

use regex::{Regex, RegexBuilder};
use toml::Spanned;
use toml::de::DeValue;

use crate::proxy::Consistency;
use crate::read::{Findings, Read, Section};
use crate::report::Problem;

/// One rule. The first of the file whose conditions hold for a statement counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// For metrics and messages.
    pub name: String,
    /// Accounts whose statements it is for; none: everybody's.
    pub users: Vec<String>,
    /// What the statement's normal form (literals as `?`) has in it. `None`: anything.
    pub pattern: Option<Pattern>,
    pub action: Action,
}

impl Rule {
    /// Whether it is for statements of `account`.
    #[must_use]
    pub fn is_for(&self, account: &[u8]) -> bool {
        self.users.is_empty() || self.users.iter().any(|user| user.as_bytes() == account)
    }

    /// Whether it is for statements with this normal form.
    #[must_use]
    pub fn covers(&self, text: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_in(text))
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// What such a read may miss. A comment in the statement counts before it.
    Consistency(Consistency),
    /// Such a read goes to the primary.
    Primary,
    /// Such a statement is answered with an error of this text.
    Refuse(String),
}

/// A regular expression; upper and lower case are the same.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        let built = RegexBuilder::new(text).case_insensitive(true).build();
        built.map(Self).map_err(|error| {
            // The whole message draws the expression again; its last line says what is wrong.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.trim_start_matches("error: ").to_owned()
        })
    }

    /// Whether `text` has it somewhere.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl Read for Pattern {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let text = String::read(found, value, key)?;
        match Self::new(&text) {
            Ok(pattern) => Some(pattern),
            Err(why) => {
                found.error(
                    Problem::new(format!("`{key}` is no regular expression: {why}"))
                        .at(value.span())
                        .help("in single quotes backslashes stand for themselves: '^SELECT .* FROM \\w+_log'"),
                );
                None
            }
        }
    }
}

/// `"shop"` or `["shop", "cron"]`.
struct Names(Vec<String>);

impl Read for Names {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        match value.get_ref() {
            DeValue::Array(items) => {
                let names = items.iter().map(|item| String::read(found, item, key));
                names.collect::<Option<_>>().map(Self)
            }
            _ => String::read(found, value, key).map(|name| Self(vec![name])),
        }
    }
}

/// All of the file, in its order.
pub(crate) fn rules(found: &mut Findings, file: &mut Section<'_>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for mut s in file.sections(found, "rule") {
        let span = s.span();
        let name = s.required::<String>(found, "name", "\"reports\"");
        let users = s.or(found, "user", Names(Vec::new())).0;
        let pattern = s.at::<Pattern>(found, "match").map(|p| p.value);
        let anything = !s.is_written("user") && !s.is_written("match");
        let consistency = s.at::<Consistency>(found, "consistency");
        let primary = s.at::<bool>(found, "primary");
        let refuse = s.at::<String>(found, "refuse");
        let written = ["consistency", "primary", "refuse"].iter().filter(|k| s.is_written(k));
        let written = written.count();
        s.finish(found);
        if anything {
            found.error(
                Problem::new("the rule is for every statement of everybody")
                    .at(span.clone())
                    .help("add `match`, `user` or both; what holds for all stands in [routing]"),
            );
        }
        if written != 1 {
            let message = match written {
                0 => "the rule does nothing",
                _ => "a rule does one thing",
            };
            found.error(
                Problem::new(message)
                    .at(span.clone())
                    .help("write one of `consistency`, `primary = true` and `refuse`"),
            );
        }
        if let Some(primary) = &primary
            && !primary.value
        {
            found.error(
                Problem::new("a rule can't keep reads off the primary")
                    .at(primary.span.clone())
                    .help("reads go to replicas that are fresh enough by themselves; `consistency` says how fresh"),
            );
        }
        let action = match (consistency, primary, refuse) {
            (Some(level), ..) => Action::Consistency(level.value),
            (_, Some(_), _) => Action::Primary,
            (.., Some(text)) => Action::Refuse(text.value),
            _ => continue,
        };
        let Some(name) = name else { continue };
        if rules.iter().any(|r| r.name == name.value) {
            found.error(
                Problem::new(format!("two rules are called \"{}\"", name.value)).at(name.span),
            );
            continue;
        }
        crate::load::check_name(found, &name, "rule");
        rules.push(Rule { name: name.value, users, pattern, action });
    }
    if rules.len() > MOST {
        found.error(Problem::new(format!("{} rules are more than {MOST}", rules.len())));
    }
    rules
}

/// Each statement is looked at by every rule once.
const MOST: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProxyConfig;

    const REST: &str = "[[listener]]\naddress = \"127.0.0.1:3306\"\n[monitor]\nuser = \"p\"\n\
        password = \"p\"\n[[server]]\nname = \"a\"\naddress = \"b:3306\"\n[[server]]\nname = \"c\"\n\
        address = \"d:3306\"\n";

    fn parse(rules: &str) -> Result<Vec<Rule>, String> {
        let parsed = ProxyConfig::parse("proxy.toml", &format!("{REST}{rules}"));
        parsed.map(|(config, _)| config.rules).map_err(|report| report.to_string())
    }

    #[test]
    fn rules_are_read_in_their_order() {
        let text = "[[rule]]\nname = \"log\"\nmatch = '^select .* from \\w+_log'\n\
            consistency = \"eventual\"\n\
            [[rule]]\nname = \"cron\"\nuser = [\"cron\", \"root\"]\nprimary = true\n\
            [[rule]]\nname = \"no\"\nuser = \"shop\"\nmatch = 'sleep'\nrefuse = \"not here\"\n";
        let rules = parse(text).unwrap();
        let names: Vec<&str> = rules.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["log", "cron", "no"]);
        let pattern = rules[0].pattern.as_ref().unwrap();
        assert!(pattern.is_in("SELECT * FROM access_log WHERE id = ?"));
        assert!(!pattern.is_in("SELECT * FROM orders"));
        assert_eq!(rules[1].users, ["cron", "root"]);
        assert_eq!(rules[2].action, Action::Refuse("not here".into()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (rule, said) in [
            ("name = \"a\"\nprimary = true", "for every statement of everybody"),
            ("name = \"a\"\nmatch = 'x'", "does nothing"),
            ("name = \"a\"\nmatch = 'x'\nprimary = true\nrefuse = \"no\"", "does one thing"),
            ("name = \"a\"\nmatch = 'x'\nprimary = false", "can't keep reads off"),
            ("name = \"a\"\nmatch = '(x'\nprimary = true", "no regular expression: unclosed group"),
            ("match = 'x'\nprimary = true", "needs `name`"),
            ("name = \"a\"\nmach = 'x'\nprimary = true", "match"),
        ] {
            let report = parse(&format!("[[rule]]\n{rule}\n")).unwrap_err();
            assert!(report.contains(said), "{rule}: {report}");
        }
    }
}
