//! The ledger of a table, read back from its manifests.

use super::PipelineError;
use super::keep::read_manifest;
use crate::commit::{Ledger, Manifest};

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
    let store = ledger.store();
    let mut entries = Vec::new();
    for (_, head) in ledger.manifests().await? {
        let mut next = Some(head);
        let mut left = limit;
        while let Some(named) = next.take().filter(|_| left > 0) {
            let manifest = read_manifest(store.as_ref(), &named).await?;
            next.clone_from(&manifest.previous);
            entries.push(HistoryEntry { manifest, path: named.path });
            left -= 1;
        }
    }
    Ok(entries)
}
