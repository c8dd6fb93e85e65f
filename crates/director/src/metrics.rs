//! What Prometheus sees of the director.

use std::sync::Arc;

use pointsman_vrrp::State;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::config::Protocol;
use crate::status::Shared;

/// Reads [`Shared`] at each scrape: nothing is counted twice.
pub struct Metrics {
    shared: Arc<Shared>,
    descriptions: Families,
}

impl Metrics {
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, descriptions: Families::new() }
    }
}

struct Families {
    state: IntGaugeVec,
    priority: IntGaugeVec,
    transitions: IntCounterVec,
    adverts: IntCounterVec,
    drops: IntCounterVec,
    late: IntCounterVec,
    up: IntGaugeVec,
    weight: IntGaugeVec,
    connections: IntCounterVec,
    held: IntGaugeVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
}

impl Families {
    fn new() -> Self {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels).expect("names are valid")
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("names are valid")
        };
        let real = ["vip", "port", "protocol", "real_server"];
        Self {
            state: gauge(
                "pointsman_vrrp_state",
                "State of a virtual router: 0 starting, 1 backup, 2 active, 3 fault, 4 stopping",
                &["instance"],
            ),
            priority: gauge(
                "pointsman_vrrp_priority",
                "Priority with tracking weights in it",
                &["instance"],
            ),
            transitions: counter(
                "pointsman_vrrp_transitions_total",
                "Changes of state",
                &["instance", "to"],
            ),
            adverts: counter(
                "pointsman_vrrp_adverts_total",
                "Adverts sent and taken",
                &["instance", "direction"],
            ),
            drops: counter(
                "pointsman_vrrp_adverts_dropped_total",
                "Packets that were not taken for adverts of this virtual router",
                &["instance", "reason"],
            ),
            late: counter(
                "pointsman_vrrp_late_timers_total",
                "Times this process was not run for longer than a backup waits",
                &["instance"],
            ),
            up: gauge("pointsman_real_server_up", "Whether its checks are good", &real),
            weight: gauge("pointsman_real_server_weight", "Weight in force while up", &real),
            connections: counter(
                "pointsman_virtual_server_connections_total",
                "Connections sent to a real server",
                &real,
            ),
            held: gauge(
                "pointsman_virtual_server_current_connections",
                "Connections a real server has: established (active), and being opened, being \
                 closed, or UDP (inactive)",
                &["vip", "port", "protocol", "real_server", "state"],
            ),
            packets: counter(
                "pointsman_virtual_server_packets_total",
                "Packets sent to a real server",
                &real,
            ),
            bytes: counter(
                "pointsman_virtual_server_bytes_total",
                "Bytes sent to a real server",
                &real,
            ),
        }
    }

    fn all(&self) -> [&dyn Collector; 12] {
        [
            &self.state,
            &self.priority,
            &self.transitions,
            &self.adverts,
            &self.drops,
            &self.late,
            &self.up,
            &self.weight,
            &self.connections,
            &self.held,
            &self.packets,
            &self.bytes,
        ]
    }

    fn fill(&self, shared: &Shared) {
        for instance in shared.instances() {
            let name = instance.name.as_str();
            let state = match instance.state {
                State::Initialize => 0,
                State::Backup => 1,
                State::Active => 2,
                State::Fault => 3,
                State::Leaving | State::Stopped => 4,
            };
            let c = &instance.counters;
            self.state.with_label_values(&[name]).set(state);
            self.priority.with_label_values(&[name]).set(instance.priority.into());
            self.late.with_label_values(&[name]).inc_by(c.late_timers);
            for (to, n) in [
                ("master", c.became_active),
                ("backup", c.became_backup),
                ("fault", c.became_fault),
            ] {
                self.transitions.with_label_values(&[name, to]).inc_by(n);
            }
            for (direction, n) in [("sent", c.adverts_sent), ("received", c.adverts_received)] {
                self.adverts.with_label_values(&[name, direction]).inc_by(n);
            }
            for (reason, n) in [
                ("malformed", c.malformed),
                ("checksum", c.checksum_errors),
                ("ttl", c.ttl_errors),
                ("version", c.version_errors),
                ("auth_type", c.auth_type_errors),
                ("auth", c.auth_mismatches),
                ("interval", c.interval_mismatches),
                ("unknown_peer", c.unknown_peers),
                ("owner", c.dropped_as_owner),
            ] {
                self.drops.with_label_values(&[name, reason]).inc_by(n);
            }
        }
        for vs in shared.virtual_servers() {
            let (ip, port) = match vs.vip {
                Some(vip) => (vip.ip().to_string(), vip.port().to_string()),
                // A firewall mark, by its name.
                None => (vs.name.clone(), "0".to_owned()),
            };
            let protocol = match vs.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            for server in vs.real_servers {
                let address = server.address.to_string();
                let labels = [ip.as_str(), port.as_str(), protocol, address.as_str()];
                self.up.with_label_values(&labels).set(server.up.into());
                self.weight.with_label_values(&labels).set(server.weight.into());
                self.connections.with_label_values(&labels).inc_by(server.traffic.connections);
                let held =
                    [("active", server.traffic.active), ("inactive", server.traffic.inactive)];
                for (state, n) in held {
                    let labels = [ip.as_str(), port.as_str(), protocol, address.as_str(), state];
                    self.held.with_label_values(&labels).set(n as i64);
                }
                self.packets.with_label_values(&labels).inc_by(server.traffic.packets);
                self.bytes.with_label_values(&labels).inc_by(server.traffic.bytes);
            }
        }
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let families = Families::new();
        families.fill(&self.shared);
        families.all().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::InstanceStatus;

    #[test]
    fn an_instance_shows() {
        let shared = Shared::new(Arc::default());
        shared.set_instances(vec![InstanceStatus {
            name: "VI_1".to_owned(),
            interface: "eth0".to_owned(),
            virtual_router_id: 51,
            state: State::Active,
            since: std::time::SystemTime::now(),
            priority: 150,
            active: None,
            addresses: Vec::new(),
            counters: pointsman_vrrp::Counters { adverts_sent: 7, ..Default::default() },
        }]);
        let registry = prometheus::Registry::new();
        registry.register(Box::new(Metrics::new(shared))).unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("pointsman_vrrp_state{instance=\"VI_1\"} 2"), "{text}");
        assert!(
            text.contains("pointsman_vrrp_adverts_total{direction=\"sent\",instance=\"VI_1\"} 7"),
            "{text}"
        );
    }
}
