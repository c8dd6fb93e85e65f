//! Reads the director's configuration: a keepalived.conf as real sites write it, or our own TOML.

mod check;
mod checkers;
mod instance;
mod keepalived;
mod keywords;
mod lexer;
mod model;
mod reader;
mod routes;
mod scripts;
mod services;
mod system;
mod toml;
mod tracked;
mod tree;

use std::fmt;
use std::path::Path;

use pointsman_config::{Kind, Problem, Report, Style};

pub use model::*;

/// A configuration that can't be used, with all that is wrong in it: one report a file.
#[derive(Debug, Clone)]
pub struct Errors {
    reports: Vec<Report>,
    warnings: Vec<Warning>,
}

impl Errors {
    /// The reports, the main file's first.
    #[must_use]
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// What is doubtful besides. The reason of an error may be among it: a value that was left out
    /// because it can't be, and is missing then.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// `file:line:column: message` for all of it, the doubts first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let doubts = self.warnings.iter().map(Warning::line);
        doubts.chain(self.reports.iter().flat_map(Report::lines)).collect()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doubts = self.warnings.iter().map(|w| &w.report);
        for report in doubts.chain(&self.reports) {
            report.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Something doubtful in a configuration that is used nevertheless.
#[derive(Debug, Clone)]
pub struct Warning {
    // A report of one problem: it knows how to draw itself.
    report: Report,
}

impl Warning {
    /// What is doubtful.
    ///
    /// # Panics
    /// Never: a warning has one problem.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.report.problems()[0]
    }

    /// `file:line:column: message`.
    #[must_use]
    pub fn line(&self) -> String {
        self.report.lines().into_iter().next().unwrap_or_default()
    }

    /// Drawn with the line it is about.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        self.report.render(style)
    }
}

/// Reads a file of either kind, told apart by its content.
///
/// # Errors
/// [`Errors`]: the file can't be read, or what it says can't be run.
pub fn load(path: &Path) -> Result<(DirectorConfig, Vec<Warning>), Errors> {
    let name = path.to_string_lossy();
    match std::fs::read(path) {
        Ok(bytes) => parse(&name, &String::from_utf8_lossy(&bytes)),
        Err(error) => {
            let problem = Problem::new(format!("can't be read: {error}"));
            let reports = vec![Report::new(&name, "", vec![problem])];
            Err(Errors { reports, warnings: Vec::new() })
        }
    }
}

/// As [`parse`], of a keepalived.conf, without a look at anything else: files it includes count as
/// missing, the environment as empty.
///
/// # Errors
/// [`Errors`]
pub fn parse_alone(name: &str, text: &str) -> Result<(DirectorConfig, Vec<Warning>), Errors> {
    parse_keepalived(name, text, &system::Nothing)
}

/// As [`load`], from a text; `name` is where includes are relative to.
///
/// # Errors
/// [`Errors`]
pub fn parse(name: &str, text: &str) -> Result<(DirectorConfig, Vec<Warning>), Errors> {
    match pointsman_config::kind(text) {
        Kind::Director => toml::parse(name, text),
        Kind::Keepalived => parse_keepalived(name, text, &system::System),
        // Nothing that either would begin with: perhaps all of it is in other files.
        Kind::Proxy if text.trim_start().starts_with('[') => toml::parse(name, text),
        Kind::Proxy => parse_keepalived(name, text, &system::System),
    }
}

/// As [`parse_alone`], of our TOML.
///
/// # Errors
/// [`Errors`]
pub fn parse_toml_alone(name: &str, text: &str) -> Result<(DirectorConfig, Vec<Warning>), Errors> {
    toml::parse_on(name, text, scripts::Machine::NONE)
}

/// `config` as our TOML, passwords and all: read again it gives the same.
#[must_use]
pub fn to_toml(config: &DirectorConfig) -> String {
    toml::write(config)
}

fn parse_keepalived(
    name: &str,
    text: &str,
    world: &dyn lexer::World,
) -> Result<(DirectorConfig, Vec<Warning>), Errors> {
    let lexed = lexer::lex(name, text, world);
    let (statements, strays) = tree::parse(lexed.tokens);
    let mut found = reader::Findings::default();
    found.warnings.extend(lexed.warnings);
    found.scripts.machine = world.machine();
    let config = keepalived::read(&statements, strays, &mut found);

    let files: Vec<(String, String)> =
        lexed.files.into_iter().map(|f| (f.name, without_secrets(&f.text))).collect();
    let mut reports = Vec::new();
    for (i, (name, text)) in files.iter().enumerate() {
        let here = found.errors.iter().filter(|(file, _)| *file == i);
        let problems: Vec<Problem> = here.map(|(_, p)| p.clone()).collect();
        if !problems.is_empty() {
            reports.push(Report::new(name, text, problems));
        }
    }
    let mut warnings = found.warnings;
    warnings.sort_by_key(|(file, p)| (*file, p.span.as_ref().map_or(usize::MAX, |s| s.start)));
    let warnings = warnings
        .into_iter()
        .map(|(file, problem)| {
            let (name, text) = &files[file];
            Warning { report: Report::new(name, text, vec![problem]) }
        })
        .collect();
    if reports.is_empty() { Ok((config, warnings)) } else { Err(Errors { reports, warnings }) }
}

/// Passwords as asterisks, byte for byte, so that places stay right.
fn without_secrets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut hide_next = false;
        for word in line.split_inclusive(char::is_whitespace) {
            let bare = word.trim_end();
            if hide_next && !bare.is_empty() {
                out.extend(std::iter::repeat_n('*', bare.len()));
                out.push_str(&word[bare.len()..]);
                hide_next = false;
                continue;
            }
            hide_next = hide_next || matches!(bare, "auth_pass" | "password");
            out.push_str(word);
        }
    }
    out
}

#[cfg(test)]
mod tests;
