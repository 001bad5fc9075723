//! Sketches through pipelines: of minutes, merged to hours by a pipeline over a stream of them, and to
//! the day by a query, against the sketches of all rows.

use crate::support::{How, batch, source, with_events};
use futures::TryStreamExt;
use onefold::arrow::array::UInt32Array;
use onefold::arrow::compute::{cast, concat_batches, take_record_batch};
use onefold::arrow::record_batch::RecordBatch;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::source::{MemorySource, SourceTableOptions};
use std::sync::Arc;

const SKETCHES: &str = "hll_state(n % 3000) AS u, hll_state(n, 5) AS c,
    quantile_state(CASE WHEN n % 10 > 0 THEN n / 8.0 END) AS q, bitmap_state(n % 2000) AS b";
const MERGED: &str = "hll_merge(u) AS u, hll_merge(c) AS c, quantile_merge(q) AS q,
    bitmap_merge(b) AS b";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minutes_become_hours_and_the_day_and_are_the_sketches_of_all_rows() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let events = source(2);
    let how = How { epoch_rows_max: 700, ..How::default() };
    let minutes = format!(
        "CREATE EXTERNAL TABLE minutes (m TIMESTAMP NOT NULL, u BYTEA, c BYTEA, q BYTEA, b BYTEA,
           PRIMARY KEY (m)) STORED AS DELTA LOCATION 'memory:///minutes';
         INSERT INTO minutes SELECT date_bin(INTERVAL '60 microseconds', at), {SKETCHES}
         FROM events GROUP BY date_bin(INTERVAL '60 microseconds', at)"
    );
    let mut all = Vec::new();
    for part in 0..3_i64 {
        let context = with_events(&store, &events, how).unwrap(); // a new process each
        context.run_sql(&minutes).await.unwrap();
        for partition in 0..2_i64 {
            // In the order of time: no row is late.
            let row = |at: i64| (Some(1), Some(at), at * 7 % 5_003 * 2 + partition);
            let rows: Vec<_> = (part * 2_400..(part + 1) * 2_400).map(row).collect();
            events.push(&format!("p{partition}"), &batch(&rows)).unwrap();
            all.extend(rows);
        }
        context.pipeline("minutes").unwrap().run_until_idle().await.unwrap();
    }
    let raw = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1))
        .with_onefold(Settings::default())
        .unwrap();
    raw.register_batch("events", batch(&all)).unwrap();
    let hour = "date_bin(INTERVAL '3600 microseconds', at)";
    let by_hour = format!("SELECT {hour} AS h, {SKETCHES} FROM events GROUP BY {hour} ORDER BY h");
    let by_hour = one(&raw, &by_hour).await;
    let day = one(&raw, &format!("SELECT {SKETCHES} FROM events")).await;
    assert_eq!((by_hour.num_rows(), day.num_rows()), (2, 1));

    let context = with_events(&store, &events, how).unwrap();
    context.run_sql(&minutes).await.unwrap();
    let stored = one(&context, "SELECT * FROM minutes ORDER BY bitmap_count(b), m").await;
    assert_eq!(stored.num_rows(), 120);
    same(&one(&context, &format!("SELECT {MERGED} FROM minutes")).await, &day);

    let hours = format!(
        "CREATE EXTERNAL TABLE hours (h TIMESTAMP NOT NULL, u BYTEA, c BYTEA, q BYTEA, b BYTEA,
           PRIMARY KEY (h)) STORED AS DELTA LOCATION 'memory:///hours';
         INSERT INTO hours SELECT date_bin(INTERVAL '3600 microseconds', m), {MERGED}
         FROM sketches GROUP BY date_bin(INTERVAL '3600 microseconds', m)"
    );
    let sketches = MemorySource::new("sketches", stored.schema());
    for (part, from) in (0..120).step_by(50).enumerate() {
        let context = with_events(&store, &events, How { epoch_rows_max: 13, ..how }).unwrap();
        let options = SourceTableOptions { watermark: None, is_unbounded: true };
        context.register_source("sketches", Arc::new(sketches.clone()), options).unwrap();
        context.run_sql(&hours).await.unwrap();
        let rows =
            UInt32Array::from_iter_values((from..120.min(from + 50)).map(|row| row * 77 % 120));
        let rows = take_record_batch(&stored, &rows).unwrap();
        sketches.push(&format!("p{}", part % 2), &rows).unwrap();
        context.pipeline("hours").unwrap().run_until_idle().await.unwrap();
        let more = sketches_left(&context).await;
        assert_eq!(more, u64::from(from + 50).min(120));
        if part == 2 {
            same(&one(&context, "SELECT * FROM hours ORDER BY h").await, &by_hour);
            same(&one(&context, &format!("SELECT {MERGED} FROM hours")).await, &day);
            refuses_changes(&context).await;
        }
    }
}

/// Rows that the pipeline of hours has read, in all.
async fn sketches_left(context: &SessionContext) -> u64 {
    let epochs = context.pipeline("hours").unwrap().epochs(1_000).await.unwrap();
    epochs.iter().flat_map(|own| &own.manifest.ledger).map(|row| row.rows_read).sum()
}

/// A merged sketch cannot be taken back.
async fn refuses_changes(context: &SessionContext) {
    context
        .run_sql(
            "CREATE UNBOUNDED EXTERNAL TABLE minutes_changes STORED AS DELTA
             LOCATION 'memory:///minutes';
             CREATE EXTERNAL TABLE days (d TIMESTAMP NOT NULL, u BYTEA, PRIMARY KEY (d))
             STORED AS DELTA LOCATION 'memory:///days'",
        )
        .await
        .unwrap();
    let sql = "INSERT INTO days SELECT date_trunc('day', m), hll_merge(u) FROM minutes_changes
        GROUP BY date_trunc('day', m)";
    let error = context.run_sql(sql).await.unwrap_err().to_string();
    for part in ["cannot take back a row", "can be asked of the table itself"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// The rows of a query, in one batch.
async fn one(context: &SessionContext, sql: &str) -> RecordBatch {
    let frame = context.run_sql(sql).await.unwrap().pop().unwrap();
    let stream = frame.execute_stream().await.unwrap();
    let schema = stream.schema();
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    concat_batches(&schema, &batches).unwrap()
}

/// Checks that two results are the same, to the byte.
fn same(found: &RecordBatch, expected: &RecordBatch) {
    assert_eq!(found.num_columns(), expected.num_columns());
    for (one, two) in found.columns().iter().zip(expected.columns()) {
        let two = cast(two, one.data_type()).unwrap();
        assert_eq!(one, &two);
    }
}
