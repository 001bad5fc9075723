//! Statements that change upsert tables: each is one commit, of what its WHERE names and no more.

use crate::support::tables::{World, refusal, rows, run};
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TABLE: &str = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, s VARCHAR,
    PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_where_is_ever_lost() {
    let context = filled().await;
    run(&context, "CREATE TABLE few (k BIGINT) AS VALUES (2), (3), (NULL)").await.unwrap();
    for (statement, left) in [
        ("DELETE FROM t WHERE false", "1 2 3 4 5 6"),
        ("DELETE FROM t WHERE k IN (SELECT k FROM few WHERE k > 100)", "1 2 3 4 5 6"),
        ("DELETE FROM t WHERE v = 10 AND 1 = 1", "2 3 4 5 6"),
        ("DELETE FROM t WHERE k IN (SELECT k FROM few)", "4 5 6"),
        ("DELETE FROM t WHERE EXISTS (SELECT 1 FROM few WHERE few.k + 2 = t.k)", "6"),
        ("DELETE FROM t WHERE NULL", "6"),
        ("DELETE FROM t AS x WHERE x.k = 6", ""),
    ] {
        let outcome = context.run_sql(statement).await;
        if let Err(error) = outcome {
            // Where DataFusion does not parse it, nothing may be lost either.
            assert!(statement.contains(" AS x"), "{statement}: {error}");
            continue;
        }
        assert_eq!(keys(&context).await, left, "{statement}");
    }
    let context = filled().await;
    run(&context, "DELETE FROM t WHERE k > 1 LIMIT 2").await.unwrap();
    assert_eq!(keys(&context).await.split(' ').count(), 4, "the limit holds");
    run(&context, "DELETE FROM t").await.unwrap();
    assert_eq!(keys(&context).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planning_and_explaining_change_nothing() {
    let context = filled().await;
    let before = version(&context);
    for statement in [
        "DELETE FROM t",
        "UPDATE t SET v = 0",
        "TRUNCATE TABLE t",
        "REPLACE INTO t VALUES (1, 0, '')",
        "INSERT OVERWRITE t VALUES (1, 0, '')",
        "MERGE INTO t USING (SELECT 1 AS k) AS s ON t.k = s.k WHEN MATCHED THEN DELETE",
    ] {
        let explained = rows(&context, &format!("EXPLAIN {statement}")).await.join("\n");
        assert!(explained.contains("DmlExec"), "{explained}");
        let frame = context.sql(statement).await.unwrap();
        frame.create_physical_plan().await.unwrap();
    }
    assert_eq!(version(&context), before);
    assert_eq!(keys(&context).await, "1 2 3 4 5 6");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_statement_is_one_commit_and_says_how_many_rows_it_changed() {
    let context = filled().await;
    for (statement, count, expected) in [
        ("UPDATE t SET v = v + 1, s = 'up' WHERE k <= 2", "2", "1 11 up|2 21 up|3 30 c"),
        ("UPDATE t SET v = (SELECT max(v) FROM t) WHERE k = 1", "1", "1 30 up|2 21 up|3 30 c"),
        ("UPDATE t SET k = k + 10 WHERE k <= 2", "2", "3 30 c|11 30 up|12 21 up"),
        ("UPDATE t SET k = k + 1 WHERE k >= 11", "2", "3 30 c|12 30 up|13 21 up"),
        (
            "REPLACE INTO t VALUES (3, 1, 'r'), (3, 2, 'r2'), (1, 0, NULL)",
            "2",
            "1 0 NULL|3 2 r2|12 30 up|13 21 up",
        ),
        ("DELETE FROM t WHERE k > 3", "2", "1 0 NULL|3 2 r2"),
        ("INSERT OVERWRITE t SELECT k + 1, v, s FROM t", "2", "2 0 NULL|4 2 r2"),
        ("UPDATE t SET v = 9 WHERE k = 77", "0", "2 0 NULL|4 2 r2"),
        ("TRUNCATE TABLE t", "2", ""),
        ("INSERT INTO t VALUES (5, 5, 'x')", "1", "5 5 x"),
    ] {
        run(&context, "DELETE FROM t WHERE k BETWEEN 4 AND 6 AND s IN ('d', 'e', 'f')")
            .await
            .unwrap();
        let before = version(&context);
        assert_eq!(rows(&context, statement).await, [count], "{statement}");
        let found = rows(&context, "SELECT * FROM t ORDER BY k").await.join("|");
        assert_eq!(found, expected, "{statement}");
        assert_eq!(version(&context), before + u64::from(count != "0"), "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_never_given_to_two_rows() {
    let context = filled().await;
    run(&context, "CREATE TABLE s (k BIGINT, v BIGINT) AS VALUES (1, 7), (1, 8), (9, 1), (9, 2)")
        .await
        .unwrap();
    for (statement, said) in [
        ("UPDATE t SET k = 6 WHERE k = 1", "there is a row with the key of {k: 6, v: 10, s: a}"),
        ("UPDATE t SET k = 9 WHERE k < 3", "written more than once"),
        ("UPDATE t SET k = NULL WHERE k = 1", "column k is NULL in row"),
        (
            "MERGE INTO t USING s ON t.k = s.k WHEN MATCHED THEN UPDATE SET v = s.v",
            "changed more than once",
        ),
        (
            "MERGE INTO t USING s ON t.k = s.k WHEN NOT MATCHED THEN INSERT VALUES (s.k, s.v, 'm')",
            "written more than once",
        ),
        (
            "MERGE INTO t USING s ON false WHEN NOT MATCHED AND s.v = 8 THEN INSERT (k, v) VALUES (s.k, s.v)",
            "there is a row with the key of {k: 1, v: 8",
        ),
    ] {
        let error = refusal(&context, statement).await;
        assert!(error.contains(said), "{statement}: {error}");
    }
    assert_eq!(rows(&context, "SELECT sum(k), sum(v) FROM t").await, ["21 210"]);
    run(&context, "MERGE INTO t USING s ON t.k = s.k WHEN MATCHED THEN DELETE").await.unwrap();
    assert_eq!(keys(&context).await, "2 3 4 5 6", "deleting a row twice is deleting it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_does_what_its_first_fitting_clause_says() {
    let context = filled().await;
    run(&context, "CREATE TABLE s (k BIGINT, v BIGINT) AS VALUES (1, 100), (2, NULL), (3, -1), (8, 80), (9, NULL)")
        .await
        .unwrap();
    let merge = "MERGE INTO t AS x USING (SELECT k, v FROM s) AS s ON x.k = s.k
        WHEN MATCHED AND s.v < 0 THEN DELETE
        WHEN MATCHED AND s.v IS NOT NULL THEN UPDATE SET v = x.v + s.v, s = 'm'
        WHEN NOT MATCHED AND s.v IS NOT NULL THEN INSERT (k, v) VALUES (s.k, s.v)
        WHEN NOT MATCHED BY SOURCE AND x.k = 6 THEN DELETE
        WHEN NOT MATCHED BY SOURCE AND x.k = 5 THEN UPDATE SET s = 'alone'";
    let before = version(&context);
    assert_eq!(rows(&context, merge).await, ["5"]);
    assert_eq!(version(&context), before + 1);
    let found = rows(&context, "SELECT * FROM t ORDER BY k").await;
    assert_eq!(found, ["1 110 m", "2 20 b", "4 40 d", "5 50 alone", "8 80 NULL"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_under_a_token_that_was_used_does_nothing_and_says_so() {
    let world = World::new();
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    let load = "SET onefold.idempotency_token = 'load-1'; INSERT INTO t VALUES (1, 1, 'a')";
    run(&context, load).await.unwrap();
    let after = version(&context);
    run(&context, "UPDATE t SET v = v + 1").await.unwrap();
    assert_eq!(version(&context), after + 1, "a token is for one statement");
    run(&context, load).await.unwrap();
    let again = world.session();
    run(&again, TABLE).await.unwrap();
    for statement in ["UPDATE t SET v = 0", "DELETE FROM t", "INSERT OVERWRITE t VALUES (7, 7, '')"]
    {
        let count =
            rows(&again, &format!("SET onefold.idempotency_token = 'load-1'; {statement}")).await;
        assert_eq!(count, ["0"], "{statement}");
    }
    assert_eq!(rows(&again, "SELECT * FROM t").await, ["1 2 a"]);
    let frame = || async { again.sql("SELECT k + 1 AS k, v, s FROM t").await.unwrap() };
    let first = again.write_once("t", frame().await, "load-2").await.unwrap();
    assert!(!first.is_repeated && first.rows_inserted == 1);
    let second = again.write_once("t", frame().await, "load-2").await.unwrap();
    assert!(second.is_repeated && second.rows_inserted == 0 && second.version == first.version);
    assert_eq!(keys(&again).await, "1 2");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn statements_leave_what_they_would_leave_in_a_map(
        steps in proptest::collection::vec((0..5_u8, 0..12_i64, 0..12_i64, any::<bool>()), 1..14),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let world = World::new();
            let mut context = world.session();
            run(&context, TABLE).await.unwrap();
            let mut model: BTreeMap<i64, i64> = BTreeMap::new();
            for (verb, low, span, reopens) in steps {
                let high = low + span % 6;
                let range = model.range(low..=high).map(|(key, _)| *key).collect::<Vec<_>>();
                let statement = match verb {
                    0 | 1 => {
                        model.extend((low..=high).map(|key| (key, key * 10 + i64::from(verb))));
                        format!("INSERT INTO t SELECT value, value * 10 + {verb}, 'i' FROM generate_series({low}, {high})")
                    }
                    2 => {
                        model.retain(|key, _| !range.contains(key));
                        format!("DELETE FROM t WHERE k BETWEEN {low} AND {high}")
                    }
                    3 => {
                        for key in range { *model.entry(key).or_default() += 1; }
                        format!("UPDATE t SET v = v + 1 WHERE k BETWEEN {low} AND {high}")
                    }
                    _ => {
                        let moved: Vec<_> = range.iter().filter_map(|key| Some((*key + 100, model.remove(key)?))).collect();
                        if moved.iter().any(|(key, _)| model.contains_key(key)) {
                            model.extend(moved.into_iter().map(|(key, value)| (key - 100, value)));
                            continue;
                        }
                        model.extend(moved);
                        format!("UPDATE t SET k = k + 100 WHERE k BETWEEN {low} AND {high}")
                    }
                };
                run(&context, &statement).await.unwrap();
                if reopens {
                    context = world.session();
                    run(&context, TABLE).await.unwrap();
                }
                let expected: Vec<String> = model.iter().map(|(key, value)| format!("{key} {value}")).collect();
                assert_eq!(rows(&context, "SELECT k, v FROM t ORDER BY k").await, expected, "{statement}");
            }
        });
    }
}

async fn filled() -> SessionContext {
    let mut world = World::new();
    world.settings.compact_rows_min = 0; // so that versions can be counted
    let context = world.session();
    let values = "INSERT INTO t VALUES (1, 10, 'a'), (2, 20, 'b'), (3, 30, 'c'), (4, 40, 'd'),
        (5, 50, 'e'), (6, 60, 'f')";
    run(&context, &format!("{TABLE}; {values}")).await.unwrap();
    context
}

async fn keys(context: &SessionContext) -> String {
    rows(context, "SELECT k FROM t ORDER BY k").await.join(" ")
}

fn version(context: &SessionContext) -> u64 {
    context.table_version("t").unwrap()
}
