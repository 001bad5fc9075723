//! Cuts a pipeline off at every call it makes to its store, then opens it again, and checks that
//! neither the table nor its ledger can tell. Every call and every fault is tried, so the test is
//! exhaustive and has no seed.

use crate::support::tables;
use crate::support::{Expected, How, Row, batch, found, offsets_join, oracle, session, source};
use futures::StreamExt;
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::ObjectStoreExt;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::source::MemorySource;
use onefold::testing::{Fault, FaultyStore};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const NEVER: u64 = u64::MAX;

#[test]
fn every_row_is_in_the_table_once_wherever_the_process_is_cut_off() {
    runtime().block_on(async {
        let (source, expected) = input();
        let calls = clean_calls(&source, &expected).await;
        assert!(calls > 40, "only {calls} calls were made");
        for fault in Fault::ALL {
            for at in 1..=calls {
                let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
                let faulty = FaultyStore::cut_off(Arc::clone(&inner), at, fault);
                // A run that only missed a checksum or a checkpoint at its end is a good one.
                drop(run(&as_store(&faulty), &source).await);
                faulty.apply_late(NEVER).await;
                finish(&inner, &source, &expected, (fault, at)).await;
            }
        }
    });
}

#[test]
fn one_lost_answer_is_survived_without_a_restart_or_with_one() {
    runtime().block_on(async {
        let (source, expected) = input();
        let calls = clean_calls(&source, &expected).await;
        for fault in Fault::ALL {
            for at in 1..=calls {
                let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
                let faulty = FaultyStore::once(Arc::clone(&inner), at, fault);
                let store = as_store(&faulty);
                // What fails is tried again by the same process, as a supervisor would.
                let mut tries = 0;
                while run(&store, &source).await.is_err() {
                    tries += 1;
                    assert!(tries < 4, "{fault:?} at call {at} is not survived");
                }
                // The answer of a commit may be lost: that is looked up, and is nobody's error.
                let is_commit = faulty.hit().is_some_and(|path| is_commit(&path));
                assert!(tries == 0 || !is_commit, "{fault:?} at commit {:?}", faulty.hit());
                faulty.apply_late(NEVER).await;
                finish(&inner, &source, &expected, (fault, at)).await;
            }
        }
    });
}

/// The sums of an aggregate table are of rows that came once, whatever was sent again.
#[test]
fn sums_are_exact_wherever_the_process_is_cut_off() {
    sums_are_exact(&format!(
        "CREATE EXTERNAL TABLE sums (g BIGINT, n BIGINT, total BIGINT, PRIMARY KEY (g))
         STORED AS DELTA LOCATION 'memory:///sums'
         OPTIONS ('merge_mode' 'aggregate', 'merge.n' 'count', 'merge.total' 'sum');
         INSERT INTO sums SELECT n % 3 AS g, n, n AS total FROM {UNIQUE}"
    ));
}

/// So are those of a rollup, whose states are in the same commit as its rows.
#[test]
fn groups_are_exact_wherever_the_process_is_cut_off() {
    sums_are_exact(&format!(
        "CREATE EXTERNAL TABLE sums (g BIGINT, n BIGINT, total BIGINT, PRIMARY KEY (g))
         STORED AS DELTA LOCATION 'memory:///sums';
         INSERT INTO sums SELECT n % 3 AS g, count(*) AS n, sum(n) AS total FROM {UNIQUE}
         GROUP BY n % 3"
    ));
}

const UNIQUE: &str = "events DEDUP BY k WITHIN INTERVAL '20 microseconds'
    ALLOWED LATENESS INTERVAL '3 microseconds' WHERE n % 7 <> 3";

fn sums_are_exact(script: &str) {
    const FAULTS: [Fault; 3] = [Fault::Lost, Fault::AppliedThenTimeout, Fault::AppliedLate];
    runtime().block_on(async {
        let (source, expected) = input();
        let sums = |group: i64| -> (usize, i64) {
            let own = expected.numbers.iter().filter(|number| **number % 3 == group);
            (own.clone().count(), own.sum())
        };
        let expected: Vec<String> = (0..3)
            .filter(|group| sums(*group).0 > 0)
            .map(|group| format!("{group} {} {}", sums(group).0, sums(group).1))
            .collect();
        let counting = FaultyStore::once(Arc::new(InMemory::new()), NEVER, Fault::Lost);
        run_sums(&as_store(&counting), &source, script).await.unwrap();
        for fault in FAULTS {
            for at in 1..=counting.calls() {
                let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
                let faulty = FaultyStore::cut_off(Arc::clone(&inner), at, fault);
                drop(run_sums(&as_store(&faulty), &source, script).await);
                faulty.apply_late(NEVER).await;
                let context = run_sums(&inner, &source, script).await.unwrap();
                let found = tables::rows(&context, "SELECT * FROM sums ORDER BY g").await;
                assert_eq!(found, expected, "{fault:?} at call {at}");
            }
        }
    });
}

async fn run_sums(
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    script: &str,
) -> Result<SessionContext, Error> {
    let how = How { partitions: 1, batch_size: 8192, epoch_rows_max: 25 };
    let context = session(store, source, how).await?;
    context.run_sql(script).await?;
    context.pipeline("sums")?.run_until_idle().await?;
    Ok(context)
}

/// Rows of two partitions for several epochs, with duplicates and late rows.
fn input() -> (MemorySource, Expected) {
    let log = |partition: i64| -> Vec<Row> {
        (0..40)
            .map(|n| {
                let key = (n / 3 % 11) * 2 + partition;
                let back = if n % 9 == 8 { 15 } else { n % 4 };
                (Some(key as u8), Some(100 + n * 2 - back), partition * 1000 + n)
            })
            .collect()
    };
    let logs = [log(0), log(1)];
    let source = source(2);
    for (partition, log) in logs.iter().enumerate() {
        source.push(&format!("p{partition}"), &batch(log)).unwrap();
    }
    (source, oracle(&logs))
}

async fn run(store: &Arc<dyn ObjectStore>, source: &MemorySource) -> Result<(), Error> {
    let how = How { partitions: 1, batch_size: 8192, epoch_rows_max: 17 };
    let context = session(store, source, how).await?;
    context.pipeline("t")?.run_until_idle().await?;
    Ok(())
}

/// Calls that a run makes when nothing goes wrong.
async fn clean_calls(source: &MemorySource, expected: &Expected) -> u64 {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let counting = FaultyStore::once(Arc::clone(&inner), NEVER, Fault::Lost);
    run(&as_store(&counting), source).await.unwrap();
    let calls = counting.calls();
    finish(&inner, source, expected, (Fault::Lost, NEVER)).await;
    calls
}

/// Opens the pipeline on a store that works, and looks at the table.
async fn finish(
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    expected: &Expected,
    (fault, at): (Fault, u64),
) {
    let done = run(store, source).await;
    assert!(done.is_ok(), "{fault:?} at call {at}: {done:?}");
    let context = session(store, source, How::default()).await.unwrap();
    assert_eq!(found(&context).await, *expected, "{fault:?} at call {at}");
    offsets_join(&context).await;
    log_is_sound(store).await;
}

/// I1, I2, I4 and I5 of the design, from the log itself: versions and epochs have no gaps and no
/// doubles, fences only grow, no commit comes after a later fence, and all that is named is there.
async fn log_is_sound(store: &Arc<dyn ObjectStore>) {
    let listed: Vec<_> = store.list(None).map(|meta| meta.unwrap().location).collect().await;
    let names: BTreeSet<String> = listed.iter().map(ToString::to_string).collect();
    let (mut epoch, mut fence) = (0, 0);
    let commits = names.iter().filter(|name| is_commit(name));
    for (version, name) in commits.enumerate() {
        assert_eq!(*name, format!("table/_delta_log/{version:020}.json"));
        let bytes = store.get(&name.as_str().into()).await.unwrap().bytes().await.unwrap();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap();
            let number = |value: &Value| value["version"].as_i64().unwrap();
            match line["txn"]["appId"].as_str() {
                Some("default") => {
                    assert_eq!(number(&line["txn"]), epoch + 1);
                    epoch += 1;
                }
                Some("default/fence") => {
                    assert!(number(&line["txn"]) > fence);
                    fence = number(&line["txn"]);
                }
                Some("default/incarnation") => assert_eq!(number(&line["txn"]), fence),
                _ => {}
            }
            if let Some(path) = line["add"]["path"].as_str() {
                assert!(names.contains(&format!("table/{path}")), "{path} is missing");
            }
            if let Some(manifest) = line["domainMetadata"]["configuration"].as_str() {
                let value: Value = serde_json::from_str(manifest).unwrap();
                let path = value["path"].as_str().unwrap();
                assert!(names.contains(&format!("table/{path}")), "{path} is missing");
            }
        }
    }
    assert!(epoch > 0 && fence > 0);
}

fn is_commit(name: &str) -> bool {
    name.contains("_delta_log/")
        && std::path::Path::new(name).extension().is_some_and(|end| end == "json")
}

#[test]
fn a_commit_that_is_sent_again_is_sent_with_the_same_bytes() {
    runtime().block_on(async {
        let (source, expected) = input();
        let calls = clean_calls(&source, &expected).await;
        let mut again = 0;
        for at in 1..=calls {
            let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let faulty = FaultyStore::once(Arc::clone(&inner), at, Fault::Lost);
            drop(run(&as_store(&faulty), &source).await);
            let mut sent: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            for (path, bytes) in faulty.puts() {
                if !is_commit(&path) {
                    continue;
                }
                if let Some(first) = sent.insert(path.clone(), bytes.clone()) {
                    assert_eq!(first, bytes, "{path}");
                    again += 1;
                }
            }
        }
        assert!(again > 5, "only {again} commits were sent again");
    });
}

fn as_store(faulty: &FaultyStore) -> Arc<dyn ObjectStore> {
    Arc::new(faulty.clone())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
