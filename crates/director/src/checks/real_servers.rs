//! Checks against real programs on loopback; each test says what it skipped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pointsman_config::Secret;

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

/// A MariaDB of its own with an account `m`, password `s`.
fn mariadb(dir: &Path) -> Option<(Running, SocketAddr, std::path::PathBuf)> {
    let data = dir.join("data");
    let installed = Command::new("mariadb-install-db")
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--user=root"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !installed.is_ok_and(|s| s.success()) {
        return None;
    }
    // A free port below those the kernel gives to clients.
    let mut ports = (0..2000).map(|n| 21_000 + (std::process::id() as u16 % 5000 + n) % 9000);
    let port = ports.find(|p| std::net::TcpListener::bind(("127.0.0.1", *p)).is_ok())?;
    let socket = dir.join("s");
    let child = Command::new("mariadbd")
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", socket.display()))
        .arg(format!("--port={port}"))
        .args(["--bind-address=127.0.0.1", "--user=root", "--innodb-buffer-pool-size=16M"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let running = Running(child);
    let end = Instant::now() + Duration::from_secs(60);
    let account = "CREATE USER m@'%' IDENTIFIED BY 's'; GRANT SLAVE MONITOR ON *.* TO m@'%'";
    while !sql(&socket, account) {
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Some((running, SocketAddr::from(([127, 0, 0, 1], port)), socket))
}

fn sql(socket: &Path, statement: &str) -> bool {
    Command::new("mariadb")
        .arg("--no-defaults")
        .arg(format!("--socket={}", socket.display()))
        .args(["-uroot", "-e", statement])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

#[test]
fn a_database_is_logged_in_to_and_asked_for_its_role() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_server, target, socket)) = mariadb(dir.path()) else {
        println!("skipped: no MariaDB server can be started here");
        return;
    };
    let run = |password: &str, role, max_lag: Option<u64>| {
        let kind = CheckKind::Mysql {
            user: Some("m".to_owned()),
            password: Some(Secret::new(password.to_owned())),
            role,
            max_lag: max_lag.map(Duration::from_secs),
        };
        probe(&check(kind, target))
    };
    assert_eq!(run("s", MysqlRole::Any, Some(3)), Ok(None), "replicates from nobody");
    assert_eq!(run("s", MysqlRole::Primary, None), Ok(None));
    assert!(run("wrong", MysqlRole::Any, None).unwrap_err().contains("1045"));
    assert!(run("s", MysqlRole::Replica, None).is_err());
    assert!(sql(&socket, "SET GLOBAL read_only = 1"));
    assert_eq!(run("s", MysqlRole::Replica, None), Ok(None));
    assert!(run("s", MysqlRole::Primary, None).is_err());
    assert!(run("s", MysqlRole::Replica, Some(3)).unwrap_err().contains("does not replicate"));
    assert!(sql(&socket, "CHANGE MASTER TO master_host='127.0.0.1', master_user='x'"));
    assert!(run("s", MysqlRole::Replica, Some(3)).unwrap_err().contains("stopped"));
}
