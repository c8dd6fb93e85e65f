//! Virtual routes: as words, as keepalived.conf and our TOML both have them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::model::VirtualRoute;

/// The kernel's main routing table.
pub(crate) const MAIN: u32 = 254;

/// What can't be done with a route.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown(pub String);

/// `[blackhole] [to] DESTINATION[/PREFIX] [via|gw IP] [dev NAME] [src IP] [metric N] [table N]`;
/// `src IP` may also stand first, as in old files. What is left out for the kernel to choose:
/// scope, protocol.
pub(crate) fn parse(words: &[&str]) -> Result<VirtualRoute, Unknown> {
    let mut to = None;
    let mut route = VirtualRoute {
        to: Ipv4Addr::UNSPECIFIED.into(),
        prefix: 0,
        via: None,
        dev: None,
        src: None,
        metric: None,
        table: MAIN,
        blackhole: false,
    };
    let mut default = false;
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Unknown(format!("{word} without a value")));
        let ip = |text: &str| -> Result<IpAddr, Unknown> {
            text.parse().map_err(|_| Unknown(text.to_owned()))
        };
        match word {
            "blackhole" => route.blackhole = true,
            "to" | "unicast" => {}
            "via" | "gw" => {
                let mut next = value()?;
                if matches!(next, "inet" | "inet6") {
                    next = value()?;
                }
                route.via = Some(ip(next)?);
            }
            "dev" | "oif" => route.dev = Some(value()?.to_owned()),
            "src" => route.src = Some(ip(value()?)?),
            "metric" | "priority" | "preference" => {
                let text = value()?;
                route.metric = Some(text.parse().map_err(|_| Unknown(text.to_owned()))?);
            }
            "table" => {
                let text = value()?;
                route.table = match text {
                    "main" => MAIN,
                    "default" => 253,
                    "local" => 255,
                    _ => text.parse().map_err(|_| Unknown(format!("table {text}")))?,
                };
            }
            "scope" | "proto" | "protocol" => {
                value()?;
            }
            "default" => default = true,
            destination if to.is_none() => to = Some(as_net(destination)?),
            other => return Err(Unknown(other.to_owned())),
        }
    }
    let is_ipv6 = route.via.or(route.src).is_some_and(|ip| ip.is_ipv6());
    match to {
        Some((ip, prefix)) => (route.to, route.prefix) = (ip, prefix),
        None if default && is_ipv6 => route.to = Ipv6Addr::UNSPECIFIED.into(),
        None if default => {}
        None => return Err(Unknown("a route without a destination".to_owned())),
    }
    if [route.via, route.src].into_iter().flatten().any(|ip| ip.is_ipv6() != route.to.is_ipv6()) {
        return Err(Unknown("IPv4 and IPv6 in one route".to_owned()));
    }
    if route.via.is_none() && route.dev.is_none() && !route.blackhole {
        return Err(Unknown("a route without `via` or `dev`".to_owned()));
    }
    Ok(route)
}

fn as_net(text: &str) -> Result<(IpAddr, u8), Unknown> {
    let unknown = || Unknown(text.to_owned());
    let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, p)| (ip, Some(p)));
    let ip: IpAddr = ip.parse().map_err(|_| unknown())?;
    let most = if ip.is_ipv6() { 128 } else { 32 };
    let prefix = match prefix {
        None => most,
        Some(text) => text.parse().ok().filter(|p| *p <= most).ok_or_else(unknown)?,
    };
    Ok((ip, prefix))
}

impl fmt::Display for VirtualRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.blackhole {
            f.write_str("blackhole ")?;
        }
        write!(f, "{}/{}", self.to, self.prefix)?;
        let ip = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string());
        for (word, value) in [
            ("via", ip(self.via)),
            ("dev", self.dev.clone()),
            ("src", ip(self.src)),
            ("metric", self.metric.map(|m| m.to_string())),
            ("table", (self.table != MAIN).then(|| self.table.to_string())),
        ] {
            if let Some(value) = value {
                write!(f, " {word} {value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_as_people_write_them() {
        for (text, shown) in [
            ("default via 10.0.0.1", "0.0.0.0/0 via 10.0.0.1"),
            ("default via fe80::1 dev eth0", "::/0 via fe80::1 dev eth0"),
            (
                "10.1.0.0/16 via 10.0.0.1 dev eth1 metric 5",
                "10.1.0.0/16 via 10.0.0.1 dev eth1 metric 5",
            ),
            (
                "src 192.168.100.1 to 192.168.109.0/24 via 192.168.200.254 dev eth1",
                "192.168.109.0/24 via 192.168.200.254 dev eth1 src 192.168.100.1",
            ),
            ("blackhole 192.168.112.0/24", "blackhole 192.168.112.0/24"),
            (
                "192.168.1.1 gw 10.0.0.1 table 100 scope link",
                "192.168.1.1/32 via 10.0.0.1 table 100",
            ),
        ] {
            let route = parse(&text.split(' ').collect::<Vec<_>>()).unwrap();
            assert_eq!(route.to_string(), shown);
            assert_eq!(parse(&shown.split(' ').collect::<Vec<_>>()).unwrap(), route);
        }
        for wrong in [
            "10.0.0.0/8",
            "10.0.0.0/40 dev eth0",
            "10.0.0.0/8 via ::1",
            "via 10.0.0.1",
            "10.0.0.0/8 via",
            "10.0.0.0/8 or 10.1.0.0/16 via 10.0.0.1",
        ] {
            assert!(parse(&wrong.split(' ').collect::<Vec<_>>()).is_err(), "{wrong}");
        }
    }
}
