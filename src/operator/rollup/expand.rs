//! Panes into windows, some at a time: what that takes does not depend on how many windows there are.
//!
//! ```text
//!   panes, those of a group side by side    [ piece | piece | piece ]
//!   a piece --each window of each pane--> windows, of which the next piece may have some again
//! ```

use super::hop::HopColumn;
use super::shape::{GroupingSet, RollupShape, end_or_open};
use crate::key::{Entry, KeyTable};
use crate::operator::time::to_micros;
use crate::state::FIXED_COLUMNS;
use arrow::array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow::compute::{concat, interleave_record_batch, take};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryReservation;

/// Pairs of a pane and a window of it that are made at once, if there is memory for so many.
const PAIRS_MAX: usize = 1 << 18;

/// Bytes that a pair takes besides its columns.
const PAIR_BYTES: usize = 96;

/// Bytes that a pane takes besides its columns, while panes are sorted.
const PLACE_BYTES: usize = 64;

/// Panes of one set that are expanded into windows.
pub(super) struct Expansion {
    hop: HopColumn,
    panes: Vec<RecordBatch>,
    /// Where the panes that are left are, in their order.
    places: Vec<(usize, usize)>,
    next: usize,
    is_sorted: bool,
    row_bytes: usize,
}

impl Expansion {
    pub(super) fn new(hop: HopColumn, panes: Vec<RecordBatch>) -> Self {
        let numbers = panes.iter().map(RecordBatch::num_rows).enumerate();
        let places: Vec<(usize, usize)> =
            numbers.flat_map(|(batch, rows)| (0..rows).map(move |row| (batch, row))).collect();
        let bytes: usize = panes.iter().map(RecordBatch::get_array_memory_size).sum();
        let row_bytes = bytes.div_ceil(places.len().max(1));
        Self { hop, panes, places, next: 0, is_sorted: false, row_bytes }
    }

    /// Bytes that the panes take.
    pub(super) const fn bytes(&self) -> usize {
        self.places.len() * (self.row_bytes + PLACE_BYTES)
    }

    /// The states of some more windows of `set`; `None` once there are none. `held` grows to what they
    /// take beside `others` bytes, and does not shrink: a next piece finds the room. The windows of one
    /// pane are made in any case, as a batch of rows is folded.
    pub(super) fn next(
        &mut self,
        shape: &RollupShape,
        set: &GroupingSet,
        others: usize,
        held: &MemoryReservation,
    ) -> Result<Option<RecordBatch>> {
        let left = self.places.len() - self.next;
        if left == 0 {
            return Ok(None);
        }
        let count = self.room_for(left, others, held);
        if count < left && !self.is_sorted {
            self.sort(shape)?;
        }
        let batches: Vec<&RecordBatch> = self.panes.iter().collect();
        let piece = &self.places[self.next..self.next + count];
        let panes = interleave_record_batch(&batches, piece)?;
        self.next += count;
        windows(self.hop, shape, set, &panes).map(Some)
    }

    /// How many panes can be expanded together.
    fn room_for(&self, left: usize, others: usize, held: &MemoryReservation) -> usize {
        let windows = self.hop.windows().unsigned_abs() as usize;
        let mut count = (PAIRS_MAX / windows).clamp(1, left);
        loop {
            let pairs = count.saturating_mul(windows);
            let needed = others + pairs.saturating_mul(2 * self.row_bytes + PAIR_BYTES);
            if needed <= held.size() || held.try_resize(needed).is_ok() {
                return count;
            }
            if count == 1 {
                held.resize(needed);
                return count;
            }
            count /= 2;
        }
    }

    /// Brings the panes of a group together, in the order of their times: they share windows.
    fn sort(&mut self, shape: &RollupShape) -> Result<()> {
        let mut keys: Vec<Vec<(u128, i64)>> = Vec::with_capacity(self.panes.len());
        for panes in &self.panes {
            let groups = FIXED_COLUMNS..FIXED_COLUMNS + shape.group_columns();
            let mut groups = panes.columns()[groups].to_vec();
            let starts = &mut groups[self.hop.column];
            let times = to_micros(starts)?;
            *starts = new_null_array(starts.data_type(), panes.num_rows());
            let mut hashes = Vec::with_capacity(panes.num_rows());
            shape.hasher.hash(&groups, &mut hashes)?;
            keys.push(hashes.into_iter().zip(times.values().iter().copied()).collect());
        }
        self.places.sort_unstable_by_key(|(batch, row)| keys[*batch][*row]);
        self.is_sorted = true;
        Ok(())
    }
}

/// The states of all windows that take `panes`.
fn windows(
    hop: HopColumn,
    shape: &RollupShape,
    set: &GroupingSet,
    panes: &RecordBatch,
) -> Result<RecordBatch> {
    let open = hop.open(panes)?;
    let mut windows = Windows::default();
    for back in 0..hop.windows() {
        let takes: Vec<u32> =
            (0..).zip(&open).filter(|(_, own)| **own > back).map(|(row, _)| row).collect();
        if takes.is_empty() {
            break;
        }
        windows.add(shape, hop, panes, (&UInt32Array::from(takes), back))?;
    }
    windows.finish(shape, set, panes)
}

/// Windows that grow, pane by pane.
#[derive(Default)]
struct Windows {
    ids: KeyTable<u32>,
    hashes: Vec<u128>,
    /// The columns of the groups, in parts.
    groups: Vec<Vec<ArrayRef>>,
    /// By window: the pane that it was first made of.
    firsts: Vec<u32>,
    /// The other panes, and the windows that they go into, in parts.
    others: Vec<(UInt32Array, Vec<usize>)>,
}

impl Windows {
    /// Adds those of `panes` that `takes` names to the windows that began `back` slides before them.
    fn add(
        &mut self,
        shape: &RollupShape,
        hop: HopColumn,
        panes: &RecordBatch,
        (takes, back): (&UInt32Array, i64),
    ) -> Result<()> {
        let groups = &panes.columns()[FIXED_COLUMNS..FIXED_COLUMNS + shape.group_columns()];
        let mut groups = picked(groups, takes)?;
        groups[hop.column] = hop.starts(&groups[hop.column], back)?;
        let mut hashes = Vec::with_capacity(takes.len());
        shape.hasher.hash(&groups, &mut hashes)?;
        let (mut ids, mut others, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        for ((row, pane), hash) in (0..).zip(takes.values()).zip(hashes) {
            match self.ids.find_or_insert(hash, self.hashes.len() as u32) {
                Entry::Found(id) => {
                    ids.push(*id as usize);
                    others.push(*pane);
                }
                Entry::Added => {
                    self.hashes.push(hash);
                    self.firsts.push(*pane);
                    fresh.push(row);
                }
            }
        }
        self.groups.push(picked(&groups, &UInt32Array::from(fresh))?);
        if !ids.is_empty() {
            self.others.push((UInt32Array::from(others), ids));
        }
        Ok(())
    }

    fn finish(
        self,
        shape: &RollupShape,
        set: &GroupingSet,
        panes: &RecordBatch,
    ) -> Result<RecordBatch> {
        let count = self.hashes.len();
        let states = &panes.columns()[FIXED_COLUMNS + shape.group_columns()..];
        // The part with all groups comes first.
        let all: Vec<usize> = (0..count).collect();
        let mut parts = vec![(picked(states, &UInt32Array::from(self.firsts))?, all)];
        for (panes, ids) in self.others {
            parts.push((picked(states, &panes)?, ids));
        }
        let parts: Vec<(&[ArrayRef], &[usize])> =
            parts.iter().map(|(states, ids)| (states.as_slice(), ids.as_slice())).collect();
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

fn picked(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>> {
    columns.iter().map(|column| Ok(take(column, rows, None)?)).collect()
}
