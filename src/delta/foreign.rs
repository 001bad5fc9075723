//! Commits as another engine makes them, by hand: for tests.

use super::DeltaTable;
use super::data::{read_file, write_files};
use super::restore::described;
use super::tests::{batch, open_as, settings};
use super::vectors;
use crate::store::Location;
use crate::types::{Clock, SystemClock};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::record_batch::RecordBatch;
use object_store::ObjectStoreExt;
use roaring::RoaringTreemap;
use serde_json::json;
use std::sync::Arc;

pub(super) async fn append(location: &Location, rows: &[(i64, i64)]) {
    let table = open_as(location, None, settings()).await.unwrap();
    let batch = batch(0, rows).project(&[0, 1, 2]).unwrap();
    let adds = write(&table, &batch).await;
    commit(&table, adds, "WRITE").await;
}

pub(super) async fn delete(location: &Location, keys: std::ops::Range<i64>) {
    let table = open_as(location, None, settings()).await.unwrap();
    let (lines, _) = masked(&table, keys).await;
    if !lines.is_empty() {
        commit(&table, lines, "DELETE").await;
    }
}

/// Gives the rows of `keys` another value: they are masked, and written anew, in one commit.
pub(super) async fn update(location: &Location, keys: std::ops::Range<i64>, value: i64) {
    let table = open_as(location, None, settings()).await.unwrap();
    let (mut lines, keys) = masked(&table, keys).await;
    if !keys.is_empty() {
        let rows: Vec<(i64, i64)> = keys.into_iter().map(|key| (key, value)).collect();
        lines.extend(write(&table, &batch(0, &rows).project(&[0, 1, 2]).unwrap()).await);
        commit(&table, lines, "UPDATE").await;
    }
}

/// The actions that mask the rows of `keys`, and which of these there were.
async fn masked(table: &DeltaTable, keys: std::ops::Range<i64>) -> (Vec<String>, Vec<i64>) {
    let location = &table.location;
    let (mut lines, mut found) = (Vec::new(), Vec::new());
    for file in table.view().files.iter() {
        let mut masked: RoaringTreemap =
            file.vector.as_ref().map(|(_, rows)| rows.as_ref().clone()).unwrap_or_default();
        let before = masked.len();
        for (batch, rows) in read_file(location, file, &table.shape.file).await.unwrap() {
            let own = batch.column(0).as_primitive::<Int64Type>();
            for (key, row) in own.values().iter().zip(rows.iter()) {
                if keys.contains(key) {
                    found.push(*key);
                    masked.insert(u64::from(*row));
                }
            }
        }
        if masked.len() == before {
            continue;
        }
        lines.push(json!({ "remove": described(file) }).to_string());
        if masked.len() == file.rows {
            continue;
        }
        let (name, bytes, descriptors) = vectors::encode(uuid::Uuid::new_v4(), &[&masked]).unwrap();
        location.store.put(&location.path(&name), bytes.into()).await.unwrap();
        let mut add = described(file);
        add["deletionVector"] = serde_json::to_value(&descriptors[0]).unwrap();
        add["modificationTime"] = file.modified_ms.into();
        add["stats"] = file.stats.as_str().into();
        lines.push(json!({ "add": add }).to_string());
    }
    (lines, found)
}

/// Puts the files of `version` in the place of those of the head, as written at `modified_ms`, or
/// as they are dated.
pub(super) async fn restore(
    location: &Location,
    version: u64,
    operation: &str,
    modified_ms: Option<i64>,
) {
    let table = open_as(location, None, settings()).await.unwrap();
    let then = table.view_at(version).await.unwrap();
    let view = table.view();
    let removes = view.files.iter().map(|file| json!({ "remove": described(file) }).to_string());
    let adds = then.files.iter().map(|file| {
        let mut add = described(file);
        add["modificationTime"] = modified_ms.unwrap_or(file.modified_ms).into();
        add["stats"] = file.stats.as_str().into();
        json!({ "add": add }).to_string()
    });
    commit(&table, removes.chain(adds).collect(), operation).await;
}

pub(super) async fn compact(location: &Location) {
    let table = open_as(location, None, settings()).await.unwrap();
    let (mut batches, mut lines) = (Vec::new(), Vec::new());
    for file in table.view().files.iter() {
        let read = read_file(location, file, &table.shape.file).await.unwrap();
        batches.extend(read.into_iter().map(|(batch, _)| batch));
        lines.push(json!({ "remove": described(file) }).to_string());
    }
    if batches.is_empty() {
        return;
    }
    let rows = arrow::compute::concat_batches(&table.shape.file, &batches).unwrap();
    lines.extend(write(&table, &rows).await);
    let quiet =
        lines.iter().map(|line| line.replace("\"dataChange\":true", "\"dataChange\":false"));
    commit(&table, quiet.collect(), "OPTIMIZE").await;
}

async fn write(table: &Arc<DeltaTable>, rows: &RecordBatch) -> Vec<String> {
    let now_ms = SystemClock.now_us() / 1_000;
    let (partitioning, hashes) = (&table.shape.partitioning, table.shape.hashes(rows).unwrap());
    let files = write_files(&table.location, partitioning, rows, &hashes, now_ms).await.unwrap();
    for file in &files {
        file.upload.done().await.unwrap();
    }
    let add = |file: &Arc<super::stage::StagedFile>| {
        json!({ "add": {
            "path": file.path, "partitionValues": file.partition, "size": file.size_bytes,
            "modificationTime": now_ms, "dataChange": true,
            "stats": format!("{{\"numRecords\":{}}}", file.rows.num_rows()),
        } })
        .to_string()
    };
    files.iter().map(add).collect()
}

async fn commit(table: &Arc<DeltaTable>, lines: Vec<String>, operation: &str) {
    let version = table.version() + 1;
    let at_ms = 4_102_444_800_000 + version;
    let info = json!({ "commitInfo": {
        "timestamp": at_ms, "inCommitTimestamp": at_ms, "operation": operation,
        "txnId": uuid::Uuid::new_v4().to_string(),
    } });
    let path = table.location.path(&format!("_delta_log/{version:020}.json"));
    let text = std::iter::once(info.to_string()).chain(lines).collect::<Vec<_>>().join("\n");
    table.location.store.put(&path, text.into()).await.unwrap();
}
