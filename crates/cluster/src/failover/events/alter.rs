//! The statements that enable an event or have it rest, and change nothing else of it. Pure.

use crate::failover::sql::quote;
use crate::gtid::Flavour;

/// What `ALTER EVENT` would change if it were not said again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) schema: String,
    pub(super) name: String,
    /// `app@%`
    pub(super) definer: String,
    pub(super) character_set: String,
    pub(super) collation: String,
}

/// `name` as an identifier.
fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

impl Event {
    /// "app.clean_up"
    pub(super) fn title(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// For the statement that follows, which the server reads in that character set, too.
    pub(super) fn settings(&self) -> String {
        format!(
            "SET character_set_client = {}, collation_connection = {}",
            quote(&self.character_set),
            quote(&self.collation)
        )
    }

    /// `to`: `ENABLE` or [`rest`].
    pub(super) fn alter(&self, to: &str) -> String {
        let definer = match self.definer.rsplit_once('@') {
            Some((user, host)) if !host.is_empty() => {
                format!("{}@{}", identifier(user), identifier(host))
            }
            // A role.
            Some((role, _)) => identifier(role),
            None => identifier(&self.definer),
        };
        format!(
            "ALTER DEFINER = {definer} EVENT {}.{} {to}",
            identifier(&self.schema),
            identifier(&self.name)
        )
    }

    /// Whether the server reads the statement as it was written here, in UTF-8.
    pub(super) fn is_plain(&self) -> bool {
        self.character_set.starts_with("utf8")
            || [&self.schema, &self.name, &self.definer].iter().all(|text| text.is_ascii())
    }
}

/// How an event is disabled at a replica; MySQL before 8.2 knows slaves only.
pub(super) fn rest(flavour: Flavour, old_words: bool) -> &'static str {
    match (flavour, old_words) {
        (Flavour::MySql, false) => "DISABLE ON REPLICA",
        _ => "DISABLE ON SLAVE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(definer: &str) -> Event {
        Event {
            schema: "app".to_owned(),
            name: "a`b".to_owned(),
            definer: definer.to_owned(),
            character_set: "latin1".to_owned(),
            collation: "latin1_german1_ci".to_owned(),
        }
    }

    #[test]
    fn definers_are_kept() {
        let alter = |definer| event(definer).alter("ENABLE");
        assert_eq!(alter("a@b@%"), "ALTER DEFINER = `a@b`@`%` EVENT `app`.`a``b` ENABLE");
        assert!(alter("keeper@").contains("DEFINER = `keeper` EVENT"));
    }

    #[test]
    fn other_letters_want_the_servers_help() {
        assert!(event("app@%").is_plain());
        assert!(!event("käse@%").is_plain());
        let utf8 = Event { character_set: "utf8mb3".to_owned(), ..event("käse@%") };
        assert!(utf8.is_plain());
    }
}
