//! GROUP BY over the changes of tables.

use crate::support::feeds::{drain, small, sorted};
use crate::support::tables::{World, rows, run};
use crate::support::{self, How};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use std::sync::Arc;

/// Minutes of a stream, and days of the minutes: late rows change a minute, and so a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_are_made_of_minutes_that_are_made_of_events() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = support::source(1);
    let script = "
        CREATE EXTERNAL TABLE minutes (k VARCHAR NOT NULL, minute TIMESTAMP NOT NULL, n BIGINT,
          s BIGINT, PRIMARY KEY (k, minute)) STORED AS DELTA LOCATION 'memory:///minutes';
        INSERT INTO minutes SELECT k, date_bin(INTERVAL '5 microseconds', at), count(*), sum(n)
        FROM events WHERE k IS NOT NULL GROUP BY k, date_bin(INTERVAL '5 microseconds', at);
        CREATE UNBOUNDED EXTERNAL TABLE minutes_changes STORED AS DELTA
        LOCATION 'memory:///minutes';
        CREATE MATERIALIZED VIEW days LOCATION 'memory:///days' AS
        SELECT date_bin(INTERVAL '40 microseconds', minute) AS day, sum(n) AS n, sum(s) AS s,
          CAST(sum(s) AS DOUBLE) / sum(n) AS a
        FROM minutes_changes GROUP BY date_bin(INTERVAL '40 microseconds', minute)";
    let context = support::with_events(&store, &source, How::default()).unwrap();
    context.run_sql(script).await.unwrap();
    for step in 0..6_i64 {
        let row = |n: i64| (Some((n % 3) as u8), Some(step * 9 + n % 12), step * 100 + n);
        source.push("p0", &support::batch(&(0..20).map(row).collect::<Vec<_>>())).unwrap();
        drain(&context, "minutes").await;
        if step % 2 == 1 {
            drain(&context, "days").await;
        }
    }
    let expected = "SELECT date_bin(INTERVAL '40 microseconds', minute), sum(n), sum(s),
        CAST(sum(s) AS DOUBLE) / sum(n) FROM minutes GROUP BY 1";
    let expected = sorted(&context, expected).await;
    assert!(expected.len() > 1, "{expected:?}");
    assert_eq!(sorted(&context, "SELECT * FROM days").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_the_sum_of_what_two_tables_hold() {
    let world = World::new();
    let context = small(
        &world,
        "CREATE EXTERNAL TABLE u (k BIGINT NOT NULL, n BIGINT, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///u';
         INSERT INTO u VALUES (1, 5), (2, 6);
         CREATE UNBOUNDED EXTERNAL TABLE u_changes STORED AS DELTA LOCATION 'memory:///u';
         CREATE EXTERNAL TABLE both (k BIGINT NOT NULL, c BIGINT, n BIGINT, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///both';
         INSERT INTO both SELECT k, count(*), sum(n) FROM
           (SELECT k, n FROM t_changes UNION ALL SELECT k, n FROM u_changes) GROUP BY k",
    )
    .await;
    drain(&context, "both").await;
    run(&context, "DELETE FROM t WHERE k = 1; DELETE FROM u WHERE k = 2; UPDATE u SET n = 1")
        .await
        .unwrap();
    drain(&context, "both").await;
    assert_eq!(rows(&context, "SELECT * FROM both ORDER BY k").await, ["1 1 1", "2 1 20"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_takes_back_the_lowest_number_there_is() {
    let world = World::new();
    let context = small(
        &world,
        "CREATE EXTERNAL TABLE s (a VARCHAR NOT NULL, s BIGINT, m DOUBLE, PRIMARY KEY (a))
         STORED AS DELTA LOCATION 'memory:///s';
         INSERT INTO s SELECT 'all', sum(n), avg(n) FROM t_changes GROUP BY 'all'",
    )
    .await;
    let lowest = "UPDATE t SET n = -9223372036854775807 - 1 WHERE k = 1; DELETE FROM t WHERE k = 2";
    run(&context, lowest).await.unwrap();
    drain(&context, "s").await;
    let found = rows(&context, "SELECT s, m FROM s").await;
    assert_eq!(found, ["-9223372036854775808 -9.223372036854776e18"]);
    run(&context, "UPDATE t SET n = 5").await.unwrap();
    drain(&context, "s").await;
    assert_eq!(rows(&context, "SELECT s, m FROM s").await, ["5 5.0"]);
    run(&context, "UPDATE t SET n = NULL").await.unwrap();
    drain(&context, "s").await;
    assert_eq!(rows(&context, "SELECT s, m FROM s").await, ["NULL NULL"]);
    run(&context, "DELETE FROM t").await.unwrap();
    drain(&context, "s").await;
    assert_eq!(rows(&context, "SELECT s, m FROM s").await, [""; 0]);
}
