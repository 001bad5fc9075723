//! Deletes and updates out of order, through a pipeline into a table whose sequence has several columns:
//! the table is the same whatever the order of arrival, the partitions, the epochs and the restarts.

use crate::support::tables::{World, rows, run};
use onefold::arrow::array::{ArrayRef, Int64Array, StringArray};
use onefold::arrow::record_batch::RecordBatch;
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;
use onefold::source::{MemorySource, SourceTableOptions};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SCRIPT: &str = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, a BIGINT, b VARCHAR,
      op VARCHAR, PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t'
      OPTIONS ('sequence_by' 'a, b', 'op_column' 'op', 'unstored' 'a, b, op');
    INSERT INTO t SELECT k, v, a, b, op FROM events";

/// A key, its sequence, and its value or that it is deleted.
type Event = (i64, (i64, String), Option<i64>);

/// How many events come next, in which partition, and what happens then.
#[derive(Clone, Copy, Debug)]
struct Cut {
    events: usize,
    partition: usize,
    runs: bool,
    reopens: bool,
}

/// Of each key one event for each sequence: of equal ones the later would win. Text is compared as
/// text, so that 10 comes before 9.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (0..6_i64, -2..3_i64, 7..13_u8, proptest::option::of(0..100_i64));
    proptest::collection::vec(event, 1..60).prop_map(|all| {
        let mut seen = BTreeSet::new();
        let all = all.into_iter().filter(|(key, a, b, _)| seen.insert((*key, *a, *b)));
        all.map(|(key, a, b, value)| (key, (a, b.to_string()), value)).collect()
    })
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let cut = (1..12_usize, 0..3_usize, any::<bool>(), any::<bool>());
    let cut =
        cut.prop_map(|(events, partition, runs, reopens)| Cut { events, partition, runs, reopens });
    proptest::collection::vec(cut, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn deletes_and_updates_out_of_order_converge_under_every_cut(
        (ordered, arriving) in events().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        cuts in cuts(),
        epoch_rows_max in prop_oneof![Just(1_u64), Just(3), Just(1000)],
    ) {
        let mut newest: BTreeMap<i64, (&(i64, String), Option<i64>)> = BTreeMap::new();
        for (key, sequence, value) in &ordered {
            let own = newest.entry(*key).or_insert((sequence, *value));
            if sequence > own.0 {
                *own = (sequence, *value);
            }
        }
        let alive = newest.iter().filter_map(|(key, (_, value))| Some(format!("{key} {}", (*value)?)));
        let expected: Vec<String> = alive.collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let found = runtime.unwrap().block_on(arrive(&arriving, &cuts, epoch_rows_max));
        prop_assert_eq!(found, expected);
    }
}

/// Feeds the events as `cuts` say; the last one takes the rest.
async fn arrive(events: &[Event], cuts: &[Cut], epoch_rows_max: u64) -> Vec<String> {
    let mut world = World::new();
    world.settings.epoch_rows_max = epoch_rows_max;
    let source = MemorySource::new("events", batch(&[]).schema());
    for partition in 0..3 {
        source.push(&format!("p{partition}"), &batch(&[])).unwrap();
    }
    let mut context = opened(&world, &source).await;
    let (mut rest, last) = (events, cuts.len() - 1);
    for (number, Cut { events, partition, runs, reopens }) in cuts.iter().copied().enumerate() {
        let count = if number == last { rest.len() } else { events.min(rest.len()) };
        let (now, later) = rest.split_at(count);
        source.push(&format!("p{partition}"), &batch(now)).unwrap();
        rest = later;
        if runs || number == last {
            context.pipeline("t").unwrap().run_until_idle().await.unwrap();
        }
        if reopens {
            context = opened(&world, &source).await;
        }
    }
    rows(&context, "SELECT k, v FROM t ORDER BY k").await
}

async fn opened(world: &World, source: &MemorySource) -> SessionContext {
    let context = world.session();
    let options = SourceTableOptions { watermark: None, is_unbounded: true };
    context.register_source("events", Arc::new(source.clone()), options).unwrap();
    run(&context, SCRIPT).await.unwrap();
    context
}

fn batch(events: &[Event]) -> RecordBatch {
    let numbers = |of: fn(&Event) -> Option<i64>| -> ArrayRef {
        Arc::new(events.iter().map(of).collect::<Int64Array>())
    };
    let text: StringArray = events.iter().map(|event| Some(event.1.1.as_str())).collect();
    let operation = |event: &Event| Some(if event.2.is_some() { "u" } else { "d" });
    let operations: StringArray = events.iter().map(operation).collect();
    let columns: [(&str, ArrayRef, bool); 5] = [
        ("k", numbers(|event| Some(event.0)), true),
        ("v", numbers(|event| event.2), true),
        ("a", numbers(|event| Some(event.1.0)), true),
        ("b", Arc::new(text), true),
        ("op", Arc::new(operations), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}
