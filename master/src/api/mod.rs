//! The HTTP API, JSON. Who asks is settled before anything else; errors are problem+json (RFC 9457) in words.

mod agents;
mod document;
mod lists;
mod live;
mod packets;
mod problem;
mod session;

pub use problem::Problem;
pub use session::parse_duration;

use crate::access::Principal;
use crate::book::AccessRole;
use crate::clock::wall;
use crate::server::Master;
use crate::{metrics, ui};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use std::net::IpAddr;
use std::sync::Arc;

/// The master as handlers get it.
pub(crate) type Shared = State<Arc<Master>>;

/// The session cookie's name.
pub(crate) const COOKIE: &str = "thymus";

/// All routes.
pub fn router(master: Arc<Master>) -> Router {
    let closed = Router::new()
        .route("/api/v1/sensors", get(lists::sensors))
        .route("/api/v1/sensors/{id}/revoke", post(session::revoke))
        .route("/api/v1/agents", get(agents::agents))
        .route(
            "/api/v1/agents/{id}/policy",
            get(agents::agent_policy).put(agents::put_agent_policy).delete(agents::clear_agent_policy),
        )
        .route("/api/v1/agents/{id}/revoke", post(session::revoke))
        .route("/api/v1/policies", get(agents::policies))
        .route(
            "/api/v1/policies/{group}",
            get(agents::group_policy).put(agents::put_group_policy).delete(agents::clear_group_policy),
        )
        .route("/api/v1/ledger", get(lists::ledger))
        .route("/api/v1/devices", get(lists::devices))
        .route("/api/v1/devices/{id}", get(lists::device))
        .route("/api/v1/{table}", get(lists::rows))
        .route("/api/v1/packets", get(packets::fetch))
        .route("/api/v1/live", get(live::events))
        .route("/api/v1/search", get(lists::search))
        .route("/api/v1/tokens", get(session::tokens).post(session::make_token))
        .route("/api/v1/audit", get(session::audit))
        .route("/metrics", get(metrics_text))
        .route_layer(from_fn_with_state(Arc::clone(&master), authenticate));
    let open = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/api/v1/openapi.json", get(document::openapi))
        .route("/api/v1/session", post(session::sign_in).get(session::who).delete(session::sign_out))
        .route("/api/v1/setup", post(session::set_up));
    open.merge(closed)
        .fallback(ui::serve)
        .layer(from_fn_with_state(Arc::clone(&master), check_host))
        .layer(DefaultBodyLimit::max(64 << 10))
        .with_state(master)
}

async fn metrics_text(State(master): Shared, Extension(who): Extension<Principal>) -> Result<String, Problem> {
    if who.scope != thymus_record::Scope::All {
        return Err(Problem::forbidden("metrics tell of all networks; this account sees some"));
    }
    Ok(metrics::text(&master))
}

/// Who asks, by token or cookie.
pub(crate) fn principal(master: &Master, headers: &HeaderMap) -> Result<Principal, Problem> {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    let found = match text(header::AUTHORIZATION) {
        Some(value) => match value.strip_prefix("Bearer ") {
            Some(token) => master.access.by_token(&master.book, token),
            None => Ok(None),
        },
        None => match cookie(headers) {
            Some(value) => master.access.by_cookie(&master.book, value, wall()),
            None => Ok(None),
        },
    };
    found.map_err(|error| Problem::internal(&error))?.ok_or_else(|| {
        Problem::new(StatusCode::UNAUTHORIZED, "sign in, or give an API token: Authorization: Bearer TOKEN")
    })
}

/// The session cookie's value.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    cookies.split(';').find_map(|each| each.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

async fn authenticate(State(master): Shared, mut request: Request, next: Next) -> Response {
    let who = match principal(&master, request.headers()) {
        Ok(who) => who,
        Err(problem) => return problem.into_response(),
    };
    if who.by_cookie && request.method() != Method::GET && !same_origin(request.headers()) {
        return Problem::forbidden("the request comes from another site").into_response();
    }
    request.extensions_mut().insert(who);
    next.run(request).await
}

/// A browser's write must come from our own page.
pub(crate) fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    origin.strip_prefix("https://").is_some_and(|origin| origin == host) || host.is_empty()
}

/// Only names that are ours, and plain addresses, are answered: another site's name that points here is not.
async fn check_host(State(master): Shared, request: Request, next: Next) -> Response {
    let asked = request.uri().host().map(str::to_owned).or_else(|| {
        let host = request.headers().get(header::HOST)?.to_str().ok()?;
        Some(host.to_owned())
    });
    let asked = asked.unwrap_or_default();
    let bare = asked.trim_matches(['[', ']']);
    let host = if bare.parse::<IpAddr>().is_ok() { bare } else { crate::server::host_of(&asked) };
    let known =
        host.parse::<IpAddr>().is_ok() || master.host_names().iter().any(|name| name.eq_ignore_ascii_case(host));
    if known {
        return next.run(request).await;
    }
    let words = format!("this master is not known as '{host}': start it with --advertise {host}:PORT");
    Problem::new(StatusCode::MISDIRECTED_REQUEST, &words).into_response()
}

/// Refuses roles below this one.
pub(crate) fn need(who: &Principal, role: AccessRole) -> Result<(), Problem> {
    if who.role >= role {
        return Ok(());
    }
    let needed = match role {
        AccessRole::Viewer => "viewer",
        AccessRole::Analyst => "analyst",
        AccessRole::Admin => "admin",
    };
    Err(Problem::forbidden(&format!("this needs the role {needed}")))
}
