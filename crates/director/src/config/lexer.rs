//! keepalived.conf as words, braces and ends of line.
//!
//! Rules as keepalived 2.2.7 has them: words stand between white space; `#` or `!` starts a
//! comment; `"..."` keeps white space; `\` at the end of a line continues it; `{` and `}` may be
//! glued to a word; `include GLOB` is relative to the including file; `$NAME=value` defines,
//! `$NAME` and `${NAME}` use; `${_ENV NAME}` is the environment; `@id` before a line keeps it for
//! the configuration of that id only, `@^id` for all others.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use pointsman_config::Problem;

/// Files within files, and values within values: more is a loop.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 1000;
/// One line with its definitions replaced, in bytes.
const MAX_EXPANSION: usize = 1 << 18;
/// What definitions may expand to, altogether.
const MAX_TOKENS: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Word(String),
    Open,
    Close,
    EndOfLine,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub kind: Kind,
    pub place: Place,
}

/// Bytes of one of the files read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: usize,
    pub span: Range<usize>,
}

/// A file as read.
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    pub name: String,
    pub text: String,
}

/// What comes from outside the text: stubbed in tests and fuzzing.
pub(crate) trait World {
    /// Files matching `pattern`, sorted, with their content or why they can't be read.
    fn glob(&self, pattern: &Path) -> Vec<(PathBuf, Result<String, String>)>;
    fn env(&self, name: &str) -> Option<String>;
    /// What `@id` is compared with: the first part of the host's name.
    fn config_id(&self) -> String;
    /// What it knows about users and programs.
    fn machine(&self) -> super::scripts::Machine {
        super::scripts::Machine::NONE
    }
}

pub(crate) struct Lexed {
    pub tokens: Vec<Token>,
    pub files: Vec<SourceFile>,
    pub warnings: Vec<(usize, Problem)>,
}

pub(crate) fn lex(name: &str, text: &str, world: &dyn World) -> Lexed {
    let mut lexer = Lexer {
        world,
        config_id: world.config_id(),
        definitions: HashMap::new(),
        out: Lexed { tokens: Vec::new(), files: Vec::new(), warnings: Vec::new() },
    };
    lexer.file(name, text, 0);
    lexer.out
}

struct Lexer<'w> {
    world: &'w dyn World,
    config_id: String,
    definitions: HashMap<String, String>,
    out: Lexed,
}

/// Where tokens of a text lie: in the file itself, or all where a definition was used.
#[derive(Clone)]
enum Origin {
    File { file: usize, start: usize },
    Use(Place),
}

impl Origin {
    fn place(&self, span: Range<usize>) -> Place {
        match self {
            Self::File { file, start } => {
                Place { file: *file, span: start + span.start..start + span.end }
            }
            Self::Use(place) => place.clone(),
        }
    }
}

impl Lexer<'_> {
    fn file(&mut self, name: &str, text: &str, depth: usize) {
        let file = self.out.files.len();
        self.out.files.push(SourceFile { name: name.to_owned(), text: text.to_owned() });
        self.lines(text, &Origin::File { file, start: 0 }, depth);
    }

    fn warn(&mut self, place: &Place, message: impl Into<String>, help: &str) {
        let mut problem = Problem::new(message).at(place.span.clone());
        if !help.is_empty() {
            problem = problem.help(help);
        }
        self.out.warnings.push((place.file, problem));
    }

    fn lines(&mut self, text: &str, origin: &Origin, depth: usize) {
        let mut at = 0;
        while at < text.len() {
            let length = text[at..].find('\n').unwrap_or(text.len() - at);
            let mut line = &text[at..at + length];
            let mut end = at + length + 1;
            if let Some((name, first)) = definition(line) {
                // A definition may run over lines that end in a backslash; they stay lines.
                let mut value = first.trim_end().to_owned();
                while value.ends_with('\\') && end < text.len() {
                    value.pop();
                    let length = text[end..].find('\n').unwrap_or(text.len() - end);
                    value.push('\n');
                    value.push_str(text[end..end + length].trim_end());
                    end += length + 1;
                }
                self.definitions.insert(name.to_owned(), value.trim().to_owned());
                at = end;
                continue;
            }
            let mut joined;
            let mut here = match origin {
                Origin::File { file, start } => Origin::File { file: *file, start: start + at },
                Origin::Use(place) => Origin::Use(place.clone()),
            };
            if line.trim_end().ends_with('\\') && end < text.len() {
                let place = here.place(0..line.trim_end().len());
                joined = line.trim_end().trim_end_matches('\\').to_owned();
                while end < text.len() {
                    let length = text[end..].find('\n').unwrap_or(text.len() - end);
                    let next = text[end..end + length].trim_end();
                    end += length + 1;
                    joined.push(' ');
                    joined.push_str(next.trim_end_matches('\\'));
                    if !next.ends_with('\\') {
                        break;
                    }
                }
                line = &joined;
                here = Origin::Use(place);
            }
            self.line(line, &here, depth);
            at = end;
        }
    }

    /// One line, without its end.
    fn line(&mut self, line: &str, origin: &Origin, depth: usize) {
        let indent = line.len() - line.trim_start().len();
        let body = line.trim();
        if body.is_empty() {
            return;
        }
        let place = origin.place(indent..indent + body.len());
        if let Some(rest) = body.strip_prefix('@') {
            let (id, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let (id, wanted) = match id.strip_prefix('^') {
                Some(id) => (id, false),
                None => (id, true),
            };
            if (id == self.config_id) != wanted {
                return;
            }
            let start = body.len() - rest.len();
            let shifted = match origin {
                Origin::File { file, start: s } => {
                    Origin::File { file: *file, start: s + indent + start }
                }
                Origin::Use(place) => Origin::Use(place.clone()),
            };
            if let Some((name, value)) = definition(rest) {
                self.definitions.insert(name.to_owned(), value.trim().to_owned());
            } else if depth < MAX_DEPTH {
                self.line(rest, &shifted, depth + 1);
            }
            return;
        }
        if body.contains('$')
            && let Some(expanded) = self.expand(body)
        {
            if depth >= MAX_DEPTH
                || expanded.len() > MAX_EXPANSION
                || self.out.tokens.len() > MAX_TOKENS
            {
                self.warn(&place, "definitions refer to each other without end", "");
                return;
            }
            // Replacement is recursive; what is still there afterwards is not defined.
            self.lines(&expanded, &Origin::Use(place), depth + 1);
            return;
        }
        let word = body.split(char::is_whitespace).next().unwrap_or_default();
        if matches!(
            word,
            "include"
                | "include_check"
                | "includer"
                | "includea"
                | "includem"
                | "includew"
                | "includeb"
        ) {
            let target = body[word.len()..].trim().trim_matches('"').to_owned();
            self.include(&target, word != "include", &place, depth);
            return;
        }
        if word.starts_with("~SEQ") || word.starts_with("~LST") {
            self.warn(
                &place,
                format!("{word} is not supported: the line is ignored"),
                "write the repeated blocks out",
            );
            return;
        }
        self.words(line, origin);
    }

    fn include(&mut self, target: &str, must_exist: bool, place: &Place, depth: usize) {
        if depth >= MAX_DEPTH || self.out.files.len() >= MAX_FILES {
            self.warn(place, "files include each other without end", "");
            return;
        }
        let base = Path::new(&self.out.files[place.file].name).parent().map(Path::to_owned);
        let pattern = base.unwrap_or_default().join(target);
        let found = self.world.glob(&pattern);
        if found.is_empty() {
            let message = format!("no file matches {}", pattern.display());
            let help = if must_exist { "create it, or use plain `include`" } else { "" };
            self.warn(place, message, help);
        }
        for (path, content) in found {
            match content {
                Ok(text) => self.file(&path.to_string_lossy(), &text, depth + 1),
                Err(why) => self.warn(place, format!("can't read {}: {why}", path.display()), ""),
            }
        }
    }

    /// The line with every defined name replaced; `None` if there is none.
    fn expand(&self, line: &str) -> Option<String> {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        let mut replaced = false;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let (value, length) = if let Some(inner) = after.strip_prefix('{') {
                match inner.find('}') {
                    Some(end) => (self.value(inner[..end].trim()), end + 2),
                    None => (None, 0),
                }
            } else {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let end = end.unwrap_or(after.len());
                let followed_by_space = after[end..].chars().next().is_none_or(char::is_whitespace);
                (if followed_by_space { self.value(&after[..end]) } else { None }, end)
            };
            match value {
                Some(value) => {
                    out.push_str(&value);
                    rest = &after[length..];
                    replaced = true;
                }
                None => {
                    out.push('$');
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        replaced.then_some(out)
    }

    fn value(&self, name: &str) -> Option<String> {
        if let Some(variable) = name.strip_prefix("_ENV ") {
            return self.world.env(variable.trim());
        }
        if name.is_empty() {
            return None;
        }
        self.definitions.get(name).cloned()
    }

    fn words(&mut self, line: &str, origin: &Origin) {
        let bytes = line.as_bytes();
        let mut word = String::new();
        let mut word_start = None;
        let before = self.out.tokens.len();
        let mut i = 0;
        macro_rules! end_word {
            () => {
                if let Some(start) = word_start.take() {
                    let place = origin.place(start..i);
                    let kind = Kind::Word(std::mem::take(&mut word));
                    self.out.tokens.push(Token { kind, place });
                }
            };
        }
        while i < bytes.len() {
            match bytes[i] {
                b'#' | b'!' => break,
                b'"' => {
                    let start = i;
                    word_start.get_or_insert(start);
                    i += 1;
                    let mut closed = false;
                    while i < bytes.len() {
                        let rest = &line[i..];
                        let Some(c) = rest.chars().next() else { break };
                        if c == '"' {
                            closed = true;
                            i += 1;
                            break;
                        }
                        if c == '\\' && rest[1..].starts_with(['"', '\\']) {
                            word.push_str(&rest[1..2]);
                            i += 2;
                            continue;
                        }
                        word.push(c);
                        i += c.len_utf8();
                    }
                    if !closed {
                        let place = origin.place(start..line.len());
                        self.warn(
                            &place,
                            "the quote is not closed on this line",
                            "add a closing \"",
                        );
                    }
                    continue;
                }
                b'{' | b'}' => {
                    end_word!();
                    let kind = if bytes[i] == b'{' { Kind::Open } else { Kind::Close };
                    self.out.tokens.push(Token { kind, place: origin.place(i..i + 1) });
                }
                b if b.is_ascii_whitespace() => end_word!(),
                _ => {
                    word_start.get_or_insert(i);
                    let Some(c) = line[i..].chars().next() else { break };
                    word.push(c);
                    i += c.len_utf8();
                    continue;
                }
            }
            i += 1;
        }
        end_word!();
        if self.out.tokens.len() > before {
            self.out
                .tokens
                .push(Token { kind: Kind::EndOfLine, place: origin.place(line.len()..line.len()) });
        }
    }
}

/// `$NAME=value`.
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim_start().strip_prefix('$')?.split_once('=')?;
    let first = name.chars().next()?;
    let fine =
        !first.is_ascii_digit() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    fine.then_some((name, value))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Files in memory, no globbing.
    #[derive(Default)]
    pub(crate) struct Memory(pub HashMap<String, String>);

    impl World for Memory {
        fn glob(&self, pattern: &Path) -> Vec<(PathBuf, Result<String, String>)> {
            let key = pattern.to_string_lossy().into_owned();
            self.0.get(&key).map(|t| (pattern.to_owned(), Ok(t.clone()))).into_iter().collect()
        }
        fn env(&self, name: &str) -> Option<String> {
            (name == "SITE").then(|| "paris".to_owned())
        }
        fn config_id(&self) -> String {
            "main".to_owned()
        }
    }

    fn words(text: &str) -> Vec<String> {
        let world = Memory::default();
        lex("t.conf", text, &world)
            .tokens
            .into_iter()
            .map(|t| match t.kind {
                Kind::Word(w) => w,
                Kind::Open => "{".to_owned(),
                Kind::Close => "}".to_owned(),
                Kind::EndOfLine => ";".to_owned(),
            })
            .collect()
    }

    #[test]
    fn comments_quotes_glued_braces_and_continued_lines() {
        assert_eq!(
            words("a b#c\n!x\n  d \"e  #f\" { g}"),
            ["a", "b", ";", "d", "e  #f", "{", "g", "}", ";"]
        );
        assert_eq!(
            words("virtual_server 10.0.0.1 80{\n}"),
            ["virtual_server", "10.0.0.1", "80", "{", ";", "}", ";"]
        );
        assert_eq!(words("a \\\n b\nc"), ["a", "b", ";", "c", ";"]);
        assert_eq!(words(r#"x "say \"hi\"""#), ["x", "say \"hi\"", ";"]);
    }

    #[test]
    fn definitions_are_replaced_when_used() {
        assert_eq!(
            words("$A=1${B}\n$B=2\nx $A ${A}3 $C a$A.b\n"),
            ["x", "12", "123", "$C", "a$A.b", ";"]
        );
        assert_eq!(words("$I= \\\n a { \\\n  b \\\n }\n$I\n"), ["a", "{", ";", "b", ";", "}", ";"]);
        assert_eq!(words("x ${_ENV SITE}"), ["x", "paris", ";"]);
        assert_eq!(words("$A=$B\n$B=$A\nx $A"), [] as [&str; 0], "a loop ends");
    }

    #[test]
    fn conditional_lines_are_kept_for_this_id() {
        assert_eq!(words("@main a\n@other b\n@^main c\n@^other d\n"), ["a", ";", "d", ";"]);
        assert_eq!(
            words("$IF=@main\n$IF x\n@other $A=1\n@main $A=2\ny $A"),
            ["x", ";", "y", "2", ";"]
        );
    }

    #[test]
    fn includes_are_relative_to_the_including_file() {
        let mut world = Memory::default();
        world.0.insert("etc/conf.d/a".to_owned(), "x\ninclude b".to_owned());
        world.0.insert("etc/conf.d/b".to_owned(), "y\ninclude a".to_owned());
        let lexed = lex("etc/keepalived.conf", "include conf.d/a\ninclude gone", &world);
        assert_eq!(lexed.files[1].name, "etc/conf.d/a");
        let messages: Vec<_> = lexed.warnings.iter().map(|(_, p)| p.message.as_str()).collect();
        assert_eq!(messages, ["files include each other without end", "no file matches etc/gone"]);
    }

    #[test]
    fn tokens_know_their_place() {
        let lexed = lex("t.conf", "ab  cd\n\u{e4} ef", &Memory::default());
        let spans: Vec<_> = lexed
            .tokens
            .iter()
            .filter(|t| matches!(t.kind, Kind::Word(_)))
            .map(|t| &"ab  cd\n\u{e4} ef"[t.place.span.clone()])
            .collect();
        assert_eq!(spans, ["ab", "cd", "\u{e4}", "ef"]);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "[a-z0-9 \t\n\"{}$@\\\\#!=~\u{e4}]{0,300}") {
            let lexed = lex("t.conf", &text, &Memory::default());
            for token in lexed.tokens {
                prop_assert!(text.get(token.place.span).is_some());
            }
        }
    }
}
