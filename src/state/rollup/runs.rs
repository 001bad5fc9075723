//! The newest row of each group in many files, found without holding the files in memory.
//!
//! ```text
//!   file --batch by batch--> sorted by (shard, hash) --> runs, in memory or on disk
//!                                                          |  |  |
//!                       rows with the highest step  <--  merged, block by block
//! ```
//!
//! A batch that goes on where the one before it ended goes on with its run, so that a file is one
//! run: an epoch writes its shards one after the other, and a joined file is sorted.
//!
//! Memory: one batch of a file, and the runs up to a limit; beyond it they are on local disk, and one
//! block of each is in memory.

use super::chunks::Rows;
use super::gone::gone_of;
use super::shard::{ends_of, hashes_of};
use super::spill::SpillFiles;
use super::{ROLLUP_SHARDS, format};
use crate::state::{StateContent, StateError};
use arrow::array::{BooleanArray, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use arrow::record_batch::RecordBatch;
use datafusion::execution::memory_pool::MemoryReservation;
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};

/// How many of the low bits of a hash say its shard.
const SHARD_BITS: u32 = ROLLUP_SHARDS.trailing_zeros();

/// The rows of files, sorted.
#[derive(Debug)]
pub(super) struct Runs {
    sorted: Vec<VecDeque<Rows>>,
    /// Of the newest run, the last key.
    last_key: Option<u128>,
    files: SpillFiles,
    reservation: MemoryReservation,
    limit_bytes: usize,
    is_spilled: bool,
    /// Rows that end here or before are left out.
    last_end: i64,
    last_step: u64,
}

impl Runs {
    /// No rows yet. About `limit_bytes` of them stay in memory, accounted to `reservation`, and none
    /// of those that end at `last_end` or before are kept.
    pub(super) fn new(limit_bytes: usize, last_end: i64, reservation: MemoryReservation) -> Self {
        Self {
            sorted: Vec::new(),
            last_key: None,
            files: SpillFiles::default(),
            reservation,
            limit_bytes,
            is_spilled: false,
            last_end,
            last_step: 0,
        }
    }

    /// The highest step of any row.
    pub(super) const fn last_step(&self) -> u64 {
        self.last_step
    }

    /// Adds the rows of a file.
    pub(super) fn add(&mut self, file: &StateContent) -> Result<(), StateError> {
        self.last_key = None;
        for batch in format::decode(file)? {
            let batch = batch?;
            let newest = format::steps_of(&batch).values().iter().copied().max();
            self.last_step = self.last_step.max(newest.unwrap_or_default());
            self.add_rows(&batch)?;
        }
        Ok(())
    }

    fn add_rows(&mut self, batch: &RecordBatch) -> Result<(), StateError> {
        let keys = keys_of(batch);
        let steps = format::steps_of(batch).values();
        let ends = ends_of(batch).values();
        let mut order: Vec<u32> = (0..keys.len() as u32).collect();
        order.retain(|row| ends[*row as usize] > self.last_end);
        let place = |row: &u32| (keys[*row as usize], Reverse(steps[*row as usize]));
        let is_sorted = order.is_sorted_by_key(place);
        if !is_sorted {
            order.sort_unstable_by_key(place);
        }
        let (Some(first), Some(last)) = (order.first(), order.last()) else { return Ok(()) };
        let (first, last) = (keys[*first as usize], keys[*last as usize]);
        let rows = if is_sorted && order.len() == keys.len() {
            batch.clone()
        } else {
            take_record_batch(batch, &UInt32Array::from(order))?
        };
        if self.last_key.is_none_or(|before| before >= first) {
            self.sorted.push(VecDeque::new());
        }
        self.last_key = Some(last);
        let bytes = rows.get_array_memory_size();
        let Some(run) = self.sorted.last_mut() else { return Ok(()) };
        run.push_back(Rows::Held(rows));
        let held = self.reservation.size() + bytes;
        if held > self.limit_bytes || self.reservation.try_resize(held).is_err() {
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<(), StateError> {
        for rows in self.sorted.iter_mut().flatten() {
            rows.spill(&self.files.current()?)?;
        }
        self.is_spilled = true;
        self.reservation.resize(0);
        Ok(())
    }

    /// Begins to merge them; rows that say that something is gone are left out unless `keeps_gone`.
    pub(super) fn merge(mut self, keeps_gone: bool) -> Result<Merged, StateError> {
        if self.is_spilled {
            self.spill()?; // those that take them need the room
        }
        let mut merged = Merged {
            cursors: Vec::with_capacity(self.sorted.len()),
            heap: BinaryHeap::with_capacity(self.sorted.len()),
            last_key: None,
            keeps_gone,
            _reservation: self.reservation,
        };
        for run in self.sorted {
            let mut cursor = Cursor::new(run);
            if cursor.fill()? {
                merged.heap.push(cursor.head(merged.cursors.len()));
                merged.cursors.push(cursor);
            }
        }
        Ok(merged)
    }
}

/// A run's next row: its key, its step, and the run; the least key and then the highest step is first.
type Head = Reverse<(u128, Reverse<u64>, usize)>;

/// The newest row of each group, by shard and then by hash.
#[derive(Debug)]
pub(super) struct Merged {
    cursors: Vec<Cursor>,
    heap: BinaryHeap<Head>,
    last_key: Option<u128>,
    keeps_gone: bool,
    /// Of the runs in memory.
    _reservation: MemoryReservation,
}

impl Merged {
    /// The shard of the next row; `None` behind the last.
    pub(super) fn shard(&self) -> Option<usize> {
        self.heap.peek().map(|Reverse((key, ..))| shard_of(*key))
    }

    /// The next `most` rows, all in `shard` if one is given; fewer at its end, and then `None`.
    pub(super) fn take(
        &mut self,
        most: usize,
        shard: Option<usize>,
    ) -> Result<Option<RecordBatch>, StateError> {
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut known: Vec<Option<usize>> = vec![None; self.cursors.len()];
        let mut places = Vec::new();
        while places.len() < most
            && let Some(mut head) = self.heap.peek_mut()
        {
            let Reverse((key, _, run)) = *head;
            if shard.is_some_and(|shard| shard != shard_of(key)) {
                break;
            }
            let cursor = &mut self.cursors[run];
            let is_newest = self.last_key.replace(key) != Some(key);
            if is_newest && (self.keeps_gone || !cursor.is_gone()) {
                let batch = *known[run].get_or_insert_with(|| {
                    batches.push(cursor.rows.clone());
                    batches.len() - 1
                });
                places.push((batch, cursor.row));
            }
            cursor.row += 1;
            if cursor.row == cursor.keys.len() {
                known[run] = None;
                if !cursor.fill()? {
                    PeekMut::pop(head);
                    continue;
                }
            }
            *head = cursor.head(run);
        }
        if places.is_empty() {
            return Ok(None);
        }
        Ok(Some(interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &places)?))
    }
}

/// Where a run is read.
#[derive(Debug)]
struct Cursor {
    parts: VecDeque<Rows>,
    /// The next block of the first part.
    block: usize,
    rows: RecordBatch,
    keys: Vec<u128>,
    gone: Option<BooleanArray>,
    row: usize,
}

impl Cursor {
    fn new(parts: VecDeque<Rows>) -> Self {
        let rows = RecordBatch::new_empty(arrow::datatypes::Schema::empty().into());
        Self { parts, block: 0, rows, keys: Vec::new(), gone: None, row: 0 }
    }

    /// Reads the next rows; false if there are none.
    fn fill(&mut self) -> Result<bool, StateError> {
        self.rows = loop {
            let Some(part) = self.parts.front() else { return Ok(false) };
            let read = match part {
                Rows::Spilled(rows) => rows.block(self.block)?,
                Rows::Held(rows) => Some(rows.clone()).filter(|_| self.block == 0),
            };
            self.block += 1;
            if let Some(rows) = read {
                break rows;
            }
            (self.parts, self.block) = (self.parts.split_off(1), 0);
        };
        self.keys = keys_of(&self.rows);
        self.gone = gone_of(&self.rows)?;
        self.row = 0;
        Ok(true)
    }

    fn head(&self, run: usize) -> Head {
        let step = format::steps_of(&self.rows).value(self.row);
        Reverse((self.keys[self.row], Reverse(step), run))
    }

    fn is_gone(&self) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.value(self.row))
    }
}

/// What rows are sorted by: the shard, and then the rest of the hash.
fn keys_of(rows: &RecordBatch) -> Vec<u128> {
    let mut keys = hashes_of(rows);
    for hash in &mut keys {
        *hash = hash.rotate_right(SHARD_BITS);
    }
    keys
}

const fn shard_of(key: u128) -> usize {
    (key >> (u128::BITS - SHARD_BITS)) as usize
}
