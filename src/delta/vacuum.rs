//! Vacuum: what no kept version names is deleted.
//!
//! ```text
//!   kept: the newest checkpoint C older than the retention, and all versions after it
//!
//!   log        older than C                                       deleted
//!   data       not in C, not at the head, not in a version since   deleted
//!   vectors    that brought files back (a restore, by whichever
//!   state      engine), and older than C by 24 hours
//! ```
//!
//! A file that a version after C names, and C does not, was written at most 12 hours before C: a
//! writer abandons older uploads. Ages are told by the store's own clock.

use super::DeltaError;
use super::files::LiveFile;
use super::index::SHARDS;
use super::memory::{STATE_DOMAIN, TableState};
use super::returned::NOTE;
use super::table::{DeltaTable, Writer};
use super::vectors;
use crate::commit::{Manifest, ManifestRef};
use crate::store::read_whole;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::runtime::SpawnedTask;
use delta_kernel::snapshot::SnapshotRef;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Nothing younger is deleted, whatever the retention.
const GRACE: TimeDelta = TimeDelta::hours(24);
/// A younger log is never cleaned.
const RETENTION_MIN: Duration = Duration::from_hours(24);
/// Between two looks of a process whether a vacuum is due.
const INTERVAL: Duration = Duration::from_hours(1);
/// None is due while the last one, of whichever process, is no older.
const RECENT: Duration = Duration::from_mins(50);
/// The time of this object is that of the last vacuum.
const DONE: &str = "_onefold/vacuumed";
/// Saved key indexes that are kept, the newest.
pub(super) const INDEXES_KEPT: usize = 2;
/// Requests side by side.
const REQUESTS: usize = 16;

/// What a vacuum did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VacuumReport {
    /// The oldest version that can still be read.
    pub oldest_version: u64,
    /// Files of the log that were deleted.
    pub log_files: u64,
    /// Data files, vectors and state files that were deleted.
    pub objects: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl DeltaTable {
    /// Deletes what no version of the last `retention` names, and older versions with it.
    ///
    /// Safe beside running pipelines and other processes. An interrupted vacuum leaves some of it.
    ///
    /// # Errors
    ///
    /// A retention of less than 24 hours; a store that does not answer; a manifest that is lost.
    pub async fn vacuum(&self, retention: Duration) -> Result<VacuumReport, DeltaError> {
        if retention < RETENTION_MIN {
            let table = self.name().to_owned();
            let reason = "versions are kept for 24 hours at least: a writer that was paused must \
                          find the commits that came meanwhile";
            return Err(DeltaError::Definition { table, reason: reason.to_owned() });
        }
        let report = self.delete_unnamed(retention).await?;
        self.location.store.put(&self.location.path(DONE), "".into()).await?;
        Ok(report)
    }

    async fn delete_unnamed(&self, retention: Duration) -> Result<VacuumReport, DeltaError> {
        let now = self.store_now().await?;
        let retention = TimeDelta::from_std(retention).unwrap_or(TimeDelta::MAX);
        let cutoff = now.checked_sub_signed(retention).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let all: Vec<ObjectMeta> =
            self.location.store.list(Some(&self.location.path(""))).try_collect().await?;
        let (log, objects): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|object| self.log_name(&object.location).is_some());
        let mut report = VacuumReport::default();
        let Some((oldest, since)) = self.oldest_kept(&log, cutoff) else { return Ok(report) };
        report.oldest_version = oldest;
        let old_log = log.iter().filter(|object| {
            let version = self.log_name(&object.location).and_then(version_of);
            version.is_some_and(|version| version < oldest)
        });
        let old_log: Vec<ObjectMeta> = old_log.cloned().collect();
        let before = since.checked_sub_signed(GRACE).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let is_old = |object: &ObjectMeta| object.last_modified < before;
        let candidates: Vec<ObjectMeta> = objects.into_iter().filter(is_old).collect();
        if !candidates.is_empty() {
            let named = self.named_objects(oldest).await?;
            let is_garbage = |object: &ObjectMeta| !named.contains(object.location.as_ref());
            let garbage: Vec<ObjectMeta> = candidates.into_iter().filter(is_garbage).collect();
            report.objects = garbage.len() as u64;
            report.bytes = garbage.iter().map(|object| object.size).sum();
            self.delete(garbage).await?;
        }
        report.log_files = old_log.len() as u64;
        report.bytes += old_log.iter().map(|object| object.size).sum::<u64>();
        self.delete(old_log).await?;
        Ok(report)
    }

    /// The newest checkpoint whose commit is older than `cutoff`, with that commit's time.
    fn oldest_kept(
        &self,
        log: &[ObjectMeta],
        cutoff: DateTime<Utc>,
    ) -> Option<(u64, DateTime<Utc>)> {
        let named = |object: &ObjectMeta, kind: &str| {
            let name = self.log_name(&object.location)?;
            name.ends_with(kind).then(|| version_of(name)).flatten()
        };
        let commits: Vec<(u64, DateTime<Utc>)> = log
            .iter()
            .filter_map(|object| Some((named(object, ".json")?, object.last_modified)))
            .collect();
        let checkpoints: HashSet<u64> =
            log.iter().filter_map(|object| named(object, ".checkpoint.parquet")).collect();
        let is_kept =
            |(version, at): &&(u64, DateTime<Utc>)| *at <= cutoff && checkpoints.contains(version);
        commits.iter().filter(is_kept).max_by_key(|(version, _)| *version).copied()
    }

    /// Everything that version `oldest`, the head, or a version between that brought files back
    /// names.
    async fn named_objects(&self, oldest: u64) -> Result<HashSet<String>, DeltaError> {
        let head = {
            let mut writer = self.writer.lock().await;
            self.catch_up(&mut writer).await?;
            Arc::clone(&writer.snapshot)
        };
        let mut snapshots = vec![self.log.at(oldest).await?];
        for version in self.returned(oldest, &head).await? {
            snapshots.push(self.log.at(version).await?);
        }
        snapshots.push(head);
        let own = [NOTE, DONE].map(|path| self.location.path(path).to_string());
        let mut named = HashSet::from(own);
        for (_, head) in self.saved_heads().await?.into_iter().take(INDEXES_KEPT) {
            let stem = head.trim_end_matches(".json").to_owned();
            named.insert(self.location.path(&head).to_string());
            let run = |number: usize| self.location.path(&format!("{stem}-{number}.run"));
            named.extend((0..SHARDS).map(|number| run(number).to_string()));
        }
        for snapshot in snapshots {
            for add in self.log.files(Arc::clone(&snapshot)).await? {
                named.insert(LiveFile::object(&self.location, &add.path).to_string());
                let vector = add.deletion_vector.as_ref().and_then(vectors::file_of);
                named.extend(vector.map(|name| self.location.path(&name).to_string()));
            }
            for (_, manifest) in self.named(&snapshot).await? {
                let paths = self.state_paths(&manifest).await?;
                named.extend(paths.iter().map(|path| self.location.path(path).to_string()));
            }
            let own = self.state_of(&snapshot).await?;
            let files = own.iter().flat_map(TableState::files);
            named.extend(files.map(|file| self.location.path(&file.path).to_string()));
        }
        Ok(named)
    }

    /// The paths that the manifest `named` names, itself included.
    async fn state_paths(&self, named: &ManifestRef) -> Result<Vec<String>, DeltaError> {
        let damaged = |reason: String| DeltaError::Damaged {
            reason: format!("the manifest {} {reason}", named.path),
        };
        let store = self.location.rooted();
        let bytes = read_whole(store.as_ref(), &named.path, &named.sha256)
            .await
            .map_err(|error| damaged(error.to_string()))?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| damaged(format!("is none: {error}")))?;
        let entries = manifest.sources.values().flat_map(|source| &source.entries);
        let files = manifest.operators.values().flat_map(|operator| &operator.files);
        let paths = entries.chain(files).map(|file| file.path.clone());
        Ok(paths.chain([named.path.clone()]).collect())
    }

    /// Begins a vacuum beside whatever else is done, once an hour.
    pub(super) fn vacuum_in_time(&self, writer: &mut Writer) {
        let since = writer.vacuumed.unwrap_or(writer.opened);
        if self.clock.monotonic().saturating_sub(since) >= INTERVAL {
            self.begin_vacuum(writer);
        }
    }

    /// Begins a vacuum where this process, which wrote, has not looked within the hour whether one
    /// is due: programs that run for a moment do it too. Without a checkpoint nothing may go.
    pub(super) fn vacuum_at_rest(&self, writer: &mut Writer) {
        let has_written = writer.index.is_some();
        let has_checkpoint = writer.snapshot.log_segment().checkpoint_version.is_some();
        let now = self.clock.monotonic();
        let is_recent = |at| now.saturating_sub(at) < INTERVAL;
        if has_written && has_checkpoint && !writer.vacuumed.is_some_and(is_recent) {
            self.begin_vacuum(writer);
        }
    }

    fn begin_vacuum(&self, writer: &mut Writer) {
        writer.vacuumed = Some(self.clock.monotonic());
        let (Some(table), retention) = (self.shared(), self.settings.retention) else { return };
        if retention.is_zero() {
            return;
        }
        writer.vacuum = Some(SpawnedTask::spawn(async move {
            match table.vacuum_if_due(retention).await {
                Ok(report) => tracing::info!(table = table.name(), ?report, "vacuum"),
                Err(error) => tracing::warn!(table = table.name(), %error, "vacuum failed"),
            }
        }));
    }

    /// A vacuum, unless some process did one lately.
    async fn vacuum_if_due(&self, retention: Duration) -> Result<Option<VacuumReport>, DeltaError> {
        match self.location.store.head(&self.location.path(DONE)).await {
            Ok(done) => {
                let age_us = self.clock.now_us().abs_diff(done.last_modified.timestamp_micros());
                if Duration::from_micros(age_us) <= RECENT {
                    return Ok(None);
                }
            }
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.vacuum(retention).await.map(Some)
    }

    async fn state_of(&self, snapshot: &SnapshotRef) -> Result<Option<TableState>, DeltaError> {
        let domains = self.log.domains(snapshot).await?;
        let own = domains.iter().find(|(domain, _)| domain == STATE_DOMAIN);
        own.map(|(_, configuration)| TableState::parse(configuration)).transpose()
    }

    /// The time of the store.
    async fn store_now(&self) -> Result<DateTime<Utc>, DeltaError> {
        let probe = self.location.path(&format!("_onefold/clock-{}", Uuid::new_v4()));
        self.location.store.put(&probe, "".into()).await?;
        let seen = self.location.store.head(&probe).await?.last_modified;
        self.location.store.delete(&probe).await?;
        Ok(seen)
    }

    async fn delete(&self, objects: Vec<ObjectMeta>) -> Result<(), DeltaError> {
        let deletes = objects.into_iter().map(|object| async move {
            match self.location.store.delete(&object.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(DeltaError::from(error)),
            }
        });
        futures::stream::iter(deletes).buffer_unordered(REQUESTS).try_collect().await
    }

    /// The name within the log of an object that is in it.
    fn log_name<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let folder = self.location.path("_delta_log");
        let name = path.as_ref().strip_prefix(folder.as_ref())?.strip_prefix('/')?;
        Some(name)
    }
}

/// The version that a file of the log is of.
fn version_of(name: &str) -> Option<u64> {
    name.split_once('.')?.0.parse().ok()
}
