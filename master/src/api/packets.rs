//! `GET /api/v1/packets`: a pcapng stream, by flow or by filter.

use super::lists::parse_time;
use super::{Problem, Shared, need};
use crate::access::Principal;
use crate::book::AccessRole;
use crate::retrieve::{NoPackets, fetch as fetch_from, query_of, scope_texts};
use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use thymus_record::query::PcapQuery;
use thymus_record::{FlowUid, SensorId};

/// What is asked for.
#[derive(Deserialize)]
pub(crate) struct Asked {
    flow: Option<String>,
    filter: Option<String>,
    from: Option<String>,
    to: Option<String>,
    sensor: Option<u32>,
    reason: Option<String>,
}

/// Packets of a flow, or of a filter and a time.
pub(crate) async fn fetch(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    need(&who, AccessRole::Analyst)?;
    let (sensors, query, name) = match (&asked.flow, &asked.filter) {
        (Some(uid), None) => {
            let unknown =
                || Problem::unknown("there is no such flow, or it is in a network that this account does not see");
            let uid: FlowUid = uid.parse().ok().ok_or_else(unknown)?;
            let flow = master.store.flow(uid, &who.scope).await?.ok_or_else(unknown)?;
            let sensors = flow.sensors.iter().map(|(sensor, _)| *sensor).collect();
            (sensors, query_of(&flow, &who.scope), uid.to_string())
        }
        (None, Some(filter)) => {
            let query = PcapQuery {
                filter: filter.clone(),
                from: asked.from.as_deref().map(parse_time).transpose()?,
                until: asked.to.as_deref().map(parse_time).transpose()?,
                scope: scope_texts(&who.scope),
                ..PcapQuery::default()
            };
            let sensors = asked.sensor.map_or_else(|| master.sensors.connected(), |sensor| vec![SensorId(sensor)]);
            (sensors, query, "packets".to_owned())
        }
        _ => return Err(Problem::bad("ask for flow=UID, or for filter=… with from= and to=")),
    };
    let detail = format!(
        "flow {:?}, filter {:?}, from {:?}, to {:?}, reason: {}",
        asked.flow.as_deref().unwrap_or("-"),
        asked.filter.as_deref().unwrap_or("-"),
        asked.from.as_deref().unwrap_or("-"),
        asked.to.as_deref().unwrap_or("-"),
        asked.reason.as_deref().unwrap_or("none given"),
    );
    master.book.audit(&who.name, "packets", &detail).map_err(|error| Problem::internal(&error))?;
    let body = fetch_from(master, sensors, query).await.map_err(|why| match why {
        NoPackets::Gone(words) => Problem::new(StatusCode::GONE, &words),
        NoPackets::Away(words) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, &words),
        NoPackets::None(words) => Problem::unknown(&words),
        NoPackets::Wrong(words) => Problem::bad(&words),
    })?;
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-pcapng"));
    let disposition = format!("attachment; filename=\"{name}.pcapng\"");
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment")),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
