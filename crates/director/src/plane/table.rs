//! Tables of slots: which real server takes the n-th new connection, or those of the n-th hash.
//! Pure: the same servers give the same table on every director.

use std::net::SocketAddr;

/// Slots of a hashed service: prime, and IPVS's own size (`IP_VS_MH_TAB_SIZE`). The share of a server
/// is right within 1 % up to 40 servers of equal weight.
pub const MAGLEV_SLOTS: usize = 4093;
/// The most slots a counted service may have: weights are scaled down to fit.
pub const MAX_SLOTS: usize = 4096;

/// A server that takes new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub address: SocketAddr,
    /// Above 0.
    pub weight: u32,
}

/// Each server once, in the order given.
#[must_use]
pub fn round_robin(candidates: &[Candidate]) -> Vec<usize> {
    (0..candidates.len().min(MAX_SLOTS)).collect()
}

/// Servers in proportion to their weights, those of one server as far apart as they go (the smooth
/// weighted round-robin of nginx).
#[must_use]
pub fn weighted_round_robin(candidates: &[Candidate]) -> Vec<usize> {
    let weights = reduced(candidates);
    let total: i64 = weights.iter().sum();
    let mut current = vec![0i64; weights.len()];
    (0..total)
        .map(|_| {
            for (c, w) in current.iter_mut().zip(&weights) {
                *c += w;
            }
            // The first of the highest.
            let best = (0..current.len()).rev().max_by_key(|&i| current[i]).unwrap_or(0);
            current[best] -= total;
            best
        })
        .collect()
}

/// Weights without their common divisor, scaled so that they fit.
fn reduced(candidates: &[Candidate]) -> Vec<i64> {
    let gcd = |mut a: u32, mut b: u32| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let divisor = candidates.iter().fold(0, |d, c| gcd(d, c.weight)).max(1);
    let weights: Vec<i64> = candidates.iter().map(|c| i64::from(c.weight / divisor)).collect();
    let total: i64 = weights.iter().sum();
    let room = MAX_SLOTS as i64 - candidates.len() as i64;
    if total <= MAX_SLOTS as i64 {
        weights
    } else {
        weights.iter().map(|w| (w * room / total).max(1)).collect()
    }
}

/// Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4), with weights as turns: a server takes
/// as many slots a round as its reduced weight says. Every director that has the same servers
/// builds the same table, whatever the order of its configuration.
#[must_use]
pub fn maglev(candidates: &[Candidate]) -> Vec<usize> {
    let n = MAGLEV_SLOTS as u64;
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|&i| candidates[i].address);
    let weights = reduced(candidates);
    let mut permutations: Vec<(u64, u64)> = candidates
        .iter()
        .map(|c| {
            let name = c.address.to_string();
            (fnv(name.as_bytes(), 0) % n, fnv(name.as_bytes(), 1) % (n - 1) + 1)
        })
        .collect();
    let mut table = vec![usize::MAX; MAGLEV_SLOTS];
    let mut left = if candidates.is_empty() { 0 } else { MAGLEV_SLOTS };
    while left > 0 {
        for &i in &order {
            for _ in 0..weights[i] {
                if left == 0 {
                    break;
                }
                // n is prime, so each server's walk comes by every slot.
                let (offset, skip) = &mut permutations[i];
                while table[*offset as usize] != usize::MAX {
                    *offset = (*offset + *skip) % n;
                }
                table[*offset as usize] = i;
                left -= 1;
            }
        }
    }
    if candidates.is_empty() { Vec::new() } else { table }
}

/// FNV-1a, finished so that all bits count. Part of the contract between directors: never change
/// it without a new name for the scheduler.
fn fnv(bytes: &[u8], seed: u64) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for &b in bytes {
        h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn servers(weights: &[u32]) -> Vec<Candidate> {
        let address = |i: usize| SocketAddr::from(([10, 0, (i / 250) as u8, (i % 250) as u8], 80));
        weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| Candidate { address: address(i), weight })
            .collect()
    }

    fn counts(table: &[usize], n: usize) -> Vec<usize> {
        let mut counts = vec![0; n];
        for &i in table {
            counts[i] += 1;
        }
        counts
    }

    #[test]
    fn two_servers_alternate() {
        assert_eq!(round_robin(&servers(&[1, 1])), [0, 1]);
        assert_eq!(weighted_round_robin(&servers(&[5, 5])), [0, 1]);
    }

    #[test]
    fn weights_are_spread_smoothly() {
        assert_eq!(weighted_round_robin(&servers(&[5, 1, 1])), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn maglev_shares_are_even_and_follow_weights() {
        let shares = counts(&maglev(&servers(&[1, 1, 1])), 3);
        assert!(shares.iter().all(|&c| c.abs_diff(MAGLEV_SLOTS / 3) <= 1), "{shares:?}");
        let shares = counts(&maglev(&servers(&[3, 1])), 2);
        assert!(shares[0].abs_diff(MAGLEV_SLOTS * 3 / 4) <= 4, "{shares:?}");
    }

    #[test]
    fn maglev_moves_few_when_a_server_goes() {
        let all = servers(&[1; 10]);
        let before = maglev(&all);
        let after = maglev(&all[..9]);
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 9 && a != b).count();
        assert!(moved < MAGLEV_SLOTS / 10, "{moved} slots of others moved");
    }

    #[test]
    fn maglev_does_not_depend_on_the_order_of_the_configuration() {
        let all = servers(&[1, 2, 3, 4]);
        let mut reversed = all.clone();
        reversed.reverse();
        let by_address = |candidates: &[Candidate]| -> Vec<SocketAddr> {
            maglev(candidates).iter().map(|&i| candidates[i].address).collect()
        };
        assert_eq!(by_address(&all), by_address(&reversed));
    }

    proptest! {
        #[test]
        fn every_server_has_a_slot(weights in proptest::collection::vec(1u32..65_536, 1..60)) {
            let all = servers(&weights);
            for table in [round_robin(&all), weighted_round_robin(&all), maglev(&all)] {
                prop_assert!(table.len() <= MAX_SLOTS);
                prop_assert!(counts(&table, all.len()).iter().all(|&c| c > 0));
            }
        }
    }
}
