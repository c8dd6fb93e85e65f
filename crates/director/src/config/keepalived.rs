//! keepalived.conf to [`DirectorConfig`]: the top level and everything about VRRP.

use std::net::IpAddr;
use std::time::Duration;

use pointsman_config::Secret;
use pointsman_vrrp::{AnnounceConfig, Version};

use super::keywords as kw;
use super::lexer::Place;
use super::model::{
    DirectorConfig, Notify, OnStop, PlaneChoice, SyncGroup, Tracking, User, VirtualAddress,
    VirtualRoute, Vmac, VrrpInstance,
};
use super::reader::{Findings, Item, as_ip, as_seconds, flag};
use super::tracked::{track_file, track_process, track_script, tracks};
use super::tree::{Statement, Stray, Word};
use super::{check, services};

/// What instances start from.
struct Defaults {
    version: Version,
    garp: AnnounceConfig,
    down_timer_adverts: u8,
    checksum_without_pseudo_header: Option<bool>,
    strict: bool,
}

pub(crate) fn read(
    statements: &[Statement],
    strays: Vec<Stray>,
    found: &mut Findings,
) -> DirectorConfig {
    for stray in strays {
        match stray {
            Stray::Close(place) => found.warn(&place, "`}` without `{`: ignored", ""),
            Stray::Open(place) => {
                found.warn(&place, "`{` without a keyword before it: block skipped", "");
            }
            Stray::Unclosed(place) => {
                found.error(&place, "this `{` is never closed", "is the file cut off? add `}`");
            }
            Stray::TooDeep(place) => found.warn(&place, "blocks nested too deep: skipped", ""),
        }
    }
    let mut config = DirectorConfig::default();
    let mut defaults = Defaults {
        version: Version::V2,
        garp: AnnounceConfig::default(),
        down_timer_adverts: 3,
        checksum_without_pseudo_header: None,
        strict: false,
    };
    // global_defs may stand after what it applies to.
    let mut later = Vec::new();
    found.each(statements, "the file", kw::TOP, |found, item| match item.keyword {
        "global_defs" => global(found, &item, &mut config, &mut defaults),
        _ => later.push(item),
    });
    found.scripts.user.clone_from(&config.global.script_user);
    found.scripts.secure = config.global.enable_script_security;
    let mut places = Vec::new();
    for item in &later {
        match item.keyword {
            "vrrp_instance" => {
                if let Some(instance) = instance(found, item, &defaults) {
                    config.vrrp.push(instance);
                    places.push(item.args[0].place.clone());
                }
            }
            "vrrp_sync_group" => config.sync_groups.extend(sync_group(found, item)),
            "vrrp_script" => config.track_scripts.extend(track_script(found, item)),
            "vrrp_track_process" => config.track_processes.extend(track_process(found, item)),
            "vrrp_track_file" | "track_file" => config.track_files.extend(track_file(found, item)),
            "virtual_server" => {
                config.virtual_servers.extend(services::virtual_server(found, item))
            }
            "virtual_server_group" => {
                config.server_groups.extend(services::server_group(found, item));
            }
            _ => {}
        }
    }
    check::references(found, &mut config, &later, &places);
    config
}

fn global(found: &mut Findings, item: &Item<'_>, config: &mut DirectorConfig, d: &mut Defaults) {
    let global = &mut config.global;
    found.each(item.block, "global_defs", kw::GLOBAL, |found, item| match item.keyword {
        "router_id" => global.router_id.clone_from(&item.args[0].text),
        "vrrp_version" => found.set(&mut d.version, &item, "2 or 3", as_version),
        "vrrp_garp_master_delay" => found.seconds(&mut d.garp.delay, &item),
        "vrrp_garp_master_repeat" => {
            found.set(&mut d.garp.repeat, &item, "a number from 0 to 255", as_number);
            d.garp.lower_repeat = d.garp.repeat;
        }
        "vrrp_garp_lower_prio_repeat" => {
            found.set(&mut d.garp.lower_repeat, &item, "a number from 0 to 255", as_number);
        }
        "vrrp_garp_master_refresh" => found.seconds(&mut d.garp.refresh, &item),
        "vrrp_garp_master_refresh_repeat" => {
            found.set(&mut d.garp.refresh_repeat, &item, "a number from 0 to 255", as_number);
        }
        "vrrp_down_timer_adverts" => {
            found.set(&mut d.down_timer_adverts, &item, "1 to 100", |t| {
                as_number(t).filter(|n| (1..=100).contains(n))
            });
        }
        "script_user" => global.script_user = user(item.args),
        "enable_script_security" => global.enable_script_security = flag(&item),
        "data_plane" => {
            found.set(&mut global.data_plane, &item, "auto, tc, xdp, xdp-generic or ipvs", |t| {
                PlaneChoice::ALL.iter().find(|(name, _)| *name == t).map(|(_, attach)| *attach)
            });
        }
        "lvs_flush" => global.lvs_flush = flag(&item),
        "lvs_flush_on_stop" | "lvs_flush_onstop" => {
            // With `VS` only its own: what happens anyway.
            let own = item.args.first().is_some_and(|w| w.text == "VS");
            global.lvs_on_stop = if own { OnStop::Remove } else { OnStop::Flush };
        }
        "lvs_on_stop" => {
            found.set(&mut global.lvs_on_stop, &item, "remove, keep or flush", |t| {
                OnStop::ALL.iter().find(|(name, _)| *name == t).map(|(_, on_stop)| *on_stop)
            });
        }
        "flow_sync" => global.flow_sync = Some(flag(&item)),
        "flow_sync_secret" => {
            global.flow_sync_secret = Some(Secret::new(item.args[0].text.clone()));
        }
        "vrrp_strict" => d.strict = flag(&item),
        "v3_checksum_as_v2" => d.checksum_without_pseudo_header = Some(flag(&item)),
        _ => {}
    });
}

fn instance(found: &mut Findings, item: &Item<'_>, d: &Defaults) -> Option<VrrpInstance> {
    let name = name_of(found, item)?;
    let title = format!("vrrp_instance {name}");
    let mut instance = VrrpInstance::new(name);
    instance.garp = d.garp;
    instance.down_timer_adverts = d.down_timer_adverts;
    instance.checksum_without_pseudo_header = d.checksum_without_pseudo_header;
    let mut strict = d.strict;
    let mut version = None;
    let mut xmit_base = false;
    let mut preempt_delay_at = None;
    let mut nopreempt_at = None;
    let mut password: Option<&Word> = None;
    found.each(item.block, &title, kw::INSTANCE, |found, item| match item.keyword {
        "state" => {
            found.set(&mut instance.state_master, &item, "MASTER or BACKUP", |t| match t {
                "MASTER" => Some(true),
                "BACKUP" => Some(false),
                _ => None,
            });
        }
        "interface" => instance.interface.clone_from(&item.args[0].text),
        "virtual_router_id" => {
            found.set(&mut instance.virtual_router_id, &item, "1 to 255", |t| {
                as_number(t).filter(|n| *n > 0)
            });
        }
        "priority" => {
            found.set(&mut instance.priority, &item, "1 to 255", |t| {
                as_number(t).filter(|n| *n > 0)
            });
        }
        "advert_int" => {
            found.set(&mut instance.advert_int, &item, "0.01 to 255 seconds", |t| {
                as_seconds(t).filter(|d| *d >= Duration::from_millis(10) && d.as_secs() <= 255)
            });
        }
        "version" => version = found.value(&item, "2 or 3", as_version),
        "authentication" => {
            found.each(item.block, "authentication", kw::AUTHENTICATION, |found, item| match item
                .keyword
            {
                "auth_pass" => password = item.args.first(),
                _ if item.args[0].text != "PASS" => found.warn(
                    &item.args[0].place,
                    format!("auth_type `{}` is not supported", item.args[0].text),
                    "use PASS on all routers; AH was never widely interoperable",
                ),
                _ => {}
            });
        }
        "virtual_ipaddress" => addresses(found, &item, &mut instance.virtual_ipaddress),
        "virtual_ipaddress_excluded" => {
            addresses(found, &item, &mut instance.virtual_ipaddress_excluded);
        }
        "unicast_src_ip" | "mcast_src_ip" => {
            found.set(&mut instance.source, &item, "an IP address", |t| as_ip(t).map(Some));
        }
        "unicast_peer" => peers(found, &item, &mut instance),
        "unicast_ttl" => found.set(&mut instance.unicast_ttl, &item, "0 to 255", as_number),
        "track_interface" => tracks(found, &item, &mut instance.tracking.interfaces),
        "track_script" => tracks(found, &item, &mut instance.tracking.scripts),
        "track_file" => tracks(found, &item, &mut instance.tracking.files),
        "track_process" => tracks(found, &item, &mut instance.tracking.processes),
        "nopreempt" => {
            instance.preempt = !flag(&item);
            nopreempt_at = Some(item.word.place.clone());
        }
        "preempt" => instance.preempt = flag(&item),
        "preempt_delay" => {
            found.set(&mut instance.preempt_delay, &item, "0 to 1000 seconds", |t| {
                as_seconds(t).filter(|d| d.as_secs() <= 1000)
            });
            preempt_delay_at = Some(item.word.place.clone());
        }
        "down_timer_adverts" => {
            found.set(&mut instance.down_timer_adverts, &item, "1 to 100", |t| {
                as_number(t).filter(|n| (1..=100).contains(n))
            });
        }
        "use_vmac" => {
            let name = item.args.first().map(|w| w.text.clone());
            instance.use_vmac = Some(Vmac { name, xmit_base });
        }
        "vmac_xmit_base" => {
            xmit_base = flag(&item);
            if let Some(vmac) = &mut instance.use_vmac {
                vmac.xmit_base = xmit_base;
            }
        }
        "virtual_routes" => routes(found, &item, &mut instance.virtual_routes),
        "dont_track_primary" => instance.dont_track_primary = flag(&item),
        "garp_master_delay" => found.seconds(&mut instance.garp.delay, &item),
        "garp_master_repeat" => {
            found.set(&mut instance.garp.repeat, &item, "a number from 0 to 255", as_number);
        }
        "garp_lower_prio_repeat" => {
            found.set(&mut instance.garp.lower_repeat, &item, "a number from 0 to 255", as_number);
        }
        "garp_master_refresh" => found.seconds(&mut instance.garp.refresh, &item),
        "garp_master_refresh_repeat" => {
            found.set(
                &mut instance.garp.refresh_repeat,
                &item,
                "a number from 0 to 255",
                as_number,
            );
        }
        "strict_mode" => strict = flag(&item),
        "v3_checksum_as_v2" => instance.checksum_without_pseudo_header = Some(flag(&item)),
        keyword if keyword.starts_with("notify") => notify(found, &item, &mut instance.notify),
        _ => {}
    });

    let here = &item.args[0].place;
    instance.version = version.unwrap_or(d.version);
    if instance.is_ipv6() {
        instance.version = Version::V3;
    }
    if let Some(password) = password {
        if instance.version == Version::V3 {
            found.warn(
                &password.place,
                "VRRP version 3 has no authentication: ignored",
                "remove it, or set `version 2`",
            );
        } else {
            if password.text.len() > 8 {
                found.warn(&password.place, "only the first 8 characters of auth_pass count", "");
            }
            instance.auth_pass = Some(Secret::new(password.text.clone()));
        }
    }
    if strict {
        found.warn(here, "vrrp_strict is not enforced", "the settings are used as written");
    }
    if instance.state_master
        && let Some(place) = nopreempt_at.filter(|_| !instance.preempt)
    {
        found.warn(&place, "nopreempt needs `state BACKUP`: as keepalived, `state` is ignored", "");
    }
    if let Some(place) = preempt_delay_at
        && !instance.preempt
    {
        found.warn(&place, "preempt_delay has no effect with nopreempt", "");
    }
    check::instance(found, here, &instance).then_some(instance)
}

fn peers(found: &mut Findings, item: &Item<'_>, instance: &mut VrrpInstance) {
    let mut lowest: Option<u8> = None;
    for line in item.block {
        let mut words = line.words.iter();
        while let Some(word) = words.next() {
            match word.text.as_str() {
                "min_ttl" => {
                    if let Some(ttl) = words
                        .next()
                        .and_then(|w| found.word(w, "min_ttl", "0 to 255", as_number::<u8>))
                    {
                        lowest = Some(lowest.map_or(ttl, |l| l.min(ttl)));
                    }
                }
                "max_ttl" => {
                    words.next();
                }
                _ => {
                    let peer = found.word(word, "unicast_peer", "an IP address", as_ip);
                    instance.unicast_peer.extend(peer);
                }
            }
        }
    }
    // keepalived checks the TTL of unicast adverts only where it is told to.
    instance.min_ttl = lowest.unwrap_or(0);
}

/// `ADDRESS[/PREFIX] [dev X] [label X] [brd X] [scope X] ...`, one per line or several.
fn addresses(found: &mut Findings, item: &Item<'_>, out: &mut Vec<VirtualAddress>) {
    for line in item.block {
        let mut words = line.words.iter().peekable();
        while let Some(word) = words.next() {
            let Some(mut address) = found.word(word, item.keyword, "ADDRESS[/PREFIX]", as_address)
            else {
                break;
            };
            while let Some(option) = words.next_if(|w| as_address(&w.text).is_none()) {
                let mut argument = || words.next();
                match option.text.as_str() {
                    "dev" => address.dev = argument().map(|w| w.text.clone()),
                    "label" => address.label = argument().map(|w| w.text.clone()),
                    "brd" | "broadcast" => {
                        if let Some(w) = argument().filter(|w| w.text != "-" && w.text != "+") {
                            address.broadcast = found.word(w, "brd", "an IP address", as_ip);
                        }
                    }
                    "scope" => {
                        if let Some(w) = argument() {
                            let scope = found.word(w, "scope", "a scope", as_scope);
                            address.scope = scope.unwrap_or_default();
                        }
                    }
                    "preferred_lft" | "peer" => {
                        argument();
                        found.warn(
                            &option.place,
                            format!("`{}` is not supported: ignored", option.text),
                            "",
                        );
                    }
                    "home" | "-nodad" | "nodad" | "mngtmpaddr" | "noprefixroute" | "autojoin"
                    | "no_track" | "use_vmac" | "track_group" => {
                        let message = format!("`{}` is not supported: ignored", option.text);
                        found.warn(&option.place, message, "");
                    }
                    other => {
                        let message = format!("unknown option `{other}` of an address: ignored");
                        found.warn(&option.place, message, "");
                    }
                }
            }
            out.push(address);
        }
    }
}

pub(crate) fn as_address(text: &str) -> Option<VirtualAddress> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv6() { 128 } else { 32 };
    let prefix = match prefix {
        Some(p) => p.parse().ok().filter(|p| *p <= longest)?,
        None => longest,
    };
    Some(VirtualAddress { address, prefix, dev: None, label: None, broadcast: None, scope: 0 })
}

/// `/etc/iproute2/rt_scopes`.
pub(crate) fn as_scope(text: &str) -> Option<u8> {
    match text {
        "global" => Some(0),
        "site" => Some(200),
        "link" => Some(253),
        "host" => Some(254),
        "nowhere" => Some(255),
        _ => text.parse().ok(),
    }
}

fn routes(found: &mut Findings, item: &Item<'_>, out: &mut Vec<VirtualRoute>) {
    for line in item.block {
        let Some(first) = line.words.first() else { continue };
        let words: Vec<&str> = line.words.iter().map(|w| w.text.as_str()).collect();
        match super::routes::parse(&words) {
            Ok(route) => out.push(route),
            // A route in another way than written might lead packets anywhere.
            Err(super::routes::Unknown(what)) => found.warn(
                &first.place,
                format!("this route can't be made ({what}): left out"),
                "known: [blackhole] DESTINATION via IP dev NAME src IP metric N table N",
            ),
        }
    }
}

fn notify(found: &mut Findings, item: &Item<'_>, notify: &mut Notify) {
    let target = match item.keyword {
        "notify_master" => &mut notify.master,
        "notify_backup" => &mut notify.backup,
        "notify_fault" => &mut notify.fault,
        "notify_stop" => &mut notify.stop,
        "notify" => &mut notify.any,
        _ => return,
    };
    *target = found.script(item);
}

fn sync_group(found: &mut Findings, item: &Item<'_>) -> Option<SyncGroup> {
    let name = name_of(found, item)?;
    let title = format!("vrrp_sync_group {name}");
    let mut group = SyncGroup {
        name,
        members: Vec::new(),
        tracking: Tracking::default(),
        notify: Notify::default(),
    };
    found.each(item.block, &title, kw::SYNC_GROUP, |found, item| match item.keyword {
        "group" => {
            // Old files write the first member behind the keyword.
            group.members.extend(item.args.iter().map(|w| w.text.clone()));
            let words = item.block.iter().flat_map(|s| &s.words);
            group.members.extend(words.map(|w| w.text.clone()));
        }
        "track_interface" => tracks(found, &item, &mut group.tracking.interfaces),
        "track_script" => tracks(found, &item, &mut group.tracking.scripts),
        "track_file" => tracks(found, &item, &mut group.tracking.files),
        "track_process" => tracks(found, &item, &mut group.tracking.processes),
        _ => notify(found, &item, &mut group.notify),
    });
    Some(group)
}

/// The name behind a block's keyword.
pub(super) fn name_of(found: &mut Findings, item: &Item<'_>) -> Option<String> {
    let Some(name) = item.args.first() else {
        found.warn(&item.word.place, format!("`{}` needs a name: ignored", item.keyword), "");
        return None;
    };
    Some(name.text.clone())
}

pub(super) fn user(args: &[Word]) -> Option<User> {
    let (name, rest) = args.split_first()?;
    Some(User { name: name.text.clone(), group: rest.first().map(|w| w.text.clone()) })
}

fn as_version(text: &str) -> Option<Version> {
    match text {
        "2" => Some(Version::V2),
        "3" => Some(Version::V3),
        _ => None,
    }
}

pub(crate) fn as_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// At least one.
pub(crate) fn as_count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n > 0)
}

/// Where a block's name stands.
pub(crate) fn place_of<'a>(item: &'a Item<'_>) -> &'a Place {
    item.args.first().map_or(&item.word.place, |w| &w.place)
}
