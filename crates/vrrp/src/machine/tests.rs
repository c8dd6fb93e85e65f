use super::*;
use crate::MULTICAST_V4;
use crate::packet::Auth;
use std::net::Ipv4Addr;

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 4, 88));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 4, 99));
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 4, 253));
const FROM_PEER: Received = Received { src: PEER, dst: IpAddr::V4(MULTICAST_V4), ttl: 255 };

fn ms(ms: u64) -> Time {
    Duration::from_millis(ms)
}

fn config(version: Version, priority: u8) -> RouterConfig {
    let mut config = RouterConfig::new(51, version, priority);
    config.addresses = vec![VIP];
    if version == Version::V2 {
        config.auth = Some(Auth::pass(b"1111"));
    }
    config
}

/// Started at time 0.
fn running(config: RouterConfig) -> Router {
    let mut router = Router::new(config, ms(0)).unwrap();
    router.handle_interface(true, Some(OURS), ms(0));
    actions(&mut router);
    router
}

/// Active since 3.7 s, all actions drained.
fn active(config: RouterConfig) -> Router {
    let mut router = running(config);
    router.handle_timeout(ms(3700));
    assert_eq!(router.state(), State::Active);
    actions(&mut router);
    router
}

fn actions(router: &mut Router) -> Vec<Action> {
    std::iter::from_fn(|| router.poll_action()).collect()
}

/// What the peer would send.
fn advert_of(config: &RouterConfig, priority: u8) -> Vec<u8> {
    let mut peer = Router::new(config.clone(), ms(0)).unwrap();
    peer.handle_interface(true, Some(PEER), ms(0));
    let mut out = Vec::new();
    peer.encode_advert(priority, IpAddr::V4(MULTICAST_V4), &mut out);
    out
}

fn hear(router: &mut Router, priority: u8, at: Time) {
    let bytes = advert_of(&router.config().clone(), priority);
    router.handle_advert(&bytes, FROM_PEER, at).unwrap();
}

#[test]
fn a_start_is_as_backup_even_with_the_highest_ordinary_priority() {
    let mut router = Router::new(config(Version::V2, 254), ms(0)).unwrap();
    assert_eq!(router.poll_timeout(), None);
    router.handle_interface(true, Some(OURS), ms(0));
    assert_eq!(
        actions(&mut router),
        [Action::Transition {
            from: State::Initialize,
            to: State::Backup,
            reason: Reason::Started
        }]
    );
    // 3 s and a skew of 2/256 s.
    assert_eq!(router.poll_timeout(), Some(ms(3000) + Duration::from_secs(2) / 256));
}

#[test]
fn the_owner_is_active_at_once_and_listens_to_nobody() {
    let mut router = Router::new(config(Version::V3, 255), ms(0)).unwrap();
    router.handle_interface(true, Some(OURS), ms(0));
    assert_eq!(router.state(), State::Active);
    let bytes = advert_of(&config(Version::V3, 255), 255);
    assert_eq!(router.handle_advert(&bytes, FROM_PEER, ms(10)), Err(DropReason::Owner));
}

#[test]
fn becoming_active_adds_addresses_then_advertises_then_announces() {
    let mut router = running(config(Version::V2, 100));
    router.handle_timeout(ms(3700));
    assert_eq!(
        actions(&mut router),
        [
            Action::AddAddresses,
            Action::SendAdvert { priority: 100 },
            Action::Announce { repeat: 5 },
            Action::Transition {
                from: State::Backup,
                to: State::Active,
                reason: Reason::HeardNobody
            },
        ]
    );
    for second in 1..=5 {
        router.handle_timeout(ms(3700 + second * 1000));
    }
    let announced =
        actions(&mut router).iter().filter(|a| matches!(a, Action::Announce { .. })).count();
    assert_eq!(announced, 1, "once more after five seconds");
}

#[test]
fn skew_is_finer_than_seconds() {
    let a = running(config(Version::V2, 100)).poll_timeout().unwrap();
    let b = running(config(Version::V2, 101)).poll_timeout().unwrap();
    assert_eq!(a - b, Duration::from_secs(1) / 256);
}

#[test]
fn version_3_learns_the_active_routers_interval() {
    let mut router = running(config(Version::V3, 100));
    let mut fast = config(Version::V3, 150);
    fast.advert_interval = ms(100);
    router.handle_advert(&advert_of(&fast, 150), FROM_PEER, ms(1000)).unwrap();
    let expected = ms(1000) + ms(300) + ms(100) * 156 / 256;
    assert_eq!(router.poll_timeout(), Some(expected));
}

#[test]
fn version_2_drops_another_interval_and_another_password() {
    let mut router = running(config(Version::V2, 100));
    let mut other = config(Version::V2, 150);
    other.advert_interval = ms(2000);
    assert_eq!(
        router.handle_advert(&advert_of(&other, 150), FROM_PEER, ms(1)),
        Err(DropReason::Interval(ms(2000)))
    );
    let mut other = config(Version::V2, 150);
    other.auth = Some(Auth::pass(b"1112"));
    assert_eq!(
        router.handle_advert(&advert_of(&other, 150), FROM_PEER, ms(1)),
        Err(DropReason::AuthMismatch)
    );
    other.auth = None;
    assert_eq!(
        router.handle_advert(&advert_of(&other, 150), FROM_PEER, ms(1)),
        Err(DropReason::AuthType(0))
    );
    let counters = router.counters();
    assert_eq!(
        (counters.interval_mismatches, counters.auth_mismatches, counters.auth_type_errors),
        (1, 1, 1)
    );
}

#[test]
fn packets_from_off_the_link_of_others_and_our_own_are_dropped() {
    let mut router = running(config(Version::V3, 100));
    let bytes = advert_of(&config(Version::V3, 150), 150);
    let far = Received { ttl: 254, ..FROM_PEER };
    assert_eq!(router.handle_advert(&bytes, far, ms(1)), Err(DropReason::Ttl(254)));
    let own = Received { src: OURS, ..FROM_PEER };
    assert_eq!(router.handle_advert(&bytes, own, ms(1)), Err(DropReason::Own));
    let mut other = config(Version::V3, 150);
    other.vrid = 52;
    assert_eq!(
        router.handle_advert(&advert_of(&other, 150), FROM_PEER, ms(1)),
        Err(DropReason::Vrid(52))
    );
    let mut unicast = config(Version::V3, 100);
    unicast.unicast_peers = vec![IpAddr::from([192, 168, 4, 77])];
    let mut router = running(unicast);
    assert_eq!(router.handle_advert(&bytes, FROM_PEER, ms(1)), Err(DropReason::UnknownPeer));
}

#[test]
fn other_addresses_are_counted_and_said_once_but_not_dropped() {
    let mut router = running(config(Version::V3, 100));
    let mut other = config(Version::V3, 150);
    other.addresses = vec![IpAddr::from([192, 168, 4, 252])];
    for t in 0..3 {
        router.handle_advert(&advert_of(&other, 150), FROM_PEER, ms(1000 * t)).unwrap();
    }
    assert_eq!(actions(&mut router), [Action::AddressesDiffer { src: PEER }]);
    assert_eq!(router.counters().address_list_mismatches, 3);
}

#[test]
fn both_checksum_forms_are_taken_and_the_peers_is_learned() {
    let mut router = active(config(Version::V3, 100));
    let mut rfc = config(Version::V3, 50);
    rfc.checksum_form = Some(ChecksumForm::MessageOnly);
    router.handle_advert(&advert_of(&rfc, 50), FROM_PEER, ms(3800)).unwrap();
    let mut out = Vec::new();
    router.encode_advert(100, IpAddr::V4(MULTICAST_V4), &mut out);
    let sent = Advert::parse(&out, OURS, IpAddr::V4(MULTICAST_V4)).unwrap();
    assert_eq!(sent.checksum_form, Some(ChecksumForm::MessageOnly));
    assert_eq!(router.counters().checksum_form_mismatches, 1);
}

#[test]
fn a_superior_sends_us_back_and_is_told_that_it_had_company() {
    let mut router = active(config(Version::V2, 100));
    hear(&mut router, 150, ms(3800));
    let reason = Reason::Superior { priority: 150, src: PEER };
    assert_eq!(
        actions(&mut router),
        [
            // So that it announces the addresses again, as our neighbours know ours.
            Action::SendAdvert { priority: 100 },
            Action::RemoveAddresses,
            Action::Transition { from: State::Active, to: State::Backup, reason },
        ]
    );
    assert_eq!(router.state(), State::Backup);
    assert_eq!(router.active_router(), Some((PEER, 150)));
}

#[test]
fn of_equal_priorities_the_higher_address_stays() {
    let mut router = active(config(Version::V2, 100));
    hear(&mut router, 100, ms(3800));
    assert_eq!(router.state(), State::Backup, ".99 is above .88");

    let mut router = active(config(Version::V2, 100));
    router.handle_interface(true, Some(IpAddr::from([192, 168, 4, 200])), ms(3750));
    hear(&mut router, 100, ms(3900));
    assert_eq!(router.state(), State::Active);
}

#[test]
fn a_lower_one_is_answered_at_once_but_a_flood_is_not_answered_with_a_flood() {
    let mut router = active(config(Version::V2, 150));
    for t in 0..1000 {
        hear(&mut router, 100, ms(4000) + Duration::from_micros(t));
    }
    let sent = actions(&mut router);
    let adverts = sent.iter().filter(|a| matches!(a, Action::SendAdvert { .. })).count();
    assert_eq!(adverts, 1);
    assert!(sent.contains(&Action::Announce { repeat: 5 }), "traffic is drawn back");
    // It may have announced itself after that.
    router.handle_timeout(ms(4200));
    assert_eq!(actions(&mut router), [Action::Announce { repeat: 5 }]);
}

#[test]
fn of_two_that_become_active_at_once_the_one_that_stays_announces_itself_last() {
    let mut router = active(config(Version::V3, 150));
    hear(&mut router, 100, ms(3702));
    assert_eq!(actions(&mut router), [], "it has just advertised");
    assert_eq!(router.poll_timeout(), Some(ms(3902)));
    router.handle_timeout(ms(3902));
    assert_eq!(actions(&mut router), [Action::Announce { repeat: 5 }]);
    // What becoming active announces anyway still comes.
    router.handle_timeout(ms(4700));
    router.handle_timeout(ms(5700));
    router.handle_timeout(ms(6700));
    router.handle_timeout(ms(7700));
    actions(&mut router);
    router.handle_timeout(ms(8700));
    assert!(actions(&mut router).contains(&Action::Announce { repeat: 5 }));
}

#[test]
fn priority_zero_shortens_the_wait_to_the_skew_and_repeats_do_not_lengthen_it() {
    let mut router = running(config(Version::V2, 100));
    hear(&mut router, 150, ms(1000));
    hear(&mut router, 0, ms(1100));
    let expected = ms(1100) + Duration::from_secs(1) * 156 / 256;
    assert_eq!(router.poll_timeout(), Some(expected));
    hear(&mut router, 0, ms(1200));
    assert_eq!(router.poll_timeout(), Some(expected));
    router.handle_timeout(expected);
    assert_eq!(router.state(), State::Active);
}

#[test]
fn an_active_router_answers_priority_zero_at_once() {
    let mut router = active(config(Version::V2, 100));
    hear(&mut router, 0, ms(3701));
    assert_eq!(actions(&mut router), [Action::SendAdvert { priority: 100 }]);
}

#[test]
fn preempts_a_lower_one_by_letting_the_timer_run() {
    let mut router = running(config(Version::V2, 150));
    for t in 1..=3 {
        hear(&mut router, 100, ms(t * 1000));
    }
    router.handle_timeout(ms(3450));
    assert_eq!(router.state(), State::Active);
}

#[test]
fn nopreempt_leaves_a_lower_one_alone_but_takes_over_when_it_dies() {
    let mut nopreempt = config(Version::V2, 150);
    nopreempt.preempt = false;
    let mut router = running(nopreempt);
    for t in 1..=10 {
        hear(&mut router, 100, ms(t * 1000));
        router.handle_timeout(ms(t * 1000));
        assert_eq!(router.state(), State::Backup);
    }
    router.handle_timeout(ms(13_500));
    assert_eq!(router.state(), State::Active);
}

#[test]
fn preempt_delay_counts_from_the_first_lower_advert() {
    let mut delayed = config(Version::V2, 150);
    delayed.preempt_delay = ms(5000);
    let mut router = running(delayed);
    let mut active_at = None;
    for tick in 1..200 {
        let now = ms(tick * 100);
        router.handle_timeout(now);
        if router.state() == State::Active {
            active_at = Some(now);
            break;
        }
        if tick % 10 == 0 {
            hear(&mut router, 100, now);
        }
    }
    // First advert at 1 s; the last to set the timer back is that of 5 s; 3.41 s later it expires.
    assert_eq!(active_at, Some(ms(8500)));
}

#[test]
fn a_frozen_active_router_gives_up_before_it_sends_anything() {
    for first_input in ["timer", "packet"] {
        let mut router = active(config(Version::V2, 150));
        match first_input {
            "timer" => router.handle_timeout(ms(8700)),
            _ => hear(&mut router, 100, ms(8700)),
        }
        let done = actions(&mut router);
        assert_eq!(done[0], Action::RemoveAddresses, "{first_input}");
        assert!(!done.iter().any(|a| matches!(a, Action::SendAdvert { .. })), "{first_input}");
        assert_eq!(router.state(), State::Backup);
    }
}

#[test]
fn a_timer_a_little_late_changes_nothing() {
    let mut router = active(config(Version::V2, 150));
    router.handle_timeout(ms(3700 + 2900));
    assert_eq!(actions(&mut router), [Action::SendAdvert { priority: 150 }]);
    assert_eq!(router.state(), State::Active);
}

#[test]
fn a_frozen_backup_listens_once_more_before_it_takes_over() {
    let mut router = running(config(Version::V2, 100));
    hear(&mut router, 150, ms(1000));
    router.handle_timeout(ms(10_000));
    assert_eq!(router.state(), State::Backup);
    router.handle_timeout(ms(20_000));
    assert_eq!(router.state(), State::Active, "but not for ever");
}

#[test]
fn a_clock_set_back_does_not_stop_the_timers() {
    let mut router = active(config(Version::V2, 100));
    router.handle_timeout(ms(100));
    assert_eq!(router.poll_timeout(), Some(ms(1100)));
    router.handle_timeout(ms(1100));
    assert_eq!(actions(&mut router), [Action::SendAdvert { priority: 100 }]);
}

#[test]
fn a_planned_stop_keeps_the_addresses_until_the_peer_advertises() {
    let mut router = active(config(Version::V2, 150));
    router.handle_stop(ms(4000));
    assert_eq!(actions(&mut router)[0], Action::SendAdvert { priority: 0 });
    assert_eq!(router.state(), State::Leaving);
    hear(&mut router, 100, ms(4610));
    assert_eq!(actions(&mut router), []);
    router.handle_timeout(ms(4630));
    assert_eq!(actions(&mut router)[0], Action::RemoveAddresses);
    assert_eq!(router.state(), State::Stopped);
    assert_eq!(router.poll_timeout(), None);
}

#[test]
fn a_planned_stop_that_nobody_answers_says_it_again_and_ends_in_time() {
    let mut router = active(config(Version::V2, 150));
    router.handle_stop(ms(4000));
    actions(&mut router);
    router.handle_timeout(ms(5500));
    assert_eq!(actions(&mut router), [Action::SendAdvert { priority: 0 }]);
    router.handle_timeout(ms(7000));
    assert_eq!(
        actions(&mut router),
        [
            Action::RemoveAddresses,
            Action::Transition {
                from: State::Leaving,
                to: State::Stopped,
                reason: Reason::NobodyTookOver
            }
        ]
    );
}

#[test]
fn a_stop_without_hold_is_as_in_the_rfc() {
    let mut plain = config(Version::V2, 150);
    plain.stop_hold = Some(Duration::ZERO);
    let mut router = active(plain);
    router.handle_stop(ms(4000));
    assert_eq!(
        actions(&mut router)[..2],
        [Action::SendAdvert { priority: 0 }, Action::RemoveAddresses]
    );
    assert_eq!(router.state(), State::Stopped);
}

#[test]
fn a_link_that_goes_down_and_up_starts_over() {
    let mut router = active(config(Version::V2, 150));
    router.handle_interface(false, Some(OURS), ms(4000));
    assert_eq!(
        actions(&mut router),
        [
            Action::RemoveAddresses,
            Action::Transition {
                from: State::Active,
                to: State::Fault,
                reason: Reason::Fault(Fault::Interface)
            }
        ]
    );
    assert_eq!(router.poll_timeout(), None);
    router.handle_interface(true, Some(OURS), ms(9000));
    assert_eq!(router.state(), State::Backup);
}

#[test]
fn failed_tracking_says_priority_zero_so_that_the_peer_need_not_wait() {
    let mut router = active(config(Version::V2, 150));
    router.handle_tracking(0, true, ms(4000));
    let done = actions(&mut router);
    assert_eq!(done[..2], [Action::RemoveAddresses, Action::SendAdvert { priority: 0 }]);
    assert_eq!(router.state(), State::Fault);
    router.handle_tracking(0, false, ms(5000));
    assert_eq!(router.state(), State::Backup);
}

#[test]
fn weights_change_the_advertised_priority_within_1_and_254() {
    let mut router = active(config(Version::V2, 150));
    router.handle_tracking(-60, false, ms(3800));
    assert_eq!(actions(&mut router), [Action::SendAdvert { priority: 90 }]);
    router.handle_tracking(-1000, false, ms(3900));
    assert_eq!(router.effective_priority(), 1);
    router.handle_tracking(1000, false, ms(4000));
    assert_eq!(router.effective_priority(), 254);
}

#[test]
fn the_guard_may_drop_the_addresses_only_after_a_backup_could_have_taken_over() {
    let router = active(config(Version::V2, 150));
    assert_eq!(router.active_until(), Some(ms(6700)));
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let refused = |change: fn(&mut RouterConfig), error| {
        let mut c = RouterConfig::new(51, Version::V3, 100);
        change(&mut c);
        assert_eq!(c.validate(), Err(error));
    };
    refused(|c| c.vrid = 0, ConfigError::Vrid);
    refused(|c| c.priority = 0, ConfigError::Priority);
    refused(|c| c.advert_interval = ms(5), ConfigError::Interval);
    refused(|c| c.advert_interval = ms(40_960), ConfigError::Interval);
    refused(|c| c.auth = Some(Auth::pass(b"x")), ConfigError::AuthInV3);
    refused(|c| c.addresses = vec![IpAddr::from([0u16; 8])], ConfigError::MixedFamilies);
    refused(|c| c.addresses = vec![VIP; 256], ConfigError::TooManyAddresses);
    refused(
        |c| {
            c.version = Version::V2;
            c.advert_interval = ms(100);
        },
        ConfigError::Interval,
    );
    refused(
        |c| {
            c.version = Version::V2;
            c.ipv6 = true;
        },
        ConfigError::V2OverIpv6,
    );
}
