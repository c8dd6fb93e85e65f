//! MySQL: every transaction ever applied, as intervals of numbers per source.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{ParseError, number};

/// Where transactions come from: a server's UUID and, since 8.3, perhaps a tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    pub uuid: [u8; 16],
    /// Empty for none; at most 32 of `a-z0-9_`, not starting with a digit.
    pub tag: Box<str>,
}

/// A GTID set: `uuid:1-5:7:tag:1-3,uuid2:1-3`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MySqlGtidSet {
    /// First and last number of each interval; sorted, neither overlapping nor touching.
    sources: BTreeMap<Source, Vec<(u64, u64)>>,
}

/// Transaction numbers are below this.
const END: u64 = i64::MAX as u64;

impl MySqlGtidSet {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The intervals of each source.
    pub fn sources(&self) -> impl Iterator<Item = (&Source, &[(u64, u64)])> {
        self.sources.iter().map(|(source, intervals)| (source, intervals.as_slice()))
    }

    /// See [`super::Position::covers`].
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.sources.iter().all(|(source, wanted)| {
            self.sources.get(source).is_some_and(|own| {
                wanted.iter().all(|&(first, last)| {
                    let i = own.partition_point(|&(_, end)| end < first);
                    own.get(i).is_some_and(|&(start, end)| start <= first && last <= end)
                })
            })
        })
    }

    /// What is in here and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for (source, intervals) in &self.sources {
            let taken = other.sources.get(source).map_or(&[][..], Vec::as_slice);
            let mut kept = Vec::new();
            for &(mut first, last) in intervals {
                for &(from, to) in taken {
                    if from > last || to < first {
                        continue;
                    }
                    if from > first {
                        kept.push((first, from - 1));
                    }
                    first = first.max(to + 1);
                }
                if first <= last {
                    kept.push((first, last));
                }
            }
            if !kept.is_empty() {
                left.sources.insert(source.clone(), kept);
            }
        }
        left
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (source, intervals) in &other.sources {
            match self.sources.get_mut(source) {
                Some(own) => intervals.iter().for_each(|&interval| add(own, interval)),
                None => {
                    self.sources.insert(source.clone(), intervals.clone());
                }
            }
        }
    }
}

/// Adds one interval, joining what it touches.
fn add(intervals: &mut Vec<(u64, u64)>, (mut first, mut last): (u64, u64)) {
    // Numbers are below END, so one more does not overflow.
    let from = intervals.partition_point(|&(_, end)| end + 1 < first);
    let to = intervals.partition_point(|&(start, _)| start <= last + 1);
    if from < to {
        first = first.min(intervals[from].0);
        last = last.max(intervals[to - 1].1);
    }
    intervals.splice(from..to, [(first, last)]);
}

impl FromStr for MySqlGtidSet {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut set = Self::default();
        // The server itself writes a line break after each comma, and allows stray commas.
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut fields = part.split(':').map(str::trim);
            let uuid = uuid(fields.next().unwrap_or_default())?;
            let mut source = Source { uuid, tag: Box::default() };
            let mut any = false;
            for field in fields {
                if field.starts_with(|c: char| c.is_ascii_digit()) {
                    let (first, last) = field.split_once('-').unwrap_or((field, field));
                    let first = number(first.trim(), "interval")?;
                    let last = number(last.trim(), "interval")?;
                    if first == 0 || last < first || last >= END {
                        return Err(ParseError::new("interval"));
                    }
                    add(set.sources.entry(source.clone()).or_default(), (first, last));
                    any = true;
                } else {
                    source.tag = tag(field)?;
                }
            }
            if !any {
                return Err(ParseError::new("interval"));
            }
        }
        Ok(set)
    }
}

fn tag(text: &str) -> Result<Box<str>, ParseError> {
    let fits = (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fits { Ok(text.to_ascii_lowercase().into()) } else { Err(ParseError::new("tag")) }
}

/// With or without dashes, in any case.
fn uuid(text: &str) -> Result<[u8; 16], ParseError> {
    let wrong = || ParseError::new("UUID");
    let dashes_fit = match text.len() {
        36 => [8, 13, 18, 23].into_iter().all(|i| text.as_bytes()[i] == b'-'),
        32 => true,
        _ => false,
    };
    if !dashes_fit {
        return Err(wrong());
    }
    let mut uuid = [0; 16];
    let mut digits = text.chars().filter(|&c| c != '-');
    for byte in &mut uuid {
        let mut digit = || digits.next().and_then(|c| c.to_digit(16)).ok_or_else(wrong);
        *byte = u8::try_from(digit()? << 4 | digit()?).map_err(|_| wrong())?;
    }
    if digits.next().is_some() { Err(wrong()) } else { Ok(uuid) }
}

impl fmt::Display for MySqlGtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last_uuid = None;
        for (source, intervals) in &self.sources {
            if last_uuid != Some(source.uuid) {
                if last_uuid.is_some() {
                    f.write_str(",")?;
                }
                for (i, byte) in source.uuid.iter().enumerate() {
                    if [4, 6, 8, 10].contains(&i) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                last_uuid = Some(source.uuid);
            }
            if !source.tag.is_empty() {
                write!(f, ":{}", source.tag)?;
            }
            for &(first, last) in intervals {
                write!(f, ":{first}")?;
                if last > first {
                    write!(f, "-{last}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> MySqlGtidSet {
        text.parse().unwrap()
    }

    #[test]
    fn reads_what_servers_write() {
        for (text, normal) in [
            (format!("{A}:1-5:7"), format!("{A}:1-5:7")),
            (format!("{A}:7:1-3:4-5"), format!("{A}:1-5:7")),
            (format!("{B}:1,\n{A}:1-5"), format!("{A}:1-5,{B}:1")),
            (format!("{A}:1-3:Blue:2:4:red_1:5-6"), format!("{A}:1-3:blue:2:4:red_1:5-6")),
            (format!("{A}:red:1,{A}:2"), format!("{A}:2:red:1")),
            (A.to_uppercase() + ":1", format!("{A}:1")),
            (A.replace('-', "") + ": 1 - 2 ", format!("{A}:1-2")),
            (String::new(), String::new()),
            (format!(" , {A}:1,"), format!("{A}:1")),
        ] {
            assert_eq!(set(&text).to_string(), normal, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for wrong in [
            "x".to_owned(),
            A.to_owned(),
            format!("{A}:"),
            format!("{A}:tag"),
            format!("{A}:0"),
            format!("{A}:5-4"),
            format!("{A}:1-"),
            format!("{A}:1-2-3"),
            format!("{A}:9223372036854775807"),
            format!("{A}:1:2x"),
            format!("{A}:t-g:1"),
            format!("{A}:{}:1", "t".repeat(33)),
            "3e11fa4771ca-11e1-9e33-c80aa9429562-:1".to_owned(),
            "3e11fa47-71ca-11e1-9e33-c80aa942956é:1".to_owned(),
            "0-1-5".to_owned(),
        ] {
            assert!(wrong.parse::<MySqlGtidSet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn covers_only_what_lies_in_one_interval() {
        let own = set(&format!("{A}:1-5:7-9:red:1-2"));
        for (wanted, covers) in [
            (format!("{A}:5"), true),
            (format!("{A}:1-5:8"), true),
            (format!("{A}:5-7"), false),
            (format!("{A}:6"), false),
            (format!("{A}:10"), false),
            (format!("{A}:red:2"), true),
            (format!("{A}:red:3"), false),
            (format!("{A}:blue:1"), false),
            (format!("{B}:1"), false),
            (String::new(), true),
        ] {
            assert_eq!(own.covers(&set(&wanted)), covers, "{wanted}");
        }
    }

    type Model = HashSet<(usize, u64)>;

    /// The same set twice: once as code under test, once as plain numbers.
    fn any_set() -> impl Strategy<Value = (MySqlGtidSet, Model)> {
        prop::collection::vec((0..3_usize, 1..30_u64, 0..5_u64), 0..8).prop_map(|parts| {
            let sources = [A.to_owned(), format!("{A}:red"), B.to_owned()];
            let mut text = Vec::new();
            let mut model = Model::new();
            for (source, first, more) in parts {
                text.push(format!("{}:{first}-{}", sources[source], first + more));
                model.extend((first..=first + more).map(|n| (source, n)));
            }
            (set(&text.join(",")), model)
        })
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f:,x é-]{0,60}") {
            let _ = text.parse::<MySqlGtidSet>();
        }

        #[test]
        fn text_and_back((s, _) in any_set()) {
            prop_assert_eq!(set(&s.to_string()), s);
        }

        #[test]
        fn behaves_as_a_set((a, ma) in any_set(), (b, mb) in any_set()) {
            prop_assert_eq!(a.covers(&b), mb.is_subset(&ma));
            let mut both = a.clone();
            both.merge(&b);
            prop_assert!(both.covers(&a) && both.covers(&b));
            let left = a.minus(&b);
            let numbers: u64 = left.sources().flat_map(|(_, i)| i).map(|(f, l)| l - f + 1).sum();
            prop_assert_eq!(numbers, ma.difference(&mb).count() as u64);
            let mut whole = left.clone();
            whole.merge(&b);
            prop_assert_eq!(&whole, &both);
            let count: u64 = both.sources().flat_map(|(_, i)| i).map(|(f, l)| l - f + 1).sum();
            prop_assert_eq!(count, ma.union(&mb).count() as u64);
            for (_, intervals) in both.sources() {
                prop_assert!(intervals.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            }
        }
    }
}
