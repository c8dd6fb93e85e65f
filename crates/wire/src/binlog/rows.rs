//! Row events, as far as needed to count rows and to read an integer of one: "Table_map_event" and
//! "Rows_event" (mysql.com, "Replication events"), "Rows_event_v1v2" (mariadb.com).

use crate::{Malformed, Reader};

/// The table that row events are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMap {
    /// What row events name it by.
    id: u64,
    pub schema: Vec<u8>,
    pub name: Vec<u8>,
    columns: Vec<Column>,
}

/// How a column's values are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// Of this many bytes, little-endian.
    Integer(u8),
    Fixed(usize),
    /// With its length in front, in so many bytes.
    Counted(u8),
}

/// What was done to the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Insert,
    Update,
    Delete,
}

/// A row event: what was done to rows of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows<'a> {
    pub change: Change,
    /// There is a field for more in it.
    extra: bool,
    body: &'a [u8],
}

/// What a row event holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Rows; an update counts once.
    pub rows: u64,
    /// Of the first row's columns, in their order, the integers that are there, as if none were
    /// negative.
    pub first: Vec<Option<u64>>,
}

impl TableMap {
    /// Reads the body of an event.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let id = six(&mut r)?;
        r.u16()?;
        let mut name = || {
            let len = usize::from(r.u8()?);
            let name = r.take(len)?.to_vec();
            r.u8().map(|_| name)
        };
        let (schema, name) = (name()?, name()?);
        let count = usize::try_from(r.lenenc()?).map_err(|_| Malformed("columns"))?;
        let types = r.take(count)?;
        let mut meta = Reader::new(r.lenenc_bytes()?);
        let columns = types.iter().map(|kind| Column::read(*kind, &mut meta));
        Ok(Self { id, schema, name, columns: columns.collect::<Result<_, _>>()? })
    }
}

impl Column {
    /// `meta`: what the event says of the columns that their types do not.
    fn read(kind: u8, meta: &mut Reader<'_>) -> Result<Self, Malformed> {
        let fraction = |digits: u8| usize::from(digits).div_ceil(2);
        Ok(match kind {
            // TINY, SHORT, INT24, LONG, LONGLONG, YEAR
            1 | 13 => Self::Integer(1),
            2 => Self::Integer(2),
            9 => Self::Integer(3),
            3 => Self::Integer(4),
            8 => Self::Integer(8),
            // NULL
            6 => Self::Fixed(0),
            // FLOAT, DOUBLE: their length
            4 | 5 => Self::Fixed(usize::from(meta.u8()?)),
            // DATE, NEWDATE, TIME, TIMESTAMP, DATETIME
            10 | 14 | 11 => Self::Fixed(3),
            7 => Self::Fixed(4),
            12 => Self::Fixed(8),
            // TIMESTAMP2, DATETIME2, TIME2: the digits of a second
            17 => Self::Fixed(4 + fraction(meta.u8()?)),
            18 => Self::Fixed(5 + fraction(meta.u8()?)),
            19 => Self::Fixed(3 + fraction(meta.u8()?)),
            // VARCHAR, VAR_STRING, MariaDB's compressed VARCHAR: the longest, in bytes
            15 | 253 | 141 => Self::Counted(if meta.u16()? > 255 { 2 } else { 1 }),
            // BIT: how many beyond whole bytes, and those
            16 => {
                let (bits, bytes) = (meta.u8()?, meta.u8()?);
                Self::Fixed((usize::from(bytes) * 8 + usize::from(bits)).div_ceil(8))
            }
            // NEWDECIMAL: digits in all, and behind the point
            246 => {
                let (all, behind) = (meta.u8()?, meta.u8()?);
                let before = all.checked_sub(behind).ok_or(Malformed("decimal"))?;
                let bytes =
                    |digits: u8| usize::from(digits / 9) * 4 + usize::from(digits % 9).div_ceil(2);
                Self::Fixed(bytes(before) + bytes(behind))
            }
            // STRING: its real type, and the longest, of which two bits are with the type
            254 => {
                let (real, len) = (meta.u8()?, meta.u8()?);
                match real {
                    // ENUM, SET
                    247 | 248 => Self::Fixed(usize::from(len)),
                    _ => {
                        let longest = usize::from(real & 0x30 ^ 0x30) << 4 | usize::from(len);
                        Self::Counted(if longest > 255 { 2 } else { 1 })
                    }
                }
            }
            // BLOB and TEXT, JSON, GEOMETRY, VECTOR, MariaDB's compressed BLOB
            252 | 245 | 255 | 242 | 140 => match meta.u8()? {
                bytes @ 1..=4 => Self::Counted(bytes),
                _ => return Err(Malformed("length of a blob's length")),
            },
            _ => return Err(Malformed("unknown type of a column")),
        })
    }

    fn take<'a>(self, r: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Integer(len) => r.take(len.into()),
            Self::Fixed(len) => r.take(len),
            Self::Counted(bytes) => {
                let len = little(r.take(bytes.into())?);
                r.take(usize::try_from(len).map_err(|_| Malformed("length"))?)
            }
        }
    }
}

impl<'a> Rows<'a> {
    /// Of an event of this type; `None`: it holds something else, or rows that are not laid out so.
    pub(super) fn of(kind: u8, body: &'a [u8]) -> Option<Self> {
        let change = match kind {
            23 | 30 => Change::Insert,
            24 | 31 => Change::Update,
            25 | 32 => Change::Delete,
            _ => return None,
        };
        Some(Self { change, extra: kind >= 30, body })
    }

    /// Counts the rows of `table`, and reads the first one's integers. The whole event must be there.
    ///
    /// # Errors
    /// It is not about this table, or not laid out as it says.
    pub fn count(&self, table: &TableMap) -> Result<Counted, Malformed> {
        let mut r = Reader::new(self.body);
        if six(&mut r)? != table.id {
            return Err(Malformed("rows of another table"));
        }
        r.u16()?;
        if self.extra {
            // Its length counts itself.
            let len = usize::from(r.u16()?).checked_sub(2).ok_or(Malformed("length"))?;
            r.take(len)?;
        }
        if r.lenenc()? != table.columns.len() as u64 {
            return Err(Malformed("another number of columns"));
        }
        let bitmap = table.columns.len().div_ceil(8);
        let first = r.take(bitmap)?;
        let second = if self.change == Change::Update { Some(r.take(bitmap)?) } else { None };
        let mut counted = Counted { rows: 0, first: vec![None; table.columns.len()] };
        while !r.is_empty() {
            let before = r.rest().len();
            for present in std::iter::once(first).chain(second) {
                image(&mut r, table, present, |at, integer| {
                    if counted.rows == 0 {
                        counted.first[at] = Some(integer);
                    }
                })?;
            }
            if r.rest().len() == before {
                return Err(Malformed("empty rows"));
            }
            counted.rows += 1;
        }
        Ok(counted)
    }
}

/// Reads one row, of the columns that are in it.
fn image(
    r: &mut Reader<'_>,
    table: &TableMap,
    present: &[u8],
    mut integer: impl FnMut(usize, u64),
) -> Result<(), Malformed> {
    let has = |bits: &[u8], i: usize| bits[i / 8] & 1 << (i % 8) != 0;
    let columns = table.columns.iter().enumerate().filter(|(i, _)| has(present, *i));
    let nulls = r.take(columns.clone().count().div_ceil(8))?;
    for (i, (at, column)) in columns.enumerate() {
        if has(nulls, i) {
            continue;
        }
        let value = column.take(r)?;
        if let Column::Integer(_) = column {
            integer(at, little(value));
        }
    }
    Ok(())
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn six(r: &mut Reader<'_>) -> Result<u64, Malformed> {
    r.take(6).map(little)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `app.t (id BIGINT, name VARCHAR(300), d DECIMAL(10, 2), at DATETIME(3), e ENUM, b BLOB)`.
    fn map() -> Vec<u8> {
        let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0];
        body.extend_from_slice(b"\x03app\0\x01t\0\x06");
        body.extend_from_slice(&[8, 15, 246, 18, 254, 252]);
        body.extend_from_slice(&[9, 44, 1, 10, 2, 3, 247, 1, 2]);
        body.push(0b11_1110);
        body
    }

    fn row(id: u64) -> Vec<u8> {
        let mut row = vec![0];
        row.extend_from_slice(&id.to_le_bytes());
        row.extend_from_slice(b"\x03\0abc");
        row.extend_from_slice(&[0; 5 + 7 + 1]);
        row.extend_from_slice(b"\x02\0xy");
        row
    }

    fn insert(rows: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 6, 0b11_1111];
        rows.iter().for_each(|row| body.extend_from_slice(row));
        body
    }

    #[test]
    fn rows_are_counted_and_the_first_ones_key_is_read() {
        let table = TableMap::parse(&map()).unwrap();
        assert_eq!((&*table.schema, &*table.name), (&b"app"[..], &b"t"[..]));
        let body = insert(&[row(70_000), row(70_001)]);
        let rows = Rows::of(30, &body).unwrap();
        let counted = rows.count(&table).unwrap();
        assert_eq!((counted.rows, counted.first[0], counted.first[1]), (2, Some(70_000), None));
        let cut = &body[..body.len() - 1];
        assert!(Rows::of(30, cut).unwrap().count(&table).is_err());
        let mut other = body.clone();
        other[0] = 8;
        assert!(Rows::of(30, &other).unwrap().count(&table).is_err());
    }

    #[test]
    fn an_update_counts_once_though_it_has_two_images() {
        let table = TableMap::parse(&map()).unwrap();
        // Before: the key alone; after: a NULL name alone.
        let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 6, 0b1, 0b10];
        for id in [5_u64, 6, 7] {
            body.push(0);
            body.extend_from_slice(&id.to_le_bytes());
            body.push(1);
        }
        let rows = Rows::of(31, &body).unwrap();
        assert_eq!(rows.count(&table).unwrap().rows, 3);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            kind in 23u8..33, columns: Vec<u8>, meta: Vec<u8>, rows: Vec<u8>, cut in 0usize..60,
        ) {
            let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0];
            body.extend_from_slice(b"\x03app\0\x01t\0");
            crate::put_lenenc(&mut body, columns.len() as u64);
            body.extend_from_slice(&columns);
            crate::put_lenenc_bytes(&mut body, &meta);
            let _ = TableMap::parse(&rows);
            let table = TableMap::parse(&body).or_else(|_| TableMap::parse(&map())).unwrap();
            let _ = TableMap::parse(&body[..cut.min(body.len())]);
            if let Some(event) = Rows::of(kind, &rows) {
                let _ = event.count(&table);
            }
            let mut event = insert(&[row(1)]);
            event.extend_from_slice(&rows);
            if let Some(event) = Rows::of(kind, &event) {
                let _ = event.count(&table);
            }
        }
    }
}
