//! A table that is written for days stays as healthy as it was.

use super::tests::{
    AgedStore, Fault, FaultyStore, SimulatedClock, batch, definition, open, scan, settings,
};
use super::{DeltaSettings, DeltaTable};
use crate::commit::{EpochRows, Ledger};
use crate::store::Location;
use crate::types::{Clock, Entropy, SystemEntropy};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Calls to the store of an opening, but for one for the vector of each file: commits are read
/// since the last checksum and the last checkpoint, not since the beginning.
const OPEN_CALLS_MAX: u64 = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_commits_leave_a_table_as_healthy_as_one_thousand() {
    let clock = SimulatedClock::default();
    let aged = Arc::new(AgedStore::new(Arc::new(InMemory::new()), clock.clone()));
    let location = Location::from_store("memory:///t", aged).unwrap();
    // This clock is months behind the kernel's, by which removes expire: an hour passes at once.
    let day = DeltaSettings { retention: Duration::from_hours(24), ..settings() };
    let ports: (Arc<dyn Entropy>, Arc<dyn Clock>) =
        (Arc::new(SystemEntropy), Arc::new(clock.clone()));
    let table = DeltaTable::create_or_open("t", location.clone(), Some(definition()), day, ports);
    let table = table.await.unwrap();
    let mut measured = Vec::new();
    for epoch in 0..5_000_i64 {
        let keys = (0..4).map(|n| ((epoch * 7919 + n * 104_729) % 1_000, epoch));
        let rows = vec![batch(0, &keys.collect::<Vec<_>>())];
        let staged = table.stage_rows(EpochRows { partitions: vec![rows] }).await.unwrap();
        table.write(&staged, None).await.unwrap();
        clock.advance(Duration::from_secs(58));
        if epoch % 1_000 == 999 {
            table.vacuum(Duration::from_hours(24)).await.unwrap();
            table.rest().await;
            measured.push(health(&location).await);
        }
    }
    let (early, late) = (&measured[2], &measured[4]);
    for (what, early, late) in [
        ("objects of the log", early.log_objects, late.log_objects),
        ("bytes of the log", early.log_bytes, late.log_bytes),
        ("bytes of the last checkpoint", early.checkpoint_bytes, late.checkpoint_bytes),
        ("all objects", early.objects, late.objects),
        ("live files", early.live_files, late.live_files),
        ("rows read by a scan", early.rows, late.rows),
        ("calls to the store of an opening", early.open_calls, late.open_calls),
        ("calls to the store of a scan", early.scan_calls, late.scan_calls),
    ] {
        assert!(late * 4 <= early * 5, "{what}: {early} after 3,000 commits, {late} after 5,000");
    }
    assert!(late.live_files < 40 && late.checkpoint_bytes < 60_000, "{late:?}");
    assert!(late.commits_to_replay <= 100, "{late:?}");
    for healthy in &measured {
        assert_eq!(healthy.unsummed, [""; 0], "every version has its checksum");
        assert!(healthy.open_calls < OPEN_CALLS_MAX + healthy.live_files, "{healthy:?}");
        assert!(healthy.scan_calls <= 3 * healthy.live_files, "{healthy:?}");
    }
}

/// What grows in a table that is not looked after.
#[derive(Debug)]
struct Health {
    objects: u64,
    log_objects: u64,
    log_bytes: u64,
    checkpoint_bytes: u64,
    commits_to_replay: u64,
    live_files: u64,
    /// Masked ones included.
    rows: u64,
    /// What an opening asks of the store: its commits, checkpoint, checksum and vectors.
    open_calls: u64,
    scan_calls: u64,
    /// Versions without a checksum.
    unsummed: Vec<String>,
}

async fn health(location: &Location) -> Health {
    let counting = FaultyStore::once(Arc::clone(&location.store), u64::MAX, Fault::Lost);
    let counted = Location::from_store("memory:///t", Arc::new(counting.clone())).unwrap();
    let table = open(&counted, settings()).await.unwrap();
    let open_calls = counting.calls();
    assert_eq!(scan(&table).await.len() as u64, table.rows());
    let scan_calls = counting.calls() - open_calls;
    let all: Vec<_> = location.store.list(None).try_collect().await.unwrap();
    let in_log =
        |object: &&object_store::ObjectMeta| object.location.as_ref().contains("_delta_log");
    let log: Vec<_> = all.iter().filter(in_log).collect();
    let files = table.log_files().await.unwrap();
    let last = files.checkpoints.last().unwrap();
    let name = format!("{last:020}.checkpoint.parquet");
    let checkpoint = log.iter().find(|object| object.location.as_ref().ends_with(&name)).unwrap();
    let of_kind = |kind: &str| -> BTreeSet<String> {
        let names = log.iter().filter_map(|object| object.location.filename());
        names.filter_map(|name| Some(name.strip_suffix(kind)?.to_owned())).collect()
    };
    let (commits, checksums) = (of_kind(".json"), of_kind(".crc"));
    let view = table.view();
    Health {
        objects: all.len() as u64,
        log_objects: log.len() as u64,
        log_bytes: log.iter().map(|object| object.size).sum(),
        checkpoint_bytes: checkpoint.size,
        commits_to_replay: view.version - last,
        live_files: view.files.iter().count() as u64,
        rows: view.files.iter().map(|file| file.rows).sum(),
        open_calls,
        scan_calls,
        unsummed: commits.difference(&checksums).cloned().collect(),
    }
}
