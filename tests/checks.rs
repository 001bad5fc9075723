//! CHECK constraints of upsert tables: every way of writing, ALTER TABLE, pipelines.

use crate::support;
use crate::support::tables::{World, refusal, rows, run};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::memory::InMemory;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use onefold::prelude::*;
use std::sync::Arc;

const TABLE: &str = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, n BIGINT CHECK (n < 100),
    s VARCHAR, PRIMARY KEY (k), CHECK (n >= 0), CONSTRAINT short CHECK (length(s) < 4 OR n = 7))
    STORED AS DELTA LOCATION 'memory:///t'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_breaks_a_condition_fails_every_kind_of_write_whole() {
    let mut world = World::new();
    world.settings.compact_rows_min = 0; // so that versions can be counted
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    run(&context, "INSERT INTO t VALUES (1, 10, 'a'), (2, NULL, NULL), (3, 7, 'longer')")
        .await
        .unwrap();
    let (version, before) = (version(&context), everything(&context).await);
    assert_eq!(before, ["1 10 a", "2 NULL NULL", "3 7 longer"], "NULL passes");
    let merge = "MERGE INTO t USING (SELECT 1 AS k, -5 AS m) AS x ON t.k = x.k
        WHEN MATCHED THEN UPDATE SET n = x.m";
    for (statement, said) in [
        (
            "INSERT INTO t VALUES (4, 1, 'b'), (5, -5, 'c')",
            "table t: the row of key {k: 5} has {n: -5}, and constraint n_check_2 is CHECK (n >= 0)",
        ),
        ("INSERT INTO t VALUES (1, 100, 'b')", "constraint n_check is CHECK (n < 100)"),
        ("INSERT INTO t VALUES (4, 1, 'long')", "{k: 4} has {n: 1, s: long}, and constraint short"),
        ("REPLACE INTO t VALUES (1, -5, 'b')", "{k: 1} has {n: -5}"),
        ("UPDATE t SET n = n - 11 WHERE k = 1", "{k: 1} has {n: -1}"),
        (merge, "{k: 1} has {n: -5}"),
        ("INSERT OVERWRITE t VALUES (9, 1, 'b'), (8, -5, 'b')", "{k: 8} has {n: -5}"),
    ] {
        let error = refusal(&context, statement).await;
        assert!(error.contains(said), "{statement}: {error}");
        assert_eq!(everything(&context).await, before, "{statement}");
    }
    let frame = context.sql("SELECT 6 AS k, -6 AS n").await.unwrap();
    let error = context.write_once("t", frame, "load").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("{k: 6} has {n: -6}"), "{error}");
    assert_eq!(context.table_version("t"), Some(version));
    // A row that loses is never in the table, and one that leaves was.
    run(&context, "INSERT INTO t VALUES (1, -5, 'a'), (1, 11, 'a'); DELETE FROM t WHERE n = 7")
        .await
        .unwrap();
    assert_eq!(everything(&context).await, ["1 11 a", "2 NULL NULL"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_judged_is_the_row_after_it_was_folded() {
    let context = World::new().session();
    run(
        &context,
        "CREATE EXTERNAL TABLE a (k BIGINT NOT NULL, total BIGINT CHECK (total <= 10),
         PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///a'
         OPTIONS ('merge_mode' 'aggregate', 'merge.total' 'sum');
         INSERT INTO a VALUES (1, 20), (1, -15);
         CREATE EXTERNAL TABLE p (k BIGINT NOT NULL, low BIGINT, high BIGINT, PRIMARY KEY (k),
         CONSTRAINT ranged CHECK (low <= high)) STORED AS DELTA LOCATION 'memory:///p'
         OPTIONS ('merge_mode' 'partial');
         INSERT INTO p (k, low) VALUES (1, 5); INSERT INTO p (k, high) VALUES (1, 6)",
    )
    .await
    .unwrap();
    for (statement, said) in [
        ("INSERT INTO a VALUES (1, 3), (1, 3)", "{k: 1} has {total: 11}"),
        ("INSERT INTO p (k, low) VALUES (1, 7)", "{k: 1} has {low: 7, high: 6}"),
    ] {
        let error = refusal(&context, statement).await;
        assert!(error.contains(said), "{statement}: {error}");
    }
    run(&context, "INSERT INTO a VALUES (1, 2), (1, 3)").await.unwrap();
    assert_eq!(rows(&context, "SELECT total FROM a").await, ["10"]);
    assert_eq!(rows(&context, "SELECT * FROM p").await, ["1 5 6"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_depends_on_its_row_alone() {
    let context = World::new().session();
    let create = |condition: &str, options: &str| {
        format!(
            "CREATE EXTERNAL TABLE c (k BIGINT NOT NULL, n BIGINT, op VARCHAR, PRIMARY KEY (k),
             CHECK ({condition})) STORED AS DELTA LOCATION 'memory:///c' {options}"
        )
    };
    for (condition, said) in [
        ("m > 0", "CHECK (m > 0): Schema error: No field named m"),
        ("n + 1", "it is Int64, and a condition is BOOLEAN"),
        ("n > random()", "random() does not always give the same answer"),
        ("n > extract(year FROM now())", "now() does not always give the same answer"),
        ("n > (SELECT 1)", "a subquery looks at more than one row"),
        ("n IN (SELECT 1)", "a subquery looks at more than one row"),
        ("EXISTS (SELECT 1)", "a subquery looks at more than one row"),
        ("sum(n) > 0", "an aggregate looks at more than one row"),
        ("n > $1", "$1 is no part of a row"),
        ("no_such_function(n)", "no_such_function"),
    ] {
        let error = refusal(&context, &create(condition, "")).await;
        assert!(error.contains(said) && error.contains("CHECK ("), "{condition}: {error}");
    }
    let options = "OPTIONS ('op_column' 'op', 'unstored' 'op')";
    let unstored = refusal(&context, &create("op <> 'x'", options)).await;
    assert!(unstored.contains("No field named op"), "{unstored}");
    let elsewhere = "CREATE EXTERNAL TABLE o (n BIGINT, CHECK (n > 0)) STORED AS CSV LOCATION 'x'";
    assert!(refusal(&context, elsewhere).await.contains("Check constraints are not"));
    run(&context, &create("10 / n > 1", "")).await.unwrap();
    let error = refusal(&context, "INSERT INTO c VALUES (1, 0, '')").await;
    let said = "constraint n_check CHECK (10 / n > 1) cannot be computed for a row: ";
    assert!(error.contains(said) && error.contains("Divide by zero"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_come_and_go_and_rows_that_are_there_are_judged_first() {
    let world = World::new();
    let context = world.session();
    let plain = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, n BIGINT, s VARCHAR, PRIMARY KEY (k))
        STORED AS DELTA LOCATION 'memory:///t'";
    run(&context, plain).await.unwrap();
    run(&context, "INSERT INTO t VALUES (1, 1, 'a'), (2, -2, 'b'), (3, NULL, 'c')").await.unwrap();
    let add = "ALTER TABLE t ADD CONSTRAINT positive CHECK (n > 0)";
    let version = version(&context);
    for (statement, said) in [
        (add, "the row of key {k: 2} has {n: -2}, and constraint positive is CHECK (n > 0)"),
        ("ALTER TABLE t ADD CONSTRAINT p CHECK (n)", "it is Int64, and a condition is BOOLEAN"),
        ("ALTER TABLE t DROP CONSTRAINT positive", "there is no constraint positive"),
        ("ALTER TABLE t ADD CHECK (k > 0), ADD COLUMN w BIGINT", "their types or constraints"),
        (
            "ALTER TABLE t ADD CONSTRAINT u UNIQUE (n)",
            "ADD CONSTRAINT u UNIQUE (n): an upsert table knows",
        ),
    ] {
        let error = refusal(&context, statement).await;
        assert!(error.contains(said), "{statement}: {error}");
    }
    assert_eq!(context.table_version("t"), Some(version));
    run(&context, "DELETE FROM t WHERE k = 2").await.unwrap();
    run(&context, &format!("{add}; ALTER TABLE t ADD CHECK (s <> 'z')")).await.unwrap();
    let twice = refusal(&context, add).await;
    assert!(twice.contains("there is a constraint positive already"), "{twice}");
    let other = world.session();
    let differs = refusal(&other, plain).await;
    let said = "it has a constraint positive CHECK (n > 0) too; \
        it has a constraint s_check CHECK (s <> 'z') too";
    assert!(differs.contains(said), "{differs}");
    let declared = |condition: &str| {
        let checks = format!("CONSTRAINT positive CHECK ({condition}), CHECK (s <> 'z')");
        plain.replace("PRIMARY KEY (k)", &format!("PRIMARY KEY (k), {checks}"))
    };
    let differs = refusal(&other, &declared("n > 1")).await;
    assert!(differs.contains("constraint positive is CHECK (n > 0), not (n > 1)"), "{differs}");
    run(&other, &declared("n   >  0")).await.unwrap();
    for context in [&context, &other] {
        let error = refusal(context, "INSERT INTO t VALUES (4, -4, 'd')").await;
        assert!(error.contains("{k: 4} has {n: -4}"), "{error}");
    }
    run(&context, "ALTER TABLE t DROP CONSTRAINT positive").await.unwrap();
    run(&context, "ALTER TABLE t DROP CONSTRAINT IF EXISTS positive").await.unwrap();
    run(&context, "INSERT INTO t VALUES (4, -4, 'd')").await.unwrap();
    // The other session must not go by what it knew: neither more than is asked, nor less.
    let error = refusal(&other, "INSERT INTO t VALUES (5, 5, 'e')").await;
    assert!(error.contains("committed by another writer"), "{error}");
    let error = refusal(&other, "INSERT INTO t VALUES (5, 5, 'e')").await;
    assert!(error.contains("no longer as it was opened"), "{error}");
    run(&other, "CREATE OR REPLACE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'")
        .await
        .unwrap();
    run(&other, "INSERT INTO t VALUES (5, -5, 'e')").await.unwrap();
    assert_eq!(everything(&other).await, ["1 1 a", "3 NULL c", "4 -4 d", "5 -5 e"]);
    let error = refusal(&other, "INSERT INTO t VALUES (5, -5, 'z')").await;
    assert!(error.contains("constraint s_check"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_brings_back_no_row_that_breaks_a_condition() {
    let context = World::new().session();
    run(
        &context,
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, n BIGINT, s VARCHAR, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///t'; INSERT INTO t VALUES (1, 1, ''), (2, 2, '')",
    )
    .await
    .unwrap();
    let good = version(&context);
    run(&context, "INSERT INTO t VALUES (1, -1, '')").await.unwrap();
    let bad = version(&context);
    run(&context, "UPDATE t SET n = 3 WHERE k = 1; ALTER TABLE t ADD CHECK (n > 0)").await.unwrap();
    let error = refusal(&context, &format!("RESTORE t TO VERSION AS OF {bad}")).await;
    assert!(error.contains("{k: 1} has {n: -1}, and constraint n_check"), "{error}");
    run(&context, &format!("RESTORE t TO VERSION AS OF {good}")).await.unwrap();
    assert_eq!(rows(&context, "SELECT n FROM t ORDER BY k").await, ["1", "2"]);
    let error = refusal(&context, "INSERT INTO t VALUES (4, -4, 'd')").await;
    assert!(error.contains("{k: 4} has {n: -4}"), "the condition is kept: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_stops_at_a_violation_and_goes_on_from_there_without_the_condition() {
    for options in ["", "OPTIONS ('merge_mode' 'partial')"] {
        let how = support::How { epoch_rows_max: 10, ..support::How::default() };
        let source = support::source(1);
        let log: Vec<support::Row> =
            (0..40).map(|n| (Some(n as u8), Some(n), if n == 25 { -1 } else { n })).collect();
        source.push("p0", &support::batch(&log)).unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let open = async || {
            let context = support::session(&store, &source, how).await.unwrap();
            let known = store.head(&"c/_delta_log/00000000000000000000.json".into()).await.is_ok();
            let columns = "(n BIGINT NOT NULL, k VARCHAR, PRIMARY KEY (n),
                CONSTRAINT positive CHECK (n >= 0))";
            let columns = if known { "" } else { columns };
            let create = format!(
                "CREATE EXTERNAL TABLE c {columns} STORED AS DELTA LOCATION 'memory:///c' {options};
                 INSERT INTO c SELECT n, k FROM events"
            );
            context.run_sql(&create).await.unwrap();
            context
        };
        let context = open().await;
        for context in [&context, &open().await] {
            let error = context.pipeline("c").unwrap().run_until_idle().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            let said = "the row of key {n: -1} has {n: -1}, and constraint positive";
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(rows(context, "SELECT count(*) FROM c").await, ["20"]);
        }
        let held = context.pipeline("c").unwrap();
        run(&context, "ALTER TABLE c DROP CONSTRAINT positive").await.unwrap();
        let error = held.run_until_idle().await.unwrap_err();
        assert!(error.to_string().contains("no longer as it was opened"), "{error}");
        let context = if options.is_empty() { context } else { open().await };
        let status = context.pipeline("c").unwrap().run_until_idle().await.unwrap();
        assert_eq!((status.epochs, status.rows_inserted), (2, 20), "{options}: {status:?}");
        let found = rows(&context, "SELECT count(*), min(n), sum(n) FROM c").await;
        assert_eq!(found, [format!("40 -1 {}", 40 * 39 / 2 - 25 - 1)]);
        let version = context.table_version("c").unwrap() + 1;
        foreign_constraint(&store, "c", version).await;
        let error = open().await.pipeline("c").unwrap().run_until_idle().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("another engine set delta.constraints.Even"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_of_another_engine_are_never_ignored() {
    let world = World::new();
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    run(&context, "INSERT INTO t VALUES (1, 10, 'a')").await.unwrap();
    foreign_constraint(&world.store, "t", version(&context) + 1).await;
    let again = world.session();
    run(&again, "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'").await.unwrap();
    for (context, statement) in [
        (&again, "INSERT INTO t VALUES (2, 20, 'b')"),
        (&again, "DELETE FROM t"),
        (&again, "ALTER TABLE t DROP CONSTRAINT short"),
        (&again, "OPTIMIZE t"),
        (&again, "RESTORE t TO VERSION AS OF 1"),
    ] {
        let error = run(context, statement).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{statement}: {error}");
        let said = "another engine set delta.constraints.Even = n % 2 = 0, and";
        assert!(error.to_string().contains(said), "{statement}: {error}");
    }
    assert_eq!(everything(&again).await, ["1 10 a"], "it can be read");
    let error = refusal(&context, "INSERT INTO t VALUES (2, 20, 'b')").await;
    assert!(error.contains("changed the schema, a property or the protocol"), "{error}");
    let error = refusal(&context, "INSERT INTO t VALUES (2, 20, 'b')").await;
    assert!(error.contains("another engine set delta.constraints.Even"), "{error}");
}

/// Version `version` of `table`, as an engine that knows `delta.constraints` makes it.
async fn foreign_constraint(store: &Arc<dyn ObjectStore>, table: &str, version: u64) {
    let path = |version: u64| format!("{table}/_delta_log/{version:020}.json");
    let first = store.get(&path(0).as_str().into()).await.unwrap().bytes().await.unwrap();
    let mut lines = vec![serde_json::json!({ "commitInfo": {
        "timestamp": 4_102_444_800_000_u64, "inCommitTimestamp": 4_102_444_800_000_u64,
        "operation": "ADD CONSTRAINT", "txnId": "theirs",
    } })];
    for line in first.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mut line: serde_json::Value = serde_json::from_slice(line).unwrap();
        if let Some(features) = line.pointer_mut("/protocol/writerFeatures") {
            features.as_array_mut().unwrap().push("checkConstraints".into());
        } else if let Some(properties) = line.pointer_mut("/metaData/configuration") {
            properties["delta.constraints.Even"] = "n % 2 = 0".into();
        } else {
            continue;
        }
        lines.push(line);
    }
    assert_eq!(lines.len(), 3);
    let text = lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    store.put(&path(version).as_str().into(), text.into()).await.unwrap();
}

async fn everything(context: &SessionContext) -> Vec<String> {
    rows(context, "SELECT * FROM t ORDER BY k").await
}

fn version(context: &SessionContext) -> u64 {
    context.table_version("t").unwrap()
}
