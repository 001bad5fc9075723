//! The ledger of a pipeline that reads several sources: each row is counted where it came from.

use crate::support::tables::{World, refusal, rows, run};
use onefold::prelude::*;
use std::fmt::Write;
use std::path::Path;

/// Of `a`: one row that comes again, two that come late, and three that WHERE drops. Of `b`: one that
/// comes again, and four that WHERE drops. Both have the same keys.
fn write(folder: &Path) {
    let line = |id: i64, second: i64, n: i64| {
        format!(
            "{{\"id\":{id},\"at\":\"2026-05-01T10:{:02}:{:02}\",\"n\":{n}}}\n",
            second / 60,
            second % 60
        )
    };
    let files = [
        ("a/0.json", vec![(1, 0, 1), (2, 1, 2), (1, 2, 3), (3, 3, -1), (4, 200, -1)]),
        ("a/1.json", vec![(5, 300, 5), (4, 201, 6), (6, 20, 7), (7, 301, -1)]),
        ("b/0.json", vec![(1, 0, -1), (2, 1, -1), (8, 2, 8), (3, 3, -1), (9, 4, -1)]),
        ("b/1.json", vec![(8, 5, 9), (4, 6, 10), (10, 7, 11)]),
    ];
    for (name, rows) in files {
        let mut text = String::new();
        for (id, second, n) in rows {
            write!(text, "{}", line(id, second, n)).unwrap();
        }
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

async fn counted(folder: &Path, table: &str, query: &str, epoch_rows: u64) -> Vec<String> {
    let mut world = World::new();
    world.settings.epoch_rows_max = epoch_rows;
    let context = world.session();
    let source = |name: &str| {
        format!(
            "CREATE UNBOUNDED EXTERNAL TABLE {name} (id BIGINT NOT NULL, at TIMESTAMP, n BIGINT,
               WATERMARK FOR at AS at - INTERVAL '1 minute')
             STORED AS JSON LOCATION '{}/';",
            folder.join(name).display()
        )
    };
    let script = format!("{}{}{table}; INSERT INTO t {query}", source("a"), source("b"));
    run(&context, &script).await.unwrap();
    context.pipeline("t").unwrap().run_until_idle().await.unwrap();
    let ledger = "SELECT source, sum(rows_read), sum(rows_emitted), sum(rows_duplicate),
        sum(rows_late), sum(rows_filtered) FROM onefold_history('t') GROUP BY source ORDER BY source";
    rows(&context, ledger).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_two_sources_are_counted_under_their_own() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let clause = "DEDUP BY id WITHIN INTERVAL '1 hour'";
    let plain = "CREATE EXTERNAL TABLE t (id BIGINT NOT NULL, n BIGINT, PRIMARY KEY (id))
        STORED AS DELTA LOCATION 'memory:///t'";
    let both = format!(
        "SELECT id, n FROM a {clause} WHERE n > 0 UNION ALL SELECT id, n FROM b {clause} WHERE n > 0"
    );
    let grouped = "CREATE EXTERNAL TABLE t (m TIMESTAMP NOT NULL, n BIGINT, PRIMARY KEY (m))
        STORED AS DELTA LOCATION 'memory:///t'";
    let bins = "date_bin(INTERVAL '1 minute', at)";
    let sums = format!(
        "SELECT m, sum(n) FROM (SELECT {bins} AS m, n FROM a {clause} WHERE n > 0 UNION ALL
         SELECT {bins} AS m, n FROM b {clause} WHERE n > 0) AS e GROUP BY m"
    );
    for epoch_rows in [1, 4, 100] {
        for (table, query) in [(plain, &both), (grouped, &sums)] {
            let found = counted(folder.path(), table, query, epoch_rows).await;
            assert_eq!(found, ["a 9 3 1 2 3", "b 8 3 1 0 4"], "{query}, {epoch_rows}");
        }
    }
}

/// A table keeps microseconds: windows of whole ones are kept as they are, from whichever branch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_of_every_branch_must_be_whole_microseconds() {
    let context = World::new().session();
    let script = "CREATE UNBOUNDED EXTERNAL TABLE a (user_id BIGINT, event_time TIMESTAMP)
          STORED AS GENERATOR OPTIONS ('rows' '10');
        CREATE UNBOUNDED EXTERNAL TABLE b (user_id BIGINT, event_time TIMESTAMP)
          STORED AS GENERATOR OPTIONS ('rows' '10', 'seed' '2');
        CREATE TABLE names AS SELECT 1 AS id;
        CREATE EXTERNAL TABLE t (m TIMESTAMP NOT NULL, n BIGINT, PRIMARY KEY (m))
          STORED AS DELTA LOCATION 'memory:///t'";
    run(&context, script).await.unwrap();
    let bins = |width: &str, from: &str| {
        let at = "CAST(event_time AS TIMESTAMP(9))";
        format!("SELECT date_bin(INTERVAL '{width}', {at}) AS m, user_id AS id FROM {from}")
    };
    let (second, tiny) = (bins("1 second", "a"), bins("10 nanoseconds", "b"));
    let count = "SELECT e.m, count(*) FROM";
    let joined = "JOIN names ON e.id = names.id GROUP BY e.m";
    let united = format!("{count} ({second} UNION ALL {tiny}) AS e GROUP BY e.m");
    for query in [united, format!("{count} ({tiny}) AS e {joined}")] {
        let error = refusal(&context, &format!("EXPLAIN INSERT INTO t {query}")).await;
        assert!(error.contains("can make two groups one"), "{query}: {error}");
    }
    run(&context, &format!("EXPLAIN INSERT INTO t {count} ({second}) AS e {joined}"))
        .await
        .unwrap();
}
