//! The second reader: `sqlparser`, asked about the normal form of a candidate read.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, ObjectName, Query, Select, SetExpr, Statement, TableFactor, Visit, Visitor,
};
use sqlparser::dialect::MySqlDialect;
use sqlparser::parser::Parser;

use crate::functions::{self, Call};
use crate::keyword::Kw;
use crate::lexer::Kind;
use crate::normal::Tok;
use crate::{Flavour, Table, Tables};

/// Most tokens given to the parser: chains of operators become trees as deep as they are long,
/// and dropping a tree recurses.
const MAX_TOKENS: usize = 2000;
/// Deepest nesting of parentheses given to the parser, which tries some of them twice.
const MAX_DEPTH: usize = 20;

/// What the second reader says.
#[derive(Debug)]
pub enum Opinion {
    /// A query that only reads, and the tables it reads.
    Read(Tables),
    /// A query with locking clauses, or one that the caller knows not to be a plain read.
    NotRead(&'static str, Tables),
    /// It can't be parsed.
    None,
}

/// Words after SELECT that mean nothing here, and not all of which the parser knows.
fn modifier(tok: &Tok<'_>) -> bool {
    const WORDS: &[&[u8]] = &[
        b"SQL_CALC_FOUND_ROWS",
        b"SQL_NO_CACHE",
        b"SQL_CACHE",
        b"SQL_SMALL_RESULT",
        b"SQL_BIG_RESULT",
        b"SQL_BUFFER_RESULT",
    ];
    matches!(tok.kw, Kw::HighPriority | Kw::StraightJoin)
        || WORDS.iter().any(|w| tok.text.eq_ignore_ascii_case(w))
}

/// The tokens as text for the parser; `None`: not worth trying.
fn render(toks: &[Tok<'_>]) -> Option<String> {
    let mut out = String::with_capacity(toks.len() * 8);
    let mut depth = 0usize;
    let mut i = 0;
    let mut after_select = false;
    while let Some(tok) = toks.get(i) {
        i += 1;
        match tok.kind {
            Kind::Open => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return None;
                }
            }
            Kind::Close => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if after_select && tok.kind == Kind::Word && modifier(tok) {
            continue;
        }
        after_select = matches!(tok.kw, Kw::Select | Kw::Distinct | Kw::All | Kw::Distinctrow);
        if tok.kind != Kind::Dot && !out.ends_with('.') {
            out.push(' ');
        }
        match tok.kind {
            Kind::Str => {
                // The parser wants a number in `DECIMAL(10, 2)`, and a string or anything elsewhere.
                let sized = i >= 3 && toks[i - 2].kind == Kind::Open && {
                    let before = &toks[i - 3];
                    matches!(
                        before.kw,
                        Kw::Char
                            | Kw::Varchar
                            | Kw::Decimal
                            | Kw::Dec
                            | Kw::Numeric
                            | Kw::Binary
                            | Kw::Varbinary
                            | Kw::Float
                            | Kw::Double
                            | Kw::Int
                            | Kw::Integer
                            | Kw::Bigint
                            | Kw::Smallint
                            | Kw::Tinyint
                            | Kw::Mediumint
                    ) || before.text.eq_ignore_ascii_case(b"datetime")
                };
                out.push_str(if sized { "1" } else { "'s'" });
            }
            Kind::UserVar => out.push_str("'s'"),
            Kind::SysVar => {
                out.push_str("'s'");
                if toks.get(i).is_some_and(|t| t.kind == Kind::Dot) {
                    i += 2;
                }
            }
            Kind::Quoted => {
                let name = crate::facts::name(tok);
                out.push('`');
                out.push_str(&String::from_utf8_lossy(&name).replace('`', "``"));
                out.push('`');
            }
            Kind::Odd | Kind::Semi => return None,
            // `TABLE t` is short for `SELECT * FROM t`, also in a UNION.
            _ if tok.kw == Kw::Table => out.push_str("SELECT * FROM"),
            _ if tok.kw == Kw::Distinctrow => out.push_str("DISTINCT"),
            _ => out.push_str(&String::from_utf8_lossy(tok.text)),
        }
    }
    Some(out)
}

/// Parses a query, without EXPLAIN and the like before it.
pub fn opinion(toks: &[Tok<'_>], flavour: Flavour) -> Opinion {
    if toks.len() > MAX_TOKENS {
        return Opinion::None;
    }
    let Some(text) = render(toks) else { return Opinion::None };
    let dialect = MySqlDialect {};
    let statements = Parser::new(&dialect)
        .with_recursion_limit(64)
        .try_with_sql(&text)
        .and_then(|mut parser| parser.parse_statements());
    let Ok(statements) = statements else { return Opinion::None };
    let [statement] = statements.as_slice() else { return Opinion::None };
    let mut walk = Walk {
        flavour,
        objection: None,
        unknown: false,
        tables: BTreeSet::new(),
        scopes: Vec::new(),
    };
    let _ = statement.visit(&mut walk);
    // Names in other character sets than UTF-8 may be any table.
    let foreign = |t: &Tok<'_>| crate::facts::is_name(t) && !t.text.is_ascii();
    let tables = if walk.unknown || toks.iter().any(foreign) {
        Tables::Unknown
    } else {
        let table = |(schema, name): (Option<String>, String)| Table {
            schema: schema.map(String::into_boxed_str),
            name: name.into_boxed_str(),
        };
        Tables::Known(walk.tables.into_iter().map(table).collect())
    };
    match walk.objection {
        Some(what) => Opinion::NotRead(what, tables),
        None => Opinion::Read(tables),
    }
}

/// One `WITH` clause: its tables, and which of them the query being visited may name.
struct Scope {
    names: Vec<(String, *const Query)>,
    recursive: bool,
    /// The query that has the clause.
    owner: *const Query,
    /// Names before this index are visible.
    visible: Vec<(*const Query, usize)>,
}

struct Walk {
    flavour: Flavour,
    objection: Option<&'static str>,
    unknown: bool,
    tables: BTreeSet<(Option<String>, String)>,
    scopes: Vec<Scope>,
}

impl Walk {
    fn object(&mut self, what: &'static str) -> ControlFlow<()> {
        self.objection.get_or_insert(what);
        ControlFlow::Continue(())
    }

    /// Exact comparison: on servers where names of tables have a case, those of common table
    /// expressions do too, and a table too many costs less than one too few.
    fn is_cte(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| {
            let visible = scope.visible.last().map_or(scope.names.len(), |(_, n)| *n);
            scope.names[..visible].iter().any(|(cte, _)| cte == name)
        })
    }
}

impl Visitor for Walk {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        match statement {
            Statement::Query(_) => ControlFlow::Continue(()),
            _ => self.object("statement"),
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let this: *const Query = query;
        for scope in &mut self.scopes {
            if let Some(index) = scope.names.iter().position(|(_, q)| std::ptr::eq(*q, this)) {
                scope.visible.push((this, index + usize::from(scope.recursive)));
            }
        }
        if let Some(with) = &query.with {
            self.scopes.push(Scope {
                names: with
                    .cte_tables
                    .iter()
                    .map(|cte| (cte.alias.name.value.clone(), std::ptr::from_ref(&*cte.query)))
                    .collect(),
                recursive: with.recursive,
                owner: this,
                visible: Vec::new(),
            });
        }
        if !query.locks.is_empty() || query.for_clause.is_some() {
            let _ = self.object("FOR UPDATE");
        }
        match &*query.body {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                self.object("write")
            }
            SetExpr::Table(_) => {
                self.unknown = true;
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let this: *const Query = query;
        if self.scopes.last().is_some_and(|s| std::ptr::eq(s.owner, this)) {
            self.scopes.pop();
        }
        for scope in &mut self.scopes {
            if scope.visible.last().is_some_and(|(q, _)| std::ptr::eq(*q, this)) {
                scope.visible.pop();
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if select.into.is_some() { self.object("INTO") } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let mut parts = Vec::new();
        for part in &relation.0 {
            match part.as_ident() {
                Some(ident) => parts.push(ident),
                None => self.unknown = true,
            }
        }
        match parts.as_slice() {
            [name] if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("dual") => {}
            [name] if self.is_cte(&name.value) => {}
            [name] => {
                self.tables.insert((None, name.value.clone()));
            }
            [schema, name] => {
                self.tables.insert((Some(schema.value.clone()), name.value.clone()));
            }
            _ => self.unknown = true,
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { args: None, .. }
            | TableFactor::Derived { .. }
            | TableFactor::JsonTable { .. }
            | TableFactor::NestedJoin { .. } => {}
            _ => self.unknown = true,
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            let name = match function.name.0.as_slice() {
                [part] => part.as_ident(),
                _ => None,
            };
            let call = name
                .filter(|n| n.quote_style.is_none())
                .and_then(|n| functions::lookup(n.value.as_bytes(), self.flavour));
            match call {
                Some(
                    Call::Read
                    | Call::ReadWithArguments
                    | Call::ReadOfTwo
                    | Call::Syntax
                    | Call::ConnectionId
                    | Call::Diagnostics,
                ) => {}
                _ => return self.object("function"),
            }
        }
        ControlFlow::Continue(())
    }
}
