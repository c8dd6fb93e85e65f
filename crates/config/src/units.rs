//! Durations ("500ms", "1s", "2m") and sizes ("16MiB") as people write them.

use std::time::Duration;

/// What is said about a duration that can't be read.
pub(crate) const DURATION_HELP: &str =
    "a duration is a number and a unit: \"500ms\", \"1s\", \"1.5s\", \"2m\", \"1h\", \"1d\"";
/// What is said about a size that can't be read.
pub(crate) const SIZE_HELP: &str =
    "a size is a number of bytes, or a number and a unit: \"512KiB\", \"16MiB\", \"1GiB\"";

/// Parses `"500ms"`, `"1.5s"`, `"1m 30s"`; units us, ms, s, m, h, d. `None` if it is no duration.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest)?;
        let nanos_per: u64 = match unit {
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" | "min" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            "d" => 86_400 * 1_000_000_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_nanos(scale(number, nanos_per)?))?;
        rest = after.trim_start();
    }
    Some(total)
}

/// Parses `"16MiB"`, `"64 KiB"`, `"4096"` into bytes. Units B, KiB, MiB, GiB (also `K`, `M`, `G`,
/// `KB`..., which count in 1024s as the databases do). `None` if it is no size.
#[must_use]
pub fn parse_size(text: &str) -> Option<usize> {
    let (number, unit, after) = number_and_unit(text.trim())?;
    let bytes_per: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    if !after.is_empty() {
        return None;
    }
    usize::try_from(scale(number, bytes_per)?).ok()
}

/// Splits `"1.5s rest"` into `("1.5", "s", " rest")`.
fn number_and_unit(text: &str) -> Option<(&str, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    Some((number, unit, rest))
}

/// `number` (digits, at most one point) times `per`, exactly, rounded down.
fn scale(number: &str, per: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || number.ends_with('.') || fraction.len() > 9 {
        return None;
    }
    let whole: u128 = u128::from(whole.parse::<u64>().ok()?) * u128::from(per);
    let part = match fraction {
        "" => 0,
        _ => {
            let digits = u32::try_from(fraction.len()).ok()?;
            u128::from(fraction.parse::<u64>().ok()?) * u128::from(per) / 10u128.pow(digits)
        }
    };
    u64::try_from(whole + part).ok()
}

/// Writes a duration as the config does: `500ms`, `10s`, `2m`.
#[must_use]
pub fn show_duration(d: Duration) -> String {
    let nanos = d.as_nanos();
    for (unit, per) in [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
    ] {
        if nanos >= per && nanos.is_multiple_of(per) {
            return format!("{}{unit}", nanos / per);
        }
    }
    match nanos {
        0 => "0s".to_owned(),
        _ if nanos.is_multiple_of(1_000_000) => format!("{}ms", nanos / 1_000_000),
        _ => format!("{}us", nanos / 1_000),
    }
}

/// Writes a size as the config does: `4MiB`, `1000`.
#[must_use]
pub fn show_size(bytes: usize) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("500ms", Some(ms(500))),
            ("1s", Some(ms(1000))),
            ("1.5s", Some(ms(1500))),
            ("2m", Some(ms(120_000))),
            ("1m30s", Some(ms(90_000))),
            (" 1m 30s ", Some(ms(90_000))),
            ("0s", Some(ms(0))),
            ("1d", Some(ms(86_400_000))),
            ("250us", Some(Duration::from_micros(250))),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1..5s", None),
            ("1.s", None),
            (".5s", None),
            ("1 fortnight", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(parse_duration(text), want, "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("16MiB", Some(16 << 20)),
            ("64 KiB", Some(64 << 10)),
            ("4096", Some(4096)),
            ("1.5K", Some(1536)),
            ("1GB", Some(1 << 30)),
            ("", None),
            ("MiB", None),
            ("1 MiB x", None),
            ("-1", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(parse_size(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,40}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
        #[test]
        fn what_is_shown_is_read_back(us in 0u64..1_000_000_000_000, size in 0usize..1 << 40) {
            let d = Duration::from_micros(us);
            prop_assert_eq!(parse_duration(&show_duration(d)), Some(d));
            prop_assert_eq!(parse_size(&show_size(size)), Some(size));
        }
    }
}
