//! Pipelines over the changes of a table, at random moments of a random life of it, against one
//! query over the table as it then is.

use crate::support::tables::{World, refusal, rows, run};
use crate::support::{self, How};
use futures::TryStreamExt;
use onefold::datafusion::common::runtime::SpawnedTask;
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::memory::InMemory;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use onefold::pipeline::EpochOutcome;
use onefold::prelude::*;
use onefold::source::SourceTable;
use onefold::testing::{Fault, FaultyStore, source_conformance};
use proptest::prelude::*;
use std::sync::Arc;

/// A pipeline over changes: its target's columns, and its query; `t_changes` is `t` in one over
/// the table.
struct Fed {
    name: &'static str,
    columns: &'static str,
    select: &'static str,
}

const FEDS: [Fed; 7] = [
    Fed {
        name: "copy",
        columns: "k BIGINT NOT NULL, n INT NOT NULL, twice BIGINT CHECK (twice < 1000),
          PRIMARY KEY (k)",
        select: "SELECT k, n, n * 2 AS twice FROM t_changes WHERE n % 3 <> 0",
    },
    Fed {
        name: "moved",
        columns: "g VARCHAR NOT NULL, k INT NOT NULL, n INT, PRIMARY KEY (k, g)",
        select: "SELECT coalesce(g, 'none') AS g, CAST(k AS INT) AS k, n FROM
          (SELECT * FROM t_changes AS own WHERE k <> 3) AS sub",
    },
    Fed {
        name: "groups",
        columns: "g VARCHAR NOT NULL, c BIGINT NOT NULL, cn BIGINT, f BIGINT, s BIGINT,
          sf DECIMAL(30, 2), a DOUBLE, ad DECIMAL(38, 6), e BIGINT, x DOUBLE, PRIMARY KEY (g)",
        select: "SELECT coalesce(g, 'none') AS g, count(*) AS c, count(n) AS cn,
          count(n) FILTER (WHERE n > 0) AS f, sum(n) AS s, sum(d) FILTER (WHERE k > 2) AS sf,
          avg(n) AS a, avg(d) AS ad, 100 / count(*) + sum(n) AS e, sum(CAST(k AS DOUBLE)) AS x
          FROM t_changes GROUP BY coalesce(g, 'none')",
    },
    Fed {
        name: "some",
        columns: "g VARCHAR NOT NULL, c BIGINT, PRIMARY KEY (g)",
        select: "SELECT coalesce(g, 'none') AS g, count(*) AS c FROM t_changes AS own
          WHERE k <> 1 GROUP BY coalesce(g, 'none') HAVING count(*) > 1 AND sum(n) > 0",
    },
    Fed {
        name: "tree",
        columns: "g VARCHAR NOT NULL, m BIGINT NOT NULL, l INT NOT NULL, c BIGINT, s BIGINT,
          PRIMARY KEY (g, m, l)",
        select: "SELECT coalesce(g, 'all') AS g, coalesce(m, -1) AS m, grouping(g, m) AS l,
          count(*) AS c, sum(n) AS s
          FROM (SELECT coalesce(g, 'none') AS g, k % 2 AS m, n FROM t_changes)
          GROUP BY CUBE(g, m)",
    },
    Fed {
        name: "whole",
        columns: "a VARCHAR NOT NULL, c BIGINT, s BIGINT, PRIMARY KEY (a)",
        select: "SELECT 'all' AS a, count(*) AS c, sum(n) AS s FROM t_changes GROUP BY 'all'",
    },
    // Of the changes of another's target.
    Fed {
        name: "sizes",
        columns: "c BIGINT NOT NULL, many BIGINT, s DECIMAL(38, 0), PRIMARY KEY (c)",
        select: "SELECT c, count(*) AS many, sum(s) AS s FROM groups_changes GROUP BY c",
    },
];

#[derive(Clone, Debug)]
enum Step {
    /// Rows by key: group, number and cents.
    Write(Vec<(i64, Option<u8>, Option<i32>)>),
    Statement(&'static str),
    Restore(u64),
    Run(usize),
    Reopen,
}

const STATEMENTS: [&str; 7] = [
    "DELETE FROM t WHERE k % 3 = 1",
    "UPDATE t SET n = n + 1 WHERE k < 4",
    "UPDATE t SET g = 'b', d = d * -2 WHERE n > 2",
    "MERGE INTO t USING (VALUES (1, 5), (9, 6)) AS s(k, n) ON t.k = s.k
     WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (k, n, d) VALUES (s.k, s.n, 1.5)",
    "OPTIMIZE t",
    "TRUNCATE TABLE t",
    "INSERT OVERWRITE t SELECT k, g, n + 7, d FROM t WHERE k > 1",
];

fn step() -> impl Strategy<Value = Step> {
    let row =
        (0..10_i64, proptest::option::of(0..3_u8), proptest::option::weighted(0.8, -3..9_i32));
    prop_oneof![
        4 => proptest::collection::vec(row, 1..8).prop_map(Step::Write),
        4 => (0..STATEMENTS.len()).prop_map(|index| Step::Statement(STATEMENTS[index])),
        1 => (0..30_u64).prop_map(Step::Restore),
        6 => (0..FEDS.len()).prop_map(Step::Run),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_answer_is_that_of_one_query_whenever_the_pipelines_run(
        steps in proptest::collection::vec(step(), 0..14),
        epoch_rows_max in prop_oneof![Just(1_u64), Just(3), Just(1000)],
    ) {
        runtime().block_on(async {
            let mut world = World::new();
            world.settings.epoch_rows_max = epoch_rows_max;
            let mut context = opened(&world).await;
            run(&context, &written(&[(5, None, Some(1))])).await.unwrap();
            drain(&context, "tree").await; // whose row of all rows is there from the first one on
            for step in steps {
                match step {
                    Step::Write(rows) => run(&context, &written(&rows)).await.unwrap(),
                    Step::Statement(sql) => run(&context, sql).await.unwrap(),
                    Step::Restore(back) => {
                        let newest = context.table_version("t").unwrap();
                        let version = newest - back % (newest + 1);
                        let sql = format!("RESTORE t TO VERSION AS OF {version}");
                        run(&context, &sql).await.unwrap();
                    }
                    Step::Run(index) => drain(&context, FEDS[index].name).await,
                    Step::Reopen => context = opened(&world).await,
                }
            }
            for Fed { name, .. } in &FEDS {
                drain(&context, name).await;
            }
            for Fed { name, select, .. } in &FEDS {
                let found = sorted(&context, &format!("SELECT * FROM {name}")).await;
                let select = select.replace("_changes", "");
                assert_eq!(found, sorted(&context, &select).await, "{name}");
            }
            balances(&context).await;
        });
    }
}

fn written(rows: &[(i64, Option<u8>, Option<i32>)]) -> String {
    let mut last = std::collections::BTreeMap::new();
    last.extend(rows.iter().map(|(key, group, number)| (key, (group, number))));
    let values = last.into_iter().map(|(key, (group, number))| {
        let group = group.map_or("NULL".to_owned(), |own| format!("'{}'", char::from(b'a' + own)));
        let number = number.map_or("NULL".to_owned(), |own| own.to_string());
        format!("({key}, {group}, {number}, {key}.25)")
    });
    format!("INSERT INTO t VALUES {}", values.collect::<Vec<_>>().join(", "))
}

/// A session with the table, its changes, and the pipelines over them.
async fn opened(world: &World) -> SessionContext {
    let context = world.session();
    run(
        &context,
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, g VARCHAR, n INT, d DECIMAL(12, 2),
           PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t';
         CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA LOCATION 'memory:///t'",
    )
    .await
    .unwrap();
    for Fed { name, columns, select } in &FEDS {
        let parts = if *name == "moved" { "PARTITIONED BY (g)" } else { "" };
        let script = format!(
            "CREATE EXTERNAL TABLE {name} ({columns}) STORED AS DELTA {parts}
             LOCATION 'memory:///{name}';
             CREATE UNBOUNDED EXTERNAL TABLE {name}_changes STORED AS DELTA
             LOCATION 'memory:///{name}';
             INSERT INTO {name} {select}"
        );
        run(&context, &script).await.unwrap();
    }
    context
}

async fn drain(context: &SessionContext, name: &str) {
    let done = context.pipeline(name).unwrap().run_until_idle().await;
    assert!(done.is_ok(), "{name}: {done:?}");
}

async fn sorted(context: &SessionContext, sql: &str) -> Vec<String> {
    let mut found = rows(context, sql).await;
    found.sort();
    found
}

/// Every epoch of the ledgers adds up, and partitions are read from their beginning, in order.
async fn balances(context: &SessionContext) {
    for Fed { name, .. } in &FEDS {
        let ledger = format!(
            "SELECT count(*) FROM (SELECT *, lag(offset_to, 1, 0)
               OVER (PARTITION BY \"partition\" ORDER BY epoch) AS expected
               FROM onefold_history('{name}'))
             WHERE rows_read <> rows_emitted + rows_filtered OR rows_read <> offset_to - offset_from
               OR offset_from <> expected"
        );
        assert_eq!(rows(context, &ledger).await, ["0"], "{name}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A table with two rows, its changes, and what `script` makes of them.
async fn small(world: &World, script: &str) -> SessionContext {
    let context = world.session();
    let table = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, g VARCHAR, n BIGINT, f DOUBLE,
           PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t';
         CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA LOCATION 'memory:///t'";
    run(&context, table).await.unwrap();
    if context.table_version("t") == Some(0) {
        run(&context, "INSERT INTO t VALUES (1, 'a', 10, 1), (2, 'b', 20, 2)").await.unwrap();
    }
    run(&context, script).await.unwrap();
    context
}

const COPY: &str = "CREATE EXTERNAL TABLE c (k BIGINT NOT NULL, n BIGINT, PRIMARY KEY (k))
    STORED AS DELTA LOCATION 'memory:///c'; INSERT INTO c SELECT k, n FROM t_changes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_version_is_read_once_and_what_only_moved_files_is_no_change() {
    let mut world = World::new();
    world.settings.compact_files_min = 1000; // but by hand
    let context = small(&world, COPY).await;
    let pipeline = context.pipeline("c").unwrap();
    let epoch = async || match pipeline.run_epoch().await.unwrap() {
        EpochOutcome::Committed { rows, .. } => Some(rows),
        EpochOutcome::Idle => None,
    };
    assert_eq!((epoch().await, epoch().await), (Some(2), None));
    run(&context, "UPDATE t SET n = n + 1 WHERE k = 1; INSERT INTO t VALUES (3, 'a', 30, 3)")
        .await
        .unwrap();
    let changed = "UPDATE t SET n = 9 WHERE k = 3; UPDATE t SET n = 20 WHERE k = 2";
    run(&context, changed).await.unwrap();
    assert_eq!(epoch().await, Some(3), "the row before, the row after, and the new one");
    assert_eq!(rows(&context, "SELECT * FROM c ORDER BY k").await, ["1 11", "2 20", "3 9"]);
    run(&context, "OPTIMIZE t").await.unwrap();
    assert_eq!((epoch().await, epoch().await), (Some(0), None), "only its place moved");
    run(&context, "DELETE FROM t WHERE k = 2; OPTIMIZE t").await.unwrap();
    assert_eq!(epoch().await, Some(1), "moved rows are netted");
    let ledger = "SELECT \"partition\", rows_read, rows_emitted FROM onefold_history('c')
        ORDER BY epoch";
    let first = rows(&context, ledger).await;
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(first[0].starts_with("version ") && first[0].ends_with(" 2 2"), "{first:?}");
    assert!(first[1].starts_with("versions ") && first[1].ends_with(" 3 3"), "{first:?}");
    assert!(first[2].ends_with(" 1 1"), "{first:?}");
    assert_eq!(rows(&context, "SELECT * FROM t_changes WHERE k > 2").await, ["3 a 9 3.0"]);
    let again = small(&world, COPY).await.pipeline("c").unwrap();
    assert_eq!(again.run_epoch().await.unwrap(), EpochOutcome::Idle, "a new process goes on there");
    let provider = context.table_provider("t_changes").await.unwrap();
    let source = Arc::clone(provider.downcast_ref::<SourceTable>().unwrap().source());
    source_conformance(&source).await.unwrap();
}

/// A fence in the source is not worth an epoch at once, and is one before its version is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tables_that_follow_each_other_come_to_rest() {
    let world = World::new();
    let back = format!(
        "{COPY}; CREATE UNBOUNDED EXTERNAL TABLE c_changes STORED AS DELTA LOCATION 'memory:///c';
         INSERT INTO t SELECT k, NULL AS g, n, NULL AS f FROM c_changes WHERE k < 0"
    );
    let context = small(&world, &back).await;
    let versions = || (context.table_version("t"), context.table_version("c"));
    for _ in 0..3 {
        drain(&context, "c").await;
        drain(&context, "t").await;
    }
    let rested = versions();
    drain(&context, "c").await;
    drain(&context, "t").await;
    assert_eq!(versions(), rested);
    assert_eq!(rows(&context, "SELECT count(*) FROM t").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_may_join_what_changes_meanwhile() {
    let world = World::new();
    let context = small(
        &world,
        "CREATE EXTERNAL TABLE names (g VARCHAR NOT NULL, name VARCHAR, PRIMARY KEY (g))
         STORED AS DELTA LOCATION 'memory:///names';
         INSERT INTO names VALUES ('a', 'one'), ('b', 'two');
         CREATE EXTERNAL TABLE j (k BIGINT NOT NULL, name VARCHAR, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///j';
         INSERT INTO j SELECT c.k, names.name FROM t_changes c JOIN names ON c.g = names.g
         WHERE names.name <> 'three'",
    )
    .await;
    drain(&context, "j").await;
    assert_eq!(rows(&context, "SELECT * FROM j ORDER BY k").await, ["1 one", "2 two"]);
    run(&context, "DELETE FROM names WHERE g = 'a'; DELETE FROM t WHERE k = 1").await.unwrap();
    run(&context, "UPDATE names SET name = 'three'; UPDATE t SET n = 0").await.unwrap();
    drain(&context, "j").await;
    assert_eq!(rows(&context, "SELECT * FROM j").await, [""; 0], "a row that goes needs no match");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_gone_is_said_with_the_way_out() {
    let mut world = World::new();
    world.settings.compact_files_min = 1000;
    let context = small(&world, COPY).await;
    drain(&context, "c").await;
    let before = files(&world.store, "t/part-").await;
    run(&context, "UPDATE t SET n = 0").await.unwrap();
    for file in before {
        world.store.delete(&file.into()).await.unwrap(); // as a vacuum does, much later
    }
    let again = small(&world, COPY).await;
    for context in [&context, &again] {
        let error = context.pipeline("c").unwrap().run_until_idle().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        let text = error.to_string();
        for part in ["after version 1", "there is no t/part-", "write into a new table"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    for commit in files(&world.store, "t/_delta_log/0000").await {
        world.store.delete(&commit.into()).await.unwrap();
    }
    let context = small(&world, COPY).await; // another table in the same place
    let error = context.pipeline("c").unwrap().run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("another source t_changes"), "{error}");
}

async fn files(store: &Arc<dyn ObjectStore>, prefix: &str) -> Vec<String> {
    let listed = store.list(None).map_ok(|own| own.location.to_string());
    let all: Vec<String> = listed.try_collect().await.unwrap();
    all.into_iter().filter(|own| own.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_altered_is_followed_when_it_is_opened_again() {
    let world = World::new();
    let context = small(&world, COPY).await;
    drain(&context, "c").await;
    run(&context, "ALTER TABLE t ADD COLUMN more BIGINT; UPDATE t SET n = 7, more = 1")
        .await
        .unwrap();
    let error = context.pipeline("c").unwrap().run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("its table was altered"), "{error}");
    run(
        &context,
        "DROP TABLE t_changes;
         CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA LOCATION 'memory:///t';
         INSERT INTO c SELECT k, n FROM t_changes",
    )
    .await
    .unwrap();
    drain(&context, "c").await;
    assert_eq!(rows(&context, "SELECT * FROM c ORDER BY k").await, ["1 7", "2 7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_followed_while_they_happen() {
    let world = World::new();
    let context = small(&world, &format!("SET onefold.poll_interval_ms = 5; {COPY}")).await;
    let pipeline = context.pipeline("c").unwrap();
    let (told, stop) = tokio::sync::oneshot::channel::<()>();
    let running = SpawnedTask::spawn({
        let pipeline = pipeline.clone();
        async move { pipeline.run(async { stop.await.unwrap() }).await }
    });
    let mut status = pipeline.status();
    status.wait_for(|now| now.rows_in >= 2).await.unwrap();
    run(&context, "INSERT INTO t VALUES (3, 'a', 30, 3)").await.unwrap();
    status.wait_for(|now| now.rows_in >= 3).await.unwrap();
    told.send(()).unwrap();
    running.join().await.unwrap().unwrap();
    assert_eq!(rows(&context, "SELECT count(*) FROM c").await, ["3"]);
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_the_changes_and_what_goes() {
    let context = small(&World::new(), COPY).await;
    let plan = rows(&context, "EXPLAIN INSERT INTO c SELECT k, n FROM t_changes").await.join("\n");
    for part in ["TableScan: t_changes", "__onefold_change < ", "__onefold_change > "] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    run(
        &context,
        "CREATE EXTERNAL TABLE r (g VARCHAR NOT NULL, s BIGINT, PRIMARY KEY (g))
         STORED AS DELTA LOCATION 'memory:///r'",
    )
    .await
    .unwrap();
    let sql = "EXPLAIN INSERT INTO r SELECT coalesce(g, ''), sum(n) FROM t_changes
        GROUP BY coalesce(g, '')";
    let plan = rows(&context, sql).await.join("\n");
    assert!(plan.contains("sum(t_changes.n,t_changes.__onefold_change)"), "{plan}");
    let bounded = "SELECT k FROM t_changes DEDUP BY (k > 0) WITHIN UNBOUNDED";
    assert_eq!(rows(&context, bounded).await, ["1"], "a plain query reads the rows there are");
}

/// Columns of a target, its options, a query, and why it is refused.
const REFUSED: [(&str, &str, &str); 16] = [
    ("PRIMARY KEY (n)", "k, g, n FROM t_changes", "does not hold k"),
    ("PRIMARY KEY (k)", "k + 1, g, n FROM t_changes", "does not hold k"),
    (
        "PRIMARY KEY (g)",
        "c.k, names.name, c.n FROM t_changes c JOIN names ON c.g = names.g",
        "key column g is not made of columns of the changed table",
    ),
    (
        "PRIMARY KEY (k)",
        "k, g, n FROM t_changes UNION ALL SELECT k, g, n FROM events",
        "rows of the other branch",
    ),
    ("PRIMARY KEY (k)", "k, g, n FROM t_changes DEDUP BY g WITHIN UNBOUNDED", "a key already"),
    (
        "PRIMARY KEY (g)",
        "count(*), c.g, 1 FROM t_changes c JOIN names ON c.g = names.g GROUP BY c.g",
        "write the join into a table of its own",
    ),
    ("PRIMARY KEY (g)", "max(n), g, 1 FROM t_changes GROUP BY g", "cannot take back a row"),
    ("PRIMARY KEY (g)", "count(DISTINCT n), g, 1 FROM t_changes GROUP BY g", "GROUP BY the column"),
    (
        "PRIMARY KEY (g)",
        "1, g, hll_estimate(hll_state(n)) FROM t_changes GROUP BY g",
        "cannot take back a row",
    ),
    ("PRIMARY KEY (g)", "1, g, sum(f) FROM t_changes GROUP BY g", "AS DECIMAL"),
    ("PRIMARY KEY (g)", "1, g, avg(f) FROM t_changes GROUP BY g", "AS DECIMAL"),
    (
        "PRIMARY KEY (g)",
        "1, g, first_value(n ORDER BY k) FROM t_changes GROUP BY g",
        "cannot take back a row",
    ),
    ("PRIMARY KEY (g)", "count(*), g, 1 FROM t_changes GROUP BY g EMIT FINAL", "EMIT FINAL"),
    (
        "PRIMARY KEY (k)",
        "a.k, a.g, a.n FROM t_changes a JOIN t_changes b ON a.k = b.k",
        "a join of two unbounded tables",
    ),
    (
        "PRIMARY KEY (k)) STORED AS DELTA OPTIONS ('merge_mode' 'first'",
        "k, g, n FROM t_changes",
        "does not replace the last row",
    ),
    ("PRIMARY KEY (g)", "1, 'all', sum(n) FROM t_changes", "without GROUP BY"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_back_is_refused_with_the_way_out() {
    let world = World::new();
    let context = small(
        &world,
        "CREATE TABLE names AS SELECT * FROM (VALUES ('a', 'one')) AS v(g, name);
         CREATE UNBOUNDED EXTERNAL TABLE events (k BIGINT, g VARCHAR, n BIGINT) STORED AS JSON
         LOCATION 'memory:///events/'",
    )
    .await;
    for (index, (words, select, expected)) in REFUSED.into_iter().enumerate() {
        let (key, options) = words.split_once(") STORED AS DELTA OPTIONS (").unwrap_or((words, ""));
        let key = key.trim_end_matches(')');
        let options =
            if options.is_empty() { String::new() } else { format!("OPTIONS ({options})") };
        let script = format!(
            "CREATE EXTERNAL TABLE x (k BIGINT NOT NULL, g VARCHAR NOT NULL, n BIGINT NOT NULL,
             {key})) STORED AS DELTA LOCATION 'memory:///x{index}' {options};
             INSERT INTO x SELECT {select}"
        );
        let error = refusal(&context, &script).await;
        assert!(error.contains(expected), "{select}: {error}");
        run(&context, "DROP TABLE x").await.unwrap();
    }
    for (script, expected) in [
        ("INSERT INTO t SELECT * FROM t_changes", "from its own changes"),
        ("INSERT INTO t_changes VALUES (1, 'a', 1, 1)", ""),
        (
            "CREATE UNBOUNDED EXTERNAL TABLE w (k BIGINT, at TIMESTAMP,
             WATERMARK FOR at AS at - INTERVAL '1 second') STORED AS DELTA LOCATION 'memory:///t'",
            "leave out columns and WATERMARK FOR",
        ),
        (
            "CREATE UNBOUNDED EXTERNAL TABLE w STORED AS DELTA LOCATION 'memory:///t'
             OPTIONS ('merge_mode' 'first')",
            "leave out option",
        ),
        (
            "CREATE UNBOUNDED EXTERNAL TABLE w STORED AS DELTA LOCATION 'memory:///nowhere'",
            "no Delta table at",
        ),
    ] {
        let error = refusal(&context, script).await;
        assert!(error.contains(expected), "{script}: {error}");
    }
}

/// A pipeline over changes that is cut off at any call to its store, and opened again.
#[test]
fn changes_are_folded_in_once_wherever_the_process_is_cut_off() {
    const FAULTS: [Fault; 3] = [Fault::Lost, Fault::AppliedThenTimeout, Fault::AppliedLate];
    const SCRIPT: &str = "CREATE EXTERNAL TABLE r (g VARCHAR NOT NULL, c BIGINT, s BIGINT,
          PRIMARY KEY (g)) STORED AS DELTA LOCATION 'memory:///r';
        INSERT INTO r SELECT coalesce(g, ''), count(*), sum(n) FROM t_changes
        GROUP BY coalesce(g, '')";
    async fn work(world: &World) -> Result<SessionContext, Error> {
        let context = world.session();
        let feed = "CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA
            LOCATION 'memory:///t'";
        run(&context, &format!("{feed}; {SCRIPT}")).await?;
        context.pipeline("r")?.run_until_idle().await?;
        Ok(context)
    }
    runtime().block_on(async {
        let first = Arc::new(InMemory::new());
        let mut world = World { store: Arc::clone(&first) as _, ..World::new() };
        world.settings.epoch_rows_max = 4;
        let context = small(&world, "INSERT INTO t VALUES (3, 'a', 1, 1), (4, 'c', 2, 2)").await;
        work(&world).await.unwrap();
        let changes = "UPDATE t SET n = n * 3 WHERE k <> 2; DELETE FROM t WHERE k = 4;
            INSERT INTO t VALUES (5, 'b', 50, 1), (6, 'd', 60, 1)";
        run(&context, changes).await.unwrap();
        let query = "SELECT coalesce(g, ''), count(*), sum(n) FROM t GROUP BY 1 ORDER BY 1";
        let expected = rows(&context, query).await;
        let on = |store: Arc<dyn ObjectStore>| World { store, ..world.clone() };
        let counting = FaultyStore::once(Arc::new(first.fork()), u64::MAX, Fault::Lost);
        work(&on(Arc::new(counting.clone()))).await.unwrap();
        assert!(counting.calls() > 20, "only {} calls", counting.calls());
        for fault in FAULTS {
            for at in 1..=counting.calls() {
                let inner: Arc<dyn ObjectStore> = Arc::new(first.fork());
                let faulty = FaultyStore::cut_off(Arc::clone(&inner), at, fault);
                drop(work(&on(Arc::new(faulty.clone()))).await);
                faulty.apply_late(u64::MAX).await;
                let context = work(&on(inner)).await.unwrap();
                let found = rows(&context, "SELECT * FROM r ORDER BY g").await;
                assert_eq!(found, expected, "{fault:?} at call {at}");
            }
        }
    });
}
