//! COM_STMT_EXECUTE for a server that has not seen the parameters' types yet ("COM_STMT_EXECUTE").

use std::sync::Arc;

/// The types a client bound to a statement's parameters, as it sent them: two bytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundTypes(pub Arc<[u8]>);

/// Command byte, statement id, flags, iteration count.
const FIXED: usize = 1 + 4 + 1 + 4;

impl BoundTypes {
    /// The types in an execute command's payload for a statement of `params` parameters; `None` if
    /// it relies on those sent before.
    #[must_use]
    pub fn of(payload: &[u8], params: u16) -> Option<Self> {
        Some(Self(Self::in_place(payload, params)?.into()))
    }

    /// The same, where they stand.
    #[must_use]
    pub fn in_place(payload: &[u8], params: u16) -> Option<&[u8]> {
        let params = usize::from(params);
        let flag_at = FIXED + params.div_ceil(8);
        if params == 0 || *payload.get(flag_at)? != 1 {
            return None;
        }
        payload.get(flag_at + 1..flag_at + 1 + 2 * params)
    }
}

/// The payload with `types` put in where the client relied on those it had sent to another server;
/// `None` if it carries types itself or is too short to tell.
#[must_use]
pub fn with_types(payload: &[u8], params: u16, types: &BoundTypes) -> Option<Vec<u8>> {
    let flag_at = FIXED + usize::from(params).div_ceil(8);
    if params == 0 || *payload.get(flag_at)? != 0 {
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
        let mut first = vec![0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0b10, 1, 8, 0, 6, 0];
        first.extend_from_slice(&5u64.to_le_bytes());
        let types = BoundTypes::of(&first, 2).unwrap();
        let mut again = vec![0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0b10, 0];
        again.extend_from_slice(&5u64.to_le_bytes());
        assert_eq!(BoundTypes::of(&again, 2), None);
        assert_eq!(with_types(&again, 2, &types), Some(first.clone()));
        assert_eq!(with_types(&first, 2, &types), None);
        assert_eq!(with_types(&[0x17], 2, &types), None);
    }
}
