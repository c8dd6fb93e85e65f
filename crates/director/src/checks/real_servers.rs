//! Checks against real programs on loopback; each test says what it skipped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pointsman_config::Secret;
use pointsman_sandbox::{Flavour, MONITOR_PASSWORD, MONITOR_USER, Node, Options, Sandbox};

use super::probe::probe;
use crate::config::{Check, CheckKind, CheckUrl, MysqlRole};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check(kind: CheckKind, target: SocketAddr) -> Check {
    Check {
        kind,
        target,
        bind: None,
        delay_loop: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(10),
        retry: 0,
        rise: 1,
        delay_before_retry: Duration::ZERO,
        warmup: None,
        alpha: false,
    }
}

const WEB: &str = r#"
import http.server, ssl, sys
name = ["none"]
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("host=%s sni=%s\n" % (self.headers["Host"], name[0])).encode()
        if self.path == "/fixed":
            body = b"hello"
        self.send_response(404 if self.path == "/gone" else 200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Page)
if len(sys.argv) > 1:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    def asked(socket, wanted, context):
        name[0] = wanted or "none"
    context.sni_callback = asked
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

fn web(arguments: &[&Path]) -> Option<(Running, SocketAddr)> {
    let mut child = Command::new("python3")
        .args(["-c", WEB])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
    let running = Running(child);
    Some((running, SocketAddr::from(([127, 0, 0, 1], line.trim().parse().ok()?))))
}

fn url(path: &str) -> CheckUrl {
    CheckUrl { path: path.to_owned(), ..CheckUrl::default() }
}

fn http(tls: bool, sni: bool, url: CheckUrl) -> CheckKind {
    let virtualhost = Some("www.example.org".to_owned());
    CheckKind::Http { tls, sni, http_1_1: false, virtualhost, urls: vec![url] }
}

fn pages(target: SocketAddr, tls: bool) {
    let run = |url| probe(&check(http(tls, false, url), target));
    assert_eq!(run(url("/")), Ok(None));
    assert!(run(url("/gone")).unwrap_err().contains("404"));
    let digest = |d: &str| CheckUrl { digest: Some(d.to_owned()), ..url("/fixed") };
    assert_eq!(run(digest("5d41402abc4b2a76b9719d911017c592")), Ok(None));
    assert!(run(digest("5d41402abc4b2a76b9719d911017c593")).is_err());
    let regex = |r: &str, path| CheckUrl { regex: Some(r.to_owned()), ..url(path) };
    assert_eq!(run(regex("host=www.example.org sni=none", "/")), Ok(None));
    assert_eq!(run(regex("host=www.example.org sni=none", "/unsized")), Ok(None));
    assert!(run(regex("absent", "/")).is_err());
}

#[test]
fn pages_are_read() {
    let Some((_web, target)) = web(&[]) else {
        println!("skipped: python3 is not installed");
        return;
    };
    pages(target, false);
    // TLS to a server without it.
    assert!(probe(&check(http(true, false, url("/")), target)).is_err());
}

#[test]
fn pages_are_read_over_tls_whatever_the_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "-1", "-subj", "/CN=elsewhere.example", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status();
    // Newer versions of openssl refuse a certificate that is born expired.
    let made = made.is_ok_and(|s| s.success()) || {
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-subj", "/CN=elsewhere.example", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let server = if made { web(&[&cert, &key]) } else { None };
    let Some((_web, target)) = server else {
        println!("skipped: openssl or python3 is not installed");
        return;
    };
    pages(target, true);
    let named = CheckUrl { regex: Some("sni=www.example.org".to_owned()), ..url("/") };
    assert_eq!(probe(&check(http(true, true, named), target)), Ok(None));
    assert!(probe(&check(http(false, false, url("/")), target)).is_err(), "no TLS, no answer");
}

/// What a check comes to.
type Outcome = Result<Option<u32>, String>;

/// Databases whose replica can be stopped, held back, hung and killed.
fn databases(flavour: Flavour) {
    if let Err(why) = flavour.check() {
        println!("skipped: {why:#}");
        return;
    }
    let options = Options { flavour, ..Options::default() };
    let sandbox = Sandbox::start(options).unwrap();
    let (primary, replica) = (sandbox.primary(), &sandbox.replicas()[0]);
    let run = |node: &Node, password: &str, role, max_lag: Option<u64>| {
        let kind = CheckKind::Mysql {
            user: Some(MONITOR_USER.to_owned()),
            password: Some(Secret::new(password.to_owned())),
            role,
            max_lag: max_lag.map(Duration::from_secs),
        };
        let limit = Duration::from_secs(2);
        probe(&Check { connect_timeout: limit, ..check(kind, node.address()) })
    };
    let login = |node, role, max_lag| run(node, MONITOR_PASSWORD, role, max_lag);
    let (any, is_primary, is_replica) = (MysqlRole::Any, MysqlRole::Primary, MysqlRole::Replica);

    assert_eq!(login(primary, any, Some(3)), Ok(None), "it replicates from nobody");
    assert_eq!(login(primary, is_primary, None), Ok(None));
    assert!(login(primary, is_replica, None).unwrap_err().contains("writable"));
    assert!(run(primary, "wrong", any, None).unwrap_err().contains("1045"));
    assert_eq!(login(replica, is_replica, Some(3)), Ok(None));
    assert!(login(replica, is_primary, None).unwrap_err().contains("read-only"));

    // MySQL has forgotten by then what it knew of the password.
    replica.stop().unwrap();
    assert!(login(replica, any, None).unwrap_err().contains("refused"));
    replica.start().unwrap();
    assert_eq!(login(replica, is_replica, None), Ok(None));

    let (stop, delay, start) = match flavour {
        Flavour::MariaDb => ("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=", "START SLAVE"),
        _ => ("STOP REPLICA", "CHANGE REPLICATION SOURCE TO SOURCE_DELAY=", "START REPLICA"),
    };
    let all = |node: &Node, statements: &[&str]| {
        node.client_sql(&statements.join(";")).unwrap();
    };
    let becomes = |wanted: fn(&Outcome) -> bool| {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let now = login(replica, is_replica, Some(1));
            if wanted(&now) {
                return;
            }
            assert!(Instant::now() < end, "{flavour:?}: {now:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    all(replica, &[stop]);
    assert!(login(replica, is_replica, Some(1)).unwrap_err().contains("stopped"));
    all(replica, &[&format!("{delay}600"), start]);
    all(primary, &["CREATE TABLE app.t (id INT)"]);
    becomes(|now| now.as_ref().is_err_and(|why| why.starts_with("lags ")));
    all(replica, &[stop, &format!("{delay}0"), start]);
    becomes(Result::is_ok);

    // It hangs: the kernel still connects.
    replica.pause().unwrap();
    assert!(login(replica, any, None).unwrap_err().contains("no answer in time"));
    replica.unpause().unwrap();
    becomes(Result::is_ok);
}

#[test]
fn a_mariadb_server_is_logged_in_to_and_asked_for_role_and_lag() {
    databases(Flavour::MariaDb);
}

#[test]
fn a_mysql_server_is_logged_in_to_and_asked_for_role_and_lag() {
    databases(Flavour::MySql);
}
