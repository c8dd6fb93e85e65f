//! Which data plane serves a configuration. Pure.

use super::ebpf::stand_in;
use crate::config::{DirectorConfig, Forwarding, PlaneChoice, Protocol, ServiceId, VirtualServer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ebpf,
    Ipvs,
}

/// The data planes that will do, the best one first. Serving a virtual server another way than asked
/// would send packets where nobody expects them.
///
/// # Errors
/// A sentence that says what can't be served as the configuration has it.
pub(crate) fn choose(config: &DirectorConfig) -> Result<&'static [Kind], String> {
    let servers = &config.virtual_servers;
    let need = servers.iter().find_map(|vs| Some((vs, needs_ipvs(config, vs)?)));
    match (config.global.data_plane, need) {
        (PlaneChoice::Ipvs, _) | (PlaneChoice::Auto, Some(_)) => Ok(&[Kind::Ipvs]),
        (PlaneChoice::Tc | PlaneChoice::Xdp | PlaneChoice::XdpGeneric, Some((vs, why))) => {
            Err(format!(
                "virtual_server {}: {why}, which the eBPF data plane does not do: set `data_plane` to \
             ipvs or auto",
                vs.name()
            ))
        }
        (PlaneChoice::Tc | PlaneChoice::Xdp | PlaneChoice::XdpGeneric, None) => Ok(&[Kind::Ebpf]),
        (PlaneChoice::Auto, None) => {
            // IPVS has these schedulers themselves; eBPF's nearest will do where there is no IPVS.
            if servers.iter().any(|vs| stand_in(vs.lb_algo).is_some()) {
                return Ok(&[Kind::Ipvs, Kind::Ebpf]);
            }
            Ok(&[Kind::Ebpf, Kind::Ipvs])
        }
    }
}

/// What of a virtual server only IPVS can do, in a few words.
pub(crate) fn needs_ipvs(config: &DirectorConfig, vs: &VirtualServer) -> Option<&'static str> {
    let sorry = vs.sorry_server.and(vs.sorry_server_lvs_method);
    let own = vs.real_servers.iter().map(|r| r.lb_kind.unwrap_or(vs.lb_kind)).chain(sorry);
    let marks = match &vs.id {
        ServiceId::Fwmark(_) => true,
        ServiceId::Group(name) => {
            config.server_groups.iter().any(|g| g.name == *name && !g.fwmarks.is_empty())
        }
        ServiceId::Vip(_) => false,
    };
    for kind in own {
        match kind {
            Forwarding::Dr => {}
            Forwarding::Nat => {
                return Some("`lb_kind NAT` (keepalived's default, when it is not written)");
            }
            Forwarding::Tun => return Some("`lb_kind TUN`"),
        }
    }
    if marks {
        return Some("firewall marks");
    }
    (vs.protocol == Protocol::Sctp).then_some("SCTP")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn chosen(global: &str, service: &str, id: &str) -> Result<Vec<Kind>, String> {
        let text = format!(
            "global_defs {{\n {global}\n}}\nvirtual_server_group G {{\n fwmark 7\n}}\n\
             virtual_server {id} {{\n {service}\n real_server 10.0.0.2 80 {{\n weight 1\n }}\n}}\n"
        );
        choose(&config::parse_alone("k", &text).unwrap().0).map(<[_]>::to_vec)
    }

    #[test]
    fn ebpf_if_it_can_else_ipvs() {
        use Kind::{Ebpf, Ipvs};
        let vip = "10.0.0.1 80";
        assert_eq!(chosen("", "lb_kind DR", vip), Ok(vec![Ebpf, Ipvs]));
        assert_eq!(chosen("", "lb_kind DR\n lb_algo fo", vip), Ok(vec![Ipvs, Ebpf]));
        for service in ["lb_kind NAT", "lb_kind TUN", "lb_algo rr", "lb_kind DR\n protocol SCTP"] {
            assert_eq!(chosen("", service, vip), Ok(vec![Ipvs]), "{service}");
        }
        assert_eq!(chosen("", "lb_kind DR", "fwmark 3"), Ok(vec![Ipvs]));
        assert_eq!(chosen("", "lb_kind DR", "group G"), Ok(vec![Ipvs]));
        assert_eq!(chosen("data_plane tc", "lb_kind DR", vip), Ok(vec![Ebpf]));
        assert_eq!(chosen("data_plane ipvs", "lb_kind DR", vip), Ok(vec![Ipvs]));
    }

    #[test]
    fn what_the_chosen_one_can_not_do_is_refused() {
        let error = chosen("data_plane xdp", "lb_kind TUN", "10.0.0.1 80").unwrap_err();
        assert!(error.contains("10.0.0.1:80") && error.contains("`lb_kind TUN`"), "{error}");
    }
}
