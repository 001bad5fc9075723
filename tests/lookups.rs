//! Rows by their keys, through the key index; and rows of the past, by time.

use crate::support::tables::{World, refusal, rows, run};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStoreExt;
use serde_json::Value;

/// What key 3 has, by version.
const VALUES: [&str; 5] = ["", "", "1", "7", "8"];

/// A plan that scans reads 1000 rows from two files, whose statistics tell nothing.
async fn filled(world: &World) -> SessionContext {
    let context = world.session();
    run(
        &context,
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, s VARCHAR, v BIGINT, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///t';
         CREATE EXTERNAL TABLE p (a BIGINT NOT NULL, b VARCHAR NOT NULL, v BIGINT,
         PRIMARY KEY (a, b)) STORED AS DELTA LOCATION 'memory:///p';
         INSERT INTO t SELECT value * 2, 's', value FROM generate_series(0, 499);
         INSERT INTO t SELECT value * 2 + 1, 's', value FROM generate_series(0, 499);
         INSERT INTO p SELECT value % 10, 'b' || value, value FROM generate_series(0, 999)",
    )
    .await
    .unwrap();
    context
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_a_query_names_are_the_only_rows_read() {
    let world = World { settings: quiet(), ..World::new() };
    let context = filled(&world).await;
    for (query, read, found) in [
        ("SELECT k FROM t WHERE k = 7", 1, vec!["7"]),
        ("SELECT k FROM t WHERE 7 = k", 1, vec!["7"]),
        ("SELECT k FROM t WHERE k = 7 OR k = 800", 2, vec!["7", "800"]),
        ("SELECT k FROM t WHERE k = 7 OR 800 = k OR k IN (9, 11)", 4, vec!["11", "7", "800", "9"]),
        ("SELECT k FROM t WHERE (k = 7 OR k = 800) AND v > 100", 2, vec!["800"]),
        ("SELECT k FROM t WHERE k IN (1, 2, 3, 4, 5, 6)", 6, vec!["1", "2", "3", "4", "5", "6"]),
        ("SELECT k FROM t WHERE k = 7 AND k = 8", 0, vec![]),
        ("SELECT k FROM t WHERE k = 5000 OR k = 7", 1, vec!["7"]),
        ("SELECT k FROM t WHERE k = 7 OR v = 400", 1000, vec!["7", "800", "801"]),
        (
            "SELECT k FROM t WHERE k NOT IN (7, 9, 11, 13, 15) AND v < 2",
            1000,
            vec!["0", "1", "2", "3"],
        ),
        ("SELECT k FROM t WHERE k > 997", 1000, vec!["998", "999"]),
        ("SELECT v FROM p WHERE a = 3 AND b = 'b13'", 1, vec!["13"]),
        ("SELECT v FROM p WHERE b = 'b13'", 1000, vec!["13"]),
        ("SELECT v FROM p WHERE (a = 3 OR a = 4) AND b = 'b13'", 1000, vec!["13"]),
        ("SELECT v FROM p WHERE a = 3 AND b = 'b14'", 0, vec![]),
    ] {
        let mut rows = rows(&context, query).await;
        rows.sort();
        assert_eq!(rows, found, "{query}");
        assert_eq!(rows_read(&context, query).await, read, "{query}");
    }
    run(&context, "DELETE FROM t WHERE k = 7; UPDATE t SET v = -1 WHERE k = 800").await.unwrap();
    let changed = "SELECT k, v FROM t WHERE k = 7 OR k = 800";
    assert_eq!(rows(&context, changed).await, ["800 -1"]);
    assert_eq!(rows_read(&context, changed).await, 1);
    let other = world.session();
    let open = "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'";
    run(&other, &format!("{open}; INSERT INTO t VALUES (7, 'o', 70)")).await.unwrap();
    run(&context, open.replace("TABLE", "TABLE IF NOT EXISTS").as_str()).await.unwrap();
    assert_eq!(rows(&context, changed).await, ["800 -1"], "as this session knows it");
    run(&context, "INSERT INTO t VALUES (5000, 's', 0)").await.unwrap();
    assert_eq!(rows(&context, &format!("{changed} ORDER BY k")).await, ["7 70", "800 -1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_is_of_the_newest_version_that_is_not_after_it() {
    let world = World { settings: quiet(), ..World::new() };
    let context = filled(&world).await;
    run(&context, "UPDATE t SET v = 7 WHERE k = 3; UPDATE t SET v = 8 WHERE k = 3").await.unwrap();
    let mut times = Vec::new();
    for version in 0..VALUES.len() {
        times.push(committed_ms(&world, version).await * 1_000);
    }
    assert!(times.is_sorted_by(|one, two| one < two), "{times:?}");
    for at_us in times.iter().flat_map(|at| [-1_000, -1, 0, 1, 999, 1_000].map(|us| at + us)) {
        let query = format!("SELECT v FROM t TIMESTAMP AS OF '{}' WHERE k = 3", time(at_us));
        match times.iter().rposition(|own| *own <= at_us) {
            Some(version) => {
                assert_eq!(rows(&context, &query).await.join(""), VALUES[version], "{query}");
            }
            None => {
                let refused = refusal(&context, &query).await;
                assert!(refused.contains("is not kept; there are versions 0 to 4"), "{refused}");
            }
        }
    }
    let far = rows(&context, "SELECT v FROM t TIMESTAMP AS OF '2999-01-01' WHERE k = 3").await;
    assert_eq!(far, ["8"], "after the last version");
}

fn quiet() -> onefold::types::Settings {
    let mut settings = World::new().settings;
    settings.compact_rows_min = 0; // so that files and versions can be counted
    settings
}

/// Rows that the scan of a query gave to what is above it.
async fn rows_read(context: &SessionContext, query: &str) -> u64 {
    let plan = rows(context, &format!("EXPLAIN ANALYZE {query}")).await.join("\n");
    let scan = plan.lines().find(|line| line.contains("DataSourceExec"));
    let Some(scan) = scan else {
        assert!(plan.contains("EmptyExec"), "{plan}");
        return 0;
    };
    let count = scan.split("output_rows=").nth(1).unwrap();
    let count: String = count.chars().take_while(|own| !matches!(own, ',' | ']')).collect();
    let count = count.trim().replace(" K", "0").replace('.', "");
    count.parse().unwrap_or_else(|_| panic!("{count}: {scan}"))
}

async fn committed_ms(world: &World, version: usize) -> i64 {
    let path = format!("t/_delta_log/{version:020}.json");
    let bytes = world.store.get(&path.as_str().into()).await.unwrap().bytes().await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let infos = text.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["commitInfo"]["inCommitTimestamp"].as_i64()
    });
    infos.into_iter().next().unwrap()
}

fn time(us: i64) -> String {
    onefold::types::EventTime(us).to_string()
}
