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

use super::DeltaError;
use super::files::Files;
use super::index::{KeyIndex, SHARDS, Slot};
use super::patch::Owed;
use super::stage::join;
use super::table::{DeltaTable, Writer};
use super::vacuum::INDEXES_KEPT;
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const INDEX_FOLDER: &str = "_onefold/table.index";
const MAGIC: &[u8; 8] = b"OFINDEX1";
/// Shards of one run.
const RUN_SHARDS: usize = 8;
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
    keys: u64,
    files: Vec<String>,
    runs: Vec<Run>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Run {
    path: String,
    bytes: u64,
    crc32: u32,
}

impl DeltaTable {
    /// Saves the index if enough of it changed since it was last saved.
    pub(super) async fn save_index(&self, writer: &mut Writer, share: usize) {
        let Some(index) = &writer.index else { return };
        let keys = index.len();
        if keys < self.settings.index_keys_min.max(1) || writer.changed < (keys / share) as u64 {
            return;
        }
        match self.write_index(writer).await {
            Ok(()) => writer.changed = 0,
            Err(error) => tracing::warn!(table = self.name(), %error, "the key index is not saved"),
        }
    }

    async fn write_index(&self, writer: &Writer) -> Result<(), DeltaError> {
        let Some(index) = &writer.index else { return Ok(()) };
        let version = writer.snapshot.version();
        let stem = format!("{INDEX_FOLDER}/{version:020}-{}", Uuid::new_v4());
        let files: Vec<_> = writer.files.iter().collect();
        let numbers: HashMap<u32, u32> =
            files.iter().zip(0..).map(|(file, number)| (file.ordinal, number)).collect();
        let mut head = Head {
            version,
            table: super::log::table_id(&writer.snapshot),
            proof: self.proof(),
            is_ordered: index.is_ordered(),
            keys: index.len() as u64,
            files: files.iter().map(|file| file.path.clone()).collect(),
            runs: Vec::new(),
        };
        for number in 0..SHARDS / RUN_SHARDS {
            let mut bytes = MAGIC.to_vec();
            for shard in number * RUN_SHARDS..(number + 1) * RUN_SHARDS {
                index.encode(shard, &numbers, &mut bytes);
            }
            let path = format!("{stem}-{number}.run");
            let crc32 = crc32fast::hash(&bytes);
            head.runs.push(Run { path: path.clone(), bytes: bytes.len() as u64, crc32 });
            self.location.store.put(&self.location.path(&path), bytes.into()).await?;
        }
        let json = serde_json::to_vec(&head)
            .map_err(|error| DeltaError::Damaged { reason: error.to_string() })?;
        self.location.store.put(&self.location.path(&format!("{stem}.json")), json.into()).await?;
        tracing::debug!(table = self.name(), version, keys = head.keys, "key index saved");
        self.forget_indexes().await
    }

    /// Deletes all saved indexes but the newest: they are large, and soon of no use.
    async fn forget_indexes(&self) -> Result<(), DeltaError> {
        for (_, head) in self.saved_heads().await?.into_iter().skip(INDEXES_KEPT) {
            let stem = head.trim_end_matches(".json").to_owned();
            let runs = (0..SHARDS / RUN_SHARDS).map(|number| format!("{stem}-{number}.run"));
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
        let mut tasks = Vec::with_capacity(head.runs.len());
        for run in &head.runs {
            let (location, run, ordinals) =
                (self.location.clone(), run.clone(), Arc::clone(&ordinals));
            let is_ordered = head.is_ordered;
            tasks.push(SpawnedTask::spawn(async move {
                let bytes = location.store.get(&location.path(&run.path)).await?.bytes().await?;
                join(SpawnedTask::spawn_blocking(move || {
                    decode(&bytes, &run, is_ordered, &ordinals)
                }))
                .await
            }));
        }
        let mut index = KeyIndex::new(head.is_ordered);
        for (number, task) in tasks.into_iter().enumerate() {
            index.put_shards(number * RUN_SHARDS, join(task).await?);
        }
        if index.len() as u64 != head.keys || index.len() as u64 != old.live_rows() {
            return Err(damaged("has another number of keys than its version has rows"));
        }
        index.patch(&self.location, (&then, files), &self.shape, owed).await?;
        Ok(Some(index))
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

/// The shards of a run.
fn decode(
    bytes: &Bytes,
    run: &Run,
    is_ordered: bool,
    ordinals: &[u32],
) -> Result<KeyIndex, DeltaError> {
    let damaged = |reason: &str| DeltaError::Damaged { reason: format!("{} {reason}", run.path) };
    if bytes.len() as u64 != run.bytes || crc32fast::hash(bytes) != run.crc32 {
        return Err(damaged("is not what was written"));
    }
    let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("is no run of an index"))?;
    let entry = if is_ordered { 32 } else { 24 };
    let mut index = KeyIndex::new(is_ordered);
    for shard in 0..RUN_SHARDS {
        let (count, after) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("is cut off"))?;
        let count = u64::from_le_bytes(*count) as usize;
        let length = count.checked_mul(entry).filter(|length| *length <= after.len());
        let (entries, after) = after.split_at(length.ok_or_else(|| damaged("is cut off"))?);
        index.fill(shard, count, entries.chunks_exact(entry).map(|entry| read(entry, ordinals)));
        rest = after;
    }
    Ok(index)
}

fn read(entry: &[u8], ordinals: &[u32]) -> (u128, Slot) {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&entry[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let hash = u128::from(word(8)) << 64 | u128::from(word(0));
    let place = word(16);
    let file = ordinals.get((place & 0xFFFF_FFFF) as usize).copied().unwrap_or(u32::MAX);
    let sequence = if entry.len() == 32 { word(24) } else { 0 };
    (hash, Slot { place: (file, (place >> 32) as u32), sequence })
}
