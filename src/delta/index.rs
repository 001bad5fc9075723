//! The key index: where the live row of each primary key is.

use super::files::Files;
use super::{DeltaError, writer};
use crate::key::{Entry, KeyHasher, KeyTable};
use crate::store::Location;
use arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use std::sync::Arc;

const SHARDS: usize = 64;

/// A file by its ordinal, and a row of it.
pub(super) type Place = (u32, u32);

/// What an upsert replaced, newest last.
pub(super) type Undo = Vec<(u128, Option<Place>)>;

/// Key hash to place. Built from the table when it is first written, kept right by each commit.
#[derive(Debug)]
pub(super) struct KeyIndex {
    shards: Vec<KeyTable<Place>>,
}

impl KeyIndex {
    pub(super) fn new() -> Self {
        Self { shards: std::iter::repeat_with(KeyTable::new).take(SHARDS).collect() }
    }

    /// Sets the place of `hash`; returns the one it had.
    pub(super) fn upsert(&mut self, hash: u128, place: Place) -> Option<Place> {
        self.shards[hash as usize % SHARDS].insert(hash, place)
    }

    /// Makes room for `rows` upserts, if most of them can only be new.
    pub(super) fn reserve(&mut self, rows: usize) {
        if rows > self.len() {
            for shard in &mut self.shards {
                shard.reserve(rows / SHARDS * 17 / 16);
            }
        }
    }

    pub(super) fn touch(&self, hash: u128) -> u64 {
        self.shards[hash as usize % SHARDS].touch(hash)
    }

    /// Takes back what [`Self::upsert`] did.
    pub(super) fn undo(&mut self, undo: Undo) {
        for (hash, place) in undo.into_iter().rev() {
            let shard = &mut self.shards[hash as usize % SHARDS];
            match place {
                Some(place) => shard.insert(hash, place),
                None => shard.remove(hash),
            };
        }
    }

    /// Keys held: the rows of the table.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(KeyTable::len).sum()
    }

    /// Reads the keys of all live rows. Costs one read of the key columns.
    ///
    /// # Errors
    ///
    /// [`DeltaError::Damaged`] if a key is in the table twice.
    pub(super) async fn build(
        location: &Location,
        files: &Files,
        schema: &SchemaRef,
        primary_key: &[String],
        hasher: &KeyHasher,
    ) -> Result<Self, DeltaError> {
        let mut index = Self::new();
        let mut tasks = std::collections::VecDeque::new();
        let mut rest = files.iter();
        loop {
            while tasks.len() < 4
                && let Some(file) = rest.next()
            {
                let (location, file) = (location.clone(), Arc::clone(file));
                let (schema, keys) = (Arc::clone(schema), primary_key.to_vec());
                let own = hasher.clone();
                tasks.push_back(SpawnedTask::spawn(async move {
                    let rows = writer::read_file(&location, &file, &schema, Some(&keys)).await?;
                    let mut digests = Vec::with_capacity(file.live_rows() as usize);
                    for (batch, _) in &rows {
                        own.hash(&writer::key_columns(batch, &keys)?, &mut digests)?;
                    }
                    let places = rows.into_iter().flat_map(|(_, rows)| rows);
                    let keyed: Vec<(u128, u32)> = digests.into_iter().zip(places).collect();
                    Ok::<_, DeltaError>((file, keyed))
                }));
            }
            let Some(task) = tasks.pop_front() else { return Ok(index) };
            let (file, keyed) = writer::join(task).await?;
            for (hash, row) in keyed {
                let shard = &mut index.shards[hash as usize % SHARDS];
                if let Entry::Found((other, _)) = shard.find_or_insert(hash, (file.ordinal, row)) {
                    let other = files.get(*other).map(|file| file.path.clone()).unwrap_or_default();
                    let reason = format!(
                        "a primary key is in {other} and again in {} at row {row}",
                        file.path
                    );
                    return Err(DeltaError::Damaged { reason });
                }
            }
        }
    }
}
