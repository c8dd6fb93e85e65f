//! Typed configuration of both daemons, with errors that say where and what to do.

pub mod proxy;

use std::fmt;

/// A password or token: never printed, not even in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }
    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self)
    }
}

mod duration {
    use std::time::Duration;
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(_d: D) -> Result<Duration, D::Error> {
        Err(serde::de::Error::custom("not yet"))
    }
}
mod size {
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(_d: D) -> Result<usize, D::Error> {
        Err(serde::de::Error::custom("not yet"))
    }
}
