//! `[[vrrp]]`, `[[vrrp_sync_group]]`, and what both can track.

use std::time::Duration;

use pointsman_config::read::{Findings, Section};
use pointsman_config::{Problem, Secret};
use pointsman_vrrp::Version;

use super::super::model::{
    DirectorConfig, Notify, Script, SyncGroup, TrackFile, TrackProcess, TrackScript, Tracking,
    Vmac, VrrpInstance, Weight,
};
use super::words::{List, addresses, command, ips, routes, tracks, weight, word};

/// Names that may be tracked.
#[derive(Default)]
pub(super) struct Known {
    scripts: Vec<String>,
    processes: Vec<String>,
    files: Vec<String>,
}

impl Known {
    pub(super) fn of(config: &DirectorConfig) -> Self {
        Self {
            scripts: config.track_scripts.iter().map(|s| s.name.clone()).collect(),
            processes: config.track_processes.iter().map(|s| s.name.clone()).collect(),
            files: config.track_files.iter().map(|s| s.name.clone()).collect(),
        }
    }
}

fn tracking(found: &mut Findings, section: &mut Section<'_>, known: &Known) -> Tracking {
    Tracking {
        interfaces: tracks(found, section, "track_interface", None),
        scripts: tracks(found, section, "track_script", Some(&known.scripts)),
        files: tracks(found, section, "track_file", Some(&known.files)),
        processes: tracks(found, section, "track_process", Some(&known.processes)),
    }
}

fn notify(found: &mut Findings, section: &mut Section<'_>) -> Notify {
    Notify {
        master: command(found, section, "notify_master"),
        backup: command(found, section, "notify_backup"),
        fault: command(found, section, "notify_fault"),
        stop: command(found, section, "notify_stop"),
        any: command(found, section, "notify"),
    }
}

pub(super) fn instance(
    found: &mut Findings,
    mut section: Section<'_>,
    known: &Known,
) -> Option<VrrpInstance> {
    let span = section.span();
    let id = section.required::<u8>(found, "virtual_router_id", "51");
    let interface = section.required::<String>(found, "interface", "\"eth0\"");
    let default_name = id.as_ref().map_or_else(String::new, |id| format!("VI_{}", id.value));
    let mut v = VrrpInstance::new(section.or(found, "name", default_name));
    let states = [("MASTER", true), ("BACKUP", false)];
    v.state_master = word(found, &mut section, "state", v.state_master, &states);
    v.virtual_router_id = id.as_ref().map_or(0, |id| id.value);
    v.interface = interface.as_ref().map_or_else(String::new, |i| i.value.clone());
    v.priority = section.or(found, "priority", v.priority);
    v.advert_int = section.or(found, "advert_int", v.advert_int);
    v.auth_pass = section.at::<Secret>(found, "auth_pass").map(|s| s.value);
    v.virtual_ipaddress = addresses(found, &mut section, "virtual_ipaddress");
    v.virtual_ipaddress_excluded = addresses(found, &mut section, "virtual_ipaddress_excluded");
    v.virtual_routes = routes(found, &mut section, "virtual_routes");
    v.source = ips(found, &mut section, "unicast_src_ip").into_iter().next();
    v.source = ips(found, &mut section, "mcast_src_ip").into_iter().next().or(v.source);
    v.unicast_peer = ips(found, &mut section, "unicast_peer");
    v.unicast_ttl = section.or(found, "unicast_ttl", v.unicast_ttl);
    let default_ttl = if v.unicast_peer.is_empty() { 255 } else { 0 };
    v.min_ttl = section.or(found, "min_ttl", default_ttl);
    // Ours is version 3, unless a password asks for version 2.
    let default_version = if v.auth_pass.is_some() { 2u8 } else { 3 };
    v.version = match section.checked(found, "version", default_version, |n| match n {
        2 | 3 => Ok(()),
        _ => Err(Problem::new("VRRP has versions 2 and 3")),
    }) {
        2 => Version::V2,
        _ => Version::V3,
    };
    v.preempt = section.or(found, "preempt", true);
    v.preempt_delay = section.or(found, "preempt_delay", Duration::ZERO);
    v.down_timer_adverts = section.or(found, "down_timer_adverts", 3);
    v.checksum_without_pseudo_header = section.at(found, "v3_checksum_as_v2").map(|b| b.value);
    v.garp.repeat = section.or(found, "garp_master_repeat", v.garp.repeat);
    v.garp.lower_repeat = section.or(found, "garp_lower_prio_repeat", v.garp.repeat);
    v.garp.delay = section.or(found, "garp_master_delay", v.garp.delay);
    v.garp.refresh = section.or(found, "garp_master_refresh", v.garp.refresh);
    v.garp.refresh_repeat = section.or(found, "garp_master_refresh_repeat", v.garp.refresh_repeat);
    v.stop_hold = section.at(found, "stop_hold").map(|d| d.value);
    v.dont_track_primary = section.or(found, "dont_track_primary", false);
    v.use_vmac = vmac(found, &mut section);
    v.tracking = tracking(found, &mut section, known);
    v.notify = notify(found, &mut section);
    section.finish(found);
    id?;
    interface?;
    if v.interface.is_empty() || v.interface.len() > 15 {
        let message = format!("`{}` can't be an interface", v.interface);
        found.error(Problem::new(message).at(span));
        return None;
    }
    if let Err(error) = v.router_config().validate() {
        found.error(Problem::new(error.to_string()).at(span));
        return None;
    }
    Some(v)
}

fn vmac(found: &mut Findings, section: &mut Section<'_>) -> Option<Vmac> {
    let wanted = section.or(found, "use_vmac", false);
    let name = section.at::<String>(found, "vmac_name");
    let xmit_base = section.or(found, "vmac_xmit_base", false);
    if let Some(name) = name.as_ref().filter(|n| n.value.is_empty() || n.value.len() > 15) {
        let message = format!("`{}` can't be an interface", name.value);
        found.error(Problem::new(message).at(name.span.clone()));
    }
    wanted.then(|| Vmac { name: name.map(|n| n.value), xmit_base })
}

pub(super) fn sync_group(
    found: &mut Findings,
    mut section: Section<'_>,
    instances: &[String],
    known: &Known,
) -> Option<SyncGroup> {
    let name = section.required::<String>(found, "name", "\"VG_1\"");
    let members = section.required::<List>(found, "group", "[\"VI_1\", \"VI_2\"]");
    let tracking = tracking(found, &mut section, known);
    let notify = notify(found, &mut section);
    section.finish(found);
    let (name, members) = (name?, members?);
    for member in members.value.0.iter().filter(|m| !instances.contains(m)) {
        let message = format!("no [[vrrp]] is called `{member}`");
        found.error(Problem::new(message).at(members.span.clone()));
    }
    Some(SyncGroup { name: name.value, members: members.value.0, tracking, notify })
}

pub(super) fn track_script(found: &mut Findings, mut section: Section<'_>) -> Option<TrackScript> {
    let name = section.required::<String>(found, "name", "\"chk_nginx\"");
    let line = command(found, &mut section, "script");
    let span = section.span();
    let out = TrackScript {
        name: name.map(|n| n.value).unwrap_or_default(),
        script: line.clone().unwrap_or(Script { command: Vec::new(), user: None }),
        interval: section.checked(found, "interval", Duration::from_secs(1), |d| {
            if d.is_zero() { Err(Problem::new("`interval` must be above 0")) } else { Ok(()) }
        }),
        timeout: section.at(found, "timeout").map(|d| d.value),
        weight: weight(found, &mut section).unwrap_or_default(),
        rise: section.or(found, "rise", 1u32).max(1),
        fall: section.or(found, "fall", 1u32).max(1),
        init_fail: section.or(found, "init_fail", false),
    };
    section.finish(found);
    if line.is_none() {
        found.error(Problem::new("[[vrrp_script]] needs `script`").at(span));
        return None;
    }
    Some(out)
}

pub(super) fn track_process(
    found: &mut Findings,
    mut section: Section<'_>,
) -> Option<TrackProcess> {
    let name = section.required::<String>(found, "name", "\"nginx\"");
    let process = section.required::<String>(found, "process", "\"nginx\"");
    let out = TrackProcess {
        name: name.as_ref().map(|n| n.value.clone()).unwrap_or_default(),
        process: process.as_ref().map(|p| p.value.clone()).unwrap_or_default(),
        full_command: section.or(found, "full_command", false),
        quorum: section.or(found, "quorum", 1u32).max(1),
        weight: weight(found, &mut section).unwrap_or_default(),
        delay: section.or(found, "delay", Duration::ZERO),
    };
    section.finish(found);
    name.and(process).map(|_| out)
}

pub(super) fn track_file(found: &mut Findings, mut section: Section<'_>) -> Option<TrackFile> {
    let name = section.required::<String>(found, "name", "\"drain\"");
    let file = section.required::<String>(found, "file", "\"/etc/drain\"");
    let out = TrackFile {
        name: name.as_ref().map(|n| n.value.clone()).unwrap_or_default(),
        file: file.as_ref().map(|f| f.value.clone()).unwrap_or_default(),
        weight: weight(found, &mut section).unwrap_or(Weight { value: 1, reverse: false }),
    };
    section.finish(found);
    name.and(file).map(|_| out)
}
