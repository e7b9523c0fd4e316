//! OS-sensors and their policies.

use super::lists::{allows_group, sensor_json};
use super::{Problem, Shared, need};
use crate::access::Principal;
use crate::book::AccessRole;
use crate::policies::{PolicyError, Whose, agent_entry, change, current};
use crate::server::Master;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde_json::{Value, json};
use std::sync::Arc;
use thymus_record::message::Policy;

fn problem(error: PolicyError) -> Problem {
    match error {
        PolicyError::Wrong(why) => Problem::bad(&why),
        PolicyError::Unknown(why) => Problem::unknown(&why),
        PolicyError::Away(why) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, &why),
        PolicyError::Failed(why) => Problem::internal(&why),
    }
}

/// `GET /api/v1/agents`: OS-sensors, how they fare and what they follow.
pub(crate) async fn agents(
    State(master): Shared,
    Extension(who): Extension<Principal>,
) -> Result<Json<Value>, Problem> {
    let entries = master.book.sensors().map_err(|error| Problem::internal(&error))?;
    let policies = current(&master);
    let seen = entries.iter().filter(|entry| entry.agent && allows_group(&who.scope, &entry.group));
    let items = seen.map(|entry| {
        let mut item = sensor_json(&master, entry);
        let (policy, from) = policies.resolve(entry.id, &entry.group);
        let policy = json!({"from": from, "words": policy.words(), "policy": policy});
        if let Some(item) = item.as_object_mut() {
            item.insert("policy".to_owned(), policy);
        }
        item
    });
    Ok(Json(json!({"items": items.collect::<Vec<_>>(), "next": null})))
}

fn policy_json(whose: &Whose, policy: Option<&Policy>) -> Value {
    let shown = policy.cloned().unwrap_or_default();
    let (kind, name) = match whose {
        Whose::Group(group) => ("group", group.clone()),
        Whose::Agent(agent) => ("agent", agent.to_string()),
    };
    json!({kind: name, "set": policy.is_some(), "words": shown.words(), "policy": shown})
}

/// `GET /api/v1/policies`: of groups and of single agents.
pub(crate) async fn policies(
    State(master): Shared,
    Extension(who): Extension<Principal>,
) -> Result<Json<Value>, Problem> {
    let policies = current(&master);
    let groups = policies.groups.keys().filter(|group| allows_group(&who.scope, group));
    let mut all: Vec<Whose> = groups.map(|group| Whose::Group(group.clone())).collect();
    let seen = |agent: &u32| agent_entry(&master, *agent).is_ok_and(|entry| allows_group(&who.scope, &entry.group));
    all.extend(policies.agents.keys().copied().filter(seen).map(Whose::Agent));
    let items: Vec<Value> = all.iter().map(|whose| policy_json(whose, policies.set_for(whose))).collect();
    Ok(Json(json!({"items": items, "next": null})))
}

/// Whose policy a path names, where this account may see it.
fn named(master: &Master, who: &Principal, whose: Whose) -> Result<Whose, Problem> {
    let unknown = || Problem::unknown("there is no such OS-sensor or group, or this account does not see it");
    let group = match &whose {
        Whose::Group(group) => group.clone(),
        Whose::Agent(agent) => agent_entry(master, *agent).map_err(problem)?.group,
    };
    if allows_group(&who.scope, &group) { Ok(whose) } else { Err(unknown()) }
}

fn agent_of(text: &str) -> Result<Whose, Problem> {
    let number = text.parse().ok().ok_or_else(|| Problem::unknown("an OS-sensor is named by its number"))?;
    Ok(Whose::Agent(number))
}

fn get_policy(master: &Master, who: &Principal, whose: Whose) -> Result<Json<Value>, Problem> {
    let whose = named(master, who, whose)?;
    Ok(Json(policy_json(&whose, current(master).set_for(&whose))))
}

/// Changes a policy; the role and the network are looked at before the body is.
async fn put_policy(
    master: Arc<Master>,
    who: Principal,
    whose: Whose,
    body: Option<Value>,
) -> Result<Json<Value>, Problem> {
    need(&who, AccessRole::Admin)?;
    let whose = named(&master, &who, whose)?;
    let policy = body.map(|body| policy_of(&body)).transpose()?;
    let changed = tokio::task::spawn_blocking(move || {
        change(&master, &whose, policy, &who.name).map(|_| policy_json(&whose, current(&master).set_for(&whose)))
    });
    changed.await.map_err(|error| Problem::internal(&error))?.map(Json).map_err(problem)
}

/// The policy in a body, every key of which must be known.
fn policy_of(body: &Value) -> Result<Policy, Problem> {
    let Some(given) = body.as_object() else { return Err(Problem::bad("a policy is a JSON object")) };
    let known = serde_json::to_value(Policy::default()).unwrap_or_default();
    if let Some(key) = given.keys().find(|key| known.get(key.as_str()).is_none()) {
        let keys: Vec<&str> =
            known.as_object().into_iter().flat_map(|known| known.keys()).map(String::as_str).collect();
        return Err(Problem::bad(&format!("a policy has no '{key}': it has {}", keys.join(", "))));
    }
    serde_json::from_value(body.clone())
        .map_err(|error| Problem::bad(&format!("the policy is not understood: {error}")))
}

type Body = Result<Json<Value>, axum::extract::rejection::JsonRejection>;

fn body_of(body: Body) -> Result<Value, Problem> {
    body.map(|Json(body)| body).map_err(|error| Problem::bad(&error.body_text()))
}

/// `GET /api/v1/policies/{group}`
pub(crate) async fn group_policy(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Path(group): Path<String>,
) -> Result<Json<Value>, Problem> {
    get_policy(&master, &who, Whose::Group(group))
}

/// `PUT /api/v1/policies/{group}`
pub(crate) async fn put_group_policy(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Path(group): Path<String>,
    body: Body,
) -> Result<Json<Value>, Problem> {
    need(&who, AccessRole::Admin)?;
    put_policy(master, who, Whose::Group(group), Some(body_of(body)?)).await
}

/// `DELETE /api/v1/policies/{group}`
pub(crate) async fn clear_group_policy(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Path(group): Path<String>,
) -> Result<Json<Value>, Problem> {
    put_policy(master, who, Whose::Group(group), None).await
}

/// `GET /api/v1/agents/{id}/policy`
pub(crate) async fn agent_policy(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    get_policy(&master, &who, agent_of(&id)?)
}

/// `PUT /api/v1/agents/{id}/policy`
pub(crate) async fn put_agent_policy(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Value>, Problem> {
    need(&who, AccessRole::Admin)?;
    put_policy(master, who, agent_of(&id)?, Some(body_of(body)?)).await
}

/// `DELETE /api/v1/agents/{id}/policy`
pub(crate) async fn clear_agent_policy(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    put_policy(master, who, agent_of(&id)?, None).await
}
