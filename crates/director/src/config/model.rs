//! The director's configuration, whichever file it was read from. Names are keepalived's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pointsman_config::Secret;
use pointsman_vrrp::{AnnounceConfig, Version};

/// What `pointsman director` runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectorConfig {
    pub global: Global,
    pub track_scripts: Vec<TrackScript>,
    pub track_processes: Vec<TrackProcess>,
    pub track_files: Vec<TrackFile>,
    pub sync_groups: Vec<SyncGroup>,
    pub vrrp: Vec<VrrpInstance>,
    pub server_groups: Vec<ServerGroup>,
    pub virtual_servers: Vec<VirtualServer>,
}

impl DirectorConfig {
    /// Every command that may be run.
    pub(crate) fn scripts_mut(&mut self) -> Vec<&mut Script> {
        let mut all: Vec<&mut Script> =
            self.track_scripts.iter_mut().map(|s| &mut s.script).collect();
        let groups = self.sync_groups.iter_mut().map(|g| &mut g.notify);
        for notify in groups.chain(self.vrrp.iter_mut().map(|v| &mut v.notify)) {
            let Notify { master, backup, fault, stop, any } = notify;
            all.extend([master, backup, fault, stop, any].into_iter().flatten());
        }
        for vs in &mut self.virtual_servers {
            all.extend([&mut vs.quorum_up, &mut vs.quorum_down].into_iter().flatten());
            for server in &mut vs.real_servers {
                all.extend([&mut server.notify_up, &mut server.notify_down].into_iter().flatten());
                all.extend(server.checks.iter_mut().filter_map(|c| match &mut c.kind {
                    CheckKind::Misc { script, .. } => Some(script),
                    _ => None,
                }));
            }
        }
        all
    }
}

/// What applies to the daemon as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Global {
    /// Name of this director in notifications; the host's name if empty.
    pub router_id: String,
    /// Who runs scripts; `None`: root.
    pub script_user: Option<User>,
    /// Refuse scripts that others than root may write.
    pub enable_script_security: bool,
    pub data_plane: PlaneChoice,
    /// IPVS: start by removing all that others left in it.
    pub lvs_flush: bool,
    /// IPVS: what becomes of it on an orderly end.
    pub lvs_on_stop: OnStop,
    /// Whether the peer is told of connections; `None`: yes.
    pub flow_sync: Option<bool>,
    /// What proves to the peer that it is us; `None`: the virtual routers' password.
    pub flow_sync_secret: Option<Secret>,
}

/// What moves packets: the eBPF program, and where it takes them, or IPVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlaneChoice {
    /// eBPF on tc, which works with every driver and every offload; IPVS for what eBPF can't do.
    #[default]
    Auto,
    Tc,
    /// In the driver, before the kernel makes a packet of it; tc behind it for what is left.
    Xdp,
    /// As `Xdp`, for drivers that can't.
    XdpGeneric,
    Ipvs,
}

impl PlaneChoice {
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("auto", Self::Auto),
        ("tc", Self::Tc),
        ("xdp", Self::Xdp),
        ("xdp-generic", Self::XdpGeneric),
        ("ipvs", Self::Ipvs),
    ];
}

/// What becomes of the services in IPVS when the director ends in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStop {
    /// Ours are removed, those of others stay.
    #[default]
    Remove,
    /// They stay, for the next run.
    Keep,
    /// All are removed, also those of others.
    Flush,
}

impl OnStop {
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("remove", Self::Remove), ("keep", Self::Keep), ("flush", Self::Flush)];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// The user's own group if `None`.
    pub group: Option<String>,
}

/// A command as a shell would split it, and who runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    pub user: Option<User>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackScript {
    pub name: String,
    pub script: Script,
    pub interval: Duration,
    /// A run longer than this has failed; `None`: the interval.
    pub timeout: Option<Duration>,
    pub weight: Weight,
    /// Successes in a row until it counts as up.
    pub rise: u32,
    /// Failures in a row until it counts as down.
    pub fall: u32,
    /// Down until it has succeeded.
    pub init_fail: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackProcess {
    pub name: String,
    /// Name of the process, or the whole command line if `full_command`.
    pub process: String,
    pub full_command: bool,
    pub quorum: u32,
    pub weight: Weight,
    pub delay: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackFile {
    pub name: String,
    pub file: String,
    pub weight: Weight,
}

/// What a tracked thing does to the priority: -253 to 253. Zero: its failure is a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weight {
    pub value: i32,
    /// Up counts as down and the other way round.
    pub reverse: bool,
}

/// A reference to something tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    pub name: String,
    /// `None`: the weight given where it is defined.
    pub weight: Option<Weight>,
}

/// What an instance or a group watches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tracking {
    pub interfaces: Vec<Track>,
    pub scripts: Vec<Track>,
    pub files: Vec<Track>,
    pub processes: Vec<Track>,
}

/// Scripts run on changes of state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notify {
    pub master: Option<Script>,
    pub backup: Option<Script>,
    pub fault: Option<Script>,
    pub stop: Option<Script>,
    /// On every change, with four arguments more: INSTANCE or GROUP, name, state, priority.
    pub any: Option<Script>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncGroup {
    pub name: String,
    /// Names of instances.
    pub members: Vec<String>,
    pub tracking: Tracking,
    pub notify: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrrpInstance {
    pub name: String,
    /// Written in the file, without effect on who becomes active: only priorities decide.
    pub state_master: bool,
    pub interface: String,
    /// 1 to 255.
    pub virtual_router_id: u8,
    /// 1 to 255; 255 owns the addresses.
    pub priority: u8,
    pub advert_int: Duration,
    pub version: Version,
    pub auth_pass: Option<Secret>,
    pub virtual_ipaddress: Vec<VirtualAddress>,
    /// On the interface with the others, but not in adverts.
    pub virtual_ipaddress_excluded: Vec<VirtualAddress>,
    pub virtual_routes: Vec<VirtualRoute>,
    /// Source of adverts; `None`: the interface's first address.
    pub source: Option<IpAddr>,
    pub unicast_peer: Vec<IpAddr>,
    /// TTL of unicast adverts.
    pub unicast_ttl: u8,
    /// Lowest TTL accepted: 255, or what unicast peers are configured with.
    pub min_ttl: u8,
    pub preempt: bool,
    pub preempt_delay: Duration,
    /// Missed adverts until the active router counts as dead.
    pub down_timer_adverts: u8,
    /// Addresses stand on a macvlan with the virtual router's MAC, 00:00:5e:00:01:VRID (IPv6: 02).
    pub use_vmac: Option<Vmac>,
    /// Version 3 over IPv4 without the pseudo-header in the checksum, as RFC 9568 has it.
    pub checksum_without_pseudo_header: Option<bool>,
    pub garp: AnnounceConfig,
    /// A link that is down does not matter.
    pub dont_track_primary: bool,
    pub tracking: Tracking,
    pub notify: Notify,
    /// How long a planned stop keeps the addresses for the peer to take over; `None`: three
    /// adverts. Zero: not at all, as keepalived.
    pub stop_hold: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vmac {
    /// Name of the macvlan interface; `vrrp.VRID` (IPv6: `vrrp6.VRID`) if `None`.
    pub name: Option<String>,
    /// Adverts go out of the interface itself, with its own MAC.
    pub xmit_base: bool,
}

/// A route that is there while the virtual router is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualRoute {
    /// Where to; the unspecified address with prefix 0 is the default route.
    pub to: IpAddr,
    pub prefix: u8,
    pub via: Option<IpAddr>,
    pub dev: Option<String>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    pub metric: Option<u32>,
    /// 254 is `main`.
    pub table: u32,
    /// Packets there are dropped in silence.
    pub blackhole: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualAddress {
    pub address: IpAddr,
    /// 32 or 128 unless given.
    pub prefix: u8,
    /// The instance's interface if `None`.
    pub dev: Option<String>,
    pub label: Option<String>,
    pub broadcast: Option<IpAddr>,
    /// rtnetlink's number: 0 global, 200 site, 253 link, 254 host, 255 nowhere.
    pub scope: u8,
}

/// Several addresses or marks that are one virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerGroup {
    pub name: String,
    pub vips: Vec<SocketAddr>,
    pub fwmarks: Vec<u32>,
}

/// What traffic a virtual server takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceId {
    /// Port 0: all ports.
    Vip(SocketAddr),
    Fwmark(u32),
    /// The name of a [`ServerGroup`].
    Group(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// How a connection gets its real server. keepalived's and IPVS's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheduler {
    Rr,
    Wrr,
    Lc,
    Wlc,
    Lblc,
    Lblcr,
    Dh,
    Sh,
    /// Maglev.
    Mh,
    Sed,
    Nq,
    Fo,
    Ovf,
    Twos,
}

impl Scheduler {
    pub(crate) const ALL: [(&'static str, Self); 14] = [
        ("rr", Self::Rr),
        ("wrr", Self::Wrr),
        ("lc", Self::Lc),
        ("wlc", Self::Wlc),
        ("lblc", Self::Lblc),
        ("lblcr", Self::Lblcr),
        ("dh", Self::Dh),
        ("sh", Self::Sh),
        ("mh", Self::Mh),
        ("sed", Self::Sed),
        ("nq", Self::Nq),
        ("fo", Self::Fo),
        ("ovf", Self::Ovf),
        ("twos", Self::Twos),
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, s)| *s == self).map_or("?", |(name, _)| name)
    }
}

/// Options of the hashing schedulers `sh` and `mh`, as IPVS has them: `mh-port`, `mh-fallback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashOptions {
    /// The client's port counts too.
    pub port: bool,
    /// If the server found takes no connections, another one does.
    pub fallback: bool,
}

/// How a packet gets to its real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// Direct routing: the real server's MAC, nothing else changed.
    Dr,
    Nat,
    Tun,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualServer {
    pub id: ServiceId,
    pub protocol: Protocol,
    pub lb_algo: Scheduler,
    pub lb_kind: Forwarding,
    pub hash: HashOptions,
    pub persistence_timeout: Option<Duration>,
    /// Clients that are the same in so many bits are one client; `None`: in all.
    pub persistence_granularity: Option<u8>,
    /// One-packet scheduling (UDP).
    pub ops: bool,
    /// Real servers start as down and come up with their first good check.
    pub alpha: bool,
    /// Run `quorum_down` and `notify_down` on stopping.
    pub omega: bool,
    /// Weight of servers that must be up.
    pub quorum: u32,
    pub hysteresis: u32,
    pub quorum_up: Option<Script>,
    pub quorum_down: Option<Script>,
    pub sorry_server: Option<SocketAddr>,
    pub sorry_server_inhibit: bool,
    /// `None`: the virtual server's.
    pub sorry_server_lvs_method: Option<Forwarding>,
    /// Host header of HTTP checks.
    pub virtualhost: Option<String>,
    /// How long a real server that came up takes to its full weight; zero: it has it at once.
    pub slow_start: Duration,
    pub real_servers: Vec<RealServer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealServer {
    pub address: SocketAddr,
    /// Zero: no new connections.
    pub weight: u32,
    /// No new connections once it has so many; 0: no limit.
    pub uthreshold: u32,
    /// New connections again once it has fewer than so many; 0: three quarters of `uthreshold`.
    pub lthreshold: u32,
    pub lb_kind: Option<Forwarding>,
    /// A failed server gets weight 0 instead of being removed.
    pub inhibit_on_failure: bool,
    pub notify_up: Option<Script>,
    pub notify_down: Option<Script>,
    /// All must be good for the server to be up. None: always up.
    pub checks: Vec<Check>,
}

/// One health check with the timing that applies to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub kind: CheckKind,
    /// Where to connect to.
    pub target: SocketAddr,
    pub bind: Option<SocketAddr>,
    pub delay_loop: Duration,
    pub connect_timeout: Duration,
    /// Failures in a row that are forgiven.
    pub retry: u32,
    /// Successes in a row until it counts as good again; keepalived has 1.
    pub rise: u32,
    pub delay_before_retry: Duration,
    /// The first check waits a random part of this; `None`: of `delay_loop`.
    pub warmup: Option<Duration>,
    pub alpha: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    Tcp,
    Http {
        tls: bool,
        sni: bool,
        http_1_1: bool,
        /// Host header for URLs without one of their own.
        virtualhost: Option<String>,
        urls: Vec<CheckUrl>,
    },
    Smtp {
        helo_name: String,
    },
    Dns {
        /// A, NS, CNAME, SOA, MX, TXT or AAAA.
        record: String,
        name: String,
    },
    Udp {
        payload: Vec<u8>,
        require_reply: bool,
    },
    Ping,
    Misc {
        script: Script,
        timeout: Option<Duration>,
        /// Exit codes from 2 up set the weight.
        dynamic: bool,
    },
    File {
        /// Name of a [`TrackFile`].
        track_file: String,
        /// Its path; empty while the configuration is being read.
        path: String,
        /// `None`: the file's own.
        weight: Option<Weight>,
        /// The real server's weight, which a number in the file changes.
        base: u32,
    },
    /// Ours: see `docs`.
    Mysql {
        user: Option<String>,
        password: Option<Secret>,
        role: MysqlRole,
        max_lag: Option<Duration>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MysqlRole {
    Any,
    Primary,
    Replica,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckUrl {
    pub path: String,
    /// MD5 of the body, 32 hex digits.
    pub digest: Option<String>,
    /// Inclusive ranges; empty: 200 to 299, unless a digest or regex is asked for.
    pub status_code: Vec<(u16, u16)>,
    pub virtualhost: Option<String>,
    pub regex: Option<String>,
    pub regex_no_match: bool,
}
