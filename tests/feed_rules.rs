//! What a pipeline over changes may be, what EXPLAIN shows of it, and what is refused.

use crate::support::feeds::{COPY, drain, small};
use crate::support::tables::{World, refusal, rows, run};

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
