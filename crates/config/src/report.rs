//! Problems in a config file, shown as people can act on them: `file:line:column`, a caret, a way out.

use std::fmt;
use std::ops::Range;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Severity,
};

use crate::mask;

/// One thing that is wrong (or, as a [`Warning`], doubtful) in a config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Bytes of the file it is about; `None`: the file as a whole.
    pub span: Option<Range<usize>>,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// A few words under the caret.
    pub label: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem with the file as a whole.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { span: None, message: message.into(), label: None, help: None }
    }
    /// Where in the text it is, in bytes.
    #[must_use]
    pub fn at(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }
    /// Words under the caret.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }
    /// What to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// How a report is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// ANSI colours.
    pub colour: bool,
    /// Columns of the terminal.
    pub width: usize,
}

impl Default for Style {
    fn default() -> Self {
        Self { colour: false, width: 100 }
    }
}

/// A config file that can't be used, with everything that is wrong in it.
///
/// `Display` draws all problems without colours. Secrets in the file are drawn as asterisks.
#[derive(Clone)]
pub struct Report {
    source: Source,
    problems: Vec<Problem>,
}

/// Something doubtful in a config file that is used nevertheless. `Display` draws it.
#[derive(Clone)]
pub struct Warning {
    source: Source,
    problem: Problem,
}

/// A file's name and its text, secrets masked.
#[derive(Clone)]
struct Source {
    name: String,
    text: std::sync::Arc<str>,
}

impl Source {
    fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: mask::secrets(text).into() }
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..floor_char_boundary(&self.text, at)];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn draw(&self, problem: &Problem, severity: Severity, style: Style) -> String {
        let mut diagnostic = MietteDiagnostic::new(problem.message.clone()).with_severity(severity);
        if let Some(help) = &problem.help {
            diagnostic = diagnostic.with_help(help.clone());
        }
        if let Some(span) = &problem.span {
            // A caret needs a character to stand under, and must not run over several lines.
            let start = floor_char_boundary(&self.text, span.start);
            let rest = &self.text[start..];
            let line_end = start + rest.find('\n').unwrap_or(rest.len());
            let end = floor_char_boundary(&self.text, span.end).clamp(start, line_end.max(start));
            diagnostic =
                diagnostic.with_label(LabeledSpan::new(problem.label.clone(), start, end - start));
        } else {
            diagnostic.message = format!("{}: {}", self.name, problem.message);
        }
        let report = miette::Report::new(diagnostic)
            .with_source_code(NamedSource::new(&self.name, self.text.to_string()));
        let theme = if style.colour {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let mut out = String::new();
        let drawn = GraphicalReportHandler::new_themed(theme)
            .with_width(style.width)
            .with_context_lines(1)
            .with_links(false)
            .render_report(&mut out, report.as_ref());
        if drawn.is_err() {
            out = format!("{}: {}\n", self.name, problem.message);
        }
        out
    }

    /// `file:line:column: message` for one line of a log.
    fn line(&self, problem: &Problem) -> String {
        match &problem.span {
            Some(span) => {
                let (line, column) = self.position(span.start);
                format!("{}:{line}:{column}: {}", self.name, problem.message)
            }
            None => format!("{}: {}", self.name, problem.message),
        }
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl Report {
    /// A report on the file called `name`; problems are put in the order of the file.
    ///
    /// `text` may hold secrets: only a masked copy is kept.
    #[must_use]
    pub fn new(name: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|p| p.span.as_ref().map_or(usize::MAX, |s| s.start));
        Self { source: Source::new(name, text), problems }
    }

    /// Everything that is wrong, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Draws all problems.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let drawn: Vec<String> = self
            .problems
            .iter()
            .map(|p| self.source.draw(p, Severity::Error, style).trim_end().to_owned())
            .collect();
        drawn.join("\n\n") + "\n"
    }

    /// One line per problem: `file:line:column: message`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.problems.iter().map(|p| self.source.line(p)).collect()
    }
}

impl Warning {
    /// A doubt about the file called `name`; `text` may hold secrets: only a masked copy is kept.
    #[must_use]
    pub fn new(name: &str, text: &str, problem: Problem) -> Self {
        Self { source: Source::new(name, text), problem }
    }

    /// What is doubtful.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Draws it.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        self.source.draw(&self.problem, Severity::Warning, style)
    }

    /// `file:line:column: message`.
    #[must_use]
    pub fn line(&self) -> String {
        self.source.line(&self.problem)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::default()))
    }
}
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lines()).finish()
    }
}
impl std::error::Error for Report {}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::default()))
    }
}
impl fmt::Debug for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}
