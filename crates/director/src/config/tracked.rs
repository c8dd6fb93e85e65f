//! keepalived.conf: what virtual routers track.

use std::time::Duration;

use super::keepalived::{as_count, name_of, user};
use super::keywords as kw;
use super::model::{Script, Track, TrackFile, TrackProcess, TrackScript, Weight};
use super::reader::{Findings, Item, as_seconds, flag};

pub(super) fn tracks(found: &mut Findings, item: &Item<'_>, out: &mut Vec<Track>) {
    for line in item.block {
        let Some((name, rest)) = line.words.split_first() else { continue };
        let weight = match rest.split_first() {
            Some((w, args)) if w.text == "weight" => found.weight("weight", args),
            Some((other, _)) => {
                let message = format!("`{}` after a tracked name has no meaning", other.text);
                found.warn(&other.place, message, "");
                None
            }
            None => None,
        };
        out.push(Track { name: name.text.clone(), weight });
    }
}

pub(super) fn track_script(found: &mut Findings, item: &Item<'_>) -> Option<TrackScript> {
    let name = name_of(found, item)?;
    let title = format!("vrrp_script {name}");
    let mut script = None;
    let mut runner = None;
    let mut out = TrackScript {
        name,
        script: Script { command: Vec::new(), user: None },
        interval: Duration::from_secs(1),
        timeout: None,
        weight: Weight::default(),
        rise: 1,
        fall: 1,
        init_fail: false,
    };
    found.each(item.block, &title, kw::SCRIPT, |found, item| match item.keyword {
        "script" => script = found.whole_line_script(&item),
        "interval" => found.seconds(&mut out.interval, &item),
        "timeout" => {
            found.set(&mut out.timeout, &item, "a time in seconds", |t| as_seconds(t).map(Some));
        }
        "weight" => out.weight = found.weight("weight", item.args).unwrap_or_default(),
        "rise" => found.set(&mut out.rise, &item, "a number", as_count),
        "fall" => found.set(&mut out.fall, &item, "a number", as_count),
        "user" => runner = user(item.args),
        _ => out.init_fail = flag(&item),
    });
    let Some(script) = script else {
        found.warn(&item.args[0].place, format!("{title} has no script: ignored"), "");
        return None;
    };
    out.script = found.settle(Script { user: runner, ..script }, &item.args[0].place)?;
    if out.interval.is_zero() {
        found.warn(&item.args[0].place, format!("{title}: an interval of 0 is taken as 1 s"), "");
        out.interval = Duration::from_secs(1);
    }
    Some(out)
}

pub(super) fn track_process(found: &mut Findings, item: &Item<'_>) -> Option<TrackProcess> {
    let name = name_of(found, item)?;
    let title = format!("vrrp_track_process {name}");
    let mut out = TrackProcess {
        name,
        process: String::new(),
        full_command: false,
        quorum: 1,
        weight: Weight::default(),
        delay: Duration::ZERO,
    };
    found.each(item.block, &title, kw::PROCESS, |found, item| match item.keyword {
        "process" => {
            let words: Vec<_> = item.args.iter().map(|w| w.text.as_str()).collect();
            out.process = words.join(" ");
        }
        "weight" => out.weight = found.weight("weight", item.args).unwrap_or_default(),
        "quorum" => found.set(&mut out.quorum, &item, "a number", as_count),
        "delay" | "fork_delay" | "terminate_delay" => found.seconds(&mut out.delay, &item),
        _ => out.full_command = flag(&item),
    });
    if out.process.is_empty() {
        found.warn(&item.args[0].place, format!("{title} names no process: ignored"), "");
        return None;
    }
    Some(out)
}

pub(super) fn track_file(found: &mut Findings, item: &Item<'_>) -> Option<TrackFile> {
    let name = name_of(found, item)?;
    let title = format!("{} {name}", item.keyword);
    let mut out =
        TrackFile { name, file: String::new(), weight: Weight { value: 1, reverse: false } };
    found.each(item.block, &title, kw::FILE, |found, item| match item.keyword {
        "file" => out.file = item.args.first().map(|w| w.text.clone()).unwrap_or_default(),
        _ => out.weight = found.weight("weight", item.args).unwrap_or_default(),
    });
    if out.file.is_empty() {
        found.warn(&item.args[0].place, format!("{title} names no file: ignored"), "");
        return None;
    }
    Some(out)
}
