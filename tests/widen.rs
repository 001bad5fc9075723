//! ALTER TABLE ... ALTER COLUMN ... TYPE: wider columns, and what is around them.

use crate::support;
use crate::support::tables::{World, refusal, rows, run};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::memory::InMemory;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use onefold::prelude::*;
use onefold::testing::{Fault, FaultyStore};
use std::sync::Arc;

const TABLE: &str = "CREATE EXTERNAL TABLE t (k INT NOT NULL, a TINYINT, f FLOAT, d DECIMAL(6, 2),
    i INT, s VARCHAR, PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t'";
const QUERY: &str =
    "SELECT k, a, CAST(f AS FLOAT), CAST(d AS DECIMAL(6, 2)), CAST(i AS INT), s FROM t";
const ALTER: &str =
    "ALTER TABLE t ALTER COLUMN k SET DATA TYPE BIGINT, ALTER COLUMN a TYPE SMALLINT,
    ALTER f TYPE DOUBLE, ALTER COLUMN d TYPE DECIMAL(10, 4), ALTER COLUMN i TYPE DECIMAL(14, 2)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wider_columns_hold_what_was_there_and_what_comes() {
    let mut world = World::new();
    world.settings.compact_rows_min = 0; // so that files with vectors stay
    let context = world.session();
    fill(&context).await;
    let before = version(&context);
    let then = rows(&context, &format!("{QUERY} ORDER BY k")).await;
    assert_eq!(then.len(), 91);
    run(&context, ALTER).await.unwrap();
    let types = rows(
        &context,
        "SELECT arrow_typeof(k), arrow_typeof(a), arrow_typeof(f),
        arrow_typeof(d), arrow_typeof(i) FROM t LIMIT 1",
    );
    assert_eq!(types.await, ["Int64 Int16 Float64 Decimal128(10, 4) Decimal128(14, 2)"]);
    assert_eq!(version(&context), before + 1, "one commit");
    let commit = format!("t/_delta_log/{:020}.json", before + 1);
    let commit = world.store.get(&commit.as_str().into()).await.unwrap().bytes().await.unwrap();
    let commit = String::from_utf8(commit.to_vec()).unwrap();
    let says = |what: &str| commit.matches(what).count();
    let files = (says("{\"add\":"), says("{\"remove\":"));
    assert!(files.0 > 0 && files.0 == files.1, "{commit}");
    assert_eq!(says("\"dataChange\":false"), files.0 * 2, "no row is changed: {commit}");
    assert_eq!(rows(&context, &format!("{QUERY} ORDER BY k")).await, then);
    let changes = format!("SELECT * FROM onefold_changes('t', {before}, {})", before + 1);
    assert_eq!(rows(&context, &changes).await, Vec::<String>::new(), "no row changed");
    let again = world.session();
    run(&again, "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'").await.unwrap();
    for (context, own) in [(&context, 1_000), (&again, 2_000)] {
        run(context, "CREATE OR REPLACE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'")
            .await
            .unwrap();
        let insert = format!(
            "INSERT INTO t VALUES (5, {own}, 0.1, 123456.0001, 99999999999.25, 'new'),
             (9999999999, 1, 1, 1, 1, '{own}')"
        );
        run(context, &insert).await.unwrap();
        let found = rows(context, "SELECT a, f, d, i FROM t WHERE k = 5").await;
        assert_eq!(found, [format!("{own} 0.1 123456.0001 99999999999.25")]);
        assert_eq!(rows(context, "SELECT count(*), count(DISTINCT k) FROM t").await, ["92 92"]);
        let past = QUERY.replace("FROM t", &format!("FROM t VERSION AS OF {before}"));
        assert_eq!(rows(context, &format!("{past} ORDER BY k")).await, then);
        let past = format!("SELECT k FROM t VERSION AS OF {before} WHERE i = 7 AND d > 1.2");
        assert_eq!(rows(context, &past).await, ["5"]);
    }
    let changes =
        format!("SELECT k, a, _change_type FROM onefold_changes('t', {before}, {})", before + 3);
    let found = rows(&context, &format!("{changes} ORDER BY k, _change_type")).await;
    let expected = ["5 2000 update_postimage", "5 NULL update_preimage", "9999999999 1 insert"];
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_of_other_types_comes_back_as_rows_and_not_as_files() {
    let world = World::new();
    let context = world.session();
    fill(&context).await;
    let before = version(&context);
    let then = rows(&context, &format!("{QUERY} ORDER BY k")).await;
    run(&context, &format!("{ALTER}; DELETE FROM t WHERE k > 50")).await.unwrap();
    let back = refusal(&context, &format!("RESTORE t TO VERSION AS OF {before}")).await;
    let said = format!("column k was Int32 in version {before} and is Int64 now");
    assert!(back.contains(&said) && back.contains("write INSERT OVERWRITE t"), "{back}");
    run(&context, &format!("RESTORE t TO VERSION AS OF {}", before + 1)).await.unwrap();
    assert_eq!(rows(&context, &format!("{QUERY} ORDER BY k")).await, then);
    let overwrite = format!("INSERT OVERWRITE t SELECT * FROM t VERSION AS OF {before}");
    run(&context, &overwrite).await.unwrap();
    assert_eq!(rows(&context, &format!("{QUERY} ORDER BY k")).await, then);
    let other = refusal(&world.session(), TABLE).await;
    assert!(other.contains("k is Int64 NOT NULL, not Int32 NOT NULL"), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_is_refused_with_the_reason() {
    let context = World::new().session();
    run(&context, TABLE).await.unwrap();
    run(
        &context,
        "INSERT INTO t VALUES (1, 1, 1, 1, 3, ''); ALTER TABLE t ADD CONSTRAINT odd CHECK (i / 2 = 1);
         CREATE EXTERNAL TABLE q (k INT NOT NULL, seq INT, b INT, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///q' OPTIONS ('sequence_by' 'seq');
         CREATE EXTERNAL TABLE g (k INT NOT NULL, b INT, PRIMARY KEY (k)) STORED AS DELTA
         LOCATION 'memory:///g' OPTIONS ('merge_mode' 'aggregate', 'merge.b' 'bit_or')",
    )
    .await
    .unwrap();
    let before = version(&context);
    let kept = "not all its values need be";
    for (statement, said) in [
        (
            "t ALTER COLUMN i TYPE SMALLINT",
            "column i is Int32, and not all its values need be Int16",
        ),
        ("t ALTER COLUMN i TYPE INT", kept),
        ("t ALTER COLUMN i TYPE FLOAT", kept),
        ("t ALTER COLUMN i TYPE DECIMAL(11, 2)", kept),
        ("t ALTER COLUMN s TYPE INT", kept),
        ("t ALTER COLUMN i TYPE VARCHAR", kept),
        ("t ALTER COLUMN d TYPE DOUBLE", kept),
        ("t ALTER COLUMN x TYPE BIGINT", "there is no column x"),
        ("t ALTER COLUMN i SET NOT NULL", "SET NOT NULL: an upsert table knows"),
        ("t ALTER COLUMN i TYPE BIGINT[]", "Delta has no type for"),
        ("t ALTER COLUMN k TYPE DOUBLE", "PRIMARY KEY (k): a key cannot be Float64"),
        ("t ALTER COLUMN k TYPE DECIMAL(12, 0)", "in the PRIMARY KEY: Decimal128(12, 0) has other"),
        ("t ALTER COLUMN i TYPE BIGINT, ALTER COLUMN f TYPE INT", "column f is Float32"),
        ("t ALTER COLUMN i TYPE BIGINT, ADD COLUMN z INT", "write one for each"),
        // 3 / 2 is 1 among integers, and 1.5 else.
        ("t ALTER COLUMN i TYPE DOUBLE", "the row of key {k: 1} has {i: 3.0}, and constraint odd"),
        ("q ALTER COLUMN seq TYPE BIGINT", "column seq is in 'sequence_by'"),
        ("g ALTER COLUMN b TYPE DOUBLE", "option 'merge.b': bit_or does not fit Float64"),
    ] {
        let error = refusal(&context, &format!("ALTER TABLE {statement}")).await;
        assert!(error.contains(said), "{statement}: {error}");
    }
    assert_eq!(version(&context), before);
    run(
        &context,
        "ALTER TABLE t ALTER COLUMN i TYPE BIGINT; ALTER TABLE q ALTER COLUMN b TYPE BIGINT",
    )
    .await
    .unwrap();
    assert_eq!(rows(&context, "SELECT i, arrow_typeof(i) FROM t").await, ["3 Int64"]);
    let error = refusal(&context, "INSERT INTO t VALUES (2, 1, 1, 1, 9, '')").await;
    assert!(error.contains("constraint odd"), "conditions are kept: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_go_on_over_wider_columns() {
    let context = World::new().session();
    run(
        &context,
        "CREATE EXTERNAL TABLE a (k BIGINT NOT NULL, total TINYINT, low SMALLINT, bits INT,
         PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///a' OPTIONS ('merge_mode' 'aggregate',
         'merge.total' 'sum', 'merge.low' 'min', 'merge.bits' 'bit_xor');
         CREATE EXTERNAL TABLE p (k BIGINT NOT NULL, at INT, price INT, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///p'
         OPTIONS ('merge_mode' 'partial', 'sequence_group.at' 'price');
         CREATE EXTERNAL TABLE t (k INT NOT NULL, v TINYINT, lsn INT, op VARCHAR, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///t'
         OPTIONS ('sequence_by' 'lsn', 'op_column' 'op', 'unstored' 'lsn, op');
         INSERT INTO a VALUES (1, 100, 5, -3); INSERT INTO p VALUES (1, 5, 10);
         INSERT INTO t VALUES (1, 1, 10, 'c'), (2, 2, 10, 'c'), (3, 3, 10, 'c');
         INSERT INTO t VALUES (2, NULL, 20, 'd')",
    )
    .await
    .unwrap();
    let overflow = refusal(&context, "INSERT INTO a VALUES (1, 100, 4, 6)").await;
    assert!(overflow.contains("the sum in column total leaves the range"), "{overflow}");
    run(
        &context,
        "ALTER TABLE a ALTER COLUMN total TYPE BIGINT, ALTER COLUMN low TYPE DOUBLE,
           ALTER COLUMN bits TYPE BIGINT;
         ALTER TABLE p ALTER COLUMN at TYPE BIGINT;
         ALTER TABLE t ALTER COLUMN k TYPE BIGINT, ALTER COLUMN v TYPE INT;
         INSERT INTO a VALUES (1, 100, 4, 6);
         INSERT INTO p VALUES (1, 4, 99), (1, 9999999999, 11);
         INSERT INTO t VALUES (1, 9, 9, 'u'), (2, 9, 19, 'u'), (3, 70000, 11, 'u')",
    )
    .await
    .unwrap();
    assert_eq!(rows(&context, "SELECT * FROM a").await, ["1 200 4.0 -5"]);
    assert_eq!(rows(&context, "SELECT * FROM p").await, ["1 9999999999 11"]);
    let found = rows(&context, "SELECT * FROM t ORDER BY k").await;
    assert_eq!(found, ["1 1", "3 70000"], "sequences and tombstones are kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_cut_off_leaves_the_old_table_or_the_new_one() {
    let open = "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'";
    let mut outcomes = [0, 0];
    for fault in [Fault::Lost, Fault::AppliedThenTimeout, Fault::AppliedLate] {
        for at in 1.. {
            let mut world = World::new();
            run(
                &world.session(),
                &format!(
                    "{TABLE}; INSERT INTO t VALUES (1, 1, 1, 1, 1, 'a'), (2, 2, 2, 2, 2, 'b');
                     INSERT INTO t VALUES (2, 2, 2, 2, 3, 'b'), (3, 3, 3, 3, 3, 'c')"
                ),
            )
            .await
            .unwrap();
            let good = Arc::clone(&world.store);
            let faulty = FaultyStore::cut_off(Arc::clone(&good), at, fault);
            world.store = Arc::new(faulty.clone());
            let done = run(&world.session(), &format!("{open}; {ALTER}")).await;
            faulty.apply_late(u64::MAX).await;
            world.store = good;
            let context = world.session();
            run(&context, open).await.unwrap();
            let insert = "INSERT INTO t VALUES (3, 3, 3, 3, 4, 'd'), (4, 4, 4, 4, 4, 'd')";
            run(&context, insert).await.unwrap();
            let found = rows(&context, "SELECT k, CAST(i AS INT), s FROM t ORDER BY k").await;
            assert_eq!(found, ["1 1 a", "2 3 b", "3 4 d", "4 4 d"], "{fault:?} at call {at}");
            let types = rows(&context, "SELECT DISTINCT arrow_typeof(k), arrow_typeof(i) FROM t");
            let is_new = types.await == ["Int64 Decimal128(14, 2)"];
            outcomes[usize::from(is_new)] += 1;
            if done.is_ok() && faulty.calls() < at {
                assert!(is_new);
                break;
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 10), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_goes_on_into_a_wider_column_when_its_insert_is_run_again() {
    let source = support::source(1);
    let log = |numbers: std::ops::Range<i64>| -> Vec<support::Row> {
        numbers.map(|n| (Some(1), Some(n), n)).collect()
    };
    source.push("p0", &support::batch(&log(0..10))).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let open = async || {
        let context = support::session(&store, &source, support::How::default()).await.unwrap();
        let known = store.head(&"c/_delta_log/00000000000000000000.json".into()).await.is_ok();
        let columns = "(n BIGINT NOT NULL, total INT, unused INT, PRIMARY KEY (n))";
        let create = format!(
            "CREATE EXTERNAL TABLE c {} STORED AS DELTA LOCATION 'memory:///c'
               OPTIONS ('merge_mode' 'aggregate', 'merge.total' 'sum');
             {INSERT}",
            if known { "" } else { columns }
        );
        context.run_sql(&create).await.unwrap();
        context
    };
    let context = open().await;
    let held = context.pipeline("c").unwrap();
    held.run_until_idle().await.unwrap();
    let large = i64::from(i32::MAX) + 3;
    source.push("p0", &support::batch(&log(large..large + 1))).unwrap();
    assert!(held.run_until_idle().await.is_err(), "it does not fit");
    run(&context, "ALTER TABLE c ALTER COLUMN total TYPE BIGINT, ALTER COLUMN unused TYPE BIGINT")
        .await
        .unwrap();
    let error = context.pipeline("c").unwrap().run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("the INSERT of its pipeline again to go on"), "{error}");
    context.run_sql(INSERT).await.unwrap();
    context.pipeline("c").unwrap().run_until_idle().await.unwrap();
    source.push("p0", &support::batch(&log(10..20))).unwrap();
    let context = open().await;
    let status = context.pipeline("c").unwrap().run_until_idle().await.unwrap();
    assert_eq!(status.rows_inserted + status.rows_updated, 3, "it went on where it was");
    let found = rows(&context, "SELECT sum(total) FROM c").await;
    assert_eq!(found, [format!("{}", (0..20).sum::<i64>() + large)], "each row once");
}

const INSERT: &str = "INSERT INTO c (n, total) SELECT n % 3, n FROM events";

async fn fill(context: &SessionContext) {
    run(context, TABLE).await.unwrap();
    run(
        context,
        "INSERT INTO t SELECT value, value - 50, value / 3.0, value / 8.0, -value, 'x'
           FROM generate_series(0, 99);
         INSERT INTO t VALUES (5, NULL, 0.1, 1.25, 7, NULL), (100, 1, NULL, NULL, NULL, 'y');
         DELETE FROM t WHERE k BETWEEN 20 AND 29;
         INSERT INTO t VALUES (200, 1, 1, 1, 1, 'gone'); DELETE FROM t WHERE k = 200",
    )
    .await
    .unwrap();
}

fn version(context: &SessionContext) -> u64 {
    context.table_version("t").unwrap()
}
