//! MariaDB: the newest transaction of each replication domain.

use std::fmt;
use std::str::FromStr;

use smallvec::SmallVec;

use super::{ParseError, number};

/// One transaction: `domain-server-sequence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gtid {
    pub domain: u32,
    /// `@@server_id` of the server it was first committed on.
    pub server: u32,
    /// Grows by one with each transaction of the domain, whichever server it began on.
    pub sequence: u64,
}

/// The newest transaction per domain. Within a domain transactions are applied in the order of
/// their sequence numbers, so this says it all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MariaDbPosition {
    /// Sorted by domain, each once.
    pub domains: SmallVec<[Gtid; 1]>,
}

/// The replication domain in which a server that is being given another's data commits something, so
/// that nobody takes it for whole before the end.
pub const REBUILD_DOMAIN: u32 = 4_026_531_840;

impl MariaDbPosition {
    /// It was being given another server's data, and has not got all.
    #[must_use]
    pub fn is_half_rebuilt(&self) -> bool {
        self.find(REBUILD_DOMAIN).is_ok()
    }

    fn find(&self, domain: u32) -> Result<usize, usize> {
        self.domains.binary_search_by_key(&domain, |gtid| gtid.domain)
    }

    /// See [`super::Position::covers`]. Which server a transaction began on does not matter, just
    /// as it does not to `MASTER_GTID_WAIT`.
    #[must_use]
    #[inline]
    pub fn covers(&self, other: &Self) -> bool {
        other.domains.iter().all(|wanted| {
            self.find(wanted.domain).is_ok_and(|i| self.domains[i].sequence >= wanted.sequence)
        })
    }

    /// Whether all of `before` is gone, or one of its domains begins anew.
    pub(super) fn fell_behind(&self, before: &Self) -> bool {
        let mut left = before.domains.iter().filter_map(|old| {
            let i = self.find(old.domain).ok()?;
            Some(self.domains[i].sequence < old.sequence)
        });
        match left.next() {
            None => !before.domains.is_empty(),
            Some(behind) => behind || left.any(|behind| behind),
        }
    }

    /// Takes the later of each domain.
    pub fn merge(&mut self, other: &Self) {
        for &gtid in &other.domains {
            self.add(gtid);
        }
    }

    fn add(&mut self, gtid: Gtid) {
        match self.find(gtid.domain) {
            Ok(i) if self.domains[i].sequence < gtid.sequence => self.domains[i] = gtid,
            Ok(_) => {}
            Err(i) => self.domains.insert(i, gtid),
        }
    }
}

impl FromStr for MariaDbPosition {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut position = Self::default();
        if text.trim().is_empty() {
            return Ok(position);
        }
        for part in text.split(',') {
            let mut fields = part.trim().splitn(3, '-');
            let mut field = |what| number(fields.next().unwrap_or_default(), what);
            let domain = field("domain")?;
            let server = field("server id")?;
            let sequence = field("sequence number")?;
            position.add(Gtid {
                domain: u32::try_from(domain).map_err(|_| ParseError::new("domain"))?,
                server: u32::try_from(server).map_err(|_| ParseError::new("server id"))?,
                sequence,
            });
        }
        Ok(position)
    }
}

impl fmt::Display for MariaDbPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, gtid) in self.domains.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{gtid}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(text: &str) -> MariaDbPosition {
        text.parse().unwrap()
    }

    #[test]
    fn covers_what_it_has_applied_and_no_more() {
        for (own, other, covers) in [
            ("0-1-5", "0-1-5", true),
            ("0-1-5", "0-2-4", true),
            ("0-1-5", "0-1-6", false),
            ("0-1-5,1-1-9", "1-7-9", true),
            ("0-1-5", "1-1-1", false),
            ("0-1-5", "", true),
            ("", "0-1-1", false),
        ] {
            assert_eq!(position(own).covers(&position(other)), covers, "{own} covers {other}");
        }
    }

    #[test]
    fn a_domain_may_end_without_a_new_history() {
        for (before, now, anew) in [
            ("0-1-5", "0-1-6", false),
            ("0-1-5", "0-1-4", true),
            ("0-1-5", "", true),
            ("0-1-5", "1-1-9", true),
            ("0-1-5,1-1-9", "0-2-5", false),
            ("0-1-5,1-1-9", "0-2-6,1-1-8", true),
            ("", "0-1-1", false),
        ] {
            assert_eq!(position(now).fell_behind(&position(before)), anew, "{before} {now}");
        }
    }

    #[test]
    fn reads_what_servers_write_and_refuses_the_rest() {
        assert_eq!(position(" 1-2-7, 0-1-123 ").to_string(), "0-1-123,1-2-7");
        assert_eq!(position("0-1-3,0-2-9,0-1-4").to_string(), "0-2-9");
        assert_eq!(position("4294967295-1-18446744073709551615").domains.len(), 1);
        for wrong in [
            "x",
            "0-1",
            "0-1-",
            "-1-2",
            "0-1-2-3",
            "0-1--2",
            "0-1-+2",
            "4294967296-1-1",
            "0-1-18446744073709551616",
            "0-1-2,",
            ",",
            "0 -1-2",
        ] {
            assert!(wrong.parse::<MariaDbPosition>().is_err(), "{wrong:?}");
        }
    }

    fn any_position() -> impl Strategy<Value = MariaDbPosition> {
        prop::collection::vec((0..4_u32, 1..3_u32, 0..6_u64), 0..5).prop_map(|gtids| {
            let mut position = MariaDbPosition::default();
            for (domain, server, sequence) in gtids {
                position.add(Gtid { domain, server, sequence });
            }
            position
        })
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = text.parse::<MariaDbPosition>();
        }

        #[test]
        fn text_and_back(p in any_position()) {
            prop_assert_eq!(position(&p.to_string()), p);
        }

        #[test]
        fn merging_is_the_least_position_that_covers_both(
            a in any_position(), b in any_position(), c in any_position(),
        ) {
            let mut both = a.clone();
            both.merge(&b);
            prop_assert!(both.covers(&a) && both.covers(&b));
            prop_assert_eq!(c.covers(&both), c.covers(&a) && c.covers(&b));
            prop_assert!(both.domains.is_sorted_by_key(|g| g.domain));
        }

        #[test]
        fn covering_is_transitive(a in any_position(), b in any_position(), c in any_position()) {
            prop_assert!(a.covers(&a));
            prop_assert!(!(a.covers(&b) && b.covers(&c)) || a.covers(&c));
        }
    }
}
