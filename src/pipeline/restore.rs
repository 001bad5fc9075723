//! Restore: a table and everything its pipelines remember go back to an older version together.

use super::PipelineError;
use super::keep::{read_manifest, write_manifest};
use crate::commit::{Ledger, Manifest, PipelineHead, Restoration};
use crate::source::SourceClock;
use crate::types::Clock;
use std::collections::BTreeMap;

/// Brings back the rows, offsets and memories of `version`, as a new commit; returns its version.
///
/// A pipeline that runs is fenced off; the next one goes on from the offsets of that version. A
/// pipeline that had committed nothing by then starts over.
///
/// # Errors
///
/// A version that is not kept, a manifest that is lost, or a pipeline that went on meanwhile:
/// nothing is changed then.
pub async fn restore(
    ledger: &dyn Ledger,
    version: u64,
    clock: &dyn Clock,
) -> Result<u64, PipelineError> {
    let heads = ledger.heads().await?;
    let then: BTreeMap<_, _> = ledger.manifests_at(version).await?.into_iter().collect();
    let store = ledger.store();
    let mut pipelines = Vec::with_capacity(heads.len());
    for PipelineHead { pipeline, incarnation, manifest: head } in heads {
        let owns_rows = head.owns_rows;
        let old = match then.get(&pipeline) {
            Some(named) => read_manifest(store.as_ref(), named).await?,
            None => begun(read_manifest(store.as_ref(), &head).await?),
        };
        let incarnation = incarnation.next();
        let manifest = Manifest {
            incarnation,
            epoch: head.epoch.next(),
            previous: Some(head),
            written_at_us: clock.now_us(),
            ledger: Vec::new(),
            rows_emitted: 0,
            ..old
        };
        let manifest = write_manifest(store.as_ref(), &manifest, owns_rows).await?;
        pipelines.push(PipelineHead { pipeline, incarnation, manifest });
    }
    Ok(ledger.restore(Restoration { version, pipelines }).await?)
}

/// The manifest of the same pipeline before it read anything.
fn begun(manifest: Manifest) -> Manifest {
    let mut own = manifest;
    for source in own.sources.values_mut() {
        source.position = serde_json::Value::Null;
        source.clock = SourceClock::new(None, None).to_json();
        source.entries.clear();
    }
    for operator in own.operators.values_mut() {
        operator.files.clear();
    }
    own
}
