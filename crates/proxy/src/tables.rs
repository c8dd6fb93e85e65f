//! Which tables a command reads or writes, for what causal reads wait for; see
//! [`pointsman_cluster::writes`].

use pointsman_cluster::{SchemaChange, TableKey};
use pointsman_sql::{Class, Effects, Reason, Tables};
use smallvec::SmallVec;

use crate::client::Client;
use crate::job::{Job, Kind};

/// Whether it may make, drop or change tables, triggers or foreign keys.
fn may_change_schema(job: &Job) -> bool {
    let verdict = &job.statement.verdict;
    let effects = verdict.effects;
    match job.kind {
        // COM_DROP_DB and the like.
        Kind::Other => true,
        Kind::Query | Kind::Execute(_) => {
            effects.contains(Effects::DDL)
                && (!effects.contains(Effects::CREATE_TEMPORARY)
                    || effects.contains(Effects::HIDDEN_CODE))
                || effects.contains(Effects::MULTI) && verdict.class != Class::Read
                || effects.contains(Effects::TEXT_PREPARE)
                // Stored functions can't.
                || effects.contains(Effects::HIDDEN_CODE)
                    && verdict.reason != Reason::UnknownFunction
                    && verdict.reason != Reason::WriteKeyword
                || matches!(
                    verdict.reason,
                    Reason::TooLong
                        | Reason::Procedure
                        | Reason::Unknown
                        | Reason::Administration
                        // `SET STATEMENT ... FOR`
                        | Reason::SetStatement
                )
        }
        _ => false,
    }
}

/// What a command writes.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    Nothing,
    /// The tables that it names.
    Named,
    Anything,
}

fn written(job: &Job) -> Written {
    let verdict = &job.statement.verdict;
    let opaque = Effects::HIDDEN_CODE
        | Effects::MULTI
        | Effects::TEXT_PREPARE
        | Effects::XA
        | Effects::DDL
        | Effects::SET_OTHER;
    match job.kind {
        Kind::Other => Written::Anything,
        Kind::Query | Kind::Execute(_) => match verdict.class {
            _ if verdict.effects.intersects(opaque) => Written::Anything,
            Class::Read => Written::Nothing,
            Class::Session
                if matches!(
                    verdict.reason,
                    Reason::Transaction
                        | Reason::ReadOnlyTransaction
                        | Reason::SessionState
                        | Reason::TableLock
                        | Reason::Diagnostics
                ) =>
            {
                Written::Nothing
            }
            Class::Write if verdict.reason == Reason::WriteKeyword => Written::Named,
            _ => Written::Anything,
        },
        _ => Written::Nothing,
    }
}

impl Client {
    /// The default schema that its names are read with.
    pub(crate) fn schema_of(&self, job: &Job) -> Option<&[u8]> {
        match job.kind {
            Kind::Execute(id) => self.prepared.kept(id)?.context.schema.as_deref(),
            _ => self.session.variables().schema(),
        }
    }

    /// A command is about to be sent to a server that takes writes. Whether it may write.
    pub(crate) fn touch(&mut self, job: &Job) -> bool {
        let written = written(job);
        if written == Written::Nothing {
            return false;
        }
        let mut touched = std::mem::take(&mut self.touched);
        match (written, &job.statement.verdict.tables) {
            (Written::Named, Tables::Known(tables)) if !tables.is_empty() => {
                let names = tables.iter().map(|t| (t.schema.as_deref(), &*t.name));
                let writes = self.worker.shared.cluster.writes();
                writes.touch(&mut touched, self.schema_of(job), names);
            }
            _ => touched.anything(),
        }
        self.touched = touched;
        true
    }

    /// Whether nobody else sees what it writes, as far as its text tells.
    pub(crate) fn writes_temporary(&self, job: &Job) -> bool {
        let verdict = &job.statement.verdict;
        let several = Effects::MULTI | Effects::HIDDEN_CODE;
        !verdict.effects.intersects(several)
            && (verdict.effects.contains(Effects::CREATE_TEMPORARY)
                || self.session.are_temporary(&verdict.tables))
    }

    /// The same: whether the schema may be another after it.
    pub(crate) fn schema_change(&self, job: &Job) -> Option<SchemaChange> {
        may_change_schema(job).then(|| self.worker.shared.cluster.writes().schema_change())
    }

    /// The tables that it reads, if that is certain.
    pub(crate) fn read_tables(&self, job: &Job) -> Option<SmallVec<[TableKey; 4]>> {
        let verdict = &job.statement.verdict;
        let reads = matches!(job.kind, Kind::Query | Kind::Execute(_) | Kind::Prepare)
            && verdict.class == Class::Read
            && !verdict.effects.contains(Effects::BEGIN_READ_ONLY);
        let Tables::Known(tables) = &verdict.tables else { return None };
        if !reads {
            return None;
        }
        let names = tables.iter().map(|t| (t.schema.as_deref(), &*t.name));
        let writes = self.worker.shared.cluster.writes();
        writes.tables_of_read(self.schema_of(job), names)
    }
}

#[cfg(test)]
mod tests {
    use pointsman_sql::{Dialect, Flavour, classify};

    use super::*;
    use crate::worker::Statement;

    fn job(sql: &str) -> Job {
        let dialect = Dialect::new(Flavour::MariaDb { version: 101_100 });
        let verdict = classify(sql.as_bytes(), &dialect);
        let statement =
            Statement { verdict, fingerprint: 0, text: "".into(), stats: Default::default() };
        Job::new(Kind::Query, statement.into())
    }

    #[test]
    fn what_statements_write() {
        for (sql, expected) in [
            ("INSERT INTO a VALUES (1)", Written::Named),
            ("UPDATE a SET b = 1", Written::Named),
            ("REPLACE INTO x.a SELECT * FROM b", Written::Named),
            ("SELECT * FROM a FOR UPDATE", Written::Anything),
            ("INSERT INTO a VALUES (f(1))", Written::Anything),
            ("CALL p()", Written::Anything),
            ("DO f(1)", Written::Anything),
            ("XA COMMIT 'x'", Written::Anything),
            ("EXECUTE s", Written::Anything),
            ("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)", Written::Anything),
            ("CREATE TABLE a (b INT)", Written::Anything),
            ("TRUNCATE a", Written::Anything),
            ("ANALYZE INSERT INTO a VALUES (1)", Written::Named),
            ("SET GLOBAL x = 1", Written::Anything),
            ("SET STATEMENT x = 1 FOR INSERT INTO a VALUES (1)", Written::Anything),
            ("SELECT f(1)", Written::Anything),
            ("SELECT NEXTVAL(s)", Written::Anything),
            ("BEGIN", Written::Nothing),
            ("COMMIT", Written::Nothing),
            ("SET autocommit = 0", Written::Nothing),
            ("SELECT @@last_insert_id", Written::Nothing),
        ] {
            assert_eq!(written(&job(sql)), expected, "{sql}");
        }
    }

    #[test]
    fn what_may_change_the_schema() {
        for (sql, expected) in [
            ("CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW DELETE FROM b", true),
            ("ALTER TABLE a ADD c INT", true),
            ("DROP TABLE a", true),
            ("CALL p()", true),
            ("EXECUTE s", true),
            ("EXECUTE IMMEDIATE 'DROP TABLE a'", true),
            ("SELECT 1; DROP TABLE a", true),
            ("FROBNICATE a", true),
            ("BEGIN NOT ATOMIC DROP TABLE a; END", true),
            ("SET STATEMENT x = 1 FOR DROP TABLE a", true),
            ("CREATE TEMPORARY TABLE a (b INT)", false),
            ("SELECT f(1)", false),
            ("INSERT INTO a VALUES (f(1))", false),
            ("INSERT INTO a VALUES (1)", false),
            ("SELECT 1; SELECT 2", false),
            ("BEGIN", false),
        ] {
            assert_eq!(may_change_schema(&job(sql)), expected, "{sql}");
        }
    }
}
