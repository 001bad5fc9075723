//! Commits: fences and epochs of pipelines, and plain writes.
//!
//! ```text
//!   case   head of the log                         commit of (P, incarnation i, epoch e)
//!   A      P/fence > i                             Fenced
//!   B      txn(P) = e - 1, nobody between          sent
//!   C      lost to commits that change no table    brought to the head, applied again, whole
//!   D      lost to a change of schema or protocol,
//!          or to a restore, or one was found       error: Conflict
//!   E      txn(P) is another                       error: Gap
//!   F      the rows are the groups of one pipeline,
//!          and another writes, or they were changed  error: Refused, Conflict
//! ```

use super::apply::{StagedRows, Vectors, Written, busy};
use super::compact::Pace;
use super::log::{Change, Domains};
use super::saved::Haste;
use super::table::{DeltaTable, Writer};
use super::travel::TableTime;
use crate::commit::{
    CommitError, EpochRows, Ledger, ManifestRef, Opened, Outcome, PipelineHead, Proposal,
    Restoration, Staged,
};
use crate::types::{Epoch, Incarnation, PipelineId};
use async_trait::async_trait;
use delta_kernel::snapshot::SnapshotRef;
use object_store::ObjectStore;
use std::sync::Arc;

/// Begins the domains of pipelines.
pub(super) const DOMAIN: &str = "onefold.";
/// Why nobody else may change rows that are groups.
pub(super) const GROUPS: &str = "it changed rows that are the groups of a pipeline, which cannot know: restore the version before";
/// Lost races in a row before giving up.
pub(super) const RACES_MAX: u32 = 1_000;
/// Commits looked through for a restore since the pipeline's last epoch.
const LOOK_BACK: u64 = 1_000;

pub(super) fn fence_of(pipeline: &PipelineId) -> String {
    format!("{pipeline}/fence")
}

#[async_trait]
impl Ledger for DeltaTable {
    async fn open(&self, pipeline: &PipelineId) -> Result<Opened, CommitError> {
        let mut writer = self.writer.lock().await;
        self.catch_up(&mut writer).await?;
        self.refuse_restored(&writer, pipeline).await?;
        let judged = writer.snapshot.version();
        self.prepare(&mut writer).await?;
        for _ in 0..RACES_MAX {
            let last = self.log.txn(&writer.snapshot, fence_of(pipeline)).await?;
            let incarnation = Incarnation(last.unwrap_or_default().unsigned_abs()).next();
            let txns = vec![(fence_of(pipeline), incarnation.0 as i64)];
            let change = Change { txns, ..Change::default() };
            if self.send(&mut writer, change, &Vectors::new()).await? {
                let manifest = self.manifest_of(&writer, pipeline).await?;
                let version = writer.snapshot.version();
                writer.others.judge(pipeline, judged);
                return Ok(Opened { incarnation, version, manifest });
            }
            self.catch_up(&mut writer).await?;
            self.prepare(&mut writer).await?;
        }
        Err(busy())
    }

    async fn stage(&self, rows: EpochRows) -> Result<Staged, CommitError> {
        let staged = self.stage_rows(rows).await?;
        Ok(Staged { rows: staged.rows(), inner: Box::new(staged) })
    }

    async fn commit(&self, proposal: Proposal) -> Result<Outcome, CommitError> {
        let Proposal { pipeline, incarnation, epoch, manifest, staged } = proposal;
        let foreign = |_| CommitError::Damaged { reason: "rows of another ledger".to_owned() };
        let rows = staged.inner.downcast::<StagedRows>().map_err(foreign)?;
        let configuration = serde_json::to_string(&manifest)
            .map_err(|error| CommitError::Internal(Box::new(error)))?;
        let mut writer = self.writer.lock().await;
        for _ in 0..RACES_MAX {
            self.prepare(&mut writer).await?;
            let mut words = self.words_of(&mut writer, &pipeline).await?;
            if words.owner > incarnation {
                return Ok(Outcome::Fenced { by: words.owner }); // A
            }
            let expected = words.last.next();
            if expected != epoch {
                return Err(CommitError::Gap { expected, proposed: epoch }); // E
            }
            self.refuse_other_rows(&writer, &words.named, (&pipeline, &manifest))?; // F
            self.refuse_others(&mut writer, &pipeline, manifest.owns_rows).await?; // D, F
            let txns = vec![
                (pipeline.to_string(), epoch.0 as i64),
                (format!("{pipeline}/incarnation"), incarnation.0 as i64),
            ];
            let domains = vec![(format!("{DOMAIN}{pipeline}"), configuration.clone())];
            let change = Change { txns, domains, ..Change::default() };
            if let Some(Written { version, changed, .. }) =
                self.apply(&mut writer, &rows, change).await?
            {
                words.named.retain(|(own, _)| *own != pipeline);
                words.named.push((pipeline.clone(), manifest));
                writer.words = Some(Words { version, pipeline, last: epoch, ..words });
                self.maintain(&mut writer, Pace::Beside).await;
                return Ok(Outcome::Committed { version, changed }); // B
            }
            self.after_lost_race(&mut writer, manifest.owns_rows).await?; // C, D, F
        }
        Err(busy())
    }

    async fn manifests(&self) -> Result<Vec<(PipelineId, ManifestRef)>, CommitError> {
        let mut writer = self.writer.lock().await;
        self.catch_up(&mut writer).await?;
        self.named(&writer.snapshot).await
    }

    async fn manifests_at(
        &self,
        version: u64,
    ) -> Result<Vec<(PipelineId, ManifestRef)>, CommitError> {
        let version = self.version_at(TableTime::Version(version)).await?;
        let snapshot = self.log.at(version).await?;
        self.named(&snapshot).await
    }

    async fn heads(&self) -> Result<Vec<PipelineHead>, CommitError> {
        let mut writer = self.writer.lock().await;
        self.catch_up(&mut writer).await?;
        self.heads_of(&writer).await
    }

    async fn restore(&self, restoration: Restoration) -> Result<u64, CommitError> {
        Ok(self.restore_rows(restoration).await?)
    }

    async fn rest(&self) {
        let vacuum = {
            let mut writer = self.writer.lock().await;
            self.end_rewrite(&mut writer).await;
            self.save_index(&mut writer, Haste::Now).await;
            writer.snapshot = self.log.with_checksum(Arc::clone(&writer.snapshot)).await;
            self.vacuum_at_rest(&mut writer);
            writer.vacuum.take()
        };
        if let Some(vacuum) = vacuum {
            drop(vacuum.join().await); // it has logged what failed
        }
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        self.location.rooted()
    }
}

/// What the log says of a pipeline, and whose manifests it names, at a version that we wrote.
#[derive(Debug)]
pub(super) struct Words {
    version: u64,
    pipeline: PipelineId,
    owner: Incarnation,
    last: Epoch,
    named: Vec<(PipelineId, ManifestRef)>,
}

impl DeltaTable {
    /// What the log says of the pipeline at the writer's snapshot; our last commit said it if that
    /// is where the writer still is.
    async fn words_of(
        &self,
        writer: &mut Writer,
        pipeline: &PipelineId,
    ) -> Result<Words, CommitError> {
        let version = writer.snapshot.version();
        let is_here = |words: &Words| words.version == version && words.pipeline == *pipeline;
        if let Some(words) = writer.words.take().filter(is_here) {
            return Ok(words);
        }
        let apps = [fence_of(pipeline), pipeline.to_string()];
        let ([fence, last], domains) = self.log.words(&writer.snapshot, apps).await?;
        Ok(Words {
            version,
            pipeline: pipeline.clone(),
            owner: Incarnation(fence.unwrap_or_default().unsigned_abs()),
            last: Epoch(last.unwrap_or_default().unsigned_abs()),
            named: named_in(domains)?,
        })
    }

    /// The manifests that the domains of `snapshot` name.
    pub(super) async fn named(
        &self,
        snapshot: &SnapshotRef,
    ) -> Result<Vec<(PipelineId, ManifestRef)>, CommitError> {
        named_in(self.log.domains(snapshot).await?)
    }

    pub(super) async fn heads_of(&self, writer: &Writer) -> Result<Vec<PipelineHead>, CommitError> {
        let mut heads = Vec::new();
        for (pipeline, _) in self.named(&writer.snapshot).await? {
            let fence = self.log.txn(&writer.snapshot, fence_of(&pipeline)).await?;
            let Some(manifest) = self.manifest_of(writer, &pipeline).await? else { continue };
            let incarnation = Incarnation(fence.unwrap_or_default().unsigned_abs());
            heads.push(PipelineHead { pipeline, incarnation, manifest });
        }
        Ok(heads)
    }

    /// Refuses a second source of rows where the rows are the groups of one pipeline.
    fn refuse_other_rows(
        &self,
        writer: &Writer,
        all: &[(PipelineId, ManifestRef)],
        (pipeline, manifest): (&PipelineId, &ManifestRef),
    ) -> Result<(), CommitError> {
        let refuse = |reason: String| {
            let table = self.name();
            Err(CommitError::Refused { reason: format!("table {table}: {reason}") })
        };
        for (other, named) in all {
            if other != pipeline && (manifest.owns_rows || named.owns_rows) {
                return refuse(format!(
                    "its rows are groups of one pipeline, so {pipeline} cannot write there beside \
                     {other}: write into a table of its own"
                ));
            }
        }
        let rows: u64 = writer.files.iter().map(|file| file.live_rows()).sum();
        if manifest.owns_rows && manifest.epoch == Epoch::default().next() && rows > 0 {
            return refuse(format!(
                "it has {rows} rows, and pipeline {pipeline} would not know which of its groups \
                 they are: write into an empty table"
            ));
        }
        Ok(())
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
            (Some((path, sha256)), None) => {
                Ok(Some(ManifestRef { epoch, path, sha256, owns_rows: false }))
            }
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
            let owns = |own: &ManifestRef| own.owns_rows;
            if actions.changes_rows
                && self.manifest_of(writer, pipeline).await?.as_ref().is_some_and(owns)
            {
                return Err(CommitError::Conflict { version, reason: GROUPS.to_owned() });
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

/// The manifests that domains name.
fn named_in(domains: Domains) -> Result<Vec<(PipelineId, ManifestRef)>, CommitError> {
    let mut found = Vec::new();
    for (domain, configuration) in domains {
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
