//! Peers that are broken, slow or hostile end their own session, and nobody else's.

#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pointsman_tests::{
    APP_PASSWORD, LONG, Proxy, Raw, ServerError, Setup, Site, caps, free_port, wait_until,
};
use pointsman_wire::write_packet;

fn site(limits: &str) -> Site {
    Site::with(Setup { config: format!("workers = 2\n[limits]\n{limits}\n"), ..Setup::default() })
}

fn code(error: anyhow::Error) -> u16 {
    error.downcast::<ServerError>().map_or(0, |e| e.code)
}

/// What a client that reads on is told before it is cut off: the code of an error, if any.
fn farewell(db: &mut Raw) -> Option<u16> {
    let mut bytes = Vec::new();
    let mut stream = db.stream();
    // Reset or ended: both are ends.
    let _ = stream.read_to_end(&mut bytes);
    (bytes.get(4) == Some(&0xff)).then(|| u16::from_le_bytes([bytes[5], bytes[6]]))
}

#[test]
fn a_host_that_only_guesses_is_turned_away() {
    let site = site("max_login_errors = 50\nlogin_block = \"2s\"");
    let guess = || Raw::login(site.port(), "app", "wrong", Some("app"), caps()).err().unwrap();
    let mut codes = Vec::new();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..60).map(|_| scope.spawn(|| code(guess()))).collect();
        codes.extend(all.into_iter().map(|guess| guess.join().unwrap()));
    });
    codes.push(code(guess()));
    assert_eq!(codes.last(), Some(&1129), "{codes:?}");
    // Turned away at the door: thousands a second cost little.
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(code(guess()), 1129);
        if began.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    wait_until("the block ends", LONG, || Ok(Raw::connect(site.port()).is_ok())).unwrap();
}

#[test]
fn a_login_one_byte_at_a_time_is_served_and_one_that_never_ends_is_not() {
    let site = site("login_timeout = \"1s\"");
    let mut db = Raw::connect(site.port()).unwrap();
    let mut packet = Vec::new();
    write_packet(&mut packet, 0, b"\x03SELECT 'slowly'");
    for byte in packet {
        db.send_bytes(&[byte]).unwrap();
    }
    db.next_reply();
    assert_eq!(db.result().unwrap().0, [b"\x06slowly"]);

    let began = Instant::now();
    let mut crowd: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port())).unwrap();
            stream.write_all(&[200, 0]).unwrap();
            stream
        })
        .collect();
    assert_eq!(db.one("SELECT 1").unwrap(), "1");
    for stream in &mut crowd {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(db.one("SELECT 1").unwrap(), "1");
}

#[test]
fn a_storm_of_wrong_passwords_leaves_room_for_the_right_ones() {
    // A hundred of them are made to wait for a second each time: half of all clients that may be.
    const THREADS: u32 = 600;
    const PACE: Duration = Duration::from_millis(400);
    let site = site("max_connections = 200");
    let over = Instant::now() + Duration::from_secs(5);
    let (tried, full, right) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let longest = std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (tried, full, port) = (&tried, &full, site.port());
            scope.spawn(move || {
                std::thread::sleep(PACE * thread / THREADS);
                while Instant::now() < over {
                    let next = Instant::now() + PACE;
                    let user = if thread % 2 == 0 { "app" } else { "nobody" };
                    let refused = Raw::login(port, user, "wrong", None, caps()).err().unwrap();
                    tried.fetch_add(1, Ordering::Relaxed);
                    match code(refused) {
                        1045 => {}
                        1040 => {
                            full.fetch_add(1, Ordering::Relaxed);
                        }
                        other => panic!("{other}"),
                    }
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            });
        }
        let mut longest = Duration::ZERO;
        while Instant::now() < over {
            let began = Instant::now();
            Raw::connect(site.port()).unwrap().query("SELECT 1").unwrap();
            longest = longest.max(began.elapsed());
            right.fetch_add(1, Ordering::Relaxed);
        }
        longest
    });
    println!(
        "{tried:?} wrong logins in 5 s, {full:?} found no place; {right:?} right ones, the longest \
         took {longest:?}"
    );
    assert!(tried.into_inner() >= 5000, "a thousand a second");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[test]
fn packets_out_of_order_cut_short_or_enormous_end_that_session() {
    let mut site = site("");
    let mut good = Raw::connect(site.port()).unwrap();
    good.query("CREATE TABLE t (id INT)").unwrap();
    let rss = site.proxy.rss().unwrap();
    // Out of sequence.
    for port in [site.primary().port(), site.port()] {
        let mut db = Raw::connect(port).unwrap();
        let mut packet = Vec::new();
        write_packet(&mut packet, 7, b"\x03INSERT INTO t VALUES (7)");
        db.send_bytes(&packet).unwrap();
        assert_eq!(farewell(&mut db), Some(1156));
    }
    // Headers that promise 16 MiB and more, from many, and no more than that.
    let crowd: Vec<_> = (0..100)
        .map(|_| {
            let mut db = Raw::connect(site.port()).unwrap();
            db.send_bytes(&[0xff, 0xff, 0xff, 0, 3]).unwrap();
            db
        })
        .collect();
    // An execution that says it has what it has not, an unknown statement, an empty packet.
    for payload in [
        &b""[..],
        b"\x17",
        b"\x17\x01\0\0\0",
        b"\x17\xff\xff\xff\x7f\0\x01\0\0\0",
        b"\x18\x01\0",
        b"\x19",
        b"\x1a\x01",
        b"\x1c\x01\0\0\0",
        b"\x11app\0\xffx",
        b"\x11",
        b"\x1b",
        b"\xfa\x01\0\0\0",
        b"\x04",
    ] {
        let mut db = Raw::connect(site.port()).unwrap();
        let mut packet = Vec::new();
        write_packet(&mut packet, 0, payload);
        db.send_bytes(&packet).unwrap();
        db.stream().shutdown(std::net::Shutdown::Write).unwrap();
        farewell(&mut db);
        assert_eq!(good.one("SELECT 1").unwrap(), "1", "after {payload:?}");
    }
    // Half a packet, then gone.
    for _ in 0..50 {
        let mut db = Raw::connect(site.port()).unwrap();
        db.send_bytes(b"\x40\0\0\0\x03INSERT INTO t VALUES (1), (2)").unwrap();
    }
    let grown = site.proxy.rss().unwrap().saturating_sub(rss) >> 20;
    assert!(grown < 64, "{grown} MiB more");
    drop(crowd);
    wait_until("only the good one is left", LONG, || {
        Ok(site.metric("pointsman_client_connections", &[]) == 1.0)
    })
    .unwrap();
    assert_eq!(good.one("SELECT COUNT(*) FROM t").unwrap(), "0");
    assert!(site.proxy.is_running());
}

/// Stands before a server and passes everything on, but what answers a statement with `hit` in it.
struct Meddler {
    port: u16,
    answer: Arc<Mutex<Vec<u8>>>,
    hits: Arc<AtomicUsize>,
}

impl Meddler {
    fn before(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, hits) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicUsize>::default());
        let (bad, count) = (Arc::clone(&answer), Arc::clone(&hits));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(mut client) = client else { return };
                let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else {
                    continue;
                };
                let (mut to, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
                let (bad, count) = (Arc::clone(&bad), Arc::clone(&count));
                std::thread::spawn(move || {
                    let mut buf = [0; 1 << 16];
                    while let Ok(n @ 1..) = client.read(&mut buf) {
                        if buf[..n].windows(3).any(|w| w == b"hit") {
                            count.fetch_add(1, Ordering::SeqCst);
                            let _ = client.write_all(&bad.lock().unwrap());
                            break;
                        }
                        if server.write_all(&buf[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = client.shutdown(std::net::Shutdown::Both);
                    let _ = server.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { port, answer, hits }
    }
}

#[test]
fn a_server_that_sends_garbage_ends_that_session_alone() {
    let site = Site::start();
    let meddler = Meddler::before(site.replica().port());
    let (port, admin) = (free_port().unwrap(), free_port().unwrap());
    let config = site.sandbox.dir().join("meddled.toml");
    site.sandbox.write_proxy_config(&config, port, admin, "workers = 1\n").unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let (own, meddled) = (site.replica().port(), meddler.port);
    let text = text.replace(&format!("127.0.0.1:{own}"), &format!("127.0.0.1:{meddled}"));
    std::fs::write(&config, text).unwrap();
    let log = site.sandbox.dir().join("meddled.log");
    let mut proxy = Proxy::spawn(&config, admin, &log).unwrap();
    proxy.wait_ready().unwrap();
    let mut good = Raw::connect(port).unwrap();
    wait_until("reads go to the replica", LONG, || {
        Ok(good.one("SELECT @@server_id")? == site.replica().server_id().to_string())
    })
    .unwrap();
    let rss = proxy.rss().unwrap();

    let packet = |seq: u8, payload: &[u8]| {
        let mut out = Vec::new();
        write_packet(&mut out, seq, payload);
        out
    };
    let columns =
        [packet(1, &[1]), packet(2, b"\x03def\0\0\0\x01a\0\x0c\x21\0\0\0\0\0\xfd\0\0\0\0\0")];
    let answers: Vec<Vec<u8>> = vec![
        vec![],
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        vec![0; 4096],
        // Cut short in its header, in its payload; the wrong sequence id.
        vec![1, 0],
        vec![200, 0, 0, 1, 0, 0],
        packet(9, b"\0\0\0\x02\0\0\0"),
        // Result sets of no columns, of 2^64 of them; an OK cut short; an ERR of one byte.
        packet(1, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        packet(1, &[0, 0xfe, 1]),
        packet(1, &[0xff]),
        packet(1, &[0xfc, 0xff]),
        // In the middle of a result: gone, garbage, an enormous row that never comes.
        columns.concat(),
        [columns.concat(), vec![0xff, 0xff, 0xff, 3, 1, 2]].concat(),
        [columns.concat(), packet(3, b"\xfe"), packet(4, b"\x011"), vec![9]].concat(),
    ];
    for answer in answers {
        *meddler.answer.lock().unwrap() = answer.clone();
        let before = meddler.hits.load(Ordering::SeqCst);
        let mut db = Raw::connect(port).unwrap();
        db.stream().set_read_timeout(Some(LONG)).unwrap();
        let began = Instant::now();
        let got = db.query("SELECT 'hit' AS a");
        assert!(began.elapsed() < Duration::from_secs(20), "after {answer:?}");
        // Nothing was passed on: another server answers. Else the client knows that it went wrong.
        if let Ok(rows) = &got {
            assert_eq!(rows, &[[Some("hit".to_owned())]], "after {answer:?}");
        }
        assert!(proxy.is_running(), "after {answer:?}: {}", proxy.log());
        assert_eq!(good.one("SELECT 1").unwrap(), "1", "after {answer:?}");
        assert!(meddler.hits.load(Ordering::SeqCst) >= before);
        wait_until("the replica reads again", LONG, || {
            Ok(good.one("SELECT @@server_id")? == site.replica().server_id().to_string())
        })
        .unwrap();
    }
    assert!(meddler.hits.load(Ordering::SeqCst) > 5);
    let grown = proxy.rss().unwrap().saturating_sub(rss) >> 20;
    assert!(grown < 64, "{grown} MiB more");
    assert!(!proxy.log().contains("panicked"));
}

#[test]
fn no_password_is_told_to_anybody() {
    let site = Site::with(Setup { log: "trace", console: true, ..Setup::default() });
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("SELECT 1").unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    db.change_user("app", APP_PASSWORD, Some("app")).unwrap();
    assert!(Raw::login(site.port(), "app", "wrong-secret", Some("app"), caps()).is_err());
    assert!(Raw::login(site.port(), "nobody", "wrong-secret", None, caps()).is_err());
    let told = [
        site.proxy.log(),
        site.metrics(),
        site.cli(&["status", "--json"]).stdout,
        site.cli(&["events", "--json"]).stdout,
        site.admin_json("sessions").unwrap().to_string(),
        site.admin_json("config").unwrap().to_string(),
    ];
    let hash = site
        .primary()
        .client_sql("SELECT authentication_string FROM mysql.user WHERE user = 'app'")
        .unwrap();
    let hash = hash.trim().trim_start_matches('*').to_ascii_lowercase();
    assert_eq!(hash.len(), 40, "{hash}");
    for text in told {
        let text = text.to_ascii_lowercase();
        for secret in ["app-secret", "monitor-secret", "wrong-secret", &hash] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
