//! The key of a view that a window is in, what is said where a column of it can be NULL, and how
//! intervals are shown.

use crate::rollups::shown;
use crate::support::tables::{refusal, rows, run};
use crate::support::{How, batch, source, with_events};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use std::sync::Arc;

const WINDOW: &str = "tumble(at, INTERVAL '10 microseconds')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_the_watermark_column_is_in_the_key_as_it_is() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = with_events(&store, &source, How::default()).unwrap();
    let log = [(Some(1), Some(5), 1), (Some(1), None, 2), (Some(2), Some(15), 3)];
    source.push("p0", &batch(&log)).unwrap();
    for (index, window) in [
        WINDOW,
        "date_bin(INTERVAL '10 microseconds', at)",
        "date_trunc('microsecond', at)",
        "at::DATE",
        "hop(at, INTERVAL '10 microseconds', INTERVAL '10 microseconds')",
        "session(at, INTERVAL '3 microseconds')",
        "w",
    ]
    .into_iter()
    .enumerate()
    {
        let script = format!(
            "CREATE MATERIALIZED VIEW v{index} LOCATION 'memory:///v{index}' AS
             SELECT k, {window} AS start, count(*) AS c, sum(n) AS s
             FROM (SELECT *, {WINDOW} AS w FROM events) AS e WHERE k IS NOT NULL GROUP BY k, {window}"
        );
        run(&context, &script).await.unwrap_or_else(|error| panic!("{window}: {error}"));
        context.pipeline(&format!("v{index}")).unwrap().run_until_idle().await.unwrap();
        let found = shown(&context, &format!("SELECT k, c, s FROM v{index}")).await.unwrap();
        assert_eq!(found, ["1 | 1 | 1", "2 | 1 | 3"], "{window}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_column_that_can_be_null_is_sql() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = with_events(&store, &source(1), How::default()).unwrap();
    let mut name = 0;
    let mut create = |key: &str, more: &str| {
        name += 1;
        format!(
            "CREATE MATERIALIZED VIEW v{name} LOCATION 'memory:///v{name}' AS
             SELECT {key} AS own, {WINDOW} AS start, count(*) AS c
             FROM events DEDUP BY n WITHIN INTERVAL '1 hour' LATE PASS {more} GROUP BY {key}, {WINDOW}"
        )
    };
    for (key, shown, filled) in [
        ("k", "events.k", "coalesce(events.k, '')"),
        ("n % 10", "(events.n % 10)", "coalesce((events.n % 10), 0)"),
        ("n > 3", "(events.n > 3)", "coalesce((events.n > 3), false)"),
        ("lower(k)", "lower(events.k)", "coalesce(lower(events.k), '')"),
        (
            "date_bin(INTERVAL '90 seconds', at + INTERVAL '1 month')",
            "date_bin(INTERVAL '1 minute 30 seconds', (events.\"at\" + INTERVAL '1 month'))",
            "coalesce(date_bin(INTERVAL '1 minute 30 seconds', (events.\"at\" + INTERVAL '1 month')), \
             TIMESTAMP '1970-01-01')",
        ),
    ] {
        let error = refusal(&context, &create(key, "")).await;
        let said = format!(
            "{shown} can be NULL, and a PRIMARY KEY cannot; write WHERE {shown} IS NOT NULL, or \
             {filled} in its place everywhere"
        );
        assert!(error.contains(&said), "{key}: {error}");
        run(&context, &create(key, &format!("WHERE {shown} IS NOT NULL"))).await.unwrap();
        run(&context, &create(filled, "")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intervals_are_shown_as_they_are_typed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = with_events(&store, &source, How::default()).unwrap();
    source.push("p0", &batch(&[(Some(1), Some(5), 1)])).unwrap();
    let create = "CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS
        SELECT tumble(at, INTERVAL '1 minute') AS start, count(*) AS c FROM events
        GROUP BY tumble(at, INTERVAL '1 minute')";
    run(&context, create).await.unwrap();
    context.pipeline("v").unwrap().run_until_idle().await.unwrap();
    let found = shown(&context, "SELECT \"group\" FROM onefold_state('v')").await.unwrap();
    assert_eq!(found, ["tumble(events.at,INTERVAL '1 minute')=1970-01-01T00:00:00"]);
    let plan = rows(&context, &format!("EXPLAIN {}", create.replace(" v ", " other "))).await;
    let plan = plan.join("\n");
    // What DataFusion writes of physical expressions is its own.
    let width = "tumble(events.at,INTERVAL '1 minute')";
    for line in [format!("AS {width}]]"), format!("windows=[{width}]")] {
        assert!(plan.contains(&line), "{line}: {plan}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_is_refused_is_said_in_our_words_only() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = with_events(&store, &source(1), How::default()).unwrap();
    for (window, said) in [
        (
            "hop(at, INTERVAL '1 minute', INTERVAL '90 seconds')",
            "hop: the size 1 minute 30 seconds is no multiple of the slide 1 minute; write hop(",
        ),
        (
            "hop(at, INTERVAL '0 seconds', INTERVAL '90 seconds')",
            "hop: slide INTERVAL '0 seconds' is not longer than nothing; write hop(",
        ),
        (
            "session(at, INTERVAL '-1 second')",
            "session: gap INTERVAL '-1 second' is not longer than nothing; write session(",
        ),
        ("session(at, INTERVAL '1 month')", "session: gap: months and years have no fixed length"),
    ] {
        let query = format!("SELECT {window} AS w, count(*) AS c FROM events GROUP BY {window}");
        let error = run(&context, &query).await.unwrap_err().to_string();
        assert!(error.starts_with(said), "{window}: {error}");
    }
}
