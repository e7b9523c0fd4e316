//! `GET /api/v1/openapi.json`, made from one table of operations.

use axum::Json;
use serde_json::{Map, Value, json};
use thymus_record::table::{CertRow, DnsRow, FlowRow, HostRow, HttpRow, RollupRow, TlsRow, WeirdRow};
use thymus_record::{Kind, Row};

/// Method, path, what it does, its query parameters, the schema of its answer.
type Operation = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

const LIST: &[(&str, &str)] = &[
    ("q", "field:value with AND, OR, NOT and parentheses"),
    ("from", "epoch seconds, or -15m"),
    ("to", "epoch seconds, or -15m"),
    ("limit", "1 to 1000, 100 by default"),
    ("cursor", "next of the page before"),
];

const OPERATIONS: &[Operation] = &[
    ("get", "/healthz", "Whether the master runs. Needs no token.", &[], ""),
    ("get", "/metrics", "Prometheus text.", &[], ""),
    ("get", "/api/v1/session", "Who asks.", &[], "Session"),
    ("post", "/api/v1/session", "Sign in: {user, password}; sets the session cookie.", &[], "Session"),
    ("delete", "/api/v1/session", "Sign out.", &[], ""),
    ("post", "/api/v1/setup", "Make the first administrator: {token, user, password}.", &[], "Session"),
    ("get", "/api/v1/sensors", "Sensors that joined, with their health.", &[], "Sensors"),
    ("post", "/api/v1/sensors/{id}/revoke", "Let a sensor in no more. Needs the role admin.", &[], "Revoked"),
    ("get", "/api/v1/agents", "OS-sensors that joined, how they fare and what they follow.", &[], "Agents"),
    ("post", "/api/v1/agents/{id}/revoke", "Let an OS-sensor in no more. Needs the role admin.", &[], "Revoked"),
    ("get", "/api/v1/agents/{id}/policy", "The policy that an OS-sensor has of its own.", &[], "Policy"),
    (
        "put",
        "/api/v1/agents/{id}/policy",
        "Give an OS-sensor a policy of its own. Needs the role admin.",
        &[],
        "Policy",
    ),
    ("delete", "/api/v1/agents/{id}/policy", "Let it follow its group again. Needs the role admin.", &[], "Policy"),
    ("get", "/api/v1/policies", "Policies of groups, and of single OS-sensors.", &[], "Policies"),
    ("get", "/api/v1/policies/{group}", "The policy of a group's OS-sensors.", &[], "Policy"),
    (
        "put",
        "/api/v1/policies/{group}",
        "Set the policy of a group's OS-sensors; it takes effect within a second. Needs the role admin.",
        &[],
        "Policy",
    ),
    ("delete", "/api/v1/policies/{group}", "Take a group's policy away. Needs the role admin.", &[], "Policy"),
    ("get", "/api/v1/ledger", "The packet ledger: in all, by sensor, by minute.", &[], "Ledger"),
    ("get", "/api/v1/devices", "Devices, last seen first.", LIST, "Devices"),
    ("get", "/api/v1/devices/{id}", "One device, with its traffic over time and its peers.", &[], "Device"),
    ("get", "/api/v1/flows", "Connections, newest first.", LIST, "flow"),
    ("get", "/api/v1/dns", "DNS transactions.", LIST, "dns"),
    ("get", "/api/v1/tls", "TLS handshakes.", LIST, "tls"),
    ("get", "/api/v1/http", "HTTP requests.", LIST, "http"),
    ("get", "/api/v1/certs", "Certificates.", LIST, "cert"),
    ("get", "/api/v1/weird", "Protocol oddities.", LIST, "weird"),
    ("get", "/api/v1/hosts", "Which MAC holds an address.", LIST, "host"),
    ("get", "/api/v1/rollups", "Flows rolled up to keep the metadata budget.", LIST, "rollup"),
    ("get", "/api/v1/search", "Devices, sensors and searches for a text.", &[("q", "the text")], "Search"),
    (
        "get",
        "/api/v1/packets",
        "Packets as pcapng, by flow or by filter. Needs the role analyst; is audited.",
        &[
            ("flow", "a flow's uid"),
            ("filter", "a packet filter"),
            ("from", "epoch seconds, or -15m"),
            ("to", "epoch seconds, or -15m"),
            ("sensor", "a sensor's id"),
            ("reason", "kept in the audit"),
        ],
        "pcapng",
    ),
    ("get", "/api/v1/live", "Server-sent events: flow, device, sensor.", &[], "events"),
    ("get", "/api/v1/tokens", "Tokens for sensors. Needs the role admin.", &[], "Tokens"),
    ("post", "/api/v1/tokens", "Make a token: {uses, expires, group, agent}. Needs the role admin.", &[], "Token"),
    ("get", "/api/v1/audit", "The newest lines of the audit. Needs the role admin.", &[], "Audit"),
];

fn schema_of<R: Row>(schemas: &mut Map<String, Value>) {
    let mut properties = Map::new();
    for column in R::COLUMNS {
        let mut schema = match column.kind {
            Kind::Unsigned => json!({"type": "integer", "minimum": 0}),
            Kind::Time => json!({"type": "number"}),
            Kind::Flag => json!({"type": "boolean"}),
            Kind::Text | Kind::Address | Kind::Mac | Kind::Proto => json!({"type": "string"}),
            Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Kind::Unsigneds => json!({"type": "array", "items": {"type": "integer"}}),
        };
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".to_owned(), json!(column.doc.trim()));
        }
        properties.insert(column.name.to_owned(), schema);
    }
    let row = json!({"type": "object", "properties": properties});
    let page = json!({"type": "object", "properties": {"items": {"type": "array", "items": row}, "next": {"type": ["string", "null"]}}});
    schemas.insert(R::TABLE.name().to_owned(), page);
}

/// What a policy holds; what is left out is as in the plain policy.
fn policy_schema() -> Value {
    let number = |words: &str| json!({"type": "number", "minimum": 0, "description": words});
    let names = json!({"type": "array", "maxItems": 64, "items": {"type": "string", "minLength": 1, "maxLength": 64}, "description": "interfaces, by name or pattern"});
    json!({"type": "object", "additionalProperties": false, "properties": {
        "mode": {"type": "string", "enum": ["full", "head", "metadata"], "description": "packets, the head of each flow, or metadata alone"},
        "snaplen": {"type": "integer", "minimum": 64, "maximum": u32::MAX, "description": "bytes of each frame that are sent"},
        "head_bytes": {"type": "integer", "minimum": 0, "description": "bytes of each flow that are sent in mode head"},
        "filter": {"type": "string", "maxLength": 2048, "description": "tcpdump's language; names are not resolved"},
        "include": names,
        "exclude": names,
        "cpu_percent_max": number("percent of one core, 0.1 to 10000; 0 for no limit"),
        "mbps_max": number("Mbit/s, 0.01 to 1000000; 0 for no limit"),
    }})
}

/// The document.
pub(crate) async fn openapi() -> Json<Value> {
    let mut schemas = Map::new();
    schema_of::<FlowRow>(&mut schemas);
    schema_of::<DnsRow>(&mut schemas);
    schema_of::<TlsRow>(&mut schemas);
    schema_of::<HttpRow>(&mut schemas);
    schema_of::<CertRow>(&mut schemas);
    schema_of::<WeirdRow>(&mut schemas);
    schema_of::<HostRow>(&mut schemas);
    schema_of::<RollupRow>(&mut schemas);
    schemas.insert(
        "Problem".to_owned(),
        json!({"type": "object", "properties": {"type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}}}),
    );
    schemas.insert("PolicyBody".to_owned(), policy_schema());
    schemas.insert(
        "Policy".to_owned(),
        json!({"type": "object", "properties": {"group": {"type": "string"}, "agent": {"type": "string"}, "set": {"type": "boolean"}, "words": {"type": "string"}, "policy": {"$ref": "#/components/schemas/PolicyBody"}}}),
    );
    let mut paths: Map<String, Value> = Map::new();
    for (method, path, summary, parameters, schema) in OPERATIONS {
        let mut all: Vec<Value> = parameters
            .iter()
            .map(|(name, words)| json!({"name": name, "in": "query", "description": words, "schema": {"type": "string"}}))
            .collect();
        for name in ["id", "group"] {
            if path.contains(&format!("{{{name}}}")) {
                all.push(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
            }
        }
        let content = match *schema {
            "" => json!({"text/plain": {}}),
            "pcapng" => json!({"application/x-pcapng": {}}),
            "events" => json!({"text/event-stream": {}}),
            name if schemas.contains_key(name) => {
                json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{name}")}}})
            }
            _ => json!({"application/json": {"schema": {"type": "object"}}}),
        };
        let problem = json!({"description": "why not", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}});
        let mut operation = json!({
            "summary": summary,
            "parameters": all,
            "responses": {"200": {"description": "done", "content": content}, "default": problem},
        });
        if *method == "put" {
            let body = json!({"application/json": {"schema": {"$ref": "#/components/schemas/PolicyBody"}}});
            if let Some(operation) = operation.as_object_mut() {
                operation.insert("requestBody".to_owned(), json!({"required": true, "content": body}));
            }
        }
        let entry = paths.entry((*path).to_owned()).or_insert_with(|| json!({}));
        if let Some(entry) = entry.as_object_mut() {
            entry.insert((*method).to_owned(), operation);
        }
    }
    Json(json!({
        "openapi": "3.1.0",
        "info": {"title": "Thymus master", "version": env!("CARGO_PKG_VERSION")},
        "security": [{"token": []}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }))
}
