//! The kernel's tick as a clock: the program reads jiffies, which cost nothing, and makes
//! nanoseconds of them. Pure.

use super::layout::Moment;

/// Ticks a second that kernels are built with.
const RATES: [u64; 9] = [100, 128, 250, 256, 300, 500, 512, 1000, 1024];
const SECOND: u64 = 1_000_000_000;

/// How to make ns of CLOCK_MONOTONIC of jiffies: jiffies · `tick` + `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tick {
    /// ns; 0: jiffies are of no use.
    pub tick: u64,
    /// Wraps.
    pub offset: u64,
}

/// From one moment on both clocks. Jiffies begin five minutes before they wrap around 32 bits
/// (`INITIAL_JIFFIES`), when CLOCK_MONOTONIC begins: which shows how many there are in a second, but
/// for a moment five minutes after the start.
pub(crate) fn of(moment: Moment) -> Tick {
    let ns_of = |rate: u64| (SECOND + rate / 2) / rate;
    let fits = |rate: &u64| {
        let start = u64::from((300 * *rate as u32).wrapping_neg());
        let expected = start + moment.ns / ns_of(*rate);
        // A second's worth, and what the two may be apart since the machine started.
        moment.jiffies.abs_diff(expected) <= rate + (moment.ns / ns_of(*rate)) / 10_000
    };
    let mut fitting = RATES.iter().filter(|rate| fits(rate));
    match (fitting.next(), fitting.next()) {
        (Some(rate), None) => {
            let tick = ns_of(*rate);
            Tick { tick, offset: moment.ns.wrapping_sub(moment.jiffies.wrapping_mul(tick)) }
        }
        _ => Tick::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(rate: u64, seconds: u64) -> Moment {
        let start = u64::from((300 * rate as u32).wrapping_neg());
        Moment { jiffies: start + seconds * rate, ns: seconds * SECOND + 123 }
    }

    #[test]
    fn the_rate_shows() {
        for rate in [100, 250, 300, 1000] {
            for seconds in [5, 60, 1000, 86_400, 100_000_000] {
                let at = moment(rate, seconds);
                let Tick { tick, offset } = of(at);
                assert_eq!(tick, (SECOND + rate / 2) / rate, "{rate} {seconds}");
                assert_eq!(at.jiffies.wrapping_mul(tick).wrapping_add(offset), at.ns);
            }
        }
        // As seen on a machine that was up for 4.7 hours.
        let seen = Moment { jiffies: 4_299_125_783, ns: 16_934_203_191_809 };
        assert_eq!(of(seen).tick, 4_000_000);
    }

    #[test]
    fn what_is_not_sure_is_not_used() {
        assert_eq!(of(moment(250, 300)), Tick::default(), "all rates show the same then");
        assert_eq!(of(Moment { jiffies: 5, ns: 1000 * SECOND }), Tick::default());
        assert_eq!(of(Moment::default()), Tick::default());
    }
}
