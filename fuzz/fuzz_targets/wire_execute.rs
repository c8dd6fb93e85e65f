//! Any bytes as the execution of a prepared statement, and as a query with attributes: types that a
//! client sent are found again in what is sent to another server, and nothing else is changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman_wire::{BoundTypes, Layout, attributes, with_types};

fuzz_target!(|data: &[u8]| {
    let Some((&[how, params], payload)) = data.split_first_chunk::<2>() else { return };
    let named = how & 1 == 1;
    // Now and then more than fit into a byte.
    let params = u16::from(params) << if how & 2 == 2 { 3 } else { 0 };
    let layout = Layout { params, attributes: named };
    if let Ok(at) = attributes::text_at(payload) {
        assert!(at <= payload.len());
    }
    let own = BoundTypes::of(payload, layout);
    if let Some(types) = &own {
        assert_eq!(BoundTypes::in_place(payload, layout), Some(&*types.0));
        if !named {
            assert_eq!(types.0.len(), 2 * usize::from(params));
        }
        // Whoever sends them needs no others.
        assert_eq!(with_types(payload, layout, types), None);
    }
    // Types without names, as many as may be wanted.
    let count = if named { payload.len() } else { usize::from(params) };
    let each = if named { &[8, 0, 0][..] } else { &[8, 0] };
    let types = BoundTypes(each.repeat(count).into());
    if let Some(sent) = with_types(payload, layout, &types) {
        assert_eq!(own, None);
        assert_eq!(sent.len(), payload.len() + types.0.len());
        let alike = payload.iter().zip(&sent).take_while(|(a, b)| a == b).count();
        assert_eq!((payload[alike], sent[alike]), (0, 1));
        let found = BoundTypes::of(&sent, layout).expect("the types that were put in");
        assert!(types.0.starts_with(&found.0));
    }
});
