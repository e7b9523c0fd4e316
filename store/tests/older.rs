//! Files of an older release lack the columns that came since.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

mod support;

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;
use support::*;
use thymus_record::table::FlowRow;
use thymus_record::{Record, Table};

/// Columns of flows that came after the first release: text that may be missing, and numbers that may not.
const LATER: [&str; 5] = ["agent", "unverified_frames", "orig_user", "resp_user", "cut_bytes"];

/// Writes a file of the store anew as a release without these columns would have written it.
fn grow_old(dir: &Path, path: &Path) {
    let bytes = std::fs::metadata(path).unwrap().len();
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    let schema = batches.first().unwrap().schema();
    let kept: Vec<usize> =
        (0..schema.fields().len()).filter(|at| !LATER.contains(&schema.field(*at).name().as_str())).collect();
    assert_eq!(kept.len() + LATER.len(), schema.fields().len(), "all of {LATER:?} are columns");
    let old: Vec<RecordBatch> = batches.iter().map(|batch| batch.project(&kept).unwrap()).collect();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), old.first().unwrap().schema(), None).unwrap();
    old.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
    let manifest = std::fs::read_to_string(dir.join("manifest.json")).unwrap();
    let (of, to) = (format!("\"bytes\":{bytes},"), format!("\"bytes\":{},", std::fs::metadata(path).unwrap().len()));
    assert_eq!(manifest.matches(&of).count(), 1);
    std::fs::write(dir.join("manifest.json"), manifest.replace(&of, &to)).unwrap();
}

fn tables(dir: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir.join("tables")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn files_of_an_older_release_are_read_searched_and_merged_with_newer_ones() {
    let dir = tempfile::tempdir().unwrap();
    let record = |sequence: u64| -> Vec<Record> {
        let row =
            FlowRow { cut_bytes: 7, unverified: 2, agent: Some(5), ..flow(sequence, START + sequence * SECOND, 3) };
        vec![row.into()]
    };
    {
        let store = open(dir.path());
        store.ingest(&batch(1, 9, 0, &["default"], &record(0)), arrival(1, START)).unwrap();
        store.flush().unwrap();
    }
    let old = tables(dir.path());
    assert_eq!(old.len(), 1);
    old.iter().for_each(|path| grow_old(dir.path(), path));

    let store = open(dir.path());
    assert_eq!(store.verify(), Vec::<String>::new(), "an old file is not a damaged one");
    let found = |q: Option<&str>| uids(&all(&store, request(Table::Flow, q, 10)));
    assert_eq!(found(None), [uid(1, 9, 0)]);
    assert_eq!(found(Some("id.orig_h:10.0.0.3")), [uid(1, 9, 0)]);
    assert!(found(Some("agent:5")).is_empty() && found(Some("user:root")).is_empty(), "it does not say so");
    // Newer files of the same hour come, and all are merged into one.
    for sequence in 1..5 {
        store.ingest(&batch(1, 9, sequence, &["default"], &record(sequence)), arrival(1, START)).unwrap();
        store.flush().unwrap();
    }
    assert!(tables(dir.path()).len() < 5, "they were merged: {:?}", tables(dir.path()));
    assert_eq!(store.verify(), Vec::<String>::new());
    let items = all(&store, request(Table::Flow, None, 10));
    assert_eq!(uids(&items), [4, 3, 2, 1, 0].map(|sequence| uid(1, 9, sequence)));
    let said = |name: &str| items.iter().map(|item| item[name].as_u64().unwrap_or(0)).collect::<Vec<u64>>();
    assert_eq!(said("cut_bytes"), [7, 7, 7, 7, 0]);
    assert_eq!(said("unverified_frames"), [2, 2, 2, 2, 0]);
    assert_eq!(said("agent"), [5, 5, 5, 5, 0]);
    drop(store);
    assert_eq!(uids(&all(&open(dir.path()), request(Table::Flow, Some("agent:5"), 10))).len(), 4);
}
