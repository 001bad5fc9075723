//! What a table remembers besides its rows: deletes that are younger than the horizon, and the
//! tokens of batch writes.
//!
//! ```text
//!   domain "onefold/table" -> TableState -> files under _onefold/table.state/
//!                                             tombstones of one commit: hash, sequence
//! ```
//!
//! # Invariants
//!
//! 1. The state changes in the commit that changes the rows, or not at all.
//! 2. A file of tombstones is dropped whole, once the youngest in it is older than the horizon;
//!    rows not newer than what was dropped are then refused where their key is not in the table.
//!    Joined files span a fraction of the horizon, so that deletes that go on keep nothing alive.
//! 3. State that is lost is never taken for empty.

use super::stage::RowShape;
use super::{DeltaError, sequence};
use crate::key::KeyTable;
use crate::store::{Location, read_whole, sha256_of, unread};
use crate::types::StateFile;
use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, BooleanArray, FixedSizeBinaryArray};
use arrow::compute::{concat_batches, filter_record_batch, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

/// The domain that names the state of a table.
pub(super) const STATE_DOMAIN: &str = "onefold/table";
const FOLDER: &str = "_onefold/table.state";
const FORMAT: u32 = 1;
const HASH: &str = "hash";
/// More files than this are joined, the oldest first.
const FILES_MAX: usize = 24;
const FILES_JOINED: usize = 16;
/// A joined file spans so much of the horizon at most.
const SPAN_SHARE: i64 = 8;
/// Tombstones of one file at most.
pub(super) const TOMBSTONES_MAX: usize = 4_000_000;
/// Tokens kept, the newest.
const TOKENS_MAX: usize = 10_000;

/// The state of a table, as the log names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableState {
    format: u32,
    tombstones: Vec<TombstoneFile>,
    /// The highest first bytes of a sequence among the tombstones that were dropped.
    forgotten: Option<u64>,
    tokens: Option<StateFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TombstoneFile {
    file: StateFile,
    sequence_max: u64,
}

impl TombstoneFile {
    /// When the oldest and the youngest of its deletes were committed.
    fn times(&self) -> (i64, i64) {
        let youngest = self.file.time_max_us.unwrap_or_default();
        (self.file.time_min_us.unwrap_or(youngest), youngest)
    }
}

/// The state of a table in memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    named: TableState,
    /// By file, in the order of `named`: hashes and sequences.
    parts: BTreeMap<u32, RecordBatch>,
    numbers: Vec<u32>,
    by_hash: KeyTable<(u32, u32)>,
    next: u32,
    /// Tokens with the versions that used them, oldest first.
    tokens: Vec<(String, u64)>,
}

/// What a commit adds to the state.
#[derive(Debug, Default)]
pub(super) struct Added {
    pub(super) tombstones: Vec<RecordBatch>,
    /// With the version that uses it.
    pub(super) token: Option<(String, u64)>,
}

/// What a commit will make of the state.
#[derive(Debug)]
pub(super) struct NextState {
    named: TableState,
    /// Files that are dropped, those that are joined of the rest, and the parts that are new.
    dropped: usize,
    joined: Option<(Range<usize>, RecordBatch)>,
    added: Vec<RecordBatch>,
    token: Option<(String, u64)>,
}

impl NextState {
    /// The words of the domain.
    pub(super) fn configuration(&self) -> Result<String, DeltaError> {
        serde_json::to_string(&self.named)
            .map_err(|error| DeltaError::Damaged { reason: format!("the table's state: {error}") })
    }
}

impl TableState {
    /// Reads the words of the domain.
    pub(super) fn parse(configuration: &str) -> Result<Self, DeltaError> {
        let damaged = |reason: String| DeltaError::Damaged { reason };
        let state: Self = serde_json::from_str(configuration)
            .map_err(|error| damaged(format!("domain {STATE_DOMAIN}: {error}")))?;
        if state.format > FORMAT {
            let reason = format!("domain {STATE_DOMAIN} is newer than this program");
            return Err(damaged(reason));
        }
        Ok(state)
    }

    /// The words of the domain after a restore: the state as it was, whose words were
    /// `configuration`.
    pub(super) fn restored(configuration: Option<&str>) -> Result<String, DeltaError> {
        let mut state = configuration.map(Self::parse).transpose()?.unwrap_or_default();
        state.format = FORMAT;
        serde_json::to_string(&state)
            .map_err(|error| DeltaError::Damaged { reason: format!("the table's state: {error}") })
    }

    /// The files it names.
    pub(super) fn files(&self) -> impl Iterator<Item = &StateFile> {
        self.tombstones.iter().map(|own| &own.file).chain(&self.tokens)
    }
}

/// The columns of a file of tombstones.
pub(super) fn tombstone_schema(shape: &RowShape) -> SchemaRef {
    let mut fields = vec![Field::new(HASH, DataType::FixedSizeBinary(16), false)];
    fields.extend(shape.sequence_fields());
    Arc::new(Schema::new(fields))
}

/// Tombstones of keys with these hashes and sequences.
pub(super) fn tombstones(
    shape: &RowShape,
    hashes: &[u128],
    sequences: Vec<ArrayRef>,
) -> Result<RecordBatch, DeltaError> {
    let bytes = hashes.iter().map(|hash| Some(hash.to_le_bytes()));
    let hashes = FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes, 16)?;
    let columns = std::iter::once(Arc::new(hashes) as ArrayRef).chain(sequences).collect();
    Ok(RecordBatch::try_new(tombstone_schema(shape), columns)?)
}

impl Memory {
    /// Reads what `configuration` names.
    pub(super) async fn load(
        location: &Location,
        configuration: Option<&str>,
    ) -> Result<Self, DeltaError> {
        let named = configuration.map(TableState::parse).transpose()?.unwrap_or_default();
        let mut memory = Self::default();
        for own in &named.tombstones {
            let bytes = read_state(location, &own.file).await?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
            let schema = Arc::clone(reader.schema());
            let batches = reader.build()?.collect::<Result<Vec<_>, _>>()?;
            memory.put(concat_batches(&schema, &batches)?);
        }
        if let Some(file) = &named.tokens {
            let bytes = read_state(location, file).await?;
            memory.tokens = serde_json::from_slice(&bytes).map_err(|error| {
                DeltaError::Damaged { reason: format!("{}: {error}", file.path) }
            })?;
        }
        memory.named = named;
        Ok(memory)
    }

    /// The version that used `token`.
    pub(super) fn version_of(&self, token: &str) -> Option<u64> {
        self.tokens.iter().find(|(known, _)| known == token).map(|(_, version)| *version)
    }

    /// The tombstone of `hash`.
    pub(super) fn tombstone(&self, hash: u128) -> Option<(u32, u32)> {
        self.by_hash.get(hash).copied()
    }

    /// The highest first bytes of a sequence that was forgotten.
    pub(super) const fn forgotten(&self) -> Option<u64> {
        self.named.forgotten
    }

    /// The tombstones at `places`, in their order.
    pub(super) fn sequences(
        &self,
        shape: &RowShape,
        places: &[(u32, u32)],
    ) -> Result<RecordBatch, DeltaError> {
        if places.is_empty() {
            return Ok(RecordBatch::new_empty(tombstone_schema(shape)));
        }
        let order: BTreeMap<u32, usize> =
            self.parts.keys().enumerate().map(|(index, number)| (*number, index)).collect();
        let parts: Vec<&RecordBatch> = self.parts.values().collect();
        let place = |(part, row): &(u32, u32)| {
            let index = order.get(part).copied();
            index.map(|index| (index, *row as usize)).ok_or_else(|| DeltaError::Damaged {
                reason: "a tombstone is in no file".to_owned(),
            })
        };
        let indices = places.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        Ok(interleave_record_batch(&parts, &indices)?)
    }

    /// Writes what a commit at `now_us` adds to the state; `None` if it stays as it is.
    pub(super) async fn next(
        &self,
        location: &Location,
        shape: &RowShape,
        added: Added,
        now_us: i64,
    ) -> Result<Option<NextState>, DeltaError> {
        let Added { tombstones: added, token } = added;
        let oldest = now_us.saturating_sub(shape.rules.horizon_us);
        let is_old = |own: &&TombstoneFile| own.file.time_max_us.is_some_and(|at| at < oldest);
        let dropped = self.named.tombstones.iter().take_while(is_old).count();
        if dropped == 0 && added.is_empty() && token.is_none() {
            return Ok(None);
        }
        let mut named = self.named.clone();
        named.format = FORMAT;
        for own in named.tombstones.drain(..dropped) {
            named.forgotten = named.forgotten.max(Some(own.sequence_max));
        }
        let mut joined = None;
        if named.tombstones.len() >= FILES_MAX
            && let Some(window) = to_join(&named.tombstones, shape.rules.horizon_us / SPAN_SHARE)
        {
            let numbers = &self.numbers[dropped + window.start..dropped + window.end];
            let batch = self.join(&tombstone_schema(shape), numbers)?;
            let old = &named.tombstones[window.clone()];
            let times = old
                .iter()
                .map(TombstoneFile::times)
                .reduce(|one, two| (one.0.min(two.0), one.1.max(two.1)));
            let file = write_tombstones(location, &batch, times.unwrap_or((now_us, now_us)));
            named.tombstones.splice(window.clone(), [file.await?]);
            joined = Some((window, batch));
        }
        for batch in &added {
            named.tombstones.push(write_tombstones(location, batch, (now_us, now_us)).await?);
        }
        if let Some(token) = &token {
            let first = (self.tokens.len() + 1).saturating_sub(TOKENS_MAX);
            let kept: Vec<_> = self.tokens[first..].iter().chain([token]).collect();
            let bytes = serde_json::to_vec(&kept).map_err(|error| DeltaError::Damaged {
                reason: format!("tokens cannot be written: {error}"),
            })?;
            named.tokens = Some(write_state(location, "json", bytes.into(), kept.len()).await?);
        }
        Ok(Some(NextState { named, dropped, joined, added, token }))
    }

    /// Takes over what a commit made true.
    pub(super) fn adopt(&mut self, next: NextState) {
        let NextState { named, dropped, joined, added, token } = next;
        self.named = named;
        for number in self.numbers.drain(..dropped).collect::<Vec<_>>() {
            self.parts.remove(&number);
            self.by_hash.retain(|_, place| place.0 != number);
        }
        if let Some((window, batch)) = joined {
            let number = self.next;
            self.next += 1;
            for old in self.numbers.splice(window, [number]).collect::<Vec<_>>() {
                self.parts.remove(&old);
            }
            for (row, hash) in (0..).zip(hashes(&batch)) {
                self.by_hash.insert(hash, (number, row));
            }
            self.parts.insert(number, batch);
        }
        for batch in added {
            self.put(batch);
        }
        if let Some(token) = token {
            let first = (self.tokens.len() + 1).saturating_sub(TOKENS_MAX);
            self.tokens.drain(..first);
            self.tokens.push(token);
        }
    }

    /// The tombstones of the files `numbers` of whose keys there is no later one.
    fn join(&self, schema: &SchemaRef, numbers: &[u32]) -> Result<RecordBatch, DeltaError> {
        let mut parts = Vec::with_capacity(numbers.len());
        for number in numbers {
            let part = self.parts.get(number).ok_or_else(|| DeltaError::Damaged {
                reason: "a file of tombstones was not loaded".to_owned(),
            })?;
            let is_last = (0..)
                .zip(hashes(part))
                .map(|(row, hash)| Some(self.by_hash.get(hash) == Some(&(*number, row))));
            parts.push(filter_record_batch(part, &is_last.collect::<BooleanArray>())?);
        }
        Ok(concat_batches(schema, &parts)?)
    }

    fn put(&mut self, batch: RecordBatch) {
        let number = self.next;
        self.next += 1;
        for (row, hash) in (0..).zip(hashes(&batch)) {
            self.by_hash.insert(hash, (number, row));
        }
        self.parts.insert(number, batch);
        self.numbers.push(number);
    }
}

/// The neighbours that are the cheapest to join, for each file less, and span at most `span_us`.
fn to_join(files: &[TombstoneFile], span_us: i64) -> Option<Range<usize>> {
    let mut best: Option<(u64, Range<usize>)> = None;
    for first in 0..files.len() {
        let (mut entries, from) = (0, files[first].times().0);
        for (last, file) in files.iter().enumerate().skip(first).take(FILES_JOINED) {
            entries += file.file.entries.max(1);
            if file.times().1.saturating_sub(from) > span_us || entries > TOMBSTONES_MAX as u64 {
                break;
            }
            let fewer = (last - first) as u64;
            let cost = (entries * 1_000).checked_div(fewer);
            if let Some(cost) = cost.filter(|cost| best.as_ref().is_none_or(|own| *cost < own.0)) {
                best = Some((cost, first..last + 1));
            }
        }
    }
    best.map(|(_, window)| window)
}

fn hashes(batch: &RecordBatch) -> impl Iterator<Item = u128> + '_ {
    let column = batch.column(0).as_fixed_size_binary();
    (0..column.len()).map(|row| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(column.value(row));
        u128::from_le_bytes(bytes)
    })
}

async fn write_tombstones(
    location: &Location,
    batch: &RecordBatch,
    (from_us, to_us): (i64, i64),
) -> Result<TombstoneFile, DeltaError> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None)?;
    writer.write(batch)?;
    writer.close()?;
    let mut file = write_state(location, "parquet", bytes.into(), batch.num_rows()).await?;
    (file.time_min_us, file.time_max_us) = (Some(from_us), Some(to_us));
    let sequence_max = match batch.columns().get(1) {
        Some(first) => sequence::prefixes(first)?.into_iter().max().unwrap_or_default(),
        None => 0,
    };
    Ok(TombstoneFile { file, sequence_max })
}

async fn write_state(
    location: &Location,
    extension: &str,
    bytes: Bytes,
    entries: usize,
) -> Result<StateFile, DeltaError> {
    let file = StateFile {
        path: format!("{FOLDER}/{}.{extension}", Uuid::new_v4()),
        size_bytes: bytes.len() as u64,
        sha256: sha256_of(&bytes),
        entries: entries as u64,
        time_min_us: None,
        time_max_us: None,
    };
    location.store.put_opts(&location.path(&file.path), bytes.into(), unread()).await?;
    Ok(file)
}

async fn read_state(location: &Location, file: &StateFile) -> Result<Bytes, DeltaError> {
    let store = location.rooted();
    read_whole(store.as_ref(), &file.path, &file.sha256).await.map_err(|error| {
        DeltaError::Damaged { reason: format!("state file {} {error}", file.path) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::rules::TableRules;
    use crate::key::KeyHasher;
    use arrow::array::Int64Array;
    use arrow::array::types::Int64Type;
    use object_store::memory::InMemory;
    use std::collections::HashMap;

    const MINUTE_US: i64 = 60_000_000;

    /// A delete every minute, of 10 keys in turn and of new ones; an hour is remembered.
    #[tokio::test]
    async fn deletes_that_go_on_are_forgotten_all_the_same_and_the_last_of_a_key_counts() {
        let (location, shape) = (location(), shape());
        let mut memory = Memory::default();
        let mut last: BTreeMap<u128, i64> = BTreeMap::new();
        for minute in 0..900_i64 {
            let key = if minute % 3 == 0 { minute + 100 } else { minute * 37 % 10 };
            let key = hash(key.unsigned_abs());
            let sequence = Arc::new(Int64Array::from(vec![minute])) as ArrayRef;
            let tombstones = vec![tombstones(&shape, &[key], vec![sequence]).unwrap()];
            last.insert(key, minute);
            let added = Added { tombstones, token: None };
            let next = memory.next(&location, &shape, added, minute * MINUTE_US).await.unwrap();
            let words = next.as_ref().unwrap().configuration().unwrap();
            memory.adopt(next.unwrap());
            let files = &memory.named.tombstones;
            let entries: u64 = files.iter().map(|own| own.file.entries).sum();
            assert!(entries <= 70 && files.len() <= FILES_MAX, "{entries} in {}", files.len());
            let again = match minute % 20 {
                0 => Some(Memory::load(&location, Some(&words)).await.unwrap()),
                _ => None,
            };
            for (key, at) in last.iter().filter(|(_, at)| **at >= minute - 60) {
                for memory in std::iter::once(&memory).chain(&again) {
                    let place = memory.tombstone(*key).unwrap();
                    let found = memory.sequences(&shape, &[place]).unwrap();
                    assert_eq!(found.column(1).as_primitive::<Int64Type>().value(0), *at);
                }
            }
        }
        assert!(memory.forgotten().is_some());
    }

    /// 40 deletes of one key, and then more of others: the files of the first become empty.
    #[tokio::test]
    async fn a_file_whose_tombstones_are_all_outdone_can_be_read_back() {
        let (location, shape) = (location(), shape());
        let mut memory = Memory::default();
        let mut last: BTreeMap<u128, i64> = BTreeMap::new();
        for step in 0..100_i64 {
            let key = hash(if step < 40 { 1 } else { step.unsigned_abs() });
            let sequence = Arc::new(Int64Array::from(vec![step])) as ArrayRef;
            let tombstones = vec![tombstones(&shape, &[key], vec![sequence]).unwrap()];
            last.insert(key, step);
            let added = Added { tombstones, token: None };
            let next = memory.next(&location, &shape, added, step).await.unwrap().unwrap();
            let words = next.configuration().unwrap();
            memory.adopt(next);
            memory = match step % 3 {
                0 => Memory::load(&location, Some(&words)).await.unwrap(),
                _ => memory,
            };
            for (key, at) in &last {
                let place = memory.tombstone(*key).unwrap();
                let found = memory.sequences(&shape, &[place]).unwrap();
                assert_eq!(found.column(1).as_primitive::<Int64Type>().value(0), *at);
            }
        }
        assert!(memory.named.tombstones.len() <= FILES_MAX);
    }

    #[test]
    fn neighbours_are_joined_that_are_small_and_near_each_other() {
        let file = |entries, at_us| TombstoneFile {
            file: StateFile {
                path: String::new(),
                size_bytes: 0,
                sha256: String::new(),
                entries,
                time_min_us: None,
                time_max_us: Some(at_us),
            },
            sequence_max: 0,
        };
        let files = [file(900, 0), file(9, 1), file(1, 2), file(1, 3), file(1, 9), file(1, 10)];
        assert_eq!(to_join(&files, 3), Some(2..4));
        assert_eq!(to_join(&files, 100), Some(2..6));
        assert_eq!(to_join(&files, 0), None, "no two are of one time");
        let full = [file(TOMBSTONES_MAX as u64, 0), file(1, 0)];
        assert_eq!(to_join(&full, 100), None, "a file holds so many at most");
    }

    fn hash(key: u64) -> u128 {
        u128::from(key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }

    fn location() -> Location {
        Location::from_store("memory:///t", Arc::new(InMemory::new())).unwrap()
    }

    fn shape() -> RowShape {
        let fields =
            vec![Field::new("k", DataType::Int64, false), Field::new("lsn", DataType::Int64, true)];
        let (schema, key) = (Arc::new(Schema::new(fields)), vec!["k".to_owned()]);
        let options = [("sequence_by", "lsn"), ("tombstone_horizon", "1 hour")];
        let options: HashMap<String, String> =
            options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let rules = TableRules::try_new("t", &schema, &key, &options).unwrap();
        let hasher = KeyHasher::try_new([7; 16], &[DataType::Int64]).unwrap();
        RowShape::new("t".to_owned(), schema, key, hasher, rules)
    }
}
