//! A primary whose history was begun anew.

use super::*;

#[test]
fn a_replica_of_a_primary_that_began_anew_gets_reads_once_it_did_so_too() {
    let mut w = World::known(2);
    let reads = |w: &World| w.snapshot().servers[1].takes_reads;
    let had = w.machines[1].position;
    w.machines[0].position = 0;
    w.ticks(2);
    assert!(w.told("primary_reset"));
    assert!(!reads(&w), "{}", w.why(1));
    // It seems to have all that the primary has, as long as nobody notices.
    w.machines[0].position = 3;
    w.ticks(2);
    assert!(!reads(&w));
    // From here on it replicates, and lacks what was done before.
    w.machines[0].position = had + 2;
    w.ticks(2);
    assert!(!reads(&w));
    assert!(w.why(1).contains("begun anew"), "{}", w.why(1));
    let facts = w.topology.facts(w.now);
    assert!(facts.servers[1].distrusted.is_some() && facts.servers[0].distrusted.is_none());
    // It was reset, and got all again.
    w.machines[1].source = None;
    w.machines[1].position = 0;
    w.ticks(2);
    assert!(!reads(&w));
    w.machines[1].source = Some(0);
    w.ticks(2);
    assert!(reads(&w), "{}", w.why(1));
    // Seen by a write before the primary was looked at; the operator knows better.
    w.topology.distrust_replicas(w.now);
    w.ticks(2);
    assert!(!reads(&w));
    w.topology.set_admin(id_of(1), AdminState::Running);
    w.ticks(1);
    assert!(reads(&w), "{}", w.why(1));
}

#[test]
fn resetting_the_binary_logs_of_a_live_primary_does_not_depose_it() {
    let mut w = World::known(1);
    let generation = w.snapshot().generation;
    w.machines[0].position = 0;
    w.ticks(2);
    assert_eq!(w.primary(), Some(1));
    assert!(w.snapshot().generation > generation, "positions noted before mean nothing now");
    assert!(w.told("primary_reset"));
}
