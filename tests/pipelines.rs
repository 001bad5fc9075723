//! Pipelines over random logs, cut at random, against the oracle; and what users do with them.

use crate::support::{How, Row, batch, found, offsets_join, oracle, rows, session, source};
use onefold::arrow::array::cast::AsArray;
use onefold::arrow::array::types::Int64Type;
use onefold::datafusion::common::runtime::SpawnedTask;
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::pipeline::EpochOutcome;
use onefold::prelude::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A log whose keys live in one partition each: `3 * key + partition`.
fn log(partition: u8) -> impl Strategy<Value = Vec<Row>> {
    let row = (
        proptest::option::weighted(0.95, 0..3_u8),
        proptest::option::weighted(0.97, 0..14_i64),
        0..4_i64,
    );
    proptest::collection::vec(row, 0..60).prop_map(move |steps| {
        let mut now = 100;
        let mut rows = Vec::new();
        for (index, (key, back, ahead)) in steps.into_iter().enumerate() {
            now += ahead;
            let number = i64::from(partition) * 1000 + index as i64;
            rows.push((key.map(|key| 3 * key + partition), back.map(|back| now - back), number));
        }
        rows
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_answer_is_the_oracles_under_every_cut(
        logs in (log(0), log(1), log(2)),
        cuts in proptest::collection::vec((0..3_usize, 1..25_usize, any::<bool>(), any::<bool>()), 0..12),
        partitions in 1..4_usize,
        batch_size in prop_oneof![Just(1_usize), Just(7), Just(8192)],
        epoch_rows_max in prop_oneof![Just(1_u64), Just(5), Just(1000)],
    ) {
        let logs = vec![logs.0, logs.1, logs.2];
        let how = How { partitions, batch_size, epoch_rows_max };
        runtime().block_on(async {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let source = source(3);
            let mut read = [0; 3];
            let mut context = session(&store, &source, how).await.unwrap();
            context.pipeline("t").unwrap().run_until_idle().await.unwrap();
            let rest = [(0, 99, false, true), (1, 99, false, true), (2, 99, false, true)];
            for (partition, length, reopens, runs) in cuts.into_iter().chain(rest) {
                let log = &logs[partition];
                let from = read[partition];
                let to = (from + length).min(log.len());
                source.push(&format!("p{partition}"), &batch(&log[from..to])).unwrap();
                read[partition] = to;
                if reopens {
                    context = session(&store, &source, how).await.unwrap();
                }
                if runs {
                    context.pipeline("t").unwrap().run_until_idle().await.unwrap();
                }
            }
            let expected = oracle(&logs);
            let answer = found(&context).await;
            assert_eq!(answer, expected);
            offsets_join(&context).await;
            assert_eq!(plain(&context).await, expected.numbers, "a plain query says the same");
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_incarnation_is_fenced_also_when_it_wakes_late() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let rows = |range: std::ops::Range<i64>| {
        range.map(|n| (Some((n % 200) as u8), Some(n * 30), n)).collect::<Vec<Row>>()
    };
    source.push("p0", &batch(&rows(0..10))).unwrap();
    let old = session(&store, &source, How::default()).await.unwrap().pipeline("t").unwrap();
    old.run_until_idle().await.unwrap();
    source.push("p0", &batch(&rows(10..20))).unwrap();
    let context = session(&store, &source, How::default()).await.unwrap();
    let new = context.pipeline("t").unwrap();
    assert!(matches!(new.run_epoch().await.unwrap(), EpochOutcome::Committed { rows: 10, .. }));
    source.push("p0", &batch(&rows(20..30))).unwrap();
    for _ in 0..2 {
        let error = old.run_until_idle().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    }
    new.run_until_idle().await.unwrap();
    assert_eq!(found(&context).await, oracle(&[rows(0..30)]));
    let epochs = new.epochs(2).await.unwrap();
    let newest = epochs.iter().map(|epoch| (epoch.manifest.epoch.0, epoch.manifest.incarnation.0));
    assert_eq!(newest.collect::<Vec<_>>(), [(3, 2), (2, 2)]);
    assert_eq!(old.epochs(usize::MAX).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_query_is_refused_with_the_difference_and_the_way_out() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    source.push("p0", &batch(&[(Some(1), Some(5), 0)])).unwrap();
    let context = session(&store, &source, How::default()).await.unwrap();
    context.pipeline("t").unwrap().run_until_idle().await.unwrap();
    let other = "INSERT INTO t SELECT n + 1, k, at FROM events DEDUP BY k WITHIN INTERVAL '1 hour'";
    context.run_sql(other).await.unwrap();
    let error = context.pipeline("t").unwrap().run_until_idle().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("another query") && text.contains("SET onefold.pipeline"), "{text}");
    let named = format!("SET onefold.pipeline = 'second'; {other}");
    context.run_sql(&named).await.unwrap();
    context.pipeline("second").unwrap().run_until_idle().await.unwrap();
    let counted = rows(&context, "SELECT count(*) FROM t").await;
    assert_eq!(counted[0].column(0).as_primitive::<Int64Type>().value(0), 2);
    assert!(context.pipeline("t").unwrap_err().to_string().contains("several pipelines"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_pipeline_can_be_queried_and_told_to_stop() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = session(&store, &source, How::default()).await.unwrap();
    context.run_sql("SET onefold.poll_interval_ms = 5").await.unwrap();
    let pipeline = context.pipeline("t").unwrap();
    let (told, stop) = tokio::sync::oneshot::channel::<()>();
    let running = SpawnedTask::spawn({
        let pipeline = pipeline.clone();
        async move { pipeline.run(async { stop.await.unwrap() }).await }
    });
    source.push("p0", &batch(&[(Some(1), Some(5), 1), (Some(1), Some(6), 2)])).unwrap();
    drop(source);
    told.send(()).unwrap();
    running.join().await.unwrap().unwrap();
    pipeline.run_until_idle().await.unwrap();
    assert_eq!(found(&context).await.numbers.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_incrementally_is_refused_with_the_way_out() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = session(&store, &source(1), How::default()).await.unwrap();
    for (query, expected) in [
        (
            "SELECT count(*), k, max(at) FROM events GROUP BY k",
            "key column n is no column of GROUP BY",
        ),
        ("SELECT n, k, at FROM events ORDER BY n", "ORDER BY"),
        ("SELECT n, k, at FROM events LIMIT 5", "LIMIT"),
        ("SELECT DISTINCT n, k, at FROM events", "DISTINCT"),
        ("SELECT row_number() OVER (), k, at FROM events", "window function"),
        (
            "SELECT a.n, a.k, a.at FROM events a JOIN events b ON a.n = b.n",
            "a join of two unbounded tables",
        ),
        ("SELECT n, k, now() FROM events", "which gives another value each time"),
        ("SELECT n, k, at FROM events WHERE random() < 0.5", "which gives another value each time"),
        (
            "SELECT n, k, at FROM events UNION ALL SELECT n, k, at FROM events",
            "twice in one pipeline",
        ),
    ] {
        let error = context.run_sql(&format!("INSERT INTO t {query}")).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{query}: {error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_may_be_joined_with_a_finite_table() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = session(&store, &source, How::default()).await.unwrap();
    context
        .run_sql(
            "CREATE TABLE names AS SELECT * FROM (VALUES ('1', 'one'), ('2', 'two')) AS v(k, name)",
        )
        .await
        .unwrap();
    let sql = "SET onefold.pipeline = 'joined';
        INSERT INTO t SELECT e.n, names.name, e.at
        FROM events DEDUP BY k WITHIN INTERVAL '1 hour' AS e JOIN names ON e.k = names.k";
    context.run_sql(sql).await.unwrap();
    source
        .push(
            "p0",
            &batch(&[
                (Some(1), Some(5), 1),
                (Some(2), Some(6), 2),
                (Some(1), Some(7), 4),
                (Some(9), Some(7), 5),
            ]),
        )
        .unwrap();
    context.pipeline("joined").unwrap().run_until_idle().await.unwrap();
    let names =
        rows(&context, "SELECT arrow_cast(string_agg(k, ',' ORDER BY n), 'Utf8') AS k FROM t")
            .await;
    assert_eq!(names[0].column(0).as_string::<i32>().value(0), "one,two");
}

/// The pipeline's query as a plain query over what the source holds.
async fn plain(context: &SessionContext) -> BTreeSet<i64> {
    let batches = rows(
        context,
        "SELECT n FROM events DEDUP BY k WITHIN INTERVAL '20 microseconds'
           ALLOWED LATENESS INTERVAL '3 microseconds' WHERE n % 7 <> 3",
    )
    .await;
    let values = batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().values());
    values.flat_map(|values| values.iter().copied()).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
