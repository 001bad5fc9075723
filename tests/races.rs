//! Statements beside another process that commits to the same table.

use crate::support::busy::BusyStore;
use crate::support::tables::{World, refusal, rows, run};
use futures::FutureExt;
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;
use std::sync::Arc;

const TABLE: &str = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, PRIMARY KEY (k))
    STORED AS DELTA LOCATION 'memory:///t'";
const ROWS: &str = "INSERT INTO t VALUES (1, 10), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60)";
const SUMS: &str = "CREATE EXTERNAL TABLE s (n BIGINT) STORED AS PARQUET LOCATION 'memory:///s/'";
const LOG: &str = "t/_delta_log/0";

/// Two processes over one store; the first one's calls can be preceded by what the other does.
struct Pair {
    store: BusyStore,
    first: SessionContext,
    other: SessionContext,
}

impl Pair {
    async fn new() -> Self {
        let mut world = World::new();
        world.settings.compact_rows_min = 0; // so that versions can be counted
        let other = world.session();
        run(&other, "COPY (SELECT 7 AS n) TO 'memory:///s/1.parquet' STORED AS PARQUET")
            .await
            .unwrap();
        run(&other, &format!("{TABLE}; {SUMS}")).await.unwrap();
        let store = BusyStore::new(Arc::clone(&world.store));
        world.store = Arc::new(store.clone());
        let first = world.session();
        run(&first, &format!("{TABLE}; {ROWS}; {SUMS}")).await.unwrap();
        Self { store, first, other }
    }

    /// The other process runs `script` before each of the next `times` commits of the first.
    fn before_commit(&self, times: usize, script: &'static str) {
        let other = self.other.clone();
        self.store.before_put(LOG, times, move || {
            let other = other.clone();
            async move { run(&other, script).await.unwrap() }.boxed()
        });
    }

    async fn table(&self) -> Vec<String> {
        rows(&self.first, "SELECT * FROM t ORDER BY k").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_is_overtaken_does_what_it_would_do_after_the_other() {
    const STATEMENTS: [&str; 9] = [
        "UPDATE t SET v = v + 1 WHERE k <= 3",
        "UPDATE t SET v = (SELECT sum(v) FROM t) WHERE k = 1",
        "UPDATE t SET k = k + 100 WHERE v > (SELECT avg(v) FROM t)",
        "DELETE FROM t WHERE v >= (SELECT max(v) FROM t)",
        "DELETE FROM t WHERE k IN (SELECT min(k) + 1 FROM t)",
        "MERGE INTO t USING (SELECT k + 2 AS k, v FROM t) AS x ON t.k = x.k
           WHEN MATCHED THEN UPDATE SET v = t.v + x.v
           WHEN NOT MATCHED THEN INSERT VALUES (x.k, x.v)
           WHEN NOT MATCHED BY SOURCE THEN DELETE",
        "REPLACE INTO t SELECT k, v * 2 FROM t WHERE v <= 30",
        "INSERT OVERWRITE t SELECT k + 1, v FROM t WHERE k > 1",
        "UPDATE t SET v = (SELECT sum(n) FROM s) WHERE k = 5",
    ];
    const OTHERS: [&str; 4] = [
        "UPDATE t SET v = 31 WHERE k = 3",
        "DELETE FROM t WHERE k IN (2, 6)",
        "INSERT INTO t VALUES (3, 5), (9, 90)",
        "COPY (SELECT 70 AS n) TO 'memory:///s/2.parquet' STORED AS PARQUET;
         INSERT INTO t VALUES (0, 1)",
    ];
    for statement in STATEMENTS {
        for other in OTHERS {
            let after = Pair::new().await;
            run(&after.other, other).await.unwrap();
            let count = rows(&after.first, statement).await;
            let expected = after.table().await;
            let pair = Pair::new().await;
            pair.before_commit(1, other);
            assert_eq!(rows(&pair.first, statement).await, count, "{statement} after {other}");
            assert_eq!(pair.table().await, expected, "{statement} after {other}");
            assert_eq!(pair.store.left(), 0);
            let version = pair.first.table_version("t");
            assert_eq!(version, after.first.table_version("t"), "one commit each");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subquery_that_ran_before_the_other_committed_is_run_again() {
    let pair = Pair::new().await;
    let other = pair.other.clone();
    pair.store.before_get("t/part-", 1, move || {
        let other = other.clone();
        async move { run(&other, "UPDATE t SET v = 600 WHERE k = 6").await.unwrap() }.boxed()
    });
    let update = "UPDATE t SET v = (SELECT max(v) FROM t) WHERE k = 1";
    assert_eq!(rows(&pair.first, update).await, ["1"]);
    assert_eq!(pair.table().await, ["1 600", "2 20", "3 30", "4 40", "5 50", "6 600"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_no_row_lets_a_statement_go_on() {
    let pair = Pair::new().await;
    let other = pair.other.clone();
    pair.store.before_put(LOG, 1, move || {
        let other = other.clone();
        let fence = async move {
            run(&other, "SET onefold.idempotency_token = 'x'; DELETE FROM t WHERE false").await
        };
        async move { fence.await.unwrap() }.boxed()
    });
    assert_eq!(rows(&pair.first, "DELETE FROM t WHERE k > 2").await, ["4"]);
    assert_eq!(pair.table().await, ["1 10", "2 20"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_is_always_overtaken_is_refused_and_changes_nothing() {
    let pair = Pair::new().await;
    pair.before_commit(1_000, "UPDATE t SET v = v + 1 WHERE k = 1");
    let refused = run(&pair.first, "UPDATE t SET v = 0 WHERE k < 3").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let said = refused.to_string();
    assert!(said.contains("100 times in a row") && said.contains("run it again"), "{said}");
    assert_eq!(pair.store.left(), 900, "runs are bounded");
    assert_eq!(pair.table().await[..2], ["1 110", "2 20"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_reads_the_ledger_can_be_overtaken() {
    let pair = Pair::new().await;
    pair.before_commit(2, "INSERT INTO t VALUES (8, 1)");
    let delete =
        "DELETE FROM t WHERE k NOT IN (SELECT CAST(epoch AS BIGINT) FROM onefold_history('t'))";
    assert_eq!(rows(&pair.first, delete).await, ["7"]);
    assert_eq!(pair.table().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_the_other_used_first_makes_the_statement_do_nothing() {
    let pair = Pair::new().await;
    pair.before_commit(1, "SET onefold.idempotency_token = 'one'; UPDATE t SET v = v + 1");
    let again = "SET onefold.idempotency_token = 'one'; UPDATE t SET v = v + 1";
    assert_eq!(rows(&pair.first, again).await, ["0"]);
    assert_eq!(pair.table().await[..2], ["1 11", "2 21"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_does_not_know_a_column_never_writes_rows_without_it() {
    const ALTER: &str = "ALTER TABLE t ADD COLUMN w BIGINT; UPDATE t SET w = k";
    for is_before in [true, false] {
        let pair = Pair::new().await;
        if is_before {
            run(&pair.other, ALTER).await.unwrap();
        } else {
            pair.before_commit(1, ALTER);
        }
        for statement in [
            "UPDATE t SET v = 0",
            "UPDATE t SET v = 0",
            "REPLACE INTO t VALUES (1, 1)",
            "INSERT INTO t VALUES (1, 1)",
        ] {
            let refused = refusal(&pair.first, statement).await;
            // An INSERT does not look before it is overtaken.
            let is_said = ["changed the schema", "is no longer as it was opened"];
            assert!(is_said.iter().any(|text| refused.contains(text)), "{statement}: {refused}");
        }
        assert_eq!(rows(&pair.other, "SELECT sum(v), sum(w) FROM t").await, ["210 21"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_is_not_run_again_over_a_restored_table() {
    let pair = Pair::new().await;
    pair.before_commit(1, "RESTORE t TO VERSION AS OF 0");
    let refused = refusal(&pair.first, "UPDATE t SET v = 0").await;
    assert!(refused.contains("it restored an older version"), "{refused}");
    assert_eq!(pair.table().await, [""; 0]);
}
