//! What an epoch hands to the table: one row for each group that it changed, and nothing else.

use crate::rollups::shown;
use crate::support::cuts::opened;
use crate::support::{DELAY_US, How, Row, batch, source};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use std::sync::Arc;

/// Groups of numbers, of which one is every second row; the same in windows, as they change and as
/// they are closed; and groups of both levels.
const SCRIPT: &str = "
    CREATE EXTERNAL TABLE ever (m BIGINT NOT NULL, c BIGINT, s BIGINT, PRIMARY KEY (m))
      STORED AS DELTA LOCATION 'memory:///ever';
    INSERT INTO ever SELECT n AS m, count(*), sum(n) FROM events GROUP BY n;
    CREATE EXTERNAL TABLE closed (m BIGINT NOT NULL, w TIMESTAMP NOT NULL, c BIGINT,
      PRIMARY KEY (m, w)) STORED AS DELTA LOCATION 'memory:///closed';
    INSERT INTO closed SELECT n AS m, tumble(at, INTERVAL '10 microseconds') AS w, count(*)
      FROM events GROUP BY n, tumble(at, INTERVAL '10 microseconds') EMIT FINAL;
    CREATE EXTERNAL TABLE levels (m BIGINT NOT NULL, g INT NOT NULL, c BIGINT, PRIMARY KEY (m, g))
      STORED AS DELTA LOCATION 'memory:///levels';
    INSERT INTO levels SELECT coalesce(n, -1) AS m, grouping(n) AS g, count(*)
      FROM events WHERE n IS NOT NULL GROUP BY ROLLUP(n)";

const TABLES: [&str; 3] = ["ever", "closed", "levels"];

/// How many rows each epoch that there is handed to each table, oldest first.
async fn emitted(context: &SessionContext) -> Vec<Vec<u64>> {
    let mut all = Vec::new();
    for table in TABLES {
        let epochs = context.pipeline(table).unwrap().epochs(100).await.unwrap();
        all.push(epochs.iter().rev().map(|own| own.manifest.rows_emitted).collect());
    }
    all
}

async fn run(context: &SessionContext) {
    for table in TABLES {
        context.pipeline(table).unwrap().run_until_idle().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_hands_on_one_row_for_each_group_that_it_changed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(2);
    let mut context = opened(&store, &source, How::default(), SCRIPT).await.unwrap();
    let push = |partition: &str, rows: &[(i64, i64)]| {
        let rows: Vec<Row> = rows.iter().map(|(number, at)| (None, Some(*at), *number)).collect();
        source.push(partition, &batch(&rows)).unwrap();
    };
    // A thousand groups, each in both partitions.
    let all: Vec<(i64, i64)> = (0..1_000).map(|number| (number, 100)).collect();
    push("p0", &all);
    push("p1", &all);
    run(&context).await;
    assert_eq!(emitted(&context).await, [[1_000], [0], [1_001]]);
    let version = context.table_version("ever").unwrap();
    // Three of them change, one of these by many rows of both partitions; two are new.
    let mut some = vec![(7, 101), (8, 102), (2_000, 103)];
    some.extend((0..500).map(|_| (9, 104)));
    push("p0", &some);
    push("p1", &[(9, 105), (9, 105), (2_001, 105)]);
    run(&context).await;
    assert_eq!(emitted(&context).await, [vec![1_000, 5], vec![0, 0], vec![1_001, 6]]);
    let changes = format!(
        "SELECT count(*), count(DISTINCT m) FROM onefold_changes('ever', {version}, {})",
        context.table_version("ever").unwrap()
    );
    // What three were and are, and two that came.
    assert_eq!(shown(&context, &changes).await.unwrap(), ["8 | 5"]);
    let status = context.pipeline("ever").unwrap().status().borrow().clone();
    assert_eq!((status.rows_inserted, status.rows_updated), (1_002, 3));
    // The same after a restart. The windows at 100 are closed, and each is handed out then.
    context = opened(&store, &source, How::default(), SCRIPT).await.unwrap();
    let end = 110 + DELAY_US;
    push("p0", &[(7, end)]);
    push("p1", &[(7, end)]);
    run(&context).await;
    let three = [vec![1_000, 5, 1], vec![0, 0, 1_002], vec![1_001, 6, 2]];
    assert_eq!(emitted(&context).await, three);
    // A row that is late for its window changes nothing there, and no window is handed out again.
    push("p0", &[(8, 100), (9, end)]);
    push("p1", &[(9, end)]);
    run(&context).await;
    let four = [vec![1_000, 5, 1, 2], vec![0, 0, 1_002, 0], vec![1_001, 6, 2, 3]];
    assert_eq!(emitted(&context).await, four);
    let found = shown(&context, "SELECT m, c, s FROM ever WHERE m IN (7, 9, 999)").await.unwrap();
    assert_eq!(found, ["7 | 5 | 35", "9 | 506 | 4554", "999 | 2 | 1998"]);
}
