use super::*;

fn at(text: &str) -> Position {
    Position::MariaDb(text.parse().unwrap())
}

fn table(name: &str) -> TableRow {
    let kind = if name.starts_with("view") { "VIEW" } else { "BASE TABLE" };
    TableRow {
        schema: "app".into(),
        name: name.into(),
        kind: kind.into(),
        engine: (kind == "BASE TABLE").then(|| "InnoDB".into()),
    }
}

fn named(name: &str) -> (String, String) {
    ("app".to_owned(), name.to_owned())
}

/// A catalog of `tables`, of which some have triggers; changes of the first of a pair change the
/// second.
fn known(tables: &[&str], triggers: &[&str], cascades: &[(&str, &str)]) -> Arc<LastWrites> {
    let writes = Arc::new(LastWrites::new(true));
    let rows: Vec<_> = tables.iter().map(|name| table(name)).collect();
    let triggers: Vec<_> = triggers.iter().map(|name| named(name)).collect();
    let keys: Vec<_> = cascades
        .iter()
        .map(|(parent, child)| ForeignKey { parent: named(parent), child: named(child) })
        .collect();
    let catalog = Catalog::new(&writes.hasher, &rows, &triggers, &keys);
    let changes = writes.before_reading().unwrap();
    assert!(writes.publish(Arc::new(catalog), changes));
    writes
}

fn write(writes: &LastWrites, table: &str, position: &str) {
    let mut touched = Touched::default();
    writes.touch(&mut touched, Some(b"app"), [(None, table)]);
    writes.note(&at(position), &touched);
}

/// What a read of `table` waits for, as the proxy asks.
fn needed(writes: &LastWrites, table: &str) -> Option<String> {
    let position = match writes.tables_of_read(Some(b"app"), [(None, table)]) {
        Some(keys) => writes.needed(&keys),
        None => writes.newest(),
    };
    position.map(|position| position.to_string())
}

#[test]
fn a_read_waits_for_writes_to_its_own_tables_only() {
    let writes = known(&["a", "b"], &[], &[]);
    write(&writes, "a", "0-1-1");
    write(&writes, "A", "0-1-5");
    assert_eq!(needed(&writes, "a").as_deref(), Some("0-1-5"));
    assert_eq!(needed(&writes, "b"), None);
    assert_eq!(needed(&writes, "app.b"), Some("0-1-5".into()), "no such table");
    write(&writes, "b", "0-1-6");
    assert_eq!(needed(&writes, "a").as_deref(), Some("0-1-5"));
    assert_eq!(writes.newest().unwrap().to_string(), "0-1-6");
}

#[test]
fn views_and_unknown_names_wait_for_all() {
    let writes = known(&["a", "b", "view_of_a"], &[], &[]);
    write(&writes, "a", "0-1-1");
    write(&writes, "b", "0-1-2");
    assert_eq!(needed(&writes, "view_of_a").as_deref(), Some("0-1-2"));
    assert_eq!(needed(&writes, "unheard_of").as_deref(), Some("0-1-2"));
    write(&writes, "view_of_a", "0-1-3");
    assert_eq!(needed(&writes, "b").as_deref(), Some("0-1-3"), "written through a view");
    let umlaut = writes.tables_of_read(Some("schön".as_bytes()), [(None, "a")]);
    assert_eq!(umlaut, None);
}

#[test]
fn what_triggers_and_foreign_keys_change_counts() {
    let writes = known(
        &["a", "triggered", "parent", "child", "grandchild", "b", "far"],
        &["triggered", "far"],
        &[("parent", "child"), ("child", "grandchild"), ("child", "child"), ("b", "far")],
    );
    write(&writes, "parent", "0-1-1");
    for table in ["parent", "child", "grandchild"] {
        assert_eq!(needed(&writes, table).as_deref(), Some("0-1-1"), "{table}");
    }
    assert_eq!(needed(&writes, "a"), None);
    write(&writes, "triggered", "0-1-2");
    assert_eq!(needed(&writes, "a").as_deref(), Some("0-1-2"));
    write(&writes, "b", "0-1-3");
    assert_eq!(needed(&writes, "a").as_deref(), Some("0-1-3"), "its foreign key's table has one");
}

#[test]
fn names_that_differ_in_case_alone_are_one() {
    let mut view = table("view");
    view.name = "A".into();
    let hasher = Hasher::default();
    let catalog = Catalog::new(&hasher, &[table("a"), view], &[], &[]);
    assert!(!catalog.is_table(hasher.key(b"app", "a").unwrap()));
    assert_eq!(hasher.key(b"APP", "A"), hasher.key(b"app", "a"));
    assert_ne!(hasher.key(b"ap", "pa"), hasher.key(b"app", "a"));
}

#[test]
fn while_the_schema_may_be_changing_everything_counts_for_all() {
    let writes = known(&["a", "b"], &[], &[]);
    let mut before = Touched::default();
    writes.touch(&mut before, Some(b"app"), [(None, "a")]);
    let change = writes.schema_change();
    assert_eq!(writes.before_reading(), None, "it is not to be read now");
    assert_eq!(writes.tables_of_read(Some(b"app"), [(None, "b")]), None);
    // Sent before, acknowledged during: it may have waited for the change.
    writes.note(&at("0-1-7"), &before);
    change.settled();
    assert_eq!(writes.tables_of_read(Some(b"app"), [(None, "b")]), None, "and not read again yet");
    let changes = writes.before_reading().unwrap();
    let catalog = Arc::new(Catalog::new(&writes.hasher, &[table("a"), table("b")], &[], &[]));
    assert!(writes.publish(catalog.clone(), changes));
    assert_eq!(needed(&writes, "b").as_deref(), Some("0-1-7"));
    // Read while another change began.
    let changes = writes.before_reading().unwrap();
    let change = writes.schema_change();
    assert!(!writes.publish(catalog.clone(), changes));
    // And one that nobody knows the end of.
    drop(change);
    assert_eq!(writes.before_reading(), None);
    writes.restart(Some(&at("0-2-9")));
    assert!(writes.before_reading().is_some(), "it died with its server");
}

#[test]
fn another_schema_makes_earlier_writes_count_for_all() {
    let writes = known(&["a", "b"], &[], &[]);
    write(&writes, "a", "0-1-1");
    let rows = [table("a"), table("b")];
    let catalog = Catalog::new(&writes.hasher, &rows, &[named("a")], &[]);
    let changes = writes.before_reading().unwrap();
    assert!(writes.publish(Arc::new(catalog), changes));
    assert_eq!(needed(&writes, "b").as_deref(), Some("0-1-1"));
}

#[test]
fn a_transaction_counts_for_all_that_it_wrote() {
    let writes = known(&["a", "b", "c"], &[], &[]);
    let mut touched = Touched::default();
    writes.touch(&mut touched, Some(b"app"), [(None, "a")]);
    writes.touch(&mut touched, None, [(Some("app"), "b")]);
    writes.note(&at("0-1-1"), &touched);
    assert_eq!(needed(&writes, "a"), needed(&writes, "b"));
    assert_eq!(needed(&writes, "c"), None);
    writes.touch(&mut touched, None, [(None, "c")]);
    writes.note(&at("0-1-2"), &touched);
    assert_eq!(needed(&writes, "c").as_deref(), Some("0-1-2"), "no schema, no table");
    touched.clear();
    writes.note(&at("0-1-3"), &touched);
    assert_eq!(needed(&writes, "c").as_deref(), Some("0-1-3"), "a commit of nothing known");
}

#[test]
fn positions_of_scattered_writes_stay_short() {
    let writes = known(&["a", "b"], &[], &[]);
    let uuid = "00000000-0000-0000-0000-000000000001";
    let mysql =
        |n: u64| Position::parse(crate::gtid::Flavour::MySql, format!("{uuid}:{n}").as_bytes());
    let mut touched = Touched::default();
    writes.touch(&mut touched, Some(b"app"), [(None, "a")]);
    let mut other = Touched::default();
    writes.touch(&mut other, Some(b"app"), [(None, "b")]);
    for n in 1..2000 {
        let which = if n % 2 == 0 { &touched } else { &other };
        writes.note(&mysql(n).unwrap(), which);
        let keys = writes.tables_of_read(Some(b"app"), [(None, "a")]).unwrap();
        if let Some(needed) = writes.needed(&keys) {
            assert!(needed.parts() <= MOST_PARTS + 1, "{needed}");
            assert!(needed.covers(&mysql(n - n % 2).unwrap()));
        }
    }
}

#[test]
fn switched_off_all_counts_for_all() {
    let writes = LastWrites::new(false);
    assert_eq!(writes.before_reading(), None);
    write(&writes, "a", "0-1-1");
    assert_eq!(needed(&writes, "b").as_deref(), Some("0-1-1"));
}

#[test]
fn what_is_astray_is_found_by_an_answer_to_a_later_question() {
    let writes = known(&["a"], &[], &[]);
    let before = writes.astray();
    let write = writes.note_astray();
    assert!(writes.any_astray() && !writes.is_found(write));
    assert_eq!(writes.with_newest(|newest| newest.is_some()), None);
    assert!(!writes.found(&at("0-1-4"), before), "asked before it");
    assert!(writes.any_astray());
    let asked = writes.astray();
    let another = writes.note_astray();
    assert!(writes.found(&at("0-1-5"), asked));
    assert!(writes.is_found(write) && !writes.is_found(another) && writes.any_astray());
    assert_eq!(needed(&writes, "a").as_deref(), Some("0-1-5"), "whatever it was");
    assert!(writes.found(&at("0-1-6"), writes.astray()));
    assert!(!writes.any_astray());
    let newest = writes.with_newest(|newest| newest.map(ToString::to_string));
    assert_eq!(newest, Some(Some("0-1-6".into())));
    writes.restart(Some(&at("0-2-7")));
    assert!(!writes.any_astray());
    writes.restart(None);
    assert!(writes.any_astray(), "nobody knows what the new primary began with");
    assert!(!writes.is_found(Astray::FOR_GOOD));
}

#[test]
fn what_may_be_logged_in_other_words_is_not_known_by_them() {
    let publish = |as_sent: bool| {
        let writes = LastWrites::new(true);
        let tables = ["a", "triggered", "parent", "view_of_a"].map(table);
        let keys = [ForeignKey { parent: named("parent"), child: named("triggered") }];
        let mut catalog = Catalog::new(&writes.hasher, &tables, &[named("triggered")], &keys);
        catalog.as_sent = as_sent;
        let changes = writes.before_reading().unwrap();
        assert!(writes.publish(Arc::new(catalog), changes));
        writes
    };
    let as_sent = |writes: &LastWrites, tables: &[&str]| {
        let mut touched = Touched::default();
        for table in tables {
            writes.touch(&mut touched, Some(b"app"), [(None, *table)]);
        }
        touched.logged_as_sent()
    };
    let plain = publish(true);
    assert!(as_sent(&plain, &["a", "a"]));
    for other in ["triggered", "parent", "view_of_a", "unheard_of"] {
        assert!(!as_sent(&plain, &["a", other]), "{other}");
    }
    assert!(!as_sent(&publish(false), &["a"]), "something may rewrite statements");
    assert!(!as_sent(&LastWrites::new(true), &["a"]), "nothing is known of the tables");
    let mut code = Touched::default();
    code.anything();
    assert!(!code.logged_as_sent());
    code.clear();
    assert!(code.logged_as_sent());
}

#[test]
fn what_was_told_no_gtid_of_is_nothing_once_there_are_such() {
    let writes = known(&["a", "b"], &[], &[]);
    write(&writes, "a", "0-1-1");
    let before = writes.untold();
    let number = writes.note_untold();
    assert!(
        writes.any_untold()
            && !writes.is_cleared(number)
            && writes.any_astray()
            && writes.is_to_be_asked()
    );
    assert_eq!(writes.with_newest(|newest| newest.is_some()), None);
    writes.clear(before);
    assert!(writes.any_untold(), "asked before it");
    writes.clear(writes.untold());
    assert!(writes.is_cleared(number) && !writes.any_astray() && !writes.is_to_be_asked());
    assert_eq!(needed(&writes, "b"), None, "reads of other tables wait for nothing");
}

#[test]
fn without_gtids_nothing_is_found() {
    let writes = known(&["a"], &[], &[]);
    let write = writes.note_astray();
    writes.become_anonymous();
    assert!(writes.any_untold() && writes.any_astray() && !writes.is_to_be_asked());
    assert_eq!(writes.with_newest(|newest| newest.is_some()), None);
    writes.restart(Some(&at("0-2-4")));
    assert!(writes.is_anonymous(), "another primary has to give some first");
    writes.found(&at("0-2-5"), writes.astray());
    assert!(!writes.is_found(write));
    writes.end_anonymous(Some(&at("0-2-6")));
    assert!(!writes.any_untold() && !writes.any_astray() && writes.is_found(write));
    assert_eq!(needed(&writes, "a").as_deref(), Some("0-2-6"));
    let until = |writes: &LastWrites| writes.anonymous_until().map(|p| p.to_string());
    assert_eq!(until(&writes).as_deref(), Some("0-2-6"));
    writes.restart(Some(&at("0-3-1")));
    assert_eq!(until(&writes).as_deref(), Some("0-3-1"));
    assert_eq!(until(&LastWrites::new(true)), None);
}
