//! `/api/v1`: every command of the table under its name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, State};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use serde_json::json;

use super::{Failure, Shared};
use crate::command::{self, Args, Command, Kind, Output};
use crate::{AdminError, Code};

/// Longest time a request for news may wait for some.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How often the event log is looked at on behalf of one who waits.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v1/{command}", any(on_daemon))
        .route("/api/v1/servers/{server}/{command}", any(on_server))
}

type Params = Result<Query<HashMap<String, String>>, axum::extract::rejection::QueryRejection>;

async fn on_daemon(
    State(shared): State<Arc<Shared>>,
    method: Method,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, Failure> {
    let found = command::find(&name)
        .filter(|c| !matches!(c.kind, Kind::OnServer(_)))
        .ok_or_else(|| unknown(&name))?;
    answer(&shared, &method, found, params, Args::default()).await
}

async fn on_server(
    State(shared): State<Arc<Shared>>,
    method: Method,
    Path((server, name)): Path<(String, String)>,
    params: Params,
) -> Result<Response, Failure> {
    let found = command::find(&name)
        .filter(|c| matches!(c.kind, Kind::OnServer(_)))
        .ok_or_else(|| unknown(&name))?;
    let mut args = Args::default();
    args.set(Args::SERVER, server);
    answer(&shared, &method, found, params, args).await
}

fn unknown(name: &str) -> AdminError {
    let known: Vec<_> = command::COMMANDS.iter().filter(|c| !c.hidden).map(|c| c.name).collect();
    AdminError::new(
        Code::UnknownCommand,
        format!("there is no command \"{name}\" here; there are: {}", known.join(", ")),
    )
}

async fn answer(
    shared: &Shared,
    method: &Method,
    command: &Command,
    params: Params,
    mut args: Args,
) -> Result<Response, Failure> {
    let right = if command.kind.reads() {
        matches!(*method, Method::GET | Method::HEAD)
    } else {
        *method == Method::POST
    };
    if !right {
        let use_this = if command.kind.reads() { "GET" } else { "POST" };
        return Err(Failure(AdminError::new(
            Code::WrongMethod,
            format!("{} wants {use_this}", command.name),
        )));
    }
    let Query(mut params) =
        params.map_err(|e| AdminError::new(Code::BadArgument, format!("query string: {e}")))?;
    let form = Form::take(&mut params)?;
    let wait = take_number(&mut params, "wait")?.map_or(Duration::ZERO, Duration::from_secs);
    // A follower says which run of the daemon its `after` is about; numbers begin anew with each.
    let other_run = params.remove("run").is_some_and(|run| run.as_bytes() != shared.run.as_bytes());
    if other_run {
        params.remove("after");
    }
    for (name, value) in params {
        args.set(&name, value);
    }

    let deadline = Instant::now() + wait.min(MAX_WAIT);
    loop {
        let output = command::run(&*shared.daemon, command, &args).await?;
        let nothing_yet = matches!(&output, Output::Table(t) if t.rows.is_empty());
        if !nothing_yet || other_run || Instant::now() >= deadline {
            return Ok(form.response(&output));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How the answer is wanted.
enum Form {
    Json,
    /// As the CLI shows it, this wide.
    Text(Option<u16>),
}

impl Form {
    fn take(params: &mut HashMap<String, String>) -> Result<Self, AdminError> {
        let width = take_number(params, "width")?.map(|w| u16::try_from(w).unwrap_or(u16::MAX));
        match params.remove("format").as_deref() {
            None | Some("json") => Ok(Self::Json),
            Some("text") => Ok(Self::Text(width)),
            Some(other) => Err(AdminError::new(
                Code::BadArgument,
                format!("format is json or text, not \"{other}\""),
            )),
        }
    }

    fn response(&self, output: &Output) -> Response {
        const PLAIN: [(header::HeaderName, &str); 1] =
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        match (self, output) {
            (Self::Json, Output::Status(status)) => Json(status).into_response(),
            (Self::Json, Output::Table(table)) => Json(table).into_response(),
            (Self::Json, Output::Done(text)) => Json(json!({ "done": text })).into_response(),
            (Self::Text(_), Output::Status(status)) => (PLAIN, status.to_text()).into_response(),
            (Self::Text(width), Output::Table(table)) => {
                (PLAIN, table.to_text(*width)).into_response()
            }
            (Self::Text(_), Output::Done(text)) => (PLAIN, format!("{text}\n")).into_response(),
        }
    }
}

fn take_number(
    params: &mut HashMap<String, String>,
    name: &str,
) -> Result<Option<u64>, AdminError> {
    let Some(text) = params.remove(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        AdminError::new(Code::BadArgument, format!("{name} must be a number, not \"{text}\""))
    })
}
