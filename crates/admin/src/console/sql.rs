//! What may be typed into the console, and what clients send on their own.

use pointsman_wire::ColumnKind;

use crate::command::{self, Args, Command, Kind, Output, ParamKind};
use crate::{AdminError, Cell, Code, Column, ColumnType, Daemon, Table};

pub(super) enum Answer {
    /// Done; the text shows in the client's "Query OK" line, if it shows it at all.
    Ok(String),
    Table(Table),
    /// Columns whose names are the client's own words.
    Rows(Vec<(String, ColumnKind)>, super::Rows),
}

/// Answers one statement.
pub(super) async fn answer(daemon: &dyn Daemon, text: &str) -> Result<Answer, AdminError> {
    let text = strip(text);
    let words = words(text);
    let lower: Vec<String> = words.iter().map(|w| w.to_ascii_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    match lower.as_slice() {
        [] => Ok(Answer::Ok(String::new())),
        // HELP is the mysql client's own; it sends only what it does not know.
        ["help", ..] | ["?"] | ["show", "help" | "commands"] => Ok(Answer::Table(help())),
        ["set" | "use" | "begin" | "commit" | "rollback" | "start", ..] => {
            Ok(Answer::Ok(String::new()))
        }
        ["show", "warnings" | "errors", ..] => {
            Ok(Answer::Table(Table::new(&[]))).map(|_| names_only(&["Level", "Code", "Message"]))
        }
        ["show", "variables" | "session" | "global", ..] => {
            Ok(names_only(&["Variable_name", "Value"]))
        }
        ["show", "databases" | "schemas"] => Ok(one_column("Database", &["pointsman"])),
        ["show", "full", "tables", ..] | ["show", "tables", ..] => {
            let views: Vec<_> = command::COMMANDS
                .iter()
                .filter(|c| matches!(c.kind, Kind::View(_)))
                .map(|c| c.name)
                .collect();
            Ok(one_column("Tables_in_pointsman", &views))
        }
        ["show", name, rest @ ..] => {
            let found = command::find(name)
                .filter(|c| c.kind.reads())
                .ok_or_else(|| unknown(&format!("SHOW {}", words[1])))?;
            run(daemon, found, view_args(rest)?).await
        }
        ["select", "*", "from", name, rest @ ..] => {
            let name = name.trim_start_matches("pointsman.").trim_matches('`');
            let found = command::find(name)
                .filter(|c| c.kind.reads())
                .ok_or_else(|| unknown(&format!("table {name}")))?;
            run(daemon, found, view_args(rest)?).await
        }
        ["select", ..] => select(text),
        [name, rest @ ..] => {
            let found =
                command::find(name).filter(|c| !c.kind.reads()).ok_or_else(|| unknown(words[0]))?;
            let mut args = Args::default();
            match (found.kind, rest) {
                (Kind::OnServer(_), [_, rest @ ..])
                    if verb_args(found, rest, &words[2..], &mut args) =>
                {
                    args.set(Args::SERVER, unquote(words[1]));
                }
                (Kind::OnDaemon(_), rest) if verb_args(found, rest, &words[1..], &mut args) => {}
                _ => {
                    return Err(AdminError::new(
                        Code::BadArgument,
                        format!("write it as: {}", usage(found)),
                    ));
                }
            }
            run(daemon, found, args).await
        }
    }
}

/// `TO db2 DRY-RUN`, in any order; false if it is not to be understood.
fn verb_args(command: &Command, lower: &[&str], words: &[&str], args: &mut Args) -> bool {
    let mut i = 0;
    while let Some(name) = lower.get(i) {
        let kind = command.params.iter().find(|param| param.name == *name).map(|param| param.kind);
        match (kind, words.get(i + 1)) {
            (Some(ParamKind::Flag), _) => {
                args.set(name, "true");
                i += 1;
            }
            (Some(_), Some(value)) => {
                args.set(name, unquote(value));
                i += 2;
            }
            _ => return false,
        }
    }
    true
}

async fn run(daemon: &dyn Daemon, command: &Command, args: Args) -> Result<Answer, AdminError> {
    Ok(match command::run(daemon, command, &args).await? {
        Output::Table(table) => Answer::Table(table),
        // A person must see what was done, and "Query OK" lines show no text in most clients.
        Output::Done(text) => one_column("done", &[&text]),
        Output::Status(status) => {
            let mut table = Table::new(&[
                Column { name: "name", kind: ColumnType::Text },
                Column { name: "value", kind: ColumnType::Text },
            ]);
            let ready = match &status.ready {
                Ok(()) => "yes".to_owned(),
                Err(why) => format!("no: {why}"),
            };
            let uptime = Cell::millis(status.uptime()).to_text();
            for (name, value) in [
                ("kind", status.kind.to_owned()),
                ("version", status.version),
                ("uptime", uptime),
                ("ready", ready),
            ] {
                table.push(vec![name.into(), value.into()]);
            }
            for line in status.headlines {
                table.push(vec!["".into(), line.into()]);
            }
            Answer::Table(table)
        }
    })
}

fn unknown(what: &str) -> AdminError {
    AdminError::new(Code::UnknownCommand, format!("the console does not know {what}"))
}

/// `SHOW EVENTS AFTER 10`, `... ORDER BY total_ms DESC LIMIT 10`, in any order.
fn view_args(mut words: &[&str]) -> Result<Args, AdminError> {
    let mut args = Args::default();
    loop {
        words = match words {
            [] => return Ok(args),
            ["order", "by", column, "desc", rest @ ..] | ["order", "by", column, rest @ ..] => {
                if rest.first() == Some(&"asc") {
                    return Err(AdminError::new(Code::BadArgument, "ORDER BY is highest first"));
                }
                args.set("order", column.trim_matches('`'));
                rest
            }
            [name @ ("limit" | "after"), value, rest @ ..] => {
                args.set(name, *value);
                rest
            }
            [other, ..] => {
                return Err(AdminError::new(
                    Code::BadArgument,
                    format!(
                        "\"{other}\": after a list's name may stand AFTER n, ORDER BY column, LIMIT n"
                    ),
                ));
            }
        };
    }
}

/// Without comments before it, and without what ends it.
fn strip(text: &str) -> &str {
    let mut text = text.trim();
    while let Some(rest) = text.strip_prefix("/*") {
        text = rest.split_once("*/").map_or("", |(_, after)| after).trim_start();
    }
    text.trim_end_matches([';', ' ', '\n', '\t', '\r'])
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn unquote(word: &str) -> &str {
    word.trim_matches(['`', '\'', '"'])
}

/// `SELECT @@version_comment LIMIT 1` and the like: what clients ask to know with whom they speak.
fn select(text: &str) -> Result<Answer, AdminError> {
    let list = text["select".len()..].trim();
    let end = list.to_ascii_lowercase().find(" limit ").unwrap_or(list.len());
    let mut columns = Vec::new();
    let mut row = Vec::new();
    for item in list[..end].split(',') {
        let item = item.trim();
        let (expression, name) = match item.to_ascii_lowercase().find(" as ") {
            Some(at) => (&item[..at], unquote(item[at + 4..].trim())),
            None => (item, item),
        };
        let value = known_value(&expression.trim().to_ascii_lowercase()).ok_or_else(|| {
            AdminError::new(
                Code::UnknownCommand,
                format!("the console can't evaluate {expression}; it knows SELECT * FROM servers"),
            )
        })?;
        columns.push((name.to_owned(), ColumnKind::VarString));
        row.push(value);
    }
    Ok(Answer::Rows(columns, vec![row]))
}

/// The value of an expression; inside `Some`, `None` is NULL.
fn known_value(expression: &str) -> Option<Option<String>> {
    let version = || format!("8.0.0-pointsman-{}", env!("CARGO_PKG_VERSION"));
    let text = match expression {
        "database()" | "schema()" => "pointsman".to_owned(),
        "user()" | "current_user()" | "session_user()" => "admin@localhost".to_owned(),
        "version()" | "@@version" => version(),
        "connection_id()" => "1".to_owned(),
        "@@version_comment" => "Pointsman console: SHOW HELP lists what it knows".to_owned(),
        "@@max_allowed_packet" => "67108864".to_owned(),
        "@@autocommit" | "@@session.autocommit" => "1".to_owned(),
        "@@character_set_client" | "@@character_set_connection" | "@@character_set_results" => {
            "utf8mb4".to_owned()
        }
        "@@lower_case_table_names" | "@@tx_read_only" | "@@transaction_read_only" => "0".to_owned(),
        // Unknown variables are NULL rather than an error: drivers read dozens of them at login.
        _ if expression.starts_with("@@") => return Some(None),
        _ if expression.parse::<i64>().is_ok() => expression.to_owned(),
        _ if expression == "null" => return Some(None),
        _ if expression.len() >= 2
            && expression.starts_with('\'')
            && expression.ends_with('\'') =>
        {
            expression[1..expression.len() - 1].to_owned()
        }
        _ => return None,
    };
    Some(Some(text))
}

fn names_only(names: &[&str]) -> Answer {
    let columns = names.iter().map(|n| ((*n).to_owned(), ColumnKind::VarString)).collect();
    Answer::Rows(columns, Vec::new())
}

fn one_column(name: &str, values: &[&str]) -> Answer {
    Answer::Rows(
        vec![(name.to_owned(), ColumnKind::VarString)],
        values.iter().map(|v| vec![Some((*v).to_owned())]).collect(),
    )
}

fn usage(command: &Command) -> String {
    let name = command.name.to_ascii_uppercase();
    let params = |what: &str| {
        command.params.iter().fold(what.to_owned(), |mut text, p| {
            let value = match p.kind {
                ParamKind::Number => " n",
                ParamKind::Text => " name",
                ParamKind::Flag => "",
            };
            let by = if p.name == "order" { " BY" } else { "" };
            text.push_str(&format!(" [{}{by}{value}]", p.name.to_ascii_uppercase()));
            text
        })
    };
    match command.kind {
        Kind::Status | Kind::View(_) => params(&format!("SHOW {name}")),
        Kind::OnServer(_) => params(&format!("{name} server")),
        Kind::OnDaemon(_) => params(&name),
    }
}

fn help() -> Table {
    let mut table = Table::new(&[
        Column { name: "command", kind: ColumnType::Text },
        Column { name: "what_it_does", kind: ColumnType::Text },
    ]);
    for command in command::COMMANDS.iter().filter(|c| !c.hidden) {
        table.push(vec![usage(command).into(), command.about.into()]);
    }
    table.push(vec!["SHOW HELP".into(), "This list".into()]);
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Action, BoxFuture, Query, Status, View};

    /// Has nothing and does everything.
    struct Nobody(prometheus::Registry);

    impl Daemon for Nobody {
        fn status(&self) -> Status {
            Status {
                kind: "proxy",
                version: String::new(),
                started: std::time::SystemTime::UNIX_EPOCH,
                ready: Ok(()),
                headlines: Vec::new(),
            }
        }
        fn table(&self, _: View, _: &Query) -> Result<Table, AdminError> {
            Ok(Table::new(crate::rows::StatementRow::COLUMNS))
        }
        fn act(&self, action: Action) -> BoxFuture<'_, Result<String, AdminError>> {
            Box::pin(async move { Ok(format!("{action:?}")) })
        }
        fn metrics(&self) -> &prometheus::Registry {
            &self.0
        }
        fn ready(&self) -> Result<(), String> {
            Ok(())
        }
    }

    fn ask(text: &str) -> Result<Answer, AdminError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(answer(&Nobody(prometheus::Registry::new()), text))
    }

    fn done(text: &str) -> String {
        match ask(text) {
            Ok(Answer::Rows(_, rows)) => rows[0][0].clone().unwrap(),
            _ => panic!("{text} was not done"),
        }
    }

    #[test]
    fn verbs_take_what_the_table_says() {
        assert_eq!(done("DRAIN db1;"), r#"Drain("db1")"#);
        assert_eq!(done("drain 'DB-1' ;\n"), r#"Drain("DB-1")"#);
        assert_eq!(done("reload"), "Reload");
        assert_eq!(done("SWITCHOVER TO db2"), r#"Switchover { to: Some("db2"), dry_run: false }"#);
        assert_eq!(
            done("switchover dry-run to DB2;"),
            r#"Switchover { to: Some("DB2"), dry_run: true }"#
        );
        assert_eq!(done("FAILOVER FORCE"), "Failover { to: None, force: true }");
        for bad in
            ["drain", "drain a b", "reload now please", "switchover from db1", "drain all of it"]
        {
            assert_eq!(ask(bad).err().map(|e| e.code), Some(Code::BadArgument), "{bad}");
        }
        for bad in ["servers", "delete from servers", "select now()", "select * from mysql.user"] {
            assert_eq!(ask(bad).err().map(|e| e.code), Some(Code::UnknownCommand), "{bad}");
        }
    }

    #[test]
    fn lists_take_order_and_limit_in_any_order() {
        for good in [
            "show statements order by total_ms desc limit 3",
            "SHOW STATEMENTS LIMIT 3 ORDER BY `count`",
            "select * from pointsman.statements limit 1",
        ] {
            assert!(matches!(ask(good), Ok(Answer::Table(_))), "{good}");
        }
        for bad in ["show servers where x", "show statements limit x", "show statements order by x"]
        {
            assert_eq!(ask(bad).err().map(|e| e.code), Some(Code::BadArgument), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(?s).{0,80}") {
            let _ = ask(&text);
        }
        #[test]
        fn pieces_of_statements_are_answered(
            parts in prop::collection::vec(prop::sample::select(vec![
                "select", "show", "drain", " ", " ", "@@x", "as", "'", "é", ",", "*", "from", "servers",
                "limit", "order by", "/*", "*/", ";", "1", "\n", "help", "null", "\u{0130}",
            ]), 0..12),
        ) {
            let _ = ask(&parts.concat());
        }
    }
}
