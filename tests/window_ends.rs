//! Starts and ends of windows beside the GROUP BY of these windows.

use crate::rollups::shown;
use crate::support::tables::{refusal, rows, run};
use crate::support::{How, Row, batch, source, with_events};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use std::sync::Arc;

/// What is grouped by, and what shows it, its start and its end.
const WINDOWS: [(&str, &str); 4] = [
    (
        "tumble(at, INTERVAL '10 microseconds')",
        "tumble_start(at, INTERVAL '10 microseconds') AS s, tumble_end(at, INTERVAL '10 microseconds') AS e",
    ),
    (
        "tumble(at, INTERVAL '10 microseconds', TIMESTAMP '1970-01-01 00:00:00.000003')",
        "tumble_start(at, INTERVAL '10 microseconds', TIMESTAMP '1970-01-01 00:00:00.000003') AS s,
         TUMBLE_END(events.at, INTERVAL '10 microseconds', TIMESTAMP '1970-01-01 00:00:00.000003') AS e",
    ),
    (
        "hop(at, INTERVAL '10 microseconds', INTERVAL '20 microseconds')",
        "hop_start(at, INTERVAL '10 microseconds', INTERVAL '20 microseconds') AS s,
         hop_end(at, INTERVAL '10 microseconds', INTERVAL '20 microseconds') AS e",
    ),
    (
        "session(at, INTERVAL '8 microseconds')",
        "session_start(at, INTERVAL '8 microseconds') AS s,
         session_end(at, INTERVAL '8 microseconds') AS e",
    ),
];

const LOG: [Row; 4] = [
    (Some(1), Some(11), 1),
    (Some(1), Some(14), 2),
    (Some(1), Some(25), 3),
    (Some(2), Some(15), 4),
];

/// The key, the start and the end of each window, and its rows.
const EXPECTED: [&[&str]; 4] = [
    &["1 | 10 | 20 | 2", "1 | 20 | 30 | 1", "2 | 10 | 20 | 1"],
    &["1 | 13 | 23 | 1", "1 | 23 | 33 | 1", "1 | 3 | 13 | 1", "2 | 13 | 23 | 1"],
    &["1 | 0 | 20 | 2", "1 | 10 | 30 | 3", "1 | 20 | 40 | 1", "2 | 0 | 20 | 1", "2 | 10 | 30 | 1"],
    &["1 | 11 | 22 | 2", "1 | 25 | 33 | 1", "2 | 15 | 23 | 1"],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_window_is_shown_beside_its_group_in_views_pipelines_and_plain_queries() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = with_events(&store, &source, How::default()).unwrap();
    source.push("p0", &batch(&LOG)).unwrap();
    for (index, (window, edges)) in WINDOWS.into_iter().enumerate() {
        let script = format!(
            "CREATE MATERIALIZED VIEW v{index} LOCATION 'memory:///v{index}' AS
             SELECT k, {window} AS w, {edges}, count(*) AS c FROM events WHERE k IS NOT NULL
             GROUP BY k, w;
             CREATE EXTERNAL TABLE t{index} (k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, s TIMESTAMP,
               e TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (k, w))
             STORED AS DELTA LOCATION 'memory:///t{index}';
             INSERT INTO t{index} SELECT k, {window}, {edges}, count(*) FROM events GROUP BY 1, 2"
        );
        run(&context, &script).await.unwrap_or_else(|error| panic!("{window}: {error}"));
        let plain = format!(
            "SELECT k, CAST(s AS BIGINT) || ' | ' || CAST(e AS BIGINT) || ' | ' || c AS found FROM
               (SELECT k, {edges}, count(*) AS c FROM events GROUP BY k, {window})"
        );
        let found = rows(&context, &plain).await;
        let mut found: Vec<String> =
            found.into_iter().map(|own| own.replacen(' ', " | ", 1)).collect();
        found.sort();
        assert_eq!(found, EXPECTED[index], "{window}");
        for table in [format!("v{index}"), format!("t{index}")] {
            context.pipeline(&table).unwrap().run_until_idle().await.unwrap();
            let query = format!(
                "SELECT k, CAST(w AS BIGINT), CAST(e AS BIGINT), c FROM {table} WHERE w = s"
            );
            assert_eq!(
                shown(&context, &query).await.unwrap(),
                EXPECTED[index],
                "{table}: {window}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_made_of_others_in_group_by_need_not_be_in_the_key() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = with_events(&store, &source, How::default()).unwrap();
    source.push("p0", &batch(&LOG)).unwrap();
    let columns = "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, e TIMESTAMP, g INT NOT NULL, c BIGINT,
                   PRIMARY KEY (k, w, g)";
    let (window, end) = (WINDOWS[0].0, "tumble_end(at, INTERVAL '10 microseconds')");
    let script = format!(
        "CREATE EXTERNAL TABLE t ({columns}) STORED AS DELTA LOCATION 'memory:///t';
         INSERT INTO t SELECT k, {window}, {end}, 0, count(*) FROM events GROUP BY k, {window}, {end}"
    );
    run(&context, &script).await.unwrap();
    context.pipeline("t").unwrap().run_until_idle().await.unwrap();
    let query = "SELECT k, CAST(w AS BIGINT), CAST(e AS BIGINT), c FROM t";
    assert_eq!(shown(&context, query).await.unwrap(), EXPECTED[0]);
    // Here are groups with an end that have no start.
    let error = refusal(
        &context,
        &format!(
            "CREATE EXTERNAL TABLE o ({columns}) STORED AS DELTA LOCATION 'memory:///o';
             INSERT INTO o SELECT k, coalesce({window}, TIMESTAMP '1970-01-01'), {end},
               grouping({window}, {end}), count(*) FROM events WHERE k IS NOT NULL
             GROUP BY k, GROUPING SETS (({window}, {end}), ({end}), ())"
        ),
    )
    .await;
    assert!(error.contains("into a table whose primary key does not hold that column"), "{error}");
    let error = refusal(&context, "SELECT hop_end(at) FROM events GROUP BY at").await;
    assert!(error.contains("hop_end"), "{error}");
}
