//! What statements refuse, and in which words; and what EXPLAIN ANALYZE does.

use crate::support::tables::{World, refusal, rows, run};
use onefold::arrow::util::pretty::pretty_format_batches;
use onefold::prelude::*;

const TABLE: &str = "CREATE EXTERNAL TABLE t
    (k BIGINT NOT NULL, v TINYINT NOT NULL, s VARCHAR, PRIMARY KEY (k))
    STORED AS DELTA LOCATION 'memory:///t'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_does_not_fit_is_refused_by_table_column_and_row() {
    let context = World::new().session();
    run(&context, TABLE).await.unwrap();
    let null = "table t: column v is NULL in row {k: 2, v: NULL, s: y}, and must not be";
    let key = "table t: column k is NULL in row {k: NULL, v: 1, s: x}, and must not be";
    let wide = "table t: column v is Int8, and cannot hold 300 of row 2 of VALUES";
    for (statement, expected) in [
        ("INSERT INTO t VALUES (1, 1, 'x'), (2, NULL, 'y')", null),
        ("REPLACE INTO t VALUES (2, NULL, 'y')", null),
        ("INSERT OVERWRITE t VALUES (2, NULL, 'y')", null),
        ("INSERT INTO t (s, k) VALUES ('y', 2)", null),
        ("INSERT INTO t SELECT 2, NULL, 'y'", null),
        ("EXPLAIN ANALYZE INSERT INTO t VALUES (2, NULL, 'y')", null),
        ("INSERT INTO t VALUES (NULL, 1, 'x')", key),
        ("INSERT INTO t (v, s, k) VALUES (1, 'x', NULL)", key),
        ("INSERT INTO t VALUES (1, 1, 'x'), (2, 300, 'y')", wide),
        ("INSERT INTO t (s, v, k) VALUES ('x', 1, 1), ('y', 300, 2)", wide),
        ("REPLACE INTO t VALUES (1, 1, 'x'), (2, 300, 'y')", wide),
        ("INSERT INTO t VALUES (1, -129, 'x')", "cannot hold -129 of row 1"),
        ("INSERT INTO t VALUES ('one', 1, 'x')", "column k is Int64, and cannot hold one"),
    ] {
        let refused = refusal(&context, statement).await;
        assert!(refused.contains(expected), "{statement}: {refused}");
        let plain = match context.sql(statement).await {
            Ok(frame) => frame.collect().await.unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(plain.contains(expected), "{statement}: {plain}");
    }
    assert_eq!(context.table_version("t"), Some(0));
    run(&context, "INSERT INTO t VALUES (1, -128, NULL), (2, 1 + 2, 'x'), ('3', 127, 4)")
        .await
        .unwrap();
    assert_eq!(
        rows(&context, "SELECT * FROM t ORDER BY k").await,
        ["1 -128 NULL", "2 3 x", "3 127 4"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_analyze_runs_its_statement_and_explain_does_not() {
    let context = World::new().session();
    run(&context, TABLE).await.unwrap();
    for (statement, expected) in [
        ("INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')", "1 1 a|2 2 b|3 3 c"),
        ("DELETE FROM t WHERE k = 1", "2 2 b|3 3 c"),
        ("UPDATE t SET v = v + 1", "2 3 b|3 4 c"),
        ("REPLACE INTO t VALUES (2, 0, 'r')", "2 0 r|3 4 c"),
        ("MERGE INTO t USING (SELECT 3 AS k) AS s ON t.k = s.k WHEN MATCHED THEN DELETE", "2 0 r"),
        ("TRUNCATE TABLE t", ""),
    ] {
        let table = async || rows(&context, "SELECT * FROM t ORDER BY k").await.join("|");
        let before = table().await;
        rows(&context, &format!("EXPLAIN {statement}")).await;
        assert_eq!(table().await, before, "{statement}");
        // The second statement sees what the first one did, though nobody reads its plan.
        let both = format!("EXPLAIN ANALYZE {statement}; SELECT count(*) FROM t");
        let frames = context.run_sql(&both).await.unwrap();
        assert_eq!(table().await, expected, "{statement}");
        let plan = frames[0].clone().collect().await.unwrap();
        let plan = pretty_format_batches(&plan).unwrap().to_string();
        let node = if statement.starts_with("INSERT") { "DataSinkExec" } else { "DmlExec" };
        assert!(plan.contains(node), "{plan}");
        assert_eq!(table().await, expected, "its rows are read, and nothing is done again");
    }
    let source = "CREATE UNBOUNDED EXTERNAL TABLE clicks (user_id BIGINT, event_time TIMESTAMP,
            WATERMARK FOR event_time AS event_time - INTERVAL '1 second')
        STORED AS GENERATOR OPTIONS ('rows' '10')";
    run(&context, source).await.unwrap();
    let insert = "EXPLAIN ANALYZE INSERT INTO t SELECT user_id, 1, 'x' FROM clicks";
    let refused = refusal(&context, insert).await;
    assert!(refused.contains("write EXPLAIN, which shows the plan"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clauses_that_would_be_lost_are_refused_with_what_to_write() {
    let context = World::new().session();
    let create = |columns: &str| {
        format!("CREATE EXTERNAL TABLE t ({columns}) STORED AS DELTA LOCATION 'memory:///t'")
    };
    let refused = refusal(&context, &create("k BIGINT PRIMARY KEY, v BIGINT DEFAULT 7")).await;
    assert!(refused.contains("table t: DEFAULT of column v is not kept"), "{refused}");
    for unique in ["k BIGINT PRIMARY KEY, v INT UNIQUE", "k INT PRIMARY KEY, v INT, UNIQUE (v)"] {
        let refused = refusal(&context, &create(unique)).await;
        assert!(refused.contains("table t: UNIQUE (v) is not kept"), "{refused}");
    }
    let ordered = create("k BIGINT PRIMARY KEY").replace("LOCATION", "WITH ORDER (k) LOCATION");
    let refused = refusal(&context, &ordered).await;
    assert!(refused.contains("WITH ORDER is for files"), "{refused}");
    let source = "CREATE UNBOUNDED EXTERNAL TABLE c (k INT DEFAULT 1) STORED AS GENERATOR";
    let refused = refusal(&context, source).await;
    assert!(refused.contains("DEFAULT of column k is not kept"), "{refused}");
    run(&context, &create("k BIGINT PRIMARY KEY, v BIGINT NULL")).await.unwrap();
    for clause in ["DEFAULT 7", "UNIQUE", "CHECK (w > 0)"] {
        let add = format!("ALTER TABLE t ADD COLUMN w BIGINT {clause}");
        let refused = refusal(&context, &add).await;
        assert!(refused.contains(&format!("{clause} of a new column is not kept")), "{refused}");
    }
    run(&context, "ALTER TABLE t ADD COLUMN w BIGINT NULL").await.unwrap();
    assert_eq!(context.table_version("t"), Some(1), "nothing was done before");
}
