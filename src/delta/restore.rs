//! Restore: the rows of an older version, and what the table and its pipelines knew then, as a new
//! commit.
//!
//! ```text
//!   files at the head, not then, or with another vector   remove
//!   files then, not at the head, or with another vector   add
//!   every pipeline                                        a fence and an epoch above the last
//! ```

use super::DeltaError;
use super::files::{Files, LiveFile};
use super::ledger::{DOMAIN, RACES_MAX, fence_of};
use super::log::{Answer, Change};
use super::memory::{STATE_DOMAIN, TableState};
use super::table::{DeltaTable, Writer};
use super::travel::TableTime;
use crate::commit::{CommitError, PipelineHead, Restoration};
use serde_json::{Value, json};
use std::sync::Arc;

impl DeltaTable {
    /// Commits a restore; returns its version.
    pub(super) async fn restore_rows(&self, asked: Restoration) -> Result<u64, DeltaError> {
        let version = self.version_at(TableTime::Version(asked.version)).await?;
        self.refuse_other_types(version).await?;
        let then = self.view_at(version).await?;
        let domains = self.log.domains(&self.log.at(version).await?).await?;
        let state = domains.iter().find(|(domain, _)| domain == STATE_DOMAIN);
        let state = state.map(|(_, configuration)| configuration.as_str());
        let mut writer = self.writer.lock().await;
        for _ in 0..RACES_MAX {
            self.catch_up(&mut writer).await?;
            self.prepare(&mut writer).await?;
            self.refuse_moved(&writer, &asked).await?;
            let is_back = |file: &&Arc<LiveFile>| {
                let known = writer.files.by_path(&file.path);
                !known.is_some_and(|known| is_same_vector(known, file))
            };
            self.judge(then.files.iter().filter(is_back), &self.shape.checks).await?;
            let mut change = Change { operation: Some("RESTORE"), ..Change::default() };
            change.raw = self.difference(&writer.files, &then.files);
            for own in &asked.pipelines {
                let PipelineHead { pipeline, incarnation, manifest } = own;
                change.txns.push((pipeline.to_string(), manifest.epoch.0 as i64));
                change.txns.push((format!("{pipeline}/incarnation"), incarnation.0 as i64));
                change.txns.push((fence_of(pipeline), incarnation.0 as i64));
                let named = serde_json::to_string(manifest)
                    .map_err(|error| CommitError::Internal(Box::new(error)))?;
                change.domains.push((format!("{DOMAIN}{pipeline}"), named));
            }
            let state = TableState::restored(state)?;
            change.domains.push((STATE_DOMAIN.to_owned(), state));
            writer.is_unknown = true;
            let sent = self.log.commit(Arc::clone(&writer.snapshot), Arc::new(change)).await?;
            if let Answer::Committed { snapshot, .. } = sent {
                let version = snapshot.version();
                // From which checksums go on: the kernel cannot tell them past such a commit.
                self.log.checkpoint(snapshot).await?;
                writer.snapshot = self.log.at(version).await?;
                self.catch_up(&mut writer).await?; // is_unknown: all is read anew
                return Ok(version);
            }
        }
        Err(super::apply::busy().into())
    }

    /// Refuses a restore if a pipeline went on, or came, since its heads were read.
    async fn refuse_moved(&self, writer: &Writer, asked: &Restoration) -> Result<(), DeltaError> {
        let heads = self.heads_of(writer).await?;
        let follows = |(head, next): (&PipelineHead, &PipelineHead)| {
            head.pipeline == next.pipeline
                && head.incarnation.next() == next.incarnation
                && head.manifest.epoch.next() == next.manifest.epoch
        };
        if heads.len() == asked.pipelines.len() && heads.iter().zip(&asked.pipelines).all(follows) {
            return Ok(());
        }
        let reason = "a pipeline went on while the restore began; try again".to_owned();
        Err(CommitError::Conflict { version: writer.snapshot.version(), reason }.into())
    }

    /// The actions that make the files of `then` of those of `now`.
    fn difference(&self, now: &Files, then: &Files) -> Vec<String> {
        let at_ms = self.clock.now_us() / 1_000;
        let mut lines = Vec::new();
        for file in now.iter() {
            let kept = then.by_path(&file.path);
            if kept.is_some_and(|kept| is_same_vector(file, kept)) {
                continue;
            }
            let mut remove = described(file);
            if kept.is_none() {
                remove["deletionTimestamp"] = at_ms.into();
            }
            remove["extendedFileMetadata"] = true.into();
            lines.push(json!({ "remove": remove }).to_string());
        }
        for file in then.iter() {
            if now.by_path(&file.path).is_some_and(|known| is_same_vector(known, file)) {
                continue;
            }
            let mut add = described(file);
            add["modificationTime"] = file.modified_ms.into();
            add["stats"] = file.stats.as_str().into();
            lines.push(json!({ "add": add }).to_string());
        }
        lines
    }
}

/// Whether both mask the same rows.
pub(super) fn is_same_vector(one: &LiveFile, two: &LiveFile) -> bool {
    let vector = |file: &LiveFile| file.vector.as_ref().map(|(descriptor, _)| descriptor.clone());
    vector(one) == vector(two)
}

/// What adds and removes say of a file.
pub(super) fn described(file: &LiveFile) -> Value {
    let mut own = json!({
        "path": file.path,
        "partitionValues": file.partition,
        "size": file.size_bytes,
        "dataChange": true,
    });
    if let Some((descriptor, _)) = &file.vector {
        own["deletionVector"] = serde_json::to_value(descriptor).unwrap_or_default();
    }
    own
}
