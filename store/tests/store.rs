//! What the store promises, one sentence a test.
#![expect(clippy::unwrap_used, reason = "tests stop at what they did not expect")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use support::{SECOND, START, all, arrival, batch, flow, open, request, runtime, uid, uids};
use thymus_record::batch::{decode, encode, identity};
use thymus_record::table::{
    CertRow, ConnState, DnsRow, FlowKind, FlowRow, HostRow, HttpRow, RollupRow, StatsRow, TlsRow, WeirdRow,
};
use thymus_record::{Address, BootId, FlowUid, Mac, NetworkPath, Record, Scope, SensorId, Table, Time};
use thymus_store::{Embedded, Ingested, QueryError, Request, StoreError, StoreEvent, StoreOptions};

fn flows(from: u64, count: u64) -> Vec<Record> {
    (from..from + count).map(|n| flow(n, START + n * SECOND, (n % 200) as u8).into()).collect()
}

#[test]
fn a_fork_is_kept_beside_the_first_reported_and_known_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (first, forked) = (batch(1, 9, 0, &["default"], &flows(1, 1)), batch(1, 9, 0, &["default"], &flows(2, 1)));
    assert_eq!(store.ingest(&first, arrival(1, 1)).unwrap(), Ingested::New);
    assert_eq!(store.ingest(&forked, arrival(1, 2)).unwrap(), Ingested::Fork);
    assert_eq!(store.ingest(&forked, arrival(1, 3)).unwrap(), Ingested::SeenBefore);
    assert!(matches!(store.take_events()[..], [StoreEvent::Fork { sensor: SensorId(1), boot: BootId(9), .. }]));
    let before = uids(&all(&store, request(Table::Flow, None, 10)));
    assert_eq!(before.len(), 2);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.ingest(&forked, arrival(1, 3)).unwrap(), Ingested::SeenBefore);
    assert_eq!(uids(&all(&store, request(Table::Flow, None, 10))), before);
}

#[test]
fn a_batch_that_a_relay_marks_otherwise_when_it_comes_again_is_the_same_batch() {
    let dir = tempfile::tempdir().unwrap();
    let made = batch(1, 9, 0, &["default"], &flows(1, 2));
    let marked = |unverified| {
        let mut marked = decode(&made).unwrap();
        marked.head.first_crc = Some(identity(&marked.head, &made));
        for record in &mut marked.records {
            let Record::Flow(row) = record else { panic!("{record:?}") };
            row.unverified = unverified;
        }
        encode(&marked.head, &marked.records)
    };
    let store = open(dir.path());
    assert_eq!(store.ingest(&marked(1), arrival(1, 1)).unwrap(), Ingested::New);
    assert_eq!(store.ingest(&made, arrival(1, 2)).unwrap(), Ingested::SeenBefore);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.ingest(&marked(2), arrival(1, 3)).unwrap(), Ingested::SeenBefore);
    assert_eq!(all(&store, request(Table::Flow, None, 10))[0]["unverified_frames"], 1, "as it came first");
}

#[test]
fn frames_that_may_be_forged_add_up_over_the_rows_of_a_flow() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let row = |ordinal, unverified| FlowRow { ordinal, unverified, frames: 5, ..flow(1, START, 1) }.into();
    store.ingest(&batch(1, 1, 0, &["default"], &[row(0, 5), row(1, 0), row(2, 3)]), arrival(1, 1)).unwrap();
    for step in 0..2 {
        let items = all(&store, request(Table::Flow, None, 10));
        assert_eq!((&items[0]["frames"], &items[0]["unverified_frames"]), (&15.into(), &8.into()), "step {step}");
        store.flush().unwrap();
    }
}

#[test]
fn rows_outside_the_scope_are_invisible_in_lists_by_uid_and_in_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rows: Vec<Record> = (0..10u32)
        .map(|n| FlowRow { network: n % 2, ..flow(u64::from(n), START + u64::from(n) * SECOND, 1) }.into())
        .collect();
    store.ingest(&batch(1, 1, 0, &["blue/vlan:1", "green"], &rows), arrival(1, 1)).unwrap();
    for flushed in [false, true] {
        if flushed {
            store.flush().unwrap();
        }
        let blue = Scope::Within(vec![NetworkPath::from_text("blue")]);
        let seen = all(&store, Request { scope: blue.clone(), ..request(Table::Flow, None, 3) });
        assert_eq!(seen.len(), 5);
        assert!(seen.iter().all(|item| item["network"] == "blue/vlan:1"));
        let green = FlowUid { sensor: SensorId(1), boot: BootId(1), shard: 0, sequence: 1 };
        assert!(runtime().block_on(store.flow(green, &blue)).unwrap().is_none());
        assert!(runtime().block_on(store.flow(green, &Scope::All)).unwrap().is_some());
        let q = format!("uid:{green}");
        assert!(all(&store, Request { scope: blue.clone(), ..request(Table::Flow, Some(&q), 3) }).is_empty());
        let none = Scope::Within(Vec::new());
        assert!(all(&store, Request { scope: none, ..request(Table::Flow, None, 3) }).is_empty());
        let network = NetworkPath::from_text("green");
        let endpoint = (&network, Address::from_v4([10, 0, 0, 1]));
        let span = (Time(START), Time(START + 100 * SECOND));
        let sum = |scope| {
            let buckets = runtime().block_on(store.flow_volume(scope, endpoint, span, 4)).unwrap();
            buckets.iter().map(|bucket| bucket.out_bytes).sum::<u64>()
        };
        assert_eq!((sum(&blue), sum(&Scope::All)), (0, 500));
        let peers = runtime().block_on(store.top_peers(&Scope::All, endpoint, None, None, 5)).unwrap();
        assert_eq!((peers.len(), peers[0].bytes, peers[0].flows, peers[0].ports.as_slice()), (1, 5500, 5, &[443][..]));
    }
}

#[test]
fn a_cursor_stays_valid_while_data_arrives_and_files_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.ingest(&batch(1, 1, 0, &["default"], &flows(0, 100)), arrival(1, 1)).unwrap();
    let wanted: Vec<String> = (0..100).rev().map(|n| uid(1, 1, n)).collect();
    let (runtime, mut request, mut seen) = (runtime(), request(Table::Flow, None, 9), Vec::new());
    for round in 1.. {
        let page = runtime.block_on(store.query(&request)).unwrap();
        seen.extend(page.items.iter().map(|item| serde_json::from_str::<serde_json::Value>(item.get()).unwrap()));
        store.ingest(&batch(1, 1, round, &["default"], &flows(1000 * round, 5)), arrival(1, 1)).unwrap();
        store.flush().unwrap();
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    assert_eq!(uids(&seen), wanted);
}

#[test]
fn two_sensors_that_see_one_flow_give_one_conversation_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let seen = flow(7, START, 1);
    let turned = FlowRow {
        ts: Time(START + SECOND / 10),
        sequence: 70,
        orig_h: seen.resp_h,
        orig_p: seen.resp_p,
        resp_h: seen.orig_h,
        resp_p: seen.orig_p,
        conn_state: ConnState::S0,
        ..seen.clone()
    };
    let name = DnsRow { ts: Time(START), sequence: 8, query: Some("a.example".into()), ..DnsRow::default() };
    store.ingest(&batch(1, 1, 0, &["default"], &[seen.into(), name.clone().into()]), arrival(1, 1)).unwrap();
    store.ingest(&batch(2, 5, 0, &["default"], &[turned.into(), name.into()]), arrival(2, 2)).unwrap();
    for step in 0..3 {
        let items = all(&store, request(Table::Flow, Some("id.orig_h:10.0.0.1"), 10));
        assert_eq!(uids(&items), [uid(1, 1, 7)], "step {step}");
        assert_eq!((&items[0]["orig_pkts"], &items[0]["sensor"]), (&1.into(), &"sensor-1".into()));
        assert_eq!(items[0]["also_seen_by"], serde_json::json!(["sensor-2"]));
        for of_other in ["conn_state:S0", "id.orig_h:192.0.2.1"] {
            assert!(all(&store, request(Table::Flow, Some(of_other), 10)).is_empty(), "{of_other}");
        }
        let by_other = FlowUid { sensor: SensorId(2), boot: BootId(5), shard: 0, sequence: 70 };
        let detail = runtime().block_on(store.flow(by_other, &Scope::All)).unwrap().unwrap();
        assert_eq!((detail.uid.to_string(), detail.sensors.len()), (uid(1, 1, 7), 2));
        assert_eq!(all(&store, request(Table::Dns, Some("query:*.example"), 10)).len(), 1);
        let network = NetworkPath::from_text("default");
        let endpoint = (&network, Address::from_v4([10, 0, 0, 1]));
        let peers = runtime().block_on(store.top_peers(&Scope::All, endpoint, None, None, 5)).unwrap();
        assert_eq!((peers[0].bytes, peers[0].flows), (1100, 1));
        store.flush().unwrap();
    }
}

#[test]
fn an_open_flow_appears_with_its_first_row_and_prints_nothing_for_what_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let start =
        FlowRow { kind: FlowKind::Start, until: Time(START), orig_bytes: None, ..flow(1, START + 123_456_789, 1) };
    let start = FlowRow { until: start.ts, ..start };
    store.ingest(&batch(1, 1, 0, &["default"], &[start.into()]), arrival(1, 1)).unwrap();
    let page = runtime().block_on(store.query(&request(Table::Flow, None, 1))).unwrap();
    let text = page.items[0].get();
    assert!(text.starts_with("{\"ts\":1700000000.123456,"), "{text}");
    for null in ["duration", "orig_bytes", "resp_bytes", "history", "service", "tunnel"] {
        assert!(text.contains(&format!("\"{null}\":null")), "{null} in {text}");
    }
}

#[test]
fn the_disk_budget_holds_and_the_oldest_arrivals_go_first_and_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { bytes_max: 400_000, memory_rows_max: 500, ..StoreOptions::default() };
    let store = Embedded::open(dir.path(), options).unwrap();
    for sequence in 0..120 {
        // Early arrivals carry the latest packets: a replayed capture is not late.
        let hour = (120 - sequence) * 3600 * SECOND;
        let rows: Vec<Record> =
            (0..300).map(|n| flow(sequence * 300 + n, START + hour + n, (n % 200) as u8).into()).collect();
        store.ingest(&batch(1, 1, sequence, &["default"], &rows), arrival(1, sequence)).unwrap();
        if sequence % 10 == 9 {
            store.flush().unwrap();
            assert!(store.counts().bytes <= 400_000, "{:?}", store.counts());
        }
    }
    let counts = store.counts();
    assert!(counts.rows_retired > 0 && counts.file_rows > 0, "{counts:?}");
    assert_eq!(counts.rows_retired + counts.file_rows + counts.memory_rows, 120 * 300);
    assert!(store.take_events().iter().any(|event| matches!(event, StoreEvent::Retired { .. })));
    let q = format!("uid:{}", uid(1, 1, 119 * 300));
    let last = all(&store, request(Table::Flow, Some(&q), 1));
    assert_eq!(last.len(), 1, "the newest arrival is kept although its packets are the oldest");
    let on_disk: u64 =
        std::fs::read_dir(dir.path().join("tables")).unwrap().map(|it| it.unwrap().metadata().unwrap().len()).sum();
    assert!(on_disk <= 400_000);
}

#[test]
fn rows_of_every_table_are_listed_once_newest_first_across_pages_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for sequence in 0..4 {
        let rows = (0..5u32).flat_map(|n| {
            let ordinal = u32::try_from(sequence).unwrap() * 5 + n;
            let ts = Time(START + u64::from(ordinal / 3) * SECOND);
            let address = Address::from_v4([10, 0, 0, 1]);
            [
                DnsRow {
                    ts,
                    ordinal,
                    orig_h: address,
                    answers: vec!["192.0.2.7".into()],
                    ttls: vec![60],
                    ..DnsRow::default()
                }
                .into(),
                TlsRow { ts, ordinal, orig_p: 1, orig_h: address, ..TlsRow::default() }.into(),
                HttpRow { ts, ordinal, orig_p: 2, orig_h: address, ..HttpRow::default() }.into(),
                CertRow { ts, ordinal, ..CertRow::default() }.into(),
                HostRow { ts, ordinal, address, mac: Some(Mac([2; 6])), ..HostRow::default() }.into(),
                WeirdRow { ts, ordinal, orig_h: Some(address), ..WeirdRow::default() }.into(),
                StatsRow { ts, ordinal, ..StatsRow::default() }.into(),
                RollupRow { ts, ordinal, orig_h: address, ..RollupRow::default() }.into(),
            ]
        });
        let rows: Vec<Record> = rows.collect();
        store.ingest(&batch(1, 1, sequence, &["default"], &rows), arrival(1, 1)).unwrap();
        if sequence == 1 {
            store.flush().unwrap();
        }
    }
    for table in Table::ALL.into_iter().filter(|&table| table != Table::Flow) {
        let items = all(&store, request(table, None, 3));
        assert_eq!(items.len(), 20, "{table:?}");
        let times: Vec<f64> = items.iter().map(|item| item["ts"].as_f64().unwrap()).collect();
        assert!(times.is_sorted_by(|a, b| a >= b), "{table:?} {times:?}");
    }
    assert_eq!(all(&store, request(Table::Dns, Some("answers:192.0.2.* TTLs:60 10.0.0.1"), 7)).len(), 20);
    assert_eq!(all(&store, request(Table::Host, Some("mac:02:02:02:02:02:02 ip:10.0.0.0/24"), 7)).len(), 20);
}

#[test]
fn a_foreign_or_busy_folder_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter.txt"), "mine").unwrap();
    let error = Embedded::open(dir.path(), StoreOptions::default()).err().unwrap();
    assert!(matches!(&error, StoreError::Foreign(..)) && error.to_string().contains("letter.txt"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    assert!(matches!(Embedded::open(dir.path(), StoreOptions::default()), Err(StoreError::InUse(_))));
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::write(
        dir.path().join("manifest.json"),
        "{\"store\":\"thymus\",\"format\":99,\"flushed\":0,\"next_file\":0,\"files\":[],\"known\":{\"sensors\":{}}}",
    )
    .unwrap();
    let error = Embedded::open(dir.path(), StoreOptions::default()).err().unwrap().to_string();
    assert!(error.contains("format 99"), "{error}");
}

#[test]
fn a_bad_query_or_cursor_says_where_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ask = |request: Request| match runtime().block_on(store.query(&request)) {
        Err(QueryError::Bad(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(ask(request(Table::Flow, Some("proto:tcp nosuch:1"), 5)).contains("character 11"));
    assert!(ask(request(Table::Flow, Some("orig_bytes:many"), 5)).contains("not a number"));
    assert!(ask(Request { cursor: Some("junk".into()), ..request(Table::Flow, None, 5) }).contains("cursor"));
}

#[test]
fn replay_and_subscription_give_the_same_batches_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut live = store.subscribe();
    for sequence in 0..5 {
        store.ingest(&batch(1, 1, sequence, &["default"], &flows(sequence * 10, 10)), arrival(1, sequence)).unwrap();
    }
    store.flush().unwrap();
    let mut replayed = Vec::new();
    let end = store.replay(0, |batch| replayed.push((batch.position, batch.batch, batch.marks))).unwrap();
    let heard: Vec<_> =
        std::iter::from_fn(|| live.try_recv().ok()).map(|b| (b.position, b.batch.clone(), b.marks.clone())).collect();
    assert_eq!((replayed.len(), &replayed), (5, &heard));
    let mut rest = 0;
    store.replay(replayed[3].0, |_| rest += 1).unwrap();
    assert_eq!(rest, 2);
    assert_eq!(store.replay(end, |_| panic!("nothing is left")).unwrap(), end);
}

/// Runs in a process of its own for the test below: acknowledges what is synced, until it is killed.
#[test]
#[ignore = "a part of the test below, run by it"]
fn acknowledge_until_killed() {
    let dir = std::env::var("STORE_DIR").unwrap();
    let options = StoreOptions { memory_rows_max: 400, ..StoreOptions::default() };
    let store = Embedded::open(dir.as_ref(), options).unwrap();
    let first =
        store.held(SensorId(1)).first().and_then(|held| held.ranges.last().copied()).map_or(0, |range| range.1 + 1);
    for sequence in first.. {
        store.ingest(&batch(1, 1, sequence, &["default"], &flows(sequence * 20, 20)), arrival(1, sequence)).unwrap();
        store.sync().unwrap();
        println!("\nacknowledged {sequence}");
    }
}

#[test]
fn a_kill_at_any_moment_loses_no_acknowledged_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for kill in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "acknowledge_until_killed", "--nocapture"])
            .env("STORE_DIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acknowledged = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
        last = acknowledged.by_ref().find(|&sequence| sequence >= last + 37 * kill).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        last = acknowledged.last().unwrap_or(last);
        let store = open(dir.path());
        let held = store.held(SensorId(1));
        assert!(held.len() == 1 && held[0].ranges.len() == 1 && held[0].ranges[0].1 >= last, "{held:?} {last}");
        let found = all(&store, request(Table::Flow, None, 1000));
        assert_eq!(found.len() as u64, (held[0].ranges[0].1 + 1) * 20);
    }
}

/// A small file system of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "thymus-test"]).arg(dir.path()).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("skipped: a small disk needs the right to mount");
            return None;
        }
        Some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_in_words_reading_goes_on_and_nothing_stored_is_lost() {
    let Some(disk) = SmallDisk::mount("600k") else { return };
    let options = StoreOptions { memory_rows_max: 2000, ..StoreOptions::default() };
    let store = Embedded::open(disk.0.path(), options).unwrap();
    let mut stored = 0;
    let error = loop {
        let bytes = batch(1, 1, stored, &["default"], &flows(stored * 100, 100));
        match store.ingest(&bytes, arrival(1, stored)) {
            Ok(Ingested::New) => stored += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
        assert!(stored < 10_000, "the disk never filled");
    };
    assert!(error.to_string().contains("is full"), "{error}");
    for _ in 0..3 {
        assert!(store.flush().is_err());
    }
    // The keeper may be at it just now.
    let left = || std::fs::read_dir(disk.0.path().join("tables")).unwrap().count() as u64 != store.counts().files;
    let tries =
        (0..200).take_while(|_| left()).map(|_| std::thread::sleep(std::time::Duration::from_millis(10))).count();
    assert!(tries < 200, "a flush that failed leaves nothing behind");
    assert_eq!(all(&store, request(Table::Flow, None, 1000)).len() as u64, stored * 100);
    drop(store);
    let mount = Command::new("mount").args(["-o", "remount,size=50m"]).arg(disk.0.path()).status().unwrap();
    assert!(mount.success());
    let store = Embedded::open(disk.0.path(), options).unwrap();
    assert_eq!(store.held(SensorId(1))[0].ranges, [(0, stored - 1)]);
    assert_eq!(all(&store, request(Table::Flow, None, 1000)).len() as u64, stored * 100);
    let bytes = batch(1, 1, stored, &["default"], &flows(stored * 100, 100));
    assert_eq!(store.ingest(&bytes, arrival(1, stored)).unwrap(), Ingested::New);
    store.flush().unwrap();
    assert_eq!(all(&store, request(Table::Flow, None, 1000)).len() as u64, (stored + 1) * 100);
}
