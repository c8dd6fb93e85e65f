//! Changes of accounts are in force for whoever logs in after them, as on one server.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pointsman_sandbox::Flavour;
use pointsman_tests::{LONG, Raw, ServerError, Setup, Site, caps, freshness, wait_until};

const BOTH: [Flavour; 2] = [Flavour::MariaDb, Flavour::MySql];

fn site(flavour: Flavour) -> Site {
    let site = Site::with(Setup { flavour, ..Setup::default() });
    let sql = "CREATE USER boss IDENTIFIED BY 'boss-secret'; \
               GRANT ALL ON *.* TO boss WITH GRANT OPTION; \
               CREATE TABLE app.t (id INT PRIMARY KEY); CREATE TABLE app.u (id INT PRIMARY KEY)";
    site.primary().client_sql(sql).unwrap();
    site.sandbox.wait_caught_up().unwrap();
    site
}

fn boss(site: &Site) -> Raw {
    Raw::login(site.port(), "boss", "boss-secret", Some("app"), caps()).unwrap()
}

fn actor(site: &Site, password: &str) -> Result<Raw, u16> {
    let login = Raw::login(site.port(), "actor", password, Some("app"), caps());
    login.map_err(|e| e.downcast::<ServerError>().unwrap().code)
}

#[test]
fn a_login_meets_what_was_changed_before_it_on_every_worker() {
    for flavour in BOTH {
        let site = site(flavour);
        // What the primary has, the replica gets a second later.
        freshness::delay(&site).unwrap();
        let mut boss = boss(&site);
        let mut run = |sql: &str| drop(boss.query(sql).unwrap());
        let default_role = |role: &str| match flavour {
            Flavour::MySql => format!("SET DEFAULT ROLE {role} TO actor"),
            _ => format!("SET DEFAULT ROLE {role} FOR actor"),
        };
        // More than there are workers, so that each has a part in it; at the same time, since who is
        // turned away has waited.
        let all = |password: &str| {
            let site = &site;
            std::thread::scope(|scope| {
                let logins = [(); 4].map(|()| scope.spawn(move || actor(site, password)));
                logins.map(|login| login.join().unwrap()).into_iter().collect::<Vec<_>>()
            })
        };
        run("CREATE USER actor IDENTIFIED BY 'old'");
        run("GRANT SELECT ON app.t TO actor");
        run("CREATE ROLE part");
        run("GRANT SELECT ON app.u TO part");
        run("GRANT part TO actor");
        for mut db in all("old").into_iter().map(Result::unwrap) {
            db.query("SELECT * FROM t").unwrap();
            assert!(db.query("SELECT * FROM u").is_err(), "{flavour:?}: no role yet");
        }
        run(&default_role("part"));
        for mut db in all("old").into_iter().map(Result::unwrap) {
            let role = db.one("SELECT CURRENT_ROLE()").unwrap();
            assert!(role.contains("part"), "{flavour:?}: {role}");
            db.query("SELECT * FROM u").unwrap();
        }
        run(&default_role("NONE"));
        for mut db in all("old").into_iter().map(Result::unwrap) {
            assert!(db.query("SELECT * FROM u").is_err(), "{flavour:?}: the role is gone");
        }
        run("GRANT SELECT ON *.* TO actor");
        for mut db in all("old").into_iter().map(Result::unwrap) {
            db.query("SELECT * FROM u").unwrap();
        }
        run("REVOKE SELECT ON *.* FROM actor");
        for mut db in all("old").into_iter().map(Result::unwrap) {
            assert!(db.query("SELECT * FROM u").is_err(), "{flavour:?}: revoked");
        }
        let locked = if flavour == Flavour::MySql { 3118 } else { 4151 };
        for _ in 0..3 {
            run("ALTER USER actor ACCOUNT LOCK");
            assert!(all("old").iter().all(|login| login.as_ref().err() == Some(&locked)));
            run("ALTER USER actor ACCOUNT UNLOCK");
            assert!(all("old").iter().all(Result::is_ok));
        }
        run("ALTER USER actor IDENTIFIED BY 'new'");
        assert!(all("old").iter().all(|login| login.as_ref().err() == Some(&1045)));
        assert!(all("new").iter().all(Result::is_ok));
        run("ALTER USER actor REQUIRE SSL");
        assert!(all("new").iter().all(|login| login.as_ref().err() == Some(&1045)));
        run("ALTER USER actor REQUIRE NONE");
        run("RENAME USER actor TO other");
        assert!(all("new").iter().all(|login| login.as_ref().err() == Some(&1045)));
        run("RENAME USER other TO actor");
        assert!(all("new").iter().all(Result::is_ok));
        run("DROP USER actor");
        assert!(all("new").iter().all(|login| login.as_ref().err() == Some(&1045)));
    }
}

#[test]
fn whoever_is_turned_away_is_so_without_delay() {
    for flavour in BOTH {
        let site = site(flavour);
        let began = Instant::now();
        for _ in 0..10 {
            assert_eq!(actor(&site, "none").err(), Some(1045));
        }
        // What is wrong now may be right a moment later.
        site.primary().client_sql("CREATE USER actor IDENTIFIED BY 'none'").unwrap();
        site.primary().client_sql("GRANT SELECT ON app.* TO actor").unwrap();
        actor(&site, "none").unwrap();
        site.primary().client_sql("ALTER USER actor IDENTIFIED BY 'new'").unwrap();
        actor(&site, "new").unwrap();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(6), "{flavour:?}: {took:?}");
    }
}

#[test]
fn what_is_changed_past_the_proxy_is_in_force_within_seconds() {
    for flavour in BOTH {
        let site = site(flavour);
        let mut boss = boss(&site);
        boss.query("CREATE USER actor IDENTIFIED BY 'secret'").unwrap();
        boss.query("GRANT SELECT ON app.t TO actor").unwrap();
        let in_time = |what: &str, done: &mut dyn FnMut() -> bool| {
            let began = Instant::now();
            wait_until(what, LONG, || Ok(done())).unwrap();
            // Promised are two; the machine may have other things to do.
            assert!(began.elapsed() < Duration::from_secs(6), "{what}: {:?}", began.elapsed());
        };
        // A connection that might be shared.
        actor(&site, "secret").unwrap().query("SELECT * FROM t").unwrap();
        site.primary().client_sql("ALTER USER actor ACCOUNT LOCK").unwrap();
        in_time("locked", &mut || actor(&site, "secret").is_err());
        site.primary().client_sql("ALTER USER actor ACCOUNT UNLOCK").unwrap();
        // At once: the accounts are read again before anybody is turned away.
        actor(&site, "secret").unwrap();
        // No statement says this in its text.
        boss.query("CREATE PROCEDURE lock_it() ALTER USER actor ACCOUNT LOCK").unwrap();
        boss.query("CALL lock_it()").unwrap();
        in_time("locked by a procedure", &mut || actor(&site, "secret").is_err());
        boss.query("ALTER USER actor ACCOUNT UNLOCK").unwrap();
        actor(&site, "secret").unwrap().query("SELECT * FROM t").unwrap();
        site.primary().client_sql("GRANT SELECT ON *.* TO actor").unwrap();
        in_time("granted", &mut || {
            actor(&site, "secret").unwrap().query("SELECT * FROM app.u").is_ok()
        });
    }
}
