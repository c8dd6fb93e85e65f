//! Which real servers get connections. Pure: verdicts in, decisions out.

use std::time::Duration;

use crate::checks::Verdict;
use crate::config::{CheckKind, ServiceId, VirtualServer};
use crate::plane::{Persistence, Service, Takes, Target};

/// What is known of one virtual server's real servers.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    servers: Vec<Server>,
    quorum: bool,
}

#[derive(Debug, Clone)]
struct Server {
    /// Each check's last verdict.
    checks: Vec<bool>,
    why: String,
    /// What a dynamic check said.
    weight: Option<u32>,
    /// On its way to its full weight: the hundredths it has.
    rising: Option<u32>,
}

impl Server {
    fn up(&self) -> bool {
        self.checks.iter().all(|good| *good)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Up(usize),
    Down(usize),
    QuorumGained,
    QuorumLost,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Decision {
    pub changes: Vec<Change>,
    /// The data plane has to be told.
    pub apply: bool,
}

impl Health {
    pub fn new(vs: &VirtualServer) -> Self {
        let servers = vs
            .real_servers
            .iter()
            .map(|server| Server {
                checks: server.checks.iter().map(|c| !(vs.alpha || c.alpha)).collect(),
                why: String::new(),
                weight: None,
                rising: None,
            })
            .collect();
        let mut health = Self { servers, quorum: false };
        health.quorum = health.up_weight(vs) >= vs.quorum.into();
        health
    }

    /// As [`Health::new`], but with what is known of the same checks of the same servers.
    pub fn carried_over(vs: &VirtualServer, before: Option<(&VirtualServer, &Self)>) -> Self {
        let mut health = Self::new(vs);
        let Some((old, known)) = before else { return health };
        for (server, now) in vs.real_servers.iter().zip(&mut health.servers) {
            let Some(r) = old.real_servers.iter().position(|o| o.address == server.address) else {
                continue;
            };
            let (old, known) = (&old.real_servers[r], &known.servers[r]);
            for (check, good) in server.checks.iter().zip(&mut now.checks) {
                if let Some(c) = old.checks.iter().position(|o| o.kind == check.kind) {
                    *good = known.checks[c];
                }
            }
            if !now.up() {
                now.why.clone_from(&known.why);
            }
            if old.checks == server.checks {
                now.weight = known.weight;
            }
        }
        health.quorum = health.up_weight(vs) >= vs.quorum.into();
        health
    }

    /// Whether a check's last result was good.
    pub fn is_good(&self, server: usize, check: usize) -> bool {
        self.servers[server].checks[check]
    }

    pub fn is_up(&self, server: usize) -> bool {
        self.servers[server].up()
    }

    pub fn why(&self, server: usize) -> &str {
        &self.servers[server].why
    }

    pub fn has_quorum(&self) -> bool {
        self.quorum
    }

    /// The weight in force while it is up.
    pub fn weight(&self, vs: &VirtualServer, server: usize) -> u32 {
        self.servers[server].weight.unwrap_or(vs.real_servers[server].weight)
    }

    /// How much of its weight a server has that came up so long ago. Whether that is new.
    pub fn slow_start(&mut self, vs: &VirtualServer, server: usize, since: Duration) -> bool {
        let now = (since < vs.slow_start).then(|| {
            let part = since.as_secs_f64() / vs.slow_start.as_secs_f64();
            // In tenths: each step fills the data plane's tables anew.
            ((part * 10.0) as u32 * 10).max(10)
        });
        std::mem::replace(&mut self.servers[server].rising, now) != now
    }

    fn up_weight(&self, vs: &VirtualServer) -> u64 {
        (0..self.servers.len())
            .filter(|&r| self.is_up(r))
            .map(|r| u64::from(self.weight(vs, r)))
            .sum()
    }

    pub fn note(&mut self, vs: &VirtualServer, verdict: &Verdict) -> Decision {
        let before = self.clone();
        let server = &mut self.servers[verdict.server];
        server.checks[verdict.check] = verdict.up;
        server.why = if server.up() { String::new() } else { verdict.why.clone() };
        // A check that says nothing of weights leaves alone what another one said.
        let dynamic = matches!(
            vs.real_servers[verdict.server].checks[verdict.check].kind,
            CheckKind::Misc { dynamic: true, .. } | CheckKind::File { .. }
        );
        if verdict.up && (dynamic || verdict.weight.is_some()) {
            server.weight = verdict.weight;
        }
        let mut decision = Decision::default();
        let r = verdict.server;
        let (was_up, is_up) = (before.is_up(r), self.is_up(r));
        if was_up != is_up {
            decision.changes.push(if is_up { Change::Up(r) } else { Change::Down(r) });
        }
        // Hysteresis keeps a quorum at its edge from flapping.
        let have = self.up_weight(vs);
        let (quorum, slack) = (u64::from(vs.quorum), u64::from(vs.hysteresis));
        if self.quorum && have < quorum.saturating_sub(slack).max(1) {
            self.quorum = false;
            decision.changes.push(Change::QuorumLost);
        } else if !self.quorum && have >= quorum + slack {
            self.quorum = true;
            decision.changes.push(Change::QuorumGained);
        }
        decision.apply = service(vs, self) != service(vs, &before);
        decision
    }
}

/// What the data plane is to serve; `None` for a group, whose members are served one by one.
pub(crate) fn service(vs: &VirtualServer, health: &Health) -> Option<Service> {
    let takes = match vs.id {
        ServiceId::Vip(vip) => Takes::Address { vip, protocol: vs.protocol },
        ServiceId::Fwmark(mark) => {
            let ipv6 = vs.real_servers.first().is_some_and(|r| r.address.is_ipv6());
            Takes::Mark { mark, ipv6 }
        }
        ServiceId::Group(_) => return None,
    };
    let mut targets: Vec<Target> = Vec::new();
    let mut taking = 0;
    // A part of weight 1 needs all weights to be greater.
    let rising = health.servers.iter().any(|s| s.rising.is_some());
    let fits = vs.real_servers.iter().enumerate().all(|(r, _)| health.weight(vs, r) <= 6_553);
    let scale = if rising && fits { 10 } else { 1 };
    for (r, server) in vs.real_servers.iter().enumerate() {
        let up = health.is_up(r);
        if !up && !server.inhibit_on_failure {
            continue;
        }
        let mut weight = if up { health.weight(vs, r) * scale } else { 0 };
        if let (1.., Some(part)) = (weight, health.servers[r].rising) {
            weight = (u64::from(weight) * u64::from(part) / 100).max(1) as u32;
        }
        taking += u64::from(weight);
        let (upper, lower) = (server.uthreshold, server.lthreshold);
        let forwarding = server.lb_kind.unwrap_or(vs.lb_kind);
        targets.push(Target { address: server.address, forwarding, weight, upper, lower });
    }
    if let Some(sorry) = vs.sorry_server
        && (!health.quorum || taking == 0)
    {
        if vs.sorry_server_inhibit {
            targets.iter_mut().for_each(|t| t.weight = 0);
        } else {
            targets.clear();
        }
        let forwarding = vs.sorry_server_lvs_method.unwrap_or(vs.lb_kind);
        targets.push(Target { address: sorry, forwarding, weight: 1, upper: 0, lower: 0 });
    }
    Some(Service {
        takes,
        scheduler: vs.lb_algo,
        hash: vs.hash,
        persistence: vs.persistence_timeout.map(|timeout| {
            let whole = if takes.is_ipv6() { 128 } else { 32 };
            Persistence { timeout, prefix: vs.persistence_granularity.unwrap_or(whole) }
        }),
        one_packet: vs.ops,
        targets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Check, RealServer};
    use std::net::SocketAddr;

    fn vs(servers: u8) -> VirtualServer {
        let mut vs = VirtualServer::new(ServiceId::Vip("10.0.0.253:80".parse().unwrap()));
        for i in 1..=servers {
            let address = SocketAddr::from(([10, 0, 0, i], 80));
            let mut server = RealServer::new(address);
            server.checks.push(Check {
                kind: CheckKind::Tcp,
                target: address,
                bind: None,
                delay_loop: Duration::from_secs(1),
                connect_timeout: Duration::from_secs(1),
                retry: 0,
                rise: 1,
                delay_before_retry: Duration::ZERO,
                warmup: None,
                alpha: false,
            });
            vs.real_servers.push(server);
        }
        vs
    }

    fn verdict(server: usize, up: bool) -> Verdict {
        Verdict { service: 0, server, check: 0, up, why: "refused".into(), weight: None }
    }

    fn weights(vs: &VirtualServer, health: &Health) -> Vec<(u8, u32)> {
        let last = |a: SocketAddr| match a.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        service(vs, health).unwrap().targets.iter().map(|t| (last(t.address), t.weight)).collect()
    }

    #[test]
    fn a_server_that_fails_is_taken_out_and_comes_back() {
        let vs = vs(2);
        let mut health = Health::new(&vs);
        assert_eq!(weights(&vs, &health), [(1, 1), (2, 1)]);
        let decision = health.note(&vs, &verdict(0, false));
        assert_eq!(decision, Decision { changes: vec![Change::Down(0)], apply: true });
        assert_eq!(weights(&vs, &health), [(2, 1)]);
        assert_eq!(health.note(&vs, &verdict(0, true)).changes, [Change::Up(0)]);
        assert_eq!(weights(&vs, &health), [(1, 1), (2, 1)]);
    }

    #[test]
    fn a_new_configuration_keeps_what_is_known() {
        let before = vs(2);
        let mut health = Health::new(&before);
        health.note(&before, &verdict(0, false));
        let mut after = vs(3);
        after.real_servers[1].weight = 5;
        let health = Health::carried_over(&after, Some((&before, &health)));
        assert_eq!(weights(&after, &health), [(2, 5), (3, 1)], "the first one is still down");
        assert_eq!(health.why(0), "refused");
    }

    #[test]
    fn inhibit_keeps_its_connections() {
        let mut vs = vs(2);
        vs.real_servers[0].inhibit_on_failure = true;
        let mut health = Health::new(&vs);
        health.note(&vs, &verdict(0, false));
        assert_eq!(weights(&vs, &health), [(1, 0), (2, 1)]);
    }

    #[test]
    fn with_all_down_the_sorry_server_answers() {
        let mut vs = vs(2);
        vs.sorry_server = Some("10.0.0.9:80".parse().unwrap());
        let mut health = Health::new(&vs);
        health.note(&vs, &verdict(0, false));
        let decision = health.note(&vs, &verdict(1, false));
        assert_eq!(decision.changes, [Change::Down(1), Change::QuorumLost]);
        assert_eq!(weights(&vs, &health), [(9, 1)]);
        assert_eq!(
            health.note(&vs, &verdict(1, true)).changes,
            [Change::Up(1), Change::QuorumGained]
        );
        assert_eq!(weights(&vs, &health), [(2, 1)]);
    }

    #[test]
    fn one_that_came_up_gets_its_weight_little_by_little() {
        let mut vs = vs(2);
        vs.slow_start = Duration::from_secs(10);
        let mut health = Health::new(&vs);
        let mut seen = Vec::new();
        for second in 0..=11 {
            if health.slow_start(&vs, 0, Duration::from_secs(second)) {
                seen.push(weights(&vs, &health)[0].1);
            }
        }
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 8, 9, 1], "of 10, and at last 1 of 1");
        assert_eq!(weights(&vs, &health), [(1, 1), (2, 1)]);
        health.slow_start(&vs, 0, Duration::from_secs(5));
        assert_eq!(weights(&vs, &health), [(1, 5), (2, 10)]);
        vs.real_servers[0].weight = 0;
        assert_eq!(weights(&vs, &health), [(1, 0), (2, 10)], "drained is drained");
    }

    #[test]
    fn hysteresis_widens_the_edge_of_the_quorum() {
        let mut vs = vs(4);
        (vs.quorum, vs.hysteresis) = (3, 1);
        let mut health = Health::new(&vs);
        assert!(health.has_quorum());
        assert_eq!(health.note(&vs, &verdict(0, false)).changes, [Change::Down(0)]);
        assert_eq!(health.note(&vs, &verdict(1, false)).changes, [Change::Down(1)]);
        assert_eq!(
            health.note(&vs, &verdict(2, false)).changes,
            [Change::Down(2), Change::QuorumLost]
        );
        for (server, gained) in [(2, false), (1, false), (0, true)] {
            let changes = health.note(&vs, &verdict(server, true)).changes;
            assert_eq!(changes.contains(&Change::QuorumGained), gained, "{server}");
        }
    }

    #[test]
    fn a_dynamic_check_sets_the_weight_and_zero_drains() {
        let vs = vs(2);
        let mut health = Health::new(&vs);
        let said = Verdict { weight: Some(7), ..verdict(0, true) };
        assert!(health.note(&vs, &said).apply);
        assert_eq!(weights(&vs, &health), [(1, 7), (2, 1)]);
        health.note(&vs, &Verdict { weight: Some(0), ..verdict(0, true) });
        assert_eq!(weights(&vs, &health), [(1, 0), (2, 1)]);
        health.note(&vs, &verdict(0, true));
        assert_eq!(weights(&vs, &health), [(1, 0), (2, 1)], "a plain check does not undo it");
    }
}
