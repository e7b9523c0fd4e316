//! Rows as JSON objects, one form for `read --out jsonl`, the API and exports: `ts` is epoch seconds with 6 decimals,
//! a missing value is left out, text is escaped as JSON asks.

use crate::{FlowUid, NetworkPath, Record, Row, Value};
use std::fmt::Write;

/// Who made a row, needed to write its uid and network.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Sensor, boot; shard and sequence are the row's own.
    pub maker: FlowUid,
    /// The path that the row's network number stands for.
    pub network: &'a NetworkPath,
}

/// Appends one JSON object for the record: `"table"`, `"uid"` where the row is of a flow, `"network"`, then its columns.
pub fn write_record(record: &Record, origin: Origin<'_>, out: &mut String) {
    match record {
        Record::Flow(row) => write_row(row, origin, out),
        Record::Dns(row) => write_row(row, origin, out),
        Record::Tls(row) => write_row(row, origin, out),
        Record::Cert(row) => write_row(row, origin, out),
        Record::Http(row) => write_row(row, origin, out),
        Record::Host(row) => write_row(row, origin, out),
        Record::Weird(row) => write_row(row, origin, out),
        Record::Stats(row) => write_row(row, origin, out),
        Record::Rollup(row) => write_row(row, origin, out),
    }
}

/// Appends one JSON object for a row; see [`write_record`].
pub fn write_row<R: Row>(row: &R, origin: Origin<'_>, out: &mut String) {
    let _ = write!(out, "{{\"table\":\"{}\"", R::TABLE.name());
    if let Some(uid) = uid_of(row, origin.maker) {
        let _ = write!(out, ",\"uid\":\"{uid}\"");
    }
    out.push_str(",\"network\":");
    write_text(origin.network.as_str(), out);
    for (position, column) in R::COLUMNS.iter().enumerate() {
        if matches!(column.name, "shard" | "sequence" | "network") {
            continue;
        }
        let value = row.value(position);
        if value != Value::Null {
            let _ = write!(out, ",\"{}\":", column.name);
            write_value(&value, out);
        }
    }
    out.push('}');
}

/// The uid of the flow that the row belongs to, if it has a sequence.
pub fn uid_of<R: Row>(row: &R, maker: FlowUid) -> Option<FlowUid> {
    let mut uid = FlowUid { shard: 0, sequence: u64::MAX, ..maker };
    for (position, column) in R::COLUMNS.iter().enumerate() {
        match (column.name, row.value(position)) {
            ("shard", Value::Unsigned(shard)) => uid.shard = u8::try_from(shard).unwrap_or_default(),
            ("sequence", Value::Unsigned(sequence)) => uid.sequence = sequence,
            _ => {}
        }
    }
    (uid.sequence != u64::MAX).then_some(uid)
}

/// Appends a value in its JSON form.
pub fn write_value(value: &Value<'_>, out: &mut String) {
    let _ = match value {
        Value::Null => write!(out, "null"),
        Value::Unsigned(number) => write!(out, "{number}"),
        Value::Time(time) => write!(out, "{time}"),
        Value::Flag(flag) => write!(out, "{flag}"),
        Value::Text(text) => return write_text(text, out),
        Value::Address(address) => write!(out, "\"{address}\""),
        Value::Mac(mac) => write!(out, "\"{mac}\""),
        Value::Proto(proto) => write!(out, "\"{}\"", proto.name()),
        Value::Texts(texts) => return write_list(texts.iter(), |text, out| write_text(text, out), out),
        Value::Unsigneds(numbers) => {
            return write_list(
                numbers.iter(),
                |number, out| {
                    let _ = write!(out, "{number}");
                },
                out,
            );
        }
    };
}

fn write_list<T>(items: impl Iterator<Item = T>, mut each: impl FnMut(T, &mut String), out: &mut String) {
    out.push('[');
    for (position, item) in items.enumerate() {
        if position > 0 {
            out.push(',');
        }
        each(item, out);
    }
    out.push(']');
}

/// Appends a JSON string.
pub fn write_text(text: &str, out: &mut String) {
    match serde_json::to_string(text) {
        Ok(quoted) => out.push_str(&quoted),
        Err(_) => out.push_str("\"\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::DnsRow;
    use crate::{BootId, SensorId, Time};

    #[test]
    fn a_row_reads_back_as_json_with_hostile_text_quoted() {
        let row = DnsRow {
            ts: Time(1_500_000_000_000_001_000),
            query: Some("a\"</script>\u{1}".to_owned()),
            ttls: vec![1, 2],
            ..DnsRow::default()
        };
        let maker = FlowUid { sensor: SensorId(1), boot: BootId(2), ..FlowUid::default() };
        let mut out = String::new();
        write_row(&row, Origin { maker, network: &NetworkPath::new("default", &[]) }, &mut out);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["query"], "a\"</script>\u{1}");
        assert_eq!(value["TTLs"], serde_json::json!([1, 2]));
        assert!(out.contains("\"ts\":1500000000.000001"), "{out}");
        assert!(value.get("rtt").is_none());
    }
}
