//! Rollups whose groups or sessions are more than their memory holds, through restarts and joins of
//! their files, against the same with memory for all.

use crate::rollups::shown;
use crate::support::{How, Row, batch, source, with_events};
use futures::StreamExt;
use onefold::object_store::memory::InMemory;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use onefold::prelude::*;
use serde_json::Value;
use std::sync::Arc;

/// The least memory that can be set.
const LITTLE: u64 = 1 << 20;
const MUCH: u64 = 1 << 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_come_back_in_little_memory_and_their_files_stay_few_and_small() {
    let key = "CASE WHEN n % 8 = 0 THEN -1 ELSE n END";
    let logs: Vec<Vec<Row>> = [0..10_000, 10_000..20_000, 5_000..13_000]
        .map(|numbers| numbers.map(|number| (Some(1), Some(5), number)).collect())
        .into();
    let store = spilled(&format!("{key} AS w"), key, &logs).await;
    let (files, entries) = files_of(&store, "t0").await;
    assert!(files <= 24, "{files} files after 28 epochs");
    assert!((17_501..=4 * 17_501 + 65_536).contains(&entries), "{entries}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_come_back_in_little_memory() {
    // Sessions of each key grow at both ends, and then two of them become one.
    let rows = |ats: [i64; 2]| -> Vec<Row> {
        let row = |number: i64| ats.map(|at| (Some(1), Some(at), number));
        (0..6_000).flat_map(row).collect()
    };
    let logs =
        [rows([1_000, 1_000]), rows([1_001, 1_030]), rows([995, 1_029]), rows([1_010, 1_020])];
    let session = "session(at, INTERVAL '12 microseconds')";
    spilled(&format!("n, {session} AS w"), &format!("n, {session}"), &logs).await;
}

/// Runs one query in little memory and in much, with a restart between the logs.
async fn spilled(groups: &str, by: &str, logs: &[Vec<Row>]) -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let is_session = by.contains("session");
    let (columns, keys) = if is_session {
        ("n BIGINT NOT NULL, w TIMESTAMP NOT NULL", "n, w")
    } else {
        ("w BIGINT NOT NULL", "w")
    };
    let statements = [LITTLE, MUCH].into_iter().enumerate().map(|(index, bytes)| {
        format!(
            "SET onefold.state_bytes_max = {bytes};
             CREATE EXTERNAL TABLE t{index} ({columns}, c BIGINT, s BIGINT, hi BIGINT,
               PRIMARY KEY ({keys})) STORED AS DELTA LOCATION 'memory:///t{index}';
             INSERT INTO t{index} SELECT {groups}, count(*) AS c, sum(n) AS s, max(n) AS hi
             FROM events GROUP BY {by};"
        )
    });
    let script: String = statements.collect();
    let how = How { epoch_rows_max: if is_session { 1_000_000 } else { 1_000 }, ..How::default() };
    for log in logs {
        let context = with_events(&store, &source, how).unwrap();
        context.run_sql(&script).await.unwrap();
        for rows in log.chunks(1_000) {
            source.push("p0", &batch(rows)).unwrap();
        }
        let mut held = Vec::new();
        for table in ["t0", "t1"] {
            let status = context.pipeline(table).unwrap().run_until_idle().await.unwrap();
            held.push((status.keys_held, status.state_bytes));
        }
        assert_eq!(held[0].0, held[1].0);
        assert!(held[0].1 <= LITTLE, "{} bytes held", held[0].1);
        let differ = "(SELECT * FROM t0 EXCEPT SELECT * FROM t1) UNION ALL
            (SELECT * FROM t1 EXCEPT SELECT * FROM t0)";
        assert_eq!(shown(&context, differ).await.unwrap(), [] as [&str; 0]);
        let count = shown(&context, "SELECT count(*) FROM t0").await.unwrap();
        assert_eq!(count, [held[0].0.to_string()]);
    }
    store
}

/// How many files the newest manifest of a rollup names, and how many entries are in them.
async fn files_of(store: &Arc<dyn ObjectStore>, table: &str) -> (usize, u64) {
    let mut newest: Option<Value> = None;
    let prefix = format!("{table}/_onefold").into();
    let listed: Vec<_> = store.list(Some(&prefix)).collect().await;
    for meta in listed {
        let path = meta.unwrap().location;
        if path.extension() != Some("json") {
            continue;
        }
        let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
        let own: Value = serde_json::from_slice(&bytes).unwrap();
        let epoch = |own: &Value| own["epoch"].as_u64();
        if newest.as_ref().is_none_or(|newest| epoch(newest) < epoch(&own)) {
            newest = Some(own);
        }
    }
    let newest = newest.unwrap();
    let operators = newest["operators"].as_object().unwrap();
    let files = operators.values().next().unwrap()["files"].as_array().unwrap();
    (files.len(), files.iter().map(|file| file["entries"].as_u64().unwrap()).sum())
}
