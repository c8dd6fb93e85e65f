use super::loader::from_global_priv;
use super::*;

fn account(user: &str, host: &str) -> Account {
    from_global_priv(user.to_owned(), host.to_owned(), "{}", 0, 0).unwrap()
}

fn find(accounts: &Accounts, user: &str, ip: &str) -> Option<String> {
    accounts.find(user, ip.parse().unwrap()).map(|a| format!("{}@{}", a.user, a.host))
}

#[test]
fn the_narrowest_host_comes_first_and_then_the_named_user() {
    let accounts = Accounts::new([
        account("app", "%"),
        account("app", "10.%"),
        account("app", "10.0.0.%"),
        account("app", "10.0.0._"),
        account("app", "10.0.0.5"),
        account("app", "10.1.0.0/255.255.0.0"),
        account("", "10.0.0.6"),
        account("", "%"),
        account("root", "localhost"),
        account("local", "127.0.0.1"),
        account("local", "localhost"),
    ]);
    for (user, ip, expected) in [
        ("app", "10.0.0.5", Some("app@10.0.0.5")),
        ("app", "10.0.0.7", Some("app@10.0.0._")),
        ("app", "10.0.0.77", Some("app@10.0.0.%")),
        ("app", "10.7.0.77", Some("app@10.%")),
        ("app", "10.1.2.3", Some("app@10.1.0.0/255.255.0.0")),
        ("app", "192.168.0.1", Some("app@%")),
        ("app", "::1", Some("app@%")),
        ("app", "::ffff:10.0.0.5", Some("app@10.0.0.5")),
        // The notorious one: a narrow anonymous account goes before a wide named one.
        ("app", "10.0.0.6", Some("@10.0.0.6")),
        ("nobody", "1.2.3.4", Some("@%")),
        ("root", "127.0.0.1", Some("root@localhost")),
        ("root", "::1", Some("root@localhost")),
        ("root", "10.0.0.9", Some("@%")),
        ("local", "127.0.0.1", Some("local@localhost")),
        ("APP", "10.0.0.5", Some("@%")),
    ] {
        assert_eq!(find(&accounts, user, ip).as_deref(), expected, "{user} from {ip}");
    }
    let accounts = Accounts::new([account("app", "%"), account("app", "localhost")]);
    assert_eq!(find(&accounts, "app", "127.0.0.1").as_deref(), Some("app@localhost"));
    let accounts = accounts.skip_name_resolve(true);
    assert_eq!(find(&accounts, "app", "127.0.0.1").as_deref(), Some("app@%"));
    let accounts = Accounts::new([account("app", "10.0.0.%")]);
    assert_eq!(find(&accounts, "app", "10.1.0.1"), None);
    assert_eq!(find(&accounts, "web", "10.0.0.1"), None);
}

#[test]
fn netmasks() {
    let accounts = Accounts::new([
        account("a", "10.0.0.0/255.255.255.128"),
        account("b", "10.0.0.5/255.255.255.0"),
        account("c", "10.0.0.0/24"),
        account("d", "0.0.0.0/0"),
    ]);
    assert!(find(&accounts, "a", "10.0.0.127").is_some());
    assert!(find(&accounts, "a", "10.0.0.128").is_none());
    assert!(find(&accounts, "b", "10.0.0.5").is_none(), "bits outside the mask never match");
    assert!(find(&accounts, "c", "10.0.0.255").is_some());
    assert!(find(&accounts, "c", "10.0.1.0").is_none());
    assert!(find(&accounts, "d", "1.2.3.4").is_some());
    assert!(find(&accounts, "a", "::1").is_none());
}

#[test]
fn reads_what_mariadb_keeps() {
    let read =
        |json: &str| from_global_priv("u".to_owned(), "%".to_owned(), json, 0, 1_800_000_000);
    let plain = read(
        r#"{"access":524288,"version_id":101119,"plugin":"mysql_native_password",
        "authentication_string":"*B69027D44F6E5EDC07F1AEAD1477967B16F28227",
        "password_last_changed":1795381566}"#,
    )
    .unwrap();
    assert_eq!(plain.plugin(), "mysql_native_password");
    assert!(plain.auth_string().starts_with(b"*B69"));
    assert!(!plain.locked && !plain.expired && plain.tls == TlsDemand::None);
    assert!(!format!("{plain:?}").contains("B690"), "secrets do not show");

    let bare = read(r#"{"access":18446744073709551615}"#).unwrap();
    assert_eq!((bare.plugin(), bare.auth_string()), ("mysql_native_password", &b""[..]));

    let two = read(
        r#"{"plugin":"mysql_native_password","authentication_string":"*74",
        "auth_or":[{"plugin":"ed25519","authentication_string":"Gv2"},{}]}"#,
    )
    .unwrap();
    let methods: Vec<_> = two.methods.iter().map(|m| m.plugin.as_str()).collect();
    assert_eq!(methods, ["ed25519", "mysql_native_password"]);
    assert_eq!(two.method("mysql_native_password").unwrap().auth_string, b"*74");

    assert!(read(r#"{"is_role":true}"#).is_none());
    assert!(read(r#"{"account_locked":true}"#).unwrap().locked);
    assert!(read(r#"{"password_last_changed":0,"password_lifetime":-1}"#).unwrap().expired);
    let days = |json: &str, default| {
        from_global_priv("u".into(), "%".into(), json, default, 100 * 86_400).unwrap().expired
    };
    assert!(days(r#"{"password_last_changed":86400,"password_lifetime":99}"#, 0));
    assert!(!days(r#"{"password_last_changed":86400,"password_lifetime":100}"#, 0));
    assert!(!days(r#"{"password_last_changed":86400,"password_lifetime":0}"#, 5));
    assert!(days(r#"{"password_last_changed":86400,"password_lifetime":-1}"#, 5));
    assert!(days(r#"{"password_last_changed":86400}"#, 5));
    let demand = |json| read(json).unwrap().tls;
    assert_eq!(demand(r#"{"ssl_type":1}"#), TlsDemand::Tls);
    assert_eq!(demand(r#"{"ssl_type":2}"#), TlsDemand::Certificate);
    assert_eq!(
        demand(r#"{"ssl_type":3,"ssl_cipher":"","x509_issuer":"","x509_subject":"/CN=x"}"#),
        TlsDemand::Specified {
            cipher: String::new(),
            issuer: String::new(),
            subject: "/CN=x".to_owned()
        }
    );
    assert_eq!(demand(r#"{"ssl_type":0}"#), TlsDemand::None);
    assert!(read("not json").is_some(), "an account that can't be read still hides wider ones");
}
