//! What a transaction did, as far as a binary log tells.

use pointsman_wire::binlog::{Change, Event, Rows, TableMap};

/// What a transaction did that was found in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// The log holds something of it that is not understood, or that a failed statement left.
    pub unclear: bool,
    /// It ended as one of engines that can undo: whole, or not at all.
    pub whole: bool,
    /// How many statements were logged as such.
    pub statements: u32,
    /// The first AUTO_INCREMENT value that was given, where statements are logged.
    pub insert_id: Option<u64>,
    pub table: Option<TableMap>,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// The integers of the first inserted row, by column.
    pub first: Vec<Option<u64>>,
}

/// The one table whose rows were changed, where rows are logged.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub schema: &'a [u8],
    pub name: &'a [u8],
}

impl Done {
    /// An event of the transaction. `whole`: all of it is there.
    pub fn event(&mut self, event: &Event<'_>, whole: bool) {
        match event {
            Event::Query { error, .. } => {
                self.statements += 1;
                self.unclear |= *error != 0;
            }
            Event::InsertId(id) => {
                self.insert_id.get_or_insert(*id);
            }
            Event::TableMap(body) => match TableMap::parse(body) {
                Ok(map) => {
                    let same =
                        |known: &TableMap| (&known.schema, &known.name) == (&map.schema, &map.name);
                    self.unclear |= !self.table.as_ref().is_none_or(same);
                    self.table = Some(map);
                }
                Err(_) => self.unclear = true,
            },
            Event::Rows(Some(rows)) if whole => self.rows(rows),
            Event::Rows(_) => self.unclear = true,
            Event::Committed => self.whole = true,
            Event::Gtid(_) | Event::Annotate { .. } | Event::Other => {}
        }
    }

    fn rows(&mut self, rows: &Rows<'_>) {
        let counted = self.table.as_ref().map(|table| rows.count(table));
        let Some(Ok(counted)) = counted else {
            self.unclear = true;
            return;
        };
        let sum = match rows.change {
            Change::Insert => &mut self.inserted,
            Change::Update => &mut self.updated,
            Change::Delete => &mut self.deleted,
        };
        *sum += counted.rows;
        if rows.change == Change::Insert && self.first.is_empty() {
            self.first = counted.first;
        }
    }

    /// Whether all of it is understood.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        !self.unclear
    }

    #[must_use]
    pub fn target(&self) -> Option<Target<'_>> {
        let table = self.table.as_ref()?;
        Some(Target { schema: &table.schema, name: &table.name })
    }
}
