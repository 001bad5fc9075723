//! One shard of the groups: their states in immutable chunks, found by hash.

use super::Aggregates;
use super::chunks::{Found, Rows};
use super::gone::empty_groups;
use super::rewrite::Kept;
use super::spill::{SpillFile, SpillFiles};
use crate::key::{KeyValue, TieredTable};
use crate::state::StateError;
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef, FixedSizeBinaryArray, Int64Array, UInt32Array};
use arrow::compute::{interleave, interleave_record_batch, take, take_record_batch};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, internal_err};
use std::path::Path;
use std::sync::Arc;

/// Columns before those of the group: the hash and the end of the window.
pub const FIXED_COLUMNS: usize = 2;

/// The key in a schema's metadata that says how many columns a group has.
pub const GROUP_COLUMNS: &str = "onefold.groups";

/// The end of a group that has no window.
pub const OPEN_END: i64 = i64::MAX;

/// Rows whose searches overlap their cache misses.
const SEARCH_ROWS: usize = 32;

/// Chunks that a shard has at most before it is written anew.
const CHUNKS_MAX: usize = 24;

/// Where the states of a group are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    chunk: u32,
    row: u32,
}

impl KeyValue for Place {
    const BYTES: usize = 8;
    const GONE: Self = Self { chunk: u32::MAX, row: 0 };

    fn is_gone(&self) -> bool {
        self.chunk == u32::MAX
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.chunk.to_le_bytes());
        bytes.extend_from_slice(&self.row.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let number = |at: usize| {
            let mut own = [0; 4];
            own.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(own)
        };
        Self { chunk: number(0), row: number(4) }
    }
}

/// Groups and what their aggregates are worth.
#[derive(Clone, Debug)]
pub struct GroupRows {
    /// The columns of the groups, and then the values.
    pub columns: Vec<ArrayRef>,
    /// How many groups.
    pub rows: usize,
    /// Whether they are there no more: sessions that went into others.
    pub is_gone: bool,
}

#[derive(Debug)]
struct Chunk {
    rows: Rows,
    length: usize,
    /// The earliest end of those that were not closed yet.
    next_end: i64,
}

#[derive(Debug)]
pub(super) struct Shard {
    places: TieredTable<Place>,
    chunks: Vec<Chunk>,
    /// The chunk that this epoch wrote.
    fresh: Option<usize>,
    /// Bytes of memory that the chunks take.
    bytes: usize,
    phase: f64,
}

impl Shard {
    /// An empty one. Shards whose `phase`, from 0 to 1, is not the same grow at different times.
    pub(super) const fn new(phase: f64) -> Self {
        Self { places: TieredTable::new(phase), chunks: Vec::new(), fresh: None, bytes: 0, phase }
    }

    /// Merges partial states, in rows as those of a chunk, into those of their groups.
    pub(super) fn merge(
        &mut self,
        aggregates: &Aggregates,
        partials: &RecordBatch,
    ) -> Result<GroupRows> {
        let chunk = self.chunks.len() as u32;
        let mut ids = Vec::with_capacity(partials.num_rows());
        let mut firsts: Vec<u32> = Vec::with_capacity(partials.num_rows());
        let (mut known, mut known_ids) = (Vec::new(), Vec::new());
        let hashes = hashes_of(partials);
        self.places.warm(hashes.iter().copied())?;
        let mut touched = 0;
        for (block, from) in hashes.chunks(SEARCH_ROWS).zip((0..).step_by(SEARCH_ROWS)) {
            for hash in block {
                touched ^= self.places.touch(*hash);
            }
            for (hash, row) in block.iter().zip(from..) {
                let here = Place { chunk, row: firsts.len() as u32 };
                match self.places.insert_unless(*hash, here, |own| own.chunk == chunk)? {
                    Some(own) if own.chunk == chunk => {
                        ids.push(own.row as usize);
                        continue;
                    }
                    Some(own) => {
                        known.push((own.chunk as usize, own.row as usize));
                        known_ids.push(firsts.len());
                    }
                    None => {}
                }
                ids.push(firsts.len());
                firsts.push(row);
            }
        }
        std::hint::black_box(touched);
        let states = partials.num_columns() - aggregates.state_fields().len();
        let stored = self.gather(&known, states, aggregates)?;
        // The part with all groups comes first.
        let mut parts: Vec<(&[ArrayRef], &[usize])> = vec![(&partials.columns()[states..], &ids)];
        if !known.is_empty() {
            parts.push((&stored, &known_ids));
        }
        let merged = aggregates.merge(&parts, firsts.len())?;
        let values = aggregates.values(&merged)?;
        let firsts = UInt32Array::from(firsts);
        let pick = |column: &ArrayRef| take(column, &firsts, None);
        let fixed = partials.columns()[..states].iter().map(pick);
        let mut columns = fixed.collect::<Result<Vec<_>, _>>()?;
        let groups = columns[FIXED_COLUMNS..].to_vec();
        columns.extend(merged);
        self.add_chunk(RecordBatch::try_new(partials.schema(), columns)?);
        let rows = firsts.len();
        Ok(GroupRows { columns: groups.into_iter().chain(values).collect(), rows, is_gone: false })
    }

    /// The states of some groups.
    fn gather(
        &self,
        places: &[(usize, usize)],
        first: usize,
        aggregates: &Aggregates,
    ) -> Result<Vec<ArrayRef>> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let (chunks, places) = self.chunks_at(places)?;
        let mut gathered = Vec::with_capacity(aggregates.state_fields().len());
        for (state, field) in aggregates.state_fields().iter().enumerate() {
            let columns = chunks.iter().map(|rows| rows.column(first + state).as_ref());
            let columns: Vec<&dyn Array> = columns.collect();
            if columns.iter().any(|own| own.data_type() != field.data_type()) {
                return internal_err!("state {} was saved in another type", field.name());
            }
            gathered.push(interleave(&columns, &places)?);
        }
        Ok(gathered)
    }

    /// Batches that hold the rows at `places`, and where they are in those.
    fn chunks_at(&self, places: &[(usize, usize)]) -> Result<Found> {
        let chunks: Vec<&Rows> = self.chunks.iter().map(|chunk| &chunk.rows).collect();
        Rows::batches_at(&chunks, places)
    }

    /// Forgets all groups.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.phase);
    }

    /// Takes groups, of which each is there once, in the place of all: their rows, and the hash of
    /// each row.
    pub(super) fn fill(&mut self, rows: Rows, hashes: Vec<u128>, next_end: i64) {
        let length = hashes.len();
        let places = hashes.into_iter().zip(0..);
        let mut places: Vec<(u128, Place)> =
            places.map(|(hash, row)| (hash, Place { chunk: 0, row })).collect();
        places.sort_unstable_by_key(|(hash, _)| *hash);
        self.clear();
        self.places.fill_sorted(places.len(), places.into_iter());
        self.bytes = rows.bytes();
        self.chunks.push(Chunk { rows, length, next_end });
    }

    /// Adds a chunk to which the places of its groups lead already.
    fn add_chunk(&mut self, rows: RecordBatch) {
        let (length, next_end) = (rows.num_rows(), next_end(&rows));
        let rows = Rows::Held(rows);
        self.fresh = Some(self.chunks.len());
        self.bytes += rows.bytes();
        self.chunks.push(Chunk { rows, length, next_end });
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

    /// Moves the index of the groups to files in `folder`.
    pub(super) fn spill_places(&mut self, folder: &Path) -> Result<(), StateError> {
        Ok(self.places.spill(folder)?)
    }

    /// What groups are worth whose windows end at `last` or before.
    pub(super) fn closed(&self, aggregates: &Aggregates, last: i64) -> Result<Option<GroupRows>> {
        let places = self.ended(last)?;
        let Some(rows) = self.rows_at(&places)? else { return Ok(None) };
        let states = rows.num_columns() - aggregates.state_fields().len();
        let values = aggregates.values(&rows.columns()[states..])?;
        let groups = rows.columns()[FIXED_COLUMNS..states].iter().cloned();
        Ok(Some(GroupRows {
            columns: groups.chain(values).collect(),
            rows: rows.num_rows(),
            is_gone: false,
        }))
    }

    /// Forgets the groups whose windows end at `last` or before, and returns the others that this
    /// epoch changed.
    pub(super) fn finish(&mut self, last: i64, files: &SpillFiles) -> Result<Option<RecordBatch>> {
        for number in 0..self.chunks.len() {
            if self.chunks[number].next_end <= last {
                self.forget_ended(number, last)?;
            }
        }
        let changed = match self.fresh.take() {
            Some(chunk) => {
                let rows = self.chunks[chunk].rows.all()?;
                self.forget_empty(&rows)?;
                let is_open = |row: &u32| ends_of(&rows).value(*row as usize) > last;
                let open: Vec<u32> = (0..rows.num_rows() as u32).filter(is_open).collect();
                match open.len() {
                    0 => None,
                    all if all == rows.num_rows() => Some(rows.clone()),
                    _ => Some(take_record_batch(&rows, &UInt32Array::from(open))?),
                }
            }
            None => None,
        };
        let rows: usize = self.chunks.iter().map(|chunk| chunk.length).sum();
        if self.chunks.len() > CHUNKS_MAX || rows > 2 * self.places.len() + 64 {
            self.rewrite(files)?;
        }
        Ok(changed)
    }

    /// Forgets the groups of a chunk whose windows end at `last` or before.
    fn forget_ended(&mut self, number: usize, last: i64) -> Result<()> {
        let (mut block, mut from, mut next_end) = (0, 0, OPEN_END);
        while let Some(rows) = self.chunks[number].rows.block(block)? {
            let hashes = hashes_of(&rows);
            for row in self.ended_in((number, from), &rows, last)? {
                self.places.remove(hashes[row - from])?;
            }
            let ends = ends_of(&rows).values().iter().copied();
            next_end = ends.filter(|end| *end > last).fold(next_end, i64::min);
            (block, from) = (block + 1, from + rows.num_rows());
        }
        self.chunks[number].next_end = next_end;
        Ok(())
    }

    /// Writes the groups into one chunk, in the place of all.
    fn rewrite(&mut self, files: &SpillFiles) -> Result<()> {
        let place = |own: Place| (own.chunk as usize, own.row as usize);
        let mut kept = Kept::none(self.chunks.iter().map(|chunk| chunk.length));
        self.places.for_each(|_, own| kept.keep(place(own)))?;
        kept.number();
        let chunks = std::mem::take(&mut self.chunks).into_iter().map(|chunk| chunk.rows);
        let Some((rows, next_end)) = kept.rewrite(chunks.collect(), files)? else {
            self.clear();
            return Ok(());
        };
        let moved = |own| Place { chunk: 0, row: kept.of(place(own)) };
        self.places = self.places.map(&SpillFiles::folder(), moved)?;
        self.bytes = rows.bytes();
        self.chunks.push(Chunk { rows, length: self.places.len(), next_end });
        Ok(())
    }

    /// Forgets those groups of the newest chunk whose rows were all taken back.
    fn forget_empty(&mut self, newest: &RecordBatch) -> Result<()> {
        let Some(empty) = empty_groups(newest) else { return Ok(()) };
        for (hash, _) in hashes_of(newest).into_iter().zip(empty).filter(|(_, empty)| *empty) {
            self.places.remove(hash)?;
        }
        Ok(())
    }

    fn rows_at(&self, places: &[(usize, usize)]) -> Result<Option<RecordBatch>> {
        if places.is_empty() {
            return Ok(None);
        }
        let (chunks, places) = self.chunks_at(places)?;
        Ok(Some(interleave_record_batch(&chunks.iter().collect::<Vec<_>>(), &places)?))
    }

    /// Where the groups are whose windows end at `last` or before.
    fn ended(&self, last: i64) -> Result<Vec<(usize, usize)>> {
        let mut ended = Vec::new();
        for (number, chunk) in self.chunks.iter().enumerate().filter(|own| own.1.next_end <= last) {
            let (mut block, mut from) = (0, 0);
            while let Some(rows) = chunk.rows.block(block)? {
                let own = self.ended_in((number, from), &rows, last)?;
                ended.extend(own.into_iter().map(|row| (number, row)));
                (block, from) = (block + 1, from + rows.num_rows());
            }
        }
        Ok(ended)
    }

    /// The same, in `rows`, which are those of one chunk from a row on.
    fn ended_in(
        &self,
        (chunk, from): (usize, usize),
        rows: &RecordBatch,
        last: i64,
    ) -> Result<Vec<usize>> {
        let mut ended = Vec::new();
        let hashes = hashes_of(rows);
        for (row, _) in ends_of(rows).values().iter().enumerate().filter(|own| *own.1 <= last) {
            let here = Place { chunk: chunk as u32, row: (from + row) as u32 };
            if self.places.get(hashes[row])? == Some(here) {
                ended.push(from + row);
            }
        }
        Ok(ended)
    }

    /// All groups.
    pub(super) fn all(&self) -> Result<Option<RecordBatch>> {
        let mut places = Vec::with_capacity(self.places.len());
        let held = |_, own: Place| places.push((own.chunk as usize, own.row as usize));
        self.places.for_each(held)?;
        self.rows_at(&places)
    }

    /// Groups held.
    pub(super) const fn groups(&self) -> usize {
        self.places.len()
    }

    /// Chunks that they are in.
    #[cfg(test)]
    pub(super) const fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.places.allocated_bytes()
    }
}

/// The hash of each group, as a column.
#[must_use]
pub fn hash_array(hashes: &[u128]) -> ArrayRef {
    let mut bytes = Vec::with_capacity(hashes.len() * 16);
    for hash in hashes {
        bytes.extend_from_slice(&hash.to_le_bytes());
    }
    Arc::new(FixedSizeBinaryArray::new(16, bytes.into(), None))
}

/// The hash of each row's group.
#[must_use]
pub fn hashes_of(rows: &RecordBatch) -> Vec<u128> {
    let (hashes, _) = rows.column(0).as_fixed_size_binary().value_data().as_chunks::<16>();
    hashes.iter().map(|hash| u128::from_le_bytes(*hash)).collect()
}

/// The earliest end of rows.
pub(super) fn next_end(rows: &RecordBatch) -> i64 {
    ends_of(rows).values().iter().copied().min().unwrap_or(OPEN_END)
}

pub(super) fn ends_of(rows: &RecordBatch) -> &Int64Array {
    rows.column(1).as_primitive::<Int64Type>()
}
