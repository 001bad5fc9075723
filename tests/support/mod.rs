//! What several tests need: sessions over one store, logs, and the oracle of DESIGN 2.

pub(crate) mod busy;
pub(crate) mod cuts;
pub(crate) mod feeds;
pub(crate) mod tables;

use onefold::arrow::array::cast::AsArray;
use onefold::arrow::array::types::{Int64Type, UInt64Type};
use onefold::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use onefold::arrow::record_batch::RecordBatch;
use onefold::datafusion::execution::SessionStateBuilder;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::ObjectStore;
use onefold::prelude::*;
use onefold::session::Ports;
use onefold::source::{MemorySource, SourceTableOptions, WatermarkSpec};
use onefold::testing::SimulatedClock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One row of a log: key, event time in microseconds, and its own number.
pub(crate) type Row = (Option<u8>, Option<i64>, i64);

/// What a test of pipelines varies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) partitions: usize,
    pub(crate) batch_size: usize,
    pub(crate) epoch_rows_max: u64,
}

impl Default for How {
    fn default() -> Self {
        Self { partitions: 2, batch_size: 8192, epoch_rows_max: 1_000_000 }
    }
}

pub(crate) const DELAY_US: i64 = 7;
pub(crate) const WIDTH_US: u64 = 20;
pub(crate) const LATENESS_US: i64 = 3;

/// A session over `store` that knows `source` as the unbounded table `events`.
pub(crate) fn with_events(
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    how: How,
) -> Result<SessionContext, Error> {
    let config =
        SessionConfig::new().with_target_partitions(how.partitions).with_batch_size(how.batch_size);
    let mut settings = Settings::default();
    settings.epoch_rows_max = how.epoch_rows_max;
    settings.compact_files_min = 3;
    settings.checkpoint_interval = 5;
    let ports = Ports { clock: Arc::new(SimulatedClock::default()), ..Ports::default() };
    let state = SessionStateBuilder::new().with_default_features().with_config(config);
    let state = state.with_onefold_ports(settings, ports).build();
    let context = SessionContext::new_with_state(state);
    let url = "memory:///".parse().unwrap();
    context.runtime_env().register_object_store(&url, Arc::clone(store));
    let watermark = WatermarkSpec {
        column: "at".to_owned(),
        delay_us: DELAY_US,
        max_future_us: WatermarkSpec::MAX_FUTURE_US,
    };
    let options = SourceTableOptions { watermark: Some(watermark), is_unbounded: true };
    context.register_source("events", Arc::new(source.clone()), options)?;
    Ok(context)
}

/// A session over `store` with the table `t` and the pipeline from `source` into it.
pub(crate) async fn session(
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    how: How,
) -> Result<SessionContext, Error> {
    let context = with_events(store, source, how)?;
    context
        .run_sql(&format!(
            "CREATE EXTERNAL TABLE t (n BIGINT NOT NULL, k VARCHAR, at TIMESTAMP, PRIMARY KEY (n))
             STORED AS DELTA LOCATION 'memory:///table';
             INSERT INTO t SELECT n, k, at
             FROM events DEDUP BY k WITHIN INTERVAL '{WIDTH_US} microseconds'
               ALLOWED LATENESS INTERVAL '{LATENESS_US} microseconds'
             WHERE n % 7 <> 3"
        ))
        .await?;
    Ok(context)
}

pub(crate) fn batch(rows: &[Row]) -> RecordBatch {
    let key: StringArray = rows.iter().map(|row| row.0.map(|key| key.to_string())).collect();
    let at: TimestampMicrosecondArray = rows.iter().map(|row| row.1).collect();
    let number: Int64Array = rows.iter().map(|row| Some(row.2)).collect();
    let columns: [(&str, ArrayRef, bool); 3] =
        [("k", Arc::new(key), true), ("at", Arc::new(at), true), ("n", Arc::new(number), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// A source whose partitions all exist from the beginning.
pub(crate) fn source(partitions: usize) -> MemorySource {
    let source = MemorySource::new("events", batch(&[]).schema());
    for partition in 0..partitions {
        source.push(&format!("p{partition}"), &batch(&[])).unwrap();
    }
    source
}

/// What the oracle says of a log: numbers of the rows in the table, and the counts of the ledger.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) numbers: BTreeSet<i64>,
    pub(crate) rows_duplicate: u64,
    pub(crate) rows_late: u64,
    pub(crate) rows_filtered: u64,
}

/// Straight from DESIGN 2, rules 1 to 4: one partition after the other, every anchor kept for ever.
pub(crate) fn oracle(logs: &[Vec<Row>]) -> Expected {
    let mut expected = Expected::default();
    let mut anchors: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
    for log in logs {
        let mut newest: Option<i64> = None;
        for (key, at, number) in log {
            let watermark = newest.map(|newest| newest - DELAY_US);
            newest = newest.max(*at);
            let is_late = at.is_none_or(|at| watermark.is_some_and(|wm| at < wm - LATENESS_US));
            if is_late {
                expected.rows_late += 1;
                continue;
            }
            if let (Some(key), Some(at)) = (key, at) {
                let anchors = anchors.entry(*key).or_default();
                if anchors.iter().any(|anchor| anchor.abs_diff(*at) < WIDTH_US) {
                    expected.rows_duplicate += 1;
                    continue;
                }
                anchors.push(*at);
            }
            if number % 7 == 3 {
                expected.rows_filtered += 1;
            } else {
                expected.numbers.insert(*number);
            }
        }
    }
    expected
}

/// What the table and its ledger say.
pub(crate) async fn found(context: &SessionContext) -> Expected {
    let numbers = rows(context, "SELECT n FROM t").await;
    let mut all = Vec::new();
    for batch in &numbers {
        all.extend(batch.column(0).as_primitive::<Int64Type>().values().iter().copied());
    }
    let set: BTreeSet<i64> = all.iter().copied().collect();
    assert_eq!(set.len(), all.len(), "a primary key is there twice");
    let history = rows(
        context,
        "SELECT CAST(coalesce(sum(rows_duplicate), 0) AS BIGINT) AS a,
           CAST(coalesce(sum(rows_late), 0) AS BIGINT) AS b,
           CAST(coalesce(sum(rows_read), 0) AS BIGINT) AS c,
           CAST(coalesce(sum(rows_emitted), 0) AS BIGINT) AS d,
           CAST(coalesce(sum(rows_filtered), 0) AS BIGINT) AS e
         FROM onefold_history('t')",
    )
    .await;
    let sum = |column: usize| {
        history[0].column(column).as_primitive::<Int64Type>().value(0).unsigned_abs()
    };
    assert_eq!(sum(2), sum(0) + sum(1) + sum(3) + sum(4), "the ledger balances");
    assert_eq!(sum(3), set.len() as u64, "what was emitted is in the table");
    Expected { numbers: set, rows_duplicate: sum(0), rows_late: sum(1), rows_filtered: sum(4) }
}

pub(crate) async fn rows(context: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    let frame = context.run_sql(sql).await.unwrap().pop().unwrap();
    let batches = frame.collect().await.unwrap();
    batches.into_iter().filter(|batch| batch.num_rows() > 0).collect()
}

/// Checks that every epoch of the ledger begins where the one before it ended.
pub(crate) async fn offsets_join(context: &SessionContext) {
    let batches = rows(
        context,
        "SELECT \"partition\", offset_from, offset_to FROM onefold_history('t')
         ORDER BY \"partition\", epoch",
    )
    .await;
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for batch in batches {
        let names = batch.column(0).as_string::<i32>();
        let (from, to) = (
            batch.column(1).as_primitive::<UInt64Type>(),
            batch.column(2).as_primitive::<UInt64Type>(),
        );
        for row in 0..batch.num_rows() {
            let end = ends.entry(names.value(row).to_owned()).or_default();
            assert_eq!(from.value(row), *end, "{}", names.value(row));
            *end = to.value(row);
        }
    }
}
