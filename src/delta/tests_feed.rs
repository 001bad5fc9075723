//! Differences of versions, read by one who keeps rows by their keys and by one who keeps a sum.

use super::tests::{Model, Run, memory, open, open_as, scan, settings};
use super::{DeltaTable, Difference, TableVersion, foreign};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use proptest::prelude::*;
use std::sync::Arc;

/// One who follows a table.
#[derive(Debug, Default)]
struct Follower {
    rows: Model,
    count: i64,
    sum: i64,
}

impl Follower {
    async fn follow(&mut self, difference: &Difference, at_once: u64) {
        let (mut from, end) = (0, difference.rows());
        while from < end {
            let rows = difference.read(from..end.min(from.saturating_add(at_once))).await.unwrap();
            assert!(rows.num_rows() > 0);
            let column = |index: usize| rows.column(index).as_primitive::<Int64Type>();
            for row in 0..rows.num_rows() {
                let (key, value) = (column(0).value(row), column(1).value(row));
                let change = column(rows.num_columns() - 1).value(row);
                self.count += change;
                self.sum += change * value;
                if change > 0 {
                    self.rows.insert(key, value);
                } else {
                    self.rows.remove(&key);
                }
            }
            from += rows.num_rows() as u64;
        }
    }
}

/// How many rows a version has, and the sum of their values; a key may be there twice.
async fn counted(table: &Arc<DeltaTable>, version: &TableVersion) -> (i64, i64) {
    let mut all = Follower::default();
    all.follow(&table.changed_between(None, version).await.unwrap(), u64::MAX).await;
    (all.count, all.sum)
}

#[derive(Clone, Debug)]
enum Act {
    Epoch(Vec<(i64, i64)>),
    Append(Vec<(i64, i64)>),
    Delete(i64),
    Compact,
    Optimize,
    Restore(u64),
    Follow,
}

fn act() -> impl Strategy<Value = Act> {
    let rows = || proptest::collection::btree_map(0..12_i64, 0..100_i64, 1..6);
    prop_oneof![
        3 => rows().prop_map(|rows| Act::Epoch(rows.into_iter().collect())),
        3 => rows().prop_map(|rows| Act::Append(rows.into_iter().collect())),
        1 => (0..10_i64).prop_map(Act::Delete),
        1 => Just(Act::Compact),
        1 => Just(Act::Optimize),
        1 => (0..9_u64).prop_map(Act::Restore),
        4 => Just(Act::Follow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whoever_follows_a_table_has_what_it_has(acts in proptest::collection::vec(act(), 0..20)) {
        let threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = { threads }.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(lived(acts));
    }
}

async fn lived(acts: Vec<Act>) {
    let location = memory();
    let table = open(&location, settings()).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    let (mut netted, mut whole) = (Follower::default(), Follower::default());
    let mut at: Option<TableVersion> = None;
    let rest = [Act::Follow, Act::Epoch(vec![(99, 1)]), Act::Follow];
    for act in acts.into_iter().chain(rest) {
        match act {
            Act::Epoch(rows) => run.epoch(&rows).await,
            Act::Append(rows) => foreign::append(&location, &rows).await,
            Act::Delete(key) => foreign::delete(&location, key..key + 3).await,
            Act::Compact => foreign::compact(&location).await,
            Act::Optimize => {
                table.optimize().await.unwrap();
            }
            Act::Restore(back) => {
                // By hand, and not by name: our own epochs would rightly stop there.
                let newest = open_as(&location, None, settings()).await.unwrap().version();
                foreign::restore(&location, newest - back % newest.max(1), "WRITE", None).await;
            }
            Act::Follow => {
                let newest = table.newest().await.unwrap();
                let own = table.changed_between(at.as_ref(), &newest).await.unwrap();
                netted.follow(&own, 3).await;
                let own = table.changed_within(at.as_ref(), &newest, 0).await.unwrap();
                whole.follow(&own, u64::MAX).await;
                assert_eq!((netted.count, netted.sum), counted(&table, &newest).await);
                assert_eq!((whole.count, whole.sum), (netted.count, netted.sum));
                at = Some(newest);
            }
        }
    }
    // The last epoch masked the older row of each key.
    let expected = scan(&table).await;
    assert_eq!((&netted.rows, &whole.rows), (&expected, &expected));
}
