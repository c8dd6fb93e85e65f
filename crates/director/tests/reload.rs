//! A director that gets a new configuration while it holds the address and connections run.
//!
//! Skips, saying so, where it is not root or nginx is not installed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::path::PathBuf;
use std::time::Duration;

use lab::{Daemon, Lab, Prober, VIP, able, eventually};

const CLIENT: u8 = 254;
const SECOND_VIP: &str = "192.168.4.252";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A web server that answers its name at port 80, and `big`, for both virtual addresses.
fn web(lab: &Lab, host: u8) -> Daemon {
    for setting in
        ["lo.arp_ignore=1", "all.arp_ignore=1", "lo.arp_announce=2", "all.arp_announce=2"]
    {
        lab.output(host, "sysctl", &["-q", "-w", &format!("net.ipv4.conf.{setting}")]);
    }
    for vip in [VIP, SECOND_VIP] {
        lab.output(host, "ip", &["addr", "add", &format!("{vip}/32"), "dev", "lo"]);
    }
    let dir = lab.dir.path().join(format!("web{host}"));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("test.html"), format!("web{host}\n")).unwrap();
    std::fs::File::create(dir.join("big")).unwrap().set_len(40 << 20).unwrap();
    let d = dir.display();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {d}/pid;\nerror_log {d}/error.log;\n\
         events {{}}\nhttp {{\n access_log off;\n client_body_temp_path {d}/a;\n proxy_temp_path {d}/b;\n\
         fastcgi_temp_path {d}/c;\n uwsgi_temp_path {d}/d;\n scgi_temp_path {d}/e;\n\
         server {{ listen 80; root {d}; }}\n}}\n"
    );
    let file = lab.write(&format!("nginx-{host}.conf"), &config);
    let mut command = lab.command(host, "nginx");
    command.arg("-c").arg(file).args(["-e", dir.join("early.log").to_str().unwrap()]);
    Daemon::start(command, dir.join("out.log"))
}

fn get(lab: &Lab, vip: &str) -> String {
    let url = format!("http://{vip}/test.html");
    lab.output(CLIENT, "curl", &["-sS", "--max-time", "2", &url]).trim().to_owned()
}

fn instance(name: &str, vrid: u8, vips: &[&str]) -> String {
    format!(
        "vrrp_instance {name} {{\n interface eth0\n version 3\n advert_int 0.1\n \
         virtual_router_id {vrid}\n priority 150\n virtual_ipaddress {{\n {}\n }}\n}}\n",
        vips.join("\n ")
    )
}

fn service(vip: &str, servers: &[(u8, u8)]) -> String {
    let mut text =
        format!("virtual_server {vip} 80 {{\n lb_algo rr\n lb_kind DR\n delay_loop 0.2\n");
    for (host, weight) in servers {
        text += &format!(
            " real_server 192.168.4.{host} 80 {{\n weight {weight}\n TCP_CHECK {{\n \
             connect_timeout 1\n retry 0\n }}\n }}\n"
        );
    }
    text + "}\n"
}

struct Reloadable<'a> {
    lab: &'a Lab,
    director: Daemon,
}

impl Reloadable<'_> {
    /// Writes another configuration, sends SIGHUP, and waits for the log to say `what` once more.
    fn reload(&self, config: &str, what: &str) {
        self.lab.write("director-88.conf", config);
        let count = || self.director.log().matches(what).count();
        let before = count();
        self.director.signal(libc::SIGHUP);
        assert!(eventually(seconds(5), || count() > before), "{}", self.director.log());
    }

    /// Begins to fetch a large file, which goes where it says; returns when that is on its way.
    fn download(&self) -> (Daemon, PathBuf) {
        let body = self.lab.dir.path().join("body");
        let mut curl = self.lab.command(CLIENT, "curl");
        let url = format!("http://{VIP}/big");
        curl.args(["-sS", "--limit-rate", "8M", "--max-time", "40", &url, "-o"]).arg(&body);
        let download = Daemon::start(curl, self.lab.dir.path().join("download.log"));
        let begun = || std::fs::metadata(&body).is_ok_and(|m| m.len() > 1 << 20);
        assert!(eventually(seconds(10), begun), "{}", self.director.log());
        (download, body)
    }

    fn holds(&self, vip: &str) -> bool {
        let shown = self.lab.output(88, "ip", &["-br", "addr", "show"]);
        shown.split_whitespace().any(|w| w.split('/').next() == Some(vip))
    }
}

#[test]
fn what_changes_takes_effect_and_what_stays_is_not_disturbed() {
    if !able(&["nginx", "curl"]) {
        return;
    }
    let lab = Lab::new(&[CLIENT, 88, 33, 44]);
    let _web = [web(&lab, 33), web(&lab, 44)];
    let first = instance("VI_1", 51, &[VIP]) + &service(VIP, &[(33, 1)]);
    let site = Reloadable { lab: &lab, director: lab.director(88, &first) };
    assert!(eventually(seconds(5), || get(&lab, VIP) == "web33"), "{}", site.director.log());

    // Both go on through all that follows.
    let prober = Prober::start(&lab, CLIENT, VIP, Duration::from_millis(5));
    let (mut download, body) = site.download();

    // Another real server.
    let two = instance("VI_1", 51, &[VIP]) + &service(VIP, &[(33, 1), (44, 1)]);
    site.reload(&two, "reloaded: ");
    assert!(eventually(seconds(3), || get(&lab, VIP) != get(&lab, VIP)), "{}", site.director.log());

    // Another address for the same virtual router, another virtual router with a MAC of its own and
    // so another interface, another service; the first server drains.
    let more = instance("VI_1", 51, &[VIP, "192.168.4.251"])
        + &instance("VI_2", 52, &[SECOND_VIP]).replace(" interface", " use_vmac\n interface")
        + &service(VIP, &[(33, 0), (44, 1)])
        + &service(SECOND_VIP, &[(44, 1)]);
    site.reload(&more, "1 added, 1 changed, 0 removed");
    assert!(site.director.log().contains("packets are taken on vrrp.52 too"));
    assert!(site.holds("192.168.4.251") && site.holds(VIP));
    assert!(eventually(seconds(5), || get(&lab, SECOND_VIP) == "web44"), "{}", site.director.log());
    for _ in 0..4 {
        assert_eq!(get(&lab, VIP), "web44");
    }

    // A broken file changes nothing, and says where it is broken.
    let broken = more.replace("virtual_router_id 52", "virtual_router_id 0");
    site.reload(&broken, "director-88.conf:");
    assert!(site.holds(VIP) && site.holds(SECOND_VIP) && site.holds("192.168.4.251"));
    site.reload(&more.replace("lb_kind DR", "lb_kind NAT"), "not reloaded, nothing was changed");
    assert_eq!(get(&lab, SECOND_VIP), "web44");

    // All but the first is gone again, and its address with it.
    site.reload(&two, "0 added, 1 changed, 1 removed");
    assert!(eventually(seconds(3), || !site.holds(SECOND_VIP)), "{}", site.director.log());
    assert!(!site.holds("192.168.4.251") && site.holds(VIP));

    assert!(download.child.wait().unwrap().success(), "the download broke");
    assert_eq!(std::fs::metadata(&body).unwrap().len(), 40 << 20);
    let gap = prober.longest_gap();
    println!("the longest time without an answer of the address: {gap:?}");
    assert!(gap < Duration::from_millis(500), "{gap:?}\n{}", site.director.log());
    let log = site.director.log();
    assert_eq!(log.matches("VI_1: BACKUP -> MASTER").count(), 1, "{log}");
}

/// As in keepalived; and what is loaded then is as good as what is loaded at the start: when the
/// process is killed or restarted, the guard keeps it.
#[test]
fn the_first_virtual_server_comes_by_reload() {
    if !able(&["nginx", "curl"]) {
        return;
    }
    let lab = Lab::new(&[CLIENT, 88, 33]);
    let _web = web(&lab, 33);
    let alone = instance("VI_1", 51, &[VIP]).replace("advert_int 0.1", "advert_int 0.2");
    let mut site = Reloadable { lab: &lab, director: lab.director(88, &alone) };
    assert!(eventually(seconds(30), || site.holds(VIP)), "{}", site.director.log());
    // By hash: the next process needs no table to know where a connection goes.
    let both = alone.clone() + &service(VIP, &[(33, 1)]).replace("lb_algo rr", "lb_algo mh");
    site.reload(&both, "1 virtual servers");
    assert!(eventually(seconds(5), || get(&lab, VIP) == "web33"), "{}", site.director.log());
    // Loading takes longer than a backup would have waited for an advert, maybe; it did not matter.
    let log = site.director.log();
    assert_eq!((log.matches("BACKUP -> MASTER").count(), log.contains("MASTER ->")), (1, false));

    // All of them may go, and come again.
    site.reload(&alone, "0 virtual servers");
    site.reload(&both, "1 virtual servers");
    assert!(eventually(seconds(5), || get(&lab, VIP) == "web33"), "{}", site.director.log());

    // The process ends, and another begins: packets never came to a host without a program.
    let (mut download, body) = site.download();
    site.director.signal(libc::SIGUSR2);
    site.director.wait();
    assert!(site.director.log().contains("the addresses stay"), "{}", site.director.log());
    let length = || std::fs::metadata(&body).unwrap().len();
    let before = length();
    assert!(eventually(seconds(3), || length() > before + (2 << 20)), "nobody there, and it stops");
    site.director = lab.director(88, &both);
    assert!(download.child.wait().unwrap().success(), "the download broke");
    assert_eq!(length(), 40 << 20);
}
