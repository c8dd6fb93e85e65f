//! Tables by a hash of their names.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// A table, whatever the case of its name: where names have a case, some tables share a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableKey(u64);

impl TableKey {
    /// Its place among `slots`, a power of two.
    #[must_use]
    pub fn index(self, slots: usize) -> usize {
        self.0 as usize & (slots - 1)
    }
}

/// Makes keys that nobody can foresee.
#[derive(Debug, Clone, Default)]
pub struct Hasher(RandomState);

impl Hasher {
    /// `None` for names whose case can't be told here: those that are not ASCII.
    #[must_use]
    pub fn key(&self, schema: &[u8], table: &str) -> Option<TableKey> {
        if !schema.is_ascii() || !table.is_ascii() {
            return None;
        }
        let mut hasher = self.0.build_hasher();
        for name in [schema, table.as_bytes()] {
            // Longest name there is: 64 characters. Longer ones name no table.
            let mut lower = [0; 64];
            let lower = lower.get_mut(..name.len())?;
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            hasher.write(lower);
            hasher.write_u8(0xff);
        }
        Some(TableKey(hasher.finish()))
    }
}
