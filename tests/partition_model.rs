//! Tables in partitions against a map: pipelines into them, and random lives of them.

use crate::support;
use crate::support::tables::{World, rows, run};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_fills_partitions_and_goes_on_where_it_was() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (source, how) =
        (support::source(2), support::How { epoch_rows_max: 9, ..Default::default() });
    let mut expected: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for round in 0..3 {
        for partition in 0..2 {
            let numbers = (0..20).map(|row| (round * 20 + row) * 2 + partition);
            let log: Vec<support::Row> =
                numbers.map(|number| (None, Some(number), number)).collect();
            for (_, _, number) in &log {
                // Keys that come from one partition of the source only.
                let key = number % 14;
                expected.insert(key, (number / 14 % 3, *number));
            }
            source.push(&format!("p{partition}"), &support::batch(&log)).unwrap();
        }
        let context = support::session(&store, &source, how).await.unwrap();
        run(
            &context,
            "CREATE EXTERNAL TABLE parts (part BIGINT, k BIGINT NOT NULL, n BIGINT, PRIMARY KEY (k))
             STORED AS DELTA PARTITIONED BY (part) LOCATION 'memory:///t';
             INSERT INTO parts SELECT n / 14 % 3, n % 14, n FROM events",
        )
        .await
        .unwrap();
        context.pipeline("parts").unwrap().run_until_idle().await.unwrap();
        let found = rows(&context, "SELECT k, part, n FROM parts ORDER BY k").await;
        let all = expected.iter().map(|(key, (part, number))| format!("{key} {part} {number}"));
        assert_eq!(found, all.collect::<Vec<_>>());
    }
}

/// One step of a random life.
#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<(i64, u8, i64)>),
    Move(i64, u8),
    Delete(u8),
    Raise(u8),
    Optimize,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let row = (0..25_i64, 0..5_u8, 0..1_000_i64);
    prop_oneof![
        5 => proptest::collection::vec(row, 1..12).prop_map(Step::Insert),
        2 => (0..25_i64, 0..5_u8).prop_map(|(key, part)| Step::Move(key, part)),
        1 => (0..5_u8).prop_map(Step::Delete),
        1 => (0..5_u8).prop_map(Step::Raise),
        1 => Just(Step::Optimize),
        1 => Just(Step::Reopen),
    ]
}

/// Partition 0 is NULL.
fn text(part: u8) -> String {
    if part == 0 { "NULL".to_owned() } else { format!("'p {part}'") }
}

fn asked(part: u8) -> String {
    if part == 0 { "p IS NULL".to_owned() } else { format!("p = {}", text(part)) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_table_in_partitions_equals_a_map(
        steps in proptest::collection::vec(step(), 1..16),
        kind in 0..3_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(live(steps, kind));
    }
}

/// Kinds: the last row counts; the highest `v` counts; the sum of all `v` does.
async fn live(steps: Vec<Step>, kind: usize) {
    let options =
        ["", "OPTIONS ('sequence_by' 'v')", "OPTIONS ('merge_mode' 'aggregate', 'merge.v' 'sum')"];
    let create = format!(
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, p VARCHAR, v BIGINT NOT NULL, PRIMARY KEY (k))
         STORED AS DELTA PARTITIONED BY (p) LOCATION 'memory:///t' {}",
        options[kind]
    );
    let world = World::new();
    let mut context = world.session();
    run(&context, &create).await.unwrap();
    let mut model: BTreeMap<i64, (u8, i64)> = BTreeMap::new();
    // Where rows have sequences a delete beats older ones.
    let mut buried: BTreeMap<i64, i64> = BTreeMap::new();
    for step in steps {
        let statement = match &step {
            Step::Insert(own) => {
                for (key, part, value) in own {
                    match (kind, model.get(key).copied()) {
                        (1, Some(old)) if old.1 > *value => None,
                        (1, None) if buried.get(key).is_some_and(|old| old > value) => None,
                        (2, Some(old)) => model.insert(*key, (*part, old.1 + value)),
                        _ => model.insert(*key, (*part, *value)),
                    };
                }
                let values = own.iter().map(|(k, p, v)| format!("({k}, {}, {v})", text(*p)));
                format!("INSERT INTO t VALUES {}", values.collect::<Vec<_>>().join(", "))
            }
            Step::Move(key, part) => {
                if let Some(row) = model.get_mut(key) {
                    row.0 = *part;
                }
                format!("UPDATE t SET p = {} WHERE k = {key}", text(*part))
            }
            Step::Delete(part) => {
                let gone = model.iter().filter(|(_, row)| row.0 == *part);
                buried.extend(gone.map(|(key, row)| (*key, row.1)));
                model.retain(|_, (own, _)| own != part);
                format!("DELETE FROM t WHERE {}", asked(*part))
            }
            Step::Raise(part) => {
                model.values_mut().filter(|row| row.0 == *part).for_each(|row| row.1 += 1);
                format!("UPDATE t SET v = v + 1 WHERE {}", asked(*part))
            }
            Step::Optimize => "OPTIMIZE t".to_owned(),
            Step::Reopen => {
                context = world.session();
                create.clone()
            }
        };
        run(&context, &statement).await.unwrap();
        is_equal(&context, &model, &statement).await;
    }
}

async fn is_equal(context: &SessionContext, model: &BTreeMap<i64, (u8, i64)>, after: &str) {
    let shown = |key: &i64, (part, value): &(u8, i64)| {
        format!("{key} {} {value}", text(*part).replace('\'', ""))
    };
    let expected: Vec<String> = model.iter().map(|(key, row)| shown(key, row)).collect();
    assert_eq!(rows(context, "SELECT * FROM t ORDER BY k").await, expected, "after {after}");
    for part in 0..5_u8 {
        let own = model.iter().filter(|(_, row)| row.0 == part);
        let expected: Vec<String> = own.map(|(key, row)| shown(key, row)).collect();
        let query = format!("SELECT * FROM t WHERE {} ORDER BY k", asked(part));
        assert_eq!(rows(context, &query).await, expected, "{query} after {after}");
    }
    if let Some((key, row)) = model.first_key_value() {
        let query = format!("SELECT * FROM t WHERE k = {key}");
        assert_eq!(rows(context, &query).await, [shown(key, row)], "after {after}");
    }
}
