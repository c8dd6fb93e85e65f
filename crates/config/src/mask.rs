//! Keeps secrets out of drawn config files, also out of those that don't parse.

/// Parts of a key that say its value is nobody's business. Misspelt ones are caught by
/// [`is_secret`], because the line with the misspelling is the very one that gets drawn.
const WORDS: [&str; 7] = ["password", "passwd", "pass", "token", "secret", "auth", "credential"];

/// `text` with every character of a secret replaced by asterisks; byte offsets stay the same.
///
/// Works on the raw text rather than on parsed TOML, because a file with an unclosed quote is drawn
/// too. Rather masks too much: everything after `=` up to the closing quote, or the end of the line.
pub(crate) fn secrets(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    // A colon stands between them in ProxySQL's file; in ours it does not, and may be part of a value.
    while let Some(offset) = bytes[i..].iter().position(|b| matches!(b, b'=' | b':')) {
        let equals = i + offset;
        i = equals + 1;
        if !is_secret(key_before(&text[..equals])) {
            continue;
        }
        let mut at = i;
        while matches!(bytes.get(at), Some(b' ' | b'\t')) {
            at += 1;
        }
        i = match bytes.get(at) {
            // { env = "NAME" } and { file = "PATH" } are no secrets.
            Some(b'{') => at,
            other if bytes[equals] == b':' && other != Some(&b'"') => at,
            Some(&quote @ (b'"' | b'\'')) => mask_quoted(bytes, &mut out, at, quote),
            _ => mask_line(bytes, &mut out, at),
        };
    }
    // Only whole characters were replaced, byte by byte, with ASCII.
    String::from_utf8(out).unwrap_or_default()
}

fn memchr(needle: u8, haystack: &[u8]) -> Option<usize> {
    haystack.iter().position(|&b| b == needle)
}

/// The key that ends where `before` ends, without quotes.
fn key_before(before: &str) -> &str {
    let key = before.trim_end_matches([' ', '\t']);
    let key = key.trim_end_matches(['"', '\'']);
    let start = key
        .rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
        .map_or(0, |at| at + key[at..].chars().next().map_or(1, char::len_utf8));
    &key[start..]
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    WORDS.iter().any(|word| key.contains(word))
        || WORDS.iter().any(|word| word.len() >= 5 && crate::nearest::distance(&key, word) <= 2)
}

fn mask_line(bytes: &[u8], out: &mut [u8], from: usize) -> usize {
    let end = memchr(b'\n', &bytes[from..]).map_or(bytes.len(), |n| from + n);
    out[from..end].fill(b'*');
    end
}

fn mask_quoted(bytes: &[u8], out: &mut [u8], open: usize, quote: u8) -> usize {
    let triple = [quote; 3];
    if bytes[open..].starts_with(&triple) {
        let start = open + 3;
        let end =
            bytes[start..].windows(3).position(|w| w == triple).map_or(bytes.len(), |n| start + n);
        for b in &mut out[start..end] {
            if *b != b'\n' {
                *b = b'*';
            }
        }
        return end;
    }
    let mut at = open + 1;
    while at < bytes.len() && bytes[at] != b'\n' {
        if bytes[at] == quote {
            return at + 1;
        }
        // An escaped quote does not end a basic string.
        if bytes[at] == b'\\' && quote == b'"' && bytes.get(at + 1).is_some_and(|b| *b != b'\n') {
            out[at] = b'*';
            at += 1;
        }
        out[at] = b'*';
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::secrets;

    #[test]
    fn secrets_become_asterisks_and_nothing_moves() {
        let masked = secrets("user = \"bob\"\npassword = \"hun\\\"ter\" # x\ntoken='t'\n");
        assert_eq!(masked, "user = \"bob\"\npassword = \"********\" # x\ntoken='*'\n");
        assert_eq!(secrets("pasword = \"a\""), "pasword = \"*\"", "misspelt");
        assert_eq!(
            secrets("x = { name = 'a', password = 'b' }"),
            "x = { name = 'a', password = '*' }"
        );
        assert_eq!(secrets("\"password\" = 'b'"), "\"password\" = '*'");
        assert_eq!(secrets("password = \"\"\"a\nb\"\"\""), "password = \"\"\"*\n*\"\"\"");
    }

    #[test]
    fn another_proxys_secrets_are_masked_too() {
        let text = "admin_credentials=\"a:b\"\n{ password : \"c\", address: \"pass:1\" }";
        let masked = "admin_credentials=\"***\"\n{ password : \"*\", address: \"pass:1\" }";
        assert_eq!(secrets(text), masked);
    }

    #[test]
    fn secrets_in_broken_files_are_masked_too() {
        assert_eq!(secrets("password = \"open\nname = 'x'"), "password = \"****\nname = 'x'");
        assert_eq!(secrets("password = bare\nname = 'x'"), "password = ****\nname = 'x'");
        assert_eq!(secrets("password=\"\"\"open\nb"), "password=\"\"\"****\n*");
        assert_eq!(secrets("password=\"x\\"), "password=\"**");
    }

    #[test]
    fn where_a_secret_comes_from_is_shown() {
        let text = "password = { env = \"NAME\" }\n";
        assert_eq!(secrets(text), text);
    }

    proptest! {
        #[test]
        fn any_text_keeps_its_length(text in "(?s).{0,200}") {
            prop_assert_eq!(secrets(&text).len(), text.len());
        }
        #[test]
        fn pieces_of_toml_keep_their_length(
            parts in prop::collection::vec(prop::sample::select(vec![
                "password", "=", "\"", "'", "\\", "\n", "é", "x", "{", "}", " ", "token", "\"\"\"",
            ]), 0..30),
        ) {
            let text = parts.concat();
            prop_assert_eq!(secrets(&text).len(), text.len());
        }
    }
}
