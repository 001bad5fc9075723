//! The ledger of a table, read back from its manifests.

use super::PipelineError;
use super::keep::{fetch_all, read_manifest};
use crate::commit::{Ledger, Manifest, ManifestRef};
use crate::state::saved_groups;
use crate::types::PipelineId;
use arrow::record_batch::RecordBatch;

/// One epoch of one pipeline.
#[derive(Clone, Debug)]
pub struct HistoryEntry {
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's path, relative to the table's root.
    pub path: String,
}

/// The newest `limit` epochs of every pipeline of a table, newest first.
///
/// Costs one read per epoch: each manifest names the one before.
pub async fn history(
    ledger: &dyn Ledger,
    limit: usize,
) -> Result<Vec<HistoryEntry>, PipelineError> {
    let mut entries = Vec::new();
    for (_, head) in ledger.manifests().await? {
        entries.extend(epochs(ledger, head, limit).await?);
    }
    Ok(entries)
}

/// The newest `limit` epochs of one pipeline, newest first; none before its first commit.
///
/// Costs one read per epoch.
pub async fn history_of(
    ledger: &dyn Ledger,
    pipeline: &PipelineId,
    limit: usize,
) -> Result<Vec<HistoryEntry>, PipelineError> {
    let heads = ledger.manifests().await?;
    match heads.into_iter().find(|(id, _)| id == pipeline) {
        Some((_, head)) => epochs(ledger, head, limit).await,
        None => Ok(Vec::new()),
    }
}

/// The epoch of `head` and those before it.
async fn epochs(
    ledger: &dyn Ledger,
    head: ManifestRef,
    limit: usize,
) -> Result<Vec<HistoryEntry>, PipelineError> {
    let store = ledger.store();
    let mut entries = Vec::new();
    let mut next = Some(head);
    while let Some(named) = next.take().filter(|_| entries.len() < limit) {
        let manifest = match read_manifest(store.as_ref(), &named).await {
            // What no kept version names may be gone; the head is always there.
            Err(PipelineError::Missing { .. }) if !entries.is_empty() => break,
            read => read?,
        };
        next.clone_from(&manifest.previous);
        entries.push(HistoryEntry { manifest, path: named.path });
    }
    Ok(entries)
}

/// What one rollup remembers.
#[derive(Clone, Debug)]
pub struct SavedGroups {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// Its name in the pipeline.
    pub operator: String,
    /// Hash, end of the window, the group, its states, and the step that wrote them.
    pub groups: RecordBatch,
}

/// What the rollups of every pipeline of a table remember, by the manifests of their last epochs.
pub async fn all_saved_groups(ledger: &dyn Ledger) -> Result<Vec<SavedGroups>, PipelineError> {
    let store = ledger.store();
    let mut all = Vec::new();
    for (pipeline, head) in ledger.manifests().await? {
        let manifest = read_manifest(store.as_ref(), &head).await?;
        for (operator, own) in &manifest.operators {
            if !own.fingerprint.starts_with("rollup") {
                continue;
            }
            let files = fetch_all(store.as_ref(), &own.files).await?;
            if let Some(groups) = saved_groups(&files)? {
                let (pipeline, operator) = (pipeline.clone(), operator.clone());
                all.push(SavedGroups { pipeline, operator, groups });
            }
        }
    }
    Ok(all)
}
