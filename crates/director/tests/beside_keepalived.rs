//! How long a client is without an answer when the active director goes, beside keepalived in the
//! same run: `cargo test -p pointsman-director --test beside_keepalived -- --ignored --nocapture`.
//! `ROUNDS` sets how many times each is done (8).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::time::{Duration, Instant};

use lab::{Lab, Prober, VIP, able, eventually};

const CLIENT: u8 = 254;
const HIGH: u8 = 88;
const LOW: u8 = 99;
/// Answers of the backup carry another TTL than the default.
const LOW_TTL: u8 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    PlannedStop,
    Kill9,
    LinkCut,
    SilentCut,
}

fn config(priority: u8, interval: &str) -> String {
    format!(
        "global_defs {{\n vrrp_version 3\n}}\nvrrp_instance VI_1 {{\n state BACKUP\n interface eth0\n\
         virtual_router_id 51\n priority {priority}\n advert_int {interval}\n\
         virtual_ipaddress {{\n {VIP}\n }}\n}}\n"
    )
}

/// Time without an answer, and whether the address was left behind where it was.
fn once(lab: &Lab, ours: bool, interval: &str, event: Event) -> (Duration, bool) {
    let start = |host, priority| {
        let text = config(priority, interval);
        if ours { lab.director(host, &text) } else { lab.keepalived(host, &text) }
    };
    let a = start(HIGH, 150);
    let b = start(LOW, 100);
    let settled =
        eventually(Duration::from_secs(10), || lab.holds(HIGH, VIP) && !lab.holds(LOW, VIP));
    assert!(settled, "{}{}", a.log(), b.log());
    let prober = Prober::start(lab, CLIENT, VIP, Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    match event {
        Event::PlannedStop => a.signal(libc::SIGTERM),
        // keepalived is a parent and its children: what kills one kills all.
        Event::Kill9 if ours => a.signal(libc::SIGKILL),
        Event::Kill9 => a.kill_tree(),
        Event::LinkCut => lab.link(HIGH, false),
        Event::SilentCut => lab.cut(HIGH, true),
    }
    eventually(Duration::from_secs(8), || lab.holds(LOW, VIP));
    std::thread::sleep(Duration::from_millis(200));
    let left_behind = event == Event::Kill9 && lab.holds(HIGH, VIP);
    let answers = prober.answers();
    let gap = if event == Event::Kill9 {
        // A dead director's address may still answer: what counts is when the other takes over.
        let taken = answers.iter().find(|x| x.at > began && x.ttl == LOW_TTL);
        taken.map_or(Duration::from_secs(9), |x| x.at - began)
    } else {
        let after =
            answers.iter().map(|x| x.at).filter(|at| *at + Duration::from_millis(50) > began);
        let times: Vec<Instant> = after.collect();
        times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(Duration::from_secs(9))
    };
    match event {
        Event::LinkCut => lab.link(HIGH, true),
        Event::SilentCut => lab.cut(HIGH, false),
        _ => {}
    }
    drop((a, b));
    for host in [HIGH, LOW] {
        lab.output(host, "ip", &["addr", "del", &format!("{VIP}/32"), "dev", "eth0"]);
    }
    (gap, left_behind)
}

#[test]
#[ignore = "minutes long; a measurement"]
fn times_without_an_answer() {
    if !able(&["keepalived"]) {
        return;
    }
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(8);
    let lab = Lab::new(&[CLIENT, HIGH, LOW]);
    lab.output(LOW, "sysctl", &["-q", "-w", &format!("net.ipv4.ip_default_ttl={LOW_TTL}")]);
    println!("medians of {rounds} in ms (min-max)");
    println!("{:<12} {:<8} {:>24} {:>24}", "event", "adverts", "keepalived", "pointsman");
    let mut worse = Vec::new();
    for event in [Event::PlannedStop, Event::Kill9, Event::LinkCut, Event::SilentCut] {
        for interval in ["1", "0.1", "0.01"] {
            let mut times = [Vec::new(), Vec::new()];
            let mut left = [0, 0];
            for _ in 0..rounds {
                // Turn about, so that a busy moment hits both.
                for (i, ours) in [false, true].into_iter().enumerate() {
                    let (gap, left_behind) = once(&lab, ours, interval, event);
                    times[i].push(gap.as_secs_f64() * 1e3);
                    left[i] += u32::from(left_behind);
                }
            }
            let median = |times: &mut Vec<f64>| {
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            };
            let shown: Vec<String> = times
                .iter_mut()
                .map(|t| format!("{:.0} ({:.0}-{:.0})", median(t), t[0], t[t.len() - 1]))
                .collect();
            let behind = if left[0] + left[1] > 0 {
                format!("  left behind: {} and {} of {rounds}", left[0], left[1])
            } else {
                String::new()
            };
            let event_name = format!("{event:?}");
            println!("{event_name:<12} {interval:<8} {:>24} {:>24}{behind}", shown[0], shown[1]);
            let (theirs, ours) = (median(&mut times[0]), median(&mut times[1]));
            if left[1] > 0 || (event == Event::PlannedStop && ours > theirs) {
                worse.push(format!("{event:?} at {interval} s"));
            }
        }
    }
    assert!(worse.is_empty(), "worse than keepalived: {worse:?}");
}
