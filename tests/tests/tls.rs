//! TLS between clients and the proxy, and between the proxy and the servers.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use pointsman_sandbox::Flavour;
use pointsman_tests::{
    APP_PASSWORD, APP_USER, LONG, Output, Pki, Raw, Setup, Site, caps, wait_until,
};
use pointsman_wire::auth::{native_stage1, native_token};
use pointsman_wire::handshake::{Greeting, Response, ssl_request};
use pointsman_wire::{Capabilities, HEADER, Header, write_packet};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};

/// The `mariadb` client, whose own word on the connection is part of what it prints.
fn mariadb(site: &Site, args: &[&str], user: &str, password: &str, sql: &str) -> Output {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--host=127.0.0.1", "--batch", "--skip-column-names"])
        .args([format!("--port={}", site.port()), format!("--user={user}")])
        .arg(format!("--password={password}"))
        .args(args)
        .arg(format!("--execute={sql}"))
        .arg("app");
    Output::of(&mut command)
}

fn app(site: &Site, args: &[&str], sql: &str) -> Output {
    mariadb(site, args, APP_USER, APP_PASSWORD, sql)
}

#[test]
fn without_any_configuration_who_asks_for_tls_gets_it() {
    let site = Site::start();
    let said = app(&site, &["--ssl"], "\\s").ok();
    println!("{said}");
    assert!(said.contains("Cipher in use is TLS_AES_256_GCM_SHA384"), "{said}");
    let said = app(&site, &["--skip-ssl"], "\\s").ok();
    assert!(said.contains("Not in use"), "{said}");
    let said = app(&site, &["--tls-version=TLSv1.2"], "\\s").ok();
    assert!(said.contains("Cipher in use is ECDHE-"), "{said}");
    // More than fits into any buffer on the way, both ways.
    let long = "x".repeat(100_000);
    app(&site, &["--ssl"], "CREATE TABLE t (v LONGTEXT)").ok();
    for _ in 0..5 {
        app(&site, &["--ssl"], &format!("INSERT INTO t VALUES ('{long}')")).ok();
    }
    let got = app(&site, &["--ssl"], "SELECT v FROM t").ok();
    assert_eq!(got.len(), 5 * (long.len() + 1));
}

#[test]
fn a_given_certificate_is_verified_by_clients() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path(), "ca").unwrap();
    let other = Pki::new(dir.path(), "other").unwrap();
    let server = pki.issue("proxy", &["127.0.0.1", "localhost"]).unwrap();
    let site = Site::with(Setup {
        listener: format!("tls = {{ mode = \"required\", {} }}\n", server.toml()),
        ..Setup::default()
    });
    let verify = |ca: String| ["--ssl-verify-server-cert".to_owned(), format!("--ssl-ca={ca}")];
    let args = verify(pki.ca());
    let said = app(&site, &[&args[0], &args[1]], "\\s").ok();
    assert!(said.contains("Cipher in use"), "{said}");
    let args = verify(other.ca());
    let said = app(&site, &[&args[0], &args[1]], "SELECT 1");
    assert!(said.stderr.contains("2026"), "{said:?}");
    let said = app(&site, &["--skip-ssl"], "SELECT 1");
    println!("{}", said.stderr);
    assert!(said.stderr.contains("ERROR 3159"), "{said:?}");
    wait_until("the log tells of it", LONG, || {
        Ok(site.proxy.log().contains("a client's TLS handshake failed"))
    })
    .unwrap();

    let page = |ssl: &str| {
        let script = format!(
            "mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
             $db = mysqli_init();
             {ssl}
             echo $db->query(\"SHOW STATUS LIKE 'Threads_running'\")->num_rows, ' ',
                  $db->query('SELECT 42')->fetch_row()[0];",
        );
        let mut php = Command::new("php");
        Output::of(php.args(["-r", &script, "--", &site.port().to_string()]))
    };
    let real = format!(
        "$db->ssl_set(null, null, '{}', null, null);
         $db->real_connect('127.0.0.1', '{APP_USER}', '{APP_PASSWORD}', 'app', (int) $argv[1],
             null, MYSQLI_CLIENT_SSL);",
        pki.ca()
    );
    assert_eq!(page(&real).ok(), "1 42");
    let wrong = page(&real.replace(&pki.ca(), &other.ca()));
    assert!(!wrong.status.success(), "{wrong:?}");
    let pdo = format!(
        "$db = new PDO('mysql:host=127.0.0.1;dbname=app;port=' . $argv[1], '{APP_USER}', \
         '{APP_PASSWORD}', [PDO::MYSQL_ATTR_SSL_CA => '{}']);
         echo $db->query('SELECT 43')->fetchColumn();",
        pki.ca()
    );
    let mut php = Command::new("php");
    let got = Output::of(php.args(["-r", &pdo, "--", &site.port().to_string()])).ok();
    assert_eq!(got, "43");
}

fn next_packet(stream: &mut impl std::io::Read) -> Vec<u8> {
    let mut head = [0; HEADER];
    stream.read_exact(&mut head).unwrap();
    let mut payload = vec![0; Header::parse(&head).unwrap().len];
    stream.read_exact(&mut payload).unwrap();
    payload
}

/// A client that is logged in, whose TLS is in our hands.
fn by_hand(
    site: &Site,
    pki: &Pki,
    version: &'static rustls::SupportedProtocolVersion,
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let mut tcp = TcpStream::connect(("127.0.0.1", site.port())).unwrap();
    tcp.set_read_timeout(Some(LONG)).unwrap();
    let greeting = Greeting::parse(&next_packet(&mut tcp)).unwrap();
    let capabilities = caps() | Capabilities::SSL;
    let mut out = Vec::new();
    let seq = write_packet(&mut out, 1, &ssl_request(capabilities, 1 << 24, 45));
    tcp.write_all(&out).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(tls, tcp);
    let response = Response {
        capabilities,
        max_packet: 1 << 24,
        collation: 45,
        user: APP_USER.into(),
        token: native_token(&native_stage1(APP_PASSWORD.as_bytes()), &greeting.salt).to_vec(),
        database: Some("app".into()),
        plugin: Some(greeting.plugin),
        ..Response::default()
    };
    out.clear();
    write_packet(&mut out, seq, &response.build());
    stream.write_all(&out).unwrap();
    assert_eq!(next_packet(&mut stream)[0], 0);
    stream
}

#[test]
fn what_waits_ends_when_its_client_takes_its_leave() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path(), "ca").unwrap();
    let server = pki.issue("proxy", &["127.0.0.1"]).unwrap();
    let site = Site::with(Setup {
        listener: format!("tls = {{ mode = \"required\", {} }}\n", server.toml()),
        ..Setup::default()
    });
    let mut holder = Raw::connect(site.primary().port()).unwrap();
    holder.query("SELECT GET_LOCK('held', 0)").unwrap();
    let waits = || {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist \
                   WHERE info LIKE 'SELECT GET_LOCK(%, 3600)'";
        site.primary().client_sql(sql).map(|count| count.trim() == "1")
    };
    let mut query = Vec::new();
    write_packet(&mut query, 0, b"\x03SELECT GET_LOCK('held', 3600)");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut stream = by_hand(&site, &pki, version);
        stream.write_all(&query).unwrap();
        stream.flush().unwrap();
        wait_until("it waits", LONG, waits).unwrap();
        // "close_notify", as most libraries send it before they close.
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        drop(stream);
        wait_until("it has ended", LONG, || Ok(!waits()?)).unwrap();
    }
    // Who says more and stays gets an answer.
    let mut stream = by_hand(&site, &pki, &rustls::version::TLS13);
    stream.write_all(&query).unwrap();
    stream.write_all(&[1, 0, 0, 0, 14]).unwrap();
    wait_until("it waits", LONG, waits).unwrap();
    assert_eq!(holder.one("SELECT RELEASE_LOCK('held')").unwrap(), "1");
    assert_eq!(next_packet(&mut stream), [1]);
}

#[tokio::test]
async fn prepared_statements_and_big_results_through_tls() {
    let server_args = vec!["--max-allowed-packet=64M".to_owned()];
    let site = Site::with(Setup { server_args, ..Setup::default() });
    let ssl = mysql_async::SslOpts::default().with_danger_accept_invalid_certs(true);
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(site.port())
        .user(Some(APP_USER))
        .pass(Some(APP_PASSWORD))
        .db_name(Some("app"))
        .ssl_opts(ssl)
        .prefer_socket(false);
    let mut db = mysql_async::Conn::new(opts).await.unwrap();
    db.query_drop("CREATE TABLE t (id INT PRIMARY KEY, v LONGBLOB)").await.unwrap();
    let blob: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8).collect();
    db.query_drop("SET max_statement_time = 0").await.unwrap();
    for id in 0..100 {
        db.exec_drop("INSERT INTO t VALUES (?, ?)", (id, &blob[..id * 100])).await.unwrap();
    }
    for id in 0..100usize {
        let got: Option<(Vec<u8>, u32)> =
            db.exec_first("SELECT v, @@server_id FROM t WHERE id = ?", (id,)).await.unwrap();
        let (got, _) = got.unwrap();
        assert!(got == blob[..id * 100], "{id}");
    }
    // In several packets.
    let big: Option<Vec<u8>> =
        db.exec_first("SELECT REPEAT(?, 17000)", (&blob[..1000],)).await.unwrap();
    assert!(big.unwrap() == blob[..1000].repeat(17_000));
    db.disconnect().await.unwrap();
}

#[test]
fn accounts_get_what_they_demand_or_are_denied_as_by_a_server() {
    accounts_get_what_they_demand(Flavour::MariaDb);
}

#[test]
fn accounts_get_what_they_demand_or_are_denied_as_by_mysql() {
    accounts_get_what_they_demand(Flavour::MySql);
}

fn accounts_get_what_they_demand(flavour: Flavour) {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path(), "ca").unwrap();
    let other = Pki::new(dir.path(), "other").unwrap();
    let server = pki.issue("proxy", &["127.0.0.1"]).unwrap();
    let (alice, bob) = (pki.issue("alice", &[]).unwrap(), pki.issue("bob", &[]).unwrap());
    let stranger = other.issue("alice", &[]).unwrap();
    let tls = format!("client_ca = \"{}\", {}", pki.ca(), server.toml());
    let site = Site::with(Setup {
        listener: format!("tls = {{ {tls} }}\n"),
        // The servers look at the proxy's certificate.
        config: format!("workers = 2\n[tls]\n{}\n", alice.toml().replace(", ", "\n")),
        server_args: vec![
            format!("--ssl-ca={}", pki.ca()),
            format!("--ssl-cert={}", server.certificate),
            format!("--ssl-key={}", server.key),
        ],
        flavour,
        ..Setup::default()
    });
    for (user, demand) in [
        ("plain", "NONE"),
        ("tls", "SSL"),
        ("x509", "X509"),
        ("alice", "SUBJECT '/O=Pointsman/CN=alice'"),
        ("issuer", "ISSUER '/O=Pointsman/CN=ca'"),
        ("elsewhere", "ISSUER '/O=Pointsman/CN=other'"),
        ("cipher", "CIPHER 'TLS_AES_256_GCM_SHA384'"),
    ] {
        site.primary()
            .client_sql(&format!(
                "CREATE USER {user}@'%' IDENTIFIED BY 'secret' REQUIRE {demand}; \
                 GRANT SELECT ON app.* TO {user}@'%'"
            ))
            .unwrap();
    }
    site.sandbox.wait_caught_up().unwrap();
    let args = |pem: &pointsman_tests::Pem| {
        vec![
            "--ssl".to_owned(),
            format!("--ssl-cert={}", pem.certificate),
            format!("--ssl-key={}", pem.key),
        ]
    };
    let ways = [vec!["--skip-ssl".to_owned()], vec!["--ssl".to_owned()], args(&alice), args(&bob)];
    for (user, good) in [
        ("plain", [true, true, true, true]),
        ("tls", [false, true, true, true]),
        ("x509", [false, false, true, true]),
        ("alice", [false, false, true, false]),
        ("issuer", [false, false, true, true]),
        ("elsewhere", [false; 4]),
        ("cipher", [false, true, true, true]),
    ] {
        if user == "cipher" && flavour == Flavour::MySql {
            // Its servers choose another one than the proxy does.
            continue;
        }
        for (way, good) in ways.iter().zip(good) {
            let way: Vec<&str> = way.iter().map(String::as_str).collect();
            let said = mariadb(&site, &way, user, "secret", "SELECT 1");
            assert_eq!(said.status.success(), good, "{user} {way:?}: {said:?}");
            if !good {
                let denied = format!(
                    "ERROR 1045 (28000): Access denied for user '{user}'@'127.0.0.1' \
                             (using password: YES)"
                );
                assert!(said.stderr.contains(&denied), "{user} {way:?}: {said:?}");
            }
        }
    }
    let way = args(&stranger);
    let way: Vec<&str> = way.iter().map(String::as_str).collect();
    let said = mariadb(&site, &way, "plain", "secret", "SELECT 1");
    assert!(!said.status.success(), "a certificate of a CA that is not trusted: {said:?}");
    let log = site.proxy.log();
    assert!(log.contains("PM3002") && !log.contains("BEGIN "), "{log}");
}

/// What the servers say of the connections to them: of a read's, of a write's.
fn ciphers(site: &Site, args: &[&str]) -> [String; 2] {
    let (schema, of_primary) = match site.primary().flavour() {
        // Nobody may lock that, and there are no replicas here.
        Flavour::MySql => ("performance_schema", ""),
        _ => ("information_schema", "FOR UPDATE"),
    };
    ["", of_primary].map(|tail| {
        let sql = format!(
            "SELECT variable_value FROM {schema}.session_status \
             WHERE variable_name = 'Ssl_cipher' {tail}"
        );
        let cipher = app(site, args, &sql).ok().trim().to_owned();
        // Which of them is the servers' choice.
        if cipher.starts_with("TLS_AES_") { TLS13.to_owned() } else { cipher }
    })
}

const TLS13: &str = "a cipher of TLS 1.3";

#[test]
fn servers_are_spoken_to_as_the_mode_says() {
    servers_are_spoken_to(Flavour::MariaDb);
}

#[test]
fn mysql_servers_are_spoken_to_as_the_mode_says() {
    servers_are_spoken_to(Flavour::MySql);
}

fn servers_are_spoken_to(flavour: Flavour) {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path(), "ca").unwrap();
    let other = Pki::new(dir.path(), "other").unwrap();
    let named = pki.issue("named", &["127.0.0.1"]).unwrap();
    let unnamed = pki.issue("unnamed", &["db1.example.net"]).unwrap();
    let with = |certificate: &pointsman_tests::Pem, tls: &str, more: &[&str]| {
        let mut server_args = vec![
            format!("--ssl-cert={}", certificate.certificate),
            format!("--ssl-key={}", certificate.key),
        ];
        server_args.extend(more.iter().map(ToString::to_string));
        let config = format!("workers = 2\n[tls]\n{tls}\n");
        Site::with(Setup { server_args, config, replicas: 0, flavour, ..Setup::default() })
    };
    let site = with(&named, "", &[]);
    assert_eq!(ciphers(&site, &["--ssl"]), [TLS13, TLS13], "as the client");
    assert_eq!(ciphers(&site, &["--skip-ssl"]), ["", ""], "as the client");
    let ca = pki.ca();
    for (certificate, tls) in [
        (&named, "mode = \"preferred\"".to_owned()),
        (&named, "mode = \"required\"".to_owned()),
        (&unnamed, format!("mode = \"verify_ca\"\nca = \"{ca}\"")),
        (&named, format!("mode = \"verify_identity\"\nca = \"{ca}\"")),
    ] {
        // The servers take nothing else from anyone, the monitor included.
        let site = with(certificate, &tls, &["--require-secure-transport=ON"]);
        for args in [&["--ssl"], &["--skip-ssl"]] {
            println!("{tls} {args:?}");
            assert_eq!(ciphers(&site, args), [TLS13, TLS13], "{tls} {args:?}");
        }
    }
    let site = with(&named, "", &["--require-secure-transport=ON"]);
    assert_eq!(ciphers(&site, &["--skip-ssl"]), [TLS13, TLS13], "the server demands it");

    // Not to the wrong ones: then there is no server.
    let sandbox = &site.sandbox;
    for (tls, why) in [
        (format!("mode = \"verify_ca\"\nca = \"{}\"", other.ca()), "UnknownIssuer"),
        (format!("mode = \"verify_identity\"\nca = \"{ca}\""), ""),
    ] {
        let log = sandbox.dir().join("other.log");
        let config = sandbox.dir().join("other.toml");
        let (port, admin) =
            (pointsman_tests::free_port().unwrap(), pointsman_tests::free_port().unwrap());
        let more = format!("workers = 1\n[tls]\n{tls}\n");
        sandbox.write_proxy_config(&config, port, admin, &more).unwrap();
        let mut proxy = pointsman_tests::Proxy::spawn(&config, admin, &log).unwrap();
        let mut body = String::new();
        proxy
            .wait_for("it has looked", || {
                body = pointsman_tests::http_get(admin, "/api/v1/servers")?.1;
                Ok(body.contains("db1") && !body.contains("\"unknown\""))
            })
            .unwrap();
        if why.is_empty() {
            assert!(body.contains("\"primary\""), "{body}");
        } else {
            assert!(body.contains(why) && !body.contains("\"primary\""), "{body}");
        }
    }
}

#[test]
fn certificates_are_read_anew_and_broken_ones_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Pki::new(dir.path(), "old").unwrap(), Pki::new(dir.path(), "new").unwrap());
    let pem = old.issue("proxy", &["127.0.0.1"]).unwrap();
    let site = Site::with(Setup {
        listener: format!("tls = {{ {} }}\n", pem.toml()),
        replicas: 0,
        ..Setup::default()
    });
    let is_verified_by = |ca: String| {
        let ca = format!("--ssl-ca={ca}");
        app(&site, &["--ssl-verify-server-cert", &ca], "SELECT 1").status.success()
    };
    assert!(is_verified_by(old.ca()) && !is_verified_by(new.ca()));
    let other = new.issue("proxy", &["127.0.0.1"]).unwrap();
    let ssl = mysql_async::SslOpts::default().with_danger_accept_invalid_certs(true);
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(site.port())
        .user(Some(APP_USER))
        .pass(Some(APP_PASSWORD))
        .ssl_opts(ssl)
        .prefer_socket(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut open = runtime.block_on(mysql_async::Conn::new(opts)).unwrap();

    // The certificate of one and the key of the other, as between two copies.
    std::fs::copy(&other.certificate, &pem.certificate).unwrap();
    let said = site.cli(&["reload"]);
    assert!(!said.status.success(), "{said:?}");
    assert!(said.stderr.contains("the key is not the certificate's"), "{said:?}");
    let config = site.sandbox.dir().join("proxy.toml");
    let said = site.cli(&["check", config.to_str().unwrap()]);
    assert!(said.stderr.contains("the key is not the certificate's"), "{said:?}");
    assert!(is_verified_by(old.ca()), "nothing has changed");
    std::fs::write(&pem.key, "rubbish").unwrap();
    let said = site.cli(&["reload"]);
    assert!(said.stderr.contains("has no unencrypted private key"), "{said:?}");

    std::fs::copy(&other.key, &pem.key).unwrap();
    site.proxy.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    wait_until("the new one is shown", LONG, || Ok(is_verified_by(new.ca()))).unwrap();
    assert!(!is_verified_by(old.ca()));
    let one: Option<u8> = runtime.block_on(open.query_first("SELECT 1")).unwrap();
    assert_eq!(one, Some(1), "who is in stays in");
}

#[test]
fn servers_may_change_their_ca() {
    a_server_changes_its_ca(Flavour::MariaDb, "FLUSH SSL");
}

#[test]
fn mysql_servers_may_change_their_ca() {
    a_server_changes_its_ca(Flavour::MySql, "ALTER INSTANCE RELOAD TLS");
}

fn a_server_changes_its_ca(flavour: Flavour, reload: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Pki::new(dir.path(), "old").unwrap(), Pki::new(dir.path(), "new").unwrap());
    let pem = old.issue("server", &["127.0.0.1"]).unwrap();
    let trusted = dir.path().join("trusted.pem");
    std::fs::copy(old.ca(), &trusted).unwrap();
    let ca = trusted.display();
    let site = Site::with(Setup {
        server_args: vec![
            format!("--ssl-cert={}", pem.certificate),
            format!("--ssl-key={}", pem.key),
            // MySQL takes no certificate anew that its own CA knows nothing of.
            format!("--ssl-ca={ca}"),
        ],
        config: format!("workers = 2\n[tls]\nmode = \"verify_identity\"\nca = \"{ca}\"\n"),
        replicas: 0,
        flavour,
        ..Setup::default()
    });
    // Each logs in once: no connection is there for it already.
    let log_in = |user: &str| {
        let sql = format!(
            "CREATE USER '{user}' IDENTIFIED BY 'secret'; GRANT SELECT ON app.* TO '{user}'"
        );
        site.primary().client_sql(&sql).unwrap();
        mariadb(&site, &["--ssl"], user, "secret", "SELECT 1").ok()
    };
    assert_eq!(log_in("before"), "1\n");

    let other = new.issue("server", &["127.0.0.1"]).unwrap();
    let trust = |cas: &[String]| {
        let cas: Vec<_> = cas.iter().map(|ca| std::fs::read_to_string(ca).unwrap()).collect();
        std::fs::write(&trusted, cas.concat()).unwrap();
        site.cli(&["reload"])
    };
    // Both for a while, as one does it.
    trust(&[old.ca(), new.ca()]).ok();
    assert_eq!(log_in("between"), "1\n");
    std::fs::copy(&other.certificate, &pem.certificate).unwrap();
    std::fs::copy(&other.key, &pem.key).unwrap();
    site.primary().client_sql(reload).unwrap();
    assert_eq!(log_in("behind"), "1\n");
    trust(&[new.ca()]).ok();
    assert_eq!(log_in("after"), "1\n");

    std::fs::write(&trusted, "rubbish").unwrap();
    let said = site.cli(&["reload"]);
    assert!(!said.status.success() && said.stderr.contains("trusted.pem"), "{said:?}");
    assert_eq!(log_in("still"), "1\n", "nothing has changed");
}

#[test]
fn ed25519_accounts_need_their_password_in_the_config() {
    let site = Site::with(Setup {
        config: "workers = 1\n[[user]]\nname = \"known\"\npassword = \"secret\"\n".to_owned(),
        server_args: vec!["--plugin-load-add=auth_ed25519".to_owned()],
        ..Setup::default()
    });
    for user in ["known", "unknown"] {
        site.primary()
            .client_sql(&format!(
                "CREATE USER {user}@'%' IDENTIFIED VIA ed25519 USING PASSWORD('secret'); \
                 GRANT ALL ON app.* TO {user}@'%'"
            ))
            .unwrap();
    }
    site.sandbox.wait_caught_up().unwrap();
    let log_in = |user: &str, password: &str| {
        mariadb(&site, &["--skip-ssl"], user, password, "SELECT CURRENT_USER()")
    };
    assert_eq!(log_in("known", "secret").ok(), "known@%\n");
    assert!(log_in("known", "wrong").stderr.contains("ERROR 1045"));
    let said = log_in("unknown", "secret");
    assert!(said.stderr.contains("PM3001") && said.stderr.contains("[[user]]"), "{said:?}");
}
