//! Coarser grouping sets out of finer ones.
//!
//! ```text
//!   (day, hour, minute) -> (day, hour) -> (day) -> ()
//! ```

use super::shape::{GroupingSet, RollupShape, end_or_open};
use crate::key::{Entry, KeyTable};
use crate::state::FIXED_COLUMNS;
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

/// A set, and the one that its groups are made of; `None`: of the rows.
pub(super) type Step = (GroupingSet, Option<usize>);

/// The sets, finer ones first, each made of the smallest one that has all its columns.
pub(super) fn order(sets: &[GroupingSet]) -> Vec<Step> {
    let size = |set: &GroupingSet| set.present.iter().filter(|own| **own).count();
    let mut sorted = sets.to_vec();
    sorted.sort_by_key(|set| std::cmp::Reverse(size(set)));
    let mut steps: Vec<Step> = Vec::with_capacity(sorted.len());
    for set in sorted {
        let finer = steps.iter().enumerate().filter(|(_, (other, _))| set.is_within(other));
        let from = finer.min_by_key(|(_, (other, _))| size(other)).map(|(index, _)| index);
        steps.push((set, from));
    }
    steps
}

/// The rows of all sets, from those of the sets that rows were folded into, in the order of `steps`.
pub(super) fn cascade(
    shape: &RollupShape,
    steps: &[Step],
    folded: Vec<Vec<RecordBatch>>,
) -> Result<Vec<RecordBatch>> {
    let mut all: Vec<Vec<RecordBatch>> = Vec::with_capacity(steps.len());
    let mut folded = folded.into_iter();
    for (set, from) in steps {
        let own = match from {
            None => folded.next().unwrap_or_default(),
            Some(finer) => coarser(shape, set, &all[*finer])?.into_iter().collect(),
        };
        all.push(own);
    }
    Ok(all.into_iter().flatten().collect())
}

/// The rows of `set` out of those of a finer one.
fn coarser(
    shape: &RollupShape,
    set: &GroupingSet,
    finer: &[RecordBatch],
) -> Result<Option<RecordBatch>> {
    let Some(first) = finer.first() else { return Ok(None) };
    let rows = concat_batches(&first.schema(), finer)?;
    let states = FIXED_COLUMNS + shape.group_columns();
    let columns = &rows.columns()[FIXED_COLUMNS..FIXED_COLUMNS + set.present.len()];
    let groups = shape.columns_of(set, columns, rows.num_rows())?;
    let mut hashes = Vec::with_capacity(rows.num_rows());
    shape.hasher.hash(&groups, &mut hashes)?;
    let (mut known, mut ids) = (KeyTable::<u32>::new(), Vec::with_capacity(hashes.len()));
    let (mut firsts, mut own) = (Vec::new(), Vec::new());
    for (row, hash) in hashes.iter().enumerate() {
        let next = firsts.len() as u32;
        match known.find_or_insert(*hash, next) {
            Entry::Found(id) => ids.push(*id as usize),
            Entry::Added => {
                ids.push(next as usize);
                firsts.push(row as u32);
                own.push(*hash);
            }
        }
    }
    let merged = shape.aggregates.merge(&[(&rows.columns()[states..], &ids)], firsts.len())?;
    let firsts = UInt32Array::from(firsts);
    let pick = |column: &ArrayRef| take(column, &firsts, None);
    let groups = groups.iter().map(pick).collect::<Result<Vec<_>, _>>()?;
    let ends = shape.ends(set, &groups, firsts.len())?;
    shape.rows((&own, end_or_open(ends)), groups, merged).map(Some)
}
