//! Apply: staged rows against the table as it is, and the one commit.
//!
//! ```text
//!   StagedRows::Files   written already: every row replaces what was there
//!   StagedRows::Keys    resolved against what is there, then written
//!                                   |
//!          index, marks <-----------+-----> data files
//!              |                                |
//!              +----> vectors ----> Change <----+      after a lost race: again, whole
//! ```

use super::actions::{Actions, Descriptor};
use super::compact::Pace;
use super::data::write_files;
use super::files::LiveFile;
use super::index::{KeyIndex, Undo, Upserted};
use super::ledger::{GROUPS, RACES_MAX};
use super::log::{Answer, Change};
use super::memory::{Added, NextState, STATE_DOMAIN};
use super::resolve::{Current, Resolved};
use super::slot::Slot;
use super::stage::{StagedFile, join, threads};
use super::table::{DeltaTable, STALE, Writer};
use super::upload::Upload;
use super::wanted::{Wanted, has_deletes};
use super::{DeltaError, vectors};
use crate::commit::{CommitError, EpochRows, RowsChanged};
use crate::store::unread;
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use delta_kernel::snapshot::SnapshotRef;
use object_store::ObjectStore;
use roaring::RoaringTreemap;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Actions since the last checkpoint that are worth another: at least so many, and so many for
/// each live file.
const ACTIONS_MIN: u64 = 10_000;
const ACTIONS_PER_FILE: u64 = 10;

/// Vectors by the path of their file.
pub(super) type Vectors = BTreeMap<String, Arc<RoaringTreemap>>;

/// What a write or an epoch did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) version: u64,
    pub(super) changed: RowsChanged,
    /// Whether nothing was done, as a write under the same token was made before.
    pub(super) is_repeated: bool,
}

/// Rows that wait for their commit.
#[derive(Debug)]
pub(super) enum StagedRows {
    /// Files in which every key is once, each of which replaces what was there.
    Files(Vec<Arc<StagedFile>>),
    /// What is asked of each key.
    Keys(Option<Wanted>),
    /// Rows that take the place of all there are.
    Whole(Option<Wanted>),
}

impl StagedRows {
    /// Rows after those of the same key became one.
    pub(super) fn rows(&self) -> u64 {
        match self {
            Self::Files(files) => files.iter().map(|file| file.rows.num_rows() as u64).sum(),
            Self::Keys(wanted) | Self::Whole(wanted) => {
                wanted.as_ref().map_or(0, |wanted| wanted.hashes.len() as u64)
            }
        }
    }
}

/// A change of rows that can be sent, and what undoes it in the index.
#[derive(Default)]
struct Applied {
    adds: Vec<Arc<StagedFile>>,
    marks: BTreeMap<u32, RoaringTreemap>,
    removes: Vec<Arc<LiveFile>>,
    undo: Undo,
    /// The index as it was, where it was replaced.
    replaced: Option<KeyIndex>,
    changed: RowsChanged,
    tombstones: Vec<RecordBatch>,
}

impl DeltaTable {
    pub(super) async fn stage_rows(&self, rows: EpochRows) -> Result<StagedRows, DeltaError> {
        let is_plain = self.shape.rules.is_plain();
        if is_plain && !rows.partitions.iter().flatten().any(has_deletes) {
            let now_ms = self.clock.now_us() / 1_000;
            let files = self.shape.stage(&self.location, rows.partitions, now_ms).await?;
            return Ok(StagedRows::Files(files));
        }
        let shape = self.shape.clone();
        let batches: Vec<_> = rows.partitions.into_iter().flatten().collect();
        let wanted = join(SpawnedTask::spawn_blocking(move || shape.want(&batches)));
        Ok(StagedRows::Keys(wanted.await?))
    }

    /// Commits rows that belong to no pipeline; a token that was used before makes it do nothing.
    pub(super) async fn write(
        &self,
        rows: &StagedRows,
        token: Option<&str>,
    ) -> Result<Written, DeltaError> {
        let mut writer = self.writer.lock().await;
        for _ in 0..RACES_MAX {
            self.prepare(&mut writer).await?;
            if let Some(done) = self.used_before(&writer, token) {
                return Ok(done);
            }
            let change = Change { token: token.map(str::to_owned), ..Change::default() };
            if let Some(written) = self.apply(&mut writer, rows, change).await? {
                self.maintain(&mut writer, Pace::Now).await;
                return Ok(written);
            }
            self.after_lost_race(&mut writer, false).await?;
        }
        Err(busy().into())
    }

    /// What was done when `token` was used, which is nothing now.
    pub(super) fn used_before(&self, writer: &Writer, token: Option<&str>) -> Option<Written> {
        let token = token?;
        let version = writer.memory.as_ref()?.version_of(token)?;
        tracing::warn!(
            table = self.name(),
            token,
            version,
            "nothing is written: this idempotency token was used before, in that version"
        );
        Some(Written { version, is_repeated: true, ..Written::default() })
    }

    /// Finds what the rows replace, masks it, and commits; `None` after a lost race.
    pub(super) async fn apply(
        &self,
        writer: &mut Writer,
        rows: &StagedRows,
        mut change: Change,
    ) -> Result<Option<Written>, DeltaError> {
        let (mut index, mut applied) = self.probe(writer, rows).await?;
        let is_whole = matches!(rows, StagedRows::Whole(_));
        let sealed = self.seal(writer, &mut applied, is_whole, &mut change).await;
        let (state, vectors) = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                index.undo(applied.undo)?;
                writer.index = Some(applied.replaced.unwrap_or(index));
                return Err(error);
            }
        };
        writer.is_unknown = true; // until the answer is known; a dropped future leaves it so
        let answer = self.log.commit(Arc::clone(&writer.snapshot), Arc::new(change)).await?;
        let Answer::Committed { snapshot, actions } = answer else {
            index.undo(applied.undo)?;
            writer.index = Some(applied.replaced.unwrap_or(index));
            writer.is_unknown = false; // it is known to be another's
            return Ok(None);
        };
        self.settle(writer, snapshot, actions, &vectors).await?;
        writer.index = Some(index);
        writer.owed.clear();
        writer.changed_last = applied.changed.keys();
        writer.changed = writer.changed.saturating_add(writer.changed_last);
        if let (Some(state), Some(memory)) = (state, &mut writer.memory) {
            memory.adopt(state);
        }
        let version = writer.snapshot.version();
        Ok(Some(Written { version, changed: applied.changed, is_repeated: false }))
    }

    /// Masks the older rows of keys that another writer wrote again; `false` after a lost race.
    pub(super) async fn mask_owed(&self, writer: &mut Writer) -> Result<bool, DeltaError> {
        if writer.owed.is_empty() {
            return Ok(true);
        }
        let nothing = StagedRows::Keys(None);
        Ok(self.apply(writer, &nothing, Change::default()).await?.is_some())
    }

    /// Makes what was found a change; its files are still on their way, and the commit waits for them.
    async fn seal(
        &self,
        writer: &Writer,
        applied: &mut Applied,
        is_whole: bool,
        change: &mut Change,
    ) -> Result<(Option<NextState>, Vectors), DeltaError> {
        let token = change.token.take().map(|token| (token, writer.snapshot.version() + 1));
        let added = Added { tombstones: std::mem::take(&mut applied.tombstones), token };
        let state = self.next_state(writer, added).await?;
        change.adds = std::mem::take(&mut applied.adds);
        change.removes = std::mem::take(&mut applied.removes);
        change.metrics = Some(applied.changed);
        if let Some(state) = &state {
            change.domains.push((STATE_DOMAIN.to_owned(), state.configuration()?));
        }
        let mut marks = std::mem::take(&mut applied.marks);
        if !is_whole {
            for (file, rows) in &writer.owed {
                *marks.entry(*file).or_default() |= rows;
            }
        }
        let vectors = self.mask(writer, marks, change)?;
        Ok((state, vectors))
    }

    /// Finds what the rows replace, in the index, which is taken from the writer and changed.
    async fn probe(
        &self,
        writer: &mut Writer,
        rows: &StagedRows,
    ) -> Result<(KeyIndex, Applied), DeltaError> {
        let Some(mut index) = writer.index.take() else {
            return Err(DeltaError::Damaged { reason: "no key index".to_owned() });
        };
        let first = writer.files.next_ordinal();
        match rows {
            StagedRows::Files(files) => apply_files(index, files, first).await,
            StagedRows::Keys(None) => Ok((index, Applied::default())),
            StagedRows::Keys(Some(wanted)) => {
                index = index.warmed(&wanted.hashes).await?;
                match self.apply_keys(writer, &mut index, wanted, first).await {
                    Ok(applied) => Ok((index, applied)),
                    Err(error) => {
                        if !matches!(error, DeltaError::Key(_)) {
                            writer.index = Some(index); // it was not touched
                        }
                        Err(error)
                    }
                }
            }
            StagedRows::Whole(wanted) => {
                writer.saving = None;
                let mut empty = KeyIndex::new(index.is_ordered());
                let mut applied = match wanted {
                    Some(wanted) => self.apply_keys(writer, &mut empty, wanted, first).await?,
                    None => Applied::default(),
                };
                applied.tombstones = self.bury_all(writer, &empty).await?;
                applied.changed.rows_deleted = index.len() as u64;
                applied.removes = writer.files.iter().cloned().collect();
                applied.replaced = Some(std::mem::replace(&mut index, empty));
                Ok((index, applied))
            }
        }
    }

    /// Resolves what is asked of each key, and writes what that leaves to write.
    async fn apply_keys(
        &self,
        writer: &Writer,
        index: &mut KeyIndex,
        wanted: &Wanted,
        first: u32,
    ) -> Result<Applied, DeltaError> {
        let memory = writer.memory.as_ref().ok_or_else(|| DeltaError::Damaged {
            reason: "the table's state was not loaded".to_owned(),
        })?;
        let current =
            Current { location: &self.location, files: &writer.files, index: &*index, memory };
        let resolved = self.shape.resolve(&current, wanted).await?;
        let Resolved { rows, hashes, prefixes, removed, tombstones, rows_ignored } = resolved;
        let now_ms = self.clock.now_us() / 1_000;
        let partitioning = &self.shape.partitioning;
        let adds = write_files(&self.location, partitioning, &rows, &hashes, now_ms).await?;
        let tombstones = tombstones.into_iter().collect();
        let mut applied = Applied { adds, tombstones, ..Applied::default() };
        applied.changed.rows_ignored = rows_ignored;
        applied.changed.bytes_written = applied.adds.iter().map(|file| file.size_bytes).sum();
        let mut prefixes = prefixes.into_iter();
        for (file, ordinal) in applied.adds.iter().zip(first..) {
            for (hash, row) in file.hashes.iter().zip(0..) {
                let sequence = prefixes.next().unwrap_or_default();
                let old = index.set(*hash, Slot { place: (ordinal, row), sequence })?;
                match old {
                    Some(_) => applied.changed.rows_updated += 1,
                    None => applied.changed.rows_inserted += 1,
                }
                applied.undo.slots.push((*hash, old));
            }
        }
        for hash in removed {
            applied.changed.rows_deleted += 1;
            let old = index.remove(hash)?;
            applied.undo.slots.push((hash, old));
        }
        for (_, slot) in &applied.undo.slots {
            if let Some(Slot { place: (file, row), .. }) = slot {
                applied.marks.entry(*file).or_default().insert(u64::from(*row));
            }
        }
        Ok(applied)
    }

    async fn next_state(
        &self,
        writer: &Writer,
        added: Added,
    ) -> Result<Option<NextState>, DeltaError> {
        let Some(memory) = &writer.memory else { return Ok(None) };
        let now_us = self.clock.now_us();
        memory.next(&self.location, &self.shape, added, now_us).await
    }

    /// Begins to write the vectors of the marked rows; a file without a live row is removed instead.
    fn mask(
        &self,
        writer: &Writer,
        marks: BTreeMap<u32, RoaringTreemap>,
        change: &mut Change,
    ) -> Result<Vectors, DeltaError> {
        let mut masked = Vec::with_capacity(marks.len());
        for (ordinal, mut rows) in marks {
            let file = writer.files.get(ordinal).ok_or_else(|| DeltaError::Damaged {
                reason: format!("the key index names file {ordinal}, which is not there"),
            })?;
            if let Some((_, old)) = &file.vector {
                rows |= old.as_ref();
            }
            if rows.len() == file.rows {
                change.removes.push(Arc::clone(file));
            } else {
                masked.push((Arc::clone(file), Arc::new(rows)));
            }
        }
        if masked.is_empty() {
            return Ok(Vectors::new());
        }
        let rows: Vec<&RoaringTreemap> = masked.iter().map(|(_, rows)| rows.as_ref()).collect();
        let descriptors = self.begin_vectors(&rows, change)?;
        let mut by_path = Vectors::new();
        for ((file, rows), descriptor) in masked.into_iter().zip(descriptors) {
            by_path.insert(file.path.clone(), rows);
            change.masks.push((file, descriptor));
        }
        Ok(by_path)
    }

    /// Begins to write the vectors of rows of new files that are dead already, by the file's number.
    pub(super) fn mask_adds(
        &self,
        marks: BTreeMap<usize, RoaringTreemap>,
        change: &mut Change,
    ) -> Result<Vectors, DeltaError> {
        let mut by_path = Vectors::new();
        if marks.is_empty() {
            return Ok(by_path);
        }
        let rows: Vec<&RoaringTreemap> = marks.values().collect();
        let descriptors = self.begin_vectors(&rows, change)?;
        for ((file, rows), descriptor) in marks.into_iter().zip(descriptors) {
            let path = change.adds[file].path.clone();
            by_path.insert(path.clone(), Arc::new(rows));
            change.add_vectors.insert(path, descriptor);
        }
        Ok(by_path)
    }

    /// Begins to write vectors to one file, which `change` waits for.
    fn begin_vectors(
        &self,
        rows: &[&RoaringTreemap],
        change: &mut Change,
    ) -> Result<Vec<Descriptor>, DeltaError> {
        let (name, bytes, descriptors) = vectors::encode(Uuid::new_v4(), rows)?;
        let (store, path) = (Arc::clone(&self.location.store), self.location.path(&name));
        change.uploads.push(Upload::begin(async move {
            store.put_opts(&path, bytes.into(), unread()).await?;
            Ok(())
        }));
        Ok(descriptors)
    }

    /// Takes over what a commit of ours did; the log's own words are what is believed.
    async fn settle(
        &self,
        writer: &mut Writer,
        snapshot: SnapshotRef,
        actions: Actions,
        vectors: &Vectors,
    ) -> Result<(), DeltaError> {
        let version = snapshot.version();
        let now = self.clock.monotonic();
        if now.saturating_sub(writer.listed) > STALE
            && self.log.actions(version - 1).await?.is_none()
        {
            self.log.void(version).await?;
            let reason = format!("version {version} followed a log that was cleaned meanwhile");
            return Err(CommitError::Damaged { reason }.into());
        }
        let added: Vec<&str> = actions.adds.iter().map(|add| add.path.as_str()).collect();
        for remove in &actions.removes {
            if !added.contains(&remove.path.as_str()) || !vectors.contains_key(&remove.path) {
                writer.files.remove(&remove.path);
            }
        }
        for add in &actions.adds {
            writer.files.put(add, vectors.get(&add.path).map(Arc::clone))?;
        }
        writer.snapshot = snapshot;
        writer.listed = now;
        writer.is_unknown = false;
        writer.actions += (actions.adds.len() + actions.removes.len()) as u64;
        let live = writer.files.iter().count() as u64;
        if version.is_multiple_of(self.settings.checkpoint_interval.max(1))
            || writer.actions >= ACTIONS_MIN.max(live * ACTIONS_PER_FILE)
        {
            match self.log.checkpoint(Arc::clone(&writer.snapshot)).await {
                Ok(snapshot) => writer.snapshot = snapshot,
                Err(error) => tracing::warn!(version, %error, "no checkpoint"), // readers do without
            }
            writer.actions = 0;
        }
        self.publish(writer);
        Ok(())
    }

    /// Commits a change of the table's words only, or a compaction; false after a lost race.
    pub(super) async fn send(
        &self,
        writer: &mut Writer,
        change: Change,
        vectors: &Vectors,
    ) -> Result<bool, DeltaError> {
        writer.is_unknown = true;
        let answer = self.log.commit(Arc::clone(&writer.snapshot), Arc::new(change)).await?;
        let Answer::Committed { snapshot, actions } = answer else {
            writer.is_unknown = false;
            return Ok(false);
        };
        self.settle(writer, snapshot, actions, vectors).await?;
        Ok(true)
    }

    /// Brings the writer to the head, and refuses what cannot be retried safely.
    pub(super) async fn after_lost_race(
        &self,
        writer: &mut Writer,
        owns_rows: bool,
    ) -> Result<(), DeltaError> {
        let base = writer.snapshot.version();
        self.catch_up(writer).await?;
        for version in base + 1..=writer.snapshot.version() {
            let actions = self.log.actions(version).await?;
            let reason = match actions {
                None => "its commit can no longer be read",
                Some(actions) if actions.operation.as_deref() == Some("RESTORE") => {
                    "it restored an older version"
                }
                Some(actions) if actions.changes_table => {
                    "it changed the schema, a property or the protocol"
                }
                Some(actions) if owns_rows && actions.changes_rows => GROUPS,
                Some(_) => continue,
            };
            return Err(CommitError::Conflict { version, reason: reason.to_owned() }.into());
        }
        Ok(())
    }
}

/// Sets the keys of new files in the index; many of them off the async worker.
async fn apply_files(
    mut index: KeyIndex,
    files: &[Arc<StagedFile>],
    first: u32,
) -> Result<(KeyIndex, Applied), DeltaError> {
    let rows = files.iter().map(|file| file.hashes.len()).sum();
    let (is_quick, staged) = (index.is_quick(rows), files.to_vec());
    let probe = move || {
        let hashes: Vec<&[u128]> = staged.iter().map(|file| file.hashes.as_slice()).collect();
        let upserted = index.upsert_files(&hashes, first, threads())?;
        Ok((index, upserted))
    };
    let probed = if is_quick { probe() } else { join(SpawnedTask::spawn_blocking(probe)).await };
    let (index, upserted) = probed?;
    Ok((index, Applied::of_files(files.to_vec(), upserted)))
}

impl Applied {
    fn of_files(adds: Vec<Arc<StagedFile>>, upserted: Upserted) -> Self {
        let Upserted { marks, undo, rows_inserted, rows_updated } = upserted;
        let bytes_written = adds.iter().map(|file| file.size_bytes).sum();
        let changed =
            RowsChanged { rows_inserted, rows_updated, bytes_written, ..RowsChanged::default() };
        Self { adds, marks, undo, changed, ..Self::default() }
    }
}

pub(super) fn busy() -> CommitError {
    let reason = "others committed first every time".to_owned();
    CommitError::Conflict { version: 0, reason }
}
