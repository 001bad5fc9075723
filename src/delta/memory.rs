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
//! 3. State that is lost is never taken for empty.

use super::stage::RowShape;
use super::{DeltaError, sequence};
use crate::key::KeyTable;
use crate::store::{Location, read_whole, sha256_of, unread};
use crate::types::StateFile;
use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, FixedSizeBinaryArray};
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Versions that restored an older one: they name files again that were dropped before.
    #[serde(default)]
    restores: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TombstoneFile {
    file: StateFile,
    sequence_max: u64,
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
    pub(super) tombstones: Option<RecordBatch>,
    /// With the version that uses it.
    pub(super) token: Option<(String, u64)>,
}

/// What a commit will make of the state.
#[derive(Debug)]
pub(super) struct NextState {
    named: TableState,
    /// Numbers of files that are dropped or joined, and the parts that are new.
    dropped: usize,
    joined: Option<(usize, RecordBatch)>,
    added: Option<RecordBatch>,
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

    /// The words of the domain after a restore at `version`: the state as it was then, whose words
    /// were `configuration`.
    pub(super) fn restored(
        configuration: Option<&str>,
        version: u64,
    ) -> Result<String, DeltaError> {
        let mut state = configuration.map(Self::parse).transpose()?.unwrap_or_default();
        state.format = FORMAT;
        state.restores.push(version);
        serde_json::to_string(&state)
            .map_err(|error| DeltaError::Damaged { reason: format!("the table's state: {error}") })
    }

    /// Versions that restored an older one.
    pub(super) fn restores(&self) -> &[u64] {
        &self.restores
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
    let bytes = hashes.iter().map(|hash| hash.to_le_bytes());
    let hashes = FixedSizeBinaryArray::try_from_iter(bytes)?;
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
            let batches = ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()?;
            let batches = batches.collect::<Result<Vec<_>, _>>()?;
            let Some(first) = batches.first() else { continue };
            memory.put(concat_batches(&first.schema(), &batches)?);
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
        let added = added.filter(|batch| batch.num_rows() > 0);
        if dropped == 0 && added.is_none() && token.is_none() {
            return Ok(None);
        }
        let mut named = self.named.clone();
        named.format = FORMAT;
        for own in named.tombstones.drain(..dropped) {
            named.forgotten = named.forgotten.max(Some(own.sequence_max));
        }
        let mut joined = None;
        if named.tombstones.len() >= FILES_MAX {
            let numbers = &self.numbers[dropped..dropped + FILES_JOINED];
            let parts: Vec<&RecordBatch> =
                numbers.iter().filter_map(|number| self.parts.get(number)).collect();
            let batch = concat_batches(&tombstone_schema(shape), parts)?;
            let old: Vec<TombstoneFile> = named.tombstones.drain(..FILES_JOINED).collect();
            let times = old.iter().filter_map(|own| own.file.time_max_us);
            let at_us = times.max().unwrap_or(now_us);
            named.tombstones.insert(0, write_tombstones(location, &batch, at_us).await?);
            joined = Some((FILES_JOINED, batch));
        }
        if let Some(batch) = &added {
            named.tombstones.push(write_tombstones(location, batch, now_us).await?);
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
        if let Some((count, batch)) = joined {
            let old: Vec<u32> = self.numbers.drain(..count).collect();
            for number in &old {
                self.parts.remove(number);
            }
            let number = self.next;
            self.next += 1;
            for (row, hash) in (0..).zip(hashes(&batch)) {
                if self.by_hash.get(hash).is_some_and(|place| old.contains(&place.0)) {
                    self.by_hash.insert(hash, (number, row));
                }
            }
            self.parts.insert(number, batch);
            self.numbers.insert(0, number);
        }
        if let Some(batch) = added {
            self.put(batch);
        }
        if let Some(token) = token {
            let first = (self.tokens.len() + 1).saturating_sub(TOKENS_MAX);
            self.tokens.drain(..first);
            self.tokens.push(token);
        }
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
    at_us: i64,
) -> Result<TombstoneFile, DeltaError> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None)?;
    writer.write(batch)?;
    writer.close()?;
    let mut file = write_state(location, "parquet", bytes.into(), batch.num_rows()).await?;
    file.time_max_us = Some(at_us);
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
