//! Sums and averages of floats under `exact_float_sums`: the same bits whatever the cut, the
//! parallelism and the crashes.

use crate::support::tables::{refusal, rows};
use crate::support::{How, Row, batch, source, with_events};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::source::MemorySource;
use onefold::testing::{Fault, FaultyStore};
use proptest::prelude::*;
use std::sync::Arc;

/// Values that lie so far apart that a sum of floats loses nearly all of them, or has no rounding
/// at all, or is infinite on its way.
const ROWS: &str = "SELECT coalesce(k, 'none') AS k, n,
    CASE n % 7 WHEN 0 THEN 1e300 WHEN 1 THEN -1e300 WHEN 2 THEN 1e-300 WHEN 3 THEN NULL
      ELSE CAST(n AS DOUBLE) / 7 END AS wide,
    CAST(n AS DOUBLE) / 100 AS near,
    CASE WHEN n % 2 = 0 THEN 1.7e308 ELSE -1.7e308 END AS huge,
    CAST(CAST(n AS DOUBLE) / 3 AS FLOAT) AS small FROM events";

const SELECT: &str =
    "sum(wide), avg(wide), sum(near), avg(near), sum(near) FILTER (WHERE n % 3 = 0),
    sum(huge), sum(small), avg(small), avg(n), sum(near) + avg(wide)";

/// The number of columns of [`SELECT`].
const COLUMNS: usize = 10;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn float_sums_have_the_same_bits_under_every_cut_and_crash(
        log in proptest::collection::vec(proptest::option::weighted(0.9, 0..3_u8), 1..90),
        steps in proptest::collection::vec((1..25_usize, 0..80_u64, 1..4_usize), 0..8),
        batch_size in prop_oneof![Just(1_usize), Just(7), Just(8192)],
        epoch_rows_max in prop_oneof![Just(4_u64), Just(1000)],
    ) {
        let row = |(index, key): (usize, Option<u8>)| (key, Some(100), index as i64);
        let log: Vec<Row> = log.into_iter().enumerate().map(row).collect();
        runtime().block_on(async {
            let calm: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let one = source(1);
            one.push("p0", &batch(&log)).unwrap();
            let how = How { partitions: 1, ..How::default() };
            let context = opened(&calm, &one, how).await.unwrap();
            context.pipeline("t").unwrap().run_until_idle().await.unwrap();
            let expected = bits(&context).await;

            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let source = source(3);
            // Backwards, so that no partition has the order of the calm one.
            let mut rest: Vec<Row> = log.into_iter().rev().collect();
            let mut how = How { partitions: 2, batch_size, epoch_rows_max };
            for (index, (length, at, partitions)) in steps.into_iter().enumerate() {
                let later = rest.split_off(length.min(rest.len()));
                source.push(&format!("p{}", index % 3), &batch(&rest)).unwrap();
                rest = later;
                if at > 0 {
                    let fault = Fault::ALL[index % Fault::ALL.len()];
                    let faulty = FaultyStore::cut_off(Arc::clone(&store), at, fault);
                    let cut_off: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
                    if let Ok(context) = opened(&cut_off, &source, how).await {
                        drop(context.pipeline("t").unwrap().run_until_idle().await);
                    }
                    faulty.apply_late(u64::MAX).await;
                }
                how.partitions = partitions;
                let context = opened(&store, &source, how).await.unwrap();
                context.pipeline("t").unwrap().run_until_idle().await.unwrap();
            }
            source.push("p0", &batch(&rest)).unwrap();
            let context = opened(&store, &source, how).await.unwrap();
            context.pipeline("t").unwrap().run_until_idle().await.unwrap();
            assert_eq!(bits(&context).await, expected);
        });
    }
}

async fn opened(
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    how: How,
) -> Result<SessionContext, Error> {
    let context = with_events(store, source, how)?;
    let columns: Vec<String> = (0..COLUMNS).map(|column| format!("a{column} DOUBLE")).collect();
    let script = format!(
        "SET onefold.exact_float_sums = true;
         CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, {}, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///t';
         INSERT INTO t SELECT k, {SELECT} FROM ({ROWS}) GROUP BY k",
        columns.join(", ")
    );
    context.run_sql(&script).await?;
    Ok(context)
}

/// The rows; a float is written with as many digits as tell it from others.
async fn bits(context: &SessionContext) -> Vec<String> {
    rows(context, "SELECT * FROM t ORDER BY k").await
}

/// A sum of 0.1 three times, then what only an exact sum keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exact_sum_keeps_what_a_float_loses_and_is_what_sums_of_floats_are_by_default() {
    for (setting, expected) in [("true", "1.0 0.25 NULL"), ("false", "0.0 0.0 NULL")] {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let source = source(1);
        let context = with_events(&store, &source, How::default()).unwrap();
        let script = format!(
            "SET onefold.exact_float_sums = {setting};
             CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, s DOUBLE, a DOUBLE, none DOUBLE, PRIMARY KEY (k))
             STORED AS DELTA LOCATION 'memory:///t';
             INSERT INTO t SELECT coalesce(k, 'x') AS k, sum(v), avg(v), sum(v) FILTER (WHERE n > 9)
             FROM (SELECT k, n, CASE n WHEN 0 THEN 1e17 WHEN 1 THEN 1 WHEN 2 THEN -1e17 WHEN 3 THEN 0
               END AS v FROM events) GROUP BY coalesce(k, 'x')"
        );
        context.run_sql(&script).await.unwrap();
        let log: Vec<Row> = (0..5).map(|number| (Some(1), Some(5), number)).collect();
        source.push("p0", &batch(&log)).unwrap();
        context.pipeline("t").unwrap().run_until_idle().await.unwrap();
        assert_eq!(rows(&context, "SELECT s, a, none FROM t").await, [expected]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_keeps_the_setting_it_was_made_with() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    source.push("p0", &batch(&[(Some(1), Some(5), 3)])).unwrap();
    let script = format!(
        "CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, s DOUBLE, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///t';
         INSERT INTO t SELECT k, sum(near) FROM ({ROWS}) GROUP BY k"
    );
    let context = with_events(&store, &source, How::default()).unwrap();
    context.run_sql(&script).await.unwrap();
    context.pipeline("t").unwrap().run_until_idle().await.unwrap();
    let context = with_events(&store, &source, How::default()).unwrap();
    context.run_sql("SET onefold.exact_float_sums = true").await.unwrap();
    context.run_sql(&script).await.unwrap();
    let error = context.pipeline("t").unwrap().run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("exact float sums"), "{error}");
    let error = refusal(&context, "SET onefold.exact_float_sums = 'perhaps'").await;
    assert!(error.contains("is true or false, not 'perhaps'"), "{error}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
