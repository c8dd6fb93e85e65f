//! `[[rule]]`: which of them a statement of this session falls under.

use std::sync::OnceLock;

use pointsman_config::rule::{Action, Rule};

use crate::client::Client;
use crate::job::{Job, Kind};
use crate::problem::Problem;
use crate::worker::Statement;

/// Rules by their place in the file, in its order.
type Places = Box<[u16]>;

/// Of a statement: those whose pattern it has. Looked for once per fingerprint, if there are rules.
#[derive(Debug, Default)]
pub struct Matching(OnceLock<Places>);

/// Of an account: those that may be for its statements.
#[derive(Debug, Default)]
pub struct OfAccount(Places);

impl OfAccount {
    fn new(rules: &[Rule], account: &[u8]) -> Self {
        Self(places(rules, |rule| rule.is_for(account)))
    }

    /// The first of them that the statement falls under.
    fn first(&self, rules: &[Rule], matching: &Matching, text: &str) -> Option<u16> {
        if self.0.is_empty() {
            return None;
        }
        let matching = matching.0.get_or_init(|| places(rules, |rule| rule.covers(text)));
        self.0.iter().copied().find(|rule| matching.binary_search(rule).is_ok())
    }
}

fn places(rules: &[Rule], of: impl Fn(&Rule) -> bool) -> Places {
    (0..).zip(rules).filter(|(_, rule)| of(rule)).map(|(place, _)| place).collect()
}

impl Client {
    pub(crate) fn settle_rules(&mut self) {
        self.rules = OfAccount::new(&self.config().rules, &self.login.credentials.user);
    }

    /// What is done with a statement by rule.
    pub(crate) fn rule_for(&self, statement: &Statement) -> Option<&Action> {
        let rules = &self.config().rules;
        let place = self.rules.first(rules, &statement.stats.rules, &statement.text)?;
        rules.get(usize::from(place)).map(|rule| &rule.action)
    }

    /// Counts what falls under a rule; an error if that refuses it.
    pub(crate) fn ask_rules(&self, job: &Job) -> Result<(), Problem> {
        if !matches!(job.kind, Kind::Query | Kind::Prepare | Kind::Execute(_)) {
            return Ok(());
        }
        let rules = &self.config().rules;
        let statement = &job.statement;
        let Some(place) = self.rules.first(rules, &statement.stats.rules, &statement.text) else {
            return Ok(());
        };
        let place = usize::from(place);
        self.worker.stats.rules[place].add(1);
        match &rules[place].action {
            Action::Refuse(text) => Err(Problem::own(1148, "42000", format!("[PM2014] {text}"))),
            Action::Primary | Action::Consistency(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_config::rule::Pattern;

    fn rule(users: &[&str], pattern: Option<&str>) -> Rule {
        Rule {
            name: "r".into(),
            users: users.iter().map(|u| (*u).to_owned()).collect(),
            pattern: pattern.map(|p| Pattern::new(p).unwrap()),
            action: Action::Primary,
        }
    }

    #[test]
    fn the_first_that_fits_counts() {
        let rules = [
            rule(&["cron"], Some("from log")),
            rule(&["cron", "root"], None),
            rule(&[], Some("^select sleep")),
            rule(&[], Some("log")),
        ];
        let first = |user: &str, text| {
            OfAccount::new(&rules, user.as_bytes()).first(&rules, &Matching::default(), text)
        };
        assert_eq!(first("cron", "SELECT * FROM log"), Some(0));
        assert_eq!(first("cron", "SELECT * FROM shop"), Some(1));
        assert_eq!(first("shop", "SELECT SLEEP(?)"), Some(2));
        assert_eq!(first("shop", "INSERT INTO log VALUES (?)"), Some(3));
        assert_eq!(first("shop", "SELECT * FROM shop"), None);
    }
}
