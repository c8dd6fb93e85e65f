//! Clients that ask for compression.

#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::process::Command;

use mysql_async::prelude::Queryable as _;
use pointsman_sandbox::Flavour;
use pointsman_tests::{APP_PASSWORD, APP_USER, Output, Raw, Setup, Site, caps};
use pointsman_wire::{Capabilities, write_packet};

fn mariadb(site: &Site, args: &[&str], sql: &str) -> String {
    Site::mariadb_at(site.port(), args, sql).ok()
}

#[test]
fn the_mariadb_client_and_php_compress() {
    let server_args = vec!["--max-allowed-packet=64M".to_owned()];
    let site = Site::with(Setup { server_args, ..Setup::default() });
    for args in [&["--compress", "--skip-ssl"][..], &["--compress", "--ssl"]] {
        assert_eq!(mariadb(&site, args, "SELECT 1; SELECT REPEAT('x', 10)"), "1\nxxxxxxxxxx\n");
        // Several packets, compressed to a fraction: on its way out at least.
        let sql =
            "SELECT LENGTH(@v), SUBSTRING(@v, -3) FROM (SELECT @v := REPEAT('abc', 6000000)) t";
        let args = [args, &["--max-allowed-packet=64M"]].concat();
        assert_eq!(mariadb(&site, &args, sql), "18000000\tabc\n");
        let got = mariadb(&site, &args, "SELECT REPEAT('abc', 6000000)");
        assert_eq!(got.len(), 18_000_001);
        for error in ["SELECT nothing", "SELEC"] {
            let said = Site::mariadb_at(site.port(), &args, error);
            assert!(said.stderr.contains("ERROR 10"), "{said:?}");
        }
    }
    let script = format!(
        "mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
         foreach ([MYSQLI_CLIENT_COMPRESS, MYSQLI_CLIENT_COMPRESS | MYSQLI_CLIENT_SSL
                   | MYSQLI_CLIENT_SSL_DONT_VERIFY_SERVER_CERT] as $flags) {{
             $db = mysqli_init();
             $db->real_connect('127.0.0.1', '{APP_USER}', '{APP_PASSWORD}', 'app', (int) $argv[1],
                 null, $flags);
             $db->query('CREATE TEMPORARY TABLE t (id INT PRIMARY KEY, v LONGTEXT)');
             $insert = $db->prepare('INSERT INTO t VALUES (?, ?)');
             foreach ([0, 1, 49, 50, 51, 1000, 70000, 3000000] as $n) {{
                 $insert->execute([$n, str_repeat('y', $n)]);
             }}
             foreach ($db->query('SELECT id, v FROM t') as $row) {{
                 if ($row['v'] !== str_repeat('y', $row['id'])) die('differs: ' . $row['id']);
             }}
             $bytes = $db->get_connection_stats()['bytes_received'];
             if ($bytes > 100000) die(\"not compressed: $bytes\");
             $db->change_user('{APP_USER}', '{APP_PASSWORD}', 'app');
             echo $db->query('SELECT DATABASE()')->fetch_row()[0], ' ';
         }}"
    );
    let mut php = Command::new("php");
    let said = Output::of(php.args(["-r", &script, "--", &site.port().to_string()])).ok();
    assert_eq!(said, "app app ");
    let pdo = format!(
        "$db = new PDO('mysql:host=127.0.0.1;dbname=app;port=' . $argv[1], '{APP_USER}', \
         '{APP_PASSWORD}', [PDO::MYSQL_ATTR_COMPRESS => true]);
         echo strlen($db->query(\"SELECT REPEAT('z', 100000)\")->fetchColumn());"
    );
    let mut php = Command::new("php");
    let said = Output::of(php.args(["-r", &pdo, "--", &site.port().to_string()])).ok();
    assert_eq!(said, "100000");
}

#[tokio::test]
async fn mysql_async_compresses() {
    let site = Site::start();
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(site.port())
        .user(Some(APP_USER))
        .pass(Some(APP_PASSWORD))
        .db_name(Some("app"))
        .compression(mysql_async::Compression::best())
        .prefer_socket(false);
    let mut db = mysql_async::Conn::new(opts).await.unwrap();
    db.query_drop("CREATE TABLE t (id INT PRIMARY KEY, v LONGBLOB)").await.unwrap();
    for n in [0usize, 1, 49, 50, 51, 1000, 70_000, 1_000_000] {
        let value: Vec<u8> = (0..n).map(|i| (i % 7) as u8).collect();
        db.exec_drop("INSERT INTO t VALUES (?, ?)", (n, &value)).await.unwrap();
        let got: Option<Vec<u8>> =
            db.exec_first("SELECT v FROM t WHERE id = ?", (n,)).await.unwrap();
        assert!(got.unwrap() == value, "{n}");
    }
    db.disconnect().await.unwrap();
}

/// The `mysql` client is MySQL's; the servers behind the proxy need not be.
#[test]
fn the_mysql_client_compresses_by_zlib_and_zstd() {
    if let Err(error) = Flavour::MySql.check() {
        println!("skipped: no MySQL client ({error:#})");
        return;
    }
    let sandbox = pointsman_sandbox::Sandbox::start(pointsman_sandbox::Options {
        flavour: Flavour::MySql,
        replicas: 0,
        ..Default::default()
    })
    .unwrap();
    let (port, admin) =
        (pointsman_tests::free_port().unwrap(), pointsman_tests::free_port().unwrap());
    let config = sandbox.dir().join("proxy.toml");
    sandbox.write_proxy_config(&config, port, admin, "workers = 1\n").unwrap();
    let mut proxy =
        pointsman_tests::Proxy::spawn(&config, admin, &sandbox.dir().join("proxy.log")).unwrap();
    proxy.wait_ready().unwrap();
    for args in [
        &["--compression-algorithms=zlib"][..],
        &["--compression-algorithms=zstd"],
        &["--compression-algorithms=zstd", "--zstd-compression-level=22"],
        &["--compression-algorithms=zstd,zlib"],
        &["--compression-algorithms=zstd", "--ssl-mode=DISABLED", "--get-server-public-key"],
        &["--compression-algorithms=uncompressed"],
    ] {
        let run = |sql: &str| {
            let mut command = sandbox.primary().client();
            command
                .args(["--host=127.0.0.1", "--batch", "--skip-column-names"])
                .args(args)
                .args([format!("--port={port}"), format!("--user={APP_USER}")])
                .args([format!("--password={APP_PASSWORD}"), format!("--execute={sql}")])
                .arg("app");
            Output::of(&mut command).ok()
        };
        assert_eq!(run("SELECT 1; SELECT REPEAT('x', 100)"), format!("1\n{}\n", "x".repeat(100)));
        assert_eq!(run("SELECT REPEAT('abc', 2000000)").len(), 6_000_001, "{args:?}");
        let long = "x".repeat(120_000);
        assert_eq!(run(&format!("SELECT LENGTH('{long}')")), "120000\n", "{args:?}");
    }
}

/// MariaDB's Connector/J numbers them on from packet to packet.
#[test]
fn packets_within_compressed_ones_may_have_any_number() {
    let site = Site::start();
    let caps = caps() | Capabilities::COMPRESS;
    let raw = Raw::login(site.port(), APP_USER, APP_PASSWORD, Some("app"), caps).unwrap();
    let mut stream = raw.stream();
    let framed = |outer: u8, inner: &[u8]| {
        let len = u32::try_from(inner.len()).unwrap().to_le_bytes();
        // Not compressed after all, as short ones are.
        [&len[..3], &[outer, 0, 0, 0], inner].concat()
    };
    let mut read = || {
        let mut header = [0; 7];
        stream.read_exact(&mut header).unwrap();
        assert_eq!(header[4..], [0, 0, 0], "too short to be compressed");
        let mut inner = vec![0; usize::from(header[0])];
        stream.read_exact(&mut inner).unwrap();
        inner
    };
    for (inner_seq, sql) in [(0, "CREATE TABLE z (id INT)"), (3, "INSERT INTO z VALUES (1)")] {
        let mut inner = Vec::new();
        write_packet(&mut inner, inner_seq, &[b"\x03", sql.as_bytes()].concat());
        (&mut raw.stream()).write_all(&framed(0, &inner)).unwrap();
        assert_eq!(read()[4], 0, "{sql} is answered by an OK");
    }
    let mut inner = Vec::new();
    write_packet(&mut inner, 9, b"\x03LOAD DATA LOCAL INFILE 'x' INTO TABLE z");
    (&mut raw.stream()).write_all(&framed(0, &inner)).unwrap();
    assert_eq!(read()[4], 0xfb, "asks for the file");
    for (outer, inner_seq, lines) in [(2, 7, &b"2\n3\n"[..]), (3, 11, b"")] {
        let mut inner = Vec::new();
        write_packet(&mut inner, inner_seq, lines);
        (&mut raw.stream()).write_all(&framed(outer, &inner)).unwrap();
    }
    let done = read();
    assert_eq!(done[4..6], [0, 2], "two rows: {done:?}");
}
