//! The whole reference site: client, directors, web servers, proxies and databases, with real
//! programs in network namespaces. `cargo xtask site` is the same.

use anyhow::Result;
use pointsman_tests::{pointsman, reference};

#[test]
fn the_classic_proofs() -> Result<()> {
    if let Some(why) = reference::unable() {
        println!("skipped: {why}");
        return Ok(());
    }
    reference::walk(pointsman())
}
