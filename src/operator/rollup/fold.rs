//! `Fold`: rows of one grouping set to states of groups, in bounded memory.
//!
//! ```text
//!   growing   every row finds its group, or makes one
//!   frozen    a row of a known group is folded; any other passes through as a state of its own
//! ```
//!
//! It freezes when it is large and its groups had fewer than two rows each, taken together: keys that
//! come often were seen by then and stay, and keys that do not come back would only fill memory. Beside
//! a key that has most of the rows it may grow to [`GROUPS_MAX`] first.

use super::packed::{BLOCK_ROWS, PackedTable, Words};
use super::quick::quickened;
use super::shape::RollupShape;
use crate::key::{Entry, KeyTable};
use crate::state::FIXED_COLUMNS;
use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use std::sync::Arc;

/// Groups from which on the fold looks whether keys come back.
const GROUPS_MIN: usize = 1 << 16;
/// Groups at which it freezes in any case.
const GROUPS_MAX: usize = 1 << 20;

/// Rows to be folded.
pub(super) struct Rows<'a> {
    /// The hash of each row's group, where its columns alone do not tell it apart.
    pub(super) hashes: Option<&'a [u128]>,
    pub(super) ends: &'a [i64],
    pub(super) groups: &'a [ArrayRef],
    /// By aggregate: its arguments, and which rows its FILTER lets through.
    pub(super) arguments: &'a [(Vec<ArrayRef>, Option<BooleanArray>)],
}

/// The numbers of groups.
enum Ids {
    /// By their values.
    Packed(PackedTable),
    /// By their hashes.
    Hashed(KeyTable<u32>),
}

/// States of groups that grow.
pub(super) struct Fold {
    shape: Arc<RollupShape>,
    ids: Ids,
    hashes: Vec<u128>,
    ends: Vec<i64>,
    /// The columns of the groups, in parts.
    groups: Vec<Vec<ArrayRef>>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    /// How many were folded before it froze.
    rows: usize,
    /// Whether it takes no more groups; a hot key alone does not change that again.
    is_frozen: bool,
}

impl Fold {
    /// Without groups. Of their columns some are `rising`: windows, which change seldom.
    pub(super) fn new(shape: &Arc<RollupShape>, rising: &[bool]) -> Result<Self> {
        let expected = shape.memory.groups_expected();
        let columns = FIXED_COLUMNS..FIXED_COLUMNS + shape.group_columns();
        let types = shape.rows.fields()[columns].iter().map(|own| own.data_type().clone());
        let is_packed = shape.expressions.hop.is_none()
            && PackedTable::takes(&types.collect::<Vec<DataType>>());
        let ids = if is_packed {
            let seed = u128::from_le_bytes(shape.memory.hash_key()) as u64;
            Ids::Packed(PackedTable::new(
                expected,
                shape.group_columns(),
                dense(shape, rising),
                seed,
            ))
        } else {
            let mut ids = KeyTable::new();
            ids.reserve(expected);
            Ids::Hashed(ids)
        };
        let functions = shape.aggregates.functions().zip(shape.aggregates.accumulators()?);
        let quick = functions.map(|(function, exact)| quickened(function, exact));
        let accumulators = quick.collect::<Result<_>>()?;
        Ok(Self {
            shape: Arc::clone(shape),
            ids,
            hashes: Vec::new(),
            ends: Vec::new(),
            groups: Vec::new(),
            accumulators,
            rows: 0,
            is_frozen: false,
        })
    }

    /// Folds rows; returns the states of those that passed through.
    pub(super) fn fold(&mut self, rows: &Rows<'_>) -> Result<Option<RecordBatch>> {
        self.is_frozen |= freezes(self.hashes.len(), self.rows);
        if self.is_frozen {
            return self.fold_known(rows);
        }
        let (ids, fresh) = self.numbered(rows)?;
        if !fresh.is_empty() {
            let fresh = UInt32Array::from(fresh);
            let groups = picked(rows.groups, &fresh)?;
            match rows.hashes {
                Some(all) => {
                    self.hashes.extend(fresh.values().iter().map(|row| all[*row as usize]));
                }
                None => {
                    self.shape.hasher.hash(&groups, &mut self.hashes)?;
                }
            }
            self.groups.push(groups);
        }
        self.rows += ids.len();
        let groups = self.hashes.len();
        for (accumulator, (values, filter)) in self.accumulators.iter_mut().zip(rows.arguments) {
            accumulator.update_batch(values, &ids, filter.as_ref(), groups)?;
        }
        Ok(None)
    }

    /// The number of each row's group, and which rows are the first of theirs.
    fn numbered(&mut self, rows: &Rows<'_>) -> Result<(Vec<usize>, Vec<u32>)> {
        let count = rows.ends.len();
        let (mut ids, mut fresh, mut touched) = (Vec::with_capacity(count), Vec::new(), 0);
        let mut hashes = Vec::new();
        let blocks = (0..count).step_by(BLOCK_ROWS).map(|from| from..count.min(from + BLOCK_ROWS));
        match &mut self.ids {
            Ids::Packed(table) => {
                let words = Words::try_new(rows.groups)?;
                table.number(&words, &mut ids, &mut fresh);
                self.ends.extend(fresh.iter().map(|row| rows.ends[*row as usize]));
            }
            Ids::Hashed(table) => {
                let hashes = hashes_of(&self.shape, rows, &mut hashes)?;
                for block in blocks {
                    for row in block.clone() {
                        touched ^= table.touch(hashes[row]);
                    }
                    for row in block {
                        let next = self.ends.len() as u32;
                        if let Entry::Found(id) = table.find_or_insert(hashes[row], next) {
                            ids.push(*id as usize);
                            continue;
                        }
                        self.ends.push(rows.ends[row]);
                        fresh.push(row as u32);
                        ids.push(next as usize);
                    }
                }
            }
        }
        std::hint::black_box(touched);
        Ok((ids, fresh))
    }

    /// The number of each row's group, where it has one already.
    fn known(&self, rows: &Rows<'_>) -> Result<Vec<Option<u32>>> {
        match &self.ids {
            Ids::Packed(table) => {
                let words = Words::try_new(rows.groups)?;
                Ok((0..rows.ends.len()).map(|row| table.get(&words, row)).collect())
            }
            Ids::Hashed(table) => {
                let mut hashes = Vec::new();
                let hashes = hashes_of(&self.shape, rows, &mut hashes)?;
                Ok(hashes.iter().map(|hash| table.get(*hash).copied()).collect())
            }
        }
    }

    fn fold_known(&mut self, rows: &Rows<'_>) -> Result<Option<RecordBatch>> {
        let (mut known, mut ids, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (row, id) in self.known(rows)?.into_iter().enumerate() {
            match id {
                Some(id) => {
                    known.push(row as u32);
                    ids.push(id as usize);
                }
                None => others.push(row as u32),
            }
        }
        let groups = self.hashes.len();
        let (known, others) = (UInt32Array::from(known), UInt32Array::from(others));
        let mut states = Vec::new();
        for (accumulator, (values, filter)) in self.accumulators.iter_mut().zip(rows.arguments) {
            let own = picked(values, &known)?;
            accumulator.update_batch(
                &own,
                &ids,
                filtered(filter.as_ref(), &known)?.as_ref(),
                groups,
            )?;
            if !others.is_empty() {
                let own = picked(values, &others)?;
                let filter = filtered(filter.as_ref(), &others)?;
                states.extend(accumulator.convert_to_state(&own, filter.as_ref())?);
            }
        }
        if others.is_empty() {
            return Ok(None);
        }
        let at = |row: &u32| *row as usize;
        let ends = others.values().iter().map(|row| rows.ends[at(row)]).collect();
        let groups = picked(rows.groups, &others)?;
        let mut hashes = Vec::with_capacity(others.len());
        match rows.hashes {
            Some(all) => hashes.extend(others.values().iter().map(|row| all[at(row)])),
            None => {
                self.shape.hasher.hash(&groups, &mut hashes)?;
            }
        }
        self.shape.rows((&hashes, ends), groups, states).map(Some)
    }

    /// The states of all groups; `None` if there are none.
    pub(super) fn finish(self) -> Result<Option<RecordBatch>> {
        self.shape.memory.note_groups(self.hashes.len());
        if self.hashes.is_empty() {
            return Ok(None);
        }
        let mut groups = Vec::with_capacity(self.shape.group_columns());
        for column in 0..self.shape.group_columns() {
            let parts: Vec<&dyn Array> =
                self.groups.iter().map(|part| part[column].as_ref()).collect();
            groups.push(concat(&parts)?);
        }
        let mut states = Vec::new();
        for mut accumulator in self.accumulators {
            states.extend(accumulator.state(EmitTo::All)?);
        }
        self.shape.rows((&self.hashes, self.ends), groups, states).map(Some)
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let groups = self.groups.iter().flatten().map(Array::get_array_memory_size);
        let states = self.accumulators.iter().map(|own| own.size());
        let ids = match &self.ids {
            Ids::Packed(table) => table.allocated_bytes(),
            Ids::Hashed(table) => table.allocated_bytes(),
        };
        groups.chain(states).sum::<usize>() + ids + self.hashes.len() * 24
    }
}

/// The only column of the group that is not `rising`.
fn dense(shape: &RollupShape, rising: &[bool]) -> Option<usize> {
    let mut others = (0..rising.len()).filter(|column| !rising[*column]);
    let dense = others.next().filter(|_| shape.expressions.set_type.is_none());
    dense.filter(|_| others.next().is_none())
}

/// Whether a fold of so many groups, of so many rows, takes no more groups.
const fn freezes(groups: usize, rows: usize) -> bool {
    groups >= GROUPS_MAX || (groups >= GROUPS_MIN && groups * 2 > rows)
}

/// The hashes of the rows' groups, made into `made` if they are not given.
fn hashes_of<'a>(
    shape: &RollupShape,
    rows: &Rows<'a>,
    made: &'a mut Vec<u128>,
) -> Result<&'a [u128]> {
    if let Some(given) = rows.hashes {
        return Ok(given);
    }
    shape.hasher.hash(rows.groups, made)?;
    Ok(made)
}

fn picked(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>> {
    columns.iter().map(|column| Ok(take(column, rows, None)?)).collect()
}

fn filtered(filter: Option<&BooleanArray>, rows: &UInt32Array) -> Result<Option<BooleanArray>> {
    let Some(filter) = filter else { return Ok(None) };
    Ok(Some(take(filter, rows, None)?.as_boolean().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fold_freezes_while_its_groups_have_fewer_than_two_rows_each() {
        assert!(!freezes(GROUPS_MIN - 1, GROUPS_MIN - 1), "it is small");
        assert!(freezes(GROUPS_MIN, 2 * GROUPS_MIN - 1));
        assert!(!freezes(GROUPS_MIN, 2 * GROUPS_MIN), "its keys come back");
        assert!(!freezes(GROUPS_MAX - 1, usize::MAX) && freezes(GROUPS_MAX, usize::MAX));
    }
}
