//! Statements on tables whose rows have sequences: what a row's sequence is, and what stays dead.

use crate::support::tables::{World, refusal, rows, run};
use onefold::datafusion::prelude::SessionContext;
use proptest::prelude::*;
use std::collections::BTreeMap;

const CDC: &str = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v VARCHAR, lsn BIGINT, op VARCHAR,
    PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t'
    OPTIONS ('sequence_by' 'lsn', 'op_column' 'op', 'unstored' 'lsn, op')";

const NO_ROWS: &str = "SELECT 1 AS a, '' AS b, 1 AS c, 'c' AS d WHERE false";

async fn filled() -> SessionContext {
    let context = World::new().session();
    let values = "INSERT INTO t VALUES (1, 'a', 10, 'c'), (2, 'b', 10, 'c'), (3, 'c', 10, 'c')";
    run(&context, &format!("{CDC}; {values}")).await.unwrap();
    context
}

async fn table(context: &SessionContext) -> String {
    rows(context, "SELECT * FROM t ORDER BY k").await.join("|")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_updated_row_keeps_its_sequence_unless_it_is_given_another() {
    for (statement, late, expected) in [
        ("UPDATE t SET v = 'x' WHERE k = 1", "(1, 'late', 9, 'u')", "1 x|2 b|3 c"),
        ("UPDATE t SET v = 'x' WHERE k = 1", "(1, 'same', 10, 'u')", "1 same|2 b|3 c"),
        ("UPDATE t SET v = 'x', lsn = 20 WHERE k = 1", "(1, 'late', 19, 'u')", "1 x|2 b|3 c"),
        ("UPDATE t SET v = 'x', lsn = 20 WHERE k = 1", "(1, 'same', 20, 'u')", "1 same|2 b|3 c"),
        ("UPDATE t SET lsn = 5 WHERE k = 1", "(1, 'later', 6, 'u')", "1 later|2 b|3 c"),
        ("UPDATE t AS y SET v = y.v || '!' WHERE y.k > 1", "(2, 'late', 9, 'u')", "1 a|2 b!|3 c!"),
        ("UPDATE t SET k = 9, lsn = 5 WHERE k = 1", "(1, 'late', 9, 'u')", "2 b|3 c|9 a"),
        ("UPDATE t SET k = 9, lsn = 5 WHERE k = 1", "(9, 'later', 6, 'u')", "2 b|3 c|9 later"),
        (
            "MERGE INTO t USING (SELECT 1 AS k) AS s ON t.k = s.k
             WHEN MATCHED THEN UPDATE SET v = 'm'",
            "(1, 'late', 9, 'u')",
            "1 m|2 b|3 c",
        ),
        (
            "MERGE INTO t USING (SELECT 1 AS k) AS s ON t.k = s.k
             WHEN MATCHED THEN UPDATE SET v = 'm', lsn = 20",
            "(1, 'late', 19, 'u')",
            "1 m|2 b|3 c",
        ),
        (
            "MERGE INTO t USING (SELECT 4 AS k) AS s ON t.k = s.k
             WHEN NOT MATCHED THEN INSERT (k, v, lsn) VALUES (s.k, 'm', 7)",
            "(4, 'late', 6, 'u')",
            "1 a|2 b|3 c|4 m",
        ),
        ("DELETE FROM t WHERE k = 1", "(1, 'late', 9, 'u')", "2 b|3 c"),
        ("DELETE FROM t WHERE k = 1", "(1, 'same', 10, 'u')", "1 same|2 b|3 c"),
        ("REPLACE INTO t VALUES (1, 'r', 3, 'u')", "(1, 'later', 4, 'u')", "1 later|2 b|3 c"),
    ] {
        let context = filled().await;
        let explained = rows(&context, &format!("EXPLAIN {statement}")).await.join(" ");
        assert!(explained.contains("DmlExec"), "{explained}");
        run(&context, statement).await.unwrap();
        run(&context, &format!("INSERT INTO t VALUES {late}")).await.unwrap();
        assert_eq!(table(&context).await, expected, "{statement}; then {late}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_row_does_not_keep_cannot_be_read_or_set() {
    let context = filled().await;
    let merge = "MERGE INTO t USING (SELECT 1 AS k) AS s ON t.k = s.k";
    for (statement, said) in [
        ("UPDATE t SET op = 'd' WHERE k = 1".to_owned(), "op says what an inserted row asks for"),
        (format!("{merge} WHEN MATCHED THEN UPDATE SET op = 'd'"), "to delete rows write DELETE"),
        ("UPDATE t SET lsn = NULL WHERE k = 1".to_owned(), "column lsn is NULL in row"),
        (format!("{merge} WHEN MATCHED THEN UPDATE SET lsn = NULL"), "column lsn is NULL in row"),
        ("UPDATE t SET v = 'x' WHERE lsn = 10".to_owned(), "No field named lsn"),
        ("UPDATE t SET nothing = 1".to_owned(), "No field named nothing"),
    ] {
        let error = refusal(&context, &statement).await;
        assert!(error.contains(said), "{statement}: {error}");
    }
    assert_eq!(table(&context).await, "1 a|2 b|3 c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_column_of_a_sequence_must_be_there() {
    let context = World::new().session();
    run(
        &context,
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, a BIGINT, b BIGINT, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///t' OPTIONS ('sequence_by' 'a, b');
         INSERT INTO t VALUES (1, 1, 1)",
    )
    .await
    .unwrap();
    for (statement, column) in [
        ("UPDATE t SET a = NULL", "a"),
        ("UPDATE t SET b = NULL", "b"),
        ("REPLACE INTO t VALUES (1, 1, NULL)", "b"),
        ("INSERT INTO t VALUES (1, 1, NULL)", "b"),
    ] {
        let error = refusal(&context, statement).await;
        assert!(error.contains(&format!("column {column} is NULL")), "{statement}: {error}");
    }
    assert_eq!(table(&context).await, "1 1 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_key_stays_dead_as_a_deleted_one_does() {
    for (statement, left) in [
        ("DELETE FROM t", ""),
        ("TRUNCATE TABLE t", ""),
        ("INSERT OVERWRITE t SELECT 1 AS a, '' AS b, 1 AS c, 'c' AS d WHERE false", ""),
        ("INSERT OVERWRITE t VALUES (2, 'o', 4, 'c')", "2 o"),
    ] {
        let context = filled().await;
        run(&context, statement).await.unwrap();
        run(&context, "INSERT INTO t VALUES (1, 'late', 9, 'u'), (2, 'late', 3, 'u')")
            .await
            .unwrap();
        assert_eq!(table(&context).await, left, "{statement}");
        run(&context, "INSERT INTO t VALUES (1, 'back', 11, 'u'), (2, 'back', 11, 'u')")
            .await
            .unwrap();
        assert_eq!(table(&context).await, "1 back|2 back", "{statement}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Changes of keys: sequence, and a value or that it is deleted.
    Changes(Vec<(i64, i64, Option<i64>)>),
    DeleteAll,
    Truncate,
    /// Keys with a sequence.
    Overwrite(BTreeMap<i64, i64>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0..8_i64, 0..30_i64, proptest::option::of(0..100_i64));
    let step = prop_oneof![
        6 => proptest::collection::vec(change, 1..8).prop_map(Step::Changes),
        1 => Just(Step::DeleteAll),
        2 => Just(Step::Truncate),
        2 => proptest::collection::btree_map(0..8_i64, 0..30_i64, 0..4).prop_map(Step::Overwrite),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 2..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn late_rows_never_bring_back_what_a_statement_removed(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let world = World::new();
            let mut context = world.session();
            run(&context, CDC).await.unwrap();
            let mut model: BTreeMap<i64, (i64, Option<i64>)> = BTreeMap::new();
            for step in steps {
                match &step {
                    Step::Changes(changes) => {
                        for (key, sequence, value) in changes {
                            let newest = model.entry(*key).or_insert((i64::MIN, None));
                            if *sequence >= newest.0 {
                                *newest = (*sequence, *value);
                            }
                        }
                        let rows: Vec<String> = changes.iter().map(|(key, sequence, value)| match value {
                            Some(value) => format!("({key}, '{value}', {sequence}, 'u')"),
                            None => format!("({key}, NULL, {sequence}, 'd')"),
                        }).collect();
                        run(&context, &format!("INSERT INTO t VALUES {}", rows.join(", "))).await.unwrap();
                    }
                    Step::DeleteAll | Step::Truncate => {
                        for own in model.values_mut() { own.1 = None; }
                        let is_delete = matches!(step, Step::DeleteAll);
                        run(&context, if is_delete { "DELETE FROM t" } else { "TRUNCATE TABLE t" }).await.unwrap();
                    }
                    Step::Overwrite(rows) => {
                        for own in model.values_mut() { own.1 = None; }
                        model.extend(rows.iter().map(|(key, sequence)| (*key, (*sequence, Some(-1)))));
                        let rows: Vec<String> = rows.iter().map(|(key, sequence)| format!("({key}, '-1', {sequence}, 'c')")).collect();
                        let source = if rows.is_empty() { NO_ROWS.to_owned() } else { format!("VALUES {}", rows.join(", ")) };
                        run(&context, &format!("INSERT OVERWRITE t {source}")).await.unwrap();
                    }
                    Step::Reopen => {
                        context = world.session();
                        run(&context, CDC).await.unwrap();
                    }
                }
                let alive = model.iter().filter_map(|(key, (_, value))| Some(format!("{key} {}", (*value)?)));
                assert_eq!(table(&context).await, alive.collect::<Vec<_>>().join("|"), "{step:?}");
            }
        });
    }
}
