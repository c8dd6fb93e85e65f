//! Walks the statements of one block: knows its keywords, tells unknown ones, reads arguments.

use std::net::IpAddr;
use std::time::Duration;

use pointsman_config::Problem;

use super::keywords::Args;
use super::lexer::Place;
use super::model::{Script, User, Weight};
use super::tree::{Statement, Word};

/// Problems found so far, with the number of the file they are in.
#[derive(Default)]
pub(crate) struct Findings {
    pub warnings: Vec<(usize, Problem)>,
    pub errors: Vec<(usize, Problem)>,
    pub scripts: super::scripts::Rules,
}

/// One keyword with what belongs to it.
pub(crate) struct Item<'a> {
    pub keyword: &'static str,
    pub word: &'a Word,
    pub args: &'a [Word],
    pub block: &'a [Statement],
}

impl Findings {
    pub fn warn(&mut self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.warnings.push((place.file, problem(place, message.into(), help.into())));
    }

    pub fn error(&mut self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.errors.push((place.file, problem(place, message.into(), help.into())));
    }

    /// Calls `handle` for each known keyword of `block`, in the order of the file. Several
    /// statements on one line are taken apart.
    pub fn each<'a>(
        &mut self,
        block: &'a [Statement],
        title: &str,
        table: &[(&'static str, Args)],
        mut handle: impl FnMut(&mut Self, Item<'a>),
    ) {
        let find = |text: &str| table.iter().find(|(k, _)| *k == text).copied();
        for statement in block {
            let mut rest: &[Word] = &statement.words;
            while let Some((word, after)) = rest.split_first() {
                let Some((keyword, args)) = find(&word.text) else {
                    self.unknown(word, title);
                    break;
                };
                let next = match args {
                    Args::Exactly(n) => n.min(after.len()),
                    Args::OptionalBool => {
                        usize::from(after.first().is_some_and(|w| as_bool(&w.text).is_some()))
                    }
                    Args::Rest | Args::Moot | Args::Unsupported | Args::Block => after.len(),
                };
                let (args_here, tail) = after.split_at(next);
                // The block belongs to the last statement of the line.
                let is_last = tail.is_empty();
                let has_block = is_last && statement.block.is_some();
                match args {
                    Args::Unsupported => {
                        self.warn(&word.place, format!("`{keyword}` is not supported: ignored"), "")
                    }
                    Args::Moot => {}
                    Args::Exactly(n) if args_here.len() < n && n < 2 => {
                        self.warn(&word.place, format!("`{keyword}` needs a value: ignored"), "")
                    }
                    Args::Block if !has_block && args_here.is_empty() => self.warn(
                        &word.place,
                        format!("`{keyword}` needs a block {{ ... }}: ignored"),
                        "",
                    ),
                    _ => {
                        let block = statement.block.as_deref().filter(|_| has_block);
                        if has_block && args != Args::Block {
                            self.warn(&word.place, format!("`{keyword}` takes no block"), "");
                        }
                        let block = block.unwrap_or(&[]);
                        handle(self, Item { keyword, word, args: args_here, block });
                    }
                }
                if let Some(extra) = tail.first()
                    && find(&extra.text).is_none()
                {
                    self.warn(
                        &extra.place,
                        format!("`{}` after `{keyword}` has no meaning: ignored", extra.text),
                        "",
                    );
                    break;
                }
                rest = tail;
            }
        }
    }

    fn unknown(&mut self, word: &Word, title: &str) {
        let help = match word.text.as_str() {
            "nat_mask" => "keepalived has not used it since version 1: it can be removed",
            "lvs_id" => "keepalived dropped it: `router_id` is what is left of it",
            "nb_get_retry" => {
                "it belongs into a checker such as TCP_CHECK { retry 3 }; here it has no effect"
            }
            "local_address_group" | "laddr_group_name" => {
                "only FullNAT patches of LVS know it; direct routing does not need it"
            }
            _ => "",
        };
        self.warn(
            &word.place,
            format!("unknown keyword `{}` in {title}: ignored", word.text),
            help,
        );
    }

    /// The first argument, parsed; else warns and `None`.
    pub fn value<T>(
        &mut self,
        item: &Item<'_>,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let word = item.args.first()?;
        self.word(word, item.keyword, want, parse)
    }

    /// A word, parsed; else warns and `None`.
    pub fn word<T>(
        &mut self,
        word: &Word,
        keyword: &str,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(&word.text);
        if value.is_none() {
            self.warn(
                &word.place,
                format!("`{keyword}` must be {want}, not `{}`: ignored", word.text),
                "",
            );
        }
        value
    }

    /// Sets `target` if the argument is right.
    pub fn set<T>(
        &mut self,
        target: &mut T,
        item: &Item<'_>,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) {
        if let Some(value) = self.value(item, want, parse) {
            *target = value;
        }
    }

    pub fn seconds(&mut self, target: &mut Duration, item: &Item<'_>) {
        self.set(target, item, "a time in seconds", as_seconds);
    }

    /// `weight N [reverse]`.
    pub fn weight(&mut self, keyword: &str, args: &[Word]) -> Option<Weight> {
        let (first, rest) = args.split_first()?;
        let value = self.word(first, keyword, "a number from -253 to 253", |t| {
            t.parse().ok().filter(|v| (-253..=253).contains(v))
        })?;
        let reverse = rest.first().is_some_and(|w| w.text == "reverse");
        Some(Weight { value, reverse })
    }

    /// `notify "/path arg" user group`: the command is one quoted word, or plain words.
    pub fn script(&mut self, item: &Item<'_>) -> Option<Script> {
        let (first, rest) = item.args.split_first()?;
        let command = match split_command(&first.text) {
            Some(command) if !command.is_empty() => command,
            _ => {
                self.warn(&first.place, format!("`{}` has no command: ignored", item.keyword), "");
                return None;
            }
        };
        let user = rest
            .first()
            .map(|u| User { name: u.text.clone(), group: rest.get(1).map(|g| g.text.clone()) });
        self.settle(Script { command, user }, &first.place)
    }

    /// `script /path arg arg`: all of the line is the command. Its user stands elsewhere: see
    /// [`Findings::settle`].
    pub fn whole_line_script(&mut self, item: &Item<'_>) -> Option<Script> {
        let command: Vec<String> = match item.args {
            [one] => split_command(&one.text).unwrap_or_default(),
            many => many.iter().map(|w| w.text.clone()).collect(),
        };
        if command.is_empty() {
            self.warn(&item.word.place, format!("`{}` has no command: ignored", item.keyword), "");
            return None;
        }
        Some(Script { command, user: None })
    }
}

fn problem(place: &Place, message: String, help: String) -> Problem {
    let problem = Problem::new(message).at(place.span.clone());
    if help.is_empty() { problem } else { problem.help(help) }
}

pub(crate) fn as_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "yes" => Some(true),
        "off" | "false" | "no" => Some(false),
        _ => None,
    }
}

/// What an optional BOOL means: nothing is yes.
pub(crate) fn flag(item: &Item<'_>) -> bool {
    item.args.first().and_then(|w| as_bool(&w.text)).unwrap_or(true)
}

/// Seconds with a fraction, to the microsecond.
pub(crate) fn as_seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let micros: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    // A year: nobody means more.
    (whole <= 31_536_000).then(|| Duration::from_secs(whole) + Duration::from_micros(micros))
}

pub(crate) fn as_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// A command line as keepalived splits it: quotes `'` and `"` group, `\` escapes.
pub(crate) fn split_command(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().push(chars.next()?),
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_fractions() {
        assert_eq!(as_seconds("1"), Some(Duration::from_secs(1)));
        assert_eq!(as_seconds("0.05"), Some(Duration::from_millis(50)));
        assert_eq!(as_seconds(".1"), Some(Duration::from_millis(100)));
        for wrong in ["", ".", "-1", "1s", "1.2.3", "99999999999"] {
            assert_eq!(as_seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn commands_are_split_as_a_shell_would() {
        let split = |t| split_command(t).unwrap();
        assert_eq!(
            split("/bin/a  b 'c d' \"e f\" g\\ h ''"),
            ["/bin/a", "b", "c d", "e f", "g h", ""]
        );
        assert_eq!(split_command("a 'b"), None);
    }
}
