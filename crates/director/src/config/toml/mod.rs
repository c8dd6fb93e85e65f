//! Our own TOML, with keepalived's names: `[[vrrp]]`, `[[virtual_server]]`.

mod checks;
mod services;
mod vrrp;
mod words;
mod write;

use pointsman_config::read::{Findings, Section};
use pointsman_config::{Problem, Report, Secret};
use toml::Spanned;
use toml::de::DeTable;

use super::model::{DirectorConfig, Global, OnStop, PlaneChoice, Script};
use super::scripts::Machine;
use super::{Errors, Warning};
use words::{as_user, word};

pub(crate) use write::write;

/// Reads the text of a TOML file called `name`.
pub(crate) fn parse(name: &str, text: &str) -> Result<(DirectorConfig, Vec<Warning>), Errors> {
    parse_on(name, text, Machine::REAL)
}

/// As [`parse`], on a machine with these users and programs.
pub(crate) fn parse_on(
    name: &str,
    text: &str,
    machine: Machine,
) -> Result<(DirectorConfig, Vec<Warning>), Errors> {
    let fail = |problems| {
        let reports = vec![Report::new(name, text, problems)];
        Err(Errors { reports, warnings: Vec::new() })
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let problem = Problem::new(error.message().to_owned());
            return fail(vec![match error.span() {
                Some(span) => problem.at(span),
                None => problem,
            }]);
        }
    };
    let mut found = Findings::default();
    let config = root(&mut found, &table, machine);
    if !found.errors.is_empty() {
        return fail(found.errors);
    }
    let warnings = found
        .warnings
        .into_iter()
        .map(|problem| Warning { report: Report::new(name, text, vec![problem]) })
        .collect();
    Ok((config, warnings))
}

fn root(found: &mut Findings, table: &Spanned<DeTable<'_>>, machine: Machine) -> DirectorConfig {
    let mut root = Section::root(table);
    let mut config = DirectorConfig::default();
    config.global.router_id = root.or(found, "router_id", String::new());
    config.global.script_user =
        root.at::<String>(found, "script_user").map(|user| as_user(&user.value));
    config.global.enable_script_security = root.or(found, "enable_script_security", false);
    config.global.data_plane =
        word(found, &mut root, "data_plane", PlaneChoice::Auto, &PlaneChoice::ALL);
    config.global.lvs_flush = root.or(found, "lvs_flush", false);
    config.global.lvs_on_stop = word(found, &mut root, "lvs_on_stop", OnStop::Remove, &OnStop::ALL);
    config.global.flow_sync = root.at::<bool>(found, "flow_sync").map(|f| f.value);
    config.global.flow_sync_secret = root.at::<Secret>(found, "flow_sync_secret").map(|s| s.value);
    // The binary's own part.
    root.section(found, "admin");
    for section in root.sections(found, "vrrp_script") {
        config.track_scripts.extend(vrrp::track_script(found, section));
    }
    for section in root.sections(found, "vrrp_track_process") {
        config.track_processes.extend(vrrp::track_process(found, section));
    }
    for section in root.sections(found, "vrrp_track_file") {
        config.track_files.extend(vrrp::track_file(found, section));
    }
    let known = vrrp::Known::of(&config);
    for section in root.sections(found, "vrrp") {
        let span = section.span();
        let Some(instance) = vrrp::instance(found, section, &known) else { continue };
        if config.vrrp.iter().any(|v| v.name == instance.name) {
            found.error(
                Problem::new(format!("two [[vrrp]] are called `{}`", instance.name)).at(span),
            );
        } else if config.vrrp.iter().any(|v| {
            (v.virtual_router_id, &v.interface, v.is_ipv6())
                == (instance.virtual_router_id, &instance.interface, instance.is_ipv6())
                && v.unicast_peer.is_empty()
                && instance.unicast_peer.is_empty()
        }) {
            let message = format!(
                "virtual_router_id {} is used twice on {}",
                instance.virtual_router_id, instance.interface
            );
            found.error(Problem::new(message).at(span));
        }
        config.vrrp.push(instance);
    }
    let names: Vec<String> = config.vrrp.iter().map(|v| v.name.clone()).collect();
    for section in root.sections(found, "vrrp_sync_group") {
        config.sync_groups.extend(vrrp::sync_group(found, section, &names, &known));
    }
    for section in root.sections(found, "virtual_server_group") {
        config.server_groups.extend(services::server_group(found, section));
    }
    for section in root.sections(found, "virtual_server") {
        let DirectorConfig { server_groups, track_files, .. } = &config;
        let server = services::virtual_server(found, section, server_groups, track_files);
        config.virtual_servers.extend(server);
    }
    root.finish(found);
    let config_rules = config.global.clone();
    for script in config.scripts_mut() {
        if let Err(problem) = settle(script, &config_rules, machine) {
            found.error(Problem::new(problem));
        }
    }
    config
}

/// Gives a script its user; an error if it must not be run.
fn settle(script: &mut Script, rules: &Global, machine: Machine) -> Result<(), String> {
    if script.user.is_none() {
        script.user.clone_from(&rules.script_user);
    }
    let uid = match &script.user {
        None => 0,
        Some(user) => {
            (machine.uid)(user).ok_or_else(|| format!("script_user: no user {} here", user.name))?
        }
    };
    match (machine.changeable)(&script.command[0]) {
        Some(part) if uid == 0 && rules.enable_script_security => Err(format!(
            "others than root may change {part}, which root would run: enable_script_security"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pointsman_vrrp::Version;

    use super::super::model::{Forwarding, Scheduler};
    use super::*;

    pub(super) const SITE: &str = r#"
[[vrrp]]
interface = "eth0"
virtual_router_id = 51
priority = 150
auth_pass = "1111"
virtual_ipaddress = ["192.168.4.253"]

[[virtual_server]]
address = "192.168.4.253:80"
lb_algo = "rr"
delay_loop = "6s"

[[virtual_server.real_server]]
address = "192.168.4.33:80"
[[virtual_server.real_server.check]]
type = "http"
path = "/ok"

[[virtual_server.real_server]]
address = "192.168.4.44:80"
"#;

    #[test]
    fn the_reference_site_in_toml() {
        let (config, warnings) = parse("director.toml", SITE).unwrap();
        assert!(warnings.is_empty());
        let v = &config.vrrp[0];
        assert_eq!((v.name.as_str(), v.version, v.priority), ("VI_51", Version::V2, 150));
        let vs = &config.virtual_servers[0];
        assert_eq!((vs.lb_algo, vs.lb_kind), (Scheduler::Rr, Forwarding::Dr));
        assert_eq!(vs.real_servers.len(), 2);
        assert_eq!(vs.real_servers[0].checks[0].delay_loop, Duration::from_secs(6));
    }

    #[test]
    fn problems_have_places_and_all_are_told() {
        let wrong = SITE
            .replace("lb_algo = \"rr\"", "lb_algo = \"best\"")
            .replace("priority = 150", "priorty = 150")
            .replace("192.168.4.44:80", "192.168.4.44");
        let errors = parse("d.toml", &wrong).unwrap_err();
        let lines = errors.reports()[0].lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("d.toml:5:1: unknown key `priorty`"), "{lines:?}");
        assert!(parse("d.toml", "[[vrrp]\n").is_err());
        let twice = SITE.replace("[[virtual_server]]", "[[vrrp]]\ninterface = \"eth0\"\nvirtual_router_id = 51\nname = \"b\"\n[[virtual_server]]");
        assert!(parse("d.toml", &twice).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "[a-z_\\[\\]=\". 0-9\n]{0,200}") {
            let _ = parse("d.toml", &text);
        }
    }
}
