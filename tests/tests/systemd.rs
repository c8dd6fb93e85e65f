//! The units of `config/systemd` and `pointsman realserver`, under a systemd that boots in namespaces
//! of its own.
//!
//! Skips, saying so, where it is not root or there is no systemd.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pointsman_sandbox::{
    APP_PASSWORD, APP_USER, Host, MONITOR_PASSWORD, MONITOR_USER, Options, Sandbox,
};
use pointsman_tests::machine::{Machine, unable};
use pointsman_tests::reference::{Network, address};
use pointsman_tests::{LONG, pointsman, wait_until};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 4, 253);
const POINTSMAN: &str = "/usr/local/bin/pointsman";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A machine with `pointsman`, and a unit of `config/systemd` that is not enabled yet.
fn machine(name: &str, unit: Option<&str>) -> Option<Machine> {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return None;
    }
    let machine = Machine::new(name).unwrap();
    machine.install(pointsman(), POINTSMAN).unwrap();
    if let Some(unit) = unit {
        let file = repository("config/systemd").join(unit);
        machine.install(&file, &format!("/etc/systemd/system/{unit}")).unwrap();
    }
    Some(machine)
}

fn main_pid(machine: &Machine, unit: &str) -> u32 {
    let said = machine.output("systemctl", &["show", "-P", "MainPID", unit]).unwrap();
    said.trim().parse().unwrap()
}

#[track_caller]
fn wait(machine: &Machine, unit: &str, what: &str, done: impl FnMut() -> bool) {
    let mut done = done;
    let result = wait_until(what, LONG, || Ok(done()));
    assert!(result.is_ok(), "{result:?}\n{}", machine.journal(unit));
}

#[test]
fn a_real_servers_address_is_kept_over_a_reboot_until_it_is_taken_back() {
    let Some(mut machine) = machine("realserver", None) else { return };
    let vips = ["192.168.4.253", "192.168.4.252", "fd00::253"];
    let realserver = |machine: &Machine, action: &str, vip: &str| {
        machine.run(POINTSMAN, &["realserver", action, "--vip", vip]).unwrap()
    };
    let ready = |machine: &Machine, vip: &str| realserver(machine, "check", vip).status.success();
    let settings = |machine: &Machine| {
        let names = ["all.arp_ignore", "lo.arp_ignore", "all.arp_announce", "lo.arp_announce"];
        names.map(|name| {
            let name = format!("net.ipv4.conf.{name}");
            machine.output("sysctl", &["-n", &name]).unwrap().trim().to_owned()
        })
    };
    machine.boot().unwrap();
    let before = settings(&machine);
    for vip in vips {
        assert!(!ready(&machine, vip));
        let up = realserver(&machine, "up", vip);
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        assert!(ready(&machine, vip));
    }
    let begin = Instant::now();
    machine.reboot().unwrap();
    println!("down and up again in {} ms", begin.elapsed().as_millis());
    assert!(vips.iter().all(|vip| ready(&machine, vip)));
    assert_eq!(settings(&machine), ["1", "1", "2", "2"]);

    // The unit can be stopped and started like any other.
    let unit = "pointsman-realserver-192.168.4.252.service";
    machine.output("systemctl", &["stop", unit]).unwrap();
    assert!(!ready(&machine, vips[1]) && ready(&machine, vips[0]));
    machine.output("systemctl", &["start", unit]).unwrap();
    assert!(ready(&machine, vips[1]));

    for vip in vips {
        assert!(realserver(&machine, "down", vip).status.success());
        assert!(!ready(&machine, vip));
    }
    assert_eq!(settings(&machine), before);
    let left = "find /etc/systemd /run/systemd -name '*pointsman*'; \
                systemctl list-units --all --no-legend 'pointsman*'";
    assert_eq!(machine.output("sh", &["-c", left]).unwrap(), "");
    machine.reboot().unwrap();
    assert_eq!(settings(&machine), before);
    let lo = machine.output("ip", &["-br", "addr", "show", "dev", "lo"]).unwrap();
    assert!(!lo.contains("253"), "{lo}");
    assert_eq!(machine.output("sh", &["-c", left]).unwrap(), "");
}

/// A web server behind the virtual address, a client that asks it without pause, a peer, and a
/// director under systemd.
struct Front {
    machine: Machine,
    network: Network,
    web: Arc<AtomicBool>,
}

const UNIT: &str = "pointsman-director.service";
const GONE: &str = "/usr/local/bin/gone";
const LATE: &str = "mkdir /run/systemd/system/pointsman-director.service.d && \
                    printf '[Service]\nExecStartPre=sleep 6\n' \
                    > /run/systemd/system/pointsman-director.service.d/late.conf && \
                    systemctl daemon-reload";
const NOT_LATE: &str =
    "rm -r /run/systemd/system/pointsman-director.service.d && systemctl daemon-reload";
const DIRECTOR: u8 = 88;
const PEER: u8 = 99;
const WEB: [u8; 2] = [33, 44];
const CLIENT: u8 = 254;

impl Front {
    fn start() -> Option<Self> {
        let mut machine = machine("director", Some(UNIT))?;
        let file = repository("config/site/keepalived-88.conf");
        machine.install(&file, "/etc/keepalived/keepalived.conf").unwrap();
        let network = Network::new(&[CLIENT, PEER, WEB[0], WEB[1]]).unwrap();
        machine.boot().unwrap();
        network.plug(DIRECTOR, machine.pid().unwrap()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        for host in WEB {
            let mut up = network.command(host, pointsman());
            let root = tempfile::tempdir().unwrap();
            up.args(["realserver", "up", "--no-persist", "--vip", &VIP.to_string(), "--root"]);
            assert!(up.arg(root.path()).status().unwrap().success());
            let stop = Arc::clone(&stop);
            network.thread(host, move || serve(&stop)).unwrap();
        }
        Some(Self { machine, network, web: stop })
    }

    fn systemctl(&self, args: &[&str]) {
        self.machine.output("systemctl", args).unwrap();
    }

    fn holds(&self) -> bool {
        let shown = self.machine.output("ip", &["-br", "-4", "addr", "show", "dev", "eth0"]);
        shown.unwrap().contains(&format!(" {VIP}/"))
    }

    fn peer_holds(&self) -> bool {
        self.network.holds(PEER, VIP).unwrap()
    }

    #[track_caller]
    fn wait(&self, what: &str, done: impl FnMut() -> bool) {
        wait(&self.machine, UNIT, what, done);
    }

    fn peer(&self, dir: &Path) -> std::process::Child {
        let mut command = self.network.command(PEER, pointsman());
        command.args(["director", "--config"]).arg(repository("config/site/keepalived-99.conf"));
        let log = std::fs::File::create(dir.join("peer.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let peer = pointsman_sandbox::spawn(command).unwrap();
        // From then on it hears what is said to it.
        self.wait("the peer is backup", || {
            let said = std::fs::read_to_string(dir.join("peer.log"));
            said.is_ok_and(|said| said.contains("INIT -> BACKUP"))
        });
        peer
    }

    /// Restarts the director in place; the longest time between two answers meanwhile. `None` if this
    /// machine is so busy that no process starts before the guard lets go, as it should then.
    fn restart(&self) -> Option<Duration> {
        let starts = || self.machine.journal(UNIT).matches("INIT -> ").count();
        for _ in 0..4 {
            let (pid, before) = (main_pid(&self.machine, UNIT), starts());
            let (mut in_place, mut started) = (true, None);
            let gap = self.gap(|_| {
                let begin = Instant::now();
                self.systemctl(&["restart", "--no-block", UNIT]);
                while begin.elapsed() < Duration::from_secs(5) || started.is_none() {
                    let (here, there) = (self.holds(), self.peer_holds());
                    assert!(!(here && there), "two hold the address");
                    in_place &= here;
                    if started.is_none() && starts() > before {
                        started = Some(begin.elapsed());
                    }
                    assert!(begin.elapsed() < LONG, "{}", self.machine.journal(UNIT));
                }
            });
            assert_ne!(main_pid(&self.machine, UNIT), pid);
            let log = self.machine.journal(UNIT);
            if in_place {
                assert!(log.contains("restarted in place"), "{log}");
                assert!(gap < Duration::from_secs(1), "{gap:?}\n{log}");
                return Some(gap);
            }
            assert!(started > Some(Duration::from_secs(9)), "{started:?}\n{log}");
            self.wait("it takes the address back", || self.holds() && !self.peer_holds());
        }
        None
    }

    /// The longest time between two answers while `work` is done, as the client sees it.
    fn gap(&self, work: impl FnOnce(&Answers)) -> Duration {
        let answers = Arc::new(Answers::default());
        let ask = {
            let answers = Arc::clone(&answers);
            move || longest_gap(&answers)
        };
        let client = self.network.thread(CLIENT, ask).unwrap();
        work(&answers);
        answers.enough.store(true, Ordering::Relaxed);
        client.join().unwrap().unwrap()
    }
}

/// What a client gets that asks without pause.
#[derive(Default)]
struct Answers {
    count: AtomicUsize,
    enough: AtomicBool,
}

impl Answers {
    /// Waits for one that was asked for after now.
    fn next(&self) {
        let before = self.count.load(Ordering::Relaxed);
        // The first one may have been under way.
        let came = || Ok(self.count.load(Ordering::Relaxed) > before + 1);
        wait_until("an answer", LONG, came).unwrap();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.web.store(true, Ordering::Relaxed);
    }
}

fn tell(what: &str, gap: Option<Duration>) {
    match gap {
        Some(gap) => println!("{what}: the longest time without an answer: {} ms", gap.as_millis()),
        None => println!("{what}: not seen in place, this machine is too busy"),
    }
}

fn serve(stop: &AtomicBool) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let _ = stream.write_all(b"here");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn longest_gap(answers: &Answers) -> Duration {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !answers.enough.load(Ordering::Relaxed) {
        let answer = || -> std::io::Result<()> {
            let limit = Duration::from_millis(100);
            let to = SocketAddr::from((VIP, 80));
            let mut stream = std::net::TcpStream::connect_timeout(&to, limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.read_exact(&mut [0; 4])
        };
        if answer().is_ok() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            answers.count.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    longest.max(last.elapsed())
}

#[test]
fn a_director_is_started_reloaded_killed_restarted_and_stopped() {
    let Some(front) = Front::start() else { return };
    let machine = &front.machine;
    let both = || (front.holds(), front.peer_holds());

    front.systemctl(&["enable", "--now", UNIT]);
    front.wait("the address is there", || front.holds());
    front.wait("the status says so", || {
        machine.output(POINTSMAN, &["status"]).is_ok_and(|status| status.contains("MASTER"))
    });
    // Seen by every way there is.
    for (view, words) in
        [("servers", "192.168.4.33:80"), ("events", "BACKUP -> MASTER: no active router was heard")]
    {
        let shown = machine.output(POINTSMAN, &[view]).unwrap();
        assert!(shown.contains(words), "{view}: {shown}");
    }
    let metrics = machine.output("curl", &["-sS", "http://127.0.0.1:8989/metrics"]).unwrap();
    for line in [
        "pointsman_vrrp_state{instance=\"VI_1\"} 2",
        "pointsman_vrrp_transitions_total{instance=\"VI_1\",to=\"master\"} 1",
        "pointsman_vrrp_adverts_total{direction=\"sent\",instance=\"VI_1\"}",
        "pointsman_real_server_up{port=\"80\",protocol=\"tcp\",real_server=\"192.168.4.33:80\",vip=\"192.168.4.253\"} 1",
        "pointsman_virtual_server_connections_total{port=\"80\",protocol=\"tcp\",\
         real_server=\"192.168.4.44:80\",vip=\"192.168.4.253\"}",
        "pointsman_virtual_server_current_connections{",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut peer = front.peer(dir.path());

    // Another address by a reload; with a broken file the reload fails, saying where.
    let file = "/etc/keepalived/keepalived.conf";
    machine.output("sed", &["-i", "s/^.*192.168.4.253$/&\\n192.168.4.251/", file]).unwrap();
    front.systemctl(&["reload", UNIT]);
    let eth0 = machine.output("ip", &["-br", "addr", "show", "dev", "eth0"]).unwrap();
    assert!(eth0.contains("192.168.4.251/"), "{eth0}");
    machine
        .output(
            "sed",
            &["-i", "/192.168.4.251$/d; s/virtual_router_id .*/virtual_router_id 0/", file],
        )
        .unwrap();
    assert!(!machine.run("systemctl", &["reload", UNIT]).unwrap().status.success());
    let said = machine.journal(UNIT);
    assert!(said.contains("keepalived.conf:") && front.holds(), "{said}");
    machine.output("sed", &["-i", "s/virtual_router_id 0/virtual_router_id 51/", file]).unwrap();
    front.systemctl(&["reload", UNIT]);

    // kill -9: the guard takes the address away, the peer takes over, systemd starts another.
    let killed = main_pid(machine, UNIT);
    let began = Instant::now();
    let gap = front.gap(|answers| {
        front.systemctl(&["kill", "-s", "KILL", "--kill-who=main", UNIT]);
        front.wait("the peer has it", || {
            let (here, there) = both();
            assert!(!(here && there), "two hold the address");
            there
        });
        println!("kill -9: the peer has the address after {} ms", began.elapsed().as_millis());
        answers.next();
    });
    println!("kill -9: the longest time without an answer: {} ms", gap.as_millis());
    let said = std::fs::read_to_string(dir.path().join("peer.log")).unwrap();
    assert!(gap < Duration::from_secs(3), "{gap:?}\n{said}");
    // By the guard, with the daemon dead.
    assert!(said.contains("BACKUP -> MASTER: the active router stopped"), "{said}");
    front.wait("another process", || ![0, killed].contains(&main_pid(machine, UNIT)));
    front.wait("it takes the address back", || both() == (true, false));

    // A restart in place: the peer does not notice, and the client hardly.
    tell("restarted", front.restart());

    // The next process takes longer to begin than the peer waits: the guard speaks for it.
    machine.output("sh", &["-c", LATE]).unwrap();
    tell("restarted, six seconds late", front.restart());
    machine.output("sh", &["-c", NOT_LATE]).unwrap();

    // With a file that can't be used it stops in good order instead.
    machine.output("sed", &["-i", "s/virtual_router_id 51/virtual_router_id 0/", file]).unwrap();
    let gap = front.gap(|answers| {
        machine.run("systemctl", &["restart", UNIT]).unwrap();
        front.wait("the peer has it", || both() == (false, true));
        answers.next();
    });
    println!("restarted with a broken file: the longest time without an answer: {gap:?}");
    let log = machine.journal(UNIT);
    assert!(log.contains("no restart in place: the configuration can't be run"), "{log}");
    assert!(gap < Duration::from_secs(1), "{gap:?}\n{log}");
    machine.output("sed", &["-i", "s/virtual_router_id 0/virtual_router_id 51/", file]).unwrap();
    front.systemctl(&["start", UNIT]);
    front.wait("it takes the address back", || both() == (true, false));

    // The next process does not come: the guard lets go in time.
    machine.output("mv", &[POINTSMAN, GONE]).unwrap();
    let began = Instant::now();
    front.systemctl(&["restart", "--no-block", UNIT]);
    front.wait("the peer has it", || {
        let (here, there) = both();
        assert!(!(here && there), "two hold the address");
        there
    });
    println!(
        "restarted in vain: the peer has the address after {} ms",
        began.elapsed().as_millis()
    );
    machine.output("mv", &[GONE, POINTSMAN]).unwrap();
    front.wait("it takes the address back", || both() == (true, false));

    // A planned stop: without a gap, and nothing stays.
    let gap = front.gap(|answers| {
        front.systemctl(&["disable", "--now", UNIT]);
        front.wait("the peer has it", || both() == (false, true));
        answers.next();
    });
    println!("stopped: the longest time without an answer: {} ms", gap.as_millis());
    assert!(gap < Duration::from_secs(1), "{gap:?}");
    front.wait("the guard has gone too", || {
        !machine.run("pgrep", &["-f", POINTSMAN]).unwrap().status.success()
    });
    let state = machine.run("systemctl", &["is-enabled", UNIT]).unwrap();
    assert_eq!(String::from_utf8_lossy(&state.stdout).trim(), "disabled");
    let _ = peer.kill();
    let _ = peer.wait();

    // All alone. keepalived's unit, once started, ends ours.
    front.systemctl(&["start", UNIT]);
    front.wait("the address is there", || front.holds());
    tell("restarted alone", front.restart());
    if machine.run("systemctl", &["start", "keepalived"]).is_ok_and(|o| o.status.success()) {
        front.wait("ours has ended", || {
            !machine.run("systemctl", &["is-active", "--quiet", UNIT]).unwrap().status.success()
        });
    }
}

#[test]
fn a_proxy_is_started_reloaded_killed_restarted_and_stopped() {
    const UNIT: &str = "pointsman-proxy.service";
    let Some(mut machine) = machine("proxy", Some(UNIT)) else { return };
    let network = Network::new(&[CLIENT, 11, 22]).unwrap();
    let host = |host| Host { address: address(host), namespace: Some(network.namespace(host)) };
    let hosts = vec![host(11), host(22)];
    let _databases = Sandbox::start(Options { hosts, ..Options::default() }).unwrap();
    let servers: String = [11, 22]
        .map(|host| {
            format!("[[server]]\nname = \"db{host}\"\naddress = \"{}:3306\"\n", address(host))
        })
        .concat();
    let config = format!(
        "[[listener]]\naddress = \"0.0.0.0:306\"\n[monitor]\nuser = \"{MONITOR_USER}\"\n\
         password = \"{MONITOR_PASSWORD}\"\n{servers}"
    );
    machine.install_text(&config, "/etc/pointsman/proxy.toml").unwrap();
    machine.boot().unwrap();
    network.plug(DIRECTOR, machine.pid().unwrap()).unwrap();
    machine.output("useradd", &["--system", "pointsman"]).unwrap();
    machine.output("chown", &["root:pointsman", "/etc/pointsman/proxy.toml"]).unwrap();
    machine.output("chmod", &["640", "/etc/pointsman/proxy.toml"]).unwrap();

    let ask = || {
        let target = format!("--host={}", address(DIRECTOR));
        let (user, password) = (format!("--user={APP_USER}"), format!("--password={APP_PASSWORD}"));
        let mut client = network.command(CLIENT, Path::new("mariadb"));
        client.args([
            "--no-defaults",
            &target,
            "--port=306",
            &user,
            &password,
            "--connect-timeout=5",
        ]);
        let output = client.args(["--skip-ssl", "-Ne", "SELECT 41 + 1"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim() == "42"
    };
    machine.output("systemctl", &["enable", "--now", UNIT]).unwrap();
    wait(&machine, UNIT, "it serves", ask);
    let first = main_pid(&machine, UNIT);
    let user = machine.output("ps", &["-o", "user=", "-p", &first.to_string()]).unwrap();
    assert_eq!(user.trim(), "pointsman".get(..user.trim().len()).unwrap());
    machine.output("systemctl", &["reload", UNIT]).unwrap();
    assert_eq!(main_pid(&machine, UNIT), first);

    machine.output("systemctl", &["kill", "-s", "KILL", UNIT]).unwrap();
    let began = Instant::now();
    wait(&machine, UNIT, "it serves again", ask);
    println!("kill -9: serves again after {} ms", began.elapsed().as_millis());
    assert_ne!(main_pid(&machine, UNIT), first);

    // What can't be used is not tried again and again.
    machine.output("sed", &["-i", "s/^password/pasword/", "/etc/pointsman/proxy.toml"]).unwrap();
    assert!(!machine.run("systemctl", &["reload", UNIT]).unwrap().status.success());
    assert!(ask(), "it goes on as it was");
    machine.run("systemctl", &["restart", UNIT]).unwrap();
    wait(&machine, UNIT, "it has failed", || {
        !machine.run("systemctl", &["is-active", "--quiet", UNIT]).unwrap().status.success()
    });
    assert!(machine.journal(UNIT).contains("did you mean `password`"), "{}", machine.journal(UNIT));
    machine.output("sed", &["-i", "s/^pasword/password/", "/etc/pointsman/proxy.toml"]).unwrap();

    machine.output("systemctl", &["start", UNIT]).unwrap();
    wait(&machine, UNIT, "it serves", ask);
    let began = Instant::now();
    machine.output("systemctl", &["disable", "--now", UNIT]).unwrap();
    println!("stopped after {} ms", began.elapsed().as_millis());
    assert!(!ask());
    let left = machine.run("pgrep", &["-f", POINTSMAN]).unwrap();
    assert!(!left.status.success(), "{}", String::from_utf8_lossy(&left.stdout));
}
