//! Lists with typed cells: JSON for programs, text for people, a result set for SQL clients.

use std::time::{Duration, SystemTime};

use comfy_table::{CellAlignment, ContentArrangement};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::{AdminError, Code, Query};

/// What the cells of a column hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    Text,
    Bool,
    Integer,
    Float,
    /// A duration; its name ends in `_ms`.
    Millis,
    Time,
}

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Name in JSON and SQL: lower case, with the unit where there is one.
    pub name: &'static str,
    pub kind: ColumnType,
}

impl Column {
    /// Heading for people: without the unit, which stands in the cells.
    fn heading(&self) -> &'static str {
        self.name.strip_suffix("_ms").unwrap_or(self.name)
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Text(String),
    Bool(bool),
    Integer(u64),
    Float(f64),
    /// Milliseconds.
    Millis(f64),
    Time(SystemTime),
}

impl Cell {
    /// A duration.
    #[must_use]
    pub fn millis(d: Duration) -> Self {
        Self::Millis(d.as_secs_f64() * 1e3)
    }

    /// For people: durations with a fitting unit, `-` for what is unknown.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Null => "-".to_owned(),
            Self::Text(s) => printable(s),
            Self::Bool(b) => if *b { "yes" } else { "no" }.to_owned(),
            Self::Integer(n) => n.to_string(),
            Self::Float(x) => format!("{x:.2}"),
            Self::Millis(ms) => short_duration(*ms),
            Self::Time(t) => rfc3339(*t),
        }
    }

    /// For SQL clients; `None` is NULL.
    pub(crate) fn to_sql(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Text(s) => Some(s.clone()),
            Self::Bool(b) => Some(u8::from(*b).to_string()),
            Self::Integer(n) => Some(n.to_string()),
            Self::Float(x) => Some(x.to_string()),
            Self::Millis(ms) => Some(format!("{ms:.3}")),
            Self::Time(t) => Some(rfc3339(*t).replace('T', " ").trim_end_matches('Z').to_owned()),
        }
    }

    /// Order for sorting: nulls lowest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let rank = |c: &Self| match c {
            Self::Null => f64::NEG_INFINITY,
            Self::Bool(b) => f64::from(u8::from(*b)),
            // Precise enough to sort by.
            #[allow(clippy::cast_precision_loss)]
            Self::Integer(n) => *n as f64,
            Self::Float(x) | Self::Millis(x) => *x,
            Self::Time(t) => {
                t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
            }
            Self::Text(_) => 0.0,
        };
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => b.cmp(a),
            (a, b) => rank(a).total_cmp(&rank(b)),
        }
    }
}

/// Statements and user names come from strangers: nothing in them may move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn short_duration(ms: f64) -> String {
    match ms {
        _ if !ms.is_finite() || ms < 0.0 => "-".to_owned(),
        _ if ms == 0.0 => "0ms".to_owned(),
        _ if ms < 1.0 => format!("{:.0}us", ms * 1e3),
        _ if ms < 10.0 => format!("{ms:.1}ms"),
        _ if ms < 1e3 => format!("{ms:.0}ms"),
        _ if ms < 60e3 => format!("{:.1}s", ms / 1e3),
        _ => {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let s = (ms / 1e3) as u64;
            match s {
                0..3600 => format!("{}m{:02}s", s / 60, s % 60),
                3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
                _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
            }
        }
    }
}

/// `2026-11-22T21:00:00.123Z` (RFC 3339, UTC).
pub(crate) fn rfc3339(t: SystemTime) -> String {
    let since = t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March put the leap day last; 400 of them have 146097 days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        time / 3600,
        time % 3600 / 60,
        time % 60,
        since.subsec_millis()
    )
}

/// Columns and rows; every row has as many cells as there are columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has not one cell per column.
    pub fn push(&mut self, row: Vec<Cell>) {
        assert_eq!(row.len(), self.columns.len(), "one cell per column");
        self.rows.push(row);
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name || c.heading() == name)
    }

    /// Applies order, limit and `after`.
    ///
    /// # Errors
    /// The table has no such column.
    pub fn select(mut self, query: &Query) -> Result<Self, AdminError> {
        if let Some(after) = query.after {
            let Some(seq) = self.index("seq") else {
                return Err(AdminError::new(Code::BadArgument, "after: only events are numbered"));
            };
            self.rows.retain(|row| matches!(row[seq], Cell::Integer(n) if n > after));
        }
        if let Some(order) = &query.order {
            let Some(by) = self.index(order) else {
                let names: Vec<_> = self.columns.iter().map(|c| c.name).collect();
                return Err(AdminError::new(
                    Code::BadArgument,
                    format!(
                        "order: there is no column \"{order}\"; there are: {}",
                        names.join(", ")
                    ),
                ));
            };
            self.rows.sort_by(|a, b| b[by].cmp(&a[by]));
        }
        if let Some(limit) = query.limit {
            // Of a log the end is what matters, and `after` means "go on from there".
            if self.index("seq").is_some() && query.after.is_none() && query.order.is_none() {
                self.rows.drain(..self.rows.len().saturating_sub(limit));
            } else {
                self.rows.truncate(limit);
            }
        }
        Ok(self)
    }

    /// For people: `width` columns of a terminal, or as wide as it gets.
    #[must_use]
    pub fn to_text(&self, width: Option<u16>) -> String {
        let mut out = comfy_table::Table::new();
        out.load_preset(comfy_table::presets::NOTHING);
        match width {
            Some(width) => {
                out.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            None => {
                out.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        out.set_header(self.columns.iter().map(|c| c.heading().to_uppercase()));
        for row in &self.rows {
            out.add_row(row.iter().map(Cell::to_text));
        }
        let last = self.columns.len().saturating_sub(1);
        for (i, column) in self.columns.iter().enumerate() {
            let Some(cells) = out.column_mut(i) else { continue };
            cells.set_padding((0, if i == last { 0 } else { 2 }));
            if matches!(column.kind, ColumnType::Integer | ColumnType::Float | ColumnType::Millis) {
                cells.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = out.trim_fmt();
        text.push('\n');
        text
    }

    /// The log, as the table of [`crate::View::Events`].
    #[must_use]
    pub fn events(log: &pointsman_events::EventLog, query: &Query) -> Self {
        use ColumnType::{Integer, Text, Time};
        let column = |name, kind| Column { name, kind };
        let mut table = Self::new(&[
            column("seq", Integer),
            column("time", Time),
            column("code", Text),
            column("subject", Text),
            column("text", Text),
        ]);
        for event in log.since(query.after.unwrap_or(0)) {
            table.push(vec![
                Cell::Integer(event.seq),
                Cell::Time(event.at),
                Cell::Text(event.code.to_owned()),
                Cell::Text(event.subject),
                Cell::Text(event.text),
            ]);
        }
        table
    }
}

/// A list of objects, keys in the order of the columns.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        struct Row<'a>(&'a [Column], &'a [Cell]);
        impl Serialize for Row<'_> {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                let mut map = s.serialize_map(Some(self.0.len()))?;
                for (column, cell) in self.0.iter().zip(self.1) {
                    map.serialize_entry(column.name, cell)?;
                }
                map.end()
            }
        }
        let mut list = s.serialize_seq(Some(self.rows.len()))?;
        for row in &self.rows {
            list.serialize_element(&Row(&self.columns, row))?;
        }
        list.end()
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => s.serialize_none(),
            Self::Text(t) => s.serialize_str(t),
            Self::Bool(b) => s.serialize_bool(*b),
            Self::Integer(n) => s.serialize_u64(*n),
            Self::Float(x) => s.serialize_f64(*x),
            // Whole microseconds: more digits are noise.
            Self::Millis(ms) => s.serialize_f64((ms * 1e3).round() / 1e3),
            Self::Time(t) => s.serialize_str(&rfc3339(*t)),
        }
    }
}

impl From<&str> for Cell {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}
impl From<std::sync::Arc<str>> for Cell {
    fn from(v: std::sync::Arc<str>) -> Self {
        Self::Text(v.as_ref().to_owned())
    }
}
impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}
macro_rules! cell_from {
    ($($t:ty => $make:expr, $kind:ident;)*) => {$(
        impl From<$t> for Cell {
            fn from(v: $t) -> Self { $make(v) }
        }
        impl CellType for $t { const KIND: ColumnType = ColumnType::$kind; }
    )*};
}

/// Which column type a Rust type becomes.
pub(crate) trait CellType {
    const KIND: ColumnType;
}
impl<T: CellType> CellType for Option<T> {
    const KIND: ColumnType = T::KIND;
}
cell_from! {
    String => Cell::Text, Text;
    bool => Cell::Bool, Bool;
    u64 => Cell::Integer, Integer;
    f64 => Cell::Float, Float;
    Duration => Cell::millis, Millis;
    SystemTime => Cell::Time, Time;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        // From `date -u -d @N`.
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn durations_fit_in_a_few_characters() {
        for (ms, want) in [
            (0.0, "0ms"),
            (0.25, "250us"),
            (1.54, "1.5ms"),
            (999.0, "999ms"),
            (1500.0, "1.5s"),
            (75_000.0, "1m15s"),
            (3_660_000.0, "1h01m"),
            (90_000_000.0, "1d01h"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(Cell::Millis(ms).to_text(), want);
        }
    }

    fn numbers() -> Table {
        let mut table = Table::new(&[
            Column { name: "seq", kind: ColumnType::Integer },
            Column { name: "wait_ms", kind: ColumnType::Millis },
        ]);
        for (seq, wait) in [(1, Some(5.0)), (2, None), (3, Some(7.0))] {
            table.push(vec![Cell::Integer(seq), wait.map_or(Cell::Null, Cell::Millis)]);
        }
        table
    }

    fn selected(query: Query) -> Vec<u64> {
        let seq = |row: &Vec<Cell>| match row[0] {
            Cell::Integer(n) => n,
            _ => 0,
        };
        numbers().select(&query).unwrap().rows.iter().map(seq).collect()
    }

    #[test]
    fn lists_are_ordered_and_cut() {
        let order = Some("wait_ms".to_owned());
        assert_eq!(selected(Query { order: order.clone(), ..Query::default() }), [3, 1, 2]);
        assert_eq!(selected(Query { order, limit: Some(1), ..Query::default() }), [3]);
        assert_eq!(selected(Query { limit: Some(2), ..Query::default() }), [2, 3], "the newest");
        let after = Some(1);
        assert_eq!(selected(Query { after, limit: Some(1), ..Query::default() }), [2], "the next");
        let query = Query { order: Some("x".to_owned()), ..Query::default() };
        assert_eq!(numbers().select(&query).unwrap_err().code, Code::BadArgument);
    }

    #[test]
    fn json_keeps_the_order_of_columns_and_knows_null() {
        assert_eq!(
            serde_json::to_string(&numbers()).unwrap(),
            r#"[{"seq":1,"wait_ms":5.0},{"seq":2,"wait_ms":null},{"seq":3,"wait_ms":7.0}]"#
        );
        assert_eq!(serde_json::to_string(&Cell::Float(f64::NAN)).unwrap(), "null");
    }
}
