//! Health checks of real programs on another host: dnsmasq, Exim, nginx with and without TLS, ping,
//! scripts and files. Each kind is seen good, bad while everything runs, down once its server is
//! stopped, and up again.
//!
//! Skips, saying so, where it is not root or a program is missing.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::traffic::{Connection, Server};
use lab::{Daemon, Lab, VIP, able, eventually};

const CLIENT: u8 = 254;
const DIRECTOR: u8 = 88;
/// The host whose programs are checked.
const HOST: u8 = 33;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// The programs of one host.
struct Programs<'a> {
    lab: &'a Lab,
    dir: PathBuf,
    running: Vec<Daemon>,
}

impl<'a> Programs<'a> {
    fn new(lab: &'a Lab) -> Self {
        let dir = lab.dir.path().join("programs");
        fs::create_dir_all(dir.join("pages")).unwrap();
        // Exim writes its files as another user than root.
        for dir in [lab.dir.path(), &dir] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            fs::set_permissions(dir, mode).unwrap();
        }
        fs::write(dir.join("pages/index.html"), "all is well\n").unwrap();
        for name in ["one.test", "two.test"] {
            certificate(&dir, name);
        }
        // There are more checks of closed ports than Linux answers otherwise.
        lab.output(HOST, "sysctl", &["-q", "-w", "net.ipv4.icmp_ratelimit=0"]);
        Self { lab, dir, running: Vec::new() }
    }

    fn start(&mut self) {
        let dir = self.dir.display();
        let nginx = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {dir}/nginx.pid;\n\
             error_log {dir}/error.log;\nevents {{}}\nhttp {{\n access_log off;\n\
             client_body_temp_path {dir}/a;\n proxy_temp_path {dir}/b;\n\
             fastcgi_temp_path {dir}/c;\n uwsgi_temp_path {dir}/d;\n scgi_temp_path {dir}/e;\n\
             server {{\n listen 80;\n root {dir}/pages;\n\
             location /moved {{ return 302 /; }}\n location /busy {{ return 503; }}\n\
             location /name {{ return 200 \"you want $host\"; }}\n }}\n\
             server {{\n listen 443 ssl default_server;\n ssl_reject_handshake on;\n }}\n{}{}}}\n",
            https(&self.dir, "one.test"),
            https(&self.dir, "two.test"),
        );
        let exim = format!(
            "keep_environment =\nlog_file_path = {dir}/exim-%s.log\nspool_directory = {dir}/spool\n\
             pid_file_path = {dir}/exim.pid\nprimary_hostname = mail.test\nhost_lookup =\n\
             rfc1413_hosts =\nlocal_interfaces = 192.168.4.{HOST}\ndaemon_smtp_ports = 25 : 26\n\
             acl_smtp_connect = greet\nacl_smtp_helo = hello\nbegin acl\n\
             greet:\n deny condition = ${{if eq{{$received_port}}{{26}}}}\n accept\n\
             hello:\n deny condition = ${{if eq{{$sender_helo_name}}{{stranger.test}}}}\n accept\n"
        );
        let nginx = self.lab.write("nginx.conf", &nginx);
        let exim = self.lab.write("exim.conf", &exim);
        let mut all = Vec::new();
        let mut command = self.lab.command(HOST, "nginx");
        command.arg("-c").arg(nginx).arg("-e").arg(self.dir.join("early.log"));
        all.push((command, "nginx"));
        let mut command = self.lab.command(HOST, "exim4");
        command.arg("-C").arg(exim).arg("-bdf");
        all.push((command, "exim"));
        let mut command = self.lab.command(HOST, "dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ]);
        // Of one domain it knows all, of the others nothing.
        command.args([
            "--user=root",
            "--pid-file",
            "--local=/test/",
            "--host-record=www.test,10.1.2.3",
        ]);
        command.args(["--mx-host=www.test,mail.test,10", "--txt-record=www.test,hello"]);
        all.push((command, "dnsmasq"));
        for (command, name) in all {
            self.running.push(Daemon::start(command, self.dir.join(format!("{name}.out"))));
        }
    }

    fn logs(&self) -> String {
        self.running.iter().map(Daemon::log).collect()
    }
}

fn https(dir: &Path, name: &str) -> String {
    let dir = dir.display();
    format!(
        " server {{\n listen 443 ssl;\n server_name {name};\n\
         ssl_certificate {dir}/{name}.crt;\n ssl_certificate_key {dir}/{name}.key;\n\
         location / {{ return 200 \"{name} for $ssl_server_name\"; }}\n }}\n"
    )
}

fn certificate(dir: &Path, name: &str) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-subj", &format!("/CN={name}"), "-keyout"])
        .arg(dir.join(format!("{name}.key")))
        .arg("-out")
        .arg(dir.join(format!("{name}.crt")))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A DNS query for A of www.test, as `payload` wants it.
const QUERY: &str = "1234 0100 0001 0000 0000 0000 03777777 0474657374 00 0001 0001";

/// Checks, the ports they go to, and what each says of a host where everything runs: good, or why
/// not. `DIR` is a directory of the test's.
const CHECKS: &[(&str, u16, &str, Result<(), &str>)] = &[
    ("TCP", 80, "TCP_CHECK {}", Ok(())),
    ("TCP", 81, "TCP_CHECK {}", Err("refused")),
    ("UDP", 53, "DNS_CHECK {\n type A\n name www.test\n }", Ok(())),
    ("UDP", 53, "DNS_CHECK {\n type MX\n name www.test\n }", Ok(())),
    ("UDP", 53, "DNS_CHECK {\n type TXT\n name www.test\n }", Ok(())),
    ("UDP", 53, "DNS_CHECK {\n type A\n name nobody.test\n }", Err("NXDOMAIN")),
    // What keepalived asks unless told otherwise: the root's SOA.
    ("UDP", 53, "DNS_CHECK {}", Err("REFUSED")),
    ("UDP", 54, "DNS_CHECK {\n type A\n name www.test\n }", Err("refused")),
    ("TCP", 25, "SMTP_CHECK {}", Ok(())),
    ("TCP", 25, "SMTP_CHECK {\n helo_name friend.test\n }", Ok(())),
    ("TCP", 25, "SMTP_CHECK {\n helo_name stranger.test\n }", Err("HELO was refused")),
    ("TCP", 26, "SMTP_CHECK {}", Err("greeting was refused")),
    ("TCP", 80, "SMTP_CHECK {}", Err("no answer in time")),
    ("UDP", 53, "UDP_CHECK {}", Ok(())),
    ("UDP", 53, "UDP_CHECK {\n payload QUERY\n require_reply\n }", Ok(())),
    ("UDP", 53, "UDP_CHECK {\n payload 00\n require_reply\n }", Err("no answer in time")),
    ("UDP", 55, "UDP_CHECK {}", Err("refused")),
    ("TCP", 80, "HTTP_GET {\n url {\n path /\n }\n }", Ok(())),
    ("TCP", 80, "HTTP_GET {\n url {\n path /\n digest DIGEST\n }\n }", Ok(())),
    (
        "TCP",
        80,
        "HTTP_GET {\n url {\n path /moved\n digest DIGEST\n }\n }",
        Err("/moved has digest"),
    ),
    ("TCP", 80, "HTTP_GET {\n url {\n path /\n regex ^all.is\n }\n }", Ok(())),
    ("TCP", 80, "HTTP_GET {\n url {\n path /moved\n status_code 302\n }\n }", Ok(())),
    ("TCP", 80, "HTTP_GET {\n url {\n path /moved\n }\n }", Err("/moved answered 302")),
    ("TCP", 80, "HTTP_GET {\n url {\n path /busy\n }\n }", Err("/busy answered 503")),
    (
        "TCP",
        80,
        "HTTP_GET {\n virtualhost shop.test\n url {\n path /name\n regex shop\n }\n }",
        Ok(()),
    ),
    (
        "TCP",
        443,
        "SSL_GET {\n enable_sni\n virtualhost one.test\n url {\n path /\n \
         regex ^one.test.for.one.test$\n }\n }",
        Ok(()),
    ),
    (
        "TCP",
        443,
        "SSL_GET {\n enable_sni\n url {\n path /\n virtualhost two.test\n \
         regex ^two.test.for.two.test$\n }\n }",
        Ok(()),
    ),
    // This nginx wants to know whom the client is looking for.
    ("TCP", 443, "SSL_GET {\n virtualhost one.test\n url {\n path /\n }\n }", Err("alert")),
    ("TCP", 80, "PING_CHECK {}", Ok(())),
    ("TCP", 80, "MISC_CHECK {\n misc_path \"DIR/script\"\n }", Ok(())),
    (
        "TCP",
        80,
        "MISC_CHECK {\n misc_path \"/bin/sh -c 'exec sleep 60'\"\n misc_timeout 1\n }",
        Err("timeout"),
    ),
    ("TCP", 80, "FILE_CHECK {\n track_file health\n weight 0\n }", Ok(())),
];

/// Each check has a virtual server, and so an address, of its own.
fn vip(number: usize) -> String {
    format!("192.168.4.{}", 100 + number)
}

fn config(lab: &Lab, digest: &str) -> String {
    let dir = lab.dir.path().display().to_string();
    let mut text = format!(
        "track_file health {{\n file \"{dir}/health\"\n}}\n\
         vrrp_instance V {{\n interface eth0\n version 3\n virtual_router_id 9\n advert_int 0.1\n\
         virtual_ipaddress {{\n {VIP}\n }}\n}}\n"
    );
    for (number, (protocol, port, check, _)) in CHECKS.iter().enumerate() {
        let check = check.replace("DIR", &dir).replace("QUERY", QUERY).replace("DIGEST", digest);
        text += &format!(
            "virtual_server {} {port} {{\n delay_loop 0.5\n connect_timeout 1\n retry 1\n\
             delay_before_retry 0.2\n lb_algo rr\n lb_kind DR\n protocol {protocol}\n\
             real_server 192.168.4.{HOST} {port} {{\n weight 1\n {check}\n }}\n}}\n",
            vip(number)
        );
    }
    text
}

/// What the log says last of each check's server: up, or why it is down.
fn verdicts(log: &str) -> Vec<Option<String>> {
    let last = |number: usize| {
        let name = format!("{}:", vip(number));
        let about = |line: &&str| line.contains(&name) && line.contains(" is ");
        let line = log.lines().rfind(about)?;
        Some(line.split(" is down: ").nth(1).unwrap_or("up").to_owned())
    };
    (0..CHECKS.len()).map(last).collect()
}

#[test]
fn each_check_tells_good_from_bad_and_follows_its_server() {
    if !able(&["nginx", "exim4", "dnsmasq", "openssl", "curl", "genhash"]) {
        return;
    }
    let lab = Lab::new(&[DIRECTOR, HOST]);
    let mut programs = Programs::new(&lab);
    programs.start();
    // keepalived's own tool says what the digest is.
    let genhash = || {
        let host = format!("192.168.4.{HOST}");
        let said = lab.output(DIRECTOR, "genhash", &["-s", &host, "-p", "80", "-u", "/"]);
        let digest = said.trim().to_owned();
        (digest.len() == 32).then_some(digest)
    };
    assert!(eventually(LONG, || genhash().is_some()), "{}", programs.logs());
    let digest = genhash().unwrap();
    let script = format!("#!/bin/sh\nexec curl -fsS --max-time 1 http://192.168.4.{HOST}/\n");
    let path = lab.write("script", &script);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    lab.write("health", "0\n");
    let config = config(&lab, &digest);
    let director = lab.director(DIRECTOR, &config);

    // What is good is never said to be anything else; what is bad is said to be so, with its reason.
    let bad_are_told = || {
        verdicts(&director.log())
            .iter()
            .zip(CHECKS)
            .all(|(said, (.., wanted))| wanted.is_ok() || said.is_some())
    };
    assert!(eventually(LONG, bad_are_told), "{}\n{}", director.log(), programs.logs());
    let tell = |number: usize, said: &Option<String>| {
        let (_, port, check, _) = CHECKS[number];
        let check = check.split_whitespace().collect::<Vec<_>>().join(" ");
        println!("{port:>4} {check}: {}", said.as_deref().unwrap_or("up"));
    };
    for (number, said) in verdicts(&director.log()).iter().enumerate() {
        tell(number, said);
        match (said, CHECKS[number].3) {
            (None, Ok(())) => {}
            (Some(said), Err(why)) => assert!(said.contains(why), "{said}: not {why}"),
            (said, wanted) => panic!("{said:?}, not {wanted:?}: {}", programs.logs()),
        }
    }

    // All stops: nobody is good any longer.
    programs.running.clear();
    lab.write("health", "1\n");
    let ping = |ignore: u8| {
        let setting = format!("net.ipv4.icmp_echo_ignore_all={ignore}");
        lab.output(HOST, "sysctl", &["-q", "-w", &setting]);
    };
    ping(1);
    let all_down =
        || verdicts(&director.log()).iter().all(|v| v.as_deref().is_some_and(|v| v != "up"));
    assert!(eventually(LONG, all_down), "{:#?}", verdicts(&director.log()));
    println!("all stopped:");
    for (number, said) in verdicts(&director.log()).iter().enumerate() {
        if CHECKS[number].3.is_ok() {
            tell(number, said);
        }
    }

    // And back.
    programs.start();
    lab.write("health", "0\n");
    ping(0);
    let back = || {
        let now = verdicts(&director.log());
        now.iter()
            .zip(CHECKS)
            .all(|(v, (.., wanted))| (v.as_deref() == Some("up")) == wanted.is_ok())
    };
    assert!(eventually(LONG, back), "{:#?}", verdicts(&director.log()));
}

/// A quorum of two, somebody who says sorry, and a slow start for who comes back.
#[test]
fn what_checks_say_decides_who_answers() {
    if !able(&[]) {
        return;
    }
    let lab = Lab::new(&[CLIENT, DIRECTOR, 33, 44, 55]);
    let _servers = [33, 44, 55].map(|host| Server::start(&lab, host));
    let mut health = [33, 44].map(|host| Some(Server::health(&lab, host)));
    let told = lab.dir.path().join("told");
    let tell = |word: &str| format!("\"/bin/sh -c 'echo {word} >> {}'\"", told.display());
    let server = |host: u8| {
        format!(
            "real_server 192.168.4.{host} 80 {{\n weight 10\n TCP_CHECK {{\n connect_port 9\n\
             connect_timeout 1\n retry 0\n }}\n }}\n"
        )
    };
    let config = |more: &str| {
        format!(
            "vrrp_instance V {{\n interface eth0\n version 3\n virtual_router_id 9\n\
             advert_int 0.1\n virtual_ipaddress {{\n {VIP}\n }}\n}}\n\
             virtual_server {VIP} 80 {{\n delay_loop 0.2\n lb_algo wrr\n lb_kind DR\n {more}\n{}{}}}\n",
            server(33),
            server(44)
        )
    };
    // Who answers so many connections that are open at the same time: how many of .33's, .44's, .55's.
    let answers = |n: usize| {
        let held: Vec<_> =
            (0..n).map(|_| Connection::open(&lab, CLIENT, VIP, None).unwrap()).collect();
        [33, 44, 55].map(|host| held.iter().filter(|c| c.server == host).count())
    };
    let quorum = format!(
        "quorum 20\n quorum_up {}\n quorum_down {}\n sorry_server 192.168.4.55 80",
        tell("enough"),
        tell("too-few")
    );
    let director = lab.director(DIRECTOR, &config(&quorum));
    let says = |what: &str, times: usize| {
        let said = || director.log().matches(what).count() >= times;
        assert!(eventually(LONG, said), "{what}:\n{}", director.log());
    };
    let ready = || lab.holds(DIRECTOR, VIP) && Connection::open(&lab, CLIENT, VIP, None).is_ok();
    assert!(eventually(LONG, ready), "{}", director.log());
    assert_eq!(answers(4), [2, 2, 0]);
    health[0] = None;
    says("too few real servers are up: 192.168.4.55:80 answers", 1);
    assert_eq!(answers(4), [0, 0, 4]);
    health[0] = Some(Server::health(&lab, 33));
    says("enough real servers are up", 1);
    assert_eq!(answers(4), [2, 2, 0]);
    let words = || fs::read_to_string(&told).unwrap_or_default();
    assert!(eventually(LONG, || words() == "too-few\nenough\n"), "{:?}", words());

    // Without a quorum one is enough; the one that comes back gets its share little by little.
    lab.write(&format!("director-{DIRECTOR}.conf"), &config("slow_start 6"));
    director.signal(libc::SIGHUP);
    says("reloaded: ", 1);
    health[1] = None;
    says("192.168.4.44:80 is down", 1);
    assert_eq!(answers(4), [4, 0, 0]);
    health[1] = Some(Server::health(&lab, 44));
    says("192.168.4.44:80 is up", 1);
    let [_, first, _] = answers(22);
    assert!((1..=6).contains(&first), "{first} of 22 for one that is just up");
    assert!(eventually(LONG, || answers(20) == [10, 10, 0]), "{:?}", answers(20));
    println!("slow start: at first {first} of 22 connections, at last half");
}

/// `delay_loop`, `retry` with its delay, and `rise`, as the script sees them that is run; and others are
/// told of what came of it.
#[test]
fn a_check_is_done_as_often_as_it_says() {
    if !able(&[]) {
        return;
    }
    let lab = Lab::new(&[DIRECTOR, HOST]);
    let (good, runs) = (lab.write("good", ""), lab.dir.path().join("runs"));
    let (file, told) = (good.display(), runs.display());
    let script = format!(
        "#!/bin/sh\ntest -e {file} && word=good || word=bad\n\
         echo $word $(date +%s%N) >> {told}\ntest $word = good\n"
    );
    let script = lab.write("script", &script);
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let heard = lab.dir.path().join("heard");
    let tell = |word: &str| format!("\"/bin/sh -c 'echo {word} >> {}'\"", heard.display());
    let config = format!(
        "vrrp_instance V {{\n interface eth0\n version 3\n virtual_router_id 9\n advert_int 0.1\n\
         virtual_ipaddress {{\n {VIP}\n }}\n}}\n\
         virtual_server {VIP} 80 {{\n delay_loop 3\n lb_algo rr\n lb_kind DR\n\
         real_server 192.168.4.{HOST} 80 {{\n weight 1\n notify_up {}\n notify_down {}\n\
         MISC_CHECK {{\n misc_path \"{}\"\n user root\n retry 2\n delay_before_retry 0.2\n rise 2\n }}\n }}\n}}\n",
        tell("up"),
        tell("down"),
        script.display()
    );
    let director = lab.director(DIRECTOR, &config);
    // What each run found, and when, in ns.
    let done = || -> Vec<(bool, u64)> {
        let text = fs::read_to_string(&runs).unwrap_or_default();
        let run = |line: &str| {
            let (word, at) = line.split_once(' ')?;
            Some((word == "good", at.parse().ok()?))
        };
        text.lines().filter_map(run).collect()
    };
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        assert!(eventually(LONG, done), "{what}: {}", director.log());
    };
    let seconds = |runs: &[(bool, u64)]| -> Vec<f64> {
        runs.windows(2).map(|w| (w[1].1 - w[0].1) as f64 / 1e9).collect()
    };
    wait("two runs", &|| done().len() >= 2);
    let loops = seconds(&done());
    println!("good: every {loops:.2?} s");
    assert!(loops.iter().all(|s| (2.9..6.0).contains(s)), "{loops:?}");

    fs::remove_file(&good).unwrap();
    wait("down", &|| director.log().contains("is down"));
    let bad: Vec<_> = done().into_iter().filter(|(good, _)| !good).collect();
    println!("down after {} bad ones, {:.2?} s apart", bad.len(), seconds(&bad));
    assert_eq!(bad.len(), 3, "the first, and two retries");
    assert!(seconds(&bad).iter().all(|s| (0.2..2.5).contains(s)), "{bad:?}");

    fs::write(&good, "").unwrap();
    wait("up", &|| director.log().contains("is up"));
    let all = done();
    let last = all.iter().rposition(|(good, _)| !good).unwrap();
    println!("up after {} good ones", all.len() - last - 1);
    assert_eq!(all.len() - last - 1, 2);
    let words = || fs::read_to_string(&heard).unwrap_or_default();
    assert!(eventually(LONG, || words() == "down\nup\n"), "{:?}", words());
}

/// Many checks that hang, each in another way, and one that does not: its server is taken out and comes
/// back as fast as if it were alone, and the virtual router advertises in time.
#[test]
fn checks_that_hang_hurt_nobody_else() {
    if !able(&[]) {
        return;
    }
    let lab = Lab::new(&[CLIENT, DIRECTOR, 33, 44]);
    let _servers = [33, 44].map(|host| Server::start(&lab, host));
    let mut health = Some(Server::health(&lab, 44));
    // A page of a server that greets and then says nothing, one of a host that is not there, a script
    // without an end.
    let page = |ip: &str| {
        format!("HTTP_GET {{\n connect_ip {ip}\n connect_timeout 50\n url {{\n path /\n }}\n }}\n")
    };
    let script = "MISC_CHECK {\n misc_path \"/bin/sleep 500\"\n misc_timeout 400\n user root\n }\n";
    let hung = [page("192.168.4.33"), page("192.168.4.77"), script.to_owned()].concat().repeat(6);
    let config = format!(
        "vrrp_instance V {{\n interface eth0\n version 3\n virtual_router_id 9\n\
         advert_int 0.1\n virtual_ipaddress {{\n {VIP}\n }}\n}}\n\
         virtual_server {VIP} 80 {{\n delay_loop 0.2\n lb_algo rr\n lb_kind DR\n\
         real_server 192.168.4.33 80 {{\n weight 1\n {hung}\n }}\n\
         real_server 192.168.4.44 80 {{\n weight 1\n TCP_CHECK {{\n connect_port 9\n\
         connect_timeout 1\n retry 0\n }}\n }}\n}}\n"
    );
    let director = lab.director(DIRECTOR, &config);
    let ready = || lab.holds(DIRECTOR, VIP) && Connection::open(&lab, CLIENT, VIP, None).is_ok();
    assert!(eventually(LONG, ready), "{}", director.log());
    let says = |what: &str| {
        let began = std::time::Instant::now();
        assert!(eventually(LONG, || director.log().contains(what)), "{}", director.log());
        println!("{what} after {} ms", began.elapsed().as_millis());
        assert!(began.elapsed() < Duration::from_secs(10), "{}", director.log());
    };
    health.take();
    says("192.168.4.44:80 is down");
    health = Some(Server::health(&lab, 44));
    says("192.168.4.44:80 is up");
    drop(health);
    let log = director.log();
    assert!(!log.contains("192.168.4.33:80 is") && !log.contains("did not run"), "{log}");
}
