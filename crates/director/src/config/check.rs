//! What is wrong with a configuration beyond single keywords.

use pointsman_vrrp::{ConfigError, Version};

use super::lexer::Place;
use super::model::{CheckKind, DirectorConfig, ServiceId, Tracking, VrrpInstance};
use super::reader::{Findings, Item};
use super::tree::Statement;

/// Whether the instance can run; errors are noted.
pub(crate) fn instance(found: &mut Findings, place: &Place, instance: &VrrpInstance) -> bool {
    let name = &instance.name;
    let mut fine = true;
    let mut fail = |found: &mut Findings, message: String, help: &str| {
        found.error(place, message, help);
        fine = false;
    };
    if instance.interface.is_empty() {
        fail(
            found,
            format!("vrrp_instance {name} has no interface"),
            "add `interface NAME`: the one the adverts go over",
        );
    } else if instance.interface.len() > 15 {
        fail(found, format!("`{}` is too long for an interface", instance.interface), "");
    }
    if instance.virtual_router_id == 0 {
        fail(
            found,
            format!("vrrp_instance {name} has no virtual_router_id"),
            "add `virtual_router_id N` (1 to 255), the same on all routers of this instance",
        );
    } else if let Err(error) = instance.router_config().validate() {
        let help = match error {
            ConfigError::Interval if instance.version == Version::V2 => {
                "for intervals below a second set `version 3` (or vrrp_version 3) on all routers"
            }
            _ => "",
        };
        fail(found, format!("vrrp_instance {name}: {error}"), help);
    }
    if instance.virtual_ipaddress.is_empty() && instance.virtual_ipaddress_excluded.is_empty() {
        found.warn(place, format!("vrrp_instance {name} has no virtual_ipaddress"), "");
    }
    fine
}

/// Names that must be defined elsewhere, or must not be defined twice.
pub(crate) fn references(
    found: &mut Findings,
    config: &mut DirectorConfig,
    blocks: &[Item<'_>],
    instances: &[Place],
) {
    for (i, place) in instances.iter().enumerate() {
        let this = &config.vrrp[i];
        for other in &config.vrrp[..i] {
            if other.name == this.name {
                found.error(
                    place,
                    format!("vrrp_instance {} is defined twice", this.name),
                    "give each instance a name of its own",
                );
            } else if (other.virtual_router_id, &other.interface, other.is_ipv6())
                == (this.virtual_router_id, &this.interface, this.is_ipv6())
                && other.unicast_peer.is_empty()
                && this.unicast_peer.is_empty()
            {
                found.error(
                    place,
                    format!(
                        "vrrp_instance {} and {} both use virtual_router_id {} on {}",
                        other.name, this.name, this.virtual_router_id, this.interface
                    ),
                    "give one of them another virtual_router_id, on all its routers",
                );
            }
        }
    }
    let place = |keyword: &str, name: &str| {
        blocks
            .iter()
            .find(|b| b.keyword == keyword && b.args.first().is_some_and(|w| w.text == name))
            .map(|b| b.args[0].place.clone())
    };
    let DirectorConfig { track_scripts, track_processes, track_files, .. } = &*config;
    let scripts: Vec<_> = track_scripts.iter().map(|s| s.name.clone()).collect();
    let processes: Vec<_> = track_processes.iter().map(|s| s.name.clone()).collect();
    let files: Vec<_> = track_files.iter().map(|s| s.name.clone()).collect();
    let known = |found: &mut Findings, at: Option<Place>, tracking: &mut Tracking| {
        for (list, known, kind) in [
            (&mut tracking.scripts, &scripts, "vrrp_script"),
            (&mut tracking.processes, &processes, "vrrp_track_process"),
            (&mut tracking.files, &files, "track_file"),
        ] {
            list.retain(|track| {
                let is_known = known.contains(&track.name);
                if let (false, Some(at)) = (is_known, &at) {
                    let message = format!("{kind} {} is not defined: not tracked", track.name);
                    found.warn(at, message, "");
                }
                is_known
            });
        }
    };
    for instance in &mut config.vrrp {
        known(found, place("vrrp_instance", &instance.name), &mut instance.tracking);
    }
    let names: Vec<_> = config.vrrp.iter().map(|i| i.name.clone()).collect();
    for group in &mut config.sync_groups {
        let at = place("vrrp_sync_group", &group.name);
        known(found, at.clone(), &mut group.tracking);
        group.members.retain(|member| {
            let is_known = names.contains(member);
            if let (false, Some(at)) = (is_known, &at) {
                let message = format!("sync group {}: no vrrp_instance {member}", group.name);
                found.warn(at, message, "");
            }
            is_known
        });
    }
    let files = config.track_files.clone();
    for server in config.virtual_servers.iter_mut().flat_map(|vs| &mut vs.real_servers) {
        server.checks.retain_mut(|check| {
            let CheckKind::File { track_file, path, weight, .. } = &mut check.kind else {
                return true;
            };
            let Some(file) = files.iter().find(|f| f.name == *track_file) else {
                if let Some(block) = blocks.iter().find(|b| mentions(b.block, track_file)) {
                    let message = format!("track_file {track_file} is not defined: not checked");
                    found.warn(&block.word.place, message, "");
                }
                return false;
            };
            path.clone_from(&file.file);
            weight.get_or_insert(file.weight);
            true
        });
    }
    let groups: Vec<_> = config.server_groups.iter().map(|g| g.name.clone()).collect();
    config.virtual_servers.retain(|vs| match &vs.id {
        ServiceId::Group(name) if !groups.contains(name) => {
            if let Some(block) = blocks.iter().find(|b| {
                b.keyword == "virtual_server" && b.args.get(1).is_some_and(|w| w.text == *name)
            }) {
                let message = format!("virtual_server_group {name} is not defined: ignored");
                found.warn(&block.args[1].place, message, "");
            }
            false
        }
        _ => true,
    });
}

/// Whether a FILE_CHECK somewhere in `block` names this file.
fn mentions(block: &[Statement], name: &str) -> bool {
    block.iter().any(|s| {
        s.words.windows(2).any(|w| w[0].text == "track_file" && w[1].text == name)
            || s.block.as_deref().is_some_and(|inner| mentions(inner, name))
    })
}
