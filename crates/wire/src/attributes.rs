//! Query attributes (MySQL's `CLIENT_QUERY_ATTRIBUTES`): named values that come before a COM_QUERY's
//! text, and behind a COM_STMT_EXECUTE's parameters ("COM_QUERY", "COM_STMT_EXECUTE").

use crate::{Malformed, Reader};

/// Where the statement begins in the payload of a COM_QUERY that may carry attributes: behind the
/// command byte, their number, that of their sets, and themselves.
pub fn text_at(payload: &[u8]) -> Result<usize, Malformed> {
    let mut r = Reader::new(payload);
    r.u8()?;
    let count = count(&mut r)?;
    if r.lenenc()? != 1 {
        return Err(Malformed("more than one set of query attributes"));
    }
    if count > 0 {
        let nulls = r.take(count.div_ceil(8))?;
        if r.u8()? != 1 {
            return Err(Malformed("query attributes without types"));
        }
        let mut types = Vec::new();
        for _ in 0..count {
            types.push(r.u16()? as u8);
            r.lenenc_bytes()?;
        }
        for (i, kind) in types.into_iter().enumerate() {
            if nulls[i / 8] & 1 << (i % 8) == 0 {
                skip_value(&mut r, kind)?;
            }
        }
    }
    Ok(payload.len() - r.rest().len())
}

/// How many parameters and attributes follow; each takes three bytes at least.
pub(crate) fn count(r: &mut Reader<'_>) -> Result<usize, Malformed> {
    let count = r.lenenc()?;
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= r.rest().len())
        .ok_or(Malformed("more query attributes than bytes"))
}

/// A value in the binary protocol ("Binary Protocol Value").
fn skip_value(r: &mut Reader<'_>, kind: u8) -> Result<(), Malformed> {
    match kind {
        1 => r.take(1)?,
        2 | 13 => r.take(2)?,
        3 | 4 | 9 => r.take(4)?,
        5 | 8 => r.take(8)?,
        6 => &[],
        7 | 10 | 11 | 12 => {
            let len = usize::from(r.u8()?);
            r.take(len)?
        }
        0 | 15 | 16 | 242 | 245..=255 => r.lenenc_bytes()?,
        _ => return Err(Malformed("a query attribute of unknown type")),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(count: u8, rest: &[u8]) -> Vec<u8> {
        [&[3, count, 1], rest].concat()
    }

    #[test]
    fn the_text_stands_behind_the_attributes() {
        assert_eq!(text_at(&query(0, b"SELECT 1")), Ok(3));
        // NULL, 'ab' and 5: types and names first.
        let attributes = b"\x01\x01\x06\x00\x01n\xfd\x00\x01s\x08\x00\x00\x02ab\x05\0\0\0\0\0\0\0";
        let payload = query(3, &[&attributes[..], b"SELECT 1"].concat());
        assert_eq!(text_at(&payload).map(|at| &payload[at..]), Ok(&b"SELECT 1"[..]));
    }

    #[test]
    fn what_is_cut_short_or_says_too_much_is_malformed() {
        for payload in [
            &b"\x03"[..],
            b"\x03\x01\x01",
            b"\x03\x00\x02SELECT 1",
            b"\x03\xfe\xff\xff\xff\xff\xff\xff\xff\x7f\x01x",
        ] {
            assert!(text_at(payload).is_err(), "{payload:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(payload: Vec<u8>) {
            if let Ok(at) = text_at(&payload) {
                assert!(at <= payload.len());
            }
        }
    }
}
