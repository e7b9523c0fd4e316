//! `thymus-sensor read` from outside: what other readers find in real captures, the same bytes twice, and damaged files.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn read(arguments: &[&str], file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thymus-sensor")).arg("read").args(arguments).arg(file).output().unwrap()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/lab.pcap")
}

fn rows(file: &Path) -> Vec<Value> {
    let out = read(&["--out", "jsonl"], file);
    assert!(out.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&out.stderr));
    out.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Values of a field, each as often as it comes.
type Values = BTreeMap<String, u32>;

fn values(rows: &[Value], table: &str, field: &str) -> Values {
    let mut values = Values::new();
    for row in rows.iter().filter(|row| row["table"] == table) {
        match &row[field] {
            Value::String(text) => *values.entry(text.clone()).or_default() += 1,
            Value::Number(number) => *values.entry(number.to_string()).or_default() += 1,
            _ => {}
        }
    }
    values
}

/// What tshark wrote beside a capture: a column's values, of all layers.
fn told(folder: &Path, column: &str) -> Values {
    let text = String::from_utf8_lossy(&std::fs::read(folder.join("tshark.tsv")).unwrap()).into_owned();
    let mut lines = text.lines();
    let at = lines.next().unwrap().split('\t').position(|name| name == column).unwrap();
    let mut values = Values::new();
    let cells = lines.filter_map(|line| line.split('\t').nth(at)).flat_map(|cell| cell.split('|'));
    cells.filter(|value| !value.is_empty()).for_each(|value| *values.entry(value.to_owned()).or_default() += 1);
    values
}

/// Captures beside the checkout whose fields tshark tells and we do not, and why. Each must still differ.
const KNOWN: &[(&str, &str, &str)] = &[
    ("zeek__communityid__icmp6.pcap", "query", "quoted in an ICMP error"),
    ("zeek__icmp__icmp-destunreach-udp.pcap", "query", "quoted in an ICMP error"),
    ("zeek__communityid__tcp.pcap", "uri", "the connection's first bytes are missing"),
    ("zeek__communityid__tcp.pcap", "status_code", "the connection's first bytes are missing"),
    ("zeek__http__100-continue.pcap", "status_code", "an interim answer; the row has the final one"),
    ("zeek__http__connect-with-smtp.pcap", "uri", "the request's target as it was sent, with its stray slash"),
    ("ja4__tls-handshake.pcapng", "ja3", "QUIC, and second hellos after a retry"),
    ("zeek__ftp__ftp-auth-tls.pcap", "ja3", "behind AUTH TLS"),
    ("zeek__ldap__ldap-starttls.pcap", "ja3", "behind STARTTLS"),
    ("zeek__tls__smtp-starttls.pcap", "ja3", "behind STARTTLS"),
    ("zeek__quic__chromium-115.0.5790.110-api-cirrus-com.pcap", "ja3", "QUIC"),
    ("zeek__quic__quic-decrypt-fail-google-de-51833.pcap", "ja3", "QUIC"),
    ("zeek__quic__quic-multiple-initial-fragmented-crypto.pcap", "ja3", "QUIC"),
    ("zeek__quic__quicv2-http3-443.pcap", "ja3", "QUIC"),
];

/// True if everything that tshark tells is told by us, names of queries once each.
fn covers(ours: &Values, theirs: &Values, field: &str) -> bool {
    if field == "query" {
        let theirs: BTreeSet<String> = theirs.keys().map(|name| name.to_lowercase()).collect();
        return theirs.iter().all(|name| ours.contains_key(name));
    }
    theirs.iter().all(|(value, count)| ours.get(value).is_some_and(|found| found >= count))
}

#[test]
fn names_uris_answers_and_fingerprints_are_those_that_tshark_finds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traffic/protocols");
    let corpus = std::env::var_os("THYMUS_TRAFFIC").map_or(corpus, PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&corpus) else {
        eprintln!("skipped: {} is not here", corpus.display());
        return;
    };
    let fields = [
        ("dns", "query", "dns.qry.name"),
        ("http", "uri", "http.request.uri"),
        ("http", "status_code", "http.response.code"),
        ("tls", "ja3", "tls.handshake.ja3"),
    ];
    let (mut differ, mut compared) = (BTreeSet::new(), 0);
    for folder in entries.flatten().map(|entry| entry.path()).filter(|path| path.join("tshark.tsv").exists()) {
        let file = ["input.pcap", "input.pcapng"].map(|name| folder.join(name)).into_iter().find(|file| file.exists());
        let Some(file) = file else { continue };
        let out = read(&["--out", "jsonl"], &file);
        let lines = out.stdout.split(|byte| *byte == b'\n');
        let rows: Vec<Value> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        for (table, field, column) in fields {
            let theirs = told(&folder, column);
            compared += theirs.len();
            if !covers(&values(&rows, table, field), &theirs, field) {
                differ.insert((folder.file_name().unwrap().to_string_lossy().into_owned(), field));
            }
        }
    }
    let known = KNOWN.iter().map(|(folder, field, _)| ((*folder).to_owned(), *field)).collect();
    assert_eq!(differ, known);
    assert!(compared > 200, "{compared}");
}

#[test]
fn the_same_file_gives_the_same_bytes_twice() {
    let [once, again] = [(); 2].map(|()| read(&["--out", "jsonl"], &golden()).stdout);
    assert!(once.len() > 1_000);
    assert!(once == again);
    let logs = || {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&["--out", "zeek", "--dir", dir.path().to_str().unwrap()], &golden()).status.success());
        let mut names: Vec<PathBuf> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.path()).collect();
        names.sort();
        names
            .iter()
            .map(|name| (name.file_name().unwrap().to_owned(), std::fs::read(name).unwrap()))
            .collect::<Vec<_>>()
    };
    let (once, again) = (logs(), logs());
    assert!(once.iter().any(|(name, _)| name == "conn.log"));
    assert!(once == again);
}

#[test]
fn both_forms_tell_the_same_connections() {
    let dir = tempfile::tempdir().unwrap();
    assert!(read(&["--out", "zeek", "--dir", dir.path().to_str().unwrap()], &golden()).status.success());
    let log = std::fs::read_to_string(dir.path().join("conn.log")).unwrap();
    let names: Vec<&str> = log.lines().find_map(|line| line.strip_prefix("#fields\t")).unwrap().split('\t').collect();
    let (uid, state) = ["uid", "conn_state"].map(|name| names.iter().position(|each| *each == name).unwrap()).into();
    let mut lines: BTreeSet<(String, String)> = BTreeSet::new();
    for line in log.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        assert_eq!(cells.len(), names.len(), "{line}");
        lines.insert((cells[uid].to_owned(), cells[state].to_owned()));
    }
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let ended = rows(&golden()).into_iter().filter(|row| row["table"] == "flow" && row["kind"] != "interim");
    let told: BTreeSet<(String, String)> = ended.map(|row| (text(&row, "uid"), text(&row, "conn_state"))).collect();
    assert!(lines.len() > 5);
    assert_eq!(lines, told);
}

#[test]
fn damaged_files_are_read_up_to_the_damage_and_fail_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(golden()).unwrap();
    let all = rows(&golden()).len();
    let cut = dir.path().join("cut.pcap");
    std::fs::write(&cut, &whole[..whole.len() / 2 + 7]).unwrap();
    let out = read(&["--out", "jsonl"], &cut);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("damaged at byte"), "{out:?}");
    let lines = out.stdout.split(|byte| *byte == b'\n').count();
    assert!(lines > 1 && lines < all);
    for (name, bytes) in [("empty", &b""[..]), ("text", b"hello, this is no capture at all, not even nearly")] {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let out = read(&["--out", "jsonl"], &file);
        assert_eq!(out.status.code(), Some(1), "{name}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(name), "{out:?}");
    }
    let out = read(&["--out", "jsonl"], &dir.path().join("missing"));
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("cannot be read"), "{out:?}");
    assert_eq!(read(&["--out", "xml"], &golden()).status.code(), Some(2));
}
