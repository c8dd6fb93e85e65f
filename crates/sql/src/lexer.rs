//! The first reader: cuts the bytes of a statement into tokens as the server would.
//!
//! Total (every byte belongs to exactly one token), single pass, no allocation. Where servers
//! differ in a way that could hide code from us, the token is [`Kind::Odd`], which no read may hold.
//!
//! Sources: `sql/sql_lex.cc` of both servers;
//! <https://mariadb.com/kb/en/comment-syntax/>, <https://dev.mysql.com/doc/refman/8.4/en/comments.html>.

use memchr::{memchr, memchr2, memchr3};

use crate::{Dialect, Flavour};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Space = 1,
    /// A comment the server skips, executable comments for other versions among them.
    Comment,
    /// `/*!`, `/*!50000`, `/*M!100000`: what follows runs.
    ExecOpen,
    /// The `*/` of an executable comment.
    ExecClose,
    /// An unquoted identifier or keyword.
    Word,
    /// `` `x` ``, or `"x"` under `ANSI_QUOTES`; the quotes are part of it.
    Quoted,
    /// A string of any spelling: `'x'`, `"x"`, `N'x'`, `X'41'`, `B'01'`.
    Str,
    Num,
    /// `?`
    Param,
    /// `@a`, `` @`a` ``, `@'a'`; also the host part of an account name.
    UserVar,
    /// `@@a`; a scope or an instance before a dot is a token of its own.
    SysVar,
    /// An operator, or punctuation without a kind of its own.
    Op,
    Open,
    Close,
    Comma,
    Semi,
    Dot,
    /// `:=`
    Assign,
    /// Anything a statement that is known to be a read can't hold: NUL, a stray backslash,
    /// a string without an end, bytes that are a letter in one character set and a space in another.
    Odd,
}

/// A token and the bytes it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

const C_SPACE: u8 = 1;
const C_IDENT: u8 = 2;
const C_DIGIT: u8 = 3;
const C_HIGH: u8 = 4;
const C_OP: u8 = 5;
const C_QUOTE: u8 = 6;
const C_OTHER: u8 = 0;

/// What a byte may start.
static CLASS: [u8; 256] = {
    let mut t = [C_OTHER; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = match b as u8 {
            b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r' => C_SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => C_IDENT,
            b'0'..=b'9' => C_DIGIT,
            0x80..=0xff => C_HIGH,
            b'+' | b'%' | b'^' | b'~' | b'=' | b'<' | b'>' | b'!' | b'|' | b'&' | b'{' | b'}' => {
                C_OP
            }
            b'\'' | b'"' | b'`' => C_QUOTE,
            _ => C_OTHER,
        };
        b += 1;
    }
    t
};

fn class(b: u8) -> u8 {
    CLASS[b as usize]
}

/// Bytes of unquoted names.
static IDENT: [bool; 256] = {
    let mut t = [false; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = matches!(CLASS[b], C_IDENT | C_DIGIT | C_HIGH);
        b += 1;
    }
    t
};

fn is_ident(b: u8) -> bool {
    IDENT[b as usize]
}

/// The lexer; an iterator of [`Token`]s.
#[derive(Clone)]
pub struct Lexer<'a> {
    src: &'a [u8],
    pos: usize,
    flavour: Flavour,
    ansi_quotes: bool,
    backslash: bool,
    multibyte: bool,
    /// Inside an executable comment. A flag and not a depth, as in the servers.
    exec: bool,
    /// The last token ended an identifier: a dot right after it is a dot, not a number.
    after_name: bool,
    /// The last token was a dot: digits right after it are a name.
    after_dot: bool,
}

impl<'a> Lexer<'a> {
    #[must_use]
    pub fn new(src: &'a [u8], dialect: &Dialect) -> Self {
        Self {
            src,
            pos: 0,
            flavour: dialect.flavour,
            ansi_quotes: dialect.ansi_quotes,
            backslash: !dialect.no_backslash_escapes,
            multibyte: dialect.multibyte_trap,
            exec: false,
            after_name: false,
            after_dot: false,
        }
    }

    /// Where the next token starts.
    #[must_use]
    pub fn pos(&self) -> usize {
        self.pos
    }

    fn peek(&self, at: usize) -> Option<u8> {
        self.src.get(at).copied()
    }

    /// `start` is at an opening quote; the end after the closing one, and whether all is well.
    fn quoted(&self, start: usize, backslash: bool) -> (usize, bool) {
        let quote = self.src[start];
        let mut at = start + 1;
        let mut fine = true;
        loop {
            let rest = &self.src[at..];
            let found = if backslash { memchr2(quote, b'\\', rest) } else { memchr(quote, rest) };
            let Some(found) = found else { return (self.src.len(), false) };
            let hit = at + found;
            // In GBK, Big5, SJIS and their kin a backslash or a backtick may be the second half of
            // a character. Whether it is depends on the set and on all bytes before it.
            if self.multibyte && hit > 0 && self.src[hit - 1] >= 0x80 && self.src[hit] >= 0x40 {
                fine = false;
            }
            if self.src[hit] == b'\\' && backslash {
                if hit + 1 >= self.src.len() {
                    return (self.src.len(), false);
                }
                at = hit + 2;
            } else if self.peek(hit + 1) == Some(quote) {
                at = hit + 2;
            } else {
                return (hit + 1, fine);
            }
        }
    }

    /// The end of a plain comment that begins at `start` with `/*`.
    ///
    /// `nested`: one level of comments within is skipped, as the servers do for executable
    /// comments they don't execute.
    fn comment_end(&self, start: usize, nested: bool) -> Option<usize> {
        let mut at = start + 2;
        loop {
            let hit = at
                + if nested {
                    memchr2(b'*', b'/', &self.src[at..])?
                } else {
                    memchr(b'*', &self.src[at..])?
                };
            match (self.src[hit], self.peek(hit + 1)) {
                (b'*', Some(b'/')) => return Some(hit + 2),
                (b'/', Some(b'*')) => at = self.comment_end(hit, false)?,
                _ => at = hit + 1,
            }
        }
    }

    fn slash_star(&mut self, start: usize) -> (Kind, usize) {
        let mariadb = matches!(self.flavour, Flavour::MariaDb { .. });
        let mark = match (self.peek(start + 2), self.peek(start + 3)) {
            (Some(b'!'), _) => 3,
            (Some(b'M'), Some(b'!')) if mariadb => 4,
            _ => {
                return match self.comment_end(start, false) {
                    // Hints are lexed by rules of their own, in which a quoted name may hold the
                    // end of the comment.
                    Some(end)
                        if self.peek(start + 2) == Some(b'+')
                            && odd_quotes(&self.src[start..end]) =>
                    {
                        (Kind::Odd, end)
                    }
                    Some(end) => (Kind::Comment, end),
                    None => (Kind::Odd, self.src.len()),
                };
            }
        };
        let digits = self.src[start + mark..].iter().take(6).take_while(|b| b.is_ascii_digit());
        let digits = digits.count();
        if digits < 5 {
            self.exec = true;
            return (Kind::ExecOpen, start + mark);
        }
        let version = self.src[start + mark..start + mark + digits]
            .iter()
            .fold(0u32, |v, b| v * 10 + u32::from(b - b'0'));
        let runs = match self.flavour {
            Flavour::MySql { version: ours } => version <= ours,
            // Comments for MySQL 5.7 and later hold syntax that MariaDB lacks.
            Flavour::MariaDb { version: ours } => {
                version <= ours && (mark == 4 || !(50_700..=99_999).contains(&version))
            }
        };
        if runs {
            self.exec = true;
            return (Kind::ExecOpen, start + mark + digits);
        }
        match self.comment_end(start, true) {
            Some(end) => (Kind::Comment, end),
            None => (Kind::Odd, self.src.len()),
        }
    }

    fn line_comment(&self, from: usize) -> usize {
        // The servers end it at a NUL as well; the NUL is a token then.
        memchr2(b'\n', 0, &self.src[from..]).map_or(self.src.len(), |n| from + n)
    }

    fn word(&self, start: usize) -> (Kind, usize) {
        let mut at = start;
        let mut bits = 0;
        for &b in &self.src[start..] {
            if !IDENT[b as usize] {
                break;
            }
            bits |= b;
            at += 1;
        }
        let high = bits >= 0x80;
        if self.src[start] == b'$' {
            // MySQL 9 knows dollar-quoted strings.
            if matches!(self.flavour, Flavour::MySql { version } if version >= 90_000) {
                return (Kind::Odd, at);
            }
        }
        if high {
            // In 8-bit character sets some high byte is a space (0xA0 in latin1), so that a keyword
            // may stand beside it.
            let pieces = self.src[start..at].split(|b| *b >= 0x80);
            if pieces.filter(|p| p.len() > 1).any(|p| crate::keyword::find(p).is_some()) {
                return (Kind::Odd, at);
            }
            // A backtick as the second half of a character.
            if self.multibyte
                && self.src[at - 1] >= 0x80
                && self.peek(at).is_some_and(|b| (0x40..0x80).contains(&b))
            {
                return (Kind::Odd, at);
            }
        }
        (Kind::Word, at)
    }

    fn digits(&self, mut at: usize) -> usize {
        while self.peek(at).is_some_and(|b| b.is_ascii_digit()) {
            at += 1;
        }
        at
    }

    /// A number, or a name that begins with a digit.
    fn number(&self, start: usize) -> (Kind, usize) {
        if self.src[start] == b'0' {
            let alphabet: fn(u8) -> bool = match self.peek(start + 1) {
                Some(b'x') => |b| b.is_ascii_hexdigit(),
                Some(b'b') => |b| matches!(b, b'0' | b'1'),
                _ => |_| false,
            };
            let mut at = start + 2;
            while self.peek(at).is_some_and(alphabet) {
                at += 1;
            }
            if at > start + 2 && !self.peek(at).is_some_and(is_ident) {
                return (Kind::Num, at);
            }
        }
        let mut at = self.digits(start);
        match self.peek(at) {
            Some(b'.') => at = self.digits(at + 1),
            Some(b'e' | b'E') => {
                let sign = usize::from(matches!(self.peek(at + 1), Some(b'+' | b'-')));
                let end = self.digits(at + 1 + sign);
                return if end > at + 1 + sign { (Kind::Num, end) } else { self.word(start) };
            }
            Some(b) if is_ident(b) => return self.word(start),
            _ => return (Kind::Num, at),
        }
        (Kind::Num, self.exponent(at))
    }

    fn exponent(&self, at: usize) -> usize {
        if !matches!(self.peek(at), Some(b'e' | b'E')) {
            return at;
        }
        let sign = usize::from(matches!(self.peek(at + 1), Some(b'+' | b'-')));
        let end = self.digits(at + 1 + sign);
        if end > at + 1 + sign { end } else { at }
    }

    fn at_sign(&self, start: usize) -> (Kind, usize) {
        match self.peek(start + 1) {
            Some(b'@') => match self.peek(start + 2) {
                Some(b'`') => match self.quoted(start + 2, false) {
                    (end, true) => (Kind::SysVar, end),
                    (end, false) => (Kind::Odd, end),
                },
                Some(b) if is_ident(b) => match self.word(start + 2) {
                    (Kind::Word, end) => (Kind::SysVar, end),
                    (_, end) => (Kind::Odd, end),
                },
                _ => (Kind::Odd, start + 2),
            },
            Some(q @ (b'`' | b'\'' | b'"')) => {
                match self.quoted(start + 1, q != b'`' && self.backslash) {
                    (end, true) => (Kind::UserVar, end),
                    (end, false) => (Kind::Odd, end),
                }
            }
            _ => {
                let mut at = start + 1;
                while self.peek(at).is_some_and(|b| is_ident(b) || b == b'.') {
                    at += 1;
                }
                (Kind::UserVar, at)
            }
        }
    }

    fn operator(&self, start: usize) -> usize {
        let rest = &self.src[start..];
        let len = match rest {
            [b'<', b'=', b'>', ..] | [b'-', b'>', b'>', ..] => 3,
            [b'<', b'=' | b'>' | b'<', ..]
            | [b'>', b'=' | b'>', ..]
            | [b'!', b'=', ..]
            | [b'|', b'|', ..]
            | [b'&', b'&', ..]
            | [b'-', b'>', ..] => 2,
            _ => 1,
        };
        start + len
    }

    fn cut(&mut self, start: usize) -> (Kind, usize) {
        let b = self.src[start];
        match class(b) {
            C_SPACE => {
                let mut at = start + 1;
                while self.peek(at).is_some_and(|b| class(b) == C_SPACE) {
                    at += 1;
                }
                (Kind::Space, at)
            }
            C_IDENT => {
                // N'x', X'41', B'01': one token, so that no keyword is seen in them.
                if self.peek(start + 1) == Some(b'\'') && !self.after_dot {
                    let escapes = match b {
                        b'n' | b'N' => Some(self.backslash),
                        b'x' | b'X' | b'b' | b'B' => Some(false),
                        _ => None,
                    };
                    if let Some(escapes) = escapes {
                        let (end, fine) = self.quoted(start + 1, escapes);
                        let plain = matches!(b, b'n' | b'N')
                            || self.src[start + 2..end.max(start + 3) - 1]
                                .iter()
                                .all(u8::is_ascii_hexdigit);
                        return (if fine && plain { Kind::Str } else { Kind::Odd }, end);
                    }
                }
                self.word(start)
            }
            C_HIGH => self.word(start),
            C_DIGIT if self.after_dot => self.word(start),
            C_DIGIT => self.number(start),
            C_QUOTE => {
                let name = b == b'`' || (b == b'"' && self.ansi_quotes);
                let (end, fine) = self.quoted(start, !name && self.backslash);
                let kind = if name { Kind::Quoted } else { Kind::Str };
                (if fine { kind } else { Kind::Odd }, end)
            }
            C_OP => (Kind::Op, self.operator(start)),
            _ => match b {
                b'(' => (Kind::Open, start + 1),
                b')' => (Kind::Close, start + 1),
                b',' => (Kind::Comma, start + 1),
                b';' => (Kind::Semi, start + 1),
                b'?' => (Kind::Param, start + 1),
                b'.' => {
                    if !self.after_name && self.peek(start + 1).is_some_and(|b| b.is_ascii_digit())
                    {
                        (Kind::Num, self.exponent(self.digits(start + 1)))
                    } else {
                        (Kind::Dot, start + 1)
                    }
                }
                b'@' => self.at_sign(start),
                b'#' => (Kind::Comment, self.line_comment(start)),
                b'-' if self.peek(start + 1) == Some(b'-') => match self.peek(start + 2) {
                    None => (Kind::Comment, start + 2),
                    Some(c) if class(c) == C_SPACE || c.is_ascii_control() => {
                        (Kind::Comment, self.line_comment(start + 2))
                    }
                    // A space in some 8-bit character sets.
                    Some(0x80..=0xff) => (Kind::Odd, start + 2),
                    _ => (Kind::Op, start + 1),
                },
                b'-' => (Kind::Op, self.operator(start)),
                b'/' if self.peek(start + 1) == Some(b'*') => self.slash_star(start),
                b'*' if self.exec && self.peek(start + 1) == Some(b'/') => {
                    self.exec = false;
                    (Kind::ExecClose, start + 2)
                }
                b'*' | b'/' => (Kind::Op, start + 1),
                b':' if self.peek(start + 1) == Some(b'=') => (Kind::Assign, start + 2),
                b':' => (Kind::Op, start + 1),
                _ => (Kind::Odd, start + 1),
            },
        }
    }
}

/// Whether some quote character opens in `text` and doesn't close.
fn odd_quotes(text: &[u8]) -> bool {
    let mut counts = [0usize; 3];
    let mut at = 0;
    while let Some(n) = memchr3(b'`', b'"', b'\'', &text[at..]) {
        counts[match text[at + n] {
            b'`' => 0,
            b'"' => 1,
            _ => 2,
        }] += 1;
        at += n + 1;
    }
    counts.iter().any(|c| c % 2 == 1)
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    #[inline]
    fn next(&mut self) -> Option<Token> {
        let start = self.pos;
        if start >= self.src.len() {
            return None;
        }
        let (kind, end) = self.cut(start);
        self.after_name = matches!(kind, Kind::Word | Kind::Quoted | Kind::SysVar);
        self.after_dot = kind == Kind::Dot;
        self.pos = end;
        Some(Token { kind, start, end })
    }
}
