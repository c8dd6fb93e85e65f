//! Comments in front of writes, by which they are found again in a binary log.
//!
//! Where rows are logged it does not show which connection changed them, but what statement did,
//! comments and all.

/// A connection to a server, drawn by lot, and the number of a statement sent over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub connection: u64,
    pub number: u32,
}

/// What a mark looks like before, between and behind its numbers, which have 16 and 8 hexadecimal
/// digits. `!` and `+` right after `/*` would mean something to a server, `pointsman` to other proxies.
const BEFORE: &[u8] = b"/*pm:";
const BETWEEN: u8 = b'.';
const BEHIND: &[u8] = b"*/";

impl Mark {
    /// Its length in bytes.
    pub const LEN: usize = BEFORE.len() + 16 + 1 + 8 + BEHIND.len();

    /// As it stands in front of the statement.
    #[must_use]
    pub fn text(self) -> [u8; Self::LEN] {
        fn hex(n: u64, out: &mut [u8]) {
            for (i, digit) in out.iter_mut().rev().enumerate() {
                *digit = b"0123456789abcdef"[(n >> (4 * i)) as usize & 15];
            }
        }
        let mut out = [BETWEEN; Self::LEN];
        let connection = BEFORE.len();
        let number = connection + 16 + 1;
        out[..connection].copy_from_slice(BEFORE);
        hex(self.connection, &mut out[connection..number - 1]);
        hex(self.number.into(), &mut out[number..number + 8]);
        out[number + 8..].copy_from_slice(BEHIND);
        out
    }

    /// Of a statement, as it was logged.
    #[must_use]
    pub fn of(statement: &[u8]) -> Option<Self> {
        let digits = statement.get(..Self::LEN)?.strip_prefix(BEFORE)?.strip_suffix(BEHIND)?;
        let digits = std::str::from_utf8(digits).ok()?;
        let (connection, number) = digits.split_once(char::from(BETWEEN))?;
        Some(Self {
            connection: u64::from_str_radix(connection, 16).ok()?,
            number: u32::from_str_radix(number, 16).ok()?,
        })
    }
}

/// The marks of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    next: Mark,
    /// What is open now, or was sent last, was begun with this number.
    since: u32,
    /// A write without a mark was sent since then.
    others: bool,
}

impl Default for Marks {
    fn default() -> Self {
        let next = Mark { connection: rand::random(), number: 0 };
        Self { next, since: 0, others: false }
    }
}

impl Marks {
    /// Nothing is open on the connection.
    pub fn begin(&mut self) {
        self.since = self.next.number;
        self.others = false;
    }

    /// For the next statement. `None`: they are used up.
    pub fn next(&mut self) -> Option<Mark> {
        let mark = self.next;
        self.next.number = mark.number.checked_add(1)?;
        Some(mark)
    }

    /// A write is sent that has none.
    pub fn without(&mut self) {
        self.others = true;
    }

    /// Whether a statement with this mark belongs to what was begun last; `None`: it was not sent over
    /// this connection.
    #[must_use]
    pub fn is_of_last(&self, mark: Mark) -> Option<bool> {
        (mark.connection == self.next.connection).then_some(mark.number >= self.since)
    }

    /// Whether all writes of what was begun last have marks, and there were some.
    #[must_use]
    pub fn on_all(&self) -> bool {
        !self.others && self.next.number > self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_are_written() {
        let mark = Mark { connection: 0x0123_4567_89ab_cdef, number: 42 };
        assert_eq!(&mark.text(), b"/*pm:0123456789abcdef.0000002a*/");
        let statement = [&mark.text()[..], b"INSERT INTO t VALUES (1)"].concat();
        assert_eq!(Mark::of(&statement), Some(mark));
        assert_eq!(Mark::of(b"INSERT INTO t VALUES (1)"), None);
        assert_eq!(Mark::of(b"/*pm:0123456789abcdefx0000002a*/"), None);
        assert_eq!(Mark::of(&mark.text()[1..]), None);
    }

    #[test]
    fn only_what_was_begun_last_is_asked_for() {
        let mut marks = Marks::default();
        assert!(!marks.on_all());
        marks.begin();
        let first = marks.next().unwrap();
        marks.begin();
        assert!(!marks.on_all());
        let (second, third) = (marks.next().unwrap(), marks.next().unwrap());
        assert_eq!(
            [first, second, third].map(|m| marks.is_of_last(m)),
            [false, true, true].map(Some)
        );
        let foreign = Mark { connection: !first.connection, number: 9 };
        assert_eq!(marks.is_of_last(foreign), None);
        assert!(marks.on_all());
        marks.without();
        assert!(!marks.on_all());
    }
}
