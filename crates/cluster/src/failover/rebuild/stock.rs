//! What there is to copy, and how far the copying is.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Rebuild;
use super::copy::{text, texts};
use crate::link::{Fields, Link};

pub(super) const DATABASES: &str = "SELECT schema_name AS name FROM information_schema.schemata WHERE \
     schema_name NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys') \
     AND schema_name NOT LIKE '#mysql50#%'";

/// What there is to copy.
#[derive(Default)]
pub(super) struct Stock {
    pub(super) databases: Vec<String>,
    /// Of engines without transactions, per database.
    pub(super) nontransactional: BTreeMap<String, Vec<String>>,
    pub(super) tables: u64,
    pub(super) bytes: u64,
    pub(super) nontransactional_bytes: u64,
    /// There are tables that keep their history.
    pub(super) history: bool,
}

pub(super) async fn stock(donor: &mut Link) -> Result<Stock, String> {
    let mut stock = Stock { databases: texts(donor, DATABASES).await?, ..Stock::default() };
    let sql = "SELECT table_schema AS s, table_name AS t, table_type AS kind, engine AS e, \
               IFNULL(data_length, 0) AS bytes FROM information_schema.tables \
               WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')";
    for row in donor.rows(sql).await.map_err(text)? {
        let row = Fields(&row);
        let field = |name: &str| row.text(&[name]).unwrap_or_default();
        let schema = field("s");
        if !stock.databases.contains(&schema) {
            continue;
        }
        let bytes = row.number(&["bytes"]).unwrap_or(0);
        stock.tables += 1;
        stock.bytes += bytes;
        stock.history |= field("kind") == "SYSTEM VERSIONED";
        if field("e") != "InnoDB" {
            stock.nontransactional_bytes += bytes;
            stock.nontransactional.entry(schema).or_default().push(field("t"));
        }
    }
    Ok(stock)
}

/// How far it is.
pub(super) struct Progress<'a> {
    pub(super) rebuild: &'a Rebuild,
    pub(super) tables: u64,
    pub(super) copied: u64,
    pub(super) of_tables: u64,
    pub(super) of_bytes: u64,
    pub(super) told: Instant,
    /// The end of the last block: a line may begin in one and end in the next.
    pub(super) tail: Vec<u8>,
}

impl Progress<'_> {
    pub(super) fn note(&mut self, block: &[u8]) {
        const BEGINS: &[u8] = b"\nLOCK TABLES `";
        self.copied += block.len() as u64;
        self.tail.extend_from_slice(block);
        self.tables +=
            self.tail.windows(BEGINS.len()).filter(|window| *window == BEGINS).count() as u64;
        let keep = self.tail.len().min(BEGINS.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
        if self.told.elapsed() > super::LOOK {
            self.tell();
        }
    }

    pub(super) fn tell(&mut self) {
        self.told = Instant::now();
        let mib = |bytes: u64| bytes >> 20;
        self.rebuild.say(format!(
            "from {}: table {} of {}, {} of about {} MiB",
            self.rebuild.name(self.rebuild.donor),
            self.tables,
            self.of_tables,
            mib(self.copied),
            mib(self.of_bytes.max(self.copied)),
        ));
    }
}
