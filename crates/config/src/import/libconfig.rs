//! libconfig's syntax, in which ProxySQL's file is written.
//!
//! `name = value` or `name : value`, ended by `;`, `,` or nothing; groups `{ }`, arrays `[ ]` and lists
//! `( )`; strings with C's escapes, adjacent ones joined; comments `#`, `//` and `/* */`.
//! Source: libconfig's manual, "Configuration Files".

use std::ops::Range;

use crate::report::Problem;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    pub kind: Kind,
    pub span: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Text(String),
    /// Numbers and booleans, as written.
    Word(String),
    Group(Vec<Setting>),
    List(Vec<Value>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    pub name: String,
    /// Name and value.
    pub span: Range<usize>,
    pub value: Value,
}

impl Value {
    /// A text, number or boolean as text.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) | Kind::Word(text) => Some(text),
            Kind::Group(_) | Kind::List(_) => None,
        }
    }

    /// The groups of a list.
    pub fn groups(&self) -> impl Iterator<Item = (&[Setting], &Range<usize>)> {
        let items = match &self.kind {
            Kind::List(items) => items.as_slice(),
            _ => &[],
        };
        items.iter().filter_map(|item| match &item.kind {
            Kind::Group(settings) => Some((settings.as_slice(), &item.span)),
            _ => None,
        })
    }
}

/// All settings of a file.
///
/// # Errors
/// The first place that can't be read.
pub fn parse(text: &str) -> Result<Vec<Setting>, Problem> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let settings = reader.settings()?;
    match reader.peek() {
        None => Ok(settings),
        Some(_) => Err(reader.wrong("a setting's name")),
    }
}

/// Deeper ones are nobody's.
const DEEPEST: usize = 32;

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// The next character that is neither white space nor in a comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = self.rest();
            let skip = match rest.chars().next()? {
                c if c.is_whitespace() => c.len_utf8(),
                '#' => rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
                c => return Some(c),
            };
            self.at += skip;
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        if is_next {
            self.at += wanted.len_utf8();
        }
        is_next
    }

    fn wrong(&self, expected: &str) -> Problem {
        let next = self.rest().chars().next().map_or(0, char::len_utf8);
        Problem::new(format!("can't be read: {expected} is expected here"))
            .at(self.at..self.at + next)
    }

    /// Letters, digits and what else stands in names and numbers.
    fn word(&mut self) -> &str {
        self.peek();
        let rest = &self.text[self.at..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-_*+.".contains(c);
        let len = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn settings(&mut self) -> Result<Vec<Setting>, Problem> {
        let mut settings = Vec::new();
        loop {
            while self.take(';') || self.take(',') {}
            let Some(next) = self.peek() else { return Ok(settings) };
            if !next.is_ascii_alphabetic() && next != '*' {
                return Ok(settings);
            }
            let begin = self.at;
            let name = self.word().to_owned();
            if !self.take('=') && !self.take(':') {
                return Err(self.wrong("`=`"));
            }
            let value = self.value()?;
            settings.push(Setting { name, span: begin..value.span.end, value });
        }
    }

    fn value(&mut self) -> Result<Value, Problem> {
        if self.depth == DEEPEST {
            return Err(self.wrong("nothing so deep"));
        }
        self.depth += 1;
        let next = self.peek();
        let begin = self.at;
        let kind = match next {
            Some('{') => {
                self.at += 1;
                let settings = self.settings()?;
                self.close('}')?;
                Kind::Group(settings)
            }
            Some(open @ ('(' | '[')) => {
                self.at += 1;
                let close = if open == '(' { ')' } else { ']' };
                let mut items = Vec::new();
                loop {
                    while self.take(',') {}
                    if self.peek().is_none_or(|c| c == close) {
                        break;
                    }
                    items.push(self.value()?);
                }
                self.close(close)?;
                Kind::List(items)
            }
            Some('"') => {
                let mut text = String::new();
                let mut end = self.at;
                while self.peek() == Some('"') {
                    self.string(&mut text)?;
                    end = self.at;
                }
                self.at = end;
                Kind::Text(text)
            }
            _ => match self.word() {
                "" => return Err(self.wrong("a value")),
                word => Kind::Word(word.to_owned()),
            },
        };
        self.depth -= 1;
        Ok(Value { kind, span: begin..self.at })
    }

    fn close(&mut self, with: char) -> Result<(), Problem> {
        if self.take(with) { Ok(()) } else { Err(self.wrong(&format!("`{with}`"))) }
    }

    /// One string, at whose opening quote the reader stands.
    fn string(&mut self, out: &mut String) -> Result<(), Problem> {
        let mut chars = self.text[self.at + 1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += at + 2;
                    return Ok(());
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('r') => out.push('\r'),
                    Some('t') => out.push('\t'),
                    Some('f') => out.push('\x0c'),
                    Some('x') => {
                        let code: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
                        match u8::from_str_radix(&code, 16) {
                            Ok(code) => out.push(char::from(code)),
                            Err(_) => return Err(self.wrong("a string with `\\xNN` in it")),
                        }
                    }
                    Some(c @ ('"' | '\\')) => out.push(c),
                    // As libconfig has it: the backslash stands for itself.
                    Some(c) => out.extend(['\\', c]),
                    None => break,
                },
                c => out.push(c),
            }
        }
        Err(self.wrong("a string that ends"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_read() {
        let text = "a = 1; b : \"x\\\"y\\d\" \"z\" # c = 2\n/* d = 3; */ g = { e = true f=[1, 2], };\n\
            l = ( { h=0x1F }, // i\n { h=-2.5e3 } )";
        let settings = parse(text).unwrap();
        let names: Vec<&str> = settings.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "g", "l"]);
        assert_eq!(settings[1].value.text(), Some("x\"y\\dz"));
        assert_eq!(&text[settings[1].span.clone()], "b : \"x\\\"y\\d\" \"z\"");
        let found: Vec<_> = settings[3].value.groups().map(|(g, _)| g[0].value.text()).collect();
        assert_eq!(found, [Some("0x1F"), Some("-2.5e3")]);
    }

    #[test]
    fn what_can_not_be_read_is_shown() {
        for (text, at) in [("a = ", 4), ("a 1", 2), ("a = (1", 6), ("a = \"x", 4), ("= 1", 0)] {
            let problem = parse(text).unwrap_err();
            assert_eq!(problem.span.unwrap().start, at, "{text}");
        }
        assert!(parse(&format!("a = {}", "(".repeat(100_000))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "[(){}\\[\\]a-c=:;,# \"\n/*\\\\x0-9é]{0,200}") {
            let _ = parse(&text);
        }
    }
}
