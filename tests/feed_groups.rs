//! GROUP BY over the changes of tables.

use crate::support::feeds::{drain, runtime, small, sorted};
use crate::support::tables::{World, rows, run};
use crate::support::{self, How};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use proptest::prelude::*;
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

const GROUPS: &str = "CREATE EXTERNAL TABLE r (g VARCHAR NOT NULL, c BIGINT, s BIGINT, f BIGINT,
      PRIMARY KEY (g)) STORED AS DELTA LOCATION 'memory:///r';
    INSERT INTO r SELECT coalesce(g, 'none'), count(*), sum(n), count(n) FILTER (WHERE n > 0)
    FROM t_changes GROUP BY coalesce(g, 'none')";

#[derive(Clone, Debug)]
enum Step {
    /// Rows by key: a group, and a number.
    Write(Vec<(i64, u8, Option<i64>)>),
    Delete(i64),
    Run,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row =
        (0..8_i64, 0..5_u8, prop_oneof![Just(Some(0)), Just(None), (-9..9_i64).prop_map(Some)]);
    let step = prop_oneof![
        4 => proptest::collection::vec(row, 1..6).prop_map(Step::Write),
        3 => (0..8_i64).prop_map(Step::Delete),
        4 => Just(Step::Run),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// What is remembered is what there is, whether groups came back or not.
    #[test]
    fn groups_without_rows_are_forgotten_whenever_they_lost_them(steps in steps()) {
        runtime().block_on(async {
            let world = World::new();
            let mut context = small(&world, GROUPS).await;
            for step in steps.into_iter().chain([Step::Run, Step::Reopen, Step::Run]) {
                match step {
                    Step::Write(rows) => {
                        let last: std::collections::BTreeMap<_, _> =
                            rows.into_iter().map(|(k, g, n)| (k, (g, n))).collect();
                        let rows = last.into_iter().map(|(k, (g, n))| {
                            let g = char::from(b'a' + g);
                            format!("({k}, '{g}', {})", n.map_or("NULL".to_owned(), |n| n.to_string()))
                        });
                        let rows = rows.collect::<Vec<_>>().join(", ");
                        run(&context, &format!("INSERT INTO t (k, g, n) VALUES {rows}")).await.unwrap();
                    }
                    Step::Delete(k) => {
                        run(&context, &format!("DELETE FROM t WHERE k >= {k}")).await.unwrap();
                    }
                    Step::Run => {
                        drain(&context, "r").await;
                        remembers_what_there_is(&context).await;
                    }
                    Step::Reopen => context = small(&world, GROUPS).await,
                }
            }
        });
    }
}

async fn remembers_what_there_is(context: &SessionContext) {
    let expected = sorted(
        context,
        "SELECT coalesce(g, 'none'), count(*), sum(n), count(n) FILTER (WHERE n > 0) FROM t GROUP BY 1",
    )
    .await;
    assert_eq!(sorted(context, "SELECT * FROM r").await, expected);
    let remembered = rows(context, "SELECT count(*) FROM onefold_state('r')").await;
    assert_eq!(remembered, [expected.len().to_string()]);
}

/// Groups that live for one version each: what is saved does not grow with those that were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_files_hold_no_more_than_the_groups_there_are_for_long() {
    const KEYS: usize = 20;
    let world = World::new();
    let context = small(&world, GROUPS).await;
    let pipeline = context.pipeline("r").unwrap();
    let mut most = 0;
    for version in 0..60 {
        let rows = (0..KEYS).map(|key| format!("({key}, 'g{version}-{key}', {version})"));
        let rows = rows.collect::<Vec<_>>().join(", ");
        run(&context, &format!("INSERT INTO t (k, g, n) VALUES {rows}")).await.unwrap();
        let status = pipeline.run_until_idle().await.unwrap();
        assert_eq!(status.keys_held, KEYS as u64, "of version {version}");
        let manifest = pipeline.epochs(1).await.unwrap().remove(0).manifest;
        let files = manifest.operators.values().flat_map(|own| &own.files);
        most = most.max(files.map(|file| file.entries).sum::<u64>());
    }
    assert!(most <= 25 * 2 * KEYS as u64, "{most} entries"); // of 60 * 20 groups
    remembers_what_there_is(&context).await;
    run(&context, "INSERT INTO t (k, g, n) VALUES (0, 'g0-0', 3), (1, 'g0-0', 4)").await.unwrap();
    let context = small(&world, GROUPS).await;
    drain(&context, "r").await;
    remembers_what_there_is(&context).await;
    assert_eq!(rows(&context, "SELECT c, s FROM r WHERE g = 'g0-0'").await, ["2 7"]);
}
