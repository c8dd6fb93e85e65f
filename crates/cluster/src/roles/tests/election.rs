//! Who is the primary among several that might be.

use super::*;

#[test]
fn a_second_writable_server_does_not_take_the_place_of_a_primary_with_replicas() {
    let mut w = World::known(3);
    w.machines[2].source = None;
    w.machines[2].read_only = false;
    w.look_all();
    assert_eq!(w.roles(), "primary replica standalone");
    assert!(w.why(2).starts_with("writable but lacks") || w.why(2).contains("so is db1"));
    assert!(w.told("two_writable"));
    w.machines[2].position = 99;
    w.ticks(4);
    assert_eq!(w.primary(), Some(1));
    assert_eq!(w.why(2), "writable, but so is db1, which is the primary");
}

#[test]
fn two_writable_servers_without_replicas_are_no_primary() {
    let mut w = World::known(2);
    w.machines[1].source = None;
    w.machines[1].read_only = false;
    w.machines[1].position = 8;
    w.look_all();
    assert_eq!(w.roles(), "standalone standalone");
    assert_eq!(
        &*w.snapshot().no_primary_why,
        "db1 and db2 are writable at the same time; set read_only=1 on all but one"
    );
    w.machines[0].read_only = true;
    w.look_all();
    assert_eq!(w.primary(), Some(2));
}

#[test]
fn a_healthy_primary_is_never_called_one_of_two() {
    for first in 0..3 {
        let mut w = World::new(3);
        w.look(first);
        w.look_all();
        assert_eq!(w.primary(), Some(1));
        assert!(!w.told("two_writable"));
    }
}

#[test]
fn at_the_first_look_replicas_show_which_of_two_is_the_primary() {
    let mut w = World::new(3);
    w.machines[2] = Machine { read_only: false, source: None, ..w.machines[2].clone() };
    w.look_all();
    w.look_all();
    assert_eq!(w.roles(), "primary replica standalone");
}

#[test]
fn at_the_first_look_that_one_is_the_primary_which_has_all_the_others_have() {
    let two = |first: &'static str, second: &'static str| {
        let mut w = World::new(2);
        for (machine, state) in w.machines.iter_mut().zip([first, second]) {
            (machine.read_only, machine.source, machine.state) = (false, None, state);
        }
        w.look(0);
        assert_eq!(w.primary(), None, "db2 was not asked yet");
        w.ticks(2);
        w
    };
    let w = two("0-1-7", "0-1-7,0-2-9");
    assert_eq!(w.roles(), "standalone primary");
    assert_eq!(w.why(0), "kept out: writable, but db2 has all that it has");
    let w = two("0-1-7", "0-1-7");
    assert_eq!(w.roles(), "primary standalone");
    for (first, second) in [("0-1-8", "0-1-7,0-2-9"), ("", "")] {
        let w = two(first, second);
        assert_eq!(w.roles(), "standalone standalone");
        assert!(w.snapshot().no_primary_why.contains("are writable at the same time"));
    }
}

#[test]
fn whom_the_leading_proxy_takes_for_the_primary_is_the_primary() {
    // db1 was replaced, then db2, by db1 again, while this proxy saw nothing.
    let mut w = World::known(3);
    w.topology.depose(id_of(2), "it was the primary once");
    w.machines[0].up = false;
    w.machines[2] = Machine { source: None, read_only: false, ..w.machines[2].clone() };
    w.machines[1].source = Some(2);
    w.ticks(2);
    assert_eq!(w.roles(), "down standalone standalone");
    w.topology.follow(Some(3));
    w.ticks(2);
    assert_eq!(w.roles(), "down replica primary");
    // One that is not writable is none, and nobody else is.
    w.machines[2].read_only = true;
    w.machines[0].up = true;
    w.ticks(2);
    assert_eq!(w.primary(), None);
    assert_eq!(
        &*w.snapshot().no_primary_why,
        "db3 is the primary for the proxy that leads, and does not take writes"
    );
}

#[test]
fn a_server_that_was_kept_out_is_the_primary_once_its_successor_follows_it() {
    let mut w = World::known(3);
    w.machines[0].up = false;
    w.machines[1] = Machine { source: None, read_only: false, ..w.machines[1].clone() };
    w.ticks(2);
    w.topology.depose(id_of(0), "it was the primary until db2 took over from it");
    w.machines[0].up = true;
    w.ticks(2);
    assert_eq!(w.primary(), Some(2));
    w.machines[1] = Machine { source: Some(0), read_only: true, ..w.machines[1].clone() };
    w.ticks(2);
    assert_eq!(w.roles(), "primary replica replica");
}

#[test]
fn a_primary_that_was_overtaken_while_its_proxy_was_cut_off_is_none() {
    let mut w = World::known(2);
    w.topology.permit(Some("cut off".into()), |_| true, w.now);
    w.machines[1] = Machine { source: None, position: 9, ..w.machines[1].clone() };
    for _ in 0..3 {
        w.topology.permit(None, |_| true, w.now);
        w.look_all();
    }
    assert!(w.topology.forbidden().0.is_none());
    assert_eq!(w.primary(), None);
    assert!(w.why(0).contains("which may have been made the primary meanwhile"), "{}", w.why(0));
    w.topology.accept(id_of(0));
    w.ticks(2);
    assert_eq!(w.primary(), Some(1));
}

#[test]
fn a_promotion_is_followed() {
    let mut w = World::known(3);
    let generation = w.snapshot().generation;
    w.machines[0].up = false;
    w.ticks(2);
    assert_eq!(w.primary(), None);
    w.machines[1].source = None;
    w.machines[1].read_only = false;
    w.machines[2].source = Some(1);
    w.ticks(2);
    assert_eq!(w.roles(), "down primary replica");
    assert!(w.snapshot().generation > generation);
    assert!(w.told("primary_changed"));
    w.machines[1].position = 9;
    w.ticks(2);
    // The old one comes back as it was, writable: it is not asked.
    w.machines[0].up = true;
    w.machines[0].connection += 1;
    w.ticks(10);
    assert_eq!(w.roles(), "standalone primary replica");
    assert_eq!(w.primary(), Some(2));
    // And joins as a replica.
    w.machines[0].source = Some(1);
    w.machines[0].read_only = true;
    w.ticks(2);
    assert_eq!(w.roles(), "replica primary replica");
}

#[test]
fn a_promotion_of_two_servers_is_followed_and_the_old_primary_not_believed() {
    let mut w = World::known(2);
    w.machines[0].up = false;
    w.ticks(2);
    w.machines[1].source = None;
    w.machines[1].read_only = false;
    w.machines[1].position = 9;
    w.ticks(2);
    assert_eq!(w.roles(), "down primary");
    w.machines[0].up = true;
    w.machines[0].connection += 1;
    w.ticks(2);
    assert_eq!(w.roles(), "standalone primary");
    assert_eq!(
        w.why(0),
        "writable but lacks transactions that db2 had (it is at \"0-1-7\", db2 was at \"0-1-9\")"
    );
}

#[test]
fn a_promotion_that_loses_the_last_transactions_is_followed_and_reported() {
    let mut w = World::known(2);
    w.machines[0].position = 8;
    w.look(0);
    w.machines[0].up = false;
    w.ticks(2);
    w.machines[1].source = None;
    w.machines[1].read_only = false;
    w.ticks(2);
    assert_eq!(w.primary(), Some(2));
    assert!(w.told("transactions_lost"), "{:?}", w.events);
}

/// The process was restarted while a former primary that has transactions of its own is kept out.
#[test]
fn a_former_primary_does_not_stand_in_the_way_of_the_one_that_took_over() {
    for (servers, followed, written, read_only) in [
        (3, true, false, true),
        (3, true, false, false),
        (2, false, true, true),
        (2, false, false, true),
    ] {
        let mut w = World::new(servers);
        w.machines[0].position = 9;
        w.machines[0].own = true;
        w.machines[0].state = "0-1-9";
        w.machines[0].read_only = read_only;
        w.machines[1].source = None;
        w.machines[1].read_only = false;
        w.machines[1].state = if written { "0-1-7,0-2-8" } else { "0-1-7" };
        if followed {
            w.machines[2].source = Some(1);
        }
        w.look_all();
        w.ticks(2);
        let expected = (followed || written).then_some(2);
        assert_eq!(w.primary(), expected, "{}", w.why(1));
    }
}

/// All were started with a configuration that makes them read-only, or a change was broken off.
#[test]
fn who_has_all_is_the_primary_by_rights() {
    let read_only = |change: fn(&mut World)| {
        let mut w = World::new(3);
        w.machines[0].read_only = true;
        for machine in &mut w.machines {
            machine.state = "0-1-7";
        }
        change(&mut w);
        w.look_all();
        w.topology.facts(w.now).rightful
    };
    assert_eq!(read_only(|_| ()), Some(0));
    assert_eq!(read_only(|w| w.machines[2].up = false), None, "it may know better");
    assert_eq!(read_only(|w| w.machines[2].source = Some(8)), Some(0));
    assert_eq!(read_only(|w| w.machines[2].state = "0-1-7,0-3-8"), None);
    assert_eq!(read_only(|w| w.machines[2].position = 8), None, "not applied yet");
    assert_eq!(read_only(|w| w.machines.iter_mut().for_each(|m| m.state = "")), None);
    assert_eq!(read_only(|w| w.machines[1].read_only = false), Some(0), "it follows db1");
    // Killed before it opened the next primary, which follows nobody by now.
    let broken_off = |w: &mut World| {
        w.machines[1].source = None;
        w.machines[2].io = false;
    };
    assert_eq!(read_only(broken_off), Some(1));
    let with_more = |w: &mut World| {
        w.machines[1].source = None;
        w.machines[0].position = 9;
        w.machines[0].state = "0-1-9";
    };
    assert_eq!(read_only(with_more), Some(0));
    // One that was seen to take writes was made read-only by somebody.
    let mut w = World::known(3);
    w.machines[0].read_only = true;
    w.ticks(4);
    assert_eq!(w.topology.facts(w.now).rightful, None);
}
