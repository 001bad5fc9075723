//! Windows that overlap, out of panes that do not: `hop(time, slide, size)`.
//!
//! ```text
//!   row --fold--> pane, one slide long --expand--> every window that holds the pane
//!
//!   |--p0--|--p1--|--p2--|--p3--|--p4--|     size = 3 slides
//!   [-------- w0 --------)
//!          [-------- w1 --------)            p2 is in w0, w1 and w2
//!                 [-------- w2 --------)
//! ```
//!
//! So a row costs one fold, in however many windows it is; what is expanded are states of groups.
//! A row may come too late for its first windows and not for the others, so rows of one pane are
//! folded apart by the first window that still takes them: a state's end is the end of that window.

use super::shape::{GroupingSet, RollupShape, end_or_open};
use crate::key::{Entry, KeyTable};
use crate::operator::time::{in_units, to_micros};
use crate::state::FIXED_COLUMNS;
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef, Int64Array, UInt32Array};
use arrow::compute::{cast, concat, concat_batches, take, take_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use std::sync::Arc;

/// Bytes that a window takes besides its columns.
const HASH_BYTES: usize = 48;

/// A column of the group that holds the starts of windows that overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopColumn {
    /// Which of the group's columns; in a row, it is the start of its pane.
    pub column: usize,
    /// Microseconds from the start of a window to that of the next.
    pub slide_us: i64,
    /// How long a window is in microseconds: several slides.
    pub size_us: i64,
}

impl HopColumn {
    /// In how many windows a row is.
    pub(super) const fn windows(self) -> i64 {
        self.size_us / self.slide_us
    }

    /// For each pane, the end of the first window that holds it and ends after `closed`.
    pub(super) fn first_ends(self, panes: &ArrayRef, closed: &[i64]) -> Result<Vec<i64>> {
        let panes = to_micros(panes)?;
        let rows = panes.iter().zip(closed);
        Ok(rows.map(|(pane, closed)| self.first_end(pane.unwrap_or_default(), *closed)).collect())
    }

    fn first_end(self, pane: i64, closed: i64) -> i64 {
        let first = pane.saturating_add(self.slide_us);
        if first > closed {
            return first;
        }
        let late = closed.saturating_sub(first) / self.slide_us + 1;
        first.saturating_add(late.saturating_mul(self.slide_us))
    }

    /// How many of its windows no longer take a row of `pane`, by the end of the first that does.
    const fn late(self, pane: i64, first_end: i64) -> i64 {
        first_end.saturating_sub(pane) / self.slide_us - 1
    }

    /// Changes the hashes of groups that not all windows of the pane take.
    pub(super) fn tell_apart(
        self,
        hashes: &mut [u128],
        panes: &ArrayRef,
        first_ends: &[i64],
    ) -> Result<()> {
        const APART: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let panes = to_micros(panes)?;
        for ((hash, pane), end) in hashes.iter_mut().zip(panes.iter()).zip(first_ends) {
            let late = self.late(pane.unwrap_or_default(), *end);
            *hash = hash.wrapping_add(u128::from(late.unsigned_abs()).wrapping_mul(APART));
        }
        Ok(())
    }

    /// The states of windows, from those of the panes of `set`; what they take is added to `held`.
    ///
    /// # Errors
    ///
    /// More windows than there is memory for.
    pub(super) fn expand(
        self,
        shape: &RollupShape,
        set: &GroupingSet,
        panes: &[RecordBatch],
        held: &MemoryReservation,
    ) -> Result<Option<RecordBatch>> {
        let Some(first) = panes.first() else { return Ok(None) };
        let panes = concat_batches(&first.schema(), panes)?;
        let open = self.open(&panes)?;
        let mut windows = Windows::default();
        for back in 0..self.windows() {
            let takes: Vec<u32> =
                (0..).zip(&open).filter(|(_, own)| **own > back).map(|(row, _)| row).collect();
            if takes.is_empty() {
                break;
            }
            let panes = if takes.len() == panes.num_rows() {
                panes.clone()
            } else {
                take_record_batch(&panes, &UInt32Array::from(takes))?
            };
            held.try_grow(windows.add(shape, self, &panes, back)?)?;
        }
        windows.finish(shape, set).map(Some)
    }

    /// How many windows take each pane; those that do are its last ones.
    fn open(self, panes: &RecordBatch) -> Result<Vec<i64>> {
        let starts = to_micros(panes.column(FIXED_COLUMNS + self.column))?;
        let ends = panes.column(1).as_primitive::<Int64Type>().values();
        let open = |(start, end): (Option<i64>, &i64)| match start {
            Some(start) => self.windows() - self.late(start, *end),
            None => 1, // without a time it is in one group, as in a query without windows
        };
        Ok(starts.iter().zip(ends).map(open).collect())
    }

    /// The starts of the windows that began `back` slides before each of `panes`.
    fn starts(self, panes: &ArrayRef, back: i64) -> Result<ArrayRef> {
        if back == 0 {
            return Ok(Arc::clone(panes));
        }
        let time = panes.data_type();
        let back = in_units(self.slide_us.saturating_mul(back), time).unwrap_or(i64::MAX);
        let starts: Int64Array =
            cast(panes, &DataType::Int64)?.as_primitive::<Int64Type>().try_unary(|pane| {
                let start = pane.checked_sub(back);
                start.ok_or_else(|| {
                    let reason = format!("the window {back} units before the time {pane} has none");
                    ArrowError::ComputeError(reason)
                })
            })?;
        Ok(cast(&starts, time)?)
    }
}

/// Windows that grow, pane by pane.
#[derive(Default)]
struct Windows {
    ids: KeyTable<u32>,
    hashes: Vec<u128>,
    /// The columns of the groups, in parts.
    groups: Vec<Vec<ArrayRef>>,
    /// States of panes, and the windows that they go into.
    parts: Vec<(Vec<ArrayRef>, Vec<usize>)>,
}

impl Windows {
    /// Adds panes to the windows that began `back` slides before them; returns how many bytes more
    /// are held.
    fn add(
        &mut self,
        shape: &RollupShape,
        hop: HopColumn,
        panes: &RecordBatch,
        back: i64,
    ) -> Result<usize> {
        let states = FIXED_COLUMNS + shape.group_columns();
        let mut groups = panes.columns()[FIXED_COLUMNS..states].to_vec();
        groups[hop.column] = hop.starts(&groups[hop.column], back)?;
        let mut hashes = Vec::with_capacity(panes.num_rows());
        shape.hasher.hash(&groups, &mut hashes)?;
        let (mut ids, mut fresh) = (Vec::with_capacity(hashes.len()), Vec::new());
        for (row, hash) in hashes.into_iter().enumerate() {
            let next = self.hashes.len() as u32;
            match self.ids.find_or_insert(hash, next) {
                Entry::Found(id) => ids.push(*id as usize),
                Entry::Added => {
                    ids.push(next as usize);
                    self.hashes.push(hash);
                    fresh.push(row as u32);
                }
            }
        }
        let fresh = UInt32Array::from(fresh);
        let picked = groups.iter().map(|column| take(column, &fresh, None));
        let picked = picked.collect::<Result<Vec<_>, _>>()?;
        let states = panes.columns()[states..].to_vec();
        // The states of a new window are about as large as those of a pane.
        let arrays = picked.iter().chain(&states).map(Array::get_array_memory_size);
        let bytes =
            arrays.sum::<usize>() + ids.len() * size_of::<usize>() + fresh.len() * HASH_BYTES;
        self.groups.push(picked);
        self.parts.push((states, ids));
        Ok(bytes)
    }

    fn finish(self, shape: &RollupShape, set: &GroupingSet) -> Result<RecordBatch> {
        let count = self.hashes.len();
        let parts: Vec<(&[ArrayRef], &[usize])> =
            self.parts.iter().map(|(states, ids)| (states.as_slice(), ids.as_slice())).collect();
        let merged = shape.aggregates.merge(&parts, count)?;
        let mut groups = Vec::with_capacity(shape.group_columns());
        for column in 0..shape.group_columns() {
            let parts: Vec<&dyn Array> =
                self.groups.iter().map(|part| part[column].as_ref()).collect();
            groups.push(concat(&parts)?);
        }
        let ends = shape.ends(set, &groups, count)?;
        shape.rows((&self.hashes, end_or_open(ends)), groups, merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: HopColumn = HopColumn { column: 0, slide_us: 10, size_us: 30 };

    #[test]
    fn the_first_window_that_takes_a_row_is_the_first_that_ends_later() {
        // The windows of pane 100 end at 110, 120 and 130.
        for (closed, first) in [(i64::MIN, 110), (109, 110), (110, 120), (119, 120), (120, 130)] {
            assert_eq!(HOP.first_end(100, closed), first, "{closed}");
        }
        assert_eq!([110, 120, 130].map(|end| HOP.late(100, end)), [0, 1, 2]);
        assert_eq!(HOP.first_end(-100, -91), -90);
        assert_eq!(HOP.first_end(-100, -90), -80);
    }
}
