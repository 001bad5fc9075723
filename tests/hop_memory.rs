//! `hop` where the memory pool has not room for all windows at once, against one query over every pair of
//! a row and a window that holds it.

use crate::rollups::shown;
use crate::soak::{FOLD, Watched, session_in};
use crate::support::tables::run;
use crate::support::{Row, batch, source};
use onefold::arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
use onefold::arrow::record_batch::RecordBatch;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use std::sync::Arc;

const SLIDE: i64 = 10;
const SIZE: i64 = 600;
const ROWS: i64 = 1_500;
/// Each pair of a pane and a window takes more than 100 bytes while windows are made, and there are
/// 60 for each row.
const POOL: usize = 2_000_000;

/// Some groups have no value that is not NULL.
const VALUES: &str = "count(*) AS c, sum(CASE WHEN n % 5 = 0 THEN CAST(n AS DOUBLE) END) AS s,
    min(CASE WHEN n % 301 % 3 > 0 THEN n END) AS lo, max(CASE WHEN n % 7 = 1 THEN n END) AS hi";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_are_made_in_a_pool_that_has_not_room_for_all_of_them() {
    made(400_000, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_are_made_in_a_pool_that_what_is_remembered_fills() {
    made(1 << 30, false).await;
}

/// Runs two pipelines that may remember so much each.
async fn made(state_bytes_max: u64, has_room: bool) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (source, pool) = (source(1), Watched::of(POOL));
    let context = session_in(&pool, &store, &source, state_bytes_max);
    let hop = format!("hop(at, INTERVAL '{SLIDE} microseconds', INTERVAL '{SIZE} microseconds')");
    let columns = "m BIGINT NOT NULL, w TIMESTAMP NOT NULL";
    let values = "c BIGINT, s DOUBLE, lo BIGINT, hi BIGINT";
    let script = format!(
        "CREATE EXTERNAL TABLE each ({columns}, {values}, PRIMARY KEY (m, w))
           STORED AS DELTA LOCATION 'memory:///each';
         INSERT INTO each SELECT n % 301 AS m, HOP AS w, {VALUES} FROM events GROUP BY n % 301, HOP;
         CREATE EXTERNAL TABLE sets ({columns}, g INT NOT NULL, {values}, PRIMARY KEY (m, w, g))
           STORED AS DELTA LOCATION 'memory:///sets';
         INSERT INTO sets SELECT coalesce(m, -1) AS m, coalesce(HOP, TIMESTAMP '1970-01-01') AS w,
           grouping(m) AS g, {VALUES}
         FROM (SELECT coalesce(n % 301, 0) AS m, n, at FROM events) AS e GROUP BY HOP, ROLLUP(m);"
    );
    run(&context, &script.replace("HOP", &hop)).await.unwrap();
    // Rows of a group are closer together than a window is long.
    let rows: Vec<Row> = (0..ROWS).map(|n| (None, Some(n), n)).collect();
    for (from, to) in [(0, 2), (2, 3)] {
        source.push("p0", &batch(&rows[from * rows.len() / 3..to * rows.len() / 3])).unwrap();
        for table in ["each", "sets"] {
            context.pipeline(table).unwrap().run_until_idle().await.unwrap();
            let refused = std::mem::take(&mut *pool.refused.lock().unwrap());
            assert!(refused > 0, "there was room for all windows");
            let folds = pool.take(FOLD);
            assert!(folds < POOL, "{folds} bytes");
            assert!(folds > POOL / 4 || !has_room, "{folds} bytes: it is not used");
        }
    }
    let context = session_in(&Watched::of(usize::MAX), &store, &source, 1 << 30);
    run(&context, &script.replace("HOP", &hop)).await.unwrap();
    context.register_batch("pairs", pairs(&rows)).unwrap();
    let each = format!("SELECT n % 301 AS m, w, {VALUES} FROM pairs GROUP BY n % 301, w");
    let sets = format!(
        "SELECT coalesce(m, -1) AS m, w, grouping(m) AS g, {VALUES}
         FROM (SELECT n % 301 AS m, n, w FROM pairs) AS e GROUP BY w, ROLLUP(m)"
    );
    for (table, expected) in [("each", each), ("sets", sets)] {
        let differ = format!(
            "(SELECT * FROM {table} EXCEPT {expected}) UNION ALL ({expected} EXCEPT SELECT * FROM {table})"
        );
        assert_eq!(shown(&context, &differ).await.unwrap(), [] as [&str; 0], "{table}");
    }
}

/// Each row with each window that holds it.
fn pairs(rows: &[Row]) -> RecordBatch {
    let starts = |at: i64| {
        let first = (at - SIZE).div_euclid(SLIDE) + 1;
        (first..).map(|index| index * SLIDE).take_while(move |start| *start <= at)
    };
    let pairs = rows.iter().flat_map(|row| starts(row.2).map(|start| (row.2, start)));
    let (numbers, starts): (Vec<i64>, Vec<i64>) = pairs.unzip();
    let columns: [(&str, ArrayRef); 2] = [
        ("n", Arc::new(Int64Array::from(numbers))),
        ("w", Arc::new(TimestampMicrosecondArray::from(starts))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}
