//! The HTTP side: dashboard, metrics, probes and the API.

mod api;
mod guard;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{Encoder, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::error::Body;
use crate::{AdminError, Code, Daemon};

/// Callers at once; the next one waits.
const MAX_CALLERS: usize = 256;
/// A caller who does not finish a request's head within this is dropped; also an idle one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A bound HTTP listener that does not answer yet.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    address: SocketAddr,
    token: Option<String>,
}

/// What every handler sees.
pub(crate) struct Shared {
    daemon: Arc<dyn Daemon>,
    guard: guard::Guard,
    /// Differs between runs, so that followers of the event log notice a restart.
    run: HeaderValue,
}

impl Http {
    /// Binds `address`, so that a daemon finds out that it can't before it serves anybody.
    ///
    /// `token`: demanded as a bearer token from every caller, except of `/` (which holds no data)
    /// and `/healthz`.
    ///
    /// # Errors
    /// [`Code::CantListen`] if the address is taken or can't be had, or if it is not loopback and
    /// there is no token.
    pub async fn bind(address: SocketAddr, token: Option<String>) -> Result<Self, AdminError> {
        Self::allowed(address, token.is_some())?;
        let listener = TcpListener::bind(address).await.map_err(|e| Self::cant(address, &e))?;
        let address = listener.local_addr().map_err(|e| Self::cant(address, &e))?;
        Ok(Self { listener, address, token })
    }

    fn allowed(address: SocketAddr, token: bool) -> Result<(), AdminError> {
        if token || address.ip().is_loopback() {
            return Ok(());
        }
        let message = format!("admin API on {address}: off loopback it needs a token");
        Err(AdminError::new(Code::CantListen, message))
    }

    fn cant(address: SocketAddr, e: &std::io::Error) -> AdminError {
        AdminError::new(Code::CantListen, format!("admin API: can't listen on {address}: {e}"))
    }

    /// On a socket that another process bound to `address`.
    ///
    /// # Errors
    /// As [`Http::bind`].
    pub fn inherit(
        listener: std::net::TcpListener,
        address: SocketAddr,
        token: Option<String>,
    ) -> Result<Self, AdminError> {
        Self::allowed(address, token.is_some())?;
        let listener = TcpListener::from_std(listener).map_err(|e| Self::cant(address, &e))?;
        Ok(Self { listener, address, token })
    }

    /// The socket once more, for a process that takes over.
    ///
    /// # Errors
    /// No file descriptor is free.
    pub fn try_clone(&self) -> std::io::Result<std::net::TcpListener> {
        std::os::fd::AsFd::as_fd(&self.listener).try_clone_to_owned().map(Into::into)
    }

    /// Where it listens: the port that was found if port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` resolves.
    pub async fn serve(
        self,
        daemon: Arc<dyn Daemon>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) {
        let shared = Arc::new(Shared {
            daemon,
            guard: guard::Guard::new(self.address, self.token),
            run: HeaderValue::from(rand::random::<u64>()),
        });
        let accept = listen(&self.listener, router(shared));
        tokio::select! {
            () = accept => {}
            () = stop => {}
        }
    }
}

/// Takes callers in, for ever. Dropping it drops them: nothing here is worth waiting for, least of
/// all those who wait for news.
async fn listen(listener: &TcpListener, router: Router) {
    let mut callers = JoinSet::new();
    loop {
        // Callers must not eat the file descriptors that the daemon needs for its work.
        while callers.try_join_next().is_some() {}
        if callers.len() >= MAX_CALLERS {
            callers.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: others must end before it gets better.
                tracing::warn!(%error, "admin API: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        callers.spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin API: caller gone");
            }
        });
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(dashboard))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .merge(api::routes())
        .fallback(async || Failure(AdminError::new(Code::UnknownCommand, "there is nothing here")))
        .method_not_allowed_fallback(async || {
            Failure(AdminError::new(Code::WrongMethod, "not with this method"))
        })
        .layer(middleware::from_fn_with_state(shared.clone(), check))
        .with_state(shared)
}

async fn check(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = match shared.guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert("pointsman-run", shared.run.clone());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

async fn dashboard() -> impl IntoResponse {
    // Text from the databases is shown there; should an escape ever be forgotten, it can't call home.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
                          script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; \
                          form-action 'none'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(include_str!("dashboard.html")))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Result<Response, Failure> {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    encoder
        .encode(&shared.daemon.metrics().gather(), &mut text)
        .map_err(|e| AdminError::new(Code::Internal, format!("metrics: {e}")))?;
    Ok(([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response())
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    match shared.daemon.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => Failure(AdminError::new(Code::NotReady, why)).into_response(),
    }
}

/// An error as an HTTP answer: `{"code", "name", "message", "help"}`.
pub(crate) struct Failure(pub AdminError);

impl From<AdminError> for Failure {
    fn from(e: AdminError) -> Self {
        Self(e)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(Body::from(&self.0))).into_response();
        if self.0.code == Code::Unauthorized {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
