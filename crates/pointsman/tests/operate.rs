//! Operating a daemon over real sockets: HTTP, command line, SQL console, metrics.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/daemon.rs"]
mod daemon;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::{Run, RunExt, pointsman};
use daemon::Served;
use serde_json::{Value, json};

struct Answer {
    status: u16,
    body: String,
    content_type: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

fn http(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = agent.run(request.body(()).unwrap()).unwrap();
    Answer {
        status: answer.status().as_u16(),
        content_type: answer
            .headers()
            .get("content-type")
            .map(|v| v.to_str().unwrap().to_owned())
            .unwrap_or_default(),
        body: answer.body_mut().read_to_string().unwrap(),
    }
}

fn get(url: &str) -> Answer {
    http("GET", url, &[])
}

#[test]
fn views_are_lists_of_objects() {
    let served = Served::start(None);
    let servers = get(&served.url("/api/v1/servers")).json();
    assert_eq!(servers[0]["name"], "db1");
    assert_eq!(servers[0]["lag_ms"], Value::Null);
    assert_eq!(servers[1]["lag_ms"], 1.5);
    assert_eq!(servers[1]["reads"], true);
    let top = get(&served.url("/api/v1/statements?order=total_ms&limit=2")).json();
    assert_eq!(top.as_array().unwrap().len(), 2);
    assert_eq!(top[0]["text"], "SELECT 3");
    let status = get(&served.url("/api/v1/status")).json();
    assert_eq!((&status["kind"], &status["ready"]), (&json!("proxy"), &json!(true)));
    assert_eq!(get(&served.url("/api/v1/config")).json()[0]["key"], "routing.max_lag");
    assert_eq!(get(&served.url("/api/v1/sessions")).json()[0]["id"], 7);
}

#[test]
fn errors_have_codes_and_say_what_to_do() {
    let served = Served::start(None);
    let of = |method, path: &str| {
        let answer = http(method, &served.url(path), &[]);
        let body = answer.json();
        assert!(!body["help"].as_str().unwrap().is_empty());
        (answer.status, body["code"].as_str().unwrap().to_owned())
    };
    let is = |status, code: &str| (status, code.to_owned());
    assert_eq!(of("GET", "/api/v1/nothing"), is(404, "PM1002"));
    assert_eq!(of("GET", "/nothing"), is(404, "PM1002"));
    assert_eq!(of("POST", "/api/v1/servers/db9/drain"), is(404, "PM1001"));
    assert_eq!(of("GET", "/api/v1/servers/db1/drain"), is(405, "PM1005"));
    assert_eq!(of("POST", "/api/v1/servers"), is(405, "PM1005"));
    assert_eq!(of("DELETE", "/metrics"), is(405, "PM1005"));
    assert_eq!(of("GET", "/api/v1/servers?order=x"), is(400, "PM1003"));
    assert_eq!(of("GET", "/api/v1/servers?limit=x"), is(400, "PM1003"));
    assert_eq!(of("GET", "/api/v1/servers?x=y"), is(400, "PM1003"));
    assert_eq!(of("POST", "/api/v1/reload"), is(422, "PM1007"));
    assert_eq!(of("POST", "/api/v1/switchover?to=db2"), is(501, "PM1004"));
}

#[test]
fn a_server_is_drained_and_resumed() {
    let served = Served::start(None);
    let answer = http("POST", &served.url("/api/v1/servers/db2/drain"), &[]);
    assert_eq!((answer.status, answer.json()), (200, json!({ "done": "db2 is draining" })));
    assert_eq!(get(&served.url("/api/v1/servers")).json()[1]["state"], "draining");
    http("POST", &served.url("/api/v1/servers/db2/resume"), &[]);
    assert_eq!(get(&served.url("/api/v1/servers")).json()[1]["state"], "up");
    let events = get(&served.url("/api/v1/events?after=1")).json();
    assert_eq!(events.as_array().unwrap().len(), 1);
    assert_eq!(events[0]["text"], "db2 is up");
}

#[test]
fn probes_tell_alive_from_ready() {
    let served = Served::start(None);
    assert_eq!(get(&served.url("/healthz")).status, 200);
    assert_eq!(get(&served.url("/readyz")).status, 200);
    *served.daemon.ready.lock().unwrap() = Err("no primary: db1 is down".to_owned());
    assert_eq!(get(&served.url("/healthz")).status, 200);
    let answer = get(&served.url("/readyz"));
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["message"], "no primary: db1 is down");
}

#[test]
fn the_dashboard_needs_nothing_from_elsewhere() {
    let served = Served::start(None);
    let page = get(&served.url("/"));
    assert!(page.content_type.starts_with("text/html"));
    for outside in ["src=", "@import", "//cdn", "https://"] {
        assert!(!page.body.contains(outside), "{outside}");
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let served = Served::start(None);
    let metrics = get(&served.url("/metrics"));
    assert!(metrics.content_type.starts_with("text/plain; version=0.0.4"));
    assert!(metrics.body.contains("pointsman_statements_total{class=\"write\",server=\"db1\"} 3"));
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("skipped: promtool is not installed");
        return;
    };
    promtool.stdin.take().unwrap().write_all(metrics.body.as_bytes()).unwrap();
    let done = promtool.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_token_is_demanded_if_there_is_one() {
    let served = Served::start(Some("t0ken"));
    let url = served.url("/api/v1/servers");
    let answer = get(&url);
    assert_eq!((answer.status, &answer.json()["code"]), (401, &json!("PM1101")));
    assert_eq!(http("GET", &url, &[("authorization", "Bearer t0ken")]).status, 200);
    assert_eq!(get(&served.url("/metrics")).status, 401);
    assert_eq!(get(&served.url("/healthz")).status, 200);

    let run = served.cli(&["servers"]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("PM1101") && run.err.contains("--token"), "{run:?}");
    assert_eq!(served.cli(&["servers", "--token", "t0ken"]).code, Some(0));
    assert_eq!(
        served.cli_command(&["servers"]).env("POINTSMAN_TOKEN", "t0ken").run().code,
        Some(0)
    );
}

#[test]
fn other_web_sites_are_refused() {
    let served = Served::start(None);
    let drain = served.url("/api/v1/servers/db1/drain");
    assert_eq!(http("POST", &drain, &[("origin", "http://evil.example")]).status, 403);
    assert_eq!(http("GET", &served.url("/metrics"), &[("host", "evil.example")]).status, 403);
    assert_eq!(served.daemon.states.lock().unwrap()[0].1, "up");
}

#[test]
fn lists_for_people_are_aligned() {
    let served = Served::start(None);
    let run = served.cli(&["servers"]);
    insta::assert_snapshot!(run.out, @r"
    NAME  ADDRESS            ROLE     STATE  READS    LAG  RUNNING  CONNECTIONS  STATEMENTS  VERSION          SERVER_ID  WHY
    db1   192.168.4.11:3306  primary  up     no         -        1            4        1000  10.11.6-MariaDB          1  writable
    db2   192.168.4.22:3306  replica  up     yes    1.5ms        1            4        1001  10.11.6-MariaDB          2  replicates from db1
    ");
    let run = served.cli(&["sessions"]);
    assert!(run.out.contains("1m15s"), "{}", run.out);
    assert!(!run.out.contains('\x1b'), "a user name moved the cursor: {}", run.out);
    let run = served.cli(&["status"]);
    assert!(run.out.starts_with("pointsman proxy 1.2.3, up "), "{}", run.out);
    assert!(run.out.contains("db1 is the primary\n"), "{}", run.out);
}

#[test]
fn lists_for_programs_are_json() {
    let served = Served::start(None);
    for list in ["servers", "sessions", "statements", "events", "config"] {
        let run = served.cli(&[list, "--json"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(serde_json::from_str::<Value>(&run.out).unwrap().is_array(), "{list}");
    }
    let run = served.cli(&["statements", "--order", "count", "--limit", "1", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&run.out).unwrap()[0]["count"], 3);
    assert!(run.out.starts_with("[{\"fingerprint\":"), "keys in order: {}", run.out);
}

#[test]
fn the_command_line_changes_things_and_says_so() {
    let served = Served::start(None);
    let run = served.cli(&["drain", "db2"]);
    assert_eq!((run.code, run.out.as_str()), (Some(0), "db2 is draining\n"));
    assert_eq!(served.cli(&["resume", "db2"]).out, "db2 is up\n");
    assert_eq!(
        served.cli(&["maintain", "db2", "--json"]).out,
        "{\"done\":\"db2 is maintenance\"}\n"
    );

    let run = served.cli(&["drain", "db9"]);
    assert_eq!(run.code, Some(1));
    assert_eq!(
        run.err,
        "error: there is no server \"db9\"; there are: db1, db2 (PM1001 unknown_server)\n \
         help: `pointsman servers` lists the names\n"
    );
    assert_eq!(served.cli(&["reload"]).code, Some(1));
    assert_eq!(served.cli(&["drain"]).code, Some(2), "no server");
    assert_eq!(served.cli(&["statements", "--order", "x"]).code, Some(2));
    assert_eq!(served.cli(&["statements", "--limit", "x"]).code, Some(2));
}

#[test]
fn a_daemon_that_is_not_there_is_said_to_be() {
    // Bound and dropped: nobody listens there now.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let run = pointsman(&["status", "--admin", &format!("http://127.0.0.1:{port}")]).run();
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("is `pointsman proxy` running?"), "{}", run.err);
    let run = pointsman(&["status", "--admin", "https://127.0.0.1:1"]).run();
    assert_eq!(run.code, Some(2), "{}", run.err);
    let run = pointsman(&["status", "--admin", "not a url"]).run();
    assert_eq!(run.code, Some(2), "{}", run.err);
}

#[test]
fn something_else_at_the_admin_address_is_noticed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = listener.local_addr().unwrap().to_string();
    let stranger = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(socket.try_clone().unwrap()).read_line(&mut line).unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").unwrap();
    });
    let run = pointsman(&["status", "--admin", &admin]).run();
    stranger.join().unwrap();
    assert!(run.code == Some(1) && run.err.contains("PM1302"), "{run:?}");
}

#[test]
fn events_are_followed_over_a_restart() {
    // A port that no outgoing connection takes while nobody listens there.
    let port = pointsman_sandbox::free_port().unwrap();
    let served = Served::start_at(None, port);
    served.daemon.events.push("start", "", "one");
    let mut child = served
        .cli_command(&["events", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().ends_with("Z start: one"));
    served.daemon.events.push("server_down", "db1", "two");
    assert!(next().ends_with("Z server_down db1: two"));
    drop(served);
    let served = Served::start_at(None, port);
    served.daemon.events.push("start", "", "three");
    assert!(next().ends_with("Z start: three"), "its number is not higher, and yet it is new");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_busy_port_is_an_error_before_anything_is_served() {
    let served = Served::start(None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime
        .block_on(pointsman_admin::http::Http::bind(served.http, None))
        .expect_err("it is taken")
        .to_string();
    assert!(error.contains("PM1201") && error.contains(&served.http.to_string()), "{error}");
    let off_loopback = "0.0.0.0:0".parse().unwrap();
    assert!(runtime.block_on(pointsman_admin::http::Http::bind(off_loopback, None)).is_err());
    assert!(runtime.block_on(pointsman_admin::console::Console::bind(off_loopback, None)).is_err());
}

/// The `mariadb` client at the console; `None` if it is not installed.
fn console(served: &Served, more: &[&str], sql: &str) -> Option<Run> {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "-h", "127.0.0.1", "-P", &served.console.port().to_string()])
        .args(more)
        .args(["-e", sql]);
    if command.stdin(Stdio::null()).output().is_err() {
        eprintln!("skipped: the mariadb client is not installed");
        return None;
    }
    Some(command.run())
}

#[test]
fn the_console_speaks_to_the_mariadb_client() {
    let served = Served::start(None);
    let Some(run) = console(&served, &["-u", "admin", "--table"], "SHOW SERVERS") else { return };
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.out.contains("| db1  | 192.168.4.11:3306 | primary | up    |"), "{}", run.out);
    let ask = |sql: &str| {
        let run = console(&served, &["-u", "admin", "-N", "-B"], sql).unwrap();
        (run.code == Some(0)).then_some(run.out).ok_or(run.err)
    };
    assert_eq!(ask("drain `db2`").unwrap(), "db2 is draining\n");
    assert!(ask("show servers").unwrap().contains("\tdraining\t"));
    assert_eq!(ask("resume db2;").unwrap(), "db2 is up\n");
    assert_eq!(
        ask("select * from statements order by total_ms desc limit 1").unwrap().lines().count(),
        1
    );
    assert!(ask("SHOW EVENTS AFTER 1").unwrap().contains("db2 is up"));
    assert!(ask("show help").unwrap().contains("DRAIN server"));
    assert!(ask("SHOW STATUS").unwrap().contains("ready\tyes"));
    assert!(ask("show sessions").unwrap().contains("\tNULL\t"), "no database");
    // What clients and drivers send on their own.
    assert_eq!(ask("select 1, @@version_comment limit 1").unwrap().lines().count(), 1);
    assert_eq!(
        ask("SET NAMES utf8mb4; use x; select @@autocommit, database()").unwrap(),
        "1\tpointsman\n"
    );
    assert_eq!(ask("show warnings").unwrap(), "");
    assert_eq!(ask("/* hello */ SELECT 'x' AS y").unwrap(), "x\n");

    let error = ask("drain db9").unwrap_err();
    assert!(error.contains("PM1001 unknown_server: there is no server \"db9\""), "{error}");
    assert!(ask("drain").unwrap_err().contains("DRAIN server"));
    assert!(ask("show nothing").unwrap_err().contains("ERROR 1064"));
    assert!(ask("insert into t values (1)").unwrap_err().contains("PM1002"));
    assert!(ask("switchover to db2").unwrap_err().contains("ERROR 1235"));
}

#[test]
fn the_console_demands_the_token_as_password() {
    let served = Served::start(Some("t0ken"));
    let Some(run) = console(&served, &["-u", "admin"], "SHOW SERVERS") else { return };
    assert!(run.code == Some(1) && run.err.contains("Access denied"), "{run:?}");
    let run = console(&served, &["-u", "anyone", "-pt0ken"], "SHOW SERVERS").unwrap();
    assert_eq!(run.code, Some(0), "{run:?}");
    let run = console(&served, &["-u", "anyone", "-pwrong"], "SHOW SERVERS").unwrap();
    assert_eq!(run.code, Some(1), "{run:?}");
}
