//! Materialized views whose columns are named, and those over other views.

use crate::support::feeds::{drain, sorted};
use crate::support::tables::{World, refusal, rows, run};
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;

/// A table with three rows.
async fn opened(world: &World) -> SessionContext {
    let context = world.session();
    let table = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, g VARCHAR NOT NULL, n BIGINT,
           PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t';
         CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA LOCATION 'memory:///t'";
    run(&context, table).await.unwrap();
    if context.table_version("t") == Some(0) {
        run(&context, "INSERT INTO t VALUES (1, 'a', 10), (2, 'b', 20), (3, 'a', 5)")
            .await
            .unwrap();
    }
    context
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_columns_names_those_of_the_query() {
    let world = World::new();
    let context = opened(&world).await;
    let query = "SELECT g, sum(n), count(*) FROM t_changes GROUP BY g";
    let create = format!(
        "CREATE MATERIALIZED VIEW v (Grp, \"Sum of n\", c) LOCATION 'memory:///v' AS {query}"
    );
    let error = refusal(&context, &create).await;
    assert!(error.contains("column Sum of n needs a name"), "{error}");
    let create = create.replace("Sum of n", "Sum");
    let plan = rows(&context, &format!("EXPLAIN FORMAT INDENT {create}")).await;
    let table = "table v: grp Utf8 NOT NULL, Sum Int64, c Int64 NOT NULL, PRIMARY KEY (grp)";
    assert!(plan[0].starts_with(table), "{}", plan[0]);
    run(&context, &create).await.unwrap();
    drain(&context, "v").await;
    let found = sorted(&context, "SELECT grp, \"Sum\", c FROM v").await;
    assert_eq!(found, ["a 15 2", "b 20 1"]);
    let shown = rows(&context, "SHOW MATERIALIZED VIEWS").await;
    assert_eq!(shown, [format!("v memory:///v default {query}")]);
    // information_schema shows the statement that makes it again.
    context.state_ref().write().config_mut().options_mut().catalog.information_schema = true;
    let made = rows(&context, "SHOW CREATE TABLE v").await.remove(0);
    let statement = made.split_once("public v ").unwrap().1.to_owned();
    let expected =
        "CREATE MATERIALIZED VIEW v (\"grp\", \"Sum\", \"c\") LOCATION 'memory:///v' AS ";
    assert_eq!(statement, format!("{expected}{query}"));
    run(&context, "UPDATE t SET n = 1 WHERE g = 'a'").await.unwrap();
    let context = opened(&world).await;
    run(&context, &statement).await.unwrap();
    drain(&context, "v").await;
    let found = sorted(&context, "SELECT grp, \"Sum\", c FROM v").await;
    assert_eq!(found, ["a 2 2", "b 20 1"], "it goes on where it was");
    for (columns, said) in [
        ("(a)", "it names 1 columns, and its query has 3"),
        ("(a, b, c, d)", "it names 4 columns"),
        ("(a, A, c)", "two columns are called a"),
        ("()", "write CREATE MATERIALIZED VIEW [IF NOT EXISTS] name [(column, ...)]"),
    ] {
        let sql = format!("CREATE MATERIALIZED VIEW w {columns} LOCATION 'memory:///w' AS {query}");
        let error = refusal(&context, &sql).await;
        assert!(error.contains(said), "{columns}: {error}");
    }
    let other = "DROP MATERIALIZED VIEW v;
        CREATE MATERIALIZED VIEW v (grp, total, c) LOCATION 'memory:///v' AS";
    let error = refusal(&context, &format!("{other} {query}")).await;
    assert!(error.contains("total"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_over_a_view_follows_its_changes() {
    let world = World::new();
    let script = "CREATE MATERIALIZED VIEW sums LOCATION 'memory:///sums' AS
          SELECT g, sum(n) AS n FROM t_changes GROUP BY g;
        CREATE UNBOUNDED EXTERNAL TABLE sums_changes STORED AS DELTA LOCATION 'memory:///sums';
        CREATE MATERIALIZED VIEW large (name, n) LOCATION 'memory:///large' AS
          SELECT own.g, n FROM sums_changes AS own WHERE n > 12;
        CREATE MATERIALIZED VIEW whole LOCATION 'memory:///whole' AS
          SELECT 'all' AS scope, sum(n) AS n FROM sums_changes GROUP BY 'all'";
    let context = opened(&world).await;
    run(&context, script).await.unwrap();
    for (change, large, whole) in [
        ("SELECT 1", vec!["a 15", "b 20"], "all 35"),
        ("UPDATE t SET n = 6 WHERE k = 1", vec!["b 20"], "all 31"),
        ("INSERT INTO t VALUES (2, 'c', 70), (4, 'b', 1)", vec!["c 70"], "all 82"),
        ("DELETE FROM t WHERE k > 1", vec![], "all 6"),
    ] {
        run(&context, change).await.unwrap();
        let context = opened(&world).await;
        run(&context, script).await.unwrap();
        for view in ["sums", "large", "whole"] {
            drain(&context, view).await;
        }
        assert_eq!(sorted(&context, "SELECT * FROM large").await, large, "{change}");
        assert_eq!(sorted(&context, "SELECT * FROM whole").await, [whole], "{change}");
    }
    for (query, said) in [
        (
            "SELECT g, n FROM sums WHERE n > 3",
            "to follow how sums changes, CREATE UNBOUNDED EXTERNAL TABLE sums_changes STORED AS \
             DELTA LOCATION 'memory:///sums'",
        ),
        ("SELECT n FROM sums_changes", "g, of the primary key of the table that changes, is not"),
        ("SELECT concat(g, 'x') AS g, n FROM sums_changes", "is not in the SELECT list"),
        ("SELECT g, n FROM sums_changes DEDUP BY g WITHIN UNBOUNDED", "a key already"),
    ] {
        let sql = format!("CREATE MATERIALIZED VIEW w LOCATION 'memory:///w' AS {query}");
        let error = refusal(&context, &sql).await;
        assert!(error.contains(said), "{query}: {error}");
    }
    let merges =
        "CREATE MATERIALIZED VIEW w LOCATION 'memory:///w' OPTIONS ('merge_mode' 'first') AS
        SELECT g, n FROM sums_changes";
    let error = refusal(&context, merges).await;
    assert!(error.contains("its rows are written whole each time"), "{error}");
    assert!(context.table_version("w").is_none(), "nothing is left");
}
