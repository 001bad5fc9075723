//! A memory that spills against one that does not.

use super::format::decode;
use super::*;
use crate::state::{EncodedState, Joined, OperatorMemory, StateContent, hash_array};
use crate::types::{EventTime, RollupOptions, Watermark};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion::functions_aggregate::{count::count_udaf, min_max::max_udaf};
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::Column;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A partial state: a group's number, the end of its window, a count and a greatest value.
pub(super) type Partial = (i64, i64, i64, i64);

/// A step of a run.
#[derive(Clone, Debug)]
enum Step {
    /// An epoch, and the watermark that it reaches.
    Epoch(Vec<Partial>, i64),
    /// All is forgotten, and read back from the files.
    Restore,
    /// Each file whose number has this bit becomes part of one.
    Join(usize),
}

pub(super) fn aggregates() -> Aggregates {
    let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)]));
    let own = [count_udaf(), max_udaf()].map(|function| {
        let arguments = vec![Arc::new(Column::new("v", 0)) as _];
        let built = AggregateExprBuilder::new(function, arguments);
        Arc::new(built.schema(Arc::clone(&schema)).alias("x").build().unwrap())
    });
    Aggregates::try_new(own.into()).unwrap()
}

fn memory(bytes_max: u64) -> RollupMemory {
    memory_in(bytes_max, &(Arc::new(UnboundedMemoryPool::default()) as _))
}

pub(super) fn memory_in(bytes_max: u64, pool: &Arc<dyn MemoryPool>) -> RollupMemory {
    RollupMemory::new("rollup", RollupOptions::default(), bytes_max, pool)
}

/// The same files.
pub(super) fn copies(files: &[Bytes]) -> Vec<StateContent> {
    files.iter().cloned().map(StateContent::from).collect()
}

/// Joins those of `files` whose number, counted from the first, has a bit; all if `bit` is none of
/// theirs.
pub(super) fn join(memory: &RollupMemory, files: &mut Files, bit: usize, reached: i64) {
    let (joined, kept): (Vec<_>, Vec<_>) =
        files.drain(..).enumerate().partition(|(number, _)| bit > 3 || number >> bit & 1 == 1);
    let which = if kept.is_empty() { Joined::All } else { Joined::Some };
    files.extend(kept.into_iter().map(|(_, file)| file));
    let joined: Vec<Bytes> = joined.into_iter().map(|(_, file)| file).collect();
    let at = Some(Watermark(EventTime(reached)));
    let state = OperatorMemory::merge(memory, copies(&joined), which, at).unwrap();
    files.extend(state.map(|EncodedState { content, .. }| content.to_bytes().unwrap()));
}

fn hash_of(group: i64, end: i64) -> u128 {
    let key = (group as u128) << 32 | end as u128;
    let spread = key.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    spread ^ spread >> 67 // the low bits, which say the shard, depend on all
}

pub(super) fn rows(partials: &[Partial]) -> RecordBatch {
    let column = |get: fn(&Partial) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(partials.iter().map(get)))
    };
    let hashes: Vec<u128> = partials.iter().map(|own| hash_of(own.0, own.1)).collect();
    let columns = [
        ("hash", hash_array(&hashes)),
        ("end", column(|own| own.1)),
        ("group", column(|own| own.0)),
        ("count", column(|own| own.2)),
        ("max", column(|own| own.3)),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let found = batch.schema();
    let fields: Vec<Field> = found.fields().iter().map(|own| own.as_ref().clone()).collect();
    let about = [(GROUP_COLUMNS.to_owned(), "1".to_owned())].into();
    let schema = Arc::new(Schema::new_with_metadata(fields, about));
    RecordBatch::try_new(schema, batch.columns().to_vec()).unwrap()
}

pub(super) fn in_rows(columns: &[ArrayRef]) -> Vec<Vec<i64>> {
    let number = |own: &ArrayRef, row| own.as_primitive::<Int64Type>().value(row);
    let row = |row| columns.iter().map(|own| number(own, row)).collect();
    (0..columns[0].len()).map(row).collect()
}

/// What an epoch shows, and what it leaves to be saved: by group and end, or by group.
pub(super) type Shown = (Vec<Vec<i64>>, Vec<Vec<i64>>);

pub(super) fn epoch(
    memory: &RollupMemory,
    partials: &[Partial],
    reaches: i64,
    files: &mut Files,
) -> Shown {
    let aggregates = aggregates();
    memory.begin_epoch(Some(Watermark(EventTime(reaches))));
    let mut shards: BTreeMap<usize, Vec<Partial>> = BTreeMap::new();
    for own in partials {
        shards.entry(RollupMemory::shard_of(hash_of(own.0, own.1))).or_default().push(*own);
    }
    let mut shown = Vec::new();
    for (shard, own) in shards {
        let changed = memory.merge(shard, &aggregates, &rows(&own)).unwrap();
        shown.extend(changed.iter().flat_map(|own| in_rows(&own.columns)));
        let closed = memory.closed(shard, &aggregates).unwrap();
        shown.extend(closed.iter().flat_map(|own| in_rows(&own.columns)));
    }
    let changes = memory.finish_epoch(Some(Watermark(EventTime(reaches)))).unwrap();
    let mut saved = Vec::new();
    if let Some(added) = changes.file() {
        for batch in decode(&added.content).unwrap() {
            saved.extend(in_rows(&batch.unwrap().columns()[1..5]));
        }
        files.push(added.content.to_bytes().unwrap());
    }
    shown.sort();
    saved.sort();
    (shown, saved)
}

pub(super) type Files = Vec<Bytes>;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let partial = (0..120_i64, 1..9_i64, 1..5_i64, -9..9_i64)
        .prop_map(|(group, end, count, max)| (group, end * 100, count, max));
    let epoch = (proptest::collection::vec(partial, 0..500), 0..3_i64)
        .prop_map(|(partials, reaches)| Step::Epoch(partials, reaches));
    proptest::collection::vec(
        prop_oneof![7 => epoch, 1 => Just(Step::Restore), 1 => (0..5_usize).prop_map(Step::Join)],
        1..40,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn groups_that_left_memory_are_worth_the_same(steps in steps()) {
        let (held, spilled) = (memory(u64::MAX), memory(60_000));
        let (mut files, mut others) = (Files::new(), Files::new());
        let (mut watermark, mut known) = (0, BTreeSet::new());
        for step in steps {
            match step {
                Step::Epoch(mut open, reaches) => {
                    // What is closed does not come again.
                    for own in &mut open {
                        own.1 += watermark;
                    }
                    watermark += reaches * 100;
                    let one = epoch(&held, &open, watermark, &mut files);
                    let two = epoch(&spilled, &open, watermark, &mut others);
                    prop_assert_eq!(one, two);
                    known.extend(open.iter().map(|own| (own.0, own.1)));
                    known.retain(|(_, end)| *end > watermark);
                }
                Step::Restore => {
                    let at = Some(Watermark(EventTime(watermark)));
                    held.restore([0; 16], copies(&files), at).unwrap();
                    spilled.restore([0; 16], copies(&others), at).unwrap();
                }
                Step::Join(bit) => join(&spilled, &mut others, bit, watermark),
            }
            prop_assert_eq!(held.keys_held(), known.len() as u64);
            prop_assert_eq!(spilled.keys_held(), known.len() as u64);
            prop_assert!(spilled.state_bytes() <= 60_000, "{}", spilled.state_bytes());
        }
    }
}

#[test]
fn a_memory_larger_than_its_limit_is_on_disk_and_one_that_cannot_be_is_full() {
    let groups: Vec<Partial> = (0..20_000).map(|group| (group, 100, 1, group)).collect();
    let spills = memory(500_000);
    let (shown, _) = epoch(&spills, &groups, 0, &mut Files::new());
    assert_eq!(shown.len(), 20_000);
    assert!(spills.state_bytes() < 500_000, "{}", spills.state_bytes());
    let again = [(7, 100, 1, 3), (19_999, 100, 2, 30_000)];
    let (shown, _) = epoch(&spills, &again, 0, &mut Files::new());
    assert_eq!(shown, [[7, 2, 7], [19_999, 3, 30_000]]);
    let tiny = memory(8);
    tiny.begin_epoch(None);
    let shard = RollupMemory::shard_of(hash_of(1, 100));
    tiny.merge(shard, &aggregates(), &rows(&[(1, 100, 1, 1)])).unwrap();
    let error = tiny.finish_epoch(None).unwrap_err();
    assert!(error.to_string().contains("raise onefold.state_bytes_max"), "{error}");
}

#[test]
fn windows_close_one_after_the_other() {
    let groups: Vec<Partial> = (0..3_000).map(|row| (row / 3, row % 3 * 100, 1, row)).collect();
    let held = memory(u64::MAX);
    let mut files = Files::new();
    epoch(&held, &groups, -1, &mut files);
    for (reaches, left) in [(0, 2_000), (99, 2_000), (100, 1_000), (200, 0)] {
        epoch(&held, &[], reaches, &mut files);
        assert_eq!(held.keys_held(), left, "at {reaches}");
    }
}
