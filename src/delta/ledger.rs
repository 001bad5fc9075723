//! Commits: fences and epochs of pipelines, and plain writes.
//!
//! ```text
//!   case   head of the log                         commit of (P, incarnation i, epoch e)
//!   A      P/fence > i                             Fenced
//!   B      txn(P) = e - 1, nobody between          sent
//!   C      lost to commits that change no table    brought to the head, applied again, whole
//!   D      lost to a change of schema or protocol,
//!          or to a restore                         error: Conflict
//!   E      txn(P) is another                       error: Gap
//! ```

use super::index::Upserted;
use super::log::{Answer, Change};
use super::table::{DeltaTable, STALE, Writer};
use super::writer::{StagedFile, join, threads};
use super::{DeltaError, vectors};
use crate::commit::{
    CommitError, EpochRows, Ledger, ManifestRef, Opened, Outcome, Proposal, Staged,
};
use crate::types::{Epoch, Incarnation, PipelineId};
use async_trait::async_trait;
use datafusion::common::runtime::SpawnedTask;
use object_store::{ObjectStore, ObjectStoreExt};
use roaring::RoaringTreemap;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

const DOMAIN: &str = "onefold.";
/// Lost races in a row before giving up.
const RACES_MAX: u32 = 1_000;
/// Commits looked through for a restore since the pipeline's last epoch.
const LOOK_BACK: u64 = 1_000;

fn fence_of(pipeline: &PipelineId) -> String {
    format!("{pipeline}/fence")
}

/// What a plain write or an epoch did to the rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) version: u64,
    pub(super) rows_inserted: u64,
    pub(super) rows_updated: u64,
}

/// Who commits.
struct Claim<'a> {
    pipeline: &'a PipelineId,
    incarnation: Incarnation,
    epoch: Epoch,
}

#[async_trait]
impl Ledger for DeltaTable {
    async fn open(&self, pipeline: &PipelineId) -> Result<Opened, CommitError> {
        let mut writer = self.writer.lock().await;
        self.catch_up(&mut writer).await?;
        self.refuse_restored(&writer, pipeline).await?;
        self.prepare(&mut writer).await?;
        for _ in 0..RACES_MAX {
            let last = self.log.txn(&writer.snapshot, fence_of(pipeline)).await?;
            let incarnation = Incarnation(last.unwrap_or_default().unsigned_abs()).next();
            let txns = vec![(fence_of(pipeline), incarnation.0 as i64)];
            let change = Change { txns, ..Change::default() };
            if self.send(&mut writer, Arc::new(change)).await? {
                let manifest = self.manifest_of(&writer, pipeline).await?;
                let version = writer.snapshot.version();
                return Ok(Opened { incarnation, version, manifest });
            }
            self.catch_up(&mut writer).await?;
            self.prepare(&mut writer).await?;
        }
        Err(busy())
    }

    async fn stage(&self, rows: EpochRows) -> Result<Staged, CommitError> {
        let files = self.stage_files(rows).await?;
        Ok(Staged {
            rows: files.iter().map(|file| file.rows.num_rows() as u64).sum(),
            bytes: files.iter().map(|file| file.size_bytes).sum(),
            inner: Box::new(files),
        })
    }

    async fn commit(&self, proposal: Proposal) -> Result<Outcome, CommitError> {
        let Proposal { pipeline, incarnation, epoch, manifest, staged } = proposal;
        let foreign = |_| CommitError::Damaged { reason: "rows of another ledger".to_owned() };
        let files = staged.inner.downcast::<Vec<Arc<StagedFile>>>().map_err(foreign)?;
        let configuration = serde_json::to_string(&manifest)
            .map_err(|error| CommitError::Internal(Box::new(error)))?;
        let mut writer = self.writer.lock().await;
        for _ in 0..RACES_MAX {
            self.prepare(&mut writer).await?;
            let claim = Claim { pipeline: &pipeline, incarnation, epoch };
            if let Some(by) = self.owner_above(&writer, &claim).await? {
                return Ok(Outcome::Fenced { by }); // A
            }
            let txns = vec![
                (pipeline.to_string(), epoch.0 as i64),
                (format!("{pipeline}/incarnation"), incarnation.0 as i64),
            ];
            let domain = Some((format!("{DOMAIN}{pipeline}"), configuration.clone()));
            let change = Change { txns, domain, ..Change::default() };
            if let Some(written) = self.apply(&mut writer, &files, change).await? {
                self.maintain(&mut writer).await;
                let Written { version, rows_inserted, rows_updated } = written;
                return Ok(Outcome::Committed { version, rows_inserted, rows_updated }); // B
            }
            self.after_lost_race(&mut writer).await?; // C, D
        }
        Err(busy())
    }

    async fn manifests(&self) -> Result<Vec<(PipelineId, ManifestRef)>, CommitError> {
        let mut writer = self.writer.lock().await;
        self.catch_up(&mut writer).await?;
        let mut found = Vec::new();
        for (domain, configuration) in self.log.domains(&writer.snapshot).await? {
            let Some(name) = domain.strip_prefix(DOMAIN) else { continue };
            let damaged = |reason: String| CommitError::Damaged { reason };
            let id = PipelineId::try_new(name).map_err(|error| damaged(error.to_string()))?;
            let named = serde_json::from_str(&configuration)
                .map_err(|error| damaged(format!("domain {domain}: {error}")))?;
            found.push((id, named));
        }
        found.sort_by(|one, two| one.0.cmp(&two.0));
        Ok(found)
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        self.location.rooted()
    }
}

impl DeltaTable {
    pub(super) async fn stage_files(
        &self,
        rows: EpochRows,
    ) -> Result<Vec<Arc<StagedFile>>, DeltaError> {
        let now_ms = self.clock.now_us() / 1_000;
        let files = self.shape.stage(&self.location, rows.partitions, now_ms).await?;
        Ok(files.into_iter().map(Arc::new).collect())
    }

    /// Commits rows that belong to no pipeline.
    pub(super) async fn write(&self, rows: EpochRows) -> Result<Written, DeltaError> {
        let files = self.stage_files(rows).await?;
        let mut writer = self.writer.lock().await;
        for _ in 0..RACES_MAX {
            self.prepare(&mut writer).await?;
            if let Some(written) = self.apply(&mut writer, &files, Change::default()).await? {
                self.maintain(&mut writer).await;
                return Ok(written);
            }
            self.after_lost_race(&mut writer).await?;
        }
        Err(busy().into())
    }

    /// Probes the index, masks what the rows replace, and commits; `None` after a lost race.
    async fn apply(
        &self,
        writer: &mut Writer,
        files: &[Arc<StagedFile>],
        mut change: Change,
    ) -> Result<Option<Written>, DeltaError> {
        let Some(mut index) = writer.index.take() else {
            return Err(DeltaError::Damaged { reason: "no key index".to_owned() });
        };
        let first = writer.files.next_ordinal();
        let staged = files.to_vec();
        let probe = SpawnedTask::spawn_blocking(move || {
            let hashes: Vec<&[u128]> = staged.iter().map(|file| file.hashes.as_slice()).collect();
            let upserted = index.upsert_files(&hashes, first, threads());
            Ok((index, upserted))
        });
        let (mut index, Upserted { marks, undo, rows_inserted, rows_updated }) =
            join(probe).await?;
        change.adds = files.to_vec();
        let vectors = self.mask(writer, marks, &mut change).await?;
        writer.is_unknown = true; // until the answer is known; a dropped future leaves it so
        let answer = self.log.commit(Arc::clone(&writer.snapshot), Arc::new(change)).await?;
        let Answer::Committed { snapshot, actions } = answer else {
            index.undo(undo);
            writer.index = Some(index);
            writer.is_unknown = false; // it is known to be another's
            return Ok(None);
        };
        self.settle(writer, snapshot, actions, &vectors).await?;
        writer.index = Some(index);
        let version = writer.snapshot.version();
        Ok(Some(Written { version, rows_inserted, rows_updated }))
    }

    /// Writes the vectors of the marked rows; a file without a live row is removed instead.
    async fn mask(
        &self,
        writer: &Writer,
        marks: BTreeMap<u32, RoaringTreemap>,
        change: &mut Change,
    ) -> Result<BTreeMap<String, Arc<RoaringTreemap>>, DeltaError> {
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
            return Ok(BTreeMap::new());
        }
        let (name, bytes, descriptors) = {
            let rows: Vec<&RoaringTreemap> = masked.iter().map(|(_, rows)| rows.as_ref()).collect();
            vectors::encode(Uuid::new_v4(), &rows)?
        };
        self.location.store.put(&self.location.path(&name), bytes.into()).await?;
        let mut by_path = BTreeMap::new();
        for ((file, rows), descriptor) in masked.into_iter().zip(descriptors) {
            by_path.insert(file.path.clone(), rows);
            change.masks.push((file, descriptor));
        }
        Ok(by_path)
    }

    /// Takes over what a commit of ours did; the log's own words are what is believed.
    async fn settle(
        &self,
        writer: &mut Writer,
        snapshot: delta_kernel::snapshot::SnapshotRef,
        actions: super::actions::Actions,
        vectors: &BTreeMap<String, Arc<RoaringTreemap>>,
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
        if version.is_multiple_of(self.settings.checkpoint_interval.max(1)) {
            writer.snapshot = self.log.checkpoint(Arc::clone(&writer.snapshot)).await;
        }
        self.publish(writer);
        Ok(())
    }

    /// Commits a change of the table's words only, or a compaction; false after a lost race.
    pub(super) async fn send(
        &self,
        writer: &mut Writer,
        change: Arc<Change>,
    ) -> Result<bool, DeltaError> {
        writer.is_unknown = true;
        let answer = self.log.commit(Arc::clone(&writer.snapshot), change).await?;
        let Answer::Committed { snapshot, actions } = answer else {
            writer.is_unknown = false;
            return Ok(false);
        };
        self.settle(writer, snapshot, actions, &BTreeMap::new()).await?;
        Ok(true)
    }

    /// Brings the writer to the head, and refuses what cannot be retried safely.
    async fn after_lost_race(&self, writer: &mut Writer) -> Result<(), DeltaError> {
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
                Some(_) => continue,
            };
            return Err(CommitError::Conflict { version, reason: reason.to_owned() }.into());
        }
        Ok(())
    }

    /// Who fenced the claim off, if anybody did.
    async fn owner_above(
        &self,
        writer: &Writer,
        claim: &Claim<'_>,
    ) -> Result<Option<Incarnation>, CommitError> {
        let fence = self.log.txn(&writer.snapshot, fence_of(claim.pipeline)).await?;
        let owner = Incarnation(fence.unwrap_or_default().unsigned_abs());
        if owner > claim.incarnation {
            return Ok(Some(owner));
        }
        let last = self.log.txn(&writer.snapshot, claim.pipeline.to_string()).await?;
        let expected = Epoch(last.unwrap_or_default().unsigned_abs()).next();
        if expected != claim.epoch {
            return Err(CommitError::Gap { expected, proposed: claim.epoch }); // E
        }
        Ok(None)
    }

    /// The pipeline's manifest, by its domain or, where another tool dropped that, by its txns.
    async fn manifest_of(
        &self,
        writer: &Writer,
        pipeline: &PipelineId,
    ) -> Result<Option<ManifestRef>, CommitError> {
        let domain = format!("{DOMAIN}{pipeline}");
        let domains = self.log.domains(&writer.snapshot).await?;
        let damaged = |reason: String| CommitError::Damaged { reason };
        let epoch = self.log.txn(&writer.snapshot, pipeline.to_string()).await?;
        let Some(epoch) = epoch.map(|epoch| Epoch(epoch.unsigned_abs())) else { return Ok(None) };
        let found = domains.iter().find(|(name, _)| *name == domain);
        if let Some((_, configuration)) = found {
            let named: ManifestRef = serde_json::from_str(configuration)
                .map_err(|error| damaged(format!("domain {domain}: {error}")))?;
            if named.epoch != epoch {
                let reason = format!("{domain} names epoch {}, and txn {epoch}", named.epoch);
                return Err(damaged(reason));
            }
            return Ok(Some(named));
        }
        let incarnation = self.log.txn(&writer.snapshot, format!("{pipeline}/incarnation")).await?;
        let incarnation = incarnation.unwrap_or_default();
        let folder = object_store::path::Path::from(format!("_onefold/{pipeline}/{incarnation}"));
        let listed = self.store().list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|error| CommitError::Unavailable(Box::new(error)))?;
        let prefix = format!("{epoch}-");
        let mut names = listed.objects.iter().filter_map(|object| {
            let sha256 =
                object.location.filename()?.strip_prefix(&prefix)?.strip_suffix(".json")?;
            Some((object.location.to_string(), sha256.to_owned()))
        });
        match (names.next(), names.next()) {
            (Some((path, sha256)), None) => Ok(Some(ManifestRef { epoch, path, sha256 })),
            (None, _) => Err(damaged(format!("the manifest of epoch {epoch} is not in {folder}"))),
            (Some(_), Some(_)) => {
                Err(damaged(format!("{folder} holds several manifests of epoch {epoch}")))
            }
        }
    }

    /// Refuses a table that another engine restored after the pipeline's last epoch: its rows are
    /// older than the pipeline's memory.
    async fn refuse_restored(
        &self,
        writer: &Writer,
        pipeline: &PipelineId,
    ) -> Result<(), CommitError> {
        let last = self.log.txn(&writer.snapshot, pipeline.to_string()).await?;
        if last.is_none() {
            return Ok(());
        }
        let head = writer.snapshot.version();
        for version in (head.saturating_sub(LOOK_BACK)..=head).rev() {
            let Some(actions) = self.log.actions(version).await? else { return Ok(()) };
            if actions.txn(&pipeline.to_string()).is_some() {
                return Ok(());
            }
            if actions.operation.as_deref() == Some("RESTORE") {
                let reason = format!(
                    "it restored an older version, and pipeline {pipeline} remembers a newer one"
                );
                return Err(CommitError::Conflict { version, reason });
            }
        }
        Ok(())
    }
}

fn busy() -> CommitError {
    let reason = "others committed first every time".to_owned();
    CommitError::Conflict { version: 0, reason }
}
