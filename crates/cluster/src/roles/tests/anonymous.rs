//! Transactions without GTIDs.

use super::*;

impl World {
    fn set_mode(&mut self, mode: &'static str) {
        self.machines.iter_mut().for_each(|machine| machine.gtid_mode = mode);
    }

    fn anonymous(&self) -> bool {
        assert_eq!(self.topology.facts(self.now).anonymous, self.snapshot().anonymous);
        self.snapshot().anonymous
    }
}

#[test]
fn a_primary_that_gives_none_is_told_and_believed_until_it_has_given_one() {
    for mode in ["OFF", "OFF_PERMISSIVE"] {
        let mut w = World::new(2);
        w.set_mode("ON");
        w.ticks(2);
        assert!(!w.anonymous() && !w.told("gtids_missing"));
        w.set_mode(mode);
        w.look(0);
        assert!(w.anonymous() && w.told("gtids_missing") && !w.told("gtids_back"));
        assert!(w.why(0).contains(&format!("no GTIDs (gtid_mode = {mode})")), "{}", w.why(0));
        // By what the replica says itself: its position says nothing.
        assert_eq!(w.snapshot().servers[1].lag, Some(Duration::ZERO));
        w.machines[1].sql = false;
        w.look(1);
        assert_eq!(w.snapshot().servers[1].lag, None);
        w.machines[1].sql = true;
        w.set_mode("ON_PERMISSIVE");
        w.ticks(3);
        assert!(w.anonymous() && !w.told("gtids_back"));
        assert!(w.why(0).contains("until the next write"), "{}", w.why(0));
        w.machines[0].position += 1;
        w.ticks(1);
        assert!(!w.anonymous() && w.told("gtids_back"));
        assert_eq!(w.why(0), "writable, and replicates from nobody");
    }
}

/// A replica that asks by GTID is sent nothing without one, and goes on behind it.
#[test]
fn only_who_replicates_by_file_has_them_for_sure() {
    let mut w = World::new(4);
    w.machines[1].auto_position = false;
    w.machines[2].auto_position = false;
    w.ticks(1);
    w.set_mode("OFF");
    w.ticks(1);
    w.machines[2].sql = false;
    w.set_mode("ON_PERMISSIVE");
    w.ticks(2);
    w.machines[0].position = 8;
    w.ticks(2);
    assert!(!w.anonymous());
    let reads = |w: &World| w.snapshot().servers.iter().map(|s| s.takes_reads).collect::<Vec<_>>();
    assert_eq!(reads(&w), [false, true, false, false]);
    assert!(w.why(2).contains("not applied yet all that its primary wrote"), "{}", w.why(2));
    assert!(w.why(3).contains("may lack what its primary wrote without GTIDs"), "{}", w.why(3));
    let facts = w.topology.facts(w.now);
    let distrusted: Vec<_> = facts.servers.iter().map(|s| s.distrusted.is_some()).collect();
    assert_eq!(distrusted, [false, false, true, true]);
    w.machines[2].sql = true;
    w.ticks(2);
    assert_eq!(reads(&w), [false, true, true, false]);
    // Somebody knows better.
    w.topology.set_admin(id_of(3), AdminState::Running);
    w.evaluate();
    assert_eq!(reads(&w), [false, true, true, true]);
}

/// Whoever changes over before it has all is not sent the rest.
#[test]
fn what_is_not_seen_is_not_forgotten() {
    let mut w = World::new(4);
    w.set_mode("OFF");
    (1..3).for_each(|i| w.machines[i].auto_position = false);
    // By way of another.
    w.machines[2].source = Some(1);
    w.ticks(1);
    (1..3).for_each(|i| w.machines[i].sql = false);
    w.set_mode("ON_PERMISSIVE");
    w.ticks(2);
    w.machines[0].position = 8;
    w.ticks(1);
    let why = |w: &World, i: usize| w.why(i).to_owned();
    assert!(why(&w, 1).contains("not applied yet") && why(&w, 2).contains("not applied yet"));
    w.machines[1].auto_position = true;
    (1..3).for_each(|i| w.machines[i].sql = true);
    w.ticks(3);
    let unseen = |w: &World, i: usize| why(w, i).contains("may lack what its primary wrote");
    assert!(unseen(&w, 1) && !unseen(&w, 2) && unseen(&w, 3));
    assert!(!w.snapshot().servers[1].takes_reads && w.snapshot().servers[2].takes_reads);
    // A new history does not bring it either.
    w.topology.distrust_replicas(w.now);
    w.ticks(2);
    assert!(unseen(&w, 1) && !unseen(&w, 2) && unseen(&w, 3));
}

/// It is told by a write, and the last look said otherwise.
#[test]
fn a_look_from_before_does_not_count() {
    let mut w = World::new(2);
    w.set_mode("ON");
    w.machines[1].auto_position = false;
    w.ticks(2);
    // This one is under way meanwhile.
    w.machines[0].position = 8;
    let (asked, late) = (w.now, w.see(0));
    w.pass(5);
    w.topology.lacks_gtids(id_of(0), w.now);
    w.evaluate();
    assert!(w.anonymous() && w.why(0).contains("no GTIDs (gtid_mode = OFF_PERMISSIVE)"));
    w.pass(5);
    w.deliver(0, asked, late);
    assert!(w.anonymous() && w.why(0).contains("no GTIDs (gtid_mode = OFF_PERMISSIVE)"));
    // It is on again when the next look comes.
    w.pass(5);
    w.ticks(2);
    assert!(w.anonymous() && w.why(0).contains("until the next write"), "{}", w.why(0));
    w.machines[0].position = 9;
    w.ticks(2);
    assert!(!w.anonymous() && w.snapshot().servers[1].takes_reads, "{}", w.why(1));
}

/// Replicas say nothing of lag while their source is away.
#[test]
fn replicas_of_a_dead_one_serve_on_what_they_have() {
    let mut w = World::new(2);
    w.set_mode("OFF");
    w.ticks(2);
    w.machines[0].up = false;
    w.ticks(20);
    assert_eq!(w.roles(), "down replica");
    assert!(w.snapshot().servers[1].takes_reads, "{}", w.why(1));
    assert!(w.anonymous());
}

#[test]
fn at_the_first_look_too() {
    let mut w = World::new(2);
    w.set_mode("OFF");
    w.machines.iter_mut().for_each(|machine| machine.position = 0);
    w.look_all();
    assert!(w.anonymous() && w.told("gtids_missing"));
    // One that is alone needs none.
    let mut w = World::new(1);
    w.set_mode("OFF");
    w.look_all();
    assert!(!w.anonymous());
    assert_eq!(w.why(0), "writable, and replicates from nobody");
}

/// What the last primary wrote without, others may lack as well.
#[test]
fn the_next_primary_has_to_give_one_itself() {
    let mut w = World::new(3);
    w.set_mode("OFF");
    w.ticks(1);
    w.set_mode("ON_PERMISSIVE");
    w.ticks(1);
    w.machines[0].up = false;
    let promoted = Machine { read_only: false, source: None, position: 8, ..w.machines[1].clone() };
    w.machines[1] = promoted;
    w.machines[2].source = Some(1);
    w.ticks(3);
    assert_eq!(w.primary(), Some(2));
    assert!(w.anonymous());
    w.machines[1].position = 9;
    w.ticks(1);
    assert!(!w.anonymous());
}

/// Their positions are equal, whatever they have.
#[test]
fn of_two_writable_servers_neither_is_known_to_have_all() {
    let mut w = World::new(2);
    w.set_mode("OFF_PERMISSIVE");
    w.machines[1].source = None;
    w.machines[1].read_only = false;
    w.ticks(2);
    assert_eq!(w.primary(), None);
    // Nor of two that take no writes.
    w.machines.iter_mut().for_each(|machine| machine.read_only = true);
    w.ticks(2);
    assert_eq!(w.topology.facts(w.now).rightful, None);
}
