//! Lists: sensors, ledger, devices, and pages of the tables.

use super::{Problem, Shared};
use crate::access::Principal;
use crate::clock::{seconds, wall};
use crate::entity::{Device, is_local};
use crate::server::Master;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, http::header};
use serde::Deserialize;
use serde_json::{Value, json};
use thymus_record::ledger::Ledger;
use thymus_record::time::SECOND;
use thymus_record::{Address, NetworkPath, Scope, SensorId, Table, Time};
use thymus_store::Request;

/// What a list may be asked for.
#[derive(Deserialize, Default)]
pub(crate) struct Asked {
    q: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

impl Asked {
    fn limit(&self) -> Result<usize, Problem> {
        match self.limit.as_deref() {
            None => Ok(100),
            Some(text) => match text.parse::<usize>() {
                Ok(limit @ 1..) => Ok(limit.min(1_000)),
                _ => Err(Problem::bad("limit is a number from 1 to 1000")),
            },
        }
    }
}

/// A time as the API takes it: epoch seconds, or `-15m` before now.
pub(crate) fn parse_time(text: &str) -> Result<Time, Problem> {
    let wrong =
        || Problem::bad(&format!("'{text}' is no time: give epoch seconds, or -15m, -2h, -1d for a time before now"));
    if let Some(ago) = text.strip_prefix('-') {
        let split = ago.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(ago.len());
        let (digits, unit) = ago.split_at(split);
        let factor = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)?;
        return Ok(wall() - seconds.saturating_mul(SECOND));
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let (whole, part) = (whole.parse::<u64>(), digits.parse::<u64>());
    match (whole, part) {
        (Ok(whole), Ok(part)) if whole < 18_000_000_000 => Ok(Time::from_parts(whole, part)),
        _ => Err(wrong()),
    }
}

fn json_text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A page of a table: flows, dns, tls, http, certs, weird, hosts, rollups.
pub(crate) async fn rows(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Path(table): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let table = match table.as_str() {
        "flows" => Table::Flow,
        "dns" => Table::Dns,
        "tls" => Table::Tls,
        "http" => Table::Http,
        "certs" => Table::Cert,
        "weird" => Table::Weird,
        "hosts" => Table::Host,
        "rollups" => Table::Rollup,
        "anomalies" | "incidents" => return Ok(json_text(r#"{"items":[],"next":null}"#.to_owned())),
        other => return Err(Problem::unknown(&format!("there is no list '{other}'; /api/v1/openapi.json names them"))),
    };
    let request = Request {
        table,
        scope: who.scope,
        q: asked.q.clone().filter(|q| !q.trim().is_empty()),
        from: asked.from.as_deref().map(parse_time).transpose()?,
        to: asked.to.as_deref().map(parse_time).transpose()?,
        limit: asked.limit()?,
        cursor: asked.cursor.clone(),
    };
    let page = master.store.query(&request).await?;
    let mut body = String::from("{\"items\":[");
    for (at, item) in page.items.iter().enumerate() {
        if at > 0 {
            body.push(',');
        }
        body.push_str(item.get());
    }
    body.push_str("],\"next\":");
    body.push_str(&serde_json::to_string(&page.next).unwrap_or_else(|_| "null".to_owned()));
    body.push('}');
    Ok(json_text(body))
}

/// True if the scope reaches into the sensor's group.
pub(crate) fn allows_group(scope: &Scope, group: &str) -> bool {
    match scope {
        Scope::All => true,
        Scope::Within(paths) => paths.iter().any(|path| path.is_within(&NetworkPath::new(group, &[]))),
    }
}

/// One sensor as the page shows it.
pub(crate) fn sensor_json(master: &Master, entry: &crate::book::SensorEntry) -> Value {
    let id = SensorId(entry.id);
    let live = master.sensors.live(id);
    let health = live.as_ref().and_then(|live| live.health.clone()).or_else(|| master.sensors.last_health(id));
    if entry.agent {
        return agent_json(master, entry);
    }
    json!({
        "id": entry.id.to_string(),
        "kind": "sensor",
        "name": entry.name,
        "group": entry.group,
        "connected": live.is_some(),
        "since": live.as_ref().map(|live| seconds(live.since)),
        "address": live.as_ref().map(|live| live.address.clone()),
        "last_seen": if live.is_some() { Some(seconds(wall())) } else { entry.last_seen.map(seconds) },
        "software": entry.software,
        "revoked": entry.revoked,
        "health": health,
    })
}

/// One OS-sensor as the page shows it: what its vSensor tells of it.
fn agent_json(master: &Master, entry: &crate::book::SensorEntry) -> Value {
    let found = master.sensors.agent(SensorId(entry.id));
    let through = found.as_ref().map(|(sensor, _)| master.sensor_name(*sensor));
    let mut health = found.map(|(_, health)| health);
    if let (Some(health), Some(item)) = (&mut health, master.groups.item(entry.id)) {
        health.items.push(item.to_owned());
    }
    json!({
        "id": entry.id.to_string(),
        "kind": "agent",
        "name": entry.name,
        "group": entry.group,
        "connected": health.is_some(),
        "since": null,
        "address": health.as_ref().map(|health| health.address.clone()),
        "last_seen": if health.is_some() { Some(seconds(wall())) } else { entry.last_seen.map(seconds) },
        "software": entry.software,
        "revoked": entry.revoked,
        "through": through,
        "agent": health,
        "health": null,
    })
}

/// Sensors that joined.
pub(crate) async fn sensors(
    State(master): Shared,
    Extension(who): Extension<Principal>,
) -> Result<Json<Value>, Problem> {
    let entries = master.book.sensors().map_err(|error| Problem::internal(&error))?;
    let allowed = entries.iter().filter(|entry| allows_group(&who.scope, &entry.group));
    let items: Vec<Value> = allowed.map(|entry| sensor_json(&master, entry)).collect();
    Ok(Json(json!({"items": items, "next": null})))
}

/// The ledger: of all sensors, of each, and by minute.
pub(crate) async fn ledger(
    State(master): Shared,
    Extension(who): Extension<Principal>,
) -> Result<Json<Value>, Problem> {
    let entries = master.book.sensors().map_err(|error| Problem::internal(&error))?;
    let (mut total, mut each, mut agents, mut imbalances) = (Ledger::default(), Vec::new(), Vec::new(), Vec::new());
    for entry in entries.iter().filter(|entry| allows_group(&who.scope, &entry.group)) {
        if let Some((through, health)) = master.sensors.agent(SensorId(entry.id)) {
            imbalances.extend(health.ledger.imbalance().map(|words| format!("agent {}: {words}", entry.name)));
            let (id, through) = (entry.id.to_string(), through.0.to_string());
            agents.push(json!({"id": id, "name": entry.name, "through": through, "ledger": health.ledger}));
        }
        let Some(health) = master.sensors.last_health(SensorId(entry.id)) else { continue };
        let ledger = health.ledger;
        imbalances.extend(ledger.imbalances().into_iter().map(|words| format!("{}: {words}", entry.name)));
        add(&mut total, &ledger);
        each.push(json!({"id": entry.id.to_string(), "name": entry.name, "ledger": ledger}));
    }
    let request = Request {
        table: Table::Stats,
        scope: who.scope.clone(),
        q: None,
        from: None,
        to: None,
        limit: 60,
        cursor: None,
    };
    let page = master.store.query(&request).await?;
    let minutes: Vec<Value> = page.items.iter().filter_map(|item| minute(item.get())).collect();
    Ok(Json(json!({"total": total, "sensors": each, "agents": agents, "imbalances": imbalances, "minutes": minutes})))
}

/// A stats row, with the port by name.
fn minute(text: &str) -> Option<Value> {
    let mut row: Value = serde_json::from_str(text).ok()?;
    let name = row.get("port_name")?.clone();
    row.as_object_mut()?.insert("port".to_owned(), name);
    Some(row)
}

fn add(total: &mut Ledger, ledger: &Ledger) {
    total.offered += ledger.offered;
    total.missed += ledger.missed;
    total.received += ledger.received;
    total.stored += ledger.stored;
    total.in_ring += ledger.in_ring;
    total.not_kept += ledger.not_kept;
    total.duplicate += ledger.duplicate;
    total.filtered += ledger.filtered;
    total.shed += ledger.shed;
    total.error += ledger.error;
    total.records.made += ledger.records.made;
    total.records.sent += ledger.records.sent;
    total.records.spooled += ledger.records.spooled;
    total.records.shed += ledger.records.shed;
    total.cut_bytes += ledger.cut_bytes;
    total.metadata_bytes += ledger.metadata_bytes;
    total.ring_bytes += ledger.ring_bytes;
    total.index_bytes += ledger.index_bytes;
}

/// A device as the page shows it.
pub(crate) fn device_json(device: &Device) -> Value {
    let mut addresses: Vec<(&String, &Time)> = device.addresses.iter().collect();
    addresses.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let inside = addresses.iter().any(|(address, _)| address.parse::<Address>().is_ok_and(is_local));
    let kind = if device.gateway {
        "gateway"
    } else if inside || !device.macs.is_empty() {
        "device"
    } else {
        "external"
    };
    json!({
        "id": device.id,
        "network": device.network,
        "name": device.names.first(),
        "addresses": addresses.iter().map(|(address, _)| address).collect::<Vec<_>>(),
        "macs": device.macs,
        "names": device.names,
        "first_seen": seconds(device.first_seen),
        "last_seen": seconds(device.last_seen),
        "kind": kind,
        "orig_bytes": device.sent_bytes,
        "resp_bytes": device.got_bytes,
        "flows": device.flows,
        "evidence": device.evidence,
        "sensors": device.sensors,
    })
}

/// Devices, last seen first.
pub(crate) async fn devices(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let limit = asked.limit()?;
    let entities = master.entities();
    let devices = entities.list(&who.scope, asked.q.as_deref().unwrap_or_default().trim());
    // The cursor names the last device shown; devices seen meanwhile come before it and do not disturb.
    let start = match asked.cursor.as_deref() {
        None => 0,
        Some(cursor) => {
            let wrong = || Problem::bad("the cursor is not one that this list gave");
            let (last, id) = cursor.split_once('-').ok_or_else(wrong)?;
            let last = Time(last.parse::<u64>().ok().ok_or_else(wrong)?);
            devices.partition_point(|device| {
                (device.last_seen, id) > (last, device.id.as_str())
                    || (device.last_seen, device.id.as_str()) == (last, id)
            })
        }
    };
    let page: Vec<&Device> = devices.iter().skip(start).take(limit).copied().collect();
    let more = devices.len() > start + page.len();
    let next = page.last().filter(|_| more).map(|device| format!("{}-{}", device.last_seen.0, device.id));
    let items: Vec<Value> = page.into_iter().map(device_json).collect();
    Ok(Json(json!({"items": items, "next": next})))
}

/// One device, with its traffic over time and its peers.
pub(crate) async fn device(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (mut body, network, addresses, span) = {
        let entities = master.entities();
        let device = entities.device(&id, &who.scope).ok_or_else(|| Problem::unknown("there is no such device"))?;
        let addresses: Vec<Address> =
            device.addresses.keys().filter_map(|address| address.parse().ok()).take(8).collect();
        let from = device.first_seen.max(device.last_seen - 86_400 * SECOND);
        (device_json(device), NetworkPath::from_text(&device.network), addresses, (from, device.last_seen + SECOND))
    };
    let mut buckets = vec![(0u64, 0u64, 0u64, 0u64); 60];
    let mut peers: Vec<Value> = Vec::new();
    for address in addresses {
        let volumes = master.store.flow_volume(&who.scope, (&network, address), span, buckets.len()).await?;
        for (bucket, volume) in buckets.iter_mut().zip(volumes) {
            *bucket = (volume.ts.0, bucket.1 + volume.in_bytes, bucket.2 + volume.out_bytes, bucket.3 + volume.flows);
        }
        for peer in master.store.top_peers(&who.scope, (&network, address), None, None, 50).await? {
            let entities = master.entities();
            let known = entities.at(network.as_str(), &peer.address.to_string());
            peers.push(json!({
                "address": peer.address.to_string(),
                "device": known.map(|device| device.id.clone()),
                "name": known.and_then(|device| device.names.first().cloned()),
                "bytes": peer.bytes,
                "flows": peer.flows,
                "ports": peer.ports,
            }));
        }
    }
    let timeline: Vec<Value> = buckets
        .into_iter()
        .map(|(ts, inward, outward, flows)| json!({"ts": seconds(Time(ts)), "in_bytes": inward, "out_bytes": outward, "flows": flows}))
        .collect();
    peers.sort_by_key(|peer| std::cmp::Reverse(peer.get("bytes").and_then(Value::as_u64)));
    if let Some(body) = body.as_object_mut() {
        body.insert("timeline".to_owned(), Value::Array(timeline));
        body.insert("peers".to_owned(), Value::Array(peers));
    }
    Ok(Json(body))
}

/// A search over everything that has a page.
pub(crate) async fn search(
    State(master): Shared,
    Extension(who): Extension<Principal>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let text = asked.q.as_deref().unwrap_or_default().trim().to_owned();
    if text.is_empty() {
        return Ok(Json(json!({"items": [], "next": null})));
    }
    let entry = |kind: &str, label: String, link: String| json!({"kind": kind, "label": label, "link": link});
    let mut items: Vec<Value> = master
        .entities()
        .list(&who.scope, &text)
        .iter()
        .take(10)
        .map(|device| {
            let label = device.names.first().or_else(|| device.addresses.keys().next()).cloned().unwrap_or_default();
            entry("device", label, format!("#/device/{}", device.id))
        })
        .collect();
    let sensors = master.book.sensors().map_err(|error| Problem::internal(&error))?;
    for sensor in sensors.iter().filter(|sensor| allows_group(&who.scope, &sensor.group) && sensor.name.contains(&text))
    {
        items.push(entry("sensor", sensor.name.clone(), "#/sensors".to_owned()));
    }
    for (kind, table) in [("flow", "flows"), ("dns", "dns"), ("tls", "tls"), ("http", "http")] {
        items.push(entry(kind, format!("{text} in {table}"), format!("#/search?table={table}&q={}", encode(&text))));
    }
    Ok(Json(json!({"items": items, "next": null})))
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_epoch_seconds_or_spans_before_now() {
        assert_eq!(parse_time("1500000000.25").unwrap(), Time(1_500_000_000_250_000_000));
        assert!(parse_time("-15m").unwrap() < wall());
        for wrong in ["", "yesterday", "-5", "99999999999999", "1.x"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
