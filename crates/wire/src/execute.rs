//! COM_STMT_EXECUTE for a server that has not seen the parameters' types yet ("COM_STMT_EXECUTE").

use std::sync::Arc;

use crate::{Malformed, Reader, attributes};

/// The types a client bound to a statement's parameters, as it sent them: two bytes each; with query
/// attributes agreed on, each followed by a name (and those of the attributes behind them).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundTypes(pub Arc<[u8]>);

/// How an execute command of a client is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The statement's parameters.
    pub params: u16,
    /// `CLIENT_QUERY_ATTRIBUTES` was agreed on.
    pub attributes: bool,
}

/// Command byte, statement id, flags, iteration count.
const FIXED: usize = 1 + 4 + 1 + 4;
/// Flag: a parameter count follows, even if the statement has no parameters.
const PARAMETER_COUNT_AVAILABLE: u8 = 8;

/// Where the flag stands that says whether types follow, and for how many parameters; `None` if
/// nothing follows the fixed part.
fn flag_at(payload: &[u8], layout: Layout) -> Result<Option<(usize, usize)>, Malformed> {
    let mut r = Reader::new(payload);
    let flags = r.take(FIXED)?[5];
    let counted = layout.attributes && flags & PARAMETER_COUNT_AVAILABLE != 0;
    if layout.params == 0 && !counted {
        return Ok(None);
    }
    let count = match (layout.attributes, counted) {
        (true, true) => attributes::count(&mut r)?,
        // Servers and their documentation do not agree on what that means.
        (true, false) => return Ok(None),
        (false, _) => usize::from(layout.params),
    };
    if count == 0 {
        return Ok(None);
    }
    r.take(count.div_ceil(8))?;
    Ok(Some((payload.len() - r.rest().len(), count)))
}

impl BoundTypes {
    /// The types in an execute command's payload; `None` if it relies on those sent before, or has
    /// none.
    #[must_use]
    pub fn of(payload: &[u8], layout: Layout) -> Option<Self> {
        Some(Self(Self::in_place(payload, layout)?.into()))
    }

    /// The same, where they stand.
    #[must_use]
    pub fn in_place(payload: &[u8], layout: Layout) -> Option<&[u8]> {
        let (flag_at, count) = flag_at(payload, layout).ok()??;
        if *payload.get(flag_at)? != 1 {
            return None;
        }
        let types = &payload[flag_at + 1..];
        if !layout.attributes {
            return types.get(..2 * count);
        }
        let mut r = Reader::new(types);
        for _ in 0..count {
            r.u16().ok()?;
            r.lenenc_bytes().ok()?;
        }
        Some(&types[..types.len() - r.rest().len()])
    }
}

/// The payload with `types` put in where the client relied on those it had sent to another server;
/// `None` if it carries types itself or is too short to tell.
#[must_use]
pub fn with_types(payload: &[u8], layout: Layout, types: &BoundTypes) -> Option<Vec<u8>> {
    let (flag_at, _) = flag_at(payload, layout).ok()??;
    if *payload.get(flag_at)? != 0 {
        return None;
    }
    let mut out = Vec::with_capacity(payload.len() + types.0.len());
    out.extend_from_slice(&payload[..flag_at]);
    out.push(1);
    out.extend_from_slice(&types.0);
    out.extend_from_slice(&payload[flag_at + 1..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_travel_to_another_server() {
        let layout = Layout { params: 2, attributes: false };
        let mut first = vec![0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0b10, 1, 8, 0, 6, 0];
        first.extend_from_slice(&5u64.to_le_bytes());
        let types = BoundTypes::of(&first, layout).unwrap();
        let mut again = vec![0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0b10, 0];
        again.extend_from_slice(&5u64.to_le_bytes());
        assert_eq!(BoundTypes::of(&again, layout), None);
        assert_eq!(with_types(&again, layout, &types), Some(first.clone()));
        assert_eq!(with_types(&first, layout, &types), None);
        assert_eq!(with_types(&[0x17], layout, &types), None);
    }

    #[test]
    fn names_travel_with_the_types() {
        let layout = Layout { params: 1, attributes: true };
        // One parameter without a name, and an attribute `k`.
        let head = [0x17, 1, 0, 0, 0, 8, 1, 0, 0, 0, 2, 0];
        let first = [&head[..], b"\x01\x08\0\0\xfd\0\x01k", &5u64.to_le_bytes(), b"\x01v"].concat();
        let types = BoundTypes::of(&first, layout).unwrap();
        assert_eq!(&*types.0, b"\x08\0\0\xfd\0\x01k");
        let again = [&head[..], b"\0", &6u64.to_le_bytes(), b"\x01w"].concat();
        let sent = with_types(&again, layout, &types).unwrap();
        assert_eq!(BoundTypes::of(&sent, layout), Some(types));
        let none = Layout { params: 0, attributes: true };
        assert_eq!(BoundTypes::of(&[0x17, 1, 0, 0, 0, 8, 1, 0, 0, 0, 0], none), None);
    }
}
