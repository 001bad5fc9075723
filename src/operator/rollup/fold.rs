//! `Fold`: rows of one grouping set to states of groups, in bounded memory.
//!
//! ```text
//!   growing   every row finds its group, or makes one
//!   frozen    a row of a known group is folded; any other passes through as a state of its own
//! ```
//!
//! It freezes when it is large and most groups had one row: keys that come often were seen by then
//! and stay, and keys that do not come back would only fill memory.

use super::shape::RollupShape;
use crate::key::{Entry, KeyTable};
use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::compute::{concat, take};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use std::sync::Arc;

/// Groups from which on the fold looks whether keys come back.
const GROUPS_MIN: usize = 1 << 16;
/// Groups at which it freezes in any case.
const GROUPS_MAX: usize = 1 << 20;

/// Rows whose groups are looked for together, so that their cache misses overlap.
const BLOCK_ROWS: usize = 64;

/// Rows to be folded.
pub(super) struct Rows<'a> {
    pub(super) hashes: &'a [u128],
    pub(super) ends: &'a [i64],
    pub(super) groups: &'a [ArrayRef],
    /// By aggregate: its arguments, and which rows its FILTER lets through.
    pub(super) arguments: &'a [(Vec<ArrayRef>, Option<BooleanArray>)],
}

/// States of groups that grow.
pub(super) struct Fold {
    shape: Arc<RollupShape>,
    ids: KeyTable<u32>,
    hashes: Vec<u128>,
    ends: Vec<i64>,
    /// The columns of the groups, in parts.
    groups: Vec<Vec<ArrayRef>>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    rows: usize,
}

impl Fold {
    pub(super) fn new(shape: &Arc<RollupShape>) -> Result<Self> {
        let mut ids = KeyTable::new();
        ids.reserve(shape.memory.groups_expected());
        Ok(Self {
            shape: Arc::clone(shape),
            ids,
            hashes: Vec::new(),
            ends: Vec::new(),
            groups: Vec::new(),
            accumulators: shape.aggregates.accumulators()?,
            rows: 0,
        })
    }

    fn is_frozen(&self) -> bool {
        let groups = self.hashes.len();
        groups >= GROUPS_MAX || (groups >= GROUPS_MIN && groups * 2 > self.rows)
    }

    /// Folds rows; returns the states of those that passed through.
    pub(super) fn fold(&mut self, rows: &Rows<'_>) -> Result<Option<RecordBatch>> {
        if self.is_frozen() {
            return self.fold_known(rows);
        }
        let mut ids = Vec::with_capacity(rows.hashes.len());
        let mut fresh = Vec::new();
        let mut touched = 0;
        for (block, number) in rows.hashes.chunks(BLOCK_ROWS).zip(0..) {
            for hash in block {
                touched ^= self.ids.touch(*hash);
            }
            for (hash, row) in block.iter().zip(number * BLOCK_ROWS..) {
                let next = self.hashes.len() as u32;
                match self.ids.find_or_insert(*hash, next) {
                    Entry::Found(id) => ids.push(*id as usize),
                    Entry::Added => {
                        ids.push(next as usize);
                        self.hashes.push(*hash);
                        self.ends.push(rows.ends[row]);
                        fresh.push(row as u32);
                    }
                }
            }
        }
        std::hint::black_box(touched);
        if !fresh.is_empty() {
            self.groups.push(picked(rows.groups, &UInt32Array::from(fresh))?);
        }
        self.rows += ids.len();
        let groups = self.hashes.len();
        for (accumulator, (values, filter)) in self.accumulators.iter_mut().zip(rows.arguments) {
            accumulator.update_batch(values, &ids, filter.as_ref(), groups)?;
        }
        Ok(None)
    }

    fn fold_known(&mut self, rows: &Rows<'_>) -> Result<Option<RecordBatch>> {
        let (mut known, mut ids, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (row, hash) in rows.hashes.iter().enumerate() {
            match self.ids.get(*hash) {
                Some(id) => {
                    known.push(row as u32);
                    ids.push(*id as usize);
                }
                None => others.push(row as u32),
            }
        }
        self.rows += ids.len();
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
        let hashes: Vec<u128> = others.values().iter().map(|row| rows.hashes[at(row)]).collect();
        let ends = others.values().iter().map(|row| rows.ends[at(row)]).collect();
        let groups = picked(rows.groups, &others)?;
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
        groups.chain(states).sum::<usize>() + self.ids.allocated_bytes() + self.hashes.len() * 24
    }
}

fn picked(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>> {
    columns.iter().map(|column| Ok(take(column, rows, None)?)).collect()
}

fn filtered(filter: Option<&BooleanArray>, rows: &UInt32Array) -> Result<Option<BooleanArray>> {
    let Some(filter) = filter else { return Ok(None) };
    Ok(Some(take(filter, rows, None)?.as_boolean().clone()))
}
