//! Nanoseconds a packet, as a table:
//! `cargo test --release -p pointsman-director --test packet_cost -- --ignored --nocapture`
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

#[test]
#[ignore = "a measurement"]
fn what_a_packet_costs() {
    if !lab::able(&[]) {
        return;
    }
    let site = lab::Lab::new(&[88]);
    let costs = lab::in_namespace(site.namespace(88), pointsman_director::plane::cost::measure)
        .join()
        .unwrap()
        .unwrap();
    println!("{:<44} {:>4} {:>8}", "packet", "hook", "ns");
    for cost in &costs {
        println!("{:<44} {:>4} {:>8}", cost.what, cost.hook, cost.time.as_nanos());
    }
    assert!(costs.iter().all(|c| c.time.as_micros() < 100));
}
