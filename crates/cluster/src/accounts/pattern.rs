//! The host part of an account.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};

/// Whom `'user'@'host'` lets in.
#[derive(Debug, Clone)]
pub(super) struct HostPattern {
    text: String,
    /// `10.0.0.0/255.255.255.0`: network and mask.
    net: Option<(u32, u32)>,
    breadth: Breadth,
}

/// How many hosts fit, so to speak: fewer `%`-matched characters is narrower, and so on. Derived
/// order is narrow to wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Breadth {
    /// Twice the number of free characters, plus one if `%` gives them.
    free: usize,
    percents: usize,
    underscores: usize,
    prefix: usize,
}

/// Longest host name.
const MAX: usize = 255;

impl HostPattern {
    pub(super) fn new(host: &str) -> Self {
        let text = if host.is_empty() { "%" } else { host };
        Self { text: text.to_owned(), net: net(text), breadth: breadth(text.as_bytes()) }
    }

    pub(super) fn cmp_breadth(&self, other: &Self) -> Ordering {
        self.breadth.cmp(&other.breadth)
    }

    /// `names`: addresses have names.
    pub(super) fn matches(&self, ip: IpAddr, names: bool) -> bool {
        if let (Some((net, mask)), IpAddr::V4(ip)) = (self.net, ip) {
            return u32::from(ip) & mask == net;
        }
        like(self.text.as_bytes(), ip.to_string().as_bytes())
            || names && ip.is_loopback() && self.text.eq_ignore_ascii_case("localhost")
    }
}

fn net(text: &str) -> Option<(u32, u32)> {
    let (net, mask) = text.split_once('/')?;
    let net: Ipv4Addr = net.parse().ok()?;
    let mask = match mask.parse::<Ipv4Addr>() {
        Ok(mask) => u32::from(mask),
        // MySQL takes a prefix length too.
        Err(_) => {
            let bits: u32 = mask.parse().ok().filter(|bits| *bits <= 32)?;
            u32::MAX.checked_shl(32 - bits).unwrap_or(0)
        }
    };
    Some((net.into(), mask))
}

fn breadth(pattern: &[u8]) -> Breadth {
    let (mut literal, mut percents, mut underscores, mut prefix) = (0, 0, 0, 0);
    let mut i = 0;
    while i < pattern.len() {
        match pattern[i] {
            b'%' | b'_' => {
                if percents == 0 && underscores == 0 {
                    prefix = literal;
                }
                if pattern[i] == b'_' {
                    underscores += 1;
                } else {
                    percents += 1;
                    while pattern.get(i + 1) == Some(&b'%') {
                        i += 1;
                    }
                }
            }
            b'\\' if i + 1 < pattern.len() => {
                i += 1;
                literal += 1;
            }
            _ => literal += 1,
        }
        i += 1;
    }
    let free = if percents > 0 { MAX.saturating_sub(literal + underscores) } else { 0 };
    if free > underscores {
        Breadth { free: free * 2 + 1, percents, underscores, prefix }
    } else {
        Breadth { free: underscores * 2, percents: free, underscores: percents, prefix }
    }
}

/// SQL `LIKE`: `%` is any characters, `_` is one, `\` takes away a special meaning.
fn like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to try again after a mismatch: behind the last `%`, one character further.
    let mut retry = None;
    loop {
        match pattern.get(p) {
            Some(b'%') => {
                p += 1;
                retry = Some((p, t));
                continue;
            }
            Some(b'_') if t < text.len() => {
                p += 1;
                t += 1;
                continue;
            }
            Some(b'\\') if p + 1 < pattern.len() && text.get(t) == Some(&pattern[p + 1]) => {
                p += 2;
                t += 1;
                continue;
            }
            Some(c)
                if !(*c == b'_' || *c == b'\\' && p + 1 < pattern.len())
                    && text.get(t) == Some(c) =>
            {
                p += 1;
                t += 1;
                continue;
            }
            None if t == text.len() => return true,
            _ => {}
        }
        match retry {
            Some((behind, from)) if from < text.len() => {
                p = behind;
                t = from + 1;
                retry = Some((behind, t));
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_is_like() {
        for (pattern, text, matches) in [
            ("%", "", true),
            ("%", "10.0.0.1", true),
            ("10.0.%", "10.0.0.1", true),
            ("10.0.%", "10.10.0.1", false),
            ("10.0.0._", "10.0.0.1", true),
            ("10.0.0._", "10.0.0.12", false),
            ("%.1", "1.1.1.11.1", true),
            ("%1%2%", "0102", true),
            ("%1%2%", "0201", false),
            ("a\\%b", "a%b", true),
            ("a\\%b", "axb", false),
            ("", "", true),
            ("", "x", false),
            ("__", "x", false),
        ] {
            assert_eq!(like(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn like_as_a_plain_recursion_does_it(pattern in "[ab%_]{0,8}", text in "[ab]{0,8}") {
            fn slow(p: &[u8], t: &[u8]) -> bool {
                match p.split_first() {
                    None => t.is_empty(),
                    Some((b'%', rest)) => (0..=t.len()).any(|i| slow(rest, &t[i..])),
                    Some((b'_', rest)) => !t.is_empty() && slow(rest, &t[1..]),
                    Some((c, rest)) => t.first() == Some(c) && slow(rest, &t[1..]),
                }
            }
            let (p, t) = (pattern.as_bytes(), text.as_bytes());
            proptest::prop_assert_eq!(like(p, t), slow(p, t));
        }
    }
}
