//! The key index as it is saved: runs of sorted keys, and a head that names them.
//!
//! ```text
//!   _onefold/table.index/<version>-<uuid>.json     table, hash, files by path, runs with checksums
//!   _onefold/table.index/<version>-<uuid>-<n>.run  "OFINDEX1", then per shard: count u64,
//!                                                  count x { hash u128, file u32, row u32 [, u64] }
//! ```
//!
//! All numbers are little-endian; a file is its number in the head. A saved index is a cache: one
//! that is missing, damaged, of another table or of a version that is no longer kept is passed over.
//! Opening loads the newest that fits, and reads the keys of rows that came or went since.
//!
//! After a load all runs are written, which is little beside it. After small commits one is written
//! each time, so that no epoch waits for all of them. Shards
//! of later runs are then newer than the version in the head, which does no harm: what they say of
//! files that came after that version is not read, and the rows of those files are read instead.
//! That needs rows to be masked and never unmasked in between: a change by another writer begins a
//! save anew.

use super::DeltaError;
use super::files::Files;
use super::index::{KeyIndex, SHARDS};
use super::patch::Owed;
use super::slot::{Place, Placed, Slot};
use super::stage::{join, side_by_side, threads};
use super::table::{DeltaTable, Writer};
use super::upload::Upload;
use super::vacuum::INDEXES_KEPT;
use crate::key::KeyValue;
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const INDEX_FOLDER: &str = "_onefold/table.index";
const MAGIC: &[u8; 8] = b"OFINDEX1";
/// Bytes of a hash and a place, and with a sequence.
const PLAIN_BYTES: usize = 24;
const ORDERED_BYTES: usize = 32;
/// Runs of a small index, and of one with so many keys or more: one for each shard.
const RUNS_MIN: usize = 8;
const RUNS_KEYS_MIN: usize = 2_000_000;
/// A commit is a load if it changed this share of all keys: one in so many.
const LOAD_SHARE: u64 = 2;
/// Runs read side by side.
const READS: usize = 4;
/// Heads that are tried.
const HEADS_MAX: usize = 3;

/// What names the runs of one saved index.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u64,
    /// The id of the table in its log, and a hash under its key: proof that it is this table's.
    table: String,
    proof: String,
    is_ordered: bool,
    files: Vec<String>,
    runs: Vec<Run>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Run {
    path: String,
    bytes: u64,
    crc32: u32,
}

/// How soon a save is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// Once as many keys changed as there are: all of it after a load, else a run after each commit.
    BesideCommits,
    /// All of it, if a tenth of the keys changed.
    Now,
}

/// A save that was begun.
#[derive(Debug)]
pub(super) struct Saving {
    head: Head,
    stem: String,
    numbers: HashMap<u32, u32>,
    runs: usize,
    /// Runs that may be on their way while commits go on.
    uploads: Vec<Upload>,
}

impl DeltaTable {
    /// Saves the index, or goes on saving it, if enough of it changed since it was last saved.
    pub(super) async fn save_index(&self, writer: &mut Writer, haste: Haste) {
        let Some(index) = &writer.index else { return };
        let keys = index.len();
        let share = if haste == Haste::Now { 10 } else { 1 };
        let is_due =
            keys >= self.settings.index_keys_min.max(1) && writer.changed >= (keys / share) as u64;
        let saving = writer.saving.take();
        let is_load = saving.is_none() && writer.changed_last * LOAD_SHARE >= keys as u64;
        let haste = if is_load { Haste::Now } else { haste };
        let Some(saving) = saving.or_else(|| is_due.then(|| self.begin_saving(writer, keys)))
        else {
            return;
        };
        if let Err(error) = self.go_on_saving(writer, saving, haste).await {
            writer.changed = u64::MAX / 2;
            tracing::warn!(table = self.name(), %error, "the key index is not saved");
        }
    }

    fn begin_saving(&self, writer: &mut Writer, keys: usize) -> Saving {
        writer.changed = 0;
        let version = writer.snapshot.version();
        let files: Vec<_> = writer.files.iter().collect();
        let head = Head {
            version,
            table: super::log::table_id(&writer.snapshot),
            proof: self.proof(),
            is_ordered: !self.shape.rules.sequence_by.is_empty(),
            files: files.iter().map(|file| file.path.clone()).collect(),
            runs: Vec::new(),
        };
        Saving {
            head,
            stem: format!("{INDEX_FOLDER}/{version:020}-{}", Uuid::new_v4()),
            numbers: files.iter().zip(0..).map(|(file, number)| (file.ordinal, number)).collect(),
            runs: if keys < RUNS_KEYS_MIN { RUNS_MIN } else { SHARDS },
            uploads: Vec::new(),
        }
    }

    async fn go_on_saving(
        &self,
        writer: &mut Writer,
        mut saving: Saving,
        haste: Haste,
    ) -> Result<(), DeltaError> {
        let Some(index) = &writer.index else { return Ok(()) };
        while saving.head.runs.len() < saving.runs {
            let from = saving.head.runs.len();
            let count = if haste == Haste::Now { threads() } else { 1 };
            let runs = from..saving.runs.min(from + count);
            let encoded = |number| {
                let bytes = encode(index, number, &saving)?;
                let crc32 = crc32fast::hash(&bytes);
                Ok::<_, DeltaError>((bytes, crc32))
            };
            let encoded = match runs.len() {
                1 => vec![encoded(from)],
                _ => side_by_side(runs.clone(), encoded),
            };
            for before in saving.uploads.drain(..) {
                before.done().await?;
            }
            for (number, encoded) in runs.zip(encoded) {
                let (bytes, crc32) = encoded?;
                let path = format!("{}-{number}.run", saving.stem);
                let (store, object) = (Arc::clone(&self.location.store), self.location.path(&path));
                saving.head.runs.push(Run { path, bytes: bytes.len() as u64, crc32 });
                saving.uploads.push(Upload::begin(async move {
                    store.put(&object, bytes.into()).await?;
                    Ok(())
                }));
            }
            if haste == Haste::BesideCommits && saving.head.runs.len() < saving.runs {
                writer.saving = Some(saving);
                return Ok(());
            }
        }
        for last in saving.uploads.drain(..) {
            last.done().await?;
        }
        let json = serde_json::to_vec(&saving.head)
            .map_err(|error| DeltaError::Damaged { reason: error.to_string() })?;
        let path = self.location.path(&format!("{}.json", saving.stem));
        self.location.store.put(&path, json.into()).await?;
        let (version, keys) = (saving.head.version, index.len());
        tracing::debug!(table = self.name(), version, keys, "key index saved");
        self.forget_indexes().await
    }

    /// Deletes all saved indexes but the newest: they are large, and soon of no use.
    async fn forget_indexes(&self) -> Result<(), DeltaError> {
        for (_, head) in self.saved_heads().await?.into_iter().skip(INDEXES_KEPT) {
            let stem = head.trim_end_matches(".json").to_owned();
            let runs = (0..SHARDS).map(|number| format!("{stem}-{number}.run"));
            for path in [head].into_iter().chain(runs) {
                match self.location.store.delete(&self.location.path(&path)).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The index from the newest saved one that fits, and the rows that came or went since.
    pub(super) async fn load_index(
        &self,
        files: &Files,
        version: u64,
        table: &str,
        owed: &mut Owed,
    ) -> Option<KeyIndex> {
        let heads = self.saved_heads().await.unwrap_or_default();
        let mut fitting = heads.into_iter().filter(|(own, _)| *own <= version);
        for (own, path) in fitting.by_ref().take(HEADS_MAX) {
            match self.load_from(&path, files, table, owed).await {
                Ok(Some(index)) => return Some(index),
                Ok(None) => {}
                Err(error) => {
                    owed.clear();
                    tracing::warn!(
                        table = self.name(), version = own, %error,
                        "a saved key index is passed over"
                    );
                }
            }
        }
        None
    }

    async fn load_from(
        &self,
        path: &str,
        files: &Files,
        table: &str,
        owed: &mut Owed,
    ) -> Result<Option<KeyIndex>, DeltaError> {
        let bytes = self.location.store.get(&self.location.path(path)).await?.bytes().await?;
        let damaged = |reason: &str| DeltaError::Damaged { reason: format!("{path} {reason}") };
        let head: Head = serde_json::from_slice(&bytes).map_err(|_| damaged("is no head"))?;
        if head.table != table || head.proof != self.proof() {
            return Err(damaged("is of another table"));
        }
        let snapshot = self.log.at(head.version).await?;
        let old = Files::load(&self.location, self.log.files(snapshot).await?).await?;
        // The files of then under the ordinals of now; what is gone gets ordinals that are not used.
        let mut then = Files::default();
        then.take_over(files, &old);
        let ordinal = |path: &String| then.by_path(path).map(|file| file.ordinal);
        let ordinals: Option<Vec<u32>> = head.files.iter().map(ordinal).collect();
        let ordinals = ordinals.ok_or_else(|| damaged("names other files than its version has"))?;
        let ordinals: Arc<[u32]> = ordinals.into();
        if head.runs.is_empty() || !SHARDS.is_multiple_of(head.runs.len()) {
            return Err(damaged("names a wrong number of runs"));
        }
        let mut index = KeyIndex::new(head.is_ordered);
        let shards = SHARDS / head.runs.len();
        let mut read = futures::stream::iter(head.runs.into_iter().map(|run| {
            let ordinals = Arc::clone(&ordinals);
            self.read_run(run, shards, head.is_ordered, ordinals)
        }))
        .buffered(READS);
        let mut from = 0;
        while let Some(run) = read.try_next().await? {
            index.put_shards(from, run);
            from += shards;
            index = index.fitted(self.settings.index_bytes_max).await?;
        }
        drop(read);
        index.patch(&self.location, (&then, files), &self.shape, owed).await?;
        let twice: u64 = owed.values().map(RoaringTreemap::len).sum();
        if index.len() as u64 + twice != files.live_rows() {
            return Err(damaged("does not lead to as many keys as there are rows"));
        }
        Ok(Some(index))
    }

    async fn read_run(
        &self,
        run: Run,
        shards: usize,
        is_ordered: bool,
        ordinals: Arc<[u32]>,
    ) -> Result<KeyIndex, DeltaError> {
        let path = self.location.path(&run.path);
        let bytes = self.location.store.get(&path).await?.bytes().await?;
        join(SpawnedTask::spawn_blocking(move || {
            decode(&bytes, &run, (shards, is_ordered), &ordinals)
        }))
        .await
    }

    /// The heads of saved indexes, newest first: version and path.
    pub(super) async fn saved_heads(&self) -> Result<Vec<(u64, String)>, DeltaError> {
        let folder = self.location.path(INDEX_FOLDER);
        let listed: Vec<_> = self.location.store.list(Some(&folder)).try_collect().await?;
        let mut heads = Vec::new();
        for object in listed {
            let Some(name) =
                object.location.filename().filter(|_| object.location.extension() == Some("json"))
            else {
                continue;
            };
            let version = name.split_once('-').and_then(|(version, _)| version.parse().ok());
            heads.extend(version.map(|version| (version, format!("{INDEX_FOLDER}/{name}"))));
        }
        heads.sort_unstable_by(|one, two| two.cmp(one));
        Ok(heads)
    }

    /// A hash that only who knows the table's key can make.
    fn proof(&self) -> String {
        format!("{:032x}", self.shape.hasher.fingerprint())
    }
}

/// The shards of run `number`.
fn encode(index: &KeyIndex, number: usize, saving: &Saving) -> Result<Vec<u8>, DeltaError> {
    let share = SHARDS / saving.runs;
    let own = number * share..(number + 1) * share;
    let keys: usize = own.clone().map(|shard| index.shard_len(shard)).sum();
    let entry_bytes = if saving.head.is_ordered { ORDERED_BYTES } else { PLAIN_BYTES };
    let mut bytes = Vec::with_capacity(MAGIC.len() + share * 8 + keys * entry_bytes);
    bytes.extend_from_slice(MAGIC);
    let mut known = (u32::MAX, u32::MAX);
    for shard in own {
        bytes.extend_from_slice(&(index.shard_len(shard) as u64).to_le_bytes());
        index.for_each(shard, |hash, Slot { place: (file, row), sequence }| {
            if known.0 != file {
                known = (file, saving.numbers.get(&file).copied().unwrap_or(u32::MAX));
            }
            bytes.extend_from_slice(&hash.to_le_bytes());
            Place::write(&(known.1, row), &mut bytes);
            if entry_bytes == ORDERED_BYTES {
                bytes.extend_from_slice(&sequence.to_le_bytes());
            }
        })?;
    }
    Ok(bytes)
}

/// The shards of a run, without what is said of files that came later.
fn decode(
    bytes: &Bytes,
    run: &Run,
    (shards, is_ordered): (usize, bool),
    ordinals: &[u32],
) -> Result<KeyIndex, DeltaError> {
    let damaged = |reason: &str| DeltaError::Damaged { reason: format!("{} {reason}", run.path) };
    if bytes.len() as u64 != run.bytes || crc32fast::hash(bytes) != run.crc32 {
        return Err(damaged("is not what was written"));
    }
    let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("is no run of an index"))?;
    let entry_bytes = if is_ordered { ORDERED_BYTES } else { PLAIN_BYTES };
    let mut index = KeyIndex::new(is_ordered);
    for shard in 0..shards {
        let (count, after) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("is cut off"))?;
        let count = u64::from_le_bytes(*count) as usize;
        let length = count.checked_mul(entry_bytes).filter(|length| *length <= after.len());
        let (entries, after) = after.split_at(length.ok_or_else(|| damaged("is cut off"))?);
        let entries = entries.chunks_exact(entry_bytes);
        index.fill(shard, count, entries.filter_map(|entry| read(entry, ordinals)));
        rest = after;
    }
    Ok(index)
}

fn read(entry: &[u8], ordinals: &[u32]) -> Option<(u128, Slot)> {
    let (hash, value) = entry.split_first_chunk::<16>()?;
    let Slot { place: (file, row), sequence } =
        if entry.len() == ORDERED_BYTES { Slot::read(value) } else { Place::read(value).slot() };
    let file = *ordinals.get(file as usize)?;
    Some((u128::from_le_bytes(*hash), Slot { place: (file, row), sequence }))
}
