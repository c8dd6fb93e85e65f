//! What a run of a suite said, and how two of them differ.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use regex::Regex;

/// What became of one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Passed,
    Failed,
    Skipped,
}

impl Status {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "ok" => Self::Passed,
            "fail" => Self::Failed,
            "skip" => Self::Skipped,
            _ => return None,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        })
    }
}

/// One run: status, and what the test printed where the suite keeps that.
#[derive(Debug, Clone, Default)]
pub struct Results {
    tests: BTreeMap<String, (Status, Option<String>)>,
}

impl Results {
    /// Reads `out/results`, one `STATUS<tab>NAME` a line, and `out/outputs/NAME`.
    ///
    /// # Errors
    /// It is not there, or says nothing.
    pub fn read(out: &Path) -> Result<Self> {
        let path = out.join("results");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("the suite left no {}", path.display()))?;
        let mut tests = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let Some((Some(status), name)) =
                line.split_once('\t').map(|(word, name)| (Status::parse(word), name))
            else {
                bail!("{}: neither ok, fail nor skip: {line}", path.display());
            };
            let output = fs::read(out.join("outputs").join(name)).ok();
            let output = output.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            tests.insert(name.to_owned(), (status, output));
        }
        ensure!(!tests.is_empty(), "{} is empty: no test was run", path.display());
        Ok(Self { tests })
    }

    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        self.tests.values().filter(|(s, _)| *s == status).count()
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |status| self.count(status);
        write!(
            f,
            "{:>6} passed {:>5} failed {:>5} skipped",
            count(Status::Passed),
            count(Status::Failed),
            count(Status::Skipped)
        )
    }
}

/// Tests that may differ, each with the reason: `NAME: REASON` a line, `NAME` a regular expression.
#[derive(Debug, Default)]
pub struct Explained(Vec<(Regex, String)>);

impl Explained {
    /// # Errors
    /// A line has no reason, or its name is no regular expression.
    pub fn read(path: &Path) -> Result<Self> {
        let Ok(text) = fs::read_to_string(path) else { return Ok(Self::default()) };
        let mut list = Vec::new();
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (name, why) = line
                .split_once(": ")
                .with_context(|| format!("{}: no reason in: {line}", path.display()))?;
            let name = Regex::new(&format!("^(?:{name})$"))
                .with_context(|| format!("{}: {line}", path.display()))?;
            list.push((name, why.to_owned()));
        }
        Ok(Self(list))
    }

    fn why(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(name)).map(|(_, why)| why.as_str())
    }
}

/// Two runs side by side.
#[derive(Debug, Default)]
pub struct Comparison {
    /// What differs, in a line each; below it, where outputs were kept, how.
    pub differences: Vec<String>,
    /// What differs and may.
    pub explained: Vec<(String, String)>,
}

impl Comparison {
    #[must_use]
    pub fn of(direct: &Results, proxied: &Results, explained: &Explained) -> Self {
        let mut comparison = Self::default();
        let missing = (Status::Skipped, None);
        let names = direct.tests.keys().chain(proxied.tests.keys());
        let names: std::collections::BTreeSet<_> = names.collect();
        for name in names {
            let word = |run: &Results| {
                run.tests.get(name).map_or("not run".to_owned(), |(status, _)| status.to_string())
            };
            let get = |run: &Results| run.tests.get(name).unwrap_or(&missing).clone();
            let (there, here) = (get(direct), get(proxied));
            let what = if word(direct) != word(proxied) {
                format!("{name}: direct {}, through the proxy {}", word(direct), word(proxied))
            } else if there.1 != here.1 {
                format!("{name}: the output differs")
            } else {
                continue;
            };
            match explained.why(name) {
                Some(why) => comparison.explained.push((what, why.to_owned())),
                None => {
                    let detail = match (there.1, here.1) {
                        (Some(there), Some(here)) => first_difference(&there, &here),
                        _ => String::new(),
                    };
                    comparison.differences.push(what + &detail);
                }
            }
        }
        comparison
    }
}

/// Where two texts part.
fn first_difference(there: &str, here: &str) -> String {
    let (there, here): (Vec<_>, Vec<_>) = (there.lines().collect(), here.lines().collect());
    let same = there.iter().zip(&here).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for line in &there[same.saturating_sub(2)..same] {
        text += &format!("\n        {}", shorten(line));
    }
    for (sign, lines) in [("-", &there), ("+", &here)] {
        for line in lines[same..].iter().take(2) {
            text += &format!("\n      {sign} {}", shorten(line));
        }
    }
    text
}

fn shorten(line: &str) -> String {
    line.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(lines: &[(&str, Status, Option<&str>)]) -> Results {
        let tests = lines.iter().map(|(name, status, output)| {
            ((*name).to_owned(), (*status, output.map(str::to_owned)))
        });
        Results { tests: tests.collect() }
    }

    #[test]
    fn what_differs_is_told_unless_it_is_explained() {
        let direct = results(&[
            ("a", Status::Passed, None),
            ("b", Status::Passed, Some("1\n2\n")),
            ("c", Status::Failed, None),
            ("d", Status::Passed, None),
        ]);
        let proxied = results(&[
            ("a", Status::Failed, None),
            ("b", Status::Passed, Some("1\n3\n")),
            ("c", Status::Failed, None),
        ]);
        let explained = Explained(vec![(Regex::new("^d$").unwrap(), "because".into())]);
        let comparison = Comparison::of(&direct, &proxied, &explained);
        assert_eq!(
            comparison.differences,
            [
                "a: direct passed, through the proxy failed",
                "b: the output differs\n        1\n      - 2\n      + 3"
            ]
        );
        assert_eq!(comparison.explained.len(), 1);
    }
}
