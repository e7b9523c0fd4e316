//! Zeek's logs (docs.zeek.org, "Zeek log formats"): tab-separated, `#fields` and `#types` heads, `-` for unset,
//! `(empty)` for empty, `\xHH` for bytes that would break a line. A log is made when it gets its first row.

use super::{Folds, Writer, maker};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use thymus_dissect::flow::NetworkTable;
use thymus_record::json::uid_of;
use thymus_record::table::FlowRow;
use thymus_record::{Record, Row, Value};

/// A log: its name, and its columns as Zeek's name, Zeek's type, and our column.
struct Spec {
    path: &'static str,
    columns: &'static [(&'static str, &'static str)],
}

const ID: [(&str, &str); 6] = [
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
];

const CONN: Spec = Spec {
    path: "conn",
    columns: &[
        ID[0],
        ID[1],
        ID[2],
        ID[3],
        ID[4],
        ID[5],
        ("proto", "enum"),
        ("service", "string"),
        ("duration", "interval"),
        ("orig_bytes", "count"),
        ("resp_bytes", "count"),
        ("conn_state", "string"),
        ("missed_bytes", "count"),
        ("history", "string"),
        ("orig_pkts", "count"),
        ("orig_ip_bytes", "count"),
        ("resp_pkts", "count"),
        ("resp_ip_bytes", "count"),
        ("network", "string"),
        ("tunnel", "string"),
    ],
};

const DNS: Spec = Spec {
    path: "dns",
    columns: &[
        ID[0],
        ID[1],
        ID[2],
        ID[3],
        ID[4],
        ID[5],
        ("proto", "enum"),
        ("trans_id", "count"),
        ("rtt", "interval"),
        ("query", "string"),
        ("qclass", "count"),
        ("qtype", "count"),
        ("qtype_name", "string"),
        ("rcode", "count"),
        ("rcode_name", "string"),
        ("AA", "bool"),
        ("TC", "bool"),
        ("RD", "bool"),
        ("RA", "bool"),
        ("Z", "count"),
        ("answers", "vector[string]"),
        ("TTLs", "vector[interval]"),
        ("rejected", "bool"),
    ],
};

const SSL: Spec = Spec {
    path: "ssl",
    columns: &[
        ID[0],
        ID[1],
        ID[2],
        ID[3],
        ID[4],
        ID[5],
        ("version", "string"),
        ("cipher", "string"),
        ("curve", "string"),
        ("server_name", "string"),
        ("resumed", "bool"),
        ("last_alert", "string"),
        ("next_protocol", "string"),
        ("established", "bool"),
        ("ssl_history", "string"),
        ("cert_chain_fps", "vector[string]"),
        ("client_cert_chain_fps", "vector[string]"),
        ("ja3", "string"),
        ("ja3s", "string"),
        ("ja4", "string"),
        ("client_alpn", "vector[string]"),
    ],
};

const HTTP: Spec = Spec {
    path: "http",
    columns: &[
        ID[0],
        ID[1],
        ID[2],
        ID[3],
        ID[4],
        ID[5],
        ("trans_depth", "count"),
        ("method", "string"),
        ("host", "string"),
        ("uri", "string"),
        ("referrer", "string"),
        ("version", "string"),
        ("user_agent", "string"),
        ("request_body_len", "count"),
        ("response_body_len", "count"),
        ("status_code", "count"),
        ("status_msg", "string"),
        ("info_code", "count"),
        ("info_msg", "string"),
        ("username", "string"),
        ("orig_mime_type", "string"),
        ("resp_mime_type", "string"),
    ],
};

const X509: Spec = Spec {
    path: "x509",
    columns: &[
        ID[0],
        ("fingerprint", "string"),
        ("certificate.version", "count"),
        ("certificate.serial", "string"),
        ("certificate.subject", "string"),
        ("certificate.issuer", "string"),
        ("certificate.not_valid_before", "time"),
        ("certificate.not_valid_after", "time"),
        ("certificate.key_alg", "string"),
        ("certificate.sig_alg", "string"),
        ("san", "vector[string]"),
        ("basic_constraints.ca", "bool"),
    ],
};

const WEIRD: Spec = Spec {
    path: "weird",
    columns: &[ID[0], ("id.orig_h", "addr"), ("id.resp_h", "addr"), ("name", "string"), ("count", "count")],
};

const KNOWN_HOSTS: Spec = Spec {
    path: "hosts",
    columns: &[
        ID[0],
        ("network", "string"),
        ("address", "addr"),
        ("mac", "string"),
        ("name", "string"),
        ("source", "string"),
    ],
};

/// The logs of one folder.
pub(super) struct Logs {
    dir: PathBuf,
    open: BTreeMap<&'static str, BufWriter<File>>,
    flows: Folds,
    line: String,
}

impl Logs {
    /// Logs in this folder, which is made if it is not there.
    pub(super) fn open(dir: &Path) -> io::Result<Logs> {
        std::fs::create_dir_all(dir)?;
        Ok(Logs { dir: dir.to_owned(), open: BTreeMap::new(), flows: Folds::default(), line: String::new() })
    }

    fn put<R: Row>(&mut self, spec: &Spec, row: &R, network: &str, duration: Option<Value<'_>>) -> io::Result<()> {
        self.line.clear();
        for (name, kind) in spec.columns {
            let value = match *name {
                "uid" => {
                    let uid = uid_of(row, maker()).map_or_else(|| "-".to_owned(), |uid| uid.to_string());
                    self.line.push_str(&uid);
                    self.line.push('\t');
                    continue;
                }
                "network" => Value::Text(network.into()),
                "duration" => duration.clone().unwrap_or(Value::Null),
                column => {
                    let position = R::COLUMNS.iter().position(|each| each.name == column);
                    position.map_or(Value::Null, |position| row.value(position))
                }
            };
            write_value(&value, kind, &mut self.line);
            self.line.push('\t');
        }
        self.line.pop();
        self.line.push('\n');
        if !self.open.contains_key(spec.path) {
            let mut file = BufWriter::new(File::create(self.dir.join(spec.path).with_extension("log"))?);
            file.write_all(head(spec).as_bytes())?;
            self.open.insert(spec.path, file);
        }
        match self.open.get_mut(spec.path) {
            Some(file) => file.write_all(self.line.as_bytes()),
            None => Ok(()),
        }
    }

    fn flow(&mut self, row: &FlowRow, network: &str) -> io::Result<()> {
        let Some(mut flow) = self.flows.add(row) else { return Ok(()) };
        let duration = flow.duration().map(Value::Time);
        if duration.is_none() {
            (flow.orig_bytes, flow.resp_bytes) = (None, None);
        }
        self.put(&CONN, &flow, network, duration)
    }
}

impl Writer for Logs {
    fn write(&mut self, record: &Record, networks: &NetworkTable) -> io::Result<()> {
        let path = networks.path(record.network());
        let network = path.as_str();
        match record {
            Record::Flow(row) => self.flow(row, network),
            Record::Dns(row) => self.put(&DNS, row, network, None),
            Record::Tls(row) => self.put(&SSL, row, network, None),
            Record::Http(row) => self.put(&HTTP, row, network, None),
            Record::Cert(row) => self.put(&X509, row, network, None),
            Record::Weird(row) => self.put(&WEIRD, row, network, None),
            Record::Host(row) => self.put(&KNOWN_HOSTS, row, network, None),
            Record::Stats(_) | Record::Rollup(_) => Ok(()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        // A folder without any connection still says so.
        if !self.open.contains_key(CONN.path) {
            std::fs::write(self.dir.join("conn.log"), head(&CONN))?;
        }
        self.open.values_mut().try_for_each(Write::flush)
    }
}

fn head(spec: &Spec) -> String {
    let names: Vec<&str> = spec.columns.iter().map(|column| column.0).collect();
    let kinds: Vec<&str> = spec.columns.iter().map(|column| column.1).collect();
    format!(
        "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\t{}\n#fields\t{}\n#types\t{}\n",
        spec.path,
        names.join("\t"),
        kinds.join("\t")
    )
}

fn write_value(value: &Value<'_>, kind: &str, out: &mut String) {
    let _ = match value {
        Value::Null => write!(out, "-"),
        Value::Unsigned(number) => write!(out, "{number}"),
        Value::Time(time) => write!(out, "{time}"),
        Value::Flag(flag) => write!(out, "{}", if *flag { 'T' } else { 'F' }),
        Value::Text(text) if text.is_empty() && kind != "enum" => write!(out, "-"),
        Value::Text(text) => return escape(text, false, out),
        Value::Address(address) => write!(out, "{address}"),
        Value::Mac(mac) => write!(out, "{mac}"),
        Value::Proto(proto) => write!(out, "{}", proto.name()),
        Value::Texts(texts) if texts.is_empty() => write!(out, "-"),
        Value::Texts(texts) => {
            for (at, text) in texts.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                escape(text, true, out);
            }
            return;
        }
        Value::Unsigneds(numbers) if numbers.is_empty() => write!(out, "-"),
        Value::Unsigneds(numbers) => {
            for (at, number) in numbers.iter().enumerate() {
                let _ = write!(out, "{}{number}.000000", if at > 0 { "," } else { "" });
            }
            return;
        }
    };
}

/// Text of a field; in a list the comma is escaped too.
fn escape(text: &str, in_list: bool, out: &mut String) {
    if text == "-" || text == "(empty)" {
        let _ = write!(out, "\\x{:02x}", text.bytes().next().unwrap_or_default());
        out.push_str(text.get(1..).unwrap_or_default());
        return;
    }
    for letter in text.chars() {
        if letter.is_control() || (in_list && letter == ',') {
            let mut bytes = [0; 4];
            for byte in letter.encode_utf8(&mut bytes).bytes() {
                let _ = write!(out, "\\x{byte:02x}");
            }
        } else {
            out.push(letter);
        }
    }
}
