//! One shard of the groups: their states in immutable chunks, found by hash.

use super::Aggregates;
use crate::key::{Entry, KeyTable};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef, FixedSizeBinaryArray, Int64Array, UInt32Array};
use arrow::compute::{interleave, interleave_record_batch, take, take_record_batch};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, internal_err};
use std::sync::Arc;

/// Columns before those of the group: the hash and the end of the window.
pub const FIXED_COLUMNS: usize = 2;

/// The key in a schema's metadata that says how many columns a group has.
pub const GROUP_COLUMNS: &str = "onefold.groups";

/// The end of a group that has no window.
pub const OPEN_END: i64 = i64::MAX;

/// Chunks that a shard has at most before it is written anew.
const CHUNKS_MAX: usize = 24;

/// Where the states of a group are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    chunk: u32,
    row: u32,
}

/// Groups and what their aggregates are worth.
#[derive(Clone, Debug)]
pub struct GroupRows {
    /// The columns of the groups, and then the values.
    pub columns: Vec<ArrayRef>,
    /// How many groups.
    pub rows: usize,
}

#[derive(Debug)]
struct Chunk {
    rows: RecordBatch,
    /// The earliest end in it.
    first_end: i64,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    places: KeyTable<Place>,
    chunks: Vec<Chunk>,
    /// The chunk that this epoch wrote.
    fresh: Option<usize>,
    bytes: usize,
}

impl Shard {
    /// Merges partial states, in rows as those of a chunk, into those of their groups.
    pub(super) fn merge(
        &mut self,
        aggregates: &Aggregates,
        partials: &RecordBatch,
    ) -> Result<GroupRows> {
        let hashes = hashes_of(partials);
        let (mut own, mut ids) = (KeyTable::<u32>::new(), Vec::with_capacity(hashes.len()));
        own.reserve(hashes.len());
        let mut firsts: Vec<u32> = Vec::new();
        for (row, hash) in hashes.iter().enumerate() {
            let next = firsts.len() as u32;
            match own.find_or_insert(*hash, next) {
                Entry::Found(id) => ids.push(*id as usize),
                Entry::Added => {
                    ids.push(next as usize);
                    firsts.push(row as u32);
                }
            }
        }
        let (mut known, mut known_ids) = (Vec::new(), Vec::new());
        for (id, first) in firsts.iter().enumerate() {
            if let Some(place) = self.places.get(hashes[*first as usize]) {
                known.push((place.chunk as usize, place.row as usize));
                known_ids.push(id);
            }
        }
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
        self.push(RecordBatch::try_new(partials.schema(), columns)?);
        let rows = firsts.len();
        Ok(GroupRows { columns: groups.into_iter().chain(values).collect(), rows })
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
        let mut gathered = Vec::with_capacity(aggregates.state_fields().len());
        for (state, field) in aggregates.state_fields().iter().enumerate() {
            let column = |chunk: &'_ Chunk| Arc::clone(chunk.rows.column(first + state));
            let columns: Vec<ArrayRef> = self.chunks.iter().map(column).collect();
            let columns: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
            if columns.iter().any(|own| own.data_type() != field.data_type()) {
                return internal_err!("state {} was saved in another type", field.name());
            }
            gathered.push(interleave(&columns, places)?);
        }
        Ok(gathered)
    }

    /// Adds a chunk, whose groups are then in no other.
    pub(super) fn push(&mut self, rows: RecordBatch) {
        let chunk = self.chunks.len() as u32;
        self.places.reserve(rows.num_rows());
        for (row, hash) in hashes_of(&rows).into_iter().enumerate() {
            self.places.insert(hash, Place { chunk, row: row as u32 });
        }
        self.fresh = Some(self.chunks.len());
        self.bytes += rows.get_array_memory_size();
        let first_end = ends_of(&rows).values().iter().copied().min().unwrap_or(OPEN_END);
        self.chunks.push(Chunk { rows, first_end });
    }

    /// What groups are worth whose windows end at `last` or before.
    pub(super) fn closed(&self, aggregates: &Aggregates, last: i64) -> Result<Option<GroupRows>> {
        let places = self.ended(last);
        let Some(rows) = self.rows_at(&places)? else { return Ok(None) };
        let states = rows.num_columns() - aggregates.state_fields().len();
        let values = aggregates.values(&rows.columns()[states..])?;
        let groups = rows.columns()[FIXED_COLUMNS..states].iter().cloned();
        Ok(Some(GroupRows { columns: groups.chain(values).collect(), rows: rows.num_rows() }))
    }

    /// Forgets the groups whose windows end at `last` or before, and returns the others that this
    /// epoch changed.
    pub(super) fn finish(&mut self, last: i64) -> Result<Option<RecordBatch>> {
        for (chunk, row) in self.ended(last) {
            let hash = hash_at(&self.chunks[chunk].rows, row);
            self.places.remove(hash);
        }
        let changed = match self.fresh.take() {
            Some(chunk) => {
                let rows = &self.chunks[chunk].rows;
                let is_open = |row: &u32| ends_of(rows).value(*row as usize) > last;
                let open: Vec<u32> = (0..rows.num_rows() as u32).filter(is_open).collect();
                match open.len() {
                    0 => None,
                    all if all == rows.num_rows() => Some(rows.clone()),
                    _ => Some(take_record_batch(rows, &UInt32Array::from(open))?),
                }
            }
            None => None,
        };
        let rows: usize = self.chunks.iter().map(|chunk| chunk.rows.num_rows()).sum();
        if self.chunks.len() > CHUNKS_MAX || rows > 2 * self.places.len() + 64 {
            self.write_anew()?;
        }
        Ok(changed)
    }

    /// Puts all groups into one chunk.
    fn write_anew(&mut self) -> Result<()> {
        let entries = self.places.iter();
        let places: Vec<_> =
            entries.map(|(_, own)| (own.chunk as usize, own.row as usize)).collect();
        let rows = self.rows_at(&places)?;
        *self = Self::default();
        if let Some(rows) = rows {
            self.push(rows);
            self.fresh = None;
        }
        Ok(())
    }

    fn rows_at(&self, places: &[(usize, usize)]) -> Result<Option<RecordBatch>> {
        if places.is_empty() {
            return Ok(None);
        }
        let chunks: Vec<&RecordBatch> = self.chunks.iter().map(|chunk| &chunk.rows).collect();
        Ok(Some(interleave_record_batch(&chunks, places)?))
    }

    /// Where the groups are whose windows end at `last` or before.
    fn ended(&self, last: i64) -> Vec<(usize, usize)> {
        let mut ended = Vec::new();
        for (index, chunk) in self.chunks.iter().enumerate() {
            if chunk.first_end > last {
                continue;
            }
            for (row, end) in ends_of(&chunk.rows).values().iter().enumerate() {
                let here = Place { chunk: index as u32, row: row as u32 };
                if *end <= last && self.places.get(hash_at(&chunk.rows, row)) == Some(&here) {
                    ended.push((index, row));
                }
            }
        }
        ended
    }

    /// All groups.
    pub(super) fn all(&self) -> Result<Option<RecordBatch>> {
        let entries = self.places.iter();
        self.rows_at(
            &entries.map(|(_, own)| (own.chunk as usize, own.row as usize)).collect::<Vec<_>>(),
        )
    }

    /// Groups held.
    pub(super) const fn groups(&self) -> usize {
        self.places.len()
    }

    /// Bytes held.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes + self.places.allocated_bytes()
    }
}

/// The hash of each group, as a column.
#[must_use]
pub fn hash_array(hashes: &[u128]) -> ArrayRef {
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
    Arc::new(FixedSizeBinaryArray::new(16, bytes.into(), None))
}

/// The hash of each row's group.
#[must_use]
pub fn hashes_of(rows: &RecordBatch) -> Vec<u128> {
    (0..rows.num_rows()).map(|row| hash_at(rows, row)).collect()
}

fn hash_at(rows: &RecordBatch, row: usize) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(rows.column(0).as_fixed_size_binary().value(row));
    u128::from_le_bytes(bytes)
}

fn ends_of(rows: &RecordBatch) -> &Int64Array {
    rows.column(1).as_primitive::<Int64Type>()
}
