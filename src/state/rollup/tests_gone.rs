//! Groups whose rows come and go, whichever files are joined, against the rows that are left.

use super::*;
use crate::state::{Joined, OperatorMemory, StateContent, hash_array};
use crate::types::RollupOptions;
use arrow::array::cast::AsArray;
use arrow::array::types::{Decimal128Type, Int64Type};
use arrow::array::{ArrayRef, Decimal128Array, Int64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::Column;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values that are there, by group.
type Rows = BTreeMap<i64, Vec<i64>>;

#[derive(Clone, Debug)]
enum Step {
    /// In one epoch: each a group, and a value that comes or one of those there that goes.
    Epoch(Vec<(i64, Result<i64, Index>)>),
    /// Some files become one.
    Join(Vec<usize>),
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change =
        prop_oneof![(-9..9_i64).prop_map(Ok), any::<Index>().prop_map(Err), Just(Ok(0_i64))];
    let epoch = proptest::collection::vec((0..5_i64, change), 0..6).prop_map(Step::Epoch);
    let join = subsequence((0..12).collect::<Vec<usize>>(), 0..12).prop_map(Step::Join);
    let step = prop_oneof![6 => epoch, 2 => join, 1 => Just(Step::Restore)];
    proptest::collection::vec(step, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_group_without_rows_is_forgotten_and_comes_again(steps in steps(), spills: bool) {
        let memory = memory(if spills { 4_000 } else { u64::MAX });
        let (mut files, mut there) = (Vec::new(), Rows::new());
        memory.restore([0; 16], Vec::new(), None).unwrap();
        for step in steps {
            match step {
                Step::Epoch(changes) => {
                    let shown = epoch(&memory, &changed(&mut there, changes), &mut files);
                    for (group, rows, sum) in shown {
                        let own = there.get(&group).map_or(&[][..], Vec::as_slice);
                        let expected = (own.len() as i128, i128::from(own.iter().sum::<i64>()));
                        prop_assert_eq!((rows, sum), expected);
                    }
                }
                Step::Join(chosen) => join(&memory, &mut files, &chosen),
                Step::Restore => memory.restore([0; 16], contents(&files), None).unwrap(),
            }
            prop_assert_eq!(memory.keys_held(), there.len() as u64);
            let saved = saved_groups(&contents(&files)).unwrap();
            prop_assert_eq!(saved.map_or(0, |own| own.num_rows()), there.len());
        }
        join(&memory, &mut files, &(0..1000).collect::<Vec<_>>());
        prop_assert_eq!(entries(&files), there.len(), "nothing else is left in files");
        memory.restore([0; 16], contents(&files), None).unwrap();
        let left = memory.groups().unwrap().iter().map(RecordBatch::num_rows).sum::<usize>();
        prop_assert_eq!(left, there.len());
    }
}

#[test]
fn sums_that_are_zero_of_rows_that_are_there_stay() {
    let (memory, mut files) = (memory(u64::MAX), Vec::new());
    epoch(&memory, &[(1, 2, 0), (2, 0, 3)], &mut files);
    assert_eq!(memory.keys_held(), 2);
    join(&memory, &mut files, &[0]);
    assert_eq!(entries(&files), 2);
    epoch(&memory, &[(1, -2, 0), (2, 0, -3)], &mut files);
    assert_eq!((memory.keys_held(), entries(&files)), (0, 4), "files need the word of it");
    join(&memory, &mut files, &[1]);
    assert_eq!(entries(&files), 4, "for an older file holds them");
    join(&memory, &mut files, &[0, 1]);
    assert_eq!(files.len(), 0);
}

fn memory(bytes_max: u64) -> RollupMemory {
    let options = RollupOptions { takes_back: true, ..RollupOptions::default() };
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    RollupMemory::new("rollup", options, bytes_max, &pool)
}

fn aggregates() -> Aggregates {
    let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Decimal128(28, 0), true)]));
    let own = ["rows", "sum"].map(|name| {
        let built = AggregateExprBuilder::new(sum_udaf(), vec![Arc::new(Column::new("v", 0))]);
        Arc::new(built.schema(Arc::clone(&schema)).alias(name).build().unwrap())
    });
    Aggregates::try_new(own.into()).unwrap()
}

/// Makes changes; returns for each group by how much its rows and its sum changed.
fn changed(there: &mut Rows, changes: Vec<(i64, Result<i64, Index>)>) -> Vec<(i64, i128, i128)> {
    let mut all: BTreeMap<i64, (i128, i128)> = BTreeMap::new();
    for (group, change) in changes {
        let own = there.entry(group).or_default();
        let (rows, value) = match change {
            Ok(value) => {
                own.push(value);
                (1, value)
            }
            Err(which) if !own.is_empty() => (-1, -own.swap_remove(which.index(own.len()))),
            Err(_) => continue,
        };
        let sums = all.entry(group).or_default();
        *sums = (sums.0 + rows, sums.1 + i128::from(value));
    }
    there.retain(|_, own| !own.is_empty());
    all.into_iter().map(|(group, (rows, sum))| (group, rows, sum)).collect()
}

/// Runs an epoch over partial states; returns what changed groups are worth.
fn epoch(
    memory: &RollupMemory,
    partials: &[(i64, i128, i128)],
    files: &mut Vec<Bytes>,
) -> Vec<(i64, i128, i128)> {
    memory.begin_epoch(None);
    let mut shown = Vec::new();
    if !partials.is_empty() {
        let aggregates = aggregates();
        for own in memory.merge(0, &aggregates, &rows(&aggregates, partials)).unwrap() {
            let groups = own.columns[0].as_primitive::<Int64Type>();
            let value =
                |at: usize, row| own.columns[at].as_primitive::<Decimal128Type>().value(row);
            shown
                .extend((0..own.rows).map(|row| (groups.value(row), value(1, row), value(2, row))));
        }
    }
    let added = memory.finish_epoch(None).unwrap().file();
    files.extend(added.map(|own| own.content.to_bytes().unwrap()));
    shown
}

/// Partial states, all of one shard.
fn rows(aggregates: &Aggregates, partials: &[(i64, i128, i128)]) -> RecordBatch {
    let spread = |group: i64| (group as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) << 6;
    let hashes: Vec<u128> = partials.iter().map(|own| spread(own.0)).collect();
    let states = |get: fn(&(i64, i128, i128)) -> i128| -> ArrayRef {
        let all = Decimal128Array::from_iter_values(partials.iter().map(get));
        Arc::new(all.with_precision_and_scale(38, 0).unwrap())
    };
    let fixed = [
        Field::new("hash", DataType::FixedSizeBinary(16), false),
        Field::new("end", DataType::Int64, false),
        Field::new("group", DataType::Int64, true),
    ];
    let own = aggregates.state_fields().iter().map(|own| own.as_ref().clone());
    let about = [(GROUP_COLUMNS, "1"), (TAKES_BACK, "")];
    let about = about.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let fields: Vec<Field> = fixed.into_iter().chain(own).collect();
    let columns = vec![
        hash_array(&hashes),
        Arc::new(Int64Array::from(vec![OPEN_END; partials.len()])),
        Arc::new(Int64Array::from_iter_values(partials.iter().map(|own| own.0))),
        states(|own| own.1),
        states(|own| own.2),
    ];
    let schema = Schema::new_with_metadata(fields, about.into());
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// Joins the files that are at the places of `chosen`.
fn join(memory: &RollupMemory, files: &mut Vec<Bytes>, chosen: &[usize]) {
    let all = std::mem::take(files).into_iter().enumerate();
    let (own, others): (Vec<_>, Vec<_>) = all.partition(|(at, _)| chosen.contains(at));
    let joined = if others.is_empty() { Joined::All } else { Joined::Some };
    let own: Vec<Bytes> = own.into_iter().map(|(_, own)| own).collect();
    files.extend(others.into_iter().map(|(_, own)| own));
    let merged = OperatorMemory::merge(memory, contents(&own), joined, None).unwrap();
    files.extend(merged.map(|own| own.content.to_bytes().unwrap()));
}

fn contents(files: &[Bytes]) -> Vec<StateContent> {
    files.iter().cloned().map(StateContent::from).collect()
}

/// The entries of all files.
fn entries(files: &[Bytes]) -> usize {
    let rows_of = |file: StateContent| -> usize {
        format::decode(&file).unwrap().map(|rows| rows.unwrap().num_rows()).sum()
    };
    contents(files).into_iter().map(rows_of).sum()
}
