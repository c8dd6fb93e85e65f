use std::collections::VecDeque;
use std::io;

use pointsman_wire::{ColumnKind, Status, err_packet, ok_packet, text_result, write_packet};

use super::*;

/// A server whose packets are written down beforehand; notes what it is sent.
struct Script {
    says: VecDeque<u8>,
    heard: Vec<u8>,
}

impl Read for &mut Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte at a time: packets arrive in any pieces.
        let Some(byte) = self.says.pop_front() else { return Ok(0) };
        buffer[0] = byte;
        Ok(1)
    }
}

impl Write for &mut Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const SALT: [u8; auth::SALT] = [7; auth::SALT];

fn greeting(plugin: &str) -> Vec<u8> {
    let greeting = handshake::Greeting {
        server_version: b"8.0.36".to_vec(),
        connection_id: 1,
        salt: SALT,
        capabilities: Capabilities::OFFERED,
        collation: 45,
        status: Status::AUTOCOMMIT,
        plugin: plugin.as_bytes().to_vec(),
    };
    let mut out = Vec::new();
    write_packet(&mut out, 0, &greeting.build());
    out
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_packet(&mut out, 2, payload);
    out
}

fn ok() -> Vec<u8> {
    let mut out = Vec::new();
    ok_packet(&mut out, 2, Status::AUTOCOMMIT);
    out
}

fn result(name: &str, value: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    let columns = [("first", ColumnKind::VarString), (name, ColumnKind::VarString)];
    let row = [value.map(str::to_owned), value.map(str::to_owned)];
    text_result(&mut out, 1, &columns, [&row[..]], Status::AUTOCOMMIT);
    out
}

fn error(code: u16) -> Vec<u8> {
    let mut out = Vec::new();
    err_packet(&mut out, 1, code, "42000", "no");
    out
}

fn run(says: &[Vec<u8>], role: MysqlRole, max_lag: Option<u64>) -> (Result<(), String>, Vec<u8>) {
    let mut script = Script { says: says.concat().into(), heard: Vec::new() };
    let account = Account { user: "m", password: "s" };
    let done = check(&mut script, Some(account), role, max_lag.map(Duration::from_secs));
    (done, script.heard)
}

#[test]
fn each_method_proves_the_password() {
    for (plugin, wanted) in [
        (auth::NATIVE, auth::native_token(&auth::native_stage1(b"s"), &SALT).to_vec()),
        (auth::CACHING_SHA2, auth::sha2_token(&auth::sha2_stage1(b"s"), &SALT).to_vec()),
    ] {
        let (done, heard) = run(&[greeting(plugin), ok()], MysqlRole::Any, None);
        assert_eq!(done, Ok(()), "{plugin}");
        let response = handshake::Response::parse(&heard[HEADER..]).unwrap();
        assert_eq!((response.user.as_slice(), response.token), (&b"m"[..], wanted.clone()));
        // The same after being told to use another method.
        let switch = packet(&handshake::auth_switch(plugin, &SALT));
        let (done, heard) = run(&[greeting("ed25519"), switch, ok()], MysqlRole::Any, None);
        assert_eq!(done, Ok(()), "{plugin}");
        assert!(heard.windows(wanted.len()).any(|w| w == wanted));
    }
    let sha2 = || greeting(auth::CACHING_SHA2);
    assert_eq!(run(&[sha2(), packet(&[1, 3]), ok()], MysqlRole::Any, None).0, Ok(()));
    // Asked for the password itself, it goes out sealed with the server's key, or not at all.
    let asked = [sha2(), packet(&[1, 4]), packet(b"\x01no key")];
    let (full, heard) = run(&asked, MysqlRole::Any, None);
    assert!(full.unwrap_err().contains("RSA key"));
    assert!(heard.ends_with(&[1, 0, 0, 3, auth::SHA2_REQUEST_KEY]), "{heard:?}");
    let switch = packet(&handshake::auth_switch("dialog", &SALT));
    assert!(run(&[sha2(), switch], MysqlRole::Any, None).0.unwrap_err().contains("dialog"));
    assert!(run(&[sha2(), error(1045)], MysqlRole::Any, None).0.unwrap_err().contains("1045"));
}

#[test]
fn roles_are_told_apart() {
    let run = |value, role| {
        run(&[greeting(auth::NATIVE), ok(), result_of_one(value)], role, None).0.is_ok()
    };
    for (value, primary) in [("0", true), ("OFF", true), ("1", false), ("ON", false)] {
        assert_eq!(run(value, MysqlRole::Primary), primary, "{value}");
        assert_eq!(run(value, MysqlRole::Replica), !primary, "{value}");
    }
}

fn result_of_one(value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let row = [Some(value.to_owned())];
    let columns = [("@@global.read_only", ColumnKind::LongLong)];
    text_result(&mut out, 1, &columns, [&row[..]], Status::AUTOCOMMIT);
    out
}

#[test]
fn lag_is_judged_and_unknown_lag_is_bad() {
    let run = |answers: &[Vec<u8>], role| {
        run(&[&[greeting(auth::NATIVE), ok()], answers].concat(), role, Some(5)).0
    };
    let any = MysqlRole::Any;
    assert_eq!(run(&[result("Seconds_Behind_Source", Some("5"))], any), Ok(()));
    let late = run(&[result("Seconds_Behind_Master", Some("6"))], any);
    assert_eq!(late, Err("lags 6 s behind".into()));
    assert!(run(&[result("Seconds_Behind_Master", None)], any).unwrap_err().contains("stopped"));
    // An old server knows the old words only.
    let old = [error(SYNTAX), result("Seconds_Behind_Master", Some("0"))];
    assert_eq!(run(&old, any), Ok(()));
    assert!(run(&[error(1227)], any).unwrap_err().contains("1227"));
    // A primary has no lag to ask for.
    assert_eq!(run(&[result_of_one("0")], MysqlRole::Primary), Ok(()));
    assert!(run(&[result_of_one("1"), ok()], MysqlRole::Replica).is_err());
}

proptest::proptest! {
    #[test]
    fn any_server_is_survived(says: Vec<u8>, packets: Vec<Vec<u8>>) {
        let mut all = vec![greeting(auth::NATIVE), ok()];
        all.extend(packets.iter().map(|p| packet(p)));
        let _ = run(&all, MysqlRole::Replica, Some(1));
        let _ = run(&[says], MysqlRole::Replica, Some(1));
    }
}
