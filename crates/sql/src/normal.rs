//! The normal form of a statement: what is left when literals become `?`, lists of literals become
//! one `?`, and spaces and comments go. Fingerprints hash it, verdicts are a function of it.
//!
//! One pass of the lexer feeds a [`Sink`]: a hasher for each statement, a vector on a cache miss.

use bitflags::bitflags;

use crate::Dialect;
use crate::hint::{self, Hint};
use crate::keyword::{self, Kw};
use crate::lexer::{Kind, Lexer};

bitflags! {
    /// What a scan saw, whatever a cache says of the statement.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Flags: u32 {
        /// Code in an executable comment.
        const EXEC_COMMENT = 1 << 0;
        /// A token that no read may hold.
        const ODD = 1 << 1;
        const USER_VAR = 1 << 2;
        const ASSIGN = 1 << 3;
        /// Code after a `;`.
        const MULTI = 1 << 4;
        /// Longer than is looked at.
        const LONG = 1 << 5;
        /// A reserved word that a read holds rarely, if ever.
        const DANGER = 1 << 6;
        const FOR = 1 << 7;
        const INTO = 1 << 8;
        const LOCK = 1 << 9;
        const UPDATE = 1 << 10;
        const SYS_VAR = 1 << 11;
    }
}

/// One token of the normal form. Literals have [`Kind::Str`] and the text `?`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tok<'a> {
    pub kind: Kind,
    /// [`Kw::None`] unless an unquoted keyword that doesn't follow a dot.
    pub kw: Kw,
    /// As written.
    pub text: &'a [u8],
    /// No space or comment between this token and the one before it.
    pub joined: bool,
}

impl Tok<'_> {
    pub fn is(&self, kw: Kw) -> bool {
        self.kw == kw
    }
    pub fn literal(&self) -> bool {
        self.kind == Kind::Str
    }
}

/// Takes the tokens of a normal form in order.
pub trait Sink<'a> {
    fn put(&mut self, tok: Tok<'a>);
}

impl<'a> Sink<'a> for Vec<Tok<'a>> {
    fn put(&mut self, tok: Tok<'a>) {
        if self.len() < MAX_KEPT {
            self.push(tok);
        }
    }
}

/// Most tokens of a statement that are looked at (4 to 8 ms of work).
pub const MAX_TOKENS: usize = 1 << 20;
/// Most tokens of a normal form that are kept for a verdict.
pub const MAX_KEPT: usize = 1 << 16;

/// What a scan found, besides what it fed to its sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    pub flags: Flags,
    /// The first keyword after any `(` and `;`.
    pub first: Kw,
    /// What the comments ask for.
    pub hint: Option<Hint>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    None,
    /// `?` was put.
    Lit,
    /// `?` was put, `,` is held.
    LitComma,
    /// `(?)` was put.
    Tuple,
    /// `(?)` was put, `,` is held.
    TupleComma,
    /// `(?)` was put, `,(` is held.
    NextOpen,
    /// `(?)` was put, `,(?` is held.
    NextLit,
    /// `(?)` was put, `,(?,` is held.
    NextLitComma,
}

const COMMA: Tok<'static> = Tok { kind: Kind::Comma, kw: Kw::None, text: b",", joined: true };
const OPEN: Tok<'static> = Tok { kind: Kind::Open, kw: Kw::None, text: b"(", joined: false };
const LIT: Tok<'static> = Tok { kind: Kind::Str, kw: Kw::None, text: b"?", joined: false };

struct Normaliser<'s, 'a, S> {
    sink: &'s mut S,
    state: State,
    /// A `+` or `-` that may be part of a number.
    sign: Option<Tok<'a>>,
    /// The last token was `(`, and what is in it so far is `?`.
    open_lit: bool,
    /// A sign after it is a sign, not an operator.
    prefix: bool,
    last: Kind,
}

impl<'a, S: Sink<'a>> Normaliser<'_, 'a, S> {
    fn flush(&mut self) {
        match self.state {
            State::LitComma | State::TupleComma => self.sink.put(COMMA),
            State::NextOpen => {
                self.sink.put(COMMA);
                self.sink.put(OPEN);
            }
            State::NextLit | State::NextLitComma => {
                self.sink.put(COMMA);
                self.sink.put(OPEN);
                self.sink.put(LIT);
                if self.state == State::NextLitComma {
                    self.sink.put(COMMA);
                }
            }
            State::None | State::Lit | State::Tuple => {}
        }
        self.open_lit = self.state == State::NextLit;
        self.state = State::None;
        if let Some(sign) = self.sign.take() {
            self.sink.put(sign);
        }
    }

    #[inline]
    fn literal(&mut self, joined: bool) {
        self.sign = None;
        match self.state {
            State::Lit | State::LitComma => self.state = State::Lit,
            State::NextOpen | State::NextLit | State::NextLitComma => self.state = State::NextLit,
            State::None | State::Tuple | State::TupleComma => {
                if self.state != State::None {
                    self.flush();
                }
                self.open_lit = self.last == Kind::Open;
                self.sink.put(Tok { joined, ..LIT });
                self.state = State::Lit;
            }
        }
        self.last = Kind::Str;
        self.prefix = false;
    }

    /// Whether the next token is the first of an operand in a list.
    fn in_list(&self) -> bool {
        self.sign.is_none()
            && match self.state {
                State::LitComma | State::NextOpen | State::NextLitComma => true,
                State::None => self.last == Kind::Open,
                _ => false,
            }
    }

    #[inline]
    fn token(&mut self, tok: Tok<'a>) {
        match tok.kind {
            Kind::Comma if self.sign.is_none() => {
                let held = match self.state {
                    State::Lit => Some(State::LitComma),
                    State::Tuple => Some(State::TupleComma),
                    State::NextLit => Some(State::NextLitComma),
                    _ => None,
                };
                if let Some(held) = held {
                    self.state = held;
                    self.last = Kind::Comma;
                    self.prefix = true;
                    return;
                }
            }
            Kind::Open if self.state == State::TupleComma && self.sign.is_none() => {
                self.state = State::NextOpen;
                self.last = Kind::Open;
                self.prefix = true;
                return;
            }
            Kind::Close if self.sign.is_none() => match self.state {
                State::NextLit => {
                    self.state = State::Tuple;
                    self.last = Kind::Close;
                    self.prefix = false;
                    return;
                }
                State::Lit if self.open_lit => {
                    self.sink.put(tok);
                    self.state = State::Tuple;
                    self.open_lit = false;
                    self.last = Kind::Close;
                    self.prefix = false;
                    return;
                }
                _ => {}
            },
            Kind::Op if self.prefix && self.sign.is_none() && matches!(tok.text, b"-" | b"+") => {
                self.sign = Some(tok);
                return;
            }
            _ => {}
        }
        if self.state != State::None || self.sign.is_some() {
            self.flush();
        }
        self.open_lit = false;
        self.prefix = match tok.kind {
            Kind::Open | Kind::Comma | Kind::Op | Kind::Assign => true,
            Kind::Word => tok.kw.reserved(),
            _ => false,
        };
        self.last = tok.kind;
        self.sink.put(tok);
    }
}

/// `_utf8mb4` in `_utf8mb4'x'`.
fn introducer(word: &[u8], rest: &[u8]) -> bool {
    let next = rest.iter().find(|b| !b.is_ascii_whitespace());
    word.len() > 1
        && next == Some(&b'\'')
        && word[1..].iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn word_flags(kw: Kw) -> Flags {
    match kw {
        Kw::For => Flags::FOR,
        Kw::Into => Flags::INTO,
        Kw::Lock => Flags::LOCK,
        Kw::Update => Flags::UPDATE,
        kw if kw.standing() == keyword::Standing::Danger => Flags::DANGER,
        _ => Flags::empty(),
    }
}

/// Feeds the normal form of `sql` to `sink`.
#[inline]
pub fn scan<'a, S: Sink<'a>>(sql: &'a [u8], dialect: &Dialect, sink: &mut S) -> Scan {
    let mut flags = Flags::empty();
    let mut first = Kw::None;
    let mut hint = None;
    let mut begun = false;
    let mut after_semi = false;
    let mut joined = false;
    let mut normal = Normaliser {
        sink,
        state: State::None,
        sign: None,
        open_lit: false,
        prefix: true,
        last: Kind::Semi,
    };
    let mut left = MAX_TOKENS;
    let mut after_dot = false;
    for token in Lexer::new(sql, dialect) {
        let text = &sql[token.start..token.end];
        match token.kind {
            Kind::Space | Kind::Comment | Kind::ExecClose => {
                if token.kind == Kind::Comment {
                    hint = hint.max(hint::of(text));
                }
                joined = false;
                after_dot = false;
                continue;
            }
            Kind::ExecOpen => {
                flags |= Flags::EXEC_COMMENT;
                joined = false;
                after_dot = false;
                continue;
            }
            _ => {}
        }
        left -= 1;
        if left == 0 {
            flags |= Flags::LONG;
            if memchr::memchr(b';', &sql[token.start..]).is_some() {
                flags |= Flags::MULTI;
            }
            if memchr::memchr(b'@', &sql[token.start..]).is_some() {
                flags |= Flags::USER_VAR;
            }
            break;
        }
        if token.kind == Kind::Semi {
            after_semi = begun;
            if begun {
                normal.token(Tok { kind: token.kind, kw: Kw::None, text, joined });
            }
            joined = true;
            after_dot = false;
            continue;
        }
        if after_semi {
            flags |= Flags::MULTI;
        }
        match token.kind {
            Kind::Num | Kind::Str => {
                begun = true;
                normal.literal(joined);
            }
            Kind::Word => {
                let mut kw = Kw::None;
                if !after_dot {
                    kw = keyword::find_packed(keyword::pack(text), text.len());
                    flags |= word_flags(kw);
                    if text[0] == b'_' && introducer(text, &sql[token.end..]) {
                        continue;
                    }
                    if matches!(kw, Kw::Null | Kw::True | Kw::False) && begun && normal.in_list() {
                        normal.literal(joined);
                        joined = true;
                        continue;
                    }
                }
                if !begun {
                    first = kw;
                    begun = true;
                }
                normal.token(Tok { kind: token.kind, kw, text, joined });
            }
            kind => {
                match kind {
                    Kind::Odd => flags |= Flags::ODD,
                    Kind::UserVar => flags |= Flags::USER_VAR,
                    Kind::Assign => flags |= Flags::ASSIGN,
                    Kind::SysVar => flags |= Flags::SYS_VAR,
                    _ => {}
                }
                begun |= kind != Kind::Open;
                normal.token(Tok { kind, kw: Kw::None, text, joined });
            }
        }
        joined = true;
        after_dot = token.kind == Kind::Dot;
    }
    normal.flush();
    Scan { flags, first, hint }
}

/// Two keyed 64-bit hashes of a normal form, so that no collision can be prepared or met.
pub struct Hasher {
    a: u64,
    b: u64,
    k1: u64,
    k2: u64,
}

fn fold_mul(x: u64, y: u64) -> u64 {
    let p = u128::from(x) * u128::from(y);
    (p as u64) ^ ((p >> 64) as u64)
}

fn splitmix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The keys of a [`Hasher`].
#[derive(Clone, Copy)]
pub struct Keys([u64; 4]);

impl Keys {
    pub fn new(mut seed: u64) -> Self {
        Self([(); 4].map(|()| splitmix(&mut seed)))
    }
}

impl Hasher {
    pub fn new(keys: &Keys, dialect: &Dialect) -> Self {
        let [a, b, k1, k2] = keys.0;
        let mut this = Self { a, b, k1, k2 };
        let flavour = match dialect.flavour {
            crate::Flavour::MariaDb { version } => u64::from(version),
            crate::Flavour::MySql { version } => u64::from(version) | 1 << 32,
        };
        let bits = u64::from(dialect.ansi_quotes)
            | u64::from(dialect.no_backslash_escapes) << 1
            | u64::from(dialect.multibyte_trap) << 2;
        this.step(flavour, bits);
        this
    }

    #[inline]
    fn step(&mut self, lo: u64, hi: u64) {
        self.a = fold_mul(self.a ^ lo, self.k1 ^ hi);
        self.b = fold_mul(self.b ^ hi.rotate_left(17), self.k2 ^ lo);
    }

    /// The fingerprint, and a second hash to check it by.
    pub fn finish(self) -> (u64, u64) {
        (fold_mul(self.a, self.k2 | 1), self.b)
    }
}

impl<'a> Sink<'a> for Hasher {
    #[inline]
    fn put(&mut self, tok: Tok<'a>) {
        match tok.kind {
            Kind::Open | Kind::Close | Kind::Comma | Kind::Str | Kind::Dot | Kind::Param => {
                self.step(tok.kind as u64, 1);
            }
            kind => {
                let mut text = tok.text;
                let tag =
                    kind as u64 | u64::from(tok.kw.reserved()) << 7 | (text.len() as u64) << 8;
                if text.len() <= 13 {
                    let mut v = keyword::pack(text);
                    if tok.kw.reserved() {
                        v = keyword::fold(v);
                    }
                    self.step(v as u64, (v >> 64) as u64 ^ tag << 40);
                    return;
                }
                self.step(tag, 2);
                if tok.kw.reserved() {
                    let v = keyword::fold(keyword::pack(text));
                    self.step(v as u64, (v >> 64) as u64);
                    return;
                }
                while !text.is_empty() {
                    let (head, tail) = text.split_at(text.len().min(16));
                    let v = keyword::pack(head);
                    self.step(v as u64, (v >> 64) as u64);
                    text = tail;
                }
            }
        }
    }
}

/// The normal form as text for people, at most `limit` bytes of it.
pub fn text(toks: &[Tok<'_>], limit: usize) -> Box<str> {
    let mut out: Vec<u8> = Vec::with_capacity(limit.min(128));
    let mut last: Option<&Tok<'_>> = None;
    for tok in toks {
        let tight = matches!(tok.kind, Kind::Comma | Kind::Close | Kind::Semi | Kind::Dot)
            || last.is_none_or(|l| matches!(l.kind, Kind::Open | Kind::Dot))
            || (tok.kind == Kind::Open
                && tok.joined
                && last.is_some_and(|l| matches!(l.kind, Kind::Word | Kind::Quoted)));
        if !tight {
            out.push(b' ');
        }
        if tok.kw.reserved() {
            out.extend_from_slice(tok.kw.text().as_bytes());
        } else {
            out.extend_from_slice(tok.text);
        }
        if out.len() >= limit {
            break;
        }
        last = Some(tok);
    }
    out.truncate(limit);
    let mut text = String::from_utf8_lossy(&out).into_owned();
    while text.len() > limit {
        text.pop();
    }
    text.into_boxed_str()
}
