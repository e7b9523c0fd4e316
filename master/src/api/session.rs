//! Signing in and out, the first administrator, tokens for sensors, the audit.

use super::{COOKIE, Problem, Shared, cookie, need, principal, same_origin};
use crate::access::{Principal, hash_of, hash_password};
use crate::admin;
use crate::book::{AccessRole, Account, to_hex};
use crate::clock::{seconds, wall};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
pub(crate) struct SignIn {
    user: String,
    password: String,
}

fn scope_json(who: &Principal) -> Value {
    json!({"user": who.name, "role": who.role, "scope": who.scope})
}

/// `GET /api/v1/session`
pub(crate) async fn who(State(master): Shared, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    Ok(Json(scope_json(&principal(&master, &headers)?)))
}

/// `POST /api/v1/session`
pub(crate) async fn sign_in(
    State(master): Shared,
    headers: HeaderMap,
    Json(body): Json<SignIn>,
) -> Result<Response, Problem> {
    if !same_origin(&headers) {
        return Err(Problem::forbidden("the request comes from another site"));
    }
    let signing = Arc::clone(&master);
    let user = body.user.clone();
    let signed =
        tokio::task::spawn_blocking(move || signing.access.sign_in(&signing.book, &body.user, &body.password, wall()));
    let signed = signed.await.map_err(|error| Problem::internal(&error))?;
    let action = if signed.is_ok() { "sign in" } else { "sign in refused" };
    let name: String = user.chars().filter(|letter| !letter.is_control()).take(64).collect();
    master.book.audit(&name, action, "").map_err(|error| Problem::internal(&error))?;
    let value = signed.map_err(|why| {
        let status = if why.starts_with("too many") { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::UNAUTHORIZED };
        Problem::new(status, &why)
    })?;
    let cookie = format!("{COOKIE}={value}; Path=/; HttpOnly; Secure; SameSite=Strict");
    let mut response = Json(json!({"user": name})).into_response();
    let value = HeaderValue::from_str(&cookie).map_err(|error| Problem::internal(&error))?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

/// `DELETE /api/v1/session`
pub(crate) async fn sign_out(State(master): Shared, headers: HeaderMap) -> Response {
    if let Some(value) = cookie(&headers) {
        master.access.sign_out(value);
    }
    let gone = format!("{COOKIE}=; Path=/; HttpOnly; Secure; SameSite=Strict; Max-Age=0");
    let value = HeaderValue::from_str(&gone).unwrap_or(HeaderValue::from_static(""));
    ([(header::SET_COOKIE, value)], StatusCode::NO_CONTENT).into_response()
}

#[derive(Deserialize)]
pub(crate) struct SetUp {
    token: String,
    user: String,
    password: String,
}

/// `POST /api/v1/setup`: the first administrator, once, by the link that the first run printed.
pub(crate) async fn set_up(State(master): Shared, Json(body): Json<SetUp>) -> Result<Json<Value>, Problem> {
    let failed = |error: crate::book::BookError| Problem::internal(&error);
    let secret: Option<String> = master.book.meta("setup").map_err(failed)?;
    let right = secret.is_some_and(|secret| secret == to_hex(&hash_of(&body.token)));
    if !right || !master.book.has_no_user().map_err(failed)? {
        return Err(Problem::forbidden(
            "this set-up link was used or replaced: sign in, or see what 'thymus-master run' printed last",
        ));
    }
    if body.user.trim().is_empty() || body.user.len() > 64 {
        return Err(Problem::bad("a user's name has 1 to 64 letters"));
    }
    let password = body.password.clone();
    let hash = tokio::task::spawn_blocking(move || hash_password(&password))
        .await
        .map_err(|error| Problem::internal(&error))?;
    let account =
        Account { role: AccessRole::Admin, networks: Vec::new(), password: hash.map_err(|why| Problem::bad(&why))? };
    master.book.put_user(&body.user, &account).map_err(failed)?;
    master.book.put_meta("setup", &"").map_err(failed)?;
    master.book.audit(&body.user, "set up", "first administrator").map_err(failed)?;
    Ok(Json(json!({"user": body.user})))
}

/// `GET /api/v1/tokens`: tokens for sensors, without their secret.
pub(crate) async fn tokens(
    State(master): Shared,
    Extension(who): Extension<Principal>,
) -> Result<Json<Value>, Problem> {
    need(&who, AccessRole::Admin)?;
    let grants = master.book.grants().map_err(|error| Problem::internal(&error))?;
    let items: Vec<Value> = grants
        .into_iter()
        .map(|(id, grant)| json!({"id": id, "group": grant.group, "uses": grant.uses, "expires": seconds(grant.expires), "created": seconds(grant.created)}))
        .collect();
    Ok(Json(json!({"items": items, "next": null})))
}

#[derive(Deserialize)]
pub(crate) struct NewToken {
    uses: Option<u32>,
    expires: Option<String>,
    group: Option<String>,
    #[serde(default)]
    agent: bool,
}

/// `POST /api/v1/tokens`: a token for a sensor; its text is shown once.
pub(crate) async fn make_token(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<NewToken>,
) -> Result<Json<Value>, Problem> {
    need(&who, AccessRole::Admin)?;
    let expires = parse_duration(body.expires.as_deref().unwrap_or("24h")).map_err(|why| Problem::bad(&why))?;
    let group = body.group.as_deref().unwrap_or("default");
    let made = admin::make_token(&master, Some(body.uses.unwrap_or(1)), expires, group, body.agent, &who.name);
    Ok(Json(json!({"token": made.map_err(|why| Problem::bad(&why))?})))
}

/// `POST /api/v1/sensors/{id}/revoke`
pub(crate) async fn revoke(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    need(&who, AccessRole::Admin)?;
    let done = admin::revoke(&master, &id, &who.name);
    Ok(Json(json!({"done": done.map_err(|why| Problem::new(StatusCode::NOT_FOUND, &why))?})))
}

/// Seconds of `30s`, `10m`, `24h`, `7d`.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds = digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| format!("'{text}' is no duration: write 30s, 10m, 24h or 7d"))
}

/// `GET /api/v1/audit`: the newest lines.
pub(crate) async fn audit(State(master): Shared, Extension(who): Extension<Principal>) -> Result<Json<Value>, Problem> {
    need(&who, AccessRole::Admin)?;
    let lines = master.book.audit_lines(1_000).map_err(|error| Problem::internal(&error))?;
    Ok(Json(json!({"items": lines, "next": null})))
}
