//! What a login brings that a reset takes away, the character sets: how a connection that was reset
//! is made like one that has just logged in.
//!
//! What a reset leaves, and which ways of setting it a server takes, depends on its version; so it is
//! tried, on the first such connection that its session no longer needs.

use std::cell::OnceCell;

use crate::backend::{Backend, Broken, error_code};

const ASK: &[u8] = b"\x03SELECT @@init_connect = '', @@character_set_client, \
    @@collation_connection, @@character_set_results, \
    (SELECT MIN(ID) FROM information_schema.COLLATIONS \
    WHERE COLLATION_NAME = @@collation_connection)";

/// ER_USER_LIMIT_REACHED: that is this account's trouble.
const USER_LIMIT: u16 = 1226;

/// Of the logins to one server with one collation.
pub struct AfterLogin {
    /// What such a login leaves.
    seen: Vec<Option<Vec<u8>>>,
    ways: Vec<Vec<u8>>,
    /// Which of them does, once it is known; `None`: none does.
    found: OnceCell<Option<usize>>,
}

impl AfterLogin {
    /// `backend` has just logged in with this collation. `None`: it may not ask.
    pub async fn ask(backend: &mut Backend, collation: u8) -> Result<Option<Self>, Broken> {
        let seen = backend.row(ASK).await?;
        let ways = ways(&seen, collation);
        Ok((!seen.is_empty()).then(|| Self { seen, ways, found: OnceCell::new() }))
    }

    /// How the statement begins that follows a reset; ends so that more can be set.
    pub fn way(&self) -> Option<&[u8]> {
        self.found.get().copied().flatten().map(|way| &self.ways[way][..])
    }

    /// Whether there is such a statement, as far as is known.
    pub fn may_be(&self) -> bool {
        !self.ways.is_empty() && self.found.get() != Some(&None)
    }

    /// Resets `backend`, which logged in so, and finds the way. False: it is not clean.
    pub async fn find(&self, backend: &mut Backend) -> Result<bool, Broken> {
        for (i, way) in self.ways.iter().enumerate() {
            match backend.reset(way).await? {
                Ok(()) => {
                    let seen = backend.row(ASK).await?;
                    if seen.is_empty() {
                        return Ok(false);
                    }
                    if seen == self.seen {
                        let _ = self.found.set(Some(i));
                        return Ok(true);
                    }
                }
                Err(payload) if error_code(&payload) == USER_LIMIT => return Ok(false),
                Err(_) => {}
            }
        }
        let _ = self.found.set(None);
        Ok(false)
    }
}

/// Statements of which one sets what a login with `collation` left, if there is no more to a login
/// than that. A newer MariaDB keeps all of it over a reset. Others take the login's number, a few, or
/// where the server did not take it at the login, only names: these bring results the character set's
/// default collation.
fn ways(seen: &[Option<Vec<u8>>], collation: u8) -> Vec<Vec<u8>> {
    let [Some(plain), Some(client), Some(connection), results, id] = seen else { return vec![] };
    let is_name = |name: &[u8]| name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let mut names = [client, connection].into_iter().chain(results);
    if plain != b"1" || !names.all(|name| is_name(name)) {
        return vec![];
    }
    let set = |client: &[u8], connection: &[u8], results: &[u8]| {
        [
            b"\x03SET character_set_client=",
            client,
            b", collation_connection=",
            connection,
            b", character_set_results=",
            results,
            b", ",
        ]
        .concat()
    };
    let mut ways = vec![b"\x03SET ".to_vec()];
    let number = collation.to_string().into_bytes();
    if id.as_ref() == Some(&number) && results.as_ref() == Some(client) {
        ways.push(set(&number, &number, &number));
    }
    let quoted = |name: &[u8]| [b"'", name, b"'"].concat();
    let results = results.as_ref().map_or(b"NULL".to_vec(), |name| quoted(name));
    ways.push(set(&quoted(client), &quoted(connection), &results));
    ways
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_login_is_repeated_by_its_character_sets() {
        let some = |text: &str| Some(text.as_bytes().to_vec());
        let row = |first: &str, last, id: &str| {
            [some(first), some("utf8mb4"), some("utf8mb4_bin"), last, some(id)]
        };
        let ways = |row: &[_]| {
            let ways = super::ways(row, 46).into_iter();
            ways.map(|sql| String::from_utf8_lossy(&sql[1..]).into_owned()).collect::<Vec<_>>()
        };
        let [kept, named] = &ways(&row("1", some("latin1"), "46"))[..] else { panic!() };
        assert_eq!(kept, "SET ");
        assert_eq!(
            named,
            "SET character_set_client='utf8mb4', collation_connection='utf8mb4_bin', \
             character_set_results='latin1', "
        );
        let [_, numbered, named] = &ways(&row("1", some("utf8mb4"), "46"))[..] else { panic!() };
        assert_eq!(
            numbered,
            "SET character_set_client=46, collation_connection=46, character_set_results=46, "
        );
        assert!(named.ends_with("_results='utf8mb4', "));
        // The server has ideas of its own.
        assert_eq!(ways(&row("1", some("utf8mb4"), "45")).len(), 2);
        assert!(ways(&row("1", None, "46"))[1].ends_with("=NULL, "));
        assert!(ways(&row("0", None, "46")).is_empty(), "init_connect");
        assert!(ways(&row("1", some("x'"), "46")).is_empty());
    }
}
