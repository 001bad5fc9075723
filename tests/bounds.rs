//! What the log tells other engines of the values in a file, by which they pass over files.

use crate::support::tables::{World, rows, run};
use futures::TryStreamExt;
use onefold::object_store::path::Path;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use std::collections::BTreeMap;

/// The statistics of each file, in the order of the commits that added it.
async fn statistics(world: &World) -> BTreeMap<String, Vec<String>> {
    let log = Path::from("t/_delta_log");
    let mut commits: Vec<_> = world.store.list(Some(&log)).try_collect().await.unwrap();
    commits.retain(|own| own.location.extension() == Some("json"));
    commits.sort_by(|one, two| one.location.cmp(&two.location));
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for commit in commits {
        let bytes = world.store.get(&commit.location).await.unwrap().bytes().await.unwrap();
        for line in std::str::from_utf8(&bytes).unwrap().lines() {
            let action: Value = serde_json::from_str(line).unwrap();
            if let (Some(path), Some(stats)) =
                (action["add"]["path"].as_str(), action["add"]["stats"].as_str())
            {
                found.entry(path.to_owned()).or_default().push(stats.to_owned());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_stay_digit_by_digit_as_they_were_when_rows_are_masked() {
    let mut world = World::new();
    world.settings.compact_files_min = 1_000;
    let context = world.session();
    let script = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, x DOUBLE, d DECIMAL(38, 10),
          p DECIMAL(18, 2), z DOUBLE, PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t';
        INSERT INTO t SELECT value, 119.57142857142857e0, CAST('1234567890123456789012345678.0123456789'
          AS DECIMAL(38, 10)), CAST('1234567890123456.79' AS DECIMAL(18, 2)), 0.0e0 FROM generate_series(1, 9);
        DELETE FROM t WHERE k = 2; UPDATE t SET x = 1 WHERE k = 3; REPLACE INTO t (k) VALUES (4)";
    run(&context, script).await.unwrap();
    let all = statistics(&world).await;
    let masked = all.values().max_by_key(|own| own.len()).unwrap();
    assert_eq!(masked.len(), 4, "{all:?}");
    for bound in [
        "\"x\":119.57142857142857,",
        "\"d\":1234567890123456789012345678.0123456789,",
        "\"p\":1234567890123456.79,",
    ] {
        assert_eq!(masked[0].matches(bound).count(), 2, "{masked:?}");
    }
    assert!(masked[0].contains("\"z\":-0.0}") && masked[0].contains("\"z\":0.0}"), "{masked:?}");
    let wide = masked[0].replace("\"tightBounds\":true", "\"tightBounds\":false");
    assert_ne!(wide, masked[0]);
    assert_eq!(masked[1..], [wide.clone(), wide.clone(), wide]);
}

/// Delta wants a table to say that it has times without a zone, also if the first comes later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_of_times_may_be_added_to_a_table_that_has_none() {
    let world = World::new();
    let context = world.session();
    let script = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, PRIMARY KEY (k))
          STORED AS DELTA LOCATION 'memory:///t';
        INSERT INTO t VALUES (1), (2);
        ALTER TABLE t ADD COLUMN x TIMESTAMP, ADD COLUMN s VARCHAR;
        INSERT INTO t VALUES (2, '2026-05-01T10:00:00.000001', 'b')";
    run(&context, script).await.unwrap();
    let opened = "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'";
    let other = world.session();
    run(&other, opened).await.unwrap();
    let again = "ALTER TABLE t ADD COLUMN y TIMESTAMP; UPDATE t SET y = x WHERE k = 2; OPTIMIZE t";
    run(&other, again).await.unwrap();
    let expected =
        ["1 NULL NULL NULL", "2 2026-05-01T10:00:00.000001 b 2026-05-01T10:00:00.000001"];
    assert_eq!(rows(&other, "SELECT * FROM t ORDER BY k").await, expected);
    let third = world.session();
    run(&third, opened).await.unwrap();
    assert_eq!(rows(&third, "SELECT * FROM t ORDER BY k").await, expected);
    let said = rows(&third, "SELECT count(*) FROM t WHERE x = '2026-05-01T10:00:00.000001'").await;
    assert_eq!(said, ["1"]);
}
