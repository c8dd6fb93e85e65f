//! "Did you mean": the known word nearest to what was written.

/// Edit distance in which swapping two neighbours counts as one edit (optimal string alignment).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(ca != cb)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *cb && *ca == b[j - 1] {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The one of `known` that `written` was probably meant to be.
///
/// One edit per three letters is a slip; more is another word. A word that begins with, or ends in,
/// the other is taken too (`timeout` for `connect_timeout`).
pub(crate) fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let written = written.to_ascii_lowercase().replace('-', "_");
    let close = known
        .iter()
        .map(|word| (distance(&written, word), *word))
        .filter(|(d, word)| *d <= (word.len().max(written.len()) / 3).max(1))
        .min_by_key(|(d, _)| *d);
    close.map(|(_, word)| word).or_else(|| {
        let part = |a: &str, b: &str| b.len() >= 4 && (a.starts_with(b) || a.ends_with(b));
        known.iter().copied().find(|word| part(word, &written) || part(&written, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["name", "address", "weight", "connect_timeout"];
        assert_eq!(nearest("adress", &known), Some("address"));
        assert_eq!(nearest("wieght", &known), Some("weight"));
        assert_eq!(nearest("Name", &known), Some("name"));
        assert_eq!(nearest("connect-timeout", &known), Some("connect_timeout"));
        assert_eq!(nearest("timeout", &known), Some("connect_timeout"));
        assert_eq!(nearest("colour", &known), None);
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("abcd", "abdc"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
