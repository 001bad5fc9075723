//! One shard of sessions: which panes and sessions of a key are one.
//!
//! ```text
//!   remembered    [--a--)        [--b--)                        [--c--)
//!   this epoch            [-p-)            a, p and b are one now: a's row changes, b's leaves
//! ```
//!
//! Which rows are in one session does not depend on the order in which they came: a session is a
//! longest chain of rows of one key, each less than a gap after the one before it.
//!
//! # Files
//!
//! A session's hash is made of its key's and of its first time. One that went into another leaves a
//! row without a first time behind, which is forgotten at the same watermark as the rows it takes
//! away: files may be joined in any order, and some may be forgotten before others.

use super::chunks::Rows;
use super::rewrite::Kept;
use super::shard::{FIXED_COLUMNS, GroupRows, ends_of, hash_array, hashes_of};
use super::spill::{SpillFile, SpillFiles};
use super::{Aggregates, OPEN_END};
use crate::state::StateError;
use crate::types::SessionOptions;
use arrow::array::cast::AsArray;
use arrow::array::types::TimestampMicrosecondType;
use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, TimestampMicrosecondArray, UInt32Array,
    new_null_array,
};
use arrow::compute::{concat_batches, filter_record_batch, interleave_record_batch, is_null, take};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The key in a schema's metadata that says that the rows are sessions.
pub const SESSIONS: &str = "onefold.sessions";

/// States behind those of the aggregates: the first and the last time.
const SPAN_STATES: usize = 2;

/// Chunks that a shard has at most before it is written anew.
const CHUNKS_MAX: usize = 24;

/// Bytes that a session takes besides its row.
const SESSION_BYTES: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Session {
    last: i64,
    chunk: u32,
    row: u32,
}

impl Session {
    const fn place(self) -> (usize, usize) {
        (self.chunk as usize, self.row as usize)
    }
}

/// Sessions and what their aggregates are worth.
#[derive(Debug)]
pub(super) struct SessionShard {
    options: SessionOptions,
    /// By the hash of the key, and the first time.
    sessions: BTreeMap<(u128, i64), Session>,
    chunks: Vec<Chunk>,
    /// Where this epoch wrote, and what it took away.
    fresh: Option<usize>,
    gone: Option<RecordBatch>,
    /// Bytes of memory that the chunks take.
    bytes: usize,
}

#[derive(Debug)]
struct Chunk {
    rows: Rows,
    length: usize,
}

/// What becomes of panes and the sessions that they touch.
#[derive(Default)]
struct Joined {
    /// The new sessions: key, first and last time, and a pane in it.
    spans: Vec<(u128, i64, i64)>,
    samples: Vec<u32>,
    /// By pane: its session.
    ids: Vec<usize>,
    /// Remembered sessions that are in new ones: where they are, and in which.
    taken: Vec<(usize, usize)>,
    taken_ids: Vec<usize>,
    /// Those of them that began at another time.
    gone: Vec<(usize, usize)>,
}

impl SessionShard {
    pub(super) const fn new(options: SessionOptions) -> Self {
        Self {
            options,
            sessions: BTreeMap::new(),
            chunks: Vec::new(),
            fresh: None,
            gone: None,
            bytes: 0,
        }
    }

    /// Forgets all sessions.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.options);
    }

    /// Merges panes, in rows as those of a chunk under the hash of their key, into sessions; returns
    /// those that changed, and those that went into others.
    pub(super) fn merge(
        &mut self,
        aggregates: &Aggregates,
        panes: &RecordBatch,
    ) -> Result<Vec<GroupRows>> {
        let states = panes.num_columns() - aggregates.state_fields().len();
        let joined = self.join(panes);
        let taken = self.rows_at(&joined.taken)?;
        let mut parts: Vec<(&[ArrayRef], &[usize])> =
            vec![(&panes.columns()[states..], &joined.ids)];
        if let Some(taken) = &taken {
            parts.push((&taken.columns()[states..], &joined.taken_ids));
        }
        let merged = aggregates.merge(&parts, joined.spans.len())?;
        let values = aggregates.values(&merged)?;
        let samples = UInt32Array::from(joined.samples);
        let pick = |column: &ArrayRef| take(column, &samples, None);
        let groups = panes.columns()[FIXED_COLUMNS..states].iter().map(pick);
        let mut groups = groups.collect::<Result<Vec<_>, _>>()?;
        groups[self.options.column] = Arc::clone(&merged[merged.len() - SPAN_STATES]);
        let hashes: Vec<u128> =
            joined.spans.iter().map(|(key, first, _)| hash_of(*key, *first)).collect();
        let ends = joined.spans.iter().map(|(_, _, last)| self.end(*last));
        let fixed: [ArrayRef; 2] = [hash_array(&hashes), Arc::new(ends.collect::<Int64Array>())];
        let columns = fixed.into_iter().chain(groups.iter().cloned()).chain(merged).collect();
        let rows = RecordBatch::try_new(panes.schema(), columns)?;
        let gone = self.leave(aggregates, &joined.gone)?;
        let changed = GroupRows {
            columns: groups.into_iter().chain(values).collect(),
            rows: rows.num_rows(),
            is_gone: false,
        };
        self.push(rows);
        self.fresh = Some(self.chunks.len() - 1);
        Ok([changed].into_iter().chain(gone).collect())
    }

    /// Finds out which panes and remembered sessions are one, and forgets the latter.
    fn join(&mut self, panes: &RecordBatch) -> Joined {
        let keys = hashes_of(panes);
        let (firsts, lasts) = spans_of(panes);
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by_key(|pane| (keys[*pane], firsts.value(*pane)));
        let mut joined = Joined { ids: vec![0; keys.len()], ..Joined::default() };
        for panes in order.chunk_by(|one, two| keys[*one] == keys[*two]) {
            let key = keys[panes[0]];
            let known = self.sessions.range((key, i64::MIN)..=(key, i64::MAX));
            let known = known.map(|((_, first), own)| (*first, own.last, None));
            let fresh = panes.iter().map(|own| (firsts.value(*own), lasts.value(*own), Some(*own)));
            let mut all: Vec<(i64, i64, Option<usize>)> = known.chain(fresh).collect();
            all.sort_unstable_by_key(|(first, ..)| *first);
            let mut from = 0;
            while from < all.len() {
                let (to, last) = self.chain(&all, from);
                self.take(key, &all[from..to], last, &mut joined);
                from = to;
            }
        }
        joined
    }

    /// Where the session that begins at `from` ends, and its last time.
    fn chain(&self, all: &[(i64, i64, Option<usize>)], from: usize) -> (usize, i64) {
        let (mut to, mut last) = (from + 1, all[from].1);
        while to < all.len() && all[to].0.saturating_sub(last) < self.options.gap_us {
            last = last.max(all[to].1);
            to += 1;
        }
        (to, last)
    }

    /// Makes one session of `parts`, if any of them is new.
    fn take(
        &mut self,
        key: u128,
        parts: &[(i64, i64, Option<usize>)],
        last: i64,
        joined: &mut Joined,
    ) {
        let Some(sample) = parts.iter().find_map(|(.., pane)| *pane) else { return };
        let (id, begins) = (joined.spans.len(), parts[0].0);
        joined.spans.push((key, begins, last));
        joined.samples.push(sample as u32);
        for (first, _, pane) in parts {
            if let Some(pane) = pane {
                joined.ids[*pane] = id;
            } else if let Some(known) = self.sessions.remove(&(key, *first)) {
                joined.taken.push(known.place());
                joined.taken_ids.push(id);
                if *first != begins {
                    joined.gone.push(known.place());
                }
            }
        }
    }

    /// Remembers that sessions are gone, and shows what they were.
    fn leave(
        &mut self,
        aggregates: &Aggregates,
        places: &[(usize, usize)],
    ) -> Result<Option<GroupRows>> {
        let Some(rows) = self.rows_at(places)? else { return Ok(None) };
        let mut columns = rows.columns().to_vec();
        let first = columns.len() - SPAN_STATES;
        columns[first] = new_null_array(columns[first].data_type(), rows.num_rows());
        self.gone = Some(RecordBatch::try_new(rows.schema(), columns)?);
        worth(aggregates, &rows, true).map(Some)
    }

    /// Adds a chunk.
    fn push(&mut self, rows: RecordBatch) {
        self.index(&rows, self.chunks.len(), 0);
        let length = rows.num_rows();
        self.add_chunk(Rows::Held(rows), length);
    }

    /// Notes the sessions of rows that are, or will be, those of a chunk from its row `from` on.
    pub(super) fn index(&mut self, rows: &RecordBatch, chunk: usize, from: usize) {
        let (firsts, lasts) = spans_of(rows);
        for (row, hash) in hashes_of(rows).into_iter().enumerate() {
            let (first, last) = (firsts.value(row), lasts.value(row));
            let own = Session { last, chunk: chunk as u32, row: (from + row) as u32 };
            self.sessions.insert((hash_of(hash, first), first), own);
        }
    }

    /// Adds a chunk whose sessions are known.
    pub(super) fn add_chunk(&mut self, rows: Rows, length: usize) {
        self.bytes += rows.bytes();
        self.chunks.push(Chunk { rows, length });
    }

    /// Moves the rows of all chunks but the newest one, or of all, to `file`.
    pub(super) fn spill_rows(
        &mut self,
        file: &Arc<SpillFile>,
        keeps_newest: bool,
    ) -> Result<(), StateError> {
        let chunks = self.chunks.iter_mut().map(|chunk| &mut chunk.rows);
        self.bytes = Rows::spill_all(chunks, file, keeps_newest)?;
        Ok(())
    }

    /// What sessions are worth that nothing can change once `last` is reached.
    pub(super) fn closed(&self, aggregates: &Aggregates, last: i64) -> Result<Option<GroupRows>> {
        let ended = self.sessions.values().filter(|own| self.end(own.last) <= last);
        let places: Vec<_> = ended.map(|own| own.place()).collect();
        let rows = self.rows_at(&places)?;
        rows.map(|rows| worth(aggregates, &rows, false)).transpose()
    }

    /// Forgets the sessions that nothing can change once `last` is reached, and returns what else
    /// this epoch changed.
    pub(super) fn finish(&mut self, last: i64, files: &SpillFiles) -> Result<Option<RecordBatch>> {
        let options = self.options;
        self.sessions.retain(|_, own| end_of(options, own.last) > last);
        let fresh = self.fresh.take().map(|chunk| self.chunks[chunk].rows.all()).transpose()?;
        let changed: Vec<RecordBatch> = fresh.into_iter().chain(self.gone.take()).collect();
        let rows: usize = self.chunks.iter().map(|chunk| chunk.length).sum();
        if self.chunks.len() > CHUNKS_MAX || rows > 2 * self.sessions.len() + 64 {
            self.rewrite(files)?;
        }
        let Some(first) = changed.first() else { return Ok(None) };
        let changed = concat_batches(&first.schema(), &changed)?;
        let is_open: BooleanArray =
            ends_of(&changed).values().iter().map(|end| Some(*end > last)).collect();
        Ok(Some(filter_record_batch(&changed, &is_open)?).filter(|rows| rows.num_rows() > 0))
    }

    /// Writes the sessions into one chunk, in the place of all.
    fn rewrite(&mut self, files: &SpillFiles) -> Result<()> {
        let mut kept = Kept::none(self.chunks.iter().map(|chunk| chunk.length));
        self.sessions.values().for_each(|own| kept.keep(own.place()));
        kept.number();
        for own in self.sessions.values_mut() {
            (own.row, own.chunk) = (kept.of(own.place()), 0);
        }
        let chunks = std::mem::take(&mut self.chunks).into_iter().map(|chunk| chunk.rows);
        self.bytes = 0;
        if let Some((rows, _)) = kept.rewrite(chunks.collect(), files)? {
            self.add_chunk(rows, self.sessions.len());
        }
        Ok(())
    }

    /// All sessions.
    pub(super) fn all(&self) -> Result<Option<RecordBatch>> {
        let places: Vec<_> = self.sessions.values().map(|own| own.place()).collect();
        self.rows_at(&places)
    }

    /// Sessions held.
    pub(super) fn groups(&self) -> usize {
        self.sessions.len()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.sessions.len() * SESSION_BYTES
    }

    fn end(&self, last: i64) -> i64 {
        end_of(self.options, last)
    }

    fn rows_at(&self, places: &[(usize, usize)]) -> Result<Option<RecordBatch>> {
        if places.is_empty() {
            return Ok(None);
        }
        let chunks: Vec<&Rows> = self.chunks.iter().map(|chunk| &chunk.rows).collect();
        let (chunks, places) = Rows::batches_at(&chunks, places)?;
        Ok(Some(interleave_record_batch(&chunks.iter().collect::<Vec<_>>(), &places)?))
    }
}

/// Which of saved rows, with their steps, say that a session went into another; `None` if they are no
/// sessions.
pub(super) fn merged_of(rows: &RecordBatch) -> Result<Option<BooleanArray>, ArrowError> {
    if !rows.schema().metadata().contains_key(SESSIONS) {
        return Ok(None);
    }
    is_null(rows.column(rows.num_columns() - 1 - SPAN_STATES)).map(Some)
}

/// What rows are worth.
fn worth(aggregates: &Aggregates, rows: &RecordBatch, is_gone: bool) -> Result<GroupRows> {
    let states = rows.num_columns() - aggregates.state_fields().len();
    let values = aggregates.values(&rows.columns()[states..])?;
    let groups = rows.columns()[FIXED_COLUMNS..states].iter().cloned();
    Ok(GroupRows { columns: groups.chain(values).collect(), rows: rows.num_rows(), is_gone })
}

/// The hash of the session of a key that begins at `first`; and of such a hash, that of the key. The
/// low half, which says the shard, is the same.
fn hash_of(key: u128, first: i64) -> u128 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    key ^ (u128::from((first as u64).wrapping_mul(ODD)) << 64)
}

fn end_of(options: SessionOptions, last: i64) -> i64 {
    options.settled(last).min(OPEN_END - 1)
}

fn spans_of(rows: &RecordBatch) -> (&TimestampMicrosecondArray, &TimestampMicrosecondArray) {
    let times = |back: usize| {
        rows.column(rows.num_columns() - back).as_primitive::<TimestampMicrosecondType>()
    };
    (times(SPAN_STATES), times(1))
}
