//! Sessions that leave memory, and whose files are joined, against those that stay in it.

use super::format::decode;
use super::tests::{Files, copies, join};
use super::{Aggregates, GROUP_COLUMNS, GroupRows, RollupMemory, SESSIONS};
use crate::state::{OperatorMemory, StateContent, hash_array, saved_groups};
use crate::types::{EventTime, RollupOptions, SessionOptions, Watermark};
use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::execution::memory_pool::UnboundedMemoryPool;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::Column;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const GAP: i64 = 10;
const TIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// A key, and the time of a row.
type Event = (i64, i64);

/// A step of a run.
#[derive(Clone, Debug)]
enum Step {
    /// An epoch: rows of keys, how far behind the newest time they are, and how far the time goes on.
    Epoch(Vec<Event>, i64),
    /// All is forgotten, and read back from the files.
    Restore,
    /// Some of the files become one.
    Join(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = (0..400_i64, 0..35_i64);
    let epoch = (proptest::collection::vec(event, 0..500), 0..12_i64)
        .prop_map(|(events, ahead)| Step::Epoch(events, ahead));
    let step = prop_oneof![
        7 => epoch,
        1 => Just(Step::Restore),
        1 => (0..5_usize).prop_map(Step::Join)
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn sessions_that_left_memory_are_worth_the_same(steps in steps()) {
        const LIMIT: u64 = 90_000;
        let (held, spilled) = (memory(u64::MAX), memory(LIMIT));
        let (mut files, mut others, mut now) = (Files::new(), Files::new(), 1_000);
        let mut plain = Vec::new();
        for step in steps {
            match step {
                Step::Epoch(events, ahead) => {
                    now += ahead;
                    let events: Vec<Event> =
                        events.into_iter().map(|(key, back)| (key, now - back)).collect();
                    let reached = now - 3 * GAP;
                    // A row is late by itself: once a session of it alone has passed.
                    let known: Vec<Event> =
                        events.into_iter().filter(|own| own.1 + GAP > reached).collect();
                    plain.extend(&known);
                    let one = epoch(&held, &known, reached, &mut files);
                    let two = epoch(&spilled, &known, reached, &mut others);
                    prop_assert_eq!(one, two);
                }
                Step::Restore => {
                    let at = Some(Watermark(EventTime(now - 3 * GAP)));
                    spilled.restore([0; 16], copies(&others), at).unwrap();
                }
                Step::Join(bit) => join(&spilled, &mut others, bit, now - 3 * GAP),
            }
            prop_assert_eq!(held.keys_held(), spilled.keys_held());
            prop_assert!(spilled.state_bytes() <= LIMIT, "{}", spilled.state_bytes());
        }
        prop_assert_eq!(shown_of(&held.groups().unwrap()), shown_of(&spilled.groups().unwrap()));
        let open = open(&plain, now - 3 * GAP);
        prop_assert_eq!(held.keys_held(), open);
        join(&spilled, &mut others, 9, now - 3 * GAP);
        let saved = copies(&others).first().map_or(0, entries);
        prop_assert_eq!(saved, open, "nothing is left of those that are gone");
    }
}

#[test]
fn sessions_beyond_the_limit_are_on_disk_but_for_their_bounds() {
    let events: Vec<Event> = (0..20_000).map(|key| (key, 1_000 + key % 3)).collect();
    let (held, spilled) = (memory(u64::MAX), memory(1_800_000));
    let (mut files, mut others) = (Files::new(), Files::new());
    let one = epoch(&held, &events, 0, &mut files);
    assert!(held.state_bytes() > 2_400_000, "{}", held.state_bytes());
    assert_eq!(one, epoch(&spilled, &events, 0, &mut others));
    assert!(spilled.state_bytes() <= 1_800_000, "{}", spilled.state_bytes());
    spilled.restore([0; 16], copies(&others), None).unwrap();
    assert!(spilled.state_bytes() <= 1_800_000, "{}", spilled.state_bytes());
    let again: Vec<Event> = (0..20_000).step_by(7).map(|key| (key, 995)).collect();
    assert_eq!(epoch(&held, &again, 0, &mut files), epoch(&spilled, &again, 0, &mut others));
    assert_eq!(saved_groups(&copies(&others)).unwrap().unwrap().num_rows(), 20_000);
    // All of them change again and again, so that shards are written anew.
    for at in [994, 993, 992, 991] {
        let again: Vec<Event> = (0..20_000).map(|key| (key, at)).collect();
        assert_eq!(epoch(&held, &again, 0, &mut files), epoch(&spilled, &again, 0, &mut others));
        assert!(spilled.state_bytes() <= 1_800_000, "{}", spilled.state_bytes());
    }
    assert_eq!(shown_of(&held.groups().unwrap()), shown_of(&spilled.groups().unwrap()));
    let small = memory(1_000_000); // bounds of 20 000 sessions take more
    let error = small.restore([0; 16], copies(&others), None).unwrap_err();
    assert!(error.to_string().contains("raise onefold.state_bytes_max"), "{error}");
}

fn memory(bytes_max: u64) -> RollupMemory {
    let session = Some(SessionOptions { column: 1, gap_us: GAP });
    let options = RollupOptions { session, ..RollupOptions::default() };
    let pool = Arc::new(UnboundedMemoryPool::default()) as _;
    RollupMemory::new("rollup", options, bytes_max, &pool)
}

/// A count, and the first and the last time.
fn aggregates() -> Aggregates {
    let schema = Arc::new(Schema::new(vec![Field::new("t", TIME, true)]));
    let own = [count_udaf(), min_udaf(), max_udaf()].map(|function| {
        let arguments = vec![Arc::new(Column::new("t", 0)) as _];
        let built = AggregateExprBuilder::new(function, arguments);
        Arc::new(built.schema(Arc::clone(&schema)).alias("x").build().unwrap())
    });
    Aggregates::try_new(own.into()).unwrap()
}

fn key_of(key: i64) -> u128 {
    let spread = (key as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    spread ^ spread >> 67
}

/// Each row is a pane of its own.
fn panes(events: &[Event]) -> RecordBatch {
    let number = |get: fn(&Event) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(events.iter().map(get)))
    };
    let time = || -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(events.iter().map(|own| own.1)))
    };
    let hashes: Vec<u128> = events.iter().map(|own| key_of(own.0)).collect();
    let columns = [
        ("hash", hash_array(&hashes)),
        ("end", number(|_| 0)),
        ("key", number(|own| own.0)),
        ("start", time()),
        ("count", number(|_| 1)),
        ("first", time()),
        ("last", time()),
    ];
    let fields = columns
        .iter()
        .enumerate()
        .map(|(at, (name, column))| Field::new(*name, column.data_type().clone(), at > 1));
    let about = [(GROUP_COLUMNS.to_owned(), "2".to_owned()), (SESSIONS.to_owned(), String::new())];
    let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), about.into());
    let columns = columns.map(|(_, column)| column).to_vec();
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// What an epoch shows: of sessions that are there, and of those that are gone.
type Shown = (Vec<Vec<i64>>, Vec<Vec<i64>>);

fn epoch(memory: &RollupMemory, events: &[Event], reaches: i64, files: &mut Files) -> Shown {
    let (aggregates, at) = (aggregates(), Some(Watermark(EventTime(reaches))));
    memory.begin_epoch(at);
    let mut shards: BTreeMap<usize, Vec<Event>> = BTreeMap::new();
    for own in events {
        shards.entry(RollupMemory::shard_of(key_of(own.0))).or_default().push(*own);
    }
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for (shard, own) in shards {
        let changed = memory.merge(shard, &aggregates, &panes(&own)).unwrap();
        let closed = memory.closed(shard, &aggregates).unwrap();
        for GroupRows { columns, is_gone, .. } in changed.into_iter().chain(closed) {
            if is_gone { &mut gone } else { &mut there }.extend(numbers(&columns));
        }
    }
    let changes = memory.finish_epoch(at).unwrap();
    files.extend(changes.file().map(|own| own.content.to_bytes().unwrap()));
    there.sort();
    gone.sort();
    (there, gone)
}

/// How many rows a file has.
fn entries(file: &StateContent) -> u64 {
    decode(file).unwrap().map(|rows| rows.unwrap().num_rows() as u64).sum()
}

fn shown_of(batches: &[RecordBatch]) -> Vec<Vec<i64>> {
    let mut all: Vec<_> = batches.iter().flat_map(|own| numbers(&own.columns()[1..])).collect();
    all.sort();
    all
}

fn numbers(columns: &[ArrayRef]) -> Vec<Vec<i64>> {
    let columns: Vec<ArrayRef> =
        columns.iter().map(|own| cast(own, &DataType::Int64).unwrap()).collect();
    super::tests::in_rows(&columns)
}

/// How many sessions of all rows are not closed yet.
fn open(events: &[Event], reached: i64) -> u64 {
    let mut events = events.to_vec();
    events.sort_unstable();
    let is_one = |one: &Event, two: &Event| one.0 == two.0 && two.1 - one.1 < GAP;
    let sessions = events.chunk_by(is_one);
    sessions.filter(|own| own[own.len() - 1].1 + 2 * GAP > reached).count() as u64
}
