//! `hop` and `session` over made-up bids, as the queries 5 and 11 of Nexmark ask; what EXPLAIN shows of
//! them; and keys so many that the local fold stops to make new groups.

use crate::rollups::shown;
use crate::support::{How, Row, batch, source, with_events};
use onefold::arrow::util::pretty::pretty_format_batches;
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use std::sync::Arc;

/// A post stands for an auction, and a user for a bidder. No row is late.
const BIDS: &str = "CREATE UNBOUNDED EXTERNAL TABLE bids (
      user_id BIGINT, post_id BIGINT, event_time TIMESTAMP,
      WATERMARK FOR event_time AS event_time - INTERVAL '10 seconds'
    ) STORED AS GENERATOR OPTIONS ('rows' '3000', 'rows_per_second' '10', 'users' '20',
      'partitions' '3', 'duplicate_percent' '0', 'late_percent' '0');
    SET onefold.epoch_rows_max = 500;";

const HOT: &str =
    "SELECT post_id, hop(event_time, INTERVAL '2 seconds', INTERVAL '10 seconds') AS start,
      count(*) AS n FROM bids WHERE event_time IS NOT NULL AND post_id IS NOT NULL
      GROUP BY post_id, hop(event_time, INTERVAL '2 seconds', INTERVAL '10 seconds')";

const ACTIVE: &str = "SELECT user_id, session(event_time, INTERVAL '3 seconds') AS start,
      max(event_time) AS until, count(*) AS n
      FROM bids WHERE event_time IS NOT NULL AND user_id IS NOT NULL
      GROUP BY user_id, session(event_time, INTERVAL '3 seconds')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hottest_auctions_of_each_hop_are_those_of_a_plain_query() {
    let context = filled("hot", HOT).await;
    let hottest = |hot: &str| {
        format!(
            "SELECT start, post_id, n FROM ({hot}) AS own WHERE n =
             (SELECT max(n) FROM ({hot}) AS other WHERE other.start = own.start)"
        )
    };
    let expected = shown(&context, &hottest(HOT)).await.unwrap();
    assert!(expected.len() > 150, "{expected:?}");
    assert_eq!(shown(&context, &hottest("SELECT * FROM hot")).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bids_of_each_bidder_while_active_are_those_of_a_plain_query() {
    let context = filled("active", ACTIVE).await;
    let expected = shown(&context, ACTIVE).await.unwrap();
    assert!(expected.len() > 200 && expected.len() < 2500, "{}", expected.len());
    assert_eq!(shown(&context, "SELECT * FROM active").await.unwrap(), expected);
}

/// A session in which the view `name` of `query` holds all there is.
async fn filled(name: &str, query: &str) -> SessionContext {
    let context = SessionContext::new().with_onefold(Settings::default()).unwrap();
    let url = "memory:///".parse().unwrap();
    context.runtime_env().register_object_store(&url, Arc::new(InMemory::new()));
    let view = format!("CREATE MATERIALIZED VIEW {name} LOCATION 'memory:///{name}' AS {query}");
    context.run_sql(&format!("{BIDS} {view}")).await.unwrap();
    let status = context.pipeline(name).unwrap().run_until_idle().await.unwrap();
    assert_eq!((status.rows_in, status.rows_late), (3000, 0));
    context
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plan_of_an_epoch_names_the_windows() {
    let context = SessionContext::new().with_onefold(Settings::default()).unwrap();
    context.run_sql(BIDS).await.unwrap();
    for (query, local) in [
        (HOT, "LocalRollupExec: gby=[post_id@0, hop(event_time@1, "),
        (ACTIVE, "LocalRollupExec: gby=[user_id@0, session(event_time@1, "),
    ] {
        let sql = format!("EXPLAIN CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS {query}");
        let frame = context.run_sql(&sql).await.unwrap().remove(0);
        let plan = pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string();
        assert!(plan.contains(local), "{plan}");
        assert!(!plan.contains("Unnest") && !plan.contains("WindowAgg"), "{plan}");
        assert!(!plan.contains("__onefold_first") && plan.contains("windows=["), "{plan}");
    }
}

/// So many keys that the local fold freezes: some rows are folded there, and others pass through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_do_not_come_back_are_in_their_windows_too() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = with_events(&store, &source, How { partitions: 1, ..How::default() }).unwrap();
    for (table, call) in [
        ("hops", "hop(at, INTERVAL '10 microseconds', INTERVAL '30 microseconds')"),
        ("sessions", "session(at, INTERVAL '8 microseconds')"),
    ] {
        let script = format!(
            "CREATE EXTERNAL TABLE {table} (m BIGINT NOT NULL, w TIMESTAMP NOT NULL, c BIGINT,
             s BIGINT, PRIMARY KEY (m, w)) STORED AS DELTA LOCATION 'memory:///{table}';
             INSERT INTO {table} SELECT CASE WHEN n % 4 = 0 THEN -1 ELSE n END AS m, {call},
             count(*), sum(n) FROM events GROUP BY CASE WHEN n % 4 = 0 THEN -1 ELSE n END, {call}"
        );
        context.run_sql(&script).await.unwrap();
    }
    // Row 0 brings the watermark to 53, which closes the first of the three hops of all others.
    let at = |number: i64| if number == 0 { 60 } else { 46 + number % 2 };
    let rows: Vec<Row> = (0..100_000).map(|number| (None, Some(at(number)), number)).collect();
    source.push("p0", &batch(&rows)).unwrap();
    let found = async |table: &str| {
        context.pipeline(table).unwrap().run_until_idle().await.unwrap();
        let query = format!(
            "SELECT CAST(w AS BIGINT), count(*), sum(c), sum(s), max(c) FROM {table} GROUP BY w"
        );
        shown(&context, &query).await.unwrap()
    };
    let sum: i64 = (0..100_000).sum();
    let [one, two] = [30, 40].map(|w| (w, 100_000 - i64::from(w == 30)));
    let hop = |(w, rows): (i64, i64)| format!("{w} | 75001 | {rows} | {sum} | {}", rows - 75_000);
    let last = [50, 60].map(|w| format!("{w} | 1 | 1 | 0 | 1"));
    assert_eq!(found("hops").await, [hop(one), hop(two), last[0].clone(), last[1].clone()]);
    let odd: i64 = (0..100_000).filter(|number| number % 2 == 1).sum();
    let sessions = [
        format!("46 | 25001 | 49999 | {} | 24999", sum - odd),
        format!("47 | 50000 | 50000 | {odd} | 1"),
        "60 | 1 | 1 | 0 | 1".to_owned(),
    ];
    assert_eq!(found("sessions").await, sessions);
}
